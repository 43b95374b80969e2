//! Nodes that give their place to another binary, and how long requests wait while roles move (issue 3 item 13).
//!
//! A pause is measured by what heads say: it begins when the old primary stops to serve, when a primary is told
//! another number, or when a member's process goes away, whichever comes first, and ends when the volume is
//! served under its newest number. It is an upper bound of what a client sees of the rack: reads may go on
//! within it. Times are those of the hosts' clocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palisade_protocol::wire::{NodeId, PartitionId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::core::Core;
use super::methods::Promise;
use super::model::Command;
use super::rpc::RpcError;
use super::status::ControlStatus;
use crate::release;
use crate::report::RoleStep;

/// How the control plane is named where nodes are. No node may have the name: it says what nobody else does.
pub(super) const CONTROL: &str = "control";
/// How long a node may look at the binary.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node runs as, as it says at its registration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Program {
    pub(super) version: String,
    pub(super) binary: String,
    /// Somebody starts it again when it ends.
    supervised: bool,
}

/// Since when requests of volumes wait, in microseconds since 1970, and why.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    since: BTreeMap<PartitionId, (u64, String)>,
    /// Who said last that it serves: whoever else stops costs nobody anything.
    serves: BTreeMap<PartitionId, NodeId>,
}

impl Pauses {
    fn begin(&mut self, partition: PartitionId, at_us: u64, why: &str) {
        let known = self.since.get(&partition);
        if known.is_none_or(|(since, _)| at_us < *since) {
            self.since.insert(partition, (at_us, why.to_owned()));
        }
    }

    /// A head stops to serve.
    fn stopped(&mut self, partition: PartitionId, node: NodeId, at_us: u64, why: &str) {
        if self.serves.get(&partition).is_none_or(|serves| *serves == node) {
            self.begin(partition, at_us, why);
        }
    }

    /// How long it was and why; none when nothing is known to have waited, or the clocks do not agree.
    fn end(&mut self, partition: PartitionId, at_us: u64) -> Option<(u64, String)> {
        let (since, why) = self.since.remove(&partition)?;
        Some((at_us.checked_sub(since)?, why))
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// What this control plane runs as.
pub(super) fn show_program(control: &mut ControlStatus) {
    static BEGAN: OnceLock<u64> = OnceLock::new();
    control.began_ms = *BEGAN.get_or_init(|| now_us() / 1000);
    control.version = env!("CARGO_PKG_VERSION").to_owned();
    control.binary = release::own_binary();
}

impl Core {
    /// Whether this control plane can give its place to another binary: one that has nodes within itself cannot.
    pub(super) fn can_succeed(&self, binary: &str) -> Result<(), RpcError> {
        if !Path::new(binary).is_absolute() {
            return Err(RpcError::refused(format!("`{binary}` is no absolute path")));
        }
        let own = std::process::id();
        let within = self.nodes.values().filter(|node| node.pid == own).count();
        if within > 0 {
            return Err(RpcError::refused(format!(
                "control shares its process with {within} nodes, which would end with it: stop the rack and start it \
                 with `{binary} up --processes`"
            )));
        }
        Ok(())
    }

    /// Gives the place of this control plane to another binary, soon.
    pub(super) fn succeed(&mut self, binary: &str) -> Result<Value, RpcError> {
        self.can_succeed(binary)?;
        release::examine(Path::new(binary)).map_err(RpcError::refused)?;
        self.event("control", false, format!("is to go on as {binary}"));
        self.successor = Some(PathBuf::from(binary));
        Ok(json!({ "upgrading": CONTROL }))
    }

    /// What is to take this process's place, told once.
    pub(crate) fn take_successor(&mut self) -> Option<PathBuf> {
        self.successor.take()
    }

    /// Whether a node can give its place to another binary; says which node it is.
    pub(super) fn upgradable(&self, name: &str, binary: &str) -> Result<NodeId, RpcError> {
        if !Path::new(binary).is_absolute() {
            return Err(RpcError::refused(format!("`{binary}` is no absolute path")));
        }
        let node = self.authority.node_by_name(name).map(|record| record.node);
        let node = node.ok_or_else(|| {
            RpcError::not_found(format!("there is no node `{name}`; `palisade status` shows them"))
        })?;
        let Some(connected) = self.nodes.get(&node.0) else {
            return Err(RpcError::refused(format!("{name} is away: start it as the new binary")));
        };
        let others = self.nodes.values().filter(|other| other.link == connected.link).count() - 1;
        if others > 0 {
            return Err(RpcError::refused(format!(
                "{name} shares its process with {others} other nodes, which cannot be left running: stop the rack \
                 and start it with `{binary} up --processes`, then each node can be upgraded alone"
            )));
        }
        if !connected.program.supervised {
            return Err(RpcError::refused(format!(
                "nobody would start {name} again: it was started by hand as process {}; drain it, stop it and start \
                 it with `{binary} node`, or bring the rack up with `palisade up --processes`",
                connected.pid
            )));
        }
        Ok(node)
    }

    /// Asks a node to give its place to another binary. It looks at the binary itself before it goes.
    pub(super) fn upgrade(&mut self, name: &str, binary: String) -> Result<Promise, RpcError> {
        let node = self.upgradable(name, &binary)?;
        let tag = self.next_tag;
        self.next_tag += 1;
        let (sender, answer) = sync_channel(1);
        self.promises.insert(tag, sender);
        if !self.send(node, &Command::Upgrade { node, binary: binary.clone(), tag }) {
            self.promises.remove(&tag);
            return Err(RpcError::refused(format!("{name} is away")));
        }
        self.event(name, false, format!("is to go on as {binary}"));
        Ok(Promise {
            tag,
            answer,
            patience: PATIENCE,
            good: json!({ "upgrading": name }),
            late: "the node did not answer in time; see `palisade status` and its messages",
        })
    }

    /// A head stops or goes on to serve.
    pub(super) fn role_step(&mut self, node: NodeId, partition: PartitionId, step: RoleStep, at_us: u64) {
        let Some(volume) = self.authority.volume(partition) else { return };
        match step {
            RoleStep::Stopped => {
                let why = format!("it moved away from {}", self.authority.name_of(node));
                self.pauses.stopped(partition, node, at_us, &why);
            }
            RoleStep::Assigned => self.pauses.begin(partition, at_us, "its group changed"),
            // A late word of a head that was followed meanwhile ends nothing.
            RoleStep::Serving if volume.current_primary() != node => {}
            RoleStep::Serving => {
                let name = volume.name.clone();
                self.pauses.serves.insert(partition, node);
                if let Some(pause) = self.pauses.end(partition, at_us) {
                    let head = self.authority.name_of(node);
                    let (ms, why) = (pause.0 as f64 / 1000.0, &pause.1);
                    let what = format!("volume {name}: served by {head} after a pause of {ms:.1} ms: {why}");
                    self.events.paused(&head, name, pause, what);
                }
            }
        }
    }

    /// A node's process goes away: what needs it waits from now on, until a group without it serves, or it is back.
    pub(super) fn absent(&mut self, node: NodeId) {
        let at = now_us();
        let needs: Vec<PartitionId> = self
            .authority
            .living()
            .filter(|volume| volume.current().contains(&node))
            .map(|volume| volume.partition())
            .collect();
        let why = format!("{} was away", self.authority.name_of(node));
        needs.into_iter().for_each(|partition| self.pauses.begin(partition, at, &why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_from_the_first_stop_to_the_next_serving_and_is_told_once() {
        let (mut pauses, volume) = (Pauses::default(), PartitionId(1));
        assert_eq!(pauses.end(volume, 50), None, "nothing was known to wait");
        pauses.begin(volume, 120, "b");
        pauses.begin(volume, 100, "a");
        pauses.begin(volume, 130, "c");
        assert_eq!(pauses.end(volume, 142), Some((42, "a".to_owned())));
        assert_eq!(pauses.end(volume, 150), None);
        pauses.begin(volume, 200, "d");
        assert_eq!(pauses.end(volume, 190), None, "clocks that do not agree give no figure");
        // One that boots, and hears that another head leads, stops what nobody used.
        pauses.serves.insert(volume, NodeId(2));
        pauses.stopped(volume, NodeId(1), 300, "late");
        assert_eq!(pauses.end(volume, 400), None);
        pauses.stopped(volume, NodeId(2), 410, "moved");
        assert_eq!(pauses.end(volume, 415), Some((5, "moved".to_owned())));
    }
}
