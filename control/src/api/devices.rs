//! Devices and logs in the picture of a rack: what the store, their nodes and the heads say of them.

use std::collections::BTreeMap;

use super::sleds;
use super::status::{DeviceStatus, Live};
use crate::authority::{Authority, DeviceRecord};
use crate::config::{Device, DeviceKind, Rack};
use crate::identity::Known;

/// A device or log in the picture of a rack.
pub(super) fn status(
    authority: &Authority,
    rack: Option<&Rack>,
    live: &BTreeMap<u32, Live<'_>>,
    device: &DeviceRecord,
) -> DeviceStatus {
    let (state, id) = match &device.known {
        Known::Unknown => ("new", String::new()),
        Known::Formatting { id } => ("formatting", id.to_string()),
        Known::Active { id } => ("active", id.to_string()),
        Known::Replacing { old, .. } => ("replacing", old.to_string()),
    };
    let mut status = DeviceStatus {
        name: device.name.clone(),
        node: authority.name_of(device.node),
        id,
        state: if device.trouble.is_empty() { state.to_owned() } else { "missing".to_owned() },
        trouble: device.trouble.clone(),
        medium: rack.and_then(|rack| device_of(rack, &device.name)).map_or_else(String::new, medium),
        columns: device.columns.into(),
        ..DeviceStatus::default()
    };
    let report = live
        .get(&device.node.0)
        .and_then(|live| live.report.devices.iter().find(|report| report.name == device.name));
    if let Some(report) = report {
        (status.columns, status.free) = (report.columns, report.free);
        status.counters = report.counters.clone();
        if device.trouble.is_empty() && !sleds::says_ok(report) {
            status.state = report.state.clone();
        }
    }
    let (thought, held) = sleds::thought_of(live, device);
    status.held = held;
    if status.state == "active" && thought != "good" {
        status.state = thought.to_owned();
    }
    status
}

fn device_of<'r>(rack: &'r Rack, name: &str) -> Option<&'r Device> {
    let logs = rack.heads.iter().map(|head| &head.log);
    logs.chain(rack.sleds.iter().flat_map(|sled| &sled.devices)).find(|device| device.name == name)
}

fn medium(device: &Device) -> String {
    match &device.kind {
        DeviceKind::File(path) => format!("file {}", path.display()),
        DeviceKind::Block(path) => format!("block {}", path.display()),
        DeviceKind::Nvme(address) => format!("nvme {address} (polled)"),
        DeviceKind::Memory => "memory (durable for the life of its process)".to_owned(),
    }
}
