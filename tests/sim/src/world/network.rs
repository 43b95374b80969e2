//! Messages and datagrams between nodes, and the fence checks at the sleds' doors.

use super::{Happening, World};
use crate::host::Input;
use crate::links::Fate;
use crate::tally::Role;
use palisade_protocol::wire::*;

/// A datagram of more bytes than this carries contents.
const CONTENTS_MIN: usize = 160;

impl World {
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, msg: Msg) {
        let checked = match self.nodes[&from].role {
            Role::Sled => self.fence.grant(from, &msg),
            _ => Ok(None),
        };
        match checked {
            Ok(Some((device, stamp))) => self.check_record(from, device, stamp),
            Ok(None) => {}
            Err(what) => self.violate(what),
        }
        if let (Some(group), Role::Head) = (&mut self.group, self.nodes[&from].role) {
            let verdict = group.message_out(from, to, &msg, self.now);
            self.judge(verdict);
        }
        let boot = self.nodes[&from].boot;
        for when in self.deliveries(from, to) {
            let input = Input::Msg { from, boot, msg: msg.clone() };
            self.deliver(from, to, when, input);
        }
    }

    pub(super) fn send_datagram(&mut self, from: NodeId, to: NodeId, path: u8, bytes: Vec<u8>) {
        for when in self.deliveries(from, to) {
            if self.net_dice.chance(self.odds.lost) {
                continue;
            }
            let late = match self.links.fate(from, to, path, self.now, &mut self.net_dice) {
                Fate::Late(late) => late,
                Fate::Lost => {
                    self.tally.swallowed += 1;
                    continue;
                }
            };
            // Keep-alives and acknowledgements are shorter than anything with contents.
            if bytes.len() > CONTENTS_MIN && self.links.carries_around(from, to, path) {
                self.tally.carried_around += 1;
            }
            let mut bytes = bytes.clone();
            if self.net_dice.chance(self.odds.damaged) && !bytes.is_empty() {
                let at = self.net_dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.net_dice.below(8);
            }
            self.deliver(from, to, when + late, Input::Datagram { from, path, bytes });
        }
    }

    pub(super) fn deliveries(&mut self, from: NodeId, to: NodeId) -> Vec<Time> {
        if !self.nodes.contains_key(&to) {
            self.violate(format!("node {from} sends to {to}, which does not exist"));
            return Vec::new();
        }
        if !self.links.open(from, to) || !self.nodes[&to].up() {
            return Vec::new();
        }
        self.links.arrivals(self.now, &mut self.net_dice, &self.odds).to_vec()
    }

    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, when: Time, input: Input) {
        let life = self.nodes[&to].life;
        self.at(when, Happening::Arrive { to, life, from, input });
    }

    /// A message of an old boot of its sender is dropped once a newer boot was heard (the fabric's
    /// sessions do this).
    pub(super) fn arrive(&mut self, to: NodeId, life: u64, from: NodeId, input: Input) {
        if self.nodes[&to].life != life || !self.links.open(from, to) {
            return;
        }
        if let Input::Msg { boot, .. } = &input {
            let sender = &self.nodes[&from];
            let age = if sender.boot == *boot { sender.life } else { sender.life - 1 };
            let newest = self.newest_boot.entry((to, from)).or_default();
            if age < *newest {
                return;
            }
            *newest = age;
        }
        self.input(to, input);
    }

    pub(super) fn check_record(&mut self, sled: NodeId, device: DeviceId, stamp: Stamp) {
        self.tally.checked_grants += 1;
        let verdict = match (self.probe)(&self.nodes[&sled], device, stamp.partition) {
            Ok(number) if number >= stamp.number => Ok(()),
            Ok(number) => Err(format!("the durable record says {number}")),
            Err(why) => Err(why),
        };
        self.judge(verdict.map_err(|why| {
            format!(
                "FenceIsDurable: device {device} grants {} of partition {}, but {why}",
                stamp.number, stamp.partition
            )
        }));
    }
}
