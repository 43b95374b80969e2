//! Lives of nodes: they start, and die.

use crate::node::Doom;
use crate::tally::{Moment, Role};
use crate::world::{Happening, World};
use palisade_protocol::wire::*;

/// Clocks of boots differ by up to so many nanoseconds.
const CLOCKS_DIFFER: u64 = 1_000_000_000_000;

impl World {
    /// Begins a new life of a node, recovering from its devices alone.
    pub(crate) fn start(&mut self, id: NodeId) {
        let boot = BootId(self.dice.wide());
        let salt = self.dice.next();
        if self.waits_for_people(id) {
            return self.after(10_000_000, Happening::Start { node: id });
        }
        let told = self.scenario.replaces.then(|| self.admitted(id));
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        if node.up() || node.away {
            return;
        }
        node.life += 1;
        node.boot = boot;
        // Clocks start anywhere with a boot, and only rise after.
        node.offset = boot.0 as u64 % CLOCKS_DIFFER;
        node.paced_at = self.now;
        node.log = None;
        node.told = told;
        node.host = Some((self.builder)(node, &self.pool, salt));
        let life = node.life;
        self.tell(|| format!("{id} starts life {life}"));
        self.wake(id, 0);
        if self.scenario.replaces && self.nodes[&id].role == Role::Head {
            self.after(1_000_000, Happening::Report { head: id, life });
        }
    }

    /// Ends a node's life. What it had in its inbox and in flight is lost or half done.
    pub(crate) fn kill(&mut self, id: NodeId, power: bool, moment: Moment) {
        let mut dice = self.disk_dice.fork();
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        let Some(host) = node.host.take() else { return };
        let line = || format!("{id} DIES at {moment:?}{}", if power { ", power lost" } else { "" });
        self.diary.iter_mut().for_each(|diary| diary.line(self.now, line()));
        self.tally.counts.add(&host.counts());
        *self.tally.crashes.entry((node.role, moment)).or_default() += 1;
        let words = host.words().0;
        drop(host);
        node.inbox.clear();
        node.turn_at = None;
        node.doom = None;
        node.asleep = None;
        node.jump = 0;
        for disk in &mut node.disks {
            let toll = disk.crash(&mut dice, power);
            self.tally.torn_writes += toll.torn;
            if node.role == Role::Head {
                self.tally.counts.torn_records += toll.torn;
            }
            self.tally.lost_sectors += toll.lost;
        }
        let role = node.role;
        self.rot_the_end(id);
        self.fence.died(id);
        self.group.iter_mut().for_each(|group| group.died(id));
        if role == Role::Head {
            self.gone(id, &words);
            self.volumes.iter_mut().for_each(|volume| volume.head_died(id));
        }
    }

    /// Dies as planned, and comes back after a while.
    pub(super) fn die(&mut self, id: NodeId, doom: Doom) {
        self.kill(id, doom.power, doom.at);
        self.after(doom.away, Happening::Start { node: id });
    }
}
