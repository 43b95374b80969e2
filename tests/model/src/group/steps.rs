//! What can happen to the rack, as steps of the checker.

use super::{Bounds, HEADS, Head, Msg, Pair, Proposal, Rack, Role, bit};
use crate::explore::rules;
use stateright::{Model, Property};
use std::fmt;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client's write reaches a head that serves.
    Write(u8),
    /// A client's read reaches a head that serves.
    Read(u8),
    /// What a head appended becomes durable.
    Sync(u8),
    /// A message arrives.
    Arrive(Msg),
    /// A head proposes a pair to the authority.
    Propose(u8, Pair),
    /// A primary fills a head that is no member.
    Fill(u8, u8),
    /// A head's process ends and starts again.
    Restart(u8),
    /// A head's log device is replaced by an empty one, and the head restarts.
    Replace(u8),
    /// The authority sees a head's new boot.
    Boot(u8),
    /// A broken primary leaves a silent peer out.
    LeaveOut(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(at) => write!(f, "a write reaches head {at}"),
            Self::Read(at) => write!(f, "a read reaches head {at}"),
            Self::Sync(at) => write!(f, "the log of head {at} is durable"),
            Self::Arrive(msg) => write!(f, "{msg}"),
            Self::Propose(at, pair) => write!(f, "head {at} proposes {pair}"),
            Self::Fill(at, to) => write!(f, "head {at} fills head {to}"),
            Self::Restart(at) => write!(f, "head {at} restarts"),
            Self::Replace(at) => write!(f, "the log of head {at} is replaced"),
            Self::Boot(at) => write!(f, "the authority sees the new boot of head {at}"),
            Self::LeaveOut(at) => write!(f, "head {at} goes on without its peers"),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<usize> = (0..HEADS).filter(|head| self.has(*head as u8)).collect();
        write!(f, "number {} led by {} of {members:?}", self.number, self.primary)
    }
}

impl fmt::Display for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(proposal) => {
                write!(f, "the authority takes head {}'s proposal of {}", proposal.by, proposal.pair)
            }
            Self::Verdict { to, granted, pair, .. } => {
                let word = if *granted { "granted" } else { "declined" };
                write!(f, "head {to} hears: {word}, newest is {pair}")
            }
            Self::Assign { to, pair } => write!(f, "head {to} is told of {pair}"),
            Self::Announce { to, pair, log, .. } => {
                write!(f, "head {to} hears the tail {} under number {}", log.len(), pair.number)
            }
            Self::Replicate { to, number, at, entry } => {
                write!(f, "head {to} gets op {at} = {} under number {number}", entry.value)
            }
            Self::Durable { to, by, number, upto } => {
                write!(f, "head {to} hears that head {by} is durable to {upto} under number {number}")
            }
            Self::Confirm { to, by, number, nonce } => {
                write!(f, "head {to} is asked by head {by} to confirm number {number} for read {nonce}")
            }
            Self::Confirmed { to, by, number, nonce } => {
                write!(f, "head {to} hears head {by} confirm number {number} for read {nonce}")
            }
        }
    }
}

impl Rack {
    fn write(&mut self, bounds: &Bounds, at: u8) {
        self.writes += 1;
        let head = &mut self.heads[usize::from(at)];
        let entry = super::Entry { number: head.pair.number, value: self.writes };
        head.log.push(entry);
        let head = &self.heads[usize::from(at)];
        let (number, op) = (head.pair.number, head.log.len() as u8);
        // Those that are being filled get it too; so do the members.
        let others = (0..bounds.heads).filter(|to| *to != at && (bounds.joins || head.pair.has(*to)));
        for to in others {
            self.net.insert(Msg::Replicate { to, number, at: op, entry });
        }
    }

    fn restart(&mut self, bounds: &Bounds, at: u8) {
        self.restarts += 1;
        let head = &mut self.heads[usize::from(at)];
        head.boot += 1;
        head.log.truncate(usize::from(head.durable));
        (head.applied, head.acks, head.proposal, head.read) = (0, [None; HEADS], None, None);
        let goes_on = bounds.faults.number_kept && head.role == Role::Serves;
        head.role = if goes_on { Role::Serves } else { Role::Idle };
        // Nothing is followed under an old boot (P-01).
        head.follows = if bounds.faults.number_kept { head.follows } else { 0 };
        if goes_on {
            head.applied = head.durable;
        }
    }

    fn replace(&mut self, at: u8) {
        self.replaced += 1;
        let boot = self.heads[usize::from(at)].boot + 1;
        let log_id = self.heads[usize::from(at)].log_id + 1;
        self.heads[usize::from(at)] = Head { boot, log_id, ..Head::new(Pair::default()) };
    }

    fn propose(&mut self, at: u8, pair: Pair) {
        let head = &mut self.heads[usize::from(at)];
        head.nonce += 1;
        let proposal = Proposal { by: at, nonce: head.nonce, after: head.pair.number, pair };
        head.proposal = Some(proposal);
        self.net.insert(Msg::Propose(proposal));
    }

    /// The pairs that a member may propose.
    fn wishes(&self, bounds: &Bounds, at: u8) -> Vec<Pair> {
        let head = &self.heads[usize::from(at)];
        let member = head.pair.names(at, head.boot, head.log_id);
        if !member || head.proposal.is_some() || head.pair.number >= bounds.numbers {
            return Vec::new();
        }
        let leads = head.pair.primary == at;
        let mut wishes = Vec::new();
        if head.pair.members != bit(at) {
            wishes.push(self.wish(at, at, bit(at)));
        }
        // A member that was never announced to may hold too little; it takes over with what it holds.
        if !leads && bounds.flips {
            wishes.push(self.wish(at, at, head.pair.members));
        }
        if leads && bounds.joins && head.role == Role::Serves {
            for other in (0..bounds.heads).filter(|other| !head.pair.has(*other)) {
                let filled = head.acks[usize::from(other)] >= Some(head.log.len() as u8);
                let follows = self.heads[usize::from(other)].follows == head.pair.number;
                if (filled && follows) || bounds.faults.join_unfilled {
                    wishes.push(self.wish(at, at, head.pair.members | bit(other)));
                }
            }
        }
        wishes
    }

    fn clients(&self, bounds: &Bounds, at: u8, steps: &mut Vec<Step>) {
        let head = &self.heads[usize::from(at)];
        if head.role == Role::Serves {
            if self.writes < bounds.writes {
                steps.push(Step::Write(at));
            }
            if self.reads < bounds.reads && head.read.is_none() {
                steps.push(Step::Read(at));
            }
        }
        if usize::from(head.durable) < head.log.len() {
            steps.push(Step::Sync(at));
        }
    }

    fn troubles(&self, bounds: &Bounds, at: u8, steps: &mut Vec<Step>) {
        let head = &self.heads[usize::from(at)];
        if self.restarts < bounds.restarts {
            steps.push(Step::Restart(at));
        }
        // One log at a time: a group of one that loses its log is the `solo` model's.
        let others = (0..bounds.heads).any(|other| other != at && self.stands(other));
        if self.replaced < bounds.replaced && others {
            steps.push(Step::Replace(at));
        }
        if self.newest.has(at) && self.newest.boots[usize::from(at)] != head.boot {
            steps.push(Step::Boot(at));
        }
        if bounds.faults.solo_without_leave && head.role == Role::Serves && head.pair.members != bit(at) {
            steps.push(Step::LeaveOut(at));
        }
        if bounds.joins && head.role == Role::Serves {
            let others = (0..bounds.heads).filter(|other| !head.pair.has(*other));
            steps.extend(others.map(|other| Step::Fill(at, other)));
        }
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack::new(self)]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() {
            return;
        }
        for at in 0..self.heads {
            rack.clients(self, at, steps);
            rack.troubles(self, at, steps);
            steps.extend(rack.wishes(self, at).into_iter().map(|pair| Step::Propose(at, pair)));
        }
        steps.extend(rack.net.iter().cloned().map(Step::Arrive));
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        match step {
            Step::Write(at) => next.write(self, at),
            Step::Read(at) => {
                next.reads += 1;
                next.read(self, at);
            }
            Step::Sync(at) => next.sync(self, at),
            Step::Arrive(msg) => next.deliver(self, &msg),
            Step::Propose(at, pair) => next.propose(at, pair),
            Step::Fill(at, to) => next.announce(at, to),
            Step::Restart(at) => next.restart(self, at),
            Step::Replace(at) => next.replace(at),
            Step::Boot(at) => next.grant_boot(self, at),
            Step::LeaveOut(at) => {
                next.heads[usize::from(at)].pair.members = bit(at);
                next.moves_on(self, at);
            }
        }
        next.prune(self);
        (next != *rack).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::sometimes("a write is acknowledged", |_, rack: &Rack| rack.acked != 0));
        all.push(Property::sometimes("the other head serves what was acknowledged", |_, rack: &Rack| {
            let other = &rack.heads[1.min(rack.heads.len() - 1)];
            other.role == Role::Serves && other.applied > 0 && rack.acked != 0
        }));
        all.push(Property::sometimes("a read is confirmed", |_, rack: &Rack| rack.read_confirmed));
        all.push(Property::sometimes("everything is acknowledged", |bounds: &Self, rack: &Rack| {
            rack.acked.count_ones() == u32::from(bounds.writes)
        }));
        all.push(Property::sometimes("a group grows", |bounds: &Self, rack: &Rack| {
            rack.newest.members.count_ones() > bounds.members.count_ones()
        }));
        all
    }
}
