//! A drill: column writes of a head leave it late, so that there are some under way whenever its process stops.
//!
//! They leave in their order, and nothing else is held up. When the process sleeps meanwhile they leave in the turn
//! in which it wakes, before the head can hear of whatever happened: what sleds then say is what the fence is for
//! (EF-16, EF-17).

use palisade_protocol::wire::{Msg, NodeId};
use palisade_runtime::clock::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How late a column write leaves.
const LATE: Nanos = Nanos(150_000_000);

/// Whether column writes are late: steered by the control side, looked at by the head's service.
#[derive(Clone, Debug, Default)]
pub struct Late(Arc<AtomicBool>);

impl Late {
    /// Steers it.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    /// Whether it is on.
    pub fn on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Column writes that have not left yet.
#[derive(Debug, Default)]
pub struct LateWrites {
    late: Option<Late>,
    held: VecDeque<(Nanos, NodeId, Msg)>,
}

impl LateWrites {
    /// Steered by `late`, where there are drills.
    pub fn new(late: Option<Late>) -> Self {
        Self { late, held: VecDeque::new() }
    }

    /// Keeps a message back if it is late; gives it back otherwise. What follows one that is held waits behind it.
    pub fn hold(&mut self, now: Nanos, to: NodeId, msg: Msg) -> Option<Msg> {
        let on = !self.held.is_empty() || self.late.as_ref().is_some_and(Late::on);
        if !on || !matches!(msg, Msg::ColumnWrite { .. }) {
            return Some(msg);
        }
        self.held.push_back((Nanos(now.0 + LATE.0), to, msg));
        None
    }

    /// The next one that leaves now.
    pub fn due(&mut self, now: Nanos) -> Option<(NodeId, Msg)> {
        let (_, to, msg) = self.held.pop_front_if(|(at, ..)| *at <= now)?;
        Some((to, msg))
    }

    /// When the next one leaves.
    pub fn deadline(&self) -> Option<Nanos> {
        self.held.front().map(|(at, ..)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_protocol::wire::{ColumnRef, ExtentId, ReqId, Stamp, Token};

    fn write(stripe: u32) -> Msg {
        let (column, stamp) = (ColumnRef::default(), Stamp::default());
        let (units, crcs) = (Default::default(), Default::default());
        let (req, token, extent) = (ReqId(1), Token::default(), ExtentId(1));
        Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs }
    }

    #[test]
    fn ef17_column_writes_leave_late_and_in_order_and_nothing_else_is_held() {
        let late = Late::default();
        let mut writes = LateWrites::new(Some(late.clone()));
        let (node, start) = (NodeId(3), Nanos(1000));
        assert!(writes.hold(start, node, write(0)).is_some(), "no drill");
        late.set(true);
        assert!(writes.hold(start, node, write(1)).is_none());
        assert!(writes.hold(start, node, Msg::Confirmed { nonce: 1, stamps: Default::default() }).is_some());
        late.set(false);
        assert!(writes.hold(Nanos(2000), node, write(2)).is_none(), "behind the one that is held");
        assert_eq!(writes.deadline(), Some(Nanos(1000 + LATE.0)));
        assert!(writes.due(Nanos(1000 + LATE.0 - 1)).is_none());
        // The process slept: all of them are due at once.
        let much_later = Nanos(10 * LATE.0);
        let stripe = |writes: &mut LateWrites| match writes.due(much_later) {
            Some((to, Msg::ColumnWrite { stripe, .. })) if to == node => Some(stripe),
            _ => None,
        };
        assert_eq!((stripe(&mut writes), stripe(&mut writes), stripe(&mut writes)), (Some(1), Some(2), None));
        assert!(writes.hold(much_later, node, write(3)).is_some(), "the drill is over");
    }
}
