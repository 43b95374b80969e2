//! The authority's part: heads register, grants become durable, assignments travel.

use super::{Happening, World};
use crate::host::Input;
use palisade_protocol::wire::*;

impl World {
    /// The agent of a head asks for its numbers, and again every while, since answers may be lost.
    pub(super) fn register(&mut self, head: NodeId, life: u64) {
        let node = &self.nodes[&head];
        if node.life != life || !node.up() {
            return;
        }
        if let Some(log) = node.log {
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
            Ok(changes) => {
                self.deciding = Some(Box::new(changes));
                let nanos = self.disk_dice.range(100_000, 3_000_000);
                let life = self.authority_life;
                self.after(nanos, Happening::Stored { life });
            }
            Err(why) => {
                if self.trace {
                    println!("{:>12} authority refuses {head}: {why}", self.now.0);
                }
            }
        }
    }

    /// The decision is durable: only now may it leave.
    pub(super) fn stored(&mut self, life: u64) {
        if life != self.authority_life {
            return;
        }
        let Some(changes) = self.deciding.take() else { return };
        self.grants.commit(&changes);
        self.grants.apply(&changes);
        if let Some(tape) = &mut self.tape {
            tape.stored(self.now, self.grants.clone());
        }
        for assignment in changes.assignments {
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
            if let Some(changes) = self.deciding.take()
                && self.disk_dice.chance(0.5)
            {
                self.grants.commit(&changes);
            }
            self.grants.restart();
        }
        self.authority_up = up;
    }
}
