//! What heads say of themselves: recovered, serving, wishing another group.

use super::{Happening, World};
use crate::host::Input;
use crate::links::AUTHORITY;
use palisade_protocol::wire::*;

impl World {
    pub(super) fn event(&mut self, id: NodeId, event: Event) {
        match event {
            Event::Recovered { log } => {
                let node = self.node_mut(id);
                node.log = Some(log);
                node.formatted = true;
                let life = node.life;
                if let Some(tape) = &mut self.tape {
                    tape.opened(self.now, id);
                }
                self.after(10_000, Happening::Register { head: id, life });
            }
            Event::Serving { stamp } => {
                if self.scenario.moves {
                    let travel = self.net_dice.range(50_000, 2_000_000);
                    self.after(travel, Happening::Served { head: id, stamp });
                }
                self.serves(id, stamp);
            }
            // One in five is lost on the way.
            Event::Propose(wish) if !self.net_dice.chance(0.2) && self.links.open(id, AUTHORITY) => {
                let travel = self.net_dice.range(50_000, 2_000_000);
                let boot = self.nodes[&id].boot;
                self.after(travel, Happening::Propose { from: id, boot, wish });
            }
            Event::Forgotten { partition } if self.scenario.replaces => {
                let travel = self.net_dice.range(50_000, 2_000_000);
                self.after(travel, Happening::Forgotten { head: id, partition });
            }
            Event::DataLost { partition, extent } if !self.troubled => {
                self.violate(format!(
                    "extent {extent} of partition {partition} is lost, within what the code bears"
                ));
            }
            _ => {}
        }
    }

    /// A head serves a partition: clients go there, unless a newer number serves already.
    fn serves(&mut self, id: NodeId, stamp: Stamp) {
        let boot = self.nodes[&id].boot;
        let verdict = self.numbers.serving(id, boot, stamp, self.scenario.moves);
        let newest = match verdict {
            Ok(newest) => newest,
            Err(what) => return self.violate(what),
        };
        let others = self.others.get(&(stamp.partition, stamp.number)).cloned().unwrap_or_default();
        let alone = others.is_empty();
        self.group.iter_mut().for_each(|group| group.serves(id, stamp, others.clone()));
        let now = self.now;
        let Some(index) = self.volumes.iter().position(|volume| volume.partition == stamp.partition) else {
            return;
        };
        let volume = &mut self.volumes[index];
        if !newest {
            return;
        }
        self.tally.alone += u64::from(alone);
        self.tally.salvages += u64::from(self.salvaged.contains(&(stamp.partition, stamp.number)));
        self.tally.moves += u64::from(volume.primary != id);
        let before = std::mem::replace(&mut volume.primary, id);
        volume.head_serves(now);
        // The first service after a take-over, if only under a later number, ends the failover.
        let waiting = self.taken_over.len();
        self.taken_over.retain(|(of, number)| *of != stamp.partition || *number > stamp.number);
        let over = self.taken_over.len() < waiting;
        self.tally.failovers += u64::from(over && before != id);
        self.clients_move(index, before);
        let asked = self.volumes[index].ask_recent(&mut self.ids, now);
        asked.into_iter().for_each(|cmd| self.input(id, Input::Client(cmd)));
    }
}
