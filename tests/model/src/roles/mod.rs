//! Roles of one volume that move by the shipping authority: boots, proposals, switch-overs, heads that were
//! left out and come back, drains, deaths of control, a store that is put back, logs that are replaced, heads
//! that are chosen, members that control leaves out, and lone heads with copies on sleds that are salvaged.
//!
//! The authority is the shipping one, whole, over its records; after each of its decisions what it holds must
//! be what its records tell. Heads are small: what they hold is a set of values, and replication, reconciling
//! and filling are a step each (the [`crate::group`] model takes those apart). What heads know of groups is
//! taken apart here: proposals arrive late, twice or never, and so do their answers, assignments, and the
//! primary's word that it serves. An answer that control was about to give when it died is one that never
//! arrives; a proposal that it was about to record is one that arrives later.
//!
//! Copies on sleds are a set of values, and the number of who claimed the sleds last: a lone head sends copies
//! while nobody claimed above it, and acknowledges what they hold, later. Whoever salvages claims the sleds, and
//! takes what copies hold into its log in a later step, when it reconciles; between the two, and before, the lone
//! head may live on. Sleds are counted, not named: `m` of them are out of reach of whoever salvages, and those are
//! the ones with copies, if there are not more (the [`crate::solo`] model names them). A group of several that
//! serves gives the copies back.
//!
//! A store is put back with the authority knowing it (by its mark, or by the word of people), or not: then only
//! heads that hold newer numbers show it. What control said before reaches a head before it is asked what it holds.
//!
//! Beside the rules of DESIGN section 3 two are judged at the authority itself: `OneWinner` (MA-05, P-02) and
//! that a group becomes smaller only because a member asked (`SoloByLeave`).

mod control;
mod head;
mod people;
mod settle;
mod steps;

use crate::explore::{Judged, Rule};
use control::Control;
use palisade_control::authority::Authority;
use palisade_control::config::Solo;
use std::collections::{BTreeMap, BTreeSet};

pub use steps::Step;

/// Most heads of a rack.
pub const HEADS: usize = 3;

/// How a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody has booted.
    Fresh,
    /// The declared heads are the group, 0 serves.
    Declared,
    /// Head 0 is alone by leave, head 1 was left out.
    Alone,
}

/// What may happen, how often.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How a run begins.
    pub start: Start,
    /// Heads that there are.
    pub heads: u8,
    /// Heads that do nothing but say what they hold when they are asked, a bit each.
    pub away: u8,
    /// Heads that the volume is declared with, two at least.
    pub declared: u8,
    /// Grants beyond those of the start.
    pub grants: u64,
    /// Proposals.
    pub proposals: u8,
    /// Client writes, 8 at most.
    pub writes: u8,
    /// Reboots of heads.
    pub reboots: u8,
    /// Logs that are replaced.
    pub replaced: u8,
    /// Switch-overs that people ask for.
    pub switches: u8,
    /// Heads that are drained.
    pub drains: u8,
    /// Deaths of control.
    pub crashes: u8,
    /// Stores that are put back from a copy.
    pub restores: u8,
    /// Whether the authority knows of that, by the mark beside the store or by the word of people.
    pub mark_kept: bool,
    /// P-04 broken: a head answers what it holds before it heard what control said earlier.
    pub told_early: bool,
    /// Whether one head may acknowledge alone.
    pub solo: Solo,
    /// Lone heads that are followed from their copies.
    pub salvages: u8,
    /// P-30 broken: who follows a lone head reads its copies without a claim before.
    pub salvage_unclaimed: bool,
    /// P-30 broken: a lone head acknowledges with copies on `m` sleds.
    pub copies_short: bool,
    /// P-30 broken: who follows a lone head serves without its copies.
    pub copies_unread: bool,
    /// Members that control leaves out.
    pub leave_outs: u8,
    /// Heads that are chosen to become members.
    pub choices: u8,
    /// Whether primaries take heads in that they have filled (MA-21).
    pub joins: bool,
    /// P-02 broken: acknowledgements need the old members only while a proposal is outstanding.
    pub ack_on_old_set: bool,
    /// MA-05 broken: control answers before what it granted is durable, and dies.
    pub answer_first: bool,
    /// Whether it is looked at from every state that service returns once faults stop.
    pub settles: bool,
    /// P-02 broken: a proposal is not repeated while its outcome is unknown.
    pub asks_once: bool,
    /// Breaks rules of the authority whenever it is loaded.
    pub breaks: fn(&mut Authority),
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            start: Start::Declared,
            heads: 2,
            away: 0,
            declared: 2,
            grants: 3,
            proposals: 2,
            writes: 1,
            reboots: 0,
            replaced: 0,
            switches: 0,
            drains: 0,
            crashes: 0,
            restores: 0,
            mark_kept: false,
            told_early: false,
            solo: Solo::Local,
            salvages: 0,
            salvage_unclaimed: false,
            copies_short: false,
            copies_unread: false,
            leave_outs: 0,
            choices: 0,
            joins: false,
            ack_on_old_set: false,
            answer_first: false,
            settles: false,
            asks_once: false,
            breaks: |_| {},
        }
    }
}

impl Bounds {
    /// Under which pair a log was written decides only where a lone head is salvaged: without that a primary has
    /// everything itself, and there are fewer states.
    fn remembers(&self, mark: Mark) -> Mark {
        if self.salvages > 0 { mark } else { Mark::default() }
    }
}

/// A number with its grant (P-04).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    epoch: u32,
    counter: u64,
    grant: u64,
}

impl Mark {
    fn number(&self) -> (u32, u64) {
        (self.epoch, self.counter)
    }
}

/// A member: a head under a boot with a log (P-01, P-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seat {
    head: u8,
    boot: u8,
    log: u8,
}

/// A granted group, primary first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    mark: Mark,
    seats: Vec<Seat>,
    /// Alone, with copies on sleds.
    copies: bool,
    /// The primary has to take over from copies first.
    salvage: bool,
}

impl Pair {
    fn seat(&self, head: u8) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.head == head)
    }

    fn leads(&self, head: u8) -> bool {
        self.seats.first().is_some_and(|seat| seat.head == head)
    }
}

/// A proposal, word for word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wish {
    by: u8,
    boot: u8,
    nonce: u8,
    expected: Mark,
    seats: Vec<Seat>,
    caught_up: bool,
}

/// A message that was sent; it may arrive at any time, any number of times.
#[expect(missing_docs, reason = "fields are named after what the variant says")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Msg {
    /// To the authority.
    Propose(Wish),
    /// The authority's answer: the granted pair, or the newest one.
    Verdict { to: u8, boot: u8, nonce: u8, granted: bool, pair: Pair },
    /// The authority tells a head of a pair.
    Assign { to: u8, pair: Pair },
    /// A primary tells the authority that it serves.
    Served { by: u8, mark: Mark },
}

/// What a head does as a primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing.
    #[default]
    Idle,
    /// Makes every member hold what it holds (P-13).
    Reconciles,
    /// Serves.
    Serves,
}

/// A head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Head {
    boot: u8,
    log: u8,
    /// Values in its durable log, a bit each.
    holds: u8,
    /// Newest pair that it knows, durable but for one that it salvages for.
    pair: Pair,
    /// The pair before one that it salvages for.
    kept: Option<Pair>,
    /// The pair under which its log was last made the same as the primary's.
    held: Mark,
    /// The pair whose primary its log follows, in this boot.
    follows: Option<Mark>,
    role: Role,
    /// The outstanding proposal.
    wish: Option<Wish>,
    nonce: u8,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Spent {
    proposals: u8,
    writes: u8,
    reboots: u8,
    replaced: u8,
    switches: u8,
    drains: u8,
    crashes: u8,
    restores: u8,
    salvages: u8,
    leave_outs: u8,
    choices: u8,
}

/// The rack.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Rack {
    control: Control,
    heads: Vec<Head>,
    net: BTreeSet<Msg>,
    spent: Spent,
    /// Values that were acknowledged, a bit each.
    acked: u8,
    /// Values with copies on sleds, and the number under which these were claimed last.
    copied: u8,
    claimed: (u32, u64),
    /// A lone head was followed from its copies.
    salvaged: bool,
    /// A volume was in doubt, and is not any more.
    settled: bool,
    /// What each decided proposal was answered, by (head, boot, nonce).
    answers: BTreeMap<(u8, u8, u8), Option<Mark>>,
    /// Every pair that was ever granted, where a store may be put back.
    granted: BTreeSet<Mark>,
    /// One that was to be filled before it may lead was filled.
    refilled: bool,
    /// Grants before the run began.
    base: u64,
    broken: Option<Rule>,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

impl Rack {
    fn breaks(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }

    fn head(&self, head: u8) -> &Head {
        &self.heads[usize::from(head)]
    }

    fn head_mut(&mut self, head: u8) -> &mut Head {
        &mut self.heads[usize::from(head)]
    }

    /// Whether a seat is the head as it is now, but for its boot.
    fn is_log_of(&self, seat: &Seat) -> bool {
        self.head(seat.head).log == seat.log
    }

    /// Whether a store was put back without anybody knowing: it has forgotten groups, and knows no more who holds
    /// what. All that P-04 promises then is that numbers rise and that no pair is granted twice.
    fn forgot(&self, bounds: &Bounds) -> bool {
        self.spent.restores > 0 && !bounds.mark_kept
    }

    /// Whether the primary of a pair has everything that it had to take from copies, or from the lone head that is
    /// back behind it: it counts on its own log from then on.
    fn took_over(&self, pair: &Pair) -> bool {
        pair.seats.first().is_some_and(|seat| self.head(seat.head).held == pair.mark)
    }

    /// `AckedIsDurable` of groups: whoever may become the primary holds everything that was acknowledged, or takes
    /// it over from copies.
    fn judge(&mut self, bounds: &Bounds) {
        // In doubt nobody may lead.
        if self.forgot(bounds) || self.control.doubts() {
            return;
        }
        let (eligible, newest) = (self.control.eligible(), self.control.newest());
        let takes_over = (newest.salvage || self.control.is_back()) && !self.took_over(&newest);
        let copied = if takes_over { self.copied } else { 0 };
        let lacks =
            |seat: &Seat| self.is_log_of(seat) && self.acked & !(self.head(seat.head).holds | copied) != 0;
        if eligible.iter().any(lacks) {
            self.breaks(Rule::AckedIsDurable);
        }
    }
}
