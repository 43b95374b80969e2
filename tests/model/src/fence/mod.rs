//! Reservation of one device: the shipping sled, whole, under every order of messages, device commands,
//! crashes, torn and rotten record slots that the bounds allow.
//!
//! The sled cannot be copied, so a state is the run that leads to it, replayed for each step; two runs are
//! the same state when the sled prints alike and medium, open commands and grants are alike. Heads are
//! only their messages: a message that was sent once may arrive again at any time, so that a head which
//! paused for hours and woke up with full queues is among the runs. Device commands end in any order; at a
//! crash each open write has landed, or has not, or one of them is torn. Time stands still but for one
//! step that is longer than a drain may take.

mod medium;
mod world;

use crate::explore::{Judged, Rule, rules};
use palisade_protocol::sled::Faults;
use stateright::{Model, Property};
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use world::World;

/// What may happen on the device, and how often.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The heads, by number; the first is granted and owns the column when a run begins.
    pub numbers: Vec<u64>,
    /// How often the reservation of a head arrives.
    pub reserves: usize,
    /// How often column writes arrive.
    pub writes: usize,
    /// How often the sled crashes.
    pub crashes: usize,
    /// How often a record slot rots, unseen until the restart.
    pub rots: usize,
    /// Whether a crash may tear a write.
    pub tears: bool,
    /// How often a device command fails.
    pub fails: usize,
    /// How often a drain takes too long.
    pub waits: usize,
    /// How often a release of the column arrives, and a reservation of it.
    pub gives: usize,
    /// Breaks P-17: writes of a process that is gone land later.
    pub orphans: bool,
    /// Rules of the sled broken on purpose.
    pub faults: Faults,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            numbers: vec![5, 6],
            reserves: 1,
            writes: 1,
            crashes: 0,
            rots: 0,
            tears: false,
            fails: 0,
            waits: 0,
            gives: 0,
            orphans: false,
            faults: Faults::default(),
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The reservation of a head arrives.
    Reserve {
        /// The head's number.
        number: u64,
    },
    /// A reservation of the column arrives, for the next extent.
    Take {
        /// The head's number.
        number: u64,
        /// Which grant's token it shows.
        grant: u8,
    },
    /// A release of the column arrives.
    Give {
        /// The head's number.
        number: u64,
        /// Which grant's token it shows.
        grant: u8,
        /// The generation that it is for.
        generation: u32,
    },
    /// A column write arrives.
    Write {
        /// The head's number.
        number: u64,
        /// Which grant's token it shows.
        grant: u8,
        /// The generation that it is for.
        generation: u32,
    },
    /// An open device write lands and ends.
    Land {
        /// Its place.
        at: u8,
    },
    /// An open device write fails.
    Fail {
        /// Its place.
        at: u8,
    },
    /// A write of a process that is gone lands.
    LandLate {
        /// Its place.
        at: u8,
    },
    /// The sled's process dies and is started again.
    Crash {
        /// Bit per open write: it landed.
        landed: u8,
        /// An open write that is torn.
        torn: Option<u8>,
        /// A record slot that rotted.
        rot: Option<u8>,
    },
    /// Longer passes than a drain may take.
    Wait,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve { number } => write!(f, "head {number} reserves the partition"),
            Self::Take { number, grant } => write!(f, "head {number} reserves the column with grant {grant}"),
            Self::Give { number, grant, generation } => {
                write!(f, "a release by head {number} of generation {generation} arrives, with grant {grant}")
            }
            Self::Write { number, grant, generation } => {
                write!(f, "a write by head {number} to generation {generation} arrives, with grant {grant}")
            }
            Self::Land { at } => write!(f, "open device write {at} lands and ends"),
            Self::Fail { at } => write!(f, "open device write {at} fails"),
            Self::LandLate { at } => write!(f, "write {at} of the process that is gone lands"),
            Self::Crash { landed, torn, rot } => {
                write!(f, "the sled crashes and restarts; open writes that landed: {landed:#b}")?;
                torn.map_or(Ok(()), |at| write!(f, "; write {at} is torn"))?;
                rot.map_or(Ok(()), |slot| write!(f, "; record slot {slot} has rotted"))
            }
            Self::Wait => write!(f, "a second passes"),
        }
    }
}

/// A run, and what tells its end from others.
#[derive(Clone, Debug)]
pub struct Run {
    trail: Vec<Step>,
    digest: u64,
    open: u8,
    late: u8,
    grants: Vec<u64>,
    generation: u32,
    owned: bool,
    writers: usize,
    refused: bool,
    broken: Option<Rule>,
}

impl Run {
    fn after(bench: &Bench, trail: Vec<Step>) -> Self {
        let world = World::replay(bench, &trail);
        Self {
            digest: world.digest(),
            open: world.pending.len() as u8,
            late: world.orphans.len() as u8,
            grants: world.grants.iter().map(|grant| grant.number).collect(),
            generation: world.generation,
            owned: world.owned,
            writers: world.writers.len(),
            refused: world.refused,
            broken: world.broken,
            trail,
        }
    }

    fn count(&self, of: impl Fn(&Step) -> bool) -> usize {
        self.trail.iter().filter(|step| of(step)).count()
    }

    /// What the bounds still allow depends on what happened already.
    fn spent(&self) -> [usize; 7] {
        [
            self.count(|step| matches!(step, Step::Write { .. })),
            self.count(|step| matches!(step, Step::Crash { .. })),
            self.count(|step| matches!(step, Step::Crash { rot: Some(_), .. })),
            self.count(|step| matches!(step, Step::Fail { .. })),
            self.count(|step| matches!(step, Step::Wait)),
            self.count(|step| matches!(step, Step::Give { .. })),
            self.count(|step| matches!(step, Step::Take { .. })),
        ]
    }

    fn reserves(&self, number: u64) -> usize {
        self.count(|step| *step == Step::Reserve { number })
    }

    fn key(&self) -> (u64, [usize; 7], Vec<u64>) {
        let mut numbers: Vec<u64> = self.trail.iter().filter_map(Step::reserved).collect();
        numbers.sort_unstable();
        (self.digest, self.spent(), numbers)
    }
}

impl Step {
    fn reserved(&self) -> Option<u64> {
        match self {
            Self::Reserve { number } => Some(*number),
            _ => None,
        }
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for Run {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Judged for Run {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

impl Bench {
    fn messages(&self, run: &Run, steps: &mut Vec<Step>) {
        let [writes, .., gives, takes] = run.spent();
        steps.extend(
            self.numbers
                .iter()
                .filter(|number| run.reserves(**number) < self.reserves)
                .map(|number| Step::Reserve { number: *number }),
        );
        for (grant, number) in run.grants.iter().enumerate() {
            let (grant, number) = (grant as u8, *number);
            let generations =
                if self.gives > 0 { 1..=run.generation } else { run.generation..=run.generation };
            for generation in generations {
                if writes < self.writes {
                    steps.push(Step::Write { number, grant, generation });
                }
                if gives < self.gives {
                    steps.push(Step::Give { number, grant, generation });
                }
            }
            if takes < self.gives && !run.owned {
                steps.push(Step::Take { number, grant });
            }
        }
    }

    fn crashes(&self, run: &Run, steps: &mut Vec<Step>) {
        let rots: &[Option<u8>] =
            if run.spent()[2] < self.rots { &[None, Some(0), Some(1)] } else { &[None] };
        for landed in 0..1u8 << run.open {
            let torn = (0..run.open).filter(|at| self.tears && landed & (1 << at) == 0).map(Some);
            for torn in [None].into_iter().chain(torn) {
                steps.extend(rots.iter().map(|rot| Step::Crash { landed, torn, rot: *rot }));
            }
        }
    }
}

impl Model for Bench {
    type State = Run;
    type Action = Step;

    fn init_states(&self) -> Vec<Run> {
        vec![Run::after(self, Vec::new())]
    }

    fn actions(&self, run: &Run, steps: &mut Vec<Step>) {
        if run.broken.is_some() {
            return;
        }
        let [_, crashes, _, fails, waits, ..] = run.spent();
        self.messages(run, steps);
        steps.extend((0..run.open).map(|at| Step::Land { at }));
        steps.extend((0..run.late).map(|at| Step::LandLate { at }));
        if fails < self.fails {
            steps.extend((0..run.open).map(|at| Step::Fail { at }));
        }
        if waits < self.waits && run.open > 0 {
            steps.push(Step::Wait);
        }
        if crashes < self.crashes {
            self.crashes(run, steps);
        }
    }

    fn next_state(&self, run: &Run, step: Step) -> Option<Run> {
        let mut trail = run.trail.clone();
        trail.push(step);
        let next = Run::after(self, trail);
        (next != *run).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::sometimes("two heads write", |_, run: &Run| run.writers > 1));
        all.push(Property::sometimes("a head is refused", |_, run: &Run| run.refused));
        all.push(Property::sometimes("every head is granted", |bench: &Self, run: &Run| {
            run.grants.iter().collect::<BTreeSet<_>>().len() == bench.numbers.len()
        }));
        all.push(Property::sometimes("a grant after a restart", |_, run: &Run| {
            run.grants.len() > 1 && run.trail.iter().any(|step| matches!(step, Step::Crash { .. }))
        }));
        all
    }
}
