//! What brings trouble to a running world: draws deaths, cuts, sick devices, rot and power cuts from the
//! odds of the scenario, and ends all of it when calm is wanted.

use crate::contents::{self, Seen};
use crate::disk::Health;
use crate::faults::Odds;
use crate::node::Doom;
use crate::tally::{Moment, Role};
use crate::world::{Happening, World};
use palisade_protocol::wire::limits::{BLOCK, SECTOR};
use palisade_protocol::wire::{NodeId, Time};
use std::time::Duration;

/// How often the odds are drawn.
const TICK_NS: u64 = 5_000_000;

impl World {
    /// Lets trouble begin.
    pub(crate) fn start_trouble(&mut self, odds: Odds) {
        self.odds = odds;
        self.calm_since = Time(u64::MAX);
        if odds.rot_per_s > 0.0 {
            let heads = self.nodes.values().filter(|node| node.role == Role::Head).map(|node| node.id);
            let heads: Vec<NodeId> = heads.collect();
            self.rotten_head = Some(*self.dice.pick(&heads));
        }
        self.send_away();
        self.after(TICK_NS, Happening::Trouble);
    }

    /// Stops the sleds that the scenario wants away; they come back with calm.
    fn send_away(&mut self) {
        let sleds = self.nodes.values().filter(|node| node.role == Role::Sled).map(|node| node.id);
        let away: Vec<NodeId> = sleds.take(self.scenario.away as usize).collect();
        for id in away {
            self.kill(id, true, Moment::Idle);
            self.node_mut(id).away = true;
        }
    }

    /// Ends all faults: links mend, devices heal, every node lives, fresh where its device was sick.
    pub(crate) fn calm(&mut self) {
        self.odds = Odds::CALM;
        self.calm_since = self.now;
        self.links.mend_all();
        self.set_authority(true);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let sick = self.nodes[&id].disks.iter().any(|disk| disk.health != Health::Good);
            self.node_mut(id).doom = None;
            self.awake(id);
            self.node_mut(id).away = false;
            if sick {
                self.kill(id, false, Moment::Idle);
            }
            self.start(id);
        }
    }

    /// A head that slept goes on.
    pub(crate) fn awake(&mut self, id: NodeId) {
        if self.node_mut(id).asleep.take().is_some() {
            self.wake(id, 0);
        }
    }

    pub(crate) fn trouble(&mut self) {
        if self.odds == Odds::CALM {
            return;
        }
        let odds = self.odds;
        let tick = TICK_NS as f64 / 1e9;
        if self.dice.chance(odds.crashes_per_s * tick) {
            self.plan_death();
        }
        if self.dice.chance(odds.crashes_per_s * tick * 0.2) {
            self.set_authority(false);
        } else if self.dice.chance(0.2) {
            self.set_authority(true);
        }
        if self.dice.chance(odds.cuts_per_s * tick) {
            self.cut_link();
        }
        if self.dice.chance(odds.sick_per_s * tick) {
            self.sicken();
        }
        if self.dice.chance(odds.rot_per_s * tick) {
            self.rot();
        }
        if self.dice.chance(odds.cuts_of_power_per_s * tick) {
            self.cut_power();
        }
        if odds.flips_per_s > 0.0 && self.dice.chance(odds.flips_per_s * tick) {
            let volume = self.dice.below(self.volumes.len() as u64) as usize;
            let partition = self.volumes[volume].partition;
            self.after(0, Happening::Flip { partition });
        }
        if odds.sleeps_per_s > 0.0 && self.dice.chance(odds.sleeps_per_s * tick) {
            self.put_to_sleep();
        }
        self.after(TICK_NS, Happening::Trouble);
    }

    /// Dooms one node at a kind of effect; of the sleds no more at a time than the code bears.
    fn plan_death(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let heads: Vec<NodeId> = ids.iter().copied().filter(|id| self.nodes[id].role == Role::Head).collect();
        let id = if self.dice.chance(0.5) { *self.dice.pick(&heads) } else { *self.dice.pick(&ids) };
        let at = *self.dice.pick(&Moment::ALL);
        let (left, after, power) = (self.dice.below(40), self.dice.chance(0.5), self.dice.chance(0.6));
        let sled = self.nodes[&id].role == Role::Sled;
        let down =
            self.nodes.values().filter(|n| n.role == Role::Sled && (!n.up() || n.doom.is_some())).count();
        let hurt = self.scenario.hurt;
        if sled && down as u32 + hurt >= u32::from(self.scenario.code.1) {
            return;
        }
        if at == Moment::Idle {
            if self.nodes[&id].up() {
                self.kill(id, power, Moment::Idle);
                let away = self.dice.range(1_000_000, 150_000_000);
                self.after(away, Happening::Start { node: id });
            }
            return;
        }
        self.node_mut(id).doom = Some(Doom { at, left, after, power });
    }

    /// A head stops, and wakes after a while with everything that reached it meanwhile.
    fn put_to_sleep(&mut self) {
        let heads = self.nodes.values().filter(|node| node.role == Role::Head && node.asleep.is_none());
        let heads: Vec<NodeId> = heads.filter(|node| node.up()).map(|node| node.id).collect();
        if heads.is_empty() {
            return;
        }
        let id = *self.dice.pick(&heads);
        let long = self.dice.chance(0.2);
        let nanos = self.dice.range(5_000_000, if long { 1_500_000_000 } else { 400_000_000 });
        self.tally.sleeps += 1;
        let until = self.now + Duration::from_nanos(nanos);
        self.node_mut(id).asleep = Some(until);
        self.after(nanos, Happening::Awake { node: id });
    }

    /// Cuts a link for a while, in one direction or both.
    fn cut_link(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let (from, to) = (*self.dice.pick(&ids), *self.dice.pick(&ids));
        if from == to {
            return;
        }
        let away = self.dice.range(2_000_000, 250_000_000);
        let both = self.dice.chance(0.6);
        for (from, to) in [(from, to), (to, from)].into_iter().take(if both { 2 } else { 1 }) {
            self.links.cut(from, to);
            self.after(away, Happening::Mend { from, to });
        }
    }

    /// Sleds that may be hurt for good, by the scenario's number.
    fn hurt_sleds(&self) -> Vec<NodeId> {
        let sleds = self.nodes.values().filter(|node| node.role == Role::Sled).map(|node| node.id);
        sleds.take(self.scenario.hurt as usize).collect()
    }

    /// A device of a hurt sled is slow, hangs or fails for a while.
    fn sicken(&mut self) {
        let hurt = self.hurt_sleds();
        if hurt.is_empty() {
            return;
        }
        let id = *self.dice.pick(&hurt);
        let health = match self.dice.below(4) {
            0 => Health::Failing,
            1 => Health::Hung,
            _ => Health::Slow(self.dice.range(5, 200) as u32),
        };
        let disk = self.dice.below(self.nodes[&id].disks.len() as u64) as usize;
        let away = self.dice.range(2_000_000, 400_000_000);
        self.node_mut(id).disks[disk].health = health;
        self.after(away, Happening::Heal { node: id, disk });
    }

    /// A bit flips: on a hurt sled anywhere, or in client data in the log of the head that may rot.
    fn rot(&mut self) {
        let hurt = self.hurt_sleds();
        let (id, head) = match self.rotten_head {
            Some(head) if self.dice.chance(0.4) || hurt.is_empty() => (head, true),
            _ if hurt.is_empty() => return,
            _ => (*self.dice.pick(&hurt), false),
        };
        let (draw, bit) = (self.dice.next(), self.dice.below(8) as u8);
        let Some(disk) = self.nodes[&id].disks.first() else { return };
        let blocks: Vec<u64> = disk.durable().touched().collect();
        if !blocks.is_empty() {
            self.rot_block(id, blocks[(draw % blocks.len() as u64) as usize], bit, head);
        }
    }

    /// At a crash rot takes some of what the head that may rot has written last: nothing tells that from a
    /// torn write (P-06).
    pub(crate) fn rot_the_end(&mut self, id: NodeId) {
        if self.rotten_head != Some(id) || self.odds == Odds::CALM || self.dice.chance(0.5) {
            return;
        }
        let Some(disk) = self.nodes[&id].disks.first() else { return };
        let newest: Vec<u64> = disk.newest().collect();
        for block in newest {
            if self.dice.chance(0.2) {
                let bit = self.dice.below(8) as u8;
                self.rot_block(id, block, bit, true);
            }
        }
    }

    /// Flips a bit of a block; with `client_data` only if it holds some.
    fn rot_block(&mut self, id: NodeId, block: u64, bit: u8, client_data: bool) {
        let within = self.dice.below(BLOCK as u64);
        let Some(disk) = self.node_mut(id).disks.first_mut() else { return };
        let mut sector = [0u8; SECTOR];
        disk.durable().read(block * BLOCK as u64, &mut sector);
        if !client_data || is_client_data(&sector) {
            disk.rot(block * BLOCK as u64 + within, bit);
        }
    }

    /// The whole rack loses power at once, and comes back.
    pub(crate) fn cut_power(&mut self) {
        self.tally.power_cuts += 1;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            self.kill(*id, true, Moment::Idle);
        }
        self.set_authority(false);
        for id in ids {
            let away = self.dice.range(1_000_000, 80_000_000);
            self.after(away, Happening::Start { node: id });
        }
    }
}

/// Whether a sector holds whole contents of some client's write, wherever it belongs.
fn is_client_data(sector: &[u8; SECTOR]) -> bool {
    let mut at = [0u8; 8];
    at.copy_from_slice(&sector[8..16]);
    matches!(contents::decode(sector, u64::from_le_bytes(at)), Seen::Write(_))
}
