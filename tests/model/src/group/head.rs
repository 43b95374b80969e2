//! A head's part: what it does with a message, and when it acknowledges and answers.

use super::{Bounds, Entry, HEADS, Msg, Pair, Rack, Read, Role, bit};
use crate::explore::Rule;

impl Rack {
    /// Hands over a message.
    pub(super) fn deliver(&mut self, bounds: &Bounds, msg: &Msg) {
        match msg {
            Msg::Propose(proposal) => self.judge(proposal),
            Msg::Verdict { to, nonce, pair, .. } => self.verdict(bounds, *to, *nonce, *pair),
            Msg::Assign { to, pair } => self.adopt(bounds, *to, *pair),
            Msg::Announce { to, boot, pair, log } => {
                if self.heads[usize::from(*to)].boot == *boot {
                    self.announced(bounds, *to, *pair, log);
                }
            }
            Msg::Replicate { to, number, at, entry } => self.replicated(bounds, *to, *number, *at, *entry),
            Msg::Durable { to, by, number, upto } => self.durable(bounds, *to, *by, *number, *upto),
            Msg::Confirm { to, by, number, nonce } => {
                // From its durable pair (P-12).
                if self.heads[usize::from(*to)].pair.number == *number {
                    self.net.insert(Msg::Confirmed { to: *by, by: *to, number: *number, nonce: *nonce });
                }
            }
            Msg::Confirmed { to, by, number, nonce } => self.confirmed(bounds, *to, *by, *number, *nonce),
        }
    }

    fn verdict(&mut self, bounds: &Bounds, to: u8, nonce: u8, pair: Pair) {
        let head = &mut self.heads[usize::from(to)];
        if head.proposal.is_none_or(|proposal| proposal.nonce != nonce) {
            return;
        }
        // Known now. A declined one can never be granted later, because numbers rise.
        head.proposal = None;
        if pair.number > head.pair.number && !pair.names(to, head.boot, head.log_id) {
            // Others went on: it is no member any more, or not in this boot, and gives up (MA-05).
            (head.pair, head.role, head.read) = (pair, Role::Idle, None);
        }
        self.adopt(bounds, to, pair);
        self.moves_on(bounds, to);
    }

    /// Takes a newer pair, durably; its primary begins to reconcile.
    fn adopt(&mut self, bounds: &Bounds, at: u8, pair: Pair) {
        let head = &mut self.heads[usize::from(at)];
        if pair.number <= head.pair.number || !pair.names(at, head.boot, head.log_id) {
            return;
        }
        head.pair = pair;
        head.role = Role::Idle;
        head.acks = [None; HEADS];
        head.read = None;
        if head.proposal.is_some_and(|proposal| proposal.after < pair.number) {
            // It was granted by this pair or never will be.
            head.proposal = None;
        }
        if pair.primary != at {
            return;
        }
        head.follows = pair.number;
        head.role = if bounds.faults.reconcile_skipped { Role::Serves } else { Role::Reconciles };
        // What was not durable before the pair was is not announced.
        head.log.truncate(usize::from(head.durable));
        for other in (0..HEADS as u8).filter(|other| pair.has(*other) && *other != at) {
            self.announce(at, other);
        }
        if !bounds.faults.reconcile_skipped {
            self.moves_on(bounds, at);
        }
    }

    /// Tells `to` what stands in the log; sends what it lacks.
    pub(super) fn announce(&mut self, by: u8, to: u8) {
        let head = &self.heads[usize::from(by)];
        let boot = self.heads[usize::from(to)].boot;
        self.net.insert(Msg::Announce { to, boot, pair: head.pair, log: head.log.clone() });
        for (at, entry) in head.log.clone().into_iter().enumerate() {
            let number = self.heads[usize::from(by)].pair.number;
            self.net.insert(Msg::Replicate { to, number, at: at as u8 + 1, entry });
        }
    }

    /// A member cuts its log back to the primary's tail; one that joins keeps only what is the same.
    fn announced(&mut self, bounds: &Bounds, to: u8, pair: Pair, theirs: &[Entry]) {
        let head = &mut self.heads[usize::from(to)];
        let member = pair.names(to, head.boot, head.log_id);
        if pair.number < head.pair.number || head.follows >= pair.number || (pair.has(to) && !member) {
            return;
        }
        let same = head.log.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        let keep = if member || bounds.faults.divergence_kept { theirs.len() } else { same };
        head.log.truncate(keep);
        head.durable = head.durable.min(head.log.len() as u8);
        head.applied = head.applied.min(head.durable);
        head.follows = pair.number;
        // Who follows a higher number, as a candidate too, leads no more under its own (MA-10): what it would
        // append now would be taken for what it was filled with.
        if member || !bounds.faults.candidate_leads {
            (head.pair, head.role, head.proposal, head.read) = (pair, Role::Idle, None, None);
        }
        self.report(to, pair.primary, pair.number);
    }

    fn report(&mut self, by: u8, to: u8, number: u8) {
        let upto = self.heads[usize::from(by)].durable;
        self.net.insert(Msg::Durable { to, by, number, upto });
    }

    fn replicated(&mut self, bounds: &Bounds, to: u8, number: u8, at: u8, entry: Entry) {
        let head = &mut self.heads[usize::from(to)];
        let primary = head.pair.number == number && head.pair.primary == to;
        let stale =
            (head.follows != number || head.pair.number > number) && !bounds.faults.lower_number_taken;
        if stale || primary {
            return;
        }
        if usize::from(at) == head.log.len() + 1 {
            head.log.push(entry);
        }
        if bounds.faults.ack_before_durable {
            let upto = head.log.len() as u8;
            let primary = self.leader(number);
            self.net.insert(Msg::Durable { to: primary, by: to, number, upto });
        } else if usize::from(at) <= self.heads[usize::from(to)].log.len() {
            // A repeat is answered with what is durable.
            self.report(to, self.leader(number), number);
        }
    }

    /// Who leads under a number: what replication says of its sender.
    fn leader(&self, number: u8) -> u8 {
        let leads = |head: &super::Head| head.pair.number == number;
        self.heads.iter().find(|head| leads(head)).map_or(0, |head| head.pair.primary)
    }

    /// The head's log is durable now; a follower says so.
    pub(super) fn sync(&mut self, bounds: &Bounds, at: u8) {
        let head = &mut self.heads[usize::from(at)];
        head.durable = head.log.len() as u8;
        let number = head.follows;
        let leads = head.pair.number == number && head.pair.primary == at;
        if leads {
            self.moves_on(bounds, at);
        } else {
            self.report(at, self.leader(number), number);
        }
    }

    fn durable(&mut self, bounds: &Bounds, to: u8, by: u8, number: u8, upto: u8) {
        let head = &mut self.heads[usize::from(to)];
        if head.pair.number != number || head.pair.primary != to {
            return;
        }
        let ack = &mut head.acks[usize::from(by)];
        *ack = (*ack).max(Some(upto));
        self.moves_on(bounds, to);
    }

    /// Whom the head must hear from: the members, and those of an outstanding proposal (P-02).
    fn needed(&self, bounds: &Bounds, at: u8) -> u8 {
        let head = &self.heads[usize::from(at)];
        let pending = head.proposal.map_or(0, |proposal| proposal.pair.members);
        let pending = if bounds.faults.ack_on_old_set { 0 } else { pending };
        (head.pair.members | pending) & !bit(at)
    }

    /// A primary commits what everyone holds: first all of its log, then what clients write.
    pub(super) fn moves_on(&mut self, bounds: &Bounds, at: u8) {
        let needed = self.needed(bounds, at);
        let head = &mut self.heads[usize::from(at)];
        if head.role == Role::Idle {
            return;
        }
        let others = (0..HEADS).filter(|other| needed & bit(*other as u8) != 0);
        let Some(held) = others.map(|other| head.acks[other]).min().unwrap_or(Some(u8::MAX)) else { return };
        let held = held.min(head.durable);
        match head.role {
            Role::Reconciles if usize::from(held) >= head.log.len() => {
                head.applied = held;
                head.role = Role::Serves;
                self.judge_service(at);
            }
            Role::Serves if held > head.applied => self.acknowledge(at, needed, held),
            _ => {}
        }
    }

    /// Whether a head is a member of the newest group, with the log that the group names (P-03).
    pub(super) fn stands(&self, head: u8) -> bool {
        let at = usize::from(head);
        self.newest.has(head) && self.newest.logs[at] == self.heads[at].log_id
    }

    fn acknowledge(&mut self, at: u8, needed: u8, upto: u8) {
        let head = &mut self.heads[usize::from(at)];
        let fresh: Vec<Entry> = head.log[usize::from(head.applied)..usize::from(upto)].to_vec();
        head.applied = upto;
        let alone = needed == 0 && !self.leaves.contains(&(at, self.heads[usize::from(at)].pair.number));
        if alone {
            self.breaks(Rule::SoloByLeave);
        }
        for entry in fresh {
            self.acked |= 1 << entry.value;
            self.floor = self.floor.max(entry.value);
            let members = (0..self.heads.len()).filter(|head| self.stands(*head as u8));
            let holds = |head: usize| {
                let head = &self.heads[head];
                head.log[..usize::from(head.durable)].contains(&entry)
            };
            if !members.into_iter().all(holds) {
                self.breaks(Rule::AckedIsDurable);
            }
        }
    }

    /// When a group begins to serve, each member holds everything acknowledged, and nobody else serves under
    /// its number.
    fn judge_service(&mut self, at: u8) {
        let pair = self.heads[usize::from(at)].pair;
        let lacks = |head: &super::Head| {
            let held =
                head.log[..usize::from(head.durable)].iter().fold(0, |held, entry| held | 1 << entry.value);
            self.acked & !held != 0
        };
        let members = self.heads.iter().enumerate().filter(|(head, _)| self.stands(*head as u8));
        let newest = pair.number == self.newest.number;
        let lacking = newest && members.into_iter().any(|(_, head)| lacks(head));
        let twin = self.heads.iter().enumerate().any(|(other, twin)| {
            other != usize::from(at) && twin.role != Role::Idle && twin.pair.number == pair.number
        });
        if lacking {
            self.breaks(Rule::AckedIsDurable);
        }
        if twin {
            self.breaks(Rule::NumbersRise);
        }
    }

    /// A client's read arrived.
    pub(super) fn read(&mut self, bounds: &Bounds, at: u8) {
        let needed = self.needed(bounds, at);
        let floor = self.floor;
        let head = &mut self.heads[usize::from(at)];
        head.nonce += 1;
        let (nonce, number) = (head.nonce, head.pair.number);
        head.read = Some(Read { nonce, floor, value: head.value(), confirmed: 0 });
        for to in (0..HEADS as u8).filter(|to| needed & bit(*to) != 0) {
            self.net.insert(Msg::Confirm { to, by: at, number, nonce });
        }
        self.answer(bounds, at);
    }

    fn confirmed(&mut self, bounds: &Bounds, to: u8, by: u8, number: u8, nonce: u8) {
        let head = &mut self.heads[usize::from(to)];
        let Some(read) = &mut head.read else { return };
        if head.pair.number != number || (read.nonce != nonce && !bounds.faults.late_confirm) {
            return;
        }
        read.confirmed |= bit(by);
        self.read_confirmed = true;
        self.answer(bounds, to);
    }

    fn answer(&mut self, bounds: &Bounds, at: u8) {
        let needed = self.needed(bounds, at);
        let head = &mut self.heads[usize::from(at)];
        let Some(read) = head.read.filter(|read| needed & !read.confirmed == 0) else { return };
        head.read = None;
        if read.value < read.floor {
            self.breaks(Rule::NewestWins);
        }
        self.floor = self.floor.max(read.value);
    }
}
