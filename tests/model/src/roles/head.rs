//! A head's part: what it knows of groups, what it holds, when it acknowledges.

use super::{Bounds, Mark, Msg, Pair, Rack, Role, Seat, Wish};
use crate::explore::Rule;
use palisade_control::config::Solo;

/// Sleds that whoever salvages may miss: the parity of the code.
const PARITY: u8 = 2;

impl Rack {
    /// Hands over a message; control may die of a proposal before its decision is durable.
    pub(super) fn deliver(&mut self, bounds: &Bounds, msg: &Msg, dies: bool) {
        match msg {
            Msg::Propose(wish) => self.judge_wish(bounds, wish, dies),
            Msg::Verdict { to, boot, nonce, pair, .. } => self.verdict(*to, *boot, *nonce, pair),
            Msg::Assign { to, pair } => self.adopt(*to, pair),
            Msg::Served { by, mark } => self.served(bounds, *by, *mark),
        }
    }

    /// The outcome of a proposal is known (P-02): a declined one is never granted later, as numbers rise.
    fn verdict(&mut self, to: u8, boot: u8, nonce: u8, pair: &Pair) {
        let head = self.head_mut(to);
        if head.boot == boot && head.wish.as_ref().is_some_and(|wish| wish.nonce == nonce) {
            head.wish = None;
            self.adopt(to, pair);
        }
    }

    /// Takes a newer pair, durably; its primary begins to reconcile.
    pub(super) fn adopt(&mut self, at: u8, pair: &Pair) {
        let head = self.head_mut(at);
        if pair.seats.is_empty() || pair.mark.number() < head.pair.mark.number() {
            return;
        }
        if pair.mark.number() == head.pair.mark.number() {
            if pair.mark.grant != head.pair.mark.grant {
                // One number of two grants stops both (P-04).
                (head.role, head.follows) = (Role::Idle, None);
            }
            return;
        }
        if pair.seat(at).is_some_and(|seat| (seat.boot, seat.log) != (head.boot, head.log)) {
            return;
        }
        let before = std::mem::replace(&mut head.pair, pair.clone());
        if pair.salvage && pair.leads(at) {
            // Its number goes into the log once the copies are read.
            head.kept.get_or_insert(before);
        } else {
            head.kept = None;
        }
        head.role = if pair.leads(at) { Role::Reconciles } else { Role::Idle };
        head.follows = pair.seat(at).map(|_| pair.mark);
        if head.wish.as_ref().is_some_and(|wish| wish.expected.number() < pair.mark.number()) {
            // It was granted by this pair or never will be.
            head.wish = None;
        }
    }

    /// Members other than a head that it must hear from, and those of an outstanding proposal (P-02).
    fn needed(&self, bounds: &Bounds, at: u8) -> Vec<u8> {
        let head = self.head(at);
        let pending = head.wish.iter().filter(|_| !bounds.ack_on_old_set).flat_map(|wish| &wish.seats);
        let seats = head.pair.seats.iter().chain(pending);
        seats.map(|seat| seat.head).filter(|other| *other != at).collect()
    }

    fn follows(&self, other: u8, mark: Mark) -> bool {
        self.head(other).follows == Some(mark)
    }

    pub(super) fn can_reconcile(&self, bounds: &Bounds, at: u8) -> bool {
        let head = self.head(at);
        let follow = |seat: &Seat| seat.head == at || self.follows(seat.head, head.pair.mark);
        let claimed = !head.pair.salvage || bounds.salvage_unclaimed || !self.can_claim(at);
        head.role == Role::Reconciles && claimed && head.pair.seats.iter().all(follow)
    }

    /// Whether a head has to claim sleds before it reads the copies of another one.
    pub(super) fn can_claim(&self, at: u8) -> bool {
        let head = self.head(at);
        head.role == Role::Reconciles && head.pair.salvage && self.claimed < head.pair.mark.number()
    }

    /// All sleds but `m` at most take nothing of older numbers any more (EF-15).
    pub(super) fn claim(&mut self, at: u8) {
        self.claimed = self.head(at).pair.mark.number();
    }

    /// What whoever salvages finds on sleds: nothing that only those hold that it does not reach.
    fn found(&self, bounds: &Bounds) -> u8 {
        let copies = if bounds.copies_short { PARITY } else { PARITY + 1 };
        if bounds.copies_unread || copies <= PARITY { 0 } else { self.copied }
    }

    /// The log that a new primary goes on with: its own, unless another member's was written under a newer pair, as
    /// that of a lone head is which came back behind it (P-01).
    fn longest(&self, at: u8) -> u8 {
        let own = self.head(at);
        let members = own.pair.seats.iter().map(|seat| self.head(seat.head));
        let newest = members.max_by_key(|head| head.held.number());
        newest.filter(|head| head.held.number() > own.held.number()).map_or(own.holds, |head| head.holds)
    }

    /// Every member holds what the new primary goes on with, and nothing else; then it serves (P-13).
    pub(super) fn reconcile(&mut self, bounds: &Bounds, at: u8) {
        let Pair { mark, copies, salvage, .. } = self.head(at).pair;
        let several = self.head(at).pair.seats.len() > 1;
        self.salvaged |= salvage;
        let holds = self.longest(at) | if salvage { self.found(bounds) } else { 0 };
        if several || !copies {
            // Everybody who serves has it in his log.
            self.copied = 0;
        }
        self.head_mut(at).kept = None;
        for seat in self.head(at).pair.seats.clone() {
            let head = self.head_mut(seat.head);
            (head.holds, head.held) = (holds, bounds.remembers(mark));
        }
        self.head_mut(at).role = Role::Serves;
        self.net.insert(Msg::Served { by: at, mark });
        let twin =
            self.heads.iter().filter(|head| head.role == Role::Serves && head.pair.mark == mark).count() > 1;
        if twin {
            self.breaks(Rule::NumbersRise);
        }
        // Sleds vouch for no read of a lone head under a number that they have seen the end of (P-12).
        let vouched = several || !copies || self.claimed <= mark.number();
        if self.acked & !holds != 0 && vouched && !self.forgot(bounds) {
            self.breaks(Rule::AckedIsDurable);
        }
    }

    pub(super) fn write(&mut self, at: u8) {
        let value = 1 << self.spent.writes;
        self.spent.writes += 1;
        self.head_mut(at).holds |= value;
    }

    /// Heads to which a primary's log may be copied: they follow it and hold less.
    pub(super) fn behind(&self, at: u8) -> impl Iterator<Item = u8> {
        let head = self.head(at);
        let serves = head.role == Role::Serves;
        let lacks = move |other: &u8| {
            *other != at && self.follows(*other, head.pair.mark) && self.head(*other).holds != head.holds
        };
        (0..self.heads.len() as u8).filter(move |_| serves).filter(lacks)
    }

    pub(super) fn copy(&mut self, at: u8, to: u8) {
        self.head_mut(to).holds = self.head(at).holds;
    }

    pub(super) fn can_acknowledge(&self, bounds: &Bounds, at: u8) -> bool {
        let head = self.head(at);
        let holds =
            |other: &u8| self.follows(*other, head.pair.mark) && head.holds & !self.head(*other).holds == 0;
        let lone = head.pair.seats.len() == 1;
        let alone = head.pair.copies && head.holds & !self.copied == 0 || bounds.solo == Solo::Local;
        head.role == Role::Serves
            && head.holds & !self.acked != 0
            && (!lone || alone)
            && self.needed(bounds, at).iter().all(holds)
    }

    pub(super) fn acknowledge(&mut self, at: u8) {
        self.acked |= self.head(at).holds;
    }

    /// A lone head whose number sleds take may send what they do not hold yet.
    pub(super) fn can_copy_out(&self, at: u8) -> bool {
        let head = self.head(at);
        let leads = head.role == Role::Serves && head.pair.copies && head.pair.seats.len() == 1;
        leads && self.claimed <= head.pair.mark.number() && head.holds & !self.copied != 0
    }

    pub(super) fn copy_out(&mut self, at: u8) {
        let head = self.head(at);
        let (holds, number) = (head.holds, head.pair.mark.number());
        (self.copied, self.claimed) = (self.copied | holds, number);
    }

    /// A primary fills a head that is no member (MA-21): it follows from now on, and leads nothing.
    pub(super) fn fill(&mut self, bounds: &Bounds, at: u8, to: u8) {
        let (pair, holds) = (self.head(at).pair.clone(), self.head(at).holds);
        let head = self.head_mut(to);
        (head.follows, head.held, head.role) = (Some(pair.mark), bounds.remembers(pair.mark), Role::Idle);
        head.holds = holds;
        (head.pair, head.wish) = (pair, None);
    }

    pub(super) fn can_fill(&self, at: u8, to: u8) -> bool {
        let (head, other) = (self.head(at), self.head(to));
        let newer = other.pair.mark.number() <= head.pair.mark.number();
        head.role == Role::Serves
            && head.pair.seat(to).is_none()
            && newer
            && !self.follows(to, head.pair.mark)
    }

    /// The groups that a head may propose: itself as the primary of any of the members, and as a primary that
    /// serves, all members and one that it filled.
    pub(super) fn wishes(&self, bounds: &Bounds, at: u8) -> Vec<Wish> {
        let head = self.head(at);
        let Some(own) = head.pair.seat(at) else { return Vec::new() };
        let stands = (own.boot, own.log) == (head.boot, head.log) && head.follows == Some(head.pair.mark);
        if !stands || head.wish.is_some() {
            return Vec::new();
        }
        let others: Vec<Seat> = head.pair.seats.iter().copied().filter(|seat| seat.head != at).collect();
        let groups = (0..1_u8 << others.len()).map(|mask| {
            let chosen = others.iter().enumerate().filter(|(index, _)| mask & 1 << index != 0);
            let seats = std::iter::once(*own).chain(chosen.map(|(_, seat)| *seat));
            (seats.collect::<Vec<Seat>>(), false)
        });
        let groups = groups.filter(|(seats, _)| *seats != head.pair.seats);
        let leads = head.role == Role::Serves && bounds.joins;
        let filled = |other: &u8| {
            head.pair.seat(*other).is_none()
                && self.follows(*other, head.pair.mark)
                && self.head(*other).holds == head.holds
        };
        let joined = (0..bounds.heads).filter(|_| leads).filter(filled).map(|other| {
            let joiner = self.head(other);
            let seat = Seat { head: other, boot: joiner.boot, log: joiner.log };
            (head.pair.seats.iter().copied().chain([seat]).collect(), true)
        });
        let wish = |(seats, caught_up)| Wish {
            by: at,
            boot: head.boot,
            nonce: head.nonce + 1,
            expected: head.pair.mark,
            seats,
            caught_up,
        };
        groups.chain(joined).map(wish).collect()
    }

    pub(super) fn propose(&mut self, wish: Wish) {
        self.spent.proposals += 1;
        let head = self.head_mut(wish.by);
        head.nonce = wish.nonce;
        head.wish = Some(wish.clone());
        self.net.insert(Msg::Propose(wish));
    }

    pub(super) fn reboot(&mut self, at: u8) {
        self.spent.reboots += 1;
        let head = self.head_mut(at);
        head.boot += 1;
        if let Some(kept) = head.kept.take() {
            head.pair = kept;
        }
        // Nothing is followed or led under an old boot (P-01).
        (head.role, head.follows, head.wish, head.nonce) = (Role::Idle, None, None, 0);
    }

    /// An empty log takes the place of a head's; `told` is whether the operator said so.
    pub(super) fn replace(&mut self, at: u8, told: bool) {
        self.spent.replaced += 1;
        let head = self.head_mut(at);
        let (boot, log) = (head.boot + 1, head.log + 1);
        *head = super::Head { boot, log, ..super::Head::default() };
        if told {
            self.replace_log(at);
        }
    }
}
