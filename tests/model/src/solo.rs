//! Running alone: the leave, the copy on sleds, and what is left when a log dies (P-30, `SoloByLeave`).
//!
//! Two heads, three sleds. Head 0 leads under number 1; either head may ask the authority for number 2
//! alone, once; the first wins, and the answer may be late or lost. With its leave known, head 0 acknowledges
//! what is durable in its own log and stands on all three sleds, with op and checksum. Then its log may die,
//! and sleds, as many as a rack may lose. Head 1 goes on with leave under number 3, from its own log and from
//! what the living sleds hold. What returns with a log that diverged is the `group` model's.

use crate::explore::{Judged, Rule, rules};
use stateright::{Model, Property};
use std::fmt;

const SLEDS: u8 = 3;

/// Rules of running alone, broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// `SoloByLeave`: a head runs alone as soon as it has asked.
    pub without_leave: bool,
    /// P-30: what is acknowledged alone stands in one log only.
    pub no_copy: bool,
    /// P-30: one copy is enough.
    pub one_copy: bool,
    /// P-30: who goes on does not look at the sleds.
    pub copy_ignored: bool,
}

/// The bounds and the broken rules.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Client writes.
    pub writes: u8,
    /// Sleds that die.
    pub deaths: u8,
    /// Rules broken on purpose.
    pub faults: Faults,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A write reaches head 0.
    Write,
    /// An operation reaches head 1's log, durably, before that head moved on.
    Replicate,
    /// An operation is durable in head 0's log.
    Sync,
    /// A copy of an operation stands on a sled.
    Copy(u8, u8),
    /// Head 0 acknowledges the next operation.
    Acknowledge,
    /// A head asks the authority for leave to run alone.
    Ask(u8),
    /// The authority takes the request of a head.
    Judge(u8),
    /// Head 0 hears that it has leave.
    Hear,
    /// Head 0's process restarts.
    Restart,
    /// Head 0's log dies.
    LogDies,
    /// A sled dies.
    SledDies(u8),
    /// Head 1 goes on from what is left.
    GoesOn,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write => write!(f, "a write reaches head 0"),
            Self::Replicate => write!(f, "head 1 holds the next operation"),
            Self::Sync => write!(f, "the log of head 0 is durable"),
            Self::Copy(op, sled) => write!(f, "a copy of op {op} stands on sled {sled}"),
            Self::Acknowledge => write!(f, "head 0 acknowledges the next operation"),
            Self::Ask(head) => write!(f, "head {head} asks for leave to run alone"),
            Self::Judge(head) => write!(f, "the authority takes the request of head {head}"),
            Self::Hear => write!(f, "head 0 hears that it has leave"),
            Self::Restart => write!(f, "head 0 restarts"),
            Self::LogDies => write!(f, "the log of head 0 dies"),
            Self::SledDies(sled) => write!(f, "sled {sled} dies"),
            Self::GoesOn => write!(f, "head 1 goes on from what is left"),
        }
    }
}

/// The rack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rack {
    /// Operations of head 0, durable ones among them, and of head 1.
    log: u8,
    durable: u8,
    peer: u8,
    acked: u8,
    acked_alone: bool,
    /// Copies by operation, a bit per sled.
    copies: [u8; 3],
    dead: u8,
    asked: u8,
    /// Who has leave: 1 + head; 0 is nobody.
    leave: u8,
    heard: bool,
    idle: bool,
    log_dead: bool,
    went_on: bool,
    broken: Option<Rule>,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

impl Rack {
    fn alone(&self, bounds: &Bounds) -> bool {
        self.heard || (bounds.faults.without_leave && self.asked & 1 != 0)
    }

    fn copied(&self, bounds: &Bounds, op: u8) -> bool {
        let copies = self.copies[usize::from(op)].count_ones();
        let needed = match bounds.faults {
            Faults { no_copy: true, .. } => 0,
            Faults { one_copy: true, .. } => 1,
            _ => u32::from(SLEDS),
        };
        copies >= needed
    }

    fn may_acknowledge(&self, bounds: &Bounds) -> bool {
        let next = self.acked;
        let held = self.peer > next || (self.alone(bounds) && self.copied(bounds, next));
        // From asking on, what a grant would change is not known: nobody's word but leave counts (P-02).
        !self.idle && self.durable > next && held
    }

    fn acknowledge(&mut self) {
        let alone = self.peer <= self.acked;
        self.acked += 1;
        self.acked_alone |= alone;
        if alone && self.leave != 1 {
            self.broken = Some(Rule::SoloByLeave);
        }
    }

    /// The authority gives leave for number 2 to the first; after that for number 3 to head 1, when the log
    /// of the head that ran alone is given up.
    fn judge(&mut self, head: u8) {
        if self.leave == 0 || (head == 1 && self.log_dead) {
            self.leave = head + 1;
        }
    }

    fn goes_on(&mut self, bounds: &Bounds) {
        self.went_on = true;
        let living = |op: u8| self.copies[usize::from(op)] & !self.dead != 0 && !bounds.faults.copy_ignored;
        if (self.peer..self.acked).any(|op| !living(op)) {
            self.broken = Some(Rule::AckedIsDurable);
        }
    }

    fn head0(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        if self.log_dead {
            return;
        }
        if self.log < bounds.writes && !self.idle {
            steps.push(Step::Write);
        }
        if self.durable < self.log {
            steps.push(Step::Sync);
        }
        if self.peer < self.log && self.leave != 2 {
            steps.push(Step::Replicate);
        }
        for op in self.acked..self.log {
            let open =
                (0..SLEDS).filter(|sled| (self.copies[usize::from(op)] | self.dead) & (1 << sled) == 0);
            steps.extend(open.filter(|_| self.alone(bounds)).map(|sled| Step::Copy(op, sled)));
        }
        if self.may_acknowledge(bounds) {
            steps.push(Step::Acknowledge);
        }
        if self.leave == 1 && !self.heard && self.asked & 1 != 0 {
            steps.push(Step::Hear);
        }
        steps.extend([Step::Restart, Step::LogDies]);
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack::default()]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() || rack.went_on {
            return;
        }
        rack.head0(self, steps);
        for head in 0..2 {
            steps.push(if rack.asked & (1 << head) == 0 { Step::Ask(head) } else { Step::Judge(head) });
        }
        if rack.dead.count_ones() < u32::from(self.deaths) {
            steps.extend((0..SLEDS).filter(|sled| rack.dead & (1 << sled) == 0).map(Step::SledDies));
        }
        if rack.leave == 2 {
            steps.push(Step::GoesOn);
        }
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        match step {
            Step::Write => next.log += 1,
            Step::Replicate => next.peer += 1,
            Step::Sync => next.durable += 1,
            Step::Copy(op, sled) => next.copies[usize::from(op)] |= 1 << sled,
            Step::Acknowledge => next.acknowledge(),
            Step::Ask(head) => next.asked |= 1 << head,
            Step::Judge(head) => next.judge(head),
            Step::Hear => next.heard = true,
            Step::Restart => {
                // Its number belonged to the boot that ended (P-01).
                (next.idle, next.log) = (true, next.durable);
            }
            Step::LogDies => (next.log_dead, next.idle) = (true, true),
            Step::SledDies(sled) => next.dead |= 1 << sled,
            Step::GoesOn => next.goes_on(self),
        }
        (next != *rack).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::sometimes("a write is acknowledged alone", |_, rack: &Rack| rack.acked_alone));
        all.push(Property::sometimes("the other goes on after a log died", |_, rack: &Rack| {
            rack.went_on && rack.log_dead && rack.acked_alone
        }));
        all
    }
}
