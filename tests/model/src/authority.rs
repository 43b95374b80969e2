//! The authority's store over crashes, lost answers and a restored copy; sleds that compare grants (P-04).
//!
//! Two heads boot and ask for numbers; each grant is durable before it is answered, and answers may be late or
//! lost. Once, the store is replaced by a copy of an earlier day. The high-water mark beside the store tells of
//! it when the mark survived; a head that holds more than the store granted tells of it in any case; and where
//! neither speaks up, two grants of one number differ in their ids and a sled that meets both stops both. A
//! model of its own, not the shipping authority.

use crate::explore::{Judged, Rule, rules};
use stateright::{Model, Property};
use std::collections::BTreeSet;
use std::fmt;

const HEADS: usize = 2;

/// Rules of the authority broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// P-04: a restored store goes on in its old epoch, whatever it is told.
    pub epoch_kept: bool,
    /// P-04: a sled takes an equal number for the same grant.
    pub grant_ignored: bool,
    /// EF-14: a grant is answered before it is durable.
    pub answer_first: bool,
    /// P-01: a new boot gets the number that stands.
    pub number_kept: bool,
    /// P-04: a grant's id follows from its number, so that a restored store gives it again.
    pub id_from_number: bool,
}

/// The bounds and the broken rules.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Boots that are granted numbers.
    pub boots: u8,
    /// Stores that are restored from a copy.
    pub restores: u8,
    /// Crashes of the authority.
    pub crashes: u8,
    /// Whether the mark beside the store survives a restore.
    pub mark_kept: bool,
    /// Rules broken on purpose.
    pub faults: Faults,
}

/// (epoch, counter).
type Number = (u8, u8);

/// A grant: its number, its id, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    number: Number,
    /// Differs between any two grants that were ever decided.
    id: u8,
    head: u8,
    boot: u8,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A head boots and asks; the authority decides.
    Boot(u8),
    /// What was decided becomes durable, and is answered.
    Commit,
    /// The authority crashes: what was decided and is not durable is forgotten.
    Crash,
    /// The store is copied.
    Copy,
    /// The copy takes the store's place.
    Restore,
    /// A head hears of a grant.
    Hear(Grant),
    /// A head reserves on the sled.
    Reserve(u8),
    /// A write of a head reaches the sled.
    Write(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(head) => write!(f, "head {head} boots and asks for a number"),
            Self::Commit => write!(f, "the grant is durable and answered"),
            Self::Crash => write!(f, "the authority crashes"),
            Self::Copy => write!(f, "the store is copied"),
            Self::Restore => write!(f, "the copy takes the store's place"),
            Self::Hear(grant) => {
                write!(f, "head {} hears of number {:?}, grant {}", grant.head, grant.number, grant.id)
            }
            Self::Reserve(head) => write!(f, "head {head} reserves on the sled"),
            Self::Write(head) => write!(f, "a write of head {head} reaches the sled"),
        }
    }
}

/// The authority, its heads and one sled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rack {
    store: Number,
    mark: Number,
    copy: Option<Number>,
    decided: Option<Grant>,
    answers: BTreeSet<Grant>,
    boots: [u8; HEADS],
    held: [Option<Grant>; HEADS],
    ids: u8,
    restores: u8,
    crashes: u8,
    /// What the sled stored, and whether it stopped that number.
    stored: Option<Grant>,
    contested: bool,
    /// The last grant under which the sled took a write.
    wrote: Option<Grant>,
    writers: u8,
    stopped: bool,
    broken: Option<Rule>,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

impl Rack {
    fn boot(&mut self, bounds: &Bounds, head: u8) {
        let at = usize::from(head);
        self.boots[at] += 1;
        let forgotten = self.held[at].map_or((0, 0), |grant| grant.number).max(self.mark);
        let mut number = self.store;
        if forgotten > number && !bounds.faults.epoch_kept {
            // Somebody knows of more than was granted: the store is an older copy.
            number.0 = forgotten.0 + 1;
        }
        if !(bounds.faults.number_kept && number.1 > 0) {
            number.1 += 1;
        }
        self.ids += 1;
        let id = if bounds.faults.id_from_number { number.1 } else { self.ids };
        let grant = Grant { number, id, head, boot: self.boots[at] };
        self.decided = Some(grant);
        if bounds.faults.answer_first {
            self.answer(grant);
        }
    }

    fn answer(&mut self, grant: Grant) {
        // The same store never grants a number twice; a restored one may not know, then ids tell.
        let twice = self.answers.iter().any(|other| other.number == grant.number && other.id != grant.id);
        if twice && self.restores == 0 {
            self.broken = Some(Rule::NumbersRise);
        }
        self.answers.insert(grant);
    }

    fn commit(&mut self, bounds: &Bounds) {
        let Some(grant) = self.decided.take() else { return };
        self.store = grant.number;
        if bounds.mark_kept {
            self.mark = self.mark.max(grant.number);
        }
        self.answer(grant);
    }

    fn hear(&mut self, grant: Grant) {
        let at = usize::from(grant.head);
        let higher = self.held[at].is_none_or(|held| held.number < grant.number);
        if grant.boot != self.boots[at] || !higher {
            return;
        }
        let same = |other: &Grant| (other.number, other.id) == (grant.number, grant.id);
        if self.held.iter().flatten().any(same) {
            // Two heads hold what nobody can tell apart.
            self.broken = Some(Rule::NumbersRise);
        }
        self.held[at] = Some(grant);
    }

    /// The sled's side: numbers rise, and two grants of one number stop each other.
    fn reserve(&mut self, bounds: &Bounds, head: u8) {
        let Some(grant) = self.held[usize::from(head)] else { return };
        match self.stored {
            Some(stored) if grant.number < stored.number => {}
            Some(stored) if grant.number == stored.number && grant.id != stored.id => {
                if bounds.faults.grant_ignored {
                    self.stored = Some(grant);
                } else {
                    (self.contested, self.stopped) = (true, true);
                }
            }
            Some(stored) if grant.number == stored.number => {}
            _ => (self.stored, self.contested) = (Some(grant), false),
        }
    }

    fn write(&mut self, bounds: &Bounds, head: u8) {
        let Some(grant) = self.held[usize::from(head)] else { return };
        let Some(stored) = self.stored.filter(|_| !self.contested) else { return };
        let same = stored.id == grant.id || bounds.faults.grant_ignored;
        if grant.number != stored.number || !same {
            return;
        }
        if self.wrote.is_some_and(|wrote| wrote.number == grant.number && wrote.id != grant.id) {
            // Two heads wrote under one number.
            self.broken = Some(Rule::NumbersRise);
        }
        self.wrote = Some(grant);
        self.writers |= 1 << head;
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack { store: (1, 0), mark: (1, 0), ..Rack::default() }]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() {
            return;
        }
        for head in 0..HEADS as u8 {
            if rack.decided.is_none() && rack.ids < self.boots {
                steps.push(Step::Boot(head));
            }
            steps.extend([Step::Reserve(head), Step::Write(head)]);
        }
        steps.extend(rack.answers.iter().map(|grant| Step::Hear(*grant)));
        if rack.decided.is_some() {
            steps.push(Step::Commit);
            if rack.crashes < self.crashes {
                steps.push(Step::Crash);
            }
        }
        if rack.restores < self.restores {
            steps.push(if rack.copy.is_none() { Step::Copy } else { Step::Restore });
        }
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        match step {
            Step::Boot(head) => next.boot(self, head),
            Step::Commit => next.commit(self),
            Step::Crash => {
                next.crashes += 1;
                next.decided = None;
            }
            Step::Copy => next.copy = Some(next.store),
            Step::Restore => {
                next.restores += 1;
                next.decided = None;
                next.store = next.copy.take().unwrap_or(next.store);
            }
            Step::Hear(grant) => next.hear(grant),
            Step::Reserve(head) => next.reserve(self, head),
            Step::Write(head) => next.write(self, head),
        }
        (next != *rack).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::sometimes("both heads write, one after the other", |_, rack: &Rack| {
            rack.writers == 3
        }));
        all.push(Property::sometimes("an epoch begins", |_, rack: &Rack| {
            rack.stored.is_some_and(|stored| stored.number.0 > 1)
        }));
        all.push(Property::sometimes("a sled stops two grants of one number", |_, rack: &Rack| rack.stopped));
        all
    }
}
