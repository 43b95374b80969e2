//! Messages that can change nothing any more are forgotten, so that runs which differ only in them are one.
//!
//! Sound because pairs, boots, nonces and watermarks only rise: what is refused now is refused for ever.

use super::{Bounds, Entry, Msg, Proposal, Rack};

impl Rack {
    /// Forgets what can have no effect in any run from here.
    pub(super) fn prune(&mut self, bounds: &Bounds) {
        let mut net = std::mem::take(&mut self.net);
        let verdicts: Vec<(u8, u8)> = net
            .iter()
            .filter_map(|msg| match msg {
                Msg::Verdict { to, nonce, .. } => Some((*to, *nonce)),
                _ => None,
            })
            .collect();
        net.retain(|msg| self.counts(bounds, msg, &verdicts));
        self.net = net;
    }

    fn counts(&self, bounds: &Bounds, msg: &Msg, verdicts: &[(u8, u8)]) -> bool {
        match msg {
            Msg::Propose(proposal) => self.may_win(proposal, verdicts),
            Msg::Verdict { to, nonce, .. } => self.waits(*to, *nonce),
            Msg::Assign { to, pair } => {
                let head = self.head(*to);
                pair.number > head.pair.number && pair.names(*to, head.boot, head.log_id)
            }
            Msg::Announce { to, boot, pair, .. } => {
                let head = self.head(*to);
                head.boot == *boot && head.follows < pair.number && head.pair.number <= pair.number
            }
            Msg::Replicate { to, number, at, entry } => {
                bounds.faults.lower_number_taken || self.replicate_counts(*to, *number, *at, *entry)
            }
            Msg::Durable { to, by, number, upto } => {
                let head = self.head(*to);
                let heard = head.pair.primary != *to || head.acks[usize::from(*by)] >= Some(*upto);
                head.pair.number < *number || (head.pair.number == *number && !heard)
            }
            Msg::Confirm { to, by, number, nonce } => {
                self.head(*to).pair.number <= *number && self.reads(bounds, *by, *nonce)
            }
            Msg::Confirmed { to, number, nonce, .. } => {
                self.head(*to).pair.number <= *number && self.reads(bounds, *to, *nonce)
            }
        }
    }

    fn head(&self, at: u8) -> &super::Head {
        &self.heads[usize::from(at)]
    }

    fn may_win(&self, proposal: &Proposal, verdicts: &[(u8, u8)]) -> bool {
        let told = verdicts.contains(&(proposal.by, proposal.nonce));
        proposal.after == self.newest.number || (self.waits(proposal.by, proposal.nonce) && !told)
    }

    fn waits(&self, at: u8, nonce: u8) -> bool {
        self.head(at).proposal.is_some_and(|proposal| proposal.nonce == nonce)
    }

    fn reads(&self, bounds: &Bounds, at: u8, nonce: u8) -> bool {
        bounds.faults.late_confirm || self.head(at).read.is_some_and(|read| read.nonce == nonce)
    }

    fn replicate_counts(&self, to: u8, number: u8, at: u8, entry: Entry) -> bool {
        let head = self.head(to);
        let known = head.log.get(usize::from(at) - 1) == Some(&entry) && at <= head.durable;
        head.pair.number <= number && !(known && head.follows == number)
    }
}
