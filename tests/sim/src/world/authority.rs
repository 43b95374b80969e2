//! The authority's part: heads register, grants become durable, assignments travel.

use super::{Happening, World};
use crate::grants::Decision;
use crate::host::Input;
use palisade_protocol::wire::*;

impl World {
    /// The agent of a head asks for its numbers, and again every while, since answers may be lost.
    pub(super) fn register(&mut self, head: NodeId, life: u64) {
        let node = &self.nodes[&head];
        if node.life != life || !node.up() {
            return;
        }
        if let Some(log) = node.log.filter(|_| node.asleep.is_none()) {
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
        match self.grants.boot(head, boot, log) {
            Ok(decision) => self.store(decision),
            Err(why) => {
                if self.trace {
                    println!("{:>12} authority refuses {head}: {why}", self.now.0);
                }
            }
        }
    }

    fn store(&mut self, decision: Decision) {
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
            self.store(decision);
        }
    }

    /// A head's proposal arrives; one that is lost on the way the head repeats. Somebody else's wish may have
    /// come first (MA-18).
    pub(super) fn propose(&mut self, from: NodeId, boot: BootId, wish: Proposal) {
        if !self.authority_up {
            return;
        }
        if self.deciding.is_none() && self.net_dice.chance(0.35) {
            self.flip(wish.partition);
        }
        if self.deciding.is_some() {
            return self.after(500_000, Happening::Propose { from, boot, wish });
        }
        self.store(self.grants.propose(from, boot, &wish, self.now));
    }

    /// A primary tells that it serves: its group is complete. Its agent keeps that until control hears it.
    pub(super) fn served(&mut self, head: NodeId, stamp: Stamp) {
        if !self.authority_up || self.deciding.is_some() {
            return self.after(2_000_000, Happening::Served { head, stamp });
        }
        if let Some(decision) = self.grants.served(head, stamp) {
            self.store(decision);
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
        self.after(travel, Happening::Arrive { to, life, from: to, input });
    }

    /// The decision is durable: only now may it leave.
    pub(super) fn stored(&mut self, life: u64) {
        if life != self.authority_life {
            return;
        }
        let Some(decision) = self.deciding.take() else { return };
        self.grants.commit(&decision);
        self.grants.apply(&decision);
        if let Some(tape) = &mut self.tape {
            tape.stored(self.now, self.grants.clone());
        }
        let Decision { changes, answer } = *decision;
        if let Some((to, partition, nonce, outcome)) = answer {
            self.answer_proposal(to, partition, nonce, outcome);
        }
        for assignment in changes.assignments {
            let others = assignment.members.iter().skip(1).map(|member| member.head).collect();
            self.others.insert((assignment.stamp.partition, assignment.stamp.number), others);
            let verdict = self.numbers.assigned(&assignment);
            self.judge(verdict);
            for member in &assignment.members {
                let to = member.head;
                let life = self.nodes[&to].life;
                let travel = self.net_dice.range(50_000, 3_000_000);
                let input = Input::Assign(assignment.clone());
                self.after(travel, Happening::Arrive { to, life, from: to, input });
            }
        }
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
        }
        self.authority_up = up;
    }
}
