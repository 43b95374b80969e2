//! What comes of a state when faults stop: those heads that live ask for their numbers, hear what was sent,
//! and leave out those that do not; somebody must serve then.

use super::{Bounds, Msg, Rack, Role, Seat, Wish};

/// Rounds of asking and hearing within which somebody must serve.
const ROUNDS: usize = 8;

impl Rack {
    /// Whether somebody serves the newest group, if the heads of `alive` (a bit each) go on and the others
    /// never do. True where none of those that live may lead. Not meant for a store that was put back: two
    /// grants of one number stop their heads until they start again (P-04).
    pub(super) fn settles(&self, bounds: &Bounds, alive: u8) -> bool {
        let lives = |head: u8| alive & 1 << head != 0;
        let may = |seat: &Seat| lives(seat.head) && self.is_log_of(seat);
        if self.broken.is_some() || !self.control.eligible().iter().any(may) {
            return true;
        }
        let mut rack = self.clone();
        for _ in 0..ROUNDS {
            rack.hear(bounds, lives);
            if rack.serves_newest(lives) {
                return true;
            }
            rack.leave_out(bounds, lives);
        }
        false
    }

    fn serves_newest(&self, lives: impl Fn(u8) -> bool) -> bool {
        let newest = self.control.newest();
        let Some(primary) = newest.seats.first() else { return false };
        let head = self.head(primary.head);
        lives(primary.head)
            && head.role == Role::Serves
            && head.pair.mark == newest.mark
            && newest.seats.iter().all(|seat| lives(seat.head))
    }

    /// Everybody who lives asks, and everything that is under way between those who live arrives.
    fn hear(&mut self, bounds: &Bounds, lives: impl Fn(u8) -> bool) {
        for at in (0..bounds.heads).filter(|at| lives(*at)) {
            let boot = self.head(at).boot;
            self.ask(bounds, at, boot);
            let newest = self.control.newest();
            self.adopt(at, &newest);
        }
        for msg in self.net.clone() {
            let (Msg::Propose(Wish { by: whom, .. })
            | Msg::Verdict { to: whom, .. }
            | Msg::Assign { to: whom, .. }
            | Msg::Served { by: whom, .. }) = &msg;
            let repeated = !bounds.asks_once || !matches!(msg, Msg::Propose(_));
            if lives(*whom) && repeated {
                self.deliver(bounds, &msg, false);
            }
        }
        for at in (0..bounds.heads).filter(|at| lives(*at)) {
            if self.can_claim(at) {
                self.claim(at);
            }
            if self.can_reconcile(bounds, at) {
                self.reconcile(bounds, at);
            }
        }
    }

    /// The first member that lives and may lead proposes those that live.
    fn leave_out(&mut self, bounds: &Bounds, lives: impl Fn(u8) -> bool) {
        let newest = self.control.newest();
        let silent = newest.seats.iter().any(|seat| !lives(seat.head));
        let may = |seat: &&Seat| lives(seat.head) && self.head(seat.head).follows == Some(newest.mark);
        let Some(leader) = self.control.eligible().into_iter().find(|seat| may(&seat)) else { return };
        let others = newest.seats.iter().filter(|seat| seat.head != leader.head && lives(seat.head));
        let seats: Vec<Seat> = std::iter::once(leader).chain(others.copied()).collect();
        let head = self.head(leader.head);
        if !silent || head.wish.is_some() {
            return;
        }
        let (by, boot, nonce, expected) = (leader.head, head.boot, head.nonce + 1, newest.mark);
        let wish = Wish { by, boot, nonce, expected, seats, caught_up: false };
        self.propose(wish.clone());
        self.judge_wish(bounds, &wish, false);
    }
}
