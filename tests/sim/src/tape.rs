//! A tape of everything that reached the devices of a run, in order, so that a power cut can be played at
//! every point of it: the images are rebuilt from a prefix, what was unflushed or unfinished there lands
//! in part, and a fresh rack recovers from that.

use crate::dice::Dice;
use crate::disk::Disk;
use crate::grants::Grants;
use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// One moment of a device.
#[derive(Clone, Debug)]
enum Moment {
    Write { flight: u64, offset: u64, bytes: Vec<u8>, fua: bool },
    Flush { flight: u64 },
    Ended { flight: u64 },
}

/// The recorded past of all devices and of the authority's store.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    moments: Vec<(Time, NodeId, usize, Moment)>,
    grants: Vec<(Time, Grants)>,
    opened: BTreeMap<NodeId, Time>,
}

impl Tape {
    /// How many moments it holds; a prefix of any length up to it can be replayed.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// When the last moment of a prefix was.
    pub fn time(&self, prefix: usize) -> Time {
        prefix.checked_sub(1).map_or(Time::ZERO, |last| self.moments[last].0)
    }

    /// A command reaches a device. Reads change nothing and are left out.
    pub fn submitted(&mut self, now: Time, node: NodeId, disk: usize, flight: u64, cmd: &BlockCmd) {
        let moment = match &cmd.op {
            BlockOp::Read { .. } => return,
            BlockOp::Write { offset, bufs, fua } => {
                let bytes = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
                Moment::Write { flight, offset: *offset, bytes, fua: *fua }
            }
            BlockOp::Flush => Moment::Flush { flight },
        };
        self.moments.push((now, node, disk, moment));
    }

    /// A command ended.
    pub fn ended(&mut self, now: Time, node: NodeId, disk: usize, flight: u64) {
        self.moments.push((now, node, disk, Moment::Ended { flight }));
    }

    /// The authority's store changed.
    pub fn stored(&mut self, now: Time, grants: Grants) {
        self.grants.push((now, grants));
    }

    /// A head found its log whole.
    pub fn opened(&mut self, now: Time, head: NodeId) {
        self.opened.entry(head).or_insert(now);
    }

    /// Whether a head had found its log whole at the end of a prefix.
    pub fn is_opened(&self, prefix: usize, head: NodeId) -> bool {
        self.opened.get(&head).is_some_and(|when| *when <= self.time(prefix))
    }

    /// The authority's store at the end of a prefix.
    pub fn grants(&self, prefix: usize) -> Option<&Grants> {
        let moment = self.time(prefix);
        self.grants.iter().rev().find(|(when, _)| *when <= moment).map(|(_, grants)| grants)
    }

    /// Lets a prefix happen to devices in their first state, and then cuts the power.
    pub fn replay(&self, prefix: usize, disks: &mut BTreeMap<(NodeId, usize), Disk>, dice: &mut Dice) {
        let mut flights = BTreeMap::new();
        for (_, node, index, moment) in &self.moments[..prefix] {
            let disk = disks.get_mut(&(*node, *index)).expect("the tape names devices of its rack");
            let key = |flight: &u64| (*node, *index, *flight);
            match moment {
                Moment::Write { flight, offset, bytes, fua } => {
                    flights.insert(key(flight), disk.submit_bytes(*offset, bytes.clone(), *fua));
                }
                Moment::Flush { flight } => {
                    flights.insert(key(flight), disk.submit_flush());
                }
                Moment::Ended { flight } => {
                    if let Some(flight) = flights.remove(&key(flight)) {
                        disk.finish(flight);
                    }
                }
            }
        }
        for disk in disks.values_mut() {
            disk.crash(dice, true);
        }
    }
}
