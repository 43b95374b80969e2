//! Volumes whose store was put back from an older copy (P-04): every head is asked what it holds, people may say
//! that the store was put back, and go on without heads that are gone for good.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use palisade_protocol::wire::{NodeId, Number, PartitionId, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::core::Core;
use super::model::Command;
use super::moving::Moved;
use super::rpc::RpcError;
use crate::authority::{DoubtError, VolumeState};
use crate::config::StoreKind;
use crate::identity::Known;
use crate::report::{NodeReport, Report};
use crate::store::Mark;

/// Before a head that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long nothing is decided after an opening of the store while sleds have not shown their records. They show
/// that the store was put back when nothing else does, and are there within moments where they are there at all.
const LISTEN: Duration = Duration::from_secs(2);

/// What is asked of media after an opening of the store.
pub(super) struct Evidence {
    opened: Instant,
    /// Nodes that were asked, and when last.
    pub(super) asked: BTreeMap<u32, Instant>,
    /// Sleds that have shown their records.
    shown: BTreeSet<u32>,
}

impl Default for Evidence {
    fn default() -> Self {
        Self { opened: Instant::now(), asked: BTreeMap::new(), shown: BTreeSet::new() }
    }
}

/// People go on without heads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SettleParams {
    name: String,
    without: Vec<String>,
    /// They know that writes may be lost.
    #[serde(default)]
    accept_loss: bool,
}

impl Core {
    /// P-04: a store that granted less than the mark says is an older copy. So is, for all that is known, one whose
    /// data directory was copied or put back with it: then its mark is another file than the one that was written.
    pub(super) fn heed_mark(&mut self) -> Result<(), super::CoreError> {
        let Some(data) = self.mark_in.clone() else { return Ok(()) };
        let embedded = self.rack.control.store == StoreKind::Embedded;
        let meta = self.authority.meta();
        let changes = match Mark::read(&data) {
            Some((mark, _)) if mark.rack != meta.rack => return Ok(()),
            Some((mark, _)) if mark.grants > meta.grants || mark.epoch > meta.epoch => {
                self.authority.restored(mark.epoch, mark.grants)
            }
            Some((_, false)) if embedded => {
                self.authority.put_back("the data directory was copied or put back as a whole")
            }
            None if embedded && meta.grants > 0 => {
                self.authority.put_back("the mark of grants beside the store is gone or damaged")
            }
            _ => return Ok(()),
        };
        self.commit_at_opening(&changes)?;
        self.write_mark();
        Ok(())
    }

    /// People say that the store was put back from an older copy.
    pub(super) fn restored(&mut self) -> Result<Value, RpcError> {
        let changes = self.authority.put_back("people said that the store was put back");
        self.carry_out(&changes)?;
        self.ask_heads();
        let doubtful = self.authority.living().filter(|volume| volume.in_doubt()).count();
        Ok(json!({ "in_doubt": doubtful }))
    }

    /// People go on without heads that will not answer any more.
    pub(super) fn settle(&mut self, params: &SettleParams) -> Result<Moved, RpcError> {
        let SettleParams { name, without, accept_loss } = params;
        let changes =
            self.authority.go_on_without(name, without, *accept_loss).map_err(|error| match error {
                DoubtError::NoVolume(_) | DoubtError::NoHead(_) => RpcError::not_found(error.to_string()),
                _ => RpcError::refused(error.to_string()),
            })?;
        self.carry_out(&changes)?;
        self.moved(name)
    }

    /// Asks connected heads whose word is waited for what they hold, again and again.
    pub(super) fn ask_heads(&mut self) {
        let (now, ask) = (Instant::now(), self.authority.opening());
        let awaited = |head: &u32| self.authority.is_awaited(NodeId(*head));
        if !self.authority.living().any(|volume| volume.in_doubt()) {
            return self.evidence.asked.clear();
        }
        let heads: Vec<u32> = self.nodes.keys().copied().filter(awaited).collect();
        for head in heads {
            if self.evidence.asked.get(&head).is_some_and(|asked| now < *asked + ASK_AGAIN) {
                continue;
            }
            self.evidence.asked.insert(head, now);
            let node = NodeId(head);
            self.send(node, &Command::Tell { node, ask });
        }
    }

    /// Whether sleds that may be there have not shown their records yet: nobody is left out of a group before.
    pub(super) fn listens(&self) -> bool {
        if self.evidence.opened.elapsed() >= LISTEN {
            return false;
        }
        let mut devices = self.authority.devices().filter(|device| !device.log && device.trouble.is_empty());
        devices.any(|device| {
            let holds = matches!(device.known, Known::Active { .. });
            holds && !self.evidence.shown.contains(&device.node.0)
        })
    }

    /// A node is ready, or said what its media hold. What another opening of the store asked does not count: a
    /// grant of then may have been on its way.
    pub(super) fn take_evidence(&mut self, report: &Report) -> Result<(), RpcError> {
        let now = self.authority.opening();
        match report {
            Report::SledReady { node, .. } => {
                self.send(*node, &Command::Tell { node: *node, ask: now });
            }
            Report::Groups { node, boot, log, ask, groups } if *ask == now => {
                let changes = self.authority.heard(*node, *boot, *log, groups);
                self.carry_out(&changes)?;
            }
            Report::Records { node, ask, held } if *ask == now => {
                self.evidence.shown.insert(node.0);
                self.notice_records(*node, held)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// P-04: a sled has a record of a number, or of a grant of one, that the store never gave.
    fn notice_records(&mut self, sled: NodeId, held: &[Stamp]) -> Result<(), RpcError> {
        let forgotten = held.iter().find_map(|stamp| {
            let volume = self.authority.volume(stamp.partition)?;
            let living = volume.state != VolumeState::Deleted && !volume.in_doubt();
            let twice = stamp.number == volume.number() && stamp.grant.0 != volume.grant;
            (living && (stamp.number > volume.number() || twice)).then(|| (stamp.number, volume.name.clone()))
        });
        let Some((number, name)) = forgotten else { return Ok(()) };
        let sled = self.authority.name_of(sled);
        let why = format!(
            "{sled} has a record of number {number} of volume {name}, which this store never granted"
        );
        let changes = self.authority.put_back(&why);
        self.carry_out(&changes)?;
        self.ask_heads();
        Ok(())
    }

    /// P-04: a head that serves under a number which the store never granted shows that the store was put back
    /// while it ran.
    pub(super) fn notice_numbers(&mut self, report: &NodeReport) -> Result<(), RpcError> {
        let forgotten = report.partitions.iter().find_map(|said| {
            let volume = self.authority.volume(PartitionId(said.partition))?;
            let volume = Some(volume).filter(|volume| volume.state != VolumeState::Deleted)?;
            let number = Number { epoch: said.epoch, counter: said.counter };
            (number > volume.number() && !volume.in_doubt()).then(|| (number, volume.name.clone()))
        });
        let Some((number, name)) = forgotten else { return Ok(()) };
        let head = &report.name;
        let why = format!("{head} has number {number} of volume {name}, which this store never granted");
        let changes = self.authority.put_back(&why);
        self.carry_out(&changes)
    }
}
