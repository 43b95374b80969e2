//! The authority's part: heads register, grants become durable, assignments travel.

use super::{Happening, World};
use crate::grants::Decision;
use crate::host::Input;
use crate::links::AUTHORITY;
use palisade_control::authority::VolumeRecord;
use palisade_protocol::head::Solo;
use palisade_protocol::wire::*;

/// Members of a group without reserves.
const PAIR: u32 = 2;

impl World {
    /// The agent of a head asks for its numbers, and again every while, since answers may be lost.
    pub(super) fn register(&mut self, head: NodeId, life: u64) {
        let node = &self.nodes[&head];
        if node.life != life || !node.up() {
            return;
        }
        let reached = self.links.open(head, AUTHORITY);
        if let Some(log) = node.log.filter(|_| node.asleep.is_none() && reached) {
            let boot = node.boot;
            let travel = self.net_dice.range(50_000, 2_000_000);
            self.after(travel, Happening::Grant { head, boot, log });
        }
        self.after(100_000_000, Happening::Register { head, life });
    }

    /// The authority decides, one request at a time.
    pub(super) fn grant(&mut self, head: NodeId, boot: BootId, log: LogId) {
        if !self.authority_up {
            return;
        }
        if self.deciding.is_some() {
            return self.after(500_000, Happening::Grant { head, boot, log });
        }
        if self.scenario.replaces && self.grants.knows(head, boot) {
            return self.tell_all(head);
        }
        // Not at once: often the lone head is followed while it sleeps, often it is back in time.
        if self.scenario.solo == Solo::Sleds && !self.scenario.replaces && self.net_dice.chance(0.5) {
            let gone = |id: NodeId| !self.nodes[&id].up() || self.nodes[&id].asleep.is_some();
            if let Some(decision) = self.grants.follow_lone(gone) {
                self.store(decision);
                return self.after(500_000, Happening::Grant { head, boot, log });
            }
        }
        let out = |volume: &VolumeRecord| self.waits_for_lone(volume, head);
        match self.grants.boot(head, boot, log, out) {
            Ok(decision) => self.store(decision),
            Err(why) => self.tell(|| format!("authority refuses {head}: {why}")),
        }
    }

    pub(super) fn store(&mut self, decision: Decision) {
        self.deciding = Some(Box::new(decision));
        let nanos = self.disk_dice.range(100_000, 3_000_000);
        let life = self.authority_life;
        self.after(nanos, Happening::Stored { life });
    }

    /// Somebody wants the primary elsewhere (MA-16).
    pub(super) fn flip(&mut self, partition: PartitionId) {
        if !self.authority_up || self.deciding.is_some() {
            return;
        }
        if let Some(decision) = self.grants.flip(partition) {
            self.tally.flips += 1;
            self.tell(|| format!("authority flips partition {partition}"));
            self.store(decision);
        }
    }

    /// A head's proposal arrives; one that is lost on the way the head repeats. Somebody else's wish may have
    /// come first (MA-18).
    pub(super) fn propose(&mut self, from: NodeId, boot: BootId, wish: Proposal) {
        let lost = self.nodes[&from].lost_under == Some(boot);
        if !self.authority_up || lost || !self.links.open(from, AUTHORITY) {
            return;
        }
        if self.deciding.is_none() && self.net_dice.chance(self.odds.raced) {
            self.flip(wish.partition);
        }
        if self.deciding.is_some() {
            return self.after(500_000, Happening::Propose { from, boot, wish });
        }
        let decision = self.grants.propose(from, boot, &wish, self.now);
        self.note_grant(&wish, &decision);
        self.store(decision);
    }

    fn note_grant(&mut self, wish: &Proposal, decision: &Decision) {
        let granted = !decision.changes.assignments.is_empty();
        self.tally.joined += u64::from(granted && wish.why == Why::Joined);
        self.tally.stood_alone += u64::from(granted && wish.why == Why::Isolation);
    }

    /// Whether a decision makes another head primary without the leading one's agreement: that is a failover,
    /// once it serves.
    fn note_take_over(&mut self, decision: &Decision) {
        let Some((_, partition, _, ProposalOutcome::Granted(after))) = &decision.answer else { return };
        let before = self.grants.newest(*partition).and_then(|pair| pair.primary().copied());
        let left_out = before.is_some_and(|old| after.member(old.head).is_none());
        if left_out && after.primary().map(|new| new.head) != before.map(|old| old.head) {
            self.taken_over.insert((*partition, after.stamp.number));
        }
    }

    /// A primary tells that it serves: its group is complete. Its agent keeps that until control hears it.
    pub(super) fn served(&mut self, head: NodeId, stamp: Stamp) {
        let reached = self.links.open(head, AUTHORITY);
        if !self.authority_up || !reached || self.deciding.is_some() {
            return self.after(2_000_000, Happening::Served { head, stamp });
        }
        if let Some(decision) = self.grants.served(head, stamp) {
            self.store(decision);
            // Every report says it: should the authority die before it is durable, the next one hears it again.
            self.after(5_000_000, Happening::Served { head, stamp });
        }
    }

    /// The answer to a proposal leaves; it may be lost or late.
    fn answer_proposal(&mut self, to: NodeId, partition: PartitionId, nonce: u64, outcome: ProposalOutcome) {
        match &outcome {
            ProposalOutcome::Granted(_) => self.tally.granted += 1,
            ProposalOutcome::Declined { .. } => self.tally.declined += 1,
        }
        if self.net_dice.chance(0.3) {
            self.tally.outcomes_lost += 1;
            return;
        }
        let late = self.net_dice.chance(0.2);
        let travel = self.net_dice.range(50_000, if late { 400_000_000 } else { 3_000_000 });
        let life = self.nodes[&to].life;
        let input = Input::Outcome(partition, nonce, outcome);
        self.after(travel, Happening::Arrive { to, life, from: AUTHORITY, input });
    }

    /// The decision is durable: only now may it leave.
    pub(super) fn stored(&mut self, life: u64) {
        if life != self.authority_life {
            return;
        }
        let Some(decision) = self.deciding.take() else { return };
        self.note_take_over(&decision);
        self.grants.commit(&decision);
        self.grants.apply(&decision);
        if let Some(tape) = &mut self.tape {
            tape.stored(self.now, self.grants.clone());
        }
        let Decision { changes, answer } = *decision;
        if self.scenario.replaces {
            self.tell_changes(&changes);
        }
        if let Some((to, partition, nonce, outcome)) = answer {
            self.answer_proposal(to, partition, nonce, outcome);
        }
        for assignment in changes.assignments {
            self.note_assigned(&assignment);
            for member in &assignment.members {
                let to = member.head;
                let life = self.nodes[&to].life;
                let travel = self.net_dice.range(50_000, 3_000_000);
                let input = Input::Assign(assignment.clone());
                self.after(travel, Happening::Arrive { to, life, from: AUTHORITY, input });
            }
        }
    }

    /// An assignment leaves the authority.
    pub(super) fn note_assigned(&mut self, assignment: &Assignment) {
        let others = assignment.members.iter().skip(1).map(|member| member.head).collect();
        self.others.insert((assignment.stamp.partition, assignment.stamp.number), others);
        if assignment.salvage.is_some() {
            self.salvaged.insert((assignment.stamp.partition, assignment.stamp.number));
        }
        self.tell(|| format!("authority grants {assignment:?}"));
        let verdict = self.numbers.assigned(assignment);
        self.judge(verdict);
    }

    /// The authority dies or comes back. A decision under way became durable or did not; it is not told.
    pub(crate) fn set_authority(&mut self, up: bool) {
        if self.authority_up && !up {
            self.tally.authority_crashes += 1;
            self.authority_life += 1;
            if let Some(decision) = self.deciding.take()
                && self.disk_dice.chance(0.5)
            {
                self.grants.commit(&decision);
            }
            self.grants.restart();
            self.forget_care();
        }
        if self.authority_up != up {
            self.tell(|| format!("authority {}", if up { "is back" } else { "is away" }));
        }
        self.authority_up = up;
        if up {
            self.authority_gone = 0;
        }
    }

    /// One of the faults that keep the authority away has ended.
    pub(super) fn authority_back(&mut self) {
        self.authority_gone = self.authority_gone.saturating_sub(1);
        if self.authority_gone == 0 {
            self.set_authority(true);
        }
    }

    /// Whether the newest pair of a volume has everybody whom it is to have, all of them refilled, and its
    /// primary serves under it with the others at hand.
    pub(crate) fn whole(&self, volume: usize) -> bool {
        let (partition, primary) = (self.volumes[volume].partition, self.volumes[volume].primary);
        let Some(pair) = self.grants.newest(partition) else { return false };
        let full = pair.members.len() >= (PAIR + self.scenario.reserves) as usize;
        // Where roles stay, nobody asks whether members are refilled.
        let refilled = !self.scenario.moves || self.grants.served(primary, pair.stamp).is_none();
        let host = self.nodes[&primary].host.as_ref();
        full && refilled && host.and_then(|host| host.leads(partition)) == Some(pair.stamp)
    }
}
