//! Block commands of nodes on the false devices.

use super::{Happening, IN_FLIGHT_MAX, World};
use crate::host::Input;
use crate::tally::Role;
use palisade_protocol::wire::*;

impl World {
    pub(super) fn submit(&mut self, id: NodeId, cmd: BlockCmd) {
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        let index = usize::from(cmd.device.0);
        let Some(disk) = node.disks.get_mut(index) else {
            return self.violate(format!("node {id} has no device {index}"));
        };
        let (role, life) = (node.role, node.life);
        let due = disk.due(self.now, &mut self.disk_dice, self.odds.slow);
        let flight = disk.next_flight();
        let verdict = match role {
            Role::Sled => self.fence.submitted(id, flight, &cmd),
            _ => Ok(()),
        };
        if let Some(tape) = &mut self.tape {
            tape.submitted(self.now, id, index, flight, &cmd);
        }
        disk.submit(cmd);
        let in_flight = disk.in_flight();
        self.judge(verdict);
        self.tally.in_flight_max = self.tally.in_flight_max.max(in_flight as u64);
        if in_flight > IN_FLIGHT_MAX {
            self.violate(format!("Bounded: {in_flight} commands in flight at node {id}"));
        }
        self.at(due, Happening::DiskDone { node: id, life, disk: index, flight });
    }

    pub(super) fn disk_done(&mut self, id: NodeId, life: u64, disk: usize, flight: u64) {
        let node = self.node_mut(id);
        if node.life != life || !node.up() {
            return;
        }
        let Some(done) = node.disks[disk].finish(flight) else { return };
        let role = node.role;
        if let Some(tape) = &mut self.tape {
            tape.ended(self.now, id, disk, flight);
        }
        if role == Role::Sled {
            let verdict = self.fence.ended(id, flight);
            self.judge(verdict);
        }
        self.input(id, Input::Block(done));
    }
}
