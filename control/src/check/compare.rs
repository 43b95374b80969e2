//! Where the file and the rack part: the rack as it runs, or as its store remembers it.

use super::Judge;
use crate::api::status::{NodeStatus, Status, VolumeStatus};
use crate::config::size::show_size;
use crate::config::{Finding, Parsed, Volume, VolumeKind};

/// Compares. `running`: the picture comes from a live rack, so that what is away is worth a word.
pub fn compare(parsed: &Parsed, status: &Status, running: bool) -> Vec<Finding> {
    let mut judge = Judge::new(parsed);
    if status.name != parsed.rack.name {
        judge.error(
            "rack.name",
            format!(
                "the data directory belongs to rack `{}`, the file describes `{}`",
                status.name, parsed.rack.name
            ),
            "give another [rack] data or --data-dir, or the right file",
        );
        return judge.findings;
    }
    nodes(&mut judge, status);
    for (index, volume) in parsed.rack.volumes.iter().enumerate() {
        match status.volumes.iter().find(|known| known.name == volume.name) {
            Some(known) => volume_parts(&mut judge, &format!("volume[{index}]"), volume, known),
            None => judge.warning(
                &format!("volume[{index}].name"),
                format!("volume `{}` is in the file but not in the rack", volume.name),
                "`palisade apply FILE` or the next `up` makes it",
            ),
        }
    }
    for known in status.volumes.iter().filter(|known| known.state != "deleting") {
        if parsed.rack.volume(&known.name).is_none() {
            judge.warning(
                "volume",
                format!(
                    "volume `{}` ({}) is in the rack but not in the file",
                    known.name,
                    show_size(known.bytes)
                ),
                "add it to the file, or remove it with `palisade apply FILE --prune`",
            );
        }
    }
    devices(&mut judge, status);
    if running {
        health(&mut judge, status);
    }
    judge.findings
}

fn nodes(judge: &mut Judge<'_>, status: &Status) {
    let rack = judge.rack;
    let heads = rack
        .heads
        .iter()
        .enumerate()
        .map(|(i, head)| (head.name.as_str(), "head", format!("head[{i}].name")));
    let sleds = rack
        .sleds
        .iter()
        .enumerate()
        .map(|(i, sled)| (sled.name.as_str(), "sled", format!("sled[{i}].name")));
    let declared: Vec<_> = heads.chain(sleds).collect();
    for (name, role, path) in &declared {
        match status.nodes.iter().find(|node| node.name == *name) {
            Some(node) if node.role != *role => judge.error(
                path,
                format!("`{name}` is a {role} in the file and a {} in the rack", node.role),
                "roles do not change: choose another name",
            ),
            Some(_) => {}
            None => judge.warning(
                path,
                format!("{role} `{name}` is in the file but not in the rack"),
                "the next `up` adds it",
            ),
        }
    }
    for node in &status.nodes {
        if !declared.iter().any(|(name, _, _)| *name == node.name) {
            judge.warning(
                "rack",
                format!("{} `{}` is in the rack but not in the file", node.role, node.name),
                "add it to the file, or remove it with `palisade apply FILE --prune` once nothing uses it",
            );
        }
    }
}

fn volume_parts(judge: &mut Judge<'_>, path: &str, volume: &Volume, known: &VolumeStatus) {
    let mut part = |key: &str, file: String, rack: String| {
        if file != rack {
            judge.error(
                &format!("{path}.{key}"),
                format!("{key} of volume `{}` is {file} in the file and {rack} in the rack", volume.name),
                "a volume keeps what it was made with: write that into the file",
            );
        }
    };
    part("size", volume.size_bytes.to_string(), known.bytes.to_string());
    if let VolumeKind::Replicated { primary, secondary, reserves, code, solo } = &volume.kind {
        // The file declares roles, the rack moves them: only what it was made with can part.
        part("primary", primary.clone(), known.declared_primary.clone());
        part("secondary", secondary.clone().unwrap_or_default(), known.declared_secondary.clone());
        part("reserves", reserves.join(", "), known.declared_reserves.join(", "));
        part("k", format!("{}+{}", code.data, code.parity), known.code.clone());
        moved(judge, path, known);
        if *solo != known.policy() {
            judge.warning(
                &format!("{path}.solo"),
                format!("solo of volume `{}` is {} in the rack", volume.name, known.solo),
                "`palisade apply FILE` or the next `up` sets it",
            );
        }
    }
}

/// Roles that moved are as they should be: a word, and nothing to mend.
fn moved(judge: &mut Judge<'_>, path: &str, known: &VolumeStatus) {
    let declared = (&known.declared_primary, &known.declared_secondary, &known.declared_reserves);
    if (&known.primary, &known.secondary, &known.reserves) == declared {
        return;
    }
    let second =
        if known.secondary.is_empty() { "alone".to_owned() } else { format!("with {}", known.followers()) };
    judge.note(
        &format!("{path}.primary"),
        format!("`{}` serves volume `{}` at present, {second}: its roles moved", known.primary, known.name),
        format!("none needed; `palisade events --volume {}` tells when and why", known.name),
    );
}

fn devices(judge: &mut Judge<'_>, status: &Status) {
    for device in status.devices.iter().filter(|device| !device.trouble.is_empty()) {
        let path = device_path(judge, &device.name);
        judge.warning(
            &path,
            format!("device `{}`: {}", device.name, device.trouble),
            format!("bring it back, or give it up with `palisade device replace {}`", device.name),
        );
    }
}

/// Where a device of the store stands in the file.
fn device_path(judge: &Judge<'_>, name: &str) -> String {
    let rack = judge.rack;
    let log = rack.heads.iter().position(|head| head.log.name == name);
    if let Some(head) = log {
        return format!("head[{head}].log");
    }
    for (index, sled) in rack.sleds.iter().enumerate() {
        if let Some(at) = sled.devices.iter().position(|device| device.name == name) {
            return format!("sled[{index}].device[{at}]");
        }
    }
    "rack".to_owned()
}

fn health(judge: &mut Judge<'_>, status: &Status) {
    let drained = |node: &&NodeStatus| matches!(node.state.as_str(), "draining" | "drained");
    for node in status.nodes.iter().filter(drained) {
        judge.note("rack", format!("{} `{}` is {}", node.role, node.name, node.state), node.why.clone());
    }
    for node in status.nodes.iter().filter(|node| node.state != "ready" && !drained(node)) {
        let what = format!("{} `{}` is {}: {}", node.role, node.name, node.state, node.why);
        judge.warning("rack", what, "see its log; `palisade node FILE --name NAME` starts a node");
    }
    for volume in status.volumes.iter().filter(|volume| !volume.doubt.is_empty()) {
        judge.warning(
            "volume",
            format!("volume `{}` is in doubt: {}", volume.name, volume.doubt),
            "bring every head up: it says what its log holds, and the volume goes on from the newest group",
        );
    }
    for volume in status.volumes.iter().filter(|volume| volume.state != "serving" && volume.doubt.is_empty())
    {
        let what = format!("volume `{}` is {}: {}", volume.name, volume.state, volume.why);
        judge.warning("rack", what, "`palisade status` shows what it waits for");
    }
}
