//! One extent on three sleds under a 2+1 code: a primary that flushes, a new one that claims and seals.
//!
//! The old primary (number 1) sends units of stripes; each may land late, for it may have been paused and
//! its messages wait in queues. The secondary takes number 2 and claims sled by sled; a claimed sled refuses
//! number 1, one that is slow or away does not yet (P-26). Flush acknowledgements and claims are 2 and 2, so
//! that together they exceed 3 (P-25, OP-12, OP-13). What a sled holds of a stripe it never takes again, and
//! answers a repeat as it answered the first. A column may break once; a stripe under way then goes to a new
//! extent (P-24). Drain and record are the fence's (see `fence`): here a claim is one step.

use crate::explore::{Judged, Rule, rules};
use stateright::{Model, Property};
use std::fmt;

const SLEDS: usize = 3;
/// Data columns.
const K: u32 = 2;
/// Stripes of an extent.
const STRIPES: usize = 2;
const OLD: u8 = 1;
const NEW: u8 = 2;

/// Rules of extents broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// P-25, OP-12: an extent is used with one claim too few.
    pub claim_short: bool,
    /// P-24: the new primary appends to the old one's extent.
    pub not_sealed: bool,
    /// P-24: a broken column is replaced in place, as if it held what the old one did.
    pub substituted: bool,
    /// P-25: a flush counts as done with one acknowledgement too few.
    pub flush_short: bool,
    /// EF-16: a claimed sled takes units of the old number.
    pub not_fenced: bool,
    /// OP-08: the secondary takes a repoint after it took the higher number.
    pub late_repoint: bool,
}

/// The bounds and the broken rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Columns that break.
    pub breaks: u8,
    /// Rules broken on purpose.
    pub faults: Faults,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The old primary begins a stripe: its units are on their way.
    Begin,
    /// A unit of the old primary's stripe lands on a sled.
    Land(u8, u8),
    /// The old primary hears of it.
    Hear(u8, u8),
    /// The secondary holds the repoint of a stripe.
    Repoint(u8),
    /// The secondary takes number 2.
    TakeOver,
    /// A sled is claimed.
    Claim(u8),
    /// The new primary uses the extent: it may read, collect and release.
    Use,
    /// A unit of the new primary's stripe lands, or is there already, and it hears so.
    Append(u8),
    /// The new primary indexes its stripe.
    Index,
    /// A column breaks.
    Break(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin => write!(f, "head 1 begins a stripe"),
            Self::Land(stripe, sled) => write!(f, "head 1's unit of stripe {stripe} lands on sled {sled}"),
            Self::Hear(stripe, sled) => write!(f, "head 1 hears of stripe {stripe} on sled {sled}"),
            Self::Repoint(stripe) => write!(f, "the repoint to stripe {stripe} is durable on both heads"),
            Self::TakeOver => write!(f, "head 2 takes number 2"),
            Self::Claim(sled) => write!(f, "head 2 claims sled {sled}"),
            Self::Use => write!(f, "head 2 uses the extent"),
            Self::Append(sled) => write!(f, "head 2's unit is on sled {sled}, as it hears"),
            Self::Index => write!(f, "head 2 indexes its stripe"),
            Self::Break(sled) => write!(f, "the column on sled {sled} breaks"),
        }
    }
}

/// An indexed stripe: who wrote it, and which columns its descriptor trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Indexed {
    writer: u8,
    trusted: u8,
}

/// The sleds and both heads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rack {
    /// Who wrote the unit of a stripe on a sled, in the old extent; 0 is nobody.
    units: [[u8; SLEDS]; STRIPES],
    /// The same in the new primary's own extent.
    fresh: [u8; SLEDS],
    stored: [u8; SLEDS],
    began: u8,
    heard: [u8; STRIPES],
    index: [Option<Indexed>; STRIPES],
    /// The new primary's stripe, when it has an extent of its own.
    own: Option<Indexed>,
    taken: bool,
    claimed: u8,
    used: bool,
    appended: u8,
    /// Broken columns that everyone knows of.
    lost: u8,
    breaks: u8,
    /// Stripes with a unit that landed before the extent was used.
    seen: [bool; STRIPES],
    broken: Option<Rule>,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

fn each(mask: u8) -> impl Iterator<Item = usize> {
    (0..SLEDS).filter(move |sled| mask & (1 << sled) != 0)
}

impl Bounds {
    fn claims(&self) -> u32 {
        if self.faults.claim_short { K - 1 } else { K }
    }

    fn acks(&self) -> u32 {
        if self.faults.flush_short { K - 1 } else { K }
    }
}

impl Rack {
    /// The stripe of the old extent that a primary without a seal would append.
    fn next_stripe(&self) -> usize {
        self.index.iter().position(Option::is_none).unwrap_or(STRIPES)
    }

    fn land(&mut self, bounds: &Bounds, stripe: usize, sled: usize) {
        let fenced = self.stored[sled] > OLD && !bounds.faults.not_fenced;
        if fenced || self.units[stripe][sled] != 0 {
            return;
        }
        self.units[stripe][sled] = OLD;
        let landed = self.units[stripe].iter().filter(|unit| **unit == OLD).count() as u32;
        if self.stored[sled] > OLD || (self.used && !self.seen[stripe] && landed >= K) {
            // A whole stripe of the old number, of which no claimed sled knew when the extent was used.
            self.broken = Some(Rule::OneWriter);
        }
    }

    fn uses(&mut self) {
        self.used = true;
        for stripe in 0..STRIPES {
            self.seen[stripe] = each(self.claimed).any(|sled| self.units[stripe][sled] != 0);
            let present = self.index[stripe].map(|stripe| (stripe.trusted & self.claimed).count_ones());
            if present.is_some_and(|present| present < K) {
                self.broken = Some(Rule::FullStripes);
            }
        }
    }

    fn usable(&self, bounds: &Bounds) -> bool {
        let enough = |stripe: &Indexed| (stripe.trusted & self.claimed).count_ones() >= bounds.claims();
        self.claimed.count_ones() >= bounds.claims() && self.index.iter().flatten().all(enough)
    }

    /// A repeat is answered as the first: a sled that holds a unit of the stripe does not take another.
    fn append(&mut self, bounds: &Bounds, sled: usize) {
        let stripe = self.next_stripe();
        let unit =
            if bounds.faults.not_sealed { &mut self.units[stripe][sled] } else { &mut self.fresh[sled] };
        if *unit == 0 {
            *unit = NEW;
        }
        self.appended |= 1 << sled;
    }

    fn index_own(&mut self, bounds: &Bounds) {
        let stripe = Some(Indexed { writer: NEW, trusted: self.appended & !self.lost });
        if bounds.faults.not_sealed {
            let at = self.next_stripe();
            self.index[at] = stripe;
            self.fresh = [NEW; SLEDS];
        }
        self.own = stripe;
    }

    fn breaks(&mut self, bounds: &Bounds, sled: usize) {
        self.breaks += 1;
        self.fresh[sled] = 0;
        self.units.iter_mut().for_each(|stripe| stripe[sled] = 0);
        if !bounds.faults.substituted {
            self.lost |= 1 << sled;
        }
    }

    /// Every column that a descriptor trusts holds what its stripe's writer wrote.
    fn judge(&mut self) {
        let lies = |stripe: &Indexed, units: &[u8; SLEDS]| {
            each(stripe.trusted & !self.lost).any(|sled| units[sled] != stripe.writer)
        };
        let thin = |stripe: &Indexed| stripe.trusted.count_ones() < K;
        let old =
            self.index.iter().zip(&self.units).filter_map(|(stripe, units)| Some((stripe.as_ref()?, units)));
        let all: Vec<_> = old.chain(self.own.as_ref().map(|own| (own, &self.fresh))).collect();
        if self.broken.is_none() && all.iter().any(|(stripe, units)| lies(stripe, units) || thin(stripe)) {
            self.broken = Some(Rule::FullStripes);
        }
        if self.broken.is_none() && self.taken_back() {
            self.broken = Some(Rule::NewestWins);
        }
    }

    /// The old primary's repoint came after the new one had begun to serve.
    fn taken_back(&self) -> bool {
        self.used && self.index.iter().flatten().any(|stripe| stripe.writer == OLD && stripe.trusted & 8 != 0)
    }

    fn old_head(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        if usize::from(self.began) < STRIPES {
            steps.push(Step::Begin);
        }
        for stripe in 0..usize::from(self.began) {
            for sled in 0..SLEDS {
                let (stripe, at) = (stripe as u8, sled as u8);
                if self.lost & (1 << sled) == 0 && self.units[usize::from(stripe)][sled] == 0 {
                    steps.push(Step::Land(stripe, at));
                }
                let there = self.units[usize::from(stripe)][sled] == OLD;
                if there && self.heard[usize::from(stripe)] & (1 << sled) == 0 {
                    steps.push(Step::Hear(stripe, at));
                }
            }
            // What broke since it was heard of does not count: the stripe goes elsewhere.
            let heard = (self.heard[stripe] & !self.lost).count_ones() >= bounds.acks();
            let taken = self.taken && !bounds.faults.late_repoint;
            let next = stripe == self.next_stripe();
            if heard && !taken && next {
                steps.push(Step::Repoint(stripe as u8));
            }
        }
    }

    fn new_head(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        if !self.taken {
            steps.push(Step::TakeOver);
            return;
        }
        steps.extend(
            (0..SLEDS).filter(|sled| self.claimed & (1 << sled) == 0).map(|at| Step::Claim(at as u8)),
        );
        if !self.used {
            if self.usable(bounds) {
                steps.push(Step::Use);
            }
            return;
        }
        let room = !bounds.faults.not_sealed || self.next_stripe() < STRIPES;
        if self.own.is_none() && room {
            let free = self.claimed & !self.appended & !self.lost;
            steps.extend(each(free).map(|sled| Step::Append(sled as u8)));
            if (self.appended & !self.lost).count_ones() >= bounds.acks() {
                steps.push(Step::Index);
            }
        }
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack { stored: [OLD; SLEDS], ..Rack::default() }]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() {
            return;
        }
        rack.old_head(self, steps);
        rack.new_head(self, steps);
        if rack.breaks < self.breaks {
            let sound = (0..SLEDS).filter(|sled| rack.lost & (1 << sled) == 0);
            steps.extend(sound.map(|sled| Step::Break(sled as u8)));
        }
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        match step {
            Step::Begin => next.began += 1,
            Step::Land(stripe, sled) => next.land(self, usize::from(stripe), usize::from(sled)),
            Step::Hear(stripe, sled) => next.heard[usize::from(stripe)] |= 1 << sled,
            Step::Repoint(stripe) => {
                let late = if next.taken { 8 } else { 0 };
                let trusted = next.heard[usize::from(stripe)] & !next.lost | late;
                next.index[usize::from(stripe)] = Some(Indexed { writer: OLD, trusted });
            }
            Step::TakeOver => next.taken = true,
            Step::Claim(sled) => {
                next.claimed |= 1 << sled;
                next.stored[usize::from(sled)] = NEW;
            }
            Step::Use => next.uses(),
            Step::Append(sled) => next.append(self, usize::from(sled)),
            Step::Index => next.index_own(self),
            Step::Break(sled) => next.breaks(self, usize::from(sled)),
        }
        next.judge();
        (next != *rack).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::sometimes("the old head's stripe is indexed", |_, rack: &Rack| {
            rack.index.iter().flatten().any(|stripe| stripe.writer == OLD)
        }));
        all.push(Property::sometimes("the new head's stripe is indexed", |_, rack: &Rack| {
            rack.own.is_some()
        }));
        all.push(Property::sometimes("an extent is used before every sled is claimed", |_, rack: &Rack| {
            rack.used && rack.claimed.count_ones() < SLEDS as u32
        }));
        all.push(Property::sometimes("a unit lands behind the claim of another", |_, rack: &Rack| {
            rack.used && (0..SLEDS).any(|sled| rack.claimed & (1 << sled) == 0 && rack.units[0][sled] == OLD)
        }));
        all
    }
}
