//! What people and control do by themselves: switch-overs, drains, choices, members left out, salvages, and the
//! store: its deaths, copies, and what comes of one that is put back (P-04).

use super::control::{Asked, VOLUME, boot_of, log_of, member_of, name_of, node_of, stamp_of};
use super::{Bounds, Msg, Pair, Rack, Seat};
use palisade_control::authority::{Chosen, MemberRecord};
use palisade_protocol::wire::{Assignment, Number};
use std::sync::Arc;

impl Rack {
    pub(super) fn switch_over(&mut self, bounds: &Bounds) {
        let Ok(changes) = self.control.authority.switch_over("vol", "asked for") else { return };
        self.spent.switches += 1;
        self.decided(bounds, &changes, Asked::Nobody);
        let to = self.control.newest().seats.first().map(|seat| seat.head);
        assert!(to.is_some_and(|to| !self.control.is_drained(to)), "EF-28: moved to a head that is drained");
    }

    /// A head is drained, or used again.
    pub(super) fn drain(&mut self, bounds: &Bounds, head: u8) {
        let draining = !self.control.is_drained(head);
        let changes = self.control.authority.set_draining(&name_of(head), draining).expect("a head");
        self.spent.drains += 1;
        let before = self.control.newest();
        self.decided(bounds, &changes, Asked::Nobody);
        assert_eq!(self.control.newest(), before, "EF-28: roles stay where they are");
    }

    pub(super) fn crash(&mut self, bounds: &Bounds) {
        self.spent.crashes += 1;
        self.control.open(bounds);
    }

    pub(super) fn copy_store(&mut self) {
        self.control.copy = Some(Arc::clone(&self.control.store));
    }

    /// The copy takes the store's place; the mark, if it survives, tells how much is forgotten.
    pub(super) fn restore(&mut self, bounds: &Bounds) {
        let Some(copy) = self.control.copy.take() else { return };
        let (epoch, grants) = (self.control.authority.meta().epoch, self.control.authority.meta().grants);
        self.spent.restores += 1;
        self.control.store = copy;
        self.control.open(bounds);
        let ours = self.control.authority.meta();
        if bounds.mark_kept && (epoch, grants) > (ours.epoch, ours.grants) {
            let changes = self.control.authority.restored(epoch, grants);
            self.control.commit(&changes);
        }
    }

    /// A head says what it holds. What control said before it was put back, it heard first.
    pub(super) fn tell(&mut self, bounds: &Bounds, at: u8) {
        let epoch = self.control.authority.meta().epoch;
        if !bounds.told_early {
            self.net.retain(|msg| match msg {
                Msg::Assign { to, pair } | Msg::Verdict { to, pair, .. } => {
                    *to != at || pair.mark.epoch >= epoch
                }
                Msg::Propose(_) | Msg::Served { .. } => true,
            });
        }
        let head = self.head(at);
        let (boot, log) = (boot_of(at, head.boot), log_of(at, head.log));
        // A pair that it is no member of it only heard of.
        let groups: Vec<Assignment> =
            std::iter::once(&head.pair).filter(|pair| pair.seat(at).is_some()).map(assignment_of).collect();
        let doubted = self.control.doubts();
        let changes = self.control.authority.heard(node_of(at), boot, log, &groups);
        self.decided(bounds, &changes, Asked::Control);
        self.settled |= doubted && !self.control.doubts();
    }

    /// The lone head is not there, as far as control sees; who was a full member takes over from its copies.
    pub(super) fn salvage(&mut self, bounds: &Bounds) {
        let living = |heir: &MemberRecord| {
            let seat = Seat { head: (heir.head.0 - 1) as u8, ..Seat::default() };
            heir.log == log_of(seat.head, self.head(seat.head).log)
        };
        let Ok(changes) = self.control.authority.salvage("vol", "it is gone", living) else { return };
        self.spent.salvages += 1;
        self.decided(bounds, &changes, Asked::Control);
    }

    /// Control leaves a member out.
    pub(super) fn leaves_out(&mut self, bounds: &Bounds, at: u8) {
        let left = self.control.authority.leave_out(VOLUME, node_of(at), false, "it is away");
        let Some(changes) = left.ok().filter(|changes| !changes.records.is_empty()) else { return };
        self.spent.leave_outs += 1;
        self.decided(bounds, &changes, Asked::Control);
    }

    /// Control chooses a head to become a member; the last one of the group leaves then.
    pub(super) fn choose(&mut self, bounds: &Bounds, at: u8) {
        let seats = self.control.newest().seats;
        let leaving = seats.iter().skip(1).next_back().map(|seat| node_of(seat.head));
        let chosen = Chosen { head: node_of(at), leaving, why: "one is away".to_owned(), by_hand: false };
        let Ok(changes) = self.control.authority.replace(VOLUME, chosen, 0) else { return };
        self.spent.choices += 1;
        self.decided(bounds, &changes, Asked::Nobody);
    }
}

fn assignment_of(pair: &Pair) -> Assignment {
    let salvage = pair.salvage.then_some(Number::ZERO);
    let members = pair.seats.iter().map(member_of).collect();
    Assignment { copies: pair.copies, salvage, ..Assignment::plain(stamp_of(pair.mark), members) }
}
