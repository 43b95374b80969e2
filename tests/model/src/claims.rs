//! Claims of six devices by a new primary, while the old one wakes up with late requests and devices leave and
//! return (P-19, P-25, P-26, P-27, OP-12).
//!
//! A 4+2 code; the old primary (number 1) wrote its extent degraded, on devices 0 to 4; device 5 has no record
//! of the partition. The new primary (number 2, and 3 after it started again) claims device by device, lists what
//! it claimed, uses the extent once enough of its columns are claimed and present, rewrites it into an extent of
//! its own and releases the old one. The old primary never hears of it: it reserves, takes columns and writes
//! wherever a device lets it. Devices 4 and 5 may leave and return, restarted, with what is durable. Drain and
//! record are one step (see [`crate::fence`]); which stripes count is in [`crate::extents`].

use crate::explore::{Judged, Rule, rules};
use stateright::{Model, Property};
use std::fmt;

const DEVICES: usize = 6;
/// Data columns.
const K: u32 = 4;
/// Fewest columns of a flush (P-25).
const LEAST: u32 = 5;
/// Devices of the old extent.
const OLD: u8 = 0b01_1111;
const ALL: u8 = 0b11_1111;
/// The ones that leave and return.
const LOOSE: [u8; 2] = [4, 5];

/// Rules of claims broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// P-25, OP-12: the extent is used with one claimed column too few.
    pub claim_short: bool,
    /// OP-12: columns count as claimed where the device is away.
    pub absent_counted: bool,
    /// P-27: only devices that hold named columns are claimed.
    pub known_only: bool,
    /// P-27: a claim leaves no durable record.
    pub unrecorded: bool,
    /// P-27: what a claimed device holds is not listed.
    pub no_list: bool,
    /// P-27: a device is listed before it is claimed.
    pub list_first: bool,
    /// P-19, P-27: what was on an absent device when its extent was released is forgotten.
    pub absent_forgotten: bool,
    /// P-26: nothing is used before every device is claimed.
    pub waits_for_all: bool,
}

/// The bounds and the broken rules.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How often a device leaves.
    pub leaves: u8,
    /// How often the new primary starts again, under the next number.
    pub restarts: u8,
    /// Rules broken on purpose.
    pub faults: Faults,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The old primary reserves the partition on a device.
    Reserve(u8),
    /// The old primary takes a column there, for an extent that nobody will know of.
    Take(u8),
    /// The old primary writes into its extent's column there.
    Write(u8),
    /// The new primary claims a device.
    Claim(u8),
    /// The new primary hears what columns a device holds, and frees those that no extent names.
    List(u8),
    /// The new primary uses the old extent: it rewrites it into its own.
    Rewrite,
    /// The new primary gives a column of the released extent back.
    Free(u8),
    /// The new primary starts again.
    Restart,
    /// A device leaves.
    Leave(u8),
    /// A device returns, restarted.
    Return(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve(at) => write!(f, "the old primary reserves on device {at}"),
            Self::Take(at) => write!(f, "the old primary takes a column of device {at}"),
            Self::Write(at) => write!(f, "the old primary writes on device {at}"),
            Self::Claim(at) => write!(f, "the new primary claims device {at}"),
            Self::List(at) => write!(f, "the new primary lists device {at}"),
            Self::Rewrite => write!(f, "the new primary rewrites the old extent and releases it"),
            Self::Free(at) => write!(f, "the new primary gives the old column of device {at} back"),
            Self::Restart => write!(f, "the new primary starts again"),
            Self::Leave(at) => write!(f, "device {at} leaves"),
            Self::Return(at) => write!(f, "device {at} returns"),
        }
    }
}

/// The devices and both heads; masks have a bit per device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rack {
    /// The durable record of the partition: its number, 0 for none.
    record: [u8; DEVICES],
    /// Highest number that was ever granted there.
    granted: [u8; DEVICES],
    away: u8,
    /// Where the old primary holds a good token.
    old_tokens: u8,
    /// Columns of the old extent, those that the old primary took since, those of the new extent.
    old: u8,
    strays: u8,
    own: u8,
    /// The new primary: its number, where it holds a token, what it listed since, what it is to free.
    number: u8,
    claimed: u8,
    listed: u8,
    dying: u8,
    /// The old extent is released.
    released: bool,
    leaves: u8,
    broken: Option<Rule>,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

const fn bit(at: u8) -> u8 {
    1 << at
}

impl Rack {
    fn new() -> Self {
        let record = [1, 1, 1, 1, 1, 0];
        Self {
            record,
            granted: record,
            away: 0,
            old_tokens: OLD,
            old: OLD,
            strays: 0,
            own: 0,
            number: 2,
            claimed: 0,
            listed: 0,
            dying: 0,
            released: false,
            leaves: 0,
            broken: None,
        }
    }

    fn present(&self, at: u8) -> bool {
        self.away & bit(at) == 0
    }

    /// The old primary changes a device, by a token or a new grant.
    fn old_touches(&mut self, at: u8) {
        if self.granted[usize::from(at)] > 1 {
            self.broken.get_or_insert(Rule::OneWriter);
        }
    }

    fn reserve(&mut self, at: u8) {
        self.record[usize::from(at)] = 1;
        self.old_tokens |= bit(at);
        self.old_touches(at);
    }

    fn claim(&mut self, bounds: &Bounds, at: u8) {
        if !bounds.faults.unrecorded {
            self.record[usize::from(at)] = self.number;
        }
        self.granted[usize::from(at)] = self.number;
        self.old_tokens &= !bit(at);
        self.claimed |= bit(at);
    }

    /// Devices that the new primary wants to claim.
    fn wanted(&self, bounds: &Bounds) -> u8 {
        let named = if self.released { self.own | self.dying } else { OLD };
        if bounds.faults.known_only { named } else { ALL }
    }

    /// Whether the new primary may use the old extent, and has where to write.
    fn usable(&self, bounds: &Bounds) -> bool {
        let here = if bounds.faults.absent_counted { ALL } else { !self.away };
        let claimed = self.claimed & here;
        let least = if bounds.faults.claim_short { K - 1 } else { K };
        let all = !bounds.faults.waits_for_all || self.claimed == ALL;
        let room = claimed.count_ones() >= LEAST || bounds.faults.claim_short;
        !self.released && all && room && (claimed & self.old).count_ones() >= least
    }

    fn rewrite(&mut self, bounds: &Bounds) {
        if (self.claimed & !self.away & self.old).count_ones() < K {
            self.broken.get_or_insert(Rule::FullStripes);
        }
        self.released = true;
        self.own = self.claimed & !self.away;
        let forgotten = if bounds.faults.absent_forgotten { self.away } else { 0 };
        self.dying = self.old & !forgotten;
    }

    /// What no extent names, or one that is released, goes.
    fn list(&mut self, at: u8) {
        self.listed |= bit(at);
        self.strays &= !bit(at);
        if self.released {
            self.old &= !bit(at);
        }
    }

    fn restart(&mut self) {
        self.number += 1;
        (self.claimed, self.listed, self.dying) = (0, 0, 0);
    }

    fn comes_back(&mut self, at: u8) {
        // Tokens are volatile (EF-18); whoever had one reserves again.
        self.away &= !bit(at);
        self.old_tokens &= !bit(at);
        self.claimed &= !bit(at);
    }

    /// The new primary has nothing left to do.
    fn done(&self, bounds: &Bounds) -> bool {
        let wanted = self.wanted(bounds);
        let listed = bounds.faults.no_list || self.listed & wanted == wanted;
        self.released && self.dying == 0 && self.away == 0 && self.claimed & wanted == wanted && listed
    }

    /// When all is done no column is left that nobody names: else each take-over would cost some, for ever.
    fn judge(&mut self, bounds: &Bounds) {
        if self.done(bounds) && (self.strays | self.old) != 0 {
            self.broken.get_or_insert(Rule::Bounded);
        }
    }

    /// Devices 0 to 3 are alike: runs that differ only in which of them is which are one.
    fn sort_alike(&mut self) {
        let masks = [self.old_tokens, self.old, self.strays, self.own, self.claimed, self.listed, self.dying];
        let mut alike: Vec<(u8, u8, [bool; 7])> = (0..LOOSE[0])
            .map(|at| {
                let place = usize::from(at);
                (self.record[place], self.granted[place], masks.map(|mask| mask & bit(at) != 0))
            })
            .collect();
        alike.sort_unstable();
        let mut masks = masks.map(|mask| mask & !(bit(LOOSE[0]) - 1));
        for (at, (record, granted, bits)) in (0_u8..).zip(alike) {
            (self.record[usize::from(at)], self.granted[usize::from(at)]) = (record, granted);
            masks.iter_mut().zip(bits).for_each(|(mask, set)| *mask |= u8::from(set) << at);
        }
        [self.old_tokens, self.old, self.strays, self.own, self.claimed, self.listed, self.dying] = masks;
    }

    /// What the new primary can do next.
    fn of_new(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        for at in 0..DEVICES as u8 {
            let may = self.record[usize::from(at)] <= self.number && self.wanted(bounds) & bit(at) != 0;
            if self.present(at) && may && self.claimed & bit(at) == 0 {
                steps.push(Step::Claim(at));
            }
            let claimed = self.claimed & bit(at) != 0 || bounds.faults.list_first;
            if self.present(at) && claimed && self.listed & bit(at) == 0 && !bounds.faults.no_list {
                steps.push(Step::List(at));
            }
            if self.present(at) && self.claimed & self.dying & bit(at) != 0 {
                steps.push(Step::Free(at));
            }
        }
        if self.usable(bounds) {
            steps.push(Step::Rewrite);
        }
    }

    fn of_old(&self, steps: &mut Vec<Step>) {
        for at in (0..DEVICES as u8).filter(|at| self.present(*at)) {
            let token = self.old_tokens & bit(at) != 0;
            if self.record[usize::from(at)] <= 1 && !token {
                steps.push(Step::Reserve(at));
            }
            if token {
                if self.strays & bit(at) == 0 {
                    steps.push(Step::Take(at));
                }
                steps.push(Step::Write(at));
            }
        }
    }

    fn take(&mut self, bounds: &Bounds, step: Step) {
        match step {
            Step::Reserve(at) => self.reserve(at),
            Step::Take(at) => {
                self.strays |= bit(at);
                self.old_touches(at);
            }
            Step::Write(at) => self.old_touches(at),
            Step::Claim(at) => self.claim(bounds, at),
            Step::List(at) => self.list(at),
            Step::Rewrite => self.rewrite(bounds),
            Step::Free(at) => {
                self.old &= !bit(at);
                self.dying &= !bit(at);
            }
            Step::Restart => self.restart(),
            Step::Leave(at) => {
                self.leaves += 1;
                self.away |= bit(at);
            }
            Step::Return(at) => self.comes_back(at),
        }
        self.judge(bounds);
    }

    /// P-26: once nothing else happens, the new primary uses the extent with one device away, and in the end has
    /// nothing left to do when all are back.
    fn settles(&self, bounds: &Bounds) -> bool {
        let mut rack = self.clone();
        for back in [false, true] {
            if back {
                LOOSE
                    .iter()
                    .filter(|at| rack.away & bit(**at) != 0)
                    .copied()
                    .collect::<Vec<u8>>()
                    .into_iter()
                    .for_each(|at| rack.comes_back(at));
            }
            for _ in 0..4 * DEVICES {
                let mut steps = Vec::new();
                rack.of_new(bounds, &mut steps);
                let Some(step) = steps.first() else { break };
                rack.take(bounds, *step);
            }
            if !rack.released && rack.away.count_ones() <= 1 {
                return false;
            }
        }
        rack.done(bounds)
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack::new()]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() {
            return;
        }
        rack.of_old(steps);
        rack.of_new(self, steps);
        if rack.number < 2 + self.restarts {
            steps.push(Step::Restart);
        }
        for at in LOOSE {
            if !rack.present(at) {
                steps.push(Step::Return(at));
            } else if rack.leaves < self.leaves {
                steps.push(Step::Leave(at));
            }
        }
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        next.take(self, step);
        next.sort_alike();
        (next != *rack).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::always("ServiceReturns", |bounds: &Self, rack: &Rack| {
            rack.broken.is_some() || rack.settles(bounds)
        }));
        all.push(Property::sometimes(
            "a device without a record is reserved by the old primary",
            |_, rack: &Rack| rack.record[5] == 1 && rack.claimed != 0,
        ));
        all.push(Property::sometimes(
            "a device returns with an old record after the extent was used",
            |_, rack: &Rack| rack.released && rack.present(4) && rack.record[4] == 1,
        ));
        all.push(Property::sometimes("everything is done after a restart", |bounds: &Self, rack: &Rack| {
            rack.number > 2 && rack.done(bounds)
        }));
        all
    }
}
