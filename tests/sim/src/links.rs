//! Which way messages can go at present, and when they arrive.
//!
//! A link is all that lies between two places; nodes, the authority and clients each are one. Between two nodes
//! lie two networks in fabric mode, and each may be bad by itself (EF-31).

use crate::dice::Dice;
use crate::faults::{Odds, PathFault};
use palisade_protocol::wire::{NodeId, Time};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The place of the authority.
pub const AUTHORITY: NodeId = NodeId(0xffff_0000);
/// The place of a volume's first client; its others follow, 256 to a volume.
const CLIENTS: u32 = 0xfff0_0000;
/// Networks between two nodes in fabric mode.
pub const NETWORKS: u8 = 2;

/// The place of a client.
pub fn client_place(volume: usize, client: usize) -> NodeId {
    NodeId(CLIENTS + (volume as u32) * 256 + client as u32)
}

/// State of the network.
#[derive(Debug, Default)]
pub struct Links {
    /// How many faults cut a direction now.
    cut: BTreeMap<(NodeId, NodeId), u32>,
    isolated: BTreeMap<NodeId, u32>,
    /// What is wrong with a network one way, and since when.
    bad: BTreeMap<(NodeId, NodeId, u8), (PathFault, Time)>,
    /// Directions whose bad network swallowed something that nothing else has carried yet.
    owed: BTreeSet<(NodeId, NodeId, u8)>,
}

/// What becomes of a datagram on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, so much later than usual.
    Late(Duration),
    /// The bad network swallows it.
    Lost,
}

impl Links {
    /// Cuts one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    /// Mends one direction, unless another fault still cuts it.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        lower(&mut self.cut, (from, to));
    }

    /// Cuts a node off.
    pub fn isolate(&mut self, node: NodeId) {
        *self.isolated.entry(node).or_default() += 1;
    }

    /// Ends that, unless another fault still does it.
    pub fn rejoin(&mut self, node: NodeId) {
        lower(&mut self.isolated, node);
    }

    /// One network turns bad: both ways, unless that way of being bad is one way.
    pub fn spoil(&mut self, from: NodeId, to: NodeId, path: u8, how: PathFault, now: Time) {
        self.bad.insert((from, to, path), (how, now));
        if how != PathFault::OneWay {
            self.bad.insert((to, from, path), (how, now));
        }
    }

    /// It is good again, both ways.
    pub fn restore(&mut self, from: NodeId, to: NodeId, path: u8) {
        for way in [(from, to, path), (to, from, path)] {
            self.bad.remove(&way);
            self.owed.remove(&way);
        }
    }

    /// Mends everything.
    pub fn mend_all(&mut self) {
        *self = Self::default();
    }

    /// Whether the direction carries.
    pub fn open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains_key(&(from, to))
            && !self.isolated.contains_key(&from)
            && !self.isolated.contains_key(&to)
    }

    /// What a network does to a datagram sent now.
    pub fn fate(&mut self, from: NodeId, to: NodeId, path: u8, now: Time, dice: &mut Dice) -> Fate {
        let Some((how, since)) = self.bad.get(&(from, to, path)).copied() else {
            return Fate::Late(Duration::ZERO);
        };
        let lost = match how {
            PathFault::Cut | PathFault::OneWay => true,
            PathFault::Lossy(percent) => dice.below(100) < u64::from(percent),
            PathFault::Slow(ms) => return Fate::Late(Duration::from_millis(u64::from(ms))),
            PathFault::Flapping(ms) => {
                (now.since(since).as_millis() as u64 / u64::from(ms.max(1))).is_multiple_of(2)
            }
        };
        if !lost {
            return Fate::Late(Duration::ZERO);
        }
        self.owed.insert((from, to, path));
        Fate::Lost
    }

    /// A good network carries contents; whether a bad one beside it had swallowed something before.
    pub fn carries_around(&mut self, from: NodeId, to: NodeId, path: u8) -> bool {
        (0..NETWORKS).filter(|other| *other != path).any(|other| self.owed.remove(&(from, to, other)))
    }

    /// When a message sent now arrives: once, or more than once.
    pub fn arrivals(&self, now: Time, dice: &mut Dice, odds: &Odds) -> SmallVec<[Time; 2]> {
        let mut arrivals = SmallVec::new();
        arrivals.push(now + Self::delay(dice, odds));
        while dice.chance(odds.doubled) && arrivals.len() < 3 {
            arrivals.push(now + Self::delay(dice, odds));
        }
        arrivals
    }

    fn delay(dice: &mut Dice, odds: &Odds) -> Duration {
        let mut nanos = dice.range(4_000, 60_000);
        if dice.chance(odds.held) {
            nanos += dice.below(odds.held_ms_max * 1_000_000 + 1);
        }
        Duration::from_nanos(nanos)
    }
}

/// One fault less does that.
fn lower<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn ef31_a_network_that_is_bad_leaves_the_other_and_the_other_way_alone() {
        let (mut links, mut dice) = (Links::default(), Dice::new(1));
        let good = Fate::Late(Duration::ZERO);
        links.spoil(A, B, 0, PathFault::OneWay, Time(0));
        assert_eq!(links.fate(A, B, 0, Time(5), &mut dice), Fate::Lost);
        assert_eq!(links.fate(B, A, 0, Time(5), &mut dice), good);
        assert_eq!(links.fate(A, B, 1, Time(5), &mut dice), good);
        assert!(links.carries_around(A, B, 1) && !links.carries_around(A, B, 1), "counted once");
        links.spoil(A, B, 1, PathFault::Flapping(2), Time(0));
        assert_eq!(links.fate(B, A, 1, Time(1_000_000), &mut dice), Fate::Lost);
        assert_eq!(links.fate(B, A, 1, Time(3_000_000), &mut dice), good);
        links.restore(B, A, 1);
        assert_eq!(links.fate(B, A, 1, Time(1_000_000), &mut dice), good);
    }

    #[test]
    fn a_direction_is_open_when_the_last_of_its_cuts_has_ended() {
        let mut links = Links::default();
        links.cut(A, B);
        links.cut(A, B);
        links.mend(A, B);
        assert!(!links.open(A, B) && links.open(B, A));
        links.mend(A, B);
        links.isolate(B);
        assert!(!links.open(A, B) && !links.open(B, A));
        links.rejoin(B);
        assert!(links.open(A, B));
    }
}
