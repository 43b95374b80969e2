//! Sleds that are drained before they are pulled (EF-23): what of them is left, and when they may go.

use std::collections::BTreeMap;

use palisade_protocol::wire::DeviceId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::core::Core;
use super::model::Role;
use super::rpc::RpcError;
use super::status::{Live, NodeStatus};
use crate::authority::{Authority, DeviceRecord, NodeRecord};
use crate::identity::Known;
use crate::report::{DeviceReport, PartitionReport};

/// A sled that is being drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SledDrained {
    /// The sled.
    pub sled: String,
    /// Columns that are still on it.
    pub columns: u64,
    /// Whether it may be pulled.
    pub safe_to_pull: bool,
    /// What it waits for.
    pub why: String,
}

impl Core {
    /// Takes a sled out of use: no new columns are placed on it, and those that are there move elsewhere.
    pub(super) fn drain_sled(&mut self, name: &str) -> Result<SledDrained, RpcError> {
        self.set_sled(name, true, "is being drained: its columns move elsewhere")?;
        let status = self.status();
        let node = status.nodes.into_iter().find(|node| node.name == name).unwrap_or_default();
        let (columns, safe_to_pull) = (node.columns_left, node.state == "drained");
        Ok(SledDrained { sled: name.to_owned(), columns, safe_to_pull, why: node.why })
    }

    /// Takes a sled into use again; what moved away comes back by and by, as new columns are placed.
    pub(super) fn resume_sled(&mut self, name: &str) -> Result<Value, RpcError> {
        self.set_sled(name, false, "is in use again")?;
        Ok(json!({ "resumed": name }))
    }

    fn set_sled(&mut self, name: &str, draining: bool, what: &str) -> Result<(), RpcError> {
        let changes = self.authority.drain_sled(name, draining);
        let changes = changes.map_err(|error| RpcError::not_found(error.to_string()))?;
        let fresh = !changes.records.is_empty();
        self.carry_out(&changes)?;
        if fresh {
            self.event(name, false, what.to_owned());
        }
        Ok(())
    }

    /// Tells when a sled that is being drained became empty.
    pub(super) fn tell_drained(&mut self) {
        let status = self.status();
        let drained = |node: &NodeStatus| node.role == "sled" && node.state == "drained";
        let names: Vec<String> = status.nodes.into_iter().filter(drained).map(|node| node.name).collect();
        for name in &names {
            if !self.drained.contains(name) {
                self.event(name, false, "is drained: it is safe to pull".to_owned());
            }
        }
        self.drained = names;
    }
}

/// Columns that are still on a sled: those that it has given out, and of a device that does not say so those
/// that heads know of. None: a head has not said yet that it leaves the sled, and may be placing a column.
pub(super) fn columns_left(
    authority: &Authority,
    live: &BTreeMap<u32, Live<'_>>,
    node: &NodeRecord,
) -> Option<u64> {
    let own = live.get(&node.node.0).filter(|live| !live.silent);
    let (mut left, mut sure) = (0, true);
    for device in authority.devices().filter(|device| device.node == node.node) {
        let Known::Active { id } = device.known else { continue };
        let held = held_on(authority, live, DeviceId(id.0));
        sure &= held.is_some();
        let said = own.and_then(|live| live.report.devices.iter().find(|report| report.name == device.name));
        let said = said.filter(|report| says_ok(report) || report.state.starts_with("full"));
        let given = said.map_or(0, |report| report.columns.saturating_sub(report.free));
        left += held.unwrap_or(0).max(given);
    }
    (sure || left > 0).then_some(left)
}

/// Columns that volumes have on a device, by the words of all primaries; none while one of them is away, or
/// does not know that the device is to be left.
fn held_on(authority: &Authority, live: &BTreeMap<u32, Live<'_>>, device: DeviceId) -> Option<u64> {
    let mut held = 0;
    for volume in authority.living() {
        let head = live.get(&volume.current_primary().0).filter(|live| !live.silent)?;
        let report = head.report.partitions.iter().find(|report| report.partition == volume.id)?;
        let known = report.devices.iter().find(|known| known.device == device);
        held += known.filter(|known| known.leave)?.held;
    }
    Some(held)
}

/// How far the draining of a sled is (EF-23).
pub(super) fn show(
    status: &mut NodeStatus,
    authority: &Authority,
    live: &BTreeMap<u32, Live<'_>>,
    node: &NodeRecord,
) {
    if !node.draining || node.role != Role::Sled {
        return;
    }
    let left = columns_left(authority, live, node);
    status.columns_left = left.unwrap_or(0);
    let resume = format!("`palisade sled resume {}` takes it into use again", node.name);
    match left {
        Some(0) => {
            status.state = "drained".to_owned();
            status.why = format!("safe to pull; {resume}");
        }
        Some(left) if status.state == "ready" => {
            let (others, wide) = room_elsewhere(authority, live);
            status.state = "draining".to_owned();
            status.why = if others < wide {
                format!(
                    "{left} columns stay: {wide} sleds are needed beside it and {others} are in use; add one, or {resume}"
                )
            } else {
                format!("{left} columns have to move before it is safe to pull")
            };
        }
        Some(left) => status.why = format!("{}; {left} columns were still there", status.why),
        None => status.why = "is to be drained; not every head has said yet that it leaves it".to_owned(),
    }
}

/// Sleds that may get columns, and the columns of the widest code.
fn room_elsewhere(authority: &Authority, live: &BTreeMap<u32, Live<'_>>) -> (usize, usize) {
    let there = |node: &&NodeRecord| {
        let up = live.get(&node.node.0).is_some_and(|live| !live.silent);
        node.role == Role::Sled && !node.draining && up
    };
    let wide = authority.living().map(|volume| usize::from(volume.k) + usize::from(volume.m)).max();
    (authority.nodes().filter(there).count(), wide.unwrap_or(0))
}

/// What heads think of a device at worst, and the columns that they have there.
pub(super) fn thought_of(live: &BTreeMap<u32, Live<'_>>, device: &DeviceRecord) -> (&'static str, u64) {
    let Known::Active { id } = device.known else { return ("good", 0) };
    let reports = live.values().filter(|live| !live.silent).flat_map(|live| &live.report.partitions);
    let serving = reports.filter(|report: &&PartitionReport| report.role == "serving");
    let of = serving.flat_map(|report| &report.devices).filter(|known| known.device.0 == id.0);
    let (mut worst, mut held) = ("good", 0);
    for known in of {
        held += known.held;
        worst = match (known.health.as_str(), worst) {
            ("failed", _) | (_, "failed") => "failed",
            ("suspect", _) | (_, "suspect") => "suspect",
            _ => "good",
        };
    }
    (worst, held)
}

/// Whether a device says of itself that it works.
pub(super) fn says_ok(report: &DeviceReport) -> bool {
    report.state == "ok"
}
