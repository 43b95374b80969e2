//! Carries faults out.

use crate::contents::{self, Seen};
use crate::dice::Dice;
use crate::disk::Health;
use crate::fault::Fault;
use crate::node::Doom;
use crate::tally::{Moment, Role};
use crate::world::{Happening, World};
use palisade_protocol::wire::NodeId;
use palisade_protocol::wire::limits::{BLOCK, SECTOR};
use std::time::Duration;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Doom { node, at, left, after, power, away } => {
                if self.may_die(node) {
                    self.node_mut(node).doom = Some(Doom { at, left, after, power, away });
                }
            }
            Fault::Kill { node, power, away } => {
                if self.may_die(node) && self.nodes[&node].up() {
                    self.kill(node, power, Moment::Idle);
                    self.after(away, Happening::Start { node });
                }
            }
            Fault::Authority { away } => {
                self.set_authority(false);
                self.authority_gone += 1;
                self.after(away, Happening::AuthorityBack);
            }
            Fault::Cut { from, to, both, lasting } => {
                for (from, to) in [(from, to), (to, from)].into_iter().take(if both { 2 } else { 1 }) {
                    self.links.cut(from, to);
                    self.after(lasting, Happening::Mend { from, to });
                }
            }
            Fault::Isolate { node, lasting } => {
                self.tally.isolations += 1;
                self.links.isolate(node);
                self.after(lasting, Happening::Rejoin { node });
            }
            Fault::Path { from, to, path, how, lasting } => {
                self.tally.bad_networks += 1;
                self.links.spoil(from, to, path, how, self.now);
                self.after(lasting, Happening::Restore { from, to, path });
            }
            Fault::Sick { node, disk, health, lasting } => {
                self.node_mut(node).disks[disk].health = health;
                self.after(lasting, Happening::Heal { node, disk });
            }
            Fault::Rot { node, draw, within, bit, client_data } => {
                self.rot(node, draw, within, bit, client_data);
            }
            Fault::Power { salt } => self.cut_power(salt),
            Fault::Flip { partition } => self.after(0, Happening::Flip { partition }),
            Fault::Sleep { node, lasting, jump } => self.put_to_sleep(node, lasting, jump),
            Fault::LostLog { node, away } => self.lose_log(node, away),
            Fault::Mark { node, all, lasting } => self.mark(node, all, lasting),
            Fault::Jump { node, ahead } => {
                self.tally.clocks += 1;
                self.node_mut(node).offset += ahead;
                self.wake(node, 0);
            }
            Fault::Pace { node, percent, lasting } => {
                self.tally.clocks += 1;
                self.set_pace(node, percent);
                self.after(lasting, Happening::Repace { node });
            }
            Fault::Pause { lasting, jump } => {
                self.tally.clocks += 1;
                let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
                ids.into_iter().for_each(|node| self.put_to_sleep(node, lasting, jump));
            }
        }
    }

    /// Of the sleds no more may be down at a time than the code bears.
    fn may_die(&self, id: NodeId) -> bool {
        let down =
            self.nodes.values().filter(|n| n.role == Role::Sled && (!n.up() || n.doom.is_some())).count();
        self.nodes[&id].role != Role::Sled
            || (down as u32 + self.scenario.hurt) < u32::from(self.scenario.code.1)
    }

    /// A node stops, and wakes after a while with everything that reached it meanwhile.
    fn put_to_sleep(&mut self, node: NodeId, lasting: u64, jump: u64) {
        if !self.nodes[&node].up() || self.nodes[&node].asleep.is_some() {
            return;
        }
        self.tally.sleeps += 1;
        self.tally.jumps += u64::from(jump > 0);
        let until = self.now + Duration::from_nanos(lasting);
        let slept = self.node_mut(node);
        slept.asleep = Some(until);
        slept.jump = jump;
        self.after(lasting, Happening::Awake { node });
    }

    /// A node that slept goes on; its clock may have jumped ahead.
    pub(crate) fn awake(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if node.asleep.take().is_some() {
            node.offset += std::mem::take(&mut node.jump);
            self.wake(id, 0);
        }
    }

    /// A node's clock goes at another pace from now on.
    pub(super) fn set_pace(&mut self, node: NodeId, percent: i8) {
        let now = self.now;
        let paced = self.node_mut(node);
        if paced.pace != percent {
            paced.set_pace(percent, now);
            self.wake(node, 0);
        }
    }

    fn rot(&mut self, node: NodeId, draw: u64, within: u64, bit: u8, client_data: bool) {
        let Some(disk) = self.nodes[&node].disks.first() else { return };
        let blocks: Vec<u64> = disk.durable().touched().collect();
        if !blocks.is_empty() {
            let block = blocks[(draw % blocks.len() as u64) as usize];
            self.rot_block(node, block, within, bit, client_data);
        }
    }

    /// At a crash rot takes some of what the head that may rot has written last: nothing tells that from a
    /// torn write (P-06).
    pub(super) fn rot_the_end(&mut self, id: NodeId) {
        if self.rotten_head != Some(id) || !self.troubled || self.dice.chance(0.5) {
            return;
        }
        let Some(disk) = self.nodes[&id].disks.first() else { return };
        let newest: Vec<u64> = disk.newest().collect();
        for block in newest {
            if self.dice.chance(0.2) {
                let (within, bit) = (self.dice.below(BLOCK as u64), self.dice.below(8) as u8);
                self.rot_block(id, block, within, bit, true);
            }
        }
    }

    /// Flips a bit of a block; with `client_data` only if it holds some.
    fn rot_block(&mut self, id: NodeId, block: u64, within: u64, bit: u8, client_data: bool) {
        let Some(disk) = self.node_mut(id).disks.first_mut() else { return };
        let mut sector = [0u8; SECTOR];
        disk.durable().read(block * BLOCK as u64, &mut sector);
        if !client_data || is_client_data(&sector) {
            disk.rot(block * BLOCK as u64 + within, bit);
        }
    }

    /// The whole rack loses power at once, and comes back.
    pub(crate) fn cut_power(&mut self, salt: u64) {
        self.tally.power_cuts += 1;
        let mut dice = Dice::new(salt);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            self.kill(*id, true, Moment::Idle);
        }
        self.set_authority(false);
        self.authority_gone += 1;
        self.after(dice.range(5_000_000, 50_000_000), Happening::AuthorityBack);
        for id in ids {
            let away = dice.range(1_000_000, 80_000_000);
            self.after(away, Happening::Start { node: id });
        }
    }

    /// A device recovers; what hung in it ends now.
    pub(super) fn heal(&mut self, id: NodeId, disk: usize) {
        let node = self.node_mut(id);
        let failed = node.disks[disk].health == Health::Failing;
        node.disks[disk].health = Health::Good;
        let life = node.life;
        if failed {
            // A device that answered with errors is trusted again only by a fresh start of its sled.
            self.kill(id, false, Moment::Idle);
            self.after(1_000_000, Happening::Start { node: id });
            return;
        }
        let node = self.node_mut(id);
        let hung: Vec<u64> = node.disks[disk].flights().collect();
        for flight in hung {
            let nanos = self.disk_dice.range(1_000, 200_000);
            self.after(nanos, Happening::DiskDone { node: id, life, disk, flight });
        }
    }
}

/// Whether a sector holds whole contents of some client's write, wherever it belongs.
fn is_client_data(sector: &[u8; SECTOR]) -> bool {
    let mut at = [0u8; 8];
    at.copy_from_slice(&sector[8..16]);
    matches!(contents::decode(sector, u64::from_le_bytes(at)), Seen::Write(_))
}
