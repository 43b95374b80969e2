//! Which way messages can go at present, and when they arrive.

use crate::dice::Dice;
use crate::faults::Odds;
use palisade_protocol::wire::{NodeId, Time};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::time::Duration;

/// State of the network.
#[derive(Debug, Default)]
pub struct Links {
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Links {
    /// Cuts one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Mends one direction.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        self.cut.remove(&(from, to));
    }

    /// Mends everything.
    pub fn mend_all(&mut self) {
        self.cut.clear();
    }

    /// Whether the direction carries.
    pub fn open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
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
