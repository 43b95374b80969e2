//! The authority's part: compare-and-set with a nonce, numbers for boots.

use super::{Bounds, HEADS, Msg, Pair, Proposal, Rack, bit};

impl Rack {
    /// The number after the newest one, if a member of the newest group proposes it; the same answer again
    /// to the proposal that won (P-02).
    pub(super) fn judge(&mut self, proposal: &Proposal) {
        let Proposal { by, nonce, after, pair } = *proposal;
        let at = usize::from(by);
        let member = self.newest.names(by, pair.boots[at], pair.logs[at]);
        if self.winner != Some((by, nonce)) && after == self.newest.number && member {
            self.newest = pair;
            self.winner = Some((by, nonce));
            self.note_leave();
            self.tell_members();
        }
        let granted = self.winner == Some((by, nonce));
        self.net.insert(Msg::Verdict { to: by, nonce, granted, pair: self.newest });
    }

    /// A new number for the group in which `head` has this boot (P-01), if its log is the member's (P-03).
    pub(super) fn grant_boot(&mut self, bounds: &Bounds, head: u8) {
        let at = usize::from(head);
        let asks = &self.heads[at];
        let known = self.newest.logs[at] == asks.log_id || bounds.faults.foreign_log;
        let spent = self.newest.number >= bounds.numbers;
        if !self.newest.has(head) || self.newest.boots[at] == asks.boot || !known || spent {
            return;
        }
        self.newest.number += 1;
        self.newest.boots[at] = asks.boot;
        self.newest.logs[at] = asks.log_id;
        self.winner = None;
        self.note_leave();
        self.tell_members();
    }

    fn tell_members(&mut self) {
        let pair = self.newest;
        for to in (0..HEADS as u8).filter(|head| pair.members & bit(*head) != 0) {
            self.net.insert(Msg::Assign { to, pair });
        }
    }

    /// The pair that `head` would have the authority grant.
    pub(super) fn wish(&self, head: u8, primary: u8, members: u8) -> Pair {
        let mut pair = self.heads[usize::from(head)].pair;
        pair.number += 1;
        (pair.primary, pair.members) = (primary, members);
        for other in 0..self.heads.len() {
            // Who is added comes with the boot and log that it shows now.
            let added = members & !self.heads[usize::from(head)].pair.members & bit(other as u8) != 0;
            if added || other == usize::from(head) {
                pair.boots[other] = self.heads[other].boot;
                pair.logs[other] = self.heads[other].log_id;
            }
        }
        pair
    }
}
