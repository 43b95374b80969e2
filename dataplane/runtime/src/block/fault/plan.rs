//! What is to go wrong: rules, and the handle that changes them while a device is in use.

use crate::block::BlockFault;
use crate::entropy::SeededEntropy;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Kinds of requests that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ops {
    /// Reads.
    pub reads: bool,
    /// Writes.
    pub writes: bool,
    /// Flushes.
    pub flushes: bool,
}

impl Ops {
    /// Everything.
    pub const ALL: Self = Self { reads: true, writes: true, flushes: true };
    /// Reads only.
    pub const READS: Self = Self { reads: true, writes: false, flushes: false };
    /// Writes only.
    pub const WRITES: Self = Self { reads: false, writes: true, flushes: false };
    /// Flushes only.
    pub const FLUSHES: Self = Self { reads: false, writes: false, flushes: true };
}

/// What happens to a request that a rule hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It fails and changes nothing.
    Fail(BlockFault),
    /// It is carried out, and completes later by this much. Delays of several rules add up.
    Delay(Duration),
    /// It is not carried out and does not complete (until the rules are cleared; then it is `Gone`).
    Drop,
    /// It completes well without being carried out: a lying device. A read fails instead.
    Lose,
    /// A prefix of a write's sectors lands. Anything but a write fails.
    Torn {
        /// How many sectors of 512 bytes; by the seed when `None`. Rounded down to whole device blocks.
        sectors: Option<u32>,
        /// How it completes: with a fault, or not at all, as when power is lost.
        then: Option<BlockFault>,
    },
    /// A read's data has this many bits flipped, by the seed.
    Corrupt {
        /// How many.
        bits: u32,
    },
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Requests of these kinds,
    pub ops: Ops,
    /// that touch these bytes (flushes touch all),
    pub range: Range<u64>,
    /// leaving out the first so many,
    pub skip: u64,
    /// then at most so many,
    pub count: u64,
    /// with this probability in millionths,
    pub ppm: u32,
    /// suffer this.
    pub action: Action,
}

impl Rule {
    /// Every request of these kinds, for ever.
    pub fn always(ops: Ops, action: Action) -> Self {
        Self { ops, range: 0..u64::MAX, skip: 0, count: u64::MAX, ppm: 1_000_000, action }
    }

    /// The first `count` requests only.
    pub fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Not before `skip` requests have passed.
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Only requests that touch these bytes.
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.range = range;
        self
    }

    /// With a probability in millionths.
    pub fn with_chance(mut self, ppm: u32) -> Self {
        self.ppm = ppm;
        self
    }
}

/// A bit of the medium that has rotted: byte offset and bit in it. A write to its sector mends it.
pub type RottenBit = (u64, u8);

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) rules: Vec<Rule>,
    pub(super) rotten: Vec<RottenBit>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Raised at each change, so that the driver looks into the plan only then.
    version: AtomicU64,
    plan: Mutex<Plan>,
    hits: AtomicU64,
}

/// Changes the faults of a device while it is in use, from any thread. Clones share the device.
#[derive(Clone, Debug, Default)]
pub struct FaultHandle {
    pub(super) shared: Arc<Shared>,
}

impl FaultHandle {
    /// Adds a rule behind the others. Of the rules that hit, delays add up and the first other one acts.
    pub fn add(&self, rule: Rule) {
        self.change(|plan| plan.rules.push(rule));
    }

    /// Fails every request from now on: the device has died.
    pub fn kill(&self, fault: BlockFault) {
        self.change(|plan| plan.rules = vec![Rule::always(Ops::ALL, Action::Fail(fault))]);
    }

    /// Ends all rules; dropped requests complete as `Gone`. Rotten bits stay.
    pub fn clear(&self) {
        self.change(|plan| plan.rules.clear());
    }

    /// Lets a bit rot where it lies.
    pub fn rot(&self, offset: u64, bit: u8) {
        self.change(|plan| plan.rotten.push((offset, bit % 8)));
    }

    /// How many requests a rule has acted on.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Ordering::Relaxed)
    }

    pub(super) fn hit(&self) {
        self.shared.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// The rules, and the bits that rotted since the last call.
    pub(super) fn take(&self) -> (Vec<Rule>, Vec<RottenBit>) {
        let mut plan = self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner);
        (plan.rules.clone(), std::mem::take(&mut plan.rotten))
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        let mut plan = self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut plan);
        self.shared.version.fetch_add(1, Ordering::Release);
    }
}

/// A rule with its counts.
#[derive(Debug)]
pub(super) struct Active {
    rule: Rule,
    seen: u64,
    fired: u64,
}

/// What the rules decide about one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) action: Option<Action>,
}

/// The rules that are in force.
#[derive(Debug, Default)]
pub(super) struct Rules {
    active: Vec<Active>,
}

impl Rules {
    /// Takes the new list; rules that were there keep their counts.
    pub(super) fn replace(&mut self, rules: Vec<Rule>) {
        let mut old = std::mem::take(&mut self.active).into_iter().peekable();
        for rule in rules {
            let kept = old.next_if(|active| active.rule == rule);
            self.active.push(kept.unwrap_or(Active { rule, seen: 0, fired: 0 }));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Judges a request: `pick` says whether its kind is meant, `range` what it touches.
    pub(super) fn judge(
        &mut self,
        pick: impl Fn(&Ops) -> bool,
        range: &Range<u64>,
        entropy: &mut SeededEntropy,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for active in &mut self.active {
            let rule = &active.rule;
            let is_delay = matches!(rule.action, Action::Delay(_));
            if (verdict.action.is_some() && !is_delay) || !pick(&rule.ops) {
                continue;
            }
            if range.start >= rule.range.end || rule.range.start >= range.end {
                continue;
            }
            active.seen += 1;
            if active.seen <= rule.skip || active.fired >= rule.count || !entropy.chance(rule.ppm) {
                continue;
            }
            active.fired += 1;
            match rule.action {
                Action::Delay(span) => verdict.delay += span,
                action => verdict.action = Some(action),
            }
        }
        verdict
    }
}
