//! What is looked at now and then: whether the device is there and well, and what takes too long.

use super::admin::Use;
use super::bringup::Stage;
use super::command;
use super::driver::{IO_QUEUE, NvmeDriver};
use super::error::{NvmeError, NvmeEvent, ResetReason};
use super::ops::Piece;
use super::registers::{CSTS, Csts};
use crate::clock::Nanos;
use std::time::Duration;

/// Between two looks while requests are under way: a register read costs about a microsecond.
const WATCH_BUSY: Duration = Duration::from_millis(10);
/// Between two looks at an idle device.
const WATCH_IDLE: Duration = Duration::from_millis(100);

impl NvmeDriver {
    /// Looks at the device, goes on with its start, ends what takes too long.
    #[cold]
    pub(super) fn watch(&mut self, now: Nanos) {
        self.next_watch = now + if self.in_work() { WATCH_BUSY } else { WATCH_IDLE };
        if self.stage == Stage::Gone {
            return;
        }
        let csts = Csts(self.device.read32(CSTS));
        if csts.is_absent() {
            return self.give_up(NvmeError::Removed { device: self.name() });
        }
        if self.device.is_leaving() {
            return self.give_up(NvmeError::Leaving { device: self.name() });
        }
        if let Some(reason) = self.wants_reset.take()
            && self.is_ready()
        {
            return self.reset(now, reason);
        }
        if !self.is_ready() {
            return self.advance(now, csts);
        }
        if csts.is_fatal() {
            return self.reset(now, ResetReason::Fatal);
        }
        if !csts.is_ready() {
            return self.reset(now, ResetReason::NotReady);
        }
        self.reap_admin(now);
        if self.is_ready() && self.is_admin_overdue(now) {
            return self.reset(now, ResetReason::AdminTimeout);
        }
        if self.is_ready() {
            self.ask(now);
            self.expire(now);
        }
    }

    fn in_work(&self) -> bool {
        self.ops.len() > 0
    }

    /// Aborts commands that take too long; resets the controller when that did not end them.
    fn expire(&mut self, now: Nanos) {
        let end = self.options.timeout + self.options.admin_timeout;
        let mut is_overdue = false;
        for (_, piece) in self.cids.iter_mut() {
            if piece.since == Nanos::ZERO {
                piece.since = now;
            } else if now >= piece.since + end {
                is_overdue = true;
                self.ops.get_mut(piece.op).expired = true;
            }
        }
        if is_overdue {
            return self.reset(now, ResetReason::Timeout);
        }
        let mut room = (self.facts.aborts_max as usize).saturating_sub(self.admin.aborts());
        while room > 0 {
            let Some((cid, at)) = self.next_late(now) else { return };
            if !self.send_admin(Use::Abort, command::abort(IO_QUEUE, cid), now) {
                return;
            }
            room -= 1;
            self.stats.aborts += 1;
            let op = self.ops.get_mut(at);
            op.expired = true;
            let key = op.key;
            self.tell(NvmeEvent::Aborted { key });
        }
    }

    /// A command that takes too long and is to be aborted now, with its request.
    fn next_late(&mut self, now: Nanos) -> Option<(u16, u32)> {
        let limit = self.options.timeout;
        let is_late = |piece: &Piece| !piece.aborting && now >= piece.since + limit;
        let (cid, piece) = self.cids.iter_mut().find(|(_, piece)| is_late(piece))?;
        piece.aborting = true;
        Some((cid, piece.op))
    }
}
