//! One partition, its group and the membership authority: replication, proposals, take-over, reconcile,
//! confirmed reads, restarts. A model of the rules as they are written, not of the code.
//!
//! Messages are a set that only grows: any of them may arrive at any time, again, late, in any order, or
//! never. A head that takes no step is paused or cut off, and may wake up at any time with all messages of
//! the past before it. A restart loses what was not durable, with all roles. The authority's store is
//! durable and its answers are messages. One block is written with rising values by clients that ask any
//! head; a read must never give a value below one that was acknowledged or read before it arrived.
//!
//! The rules in it: P-01 (number and boot), P-02 (pending proposals), P-03 (members are logs), P-06
//! (watermarks), P-12 (confirms), P-13 (reconcile), joining only when filled (BA-01), the returned peer's
//! divergence (P-30), `SoloByLeave`.

mod authority;
mod head;
mod prune;
mod steps;

use crate::explore::{Judged, Rule};
use std::collections::BTreeSet;

pub use steps::Step;

/// Heads of the rack.
pub const HEADS: usize = 3;
const fn bit(head: u8) -> u8 {
    1 << head
}

/// Rules of the group broken on purpose, one each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// P-01: a restarted head goes on under its number.
    pub number_kept: bool,
    /// P-02: acknowledgements and confirms need the old members only while a proposal is outstanding.
    pub ack_on_old_set: bool,
    /// P-03: a head with another log counts as the member that it was.
    pub foreign_log: bool,
    /// P-06: the primary acknowledges before the secondary is durable.
    pub ack_before_durable: bool,
    /// P-12: a confirm of an earlier read releases a later one.
    pub late_confirm: bool,
    /// P-13: a new primary serves before it has reconciled.
    pub reconcile_skipped: bool,
    /// BA-01: a member is added before it is filled.
    pub join_unfilled: bool,
    /// P-30: a returned peer keeps what diverged.
    pub divergence_kept: bool,
    /// `SoloByLeave`: a primary leaves out a silent peer without asking.
    pub solo_without_leave: bool,
    /// MA-10: a head goes on leading under its old number while it is being filled under a higher one.
    pub candidate_leads: bool,
    /// MA-06: replication under a lower number is taken.
    pub lower_number_taken: bool,
}

/// The group that starts, and what may happen, how often.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Members when a run begins; head 0 is the primary.
    pub members: u8,
    /// Heads that there are.
    pub heads: u8,
    /// Highest number.
    pub numbers: u8,
    /// Client writes.
    pub writes: u8,
    /// Client reads.
    pub reads: u8,
    /// Restarts of heads.
    pub restarts: u8,
    /// Logs that are replaced.
    pub replaced: u8,
    /// Whether a group may grow.
    pub joins: bool,
    /// Whether a secondary may take over with the old primary as a member.
    pub flips: bool,
    /// Rules broken on purpose.
    pub faults: Faults,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            members: 0b11,
            heads: 2,
            numbers: 3,
            writes: 2,
            reads: 0,
            restarts: 0,
            replaced: 0,
            joins: false,
            flips: false,
            faults: Faults::default(),
        }
    }
}

/// A number with its group: who leads, who is in it, by boot and by log (P-01, P-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    number: u8,
    primary: u8,
    members: u8,
    boots: [u8; HEADS],
    logs: [u8; HEADS],
}

impl Pair {
    fn has(&self, head: u8) -> bool {
        self.members & bit(head) != 0
    }

    fn names(&self, head: u8, boot: u8, log: u8) -> bool {
        let at = usize::from(head);
        self.has(head) && self.boots[at] == boot && self.logs[at] == log
    }
}

/// A proposal to the authority: of the number after `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proposal {
    by: u8,
    nonce: u8,
    after: u8,
    pair: Pair,
}

/// An operation in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    number: u8,
    value: u8,
}

/// A message; one that was sent may arrive at any time, any number of times. `to` and `by` are heads.
#[expect(missing_docs, reason = "fields are named after what the variant says")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Msg {
    /// To the authority.
    Propose(Proposal),
    /// The authority's answer: the newest pair, and whether it is the proposal's.
    Verdict { to: u8, nonce: u8, granted: bool, pair: Pair },
    /// The authority tells a member of a pair that it granted.
    Assign { to: u8, pair: Pair },
    /// A primary announces its tail to one boot of a head; `log` is what stands in it.
    Announce { to: u8, boot: u8, pair: Pair, log: Vec<Entry> },
    /// Operation `at` of the log (from 1).
    Replicate { to: u8, number: u8, at: u8, entry: Entry },
    /// A member is durable up to `upto`.
    Durable { to: u8, by: u8, number: u8, upto: u8 },
    /// Does the number still stand?
    Confirm { to: u8, by: u8, number: u8, nonce: u8 },
    /// It does.
    Confirmed { to: u8, by: u8, number: u8, nonce: u8 },
}

/// What a head does as a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nothing.
    Idle,
    /// Makes every member hold its log (P-13).
    Reconciles,
    /// Serves.
    Serves,
}

/// A read that waits for confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    nonce: u8,
    /// What must at least be returned.
    floor: u8,
    value: u8,
    confirmed: u8,
}

/// A head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    boot: u8,
    log_id: u8,
    log: Vec<Entry>,
    durable: u8,
    /// Operations in its index.
    applied: u8,
    pair: Pair,
    /// Number of the announcement that its log follows.
    follows: u8,
    role: Role,
    /// What others said that they hold durably, under the number of the pair; none before they did.
    acks: [Option<u8>; HEADS],
    proposal: Option<Proposal>,
    nonce: u8,
    read: Option<Read>,
}

impl Head {
    fn new(pair: Pair) -> Self {
        Self {
            boot: 0,
            log_id: 0,
            log: Vec::new(),
            durable: 0,
            applied: 0,
            pair,
            follows: pair.number,
            role: Role::Idle,
            acks: [None; HEADS],
            proposal: None,
            nonce: 0,
            read: None,
        }
    }

    fn value(&self) -> u8 {
        self.applied.checked_sub(1).map_or(0, |at| self.log[usize::from(at)].value)
    }
}

/// The rack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rack {
    newest: Pair,
    winner: Option<(u8, u8)>,
    heads: Vec<Head>,
    net: BTreeSet<Msg>,
    writes: u8,
    reads: u8,
    restarts: u8,
    replaced: u8,
    /// Newest value acknowledged or read.
    floor: u8,
    /// Values acknowledged, a bit each.
    acked: u8,
    /// Who was given leave to run alone, under which number.
    leaves: BTreeSet<(u8, u8)>,
    broken: Option<Rule>,
    read_confirmed: bool,
}

impl Judged for Rack {
    fn broken(&self) -> Option<Rule> {
        self.broken
    }
}

impl Rack {
    fn new(bounds: &Bounds) -> Self {
        let pair = Pair { number: 1, primary: 0, members: bounds.members, ..Pair::default() };
        let heads = (0..bounds.heads)
            .map(|head| Head::new(if pair.has(head) { pair } else { Pair::default() }))
            .collect();
        let mut rack = Self {
            newest: pair,
            winner: None,
            heads,
            net: BTreeSet::new(),
            writes: 0,
            reads: 0,
            restarts: 0,
            replaced: 0,
            floor: 0,
            acked: 0,
            leaves: BTreeSet::new(),
            broken: None,
            read_confirmed: false,
        };
        rack.note_leave();
        rack.heads[0].role = Role::Serves;
        rack.heads[0].acks = [Some(0); HEADS];
        rack
    }

    fn note_leave(&mut self) {
        if self.newest.members == bit(self.newest.primary) {
            self.leaves.insert((self.newest.primary, self.newest.number));
        }
    }

    fn breaks(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }
}
