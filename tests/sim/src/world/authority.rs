//! The authority's part: heads register, grants become durable, assignments travel.

use super::{Happening, World};
use crate::grants::Grants;
use crate::host::Input;
use palisade_protocol::wire::*;
use std::time::Duration;

impl World {
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

    pub(super) fn grant(&mut self, head: NodeId, boot: BootId, log: LogId) {
        if !self.authority_up || self.nodes[&head].boot != boot {
            return;
        }
        let (grants, assignments) = self.grants.boot(head, boot, log);
        let nanos = self.disk_dice.range(100_000, 3_000_000);
        let life = self.authority_life;
        self.at(
            self.now + Duration::from_nanos(nanos),
            Happening::Store { life, grants: Box::new(grants), assignments },
        );
    }

    /// The grants are durable: only now may they leave. One made meanwhile wins; the agent asks again.
    pub(super) fn stored(&mut self, life: u64, grants: Grants, assignments: Vec<Assignment>) {
        if !self.authority_up || life != self.authority_life || grants.version() != self.grants.version() + 1
        {
            return;
        }
        self.grants = grants;
        if let Some(tape) = &mut self.tape {
            tape.stored(self.now, self.grants.clone());
        }
        for assignment in assignments {
            let verdict = self.numbers.assigned(&assignment);
            self.judge(verdict);
            for member in &assignment.members {
                let node = &self.nodes[&member.head];
                let (to, life) = (member.head, node.life);
                let travel = self.net_dice.range(50_000, 3_000_000);
                let input = Input::Assign(assignment.clone());
                self.after(travel, Happening::Arrive { to, life, from: to, input });
            }
        }
    }

    /// The authority dies or comes back; its store is durable, what it was about to store is lost.
    pub(crate) fn set_authority(&mut self, up: bool) {
        if self.authority_up && !up {
            self.tally.authority_crashes += 1;
            self.authority_life += 1;
        }
        self.authority_up = up;
    }
}
