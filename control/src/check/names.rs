//! Names, addresses and paths: each one once.

use std::collections::BTreeMap;

use super::Judge;
use crate::authority::is_name;
use crate::config::{Device, DeviceKind};

pub(super) fn judge(judge: &mut Judge<'_>) {
    names(judge);
    addresses(judge);
    paths(judge);
}

/// Reports every repetition of a key together with where it was first.
fn repeated(judge: &mut Judge<'_>, what: &str, entries: Vec<(String, String)>, remedy: &str) {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for (key, path) in entries {
        if let Some(before) = first.get(&key) {
            let line =
                judge.places.find(before).map_or(String::new(), |place| format!(" on line {}", place.line));
            judge.error(&path, format!("{what} `{key}` is used twice, first{line}"), remedy);
        } else {
            first.insert(key, path);
        }
    }
}

fn names(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let heads = rack.heads.iter().enumerate().map(|(i, head)| (head.name.clone(), format!("head[{i}].name")));
    let sleds = rack.sleds.iter().enumerate().map(|(i, sled)| (sled.name.clone(), format!("sled[{i}].name")));
    let nodes: Vec<_> = heads.chain(sleds).collect();
    let volumes: Vec<_> = rack
        .volumes
        .iter()
        .enumerate()
        .map(|(i, volume)| (volume.name.clone(), format!("volume[{i}].name")))
        .collect();
    let rack_name = [(rack.name.clone(), "rack.name".to_owned())];
    for (name, path) in nodes.iter().chain(&volumes).chain(&rack_name) {
        // A missing name was found by the reader.
        let missing = name.is_empty() && judge.places.find(path) == judge.places.find(parent(path));
        if !is_name(name) && !missing {
            judge.error(
                path,
                format!("`{name}` is no name"),
                "use 1 to 64 letters, digits, `-`, `_` and `.`, not starting with `.`",
            );
        }
    }
    let named = |list: Vec<(String, String)>| list.into_iter().filter(|(name, _)| !name.is_empty()).collect();
    repeated(judge, "the node name", named(nodes), "give each head and sled a name of its own");
    repeated(judge, "the volume name", named(volumes), "give each volume a name of its own");
}

fn parent(path: &str) -> &str {
    path.rfind('.').map_or("", |dot| &path[..dot])
}

fn addresses(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let mut listening = Vec::new();
    listening.extend(rack.metrics.map(|address| (address.to_string(), "rack.metrics".to_owned())));
    for (index, head) in rack.heads.iter().enumerate() {
        for (at, address) in head.nbd.iter().enumerate() {
            listening.push((address.to_string(), format!("head[{index}].nbd[{at}]")));
        }
    }
    let datagrams: Vec<_> =
        rack.fabrics().into_iter().map(|(_, path, _, address)| (address.to_string(), path)).collect();
    for (address, path) in listening.iter().chain(&datagrams) {
        if address.ends_with(":0") {
            judge.error(path, format!("{address} has no port"), "give a port, others must know it");
        }
    }
    repeated(judge, "the address", listening, "give each listener an address of its own");
    repeated(judge, "the fabric address", datagrams, "give each node an address of its own");
}

/// The path or PCI address of a device, and where it stands.
fn place(device: &Device, at: &str) -> Option<(String, String)> {
    match &device.kind {
        DeviceKind::File(path) | DeviceKind::Block(path) => {
            Some((path.display().to_string(), format!("{at}.path")))
        }
        DeviceKind::Nvme(address) => Some((address.clone(), format!("{at}.address"))),
        DeviceKind::Memory => None,
    }
}

fn paths(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let heads = rack.heads.iter().enumerate();
    let logs = heads.filter_map(|(index, head)| place(&head.log, &format!("head[{index}].log")));
    let sleds = rack.sleds.iter().enumerate().flat_map(|(sled, entry)| {
        let devices = entry.devices.iter().enumerate();
        devices.filter_map(move |(index, device)| place(device, &format!("sled[{sled}].device[{index}]")))
    });
    let given = logs.chain(sleds).filter(|(path, _)| !path.is_empty()).collect();
    repeated(judge, "the device", given, "one device is one node's: give each its own");
}
