//! Heads and sleds: cores, logs, devices, fault domains.

use std::collections::BTreeMap;

use palisade_protocol::wire::limits::{BLOCK, RECORD_BLOCKS_MAX, RECORD_HEADER_MAX};

use super::Judge;
use crate::authority::spread;
use crate::config::size::show_size;
use crate::config::{Device, DeviceKind, VolumeKind};

/// Fewest segments of a log: some in use, some being flushed, some reserved (P-31, P-32).
const SEGMENTS_MIN: u64 = 8;
/// Bytes that a checkpoint takes per block of a volume, two generations of two copies (P-32).
const CHECKPOINT_BYTES_PER_BLOCK: u64 = 4 * 24;
/// Fewest columns of a sled device.
const COLUMNS_MIN: u64 = 4;

pub(super) fn judge(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    for (index, head) in rack.heads.iter().enumerate() {
        core(judge, &format!("head[{index}].core"), head.core);
        log(judge, index);
    }
    for (index, sled) in rack.sleds.iter().enumerate() {
        core(judge, &format!("sled[{index}].core"), sled.core);
        if sled.devices.is_empty() {
            let what = format!("sled `{}` has no device", sled.name);
            judge.error(&format!("sled[{index}]"), what, "add a [[sled.device]] with a size");
        }
        for (at, device) in sled.devices.iter().enumerate() {
            let path = format!("sled[{index}].device[{at}]");
            device_size(judge, &path, device);
            let least = COLUMNS_MIN * rack.code.column_bytes;
            if device.size_bytes > 0 && device.size_bytes < least {
                let what = format!("{} holds fewer than {COLUMNS_MIN} columns", show_size(device.size_bytes));
                let remedy = format!("give at least {}, or smaller columns in [code]", show_size(least));
                judge.error(&format!("{path}.size"), what, remedy);
            }
        }
    }
    domains(judge);
}

/// A service runs on a reactor; volumes use it too.
pub(super) fn core(judge: &mut Judge<'_>, path: &str, core: usize) {
    let cores = &judge.rack.reactors.cores;
    if !cores.contains(&core) && !cores.is_empty() {
        let what = format!("core {core} has no reactor");
        judge.error(path, what, format!("choose one of [reactors] cores = {cores:?}, or add it there"));
    }
}

fn device_size(judge: &mut Judge<'_>, path: &str, device: &Device) {
    let at = format!("{path}.size");
    let needs_path = matches!(&device.kind, DeviceKind::Block(path) if path.as_os_str().is_empty());
    if needs_path {
        let what = format!("block device `{}` has no path", device.name);
        judge.error(path, what, "add path = \"/dev/disk/by-id/…\"");
    }
    let whole = matches!(device.kind, DeviceKind::Block(_));
    if device.size_bytes == 0 && !whole {
        let what = format!("device `{}` has no size", device.name);
        judge.error(path, what, "add size = \"2 GiB\"");
    } else if !device.size_bytes.is_multiple_of(BLOCK as u64) {
        let what = format!("a size of {} bytes is not a multiple of 4 KiB", device.size_bytes);
        judge.error(&at, what, "give a multiple of 4 KiB");
    }
}

fn log(judge: &mut Judge<'_>, index: usize) {
    let head = &judge.rack.heads[index];
    let path = format!("head[{index}].log");
    if judge.places.find(&path) == judge.places.find(&format!("head[{index}]")) {
        let what = format!("head `{}` has no log", head.name);
        judge.error(&path, what, "add [head.log] with kind and size");
        return;
    }
    device_size(judge, &path, &head.log);
    let segment = head.segment_bytes;
    let least = (RECORD_BLOCKS_MAX * BLOCK + RECORD_HEADER_MAX) as u64;
    if segment <= least || segment > 1 << 30 || !segment.is_multiple_of(BLOCK as u64) {
        let what =
            format!("a log segment of {segment} bytes is not a multiple of 4 KiB between 2 MiB and 1 GiB");
        judge.error(&format!("{path}.segment"), what, "give segment = \"8 MiB\"");
        return;
    }
    let size = head.log.size_bytes;
    if size == 0 {
        return;
    }
    if !size.is_multiple_of(segment) {
        let what = format!("a log of {size} bytes is not a multiple of its segment ({segment} bytes)");
        judge.error(&format!("{path}.size"), what, "give a multiple of the segment size");
    }
    if size / segment < SEGMENTS_MIN {
        let what = format!("a log of {} holds fewer than {SEGMENTS_MIN} segments", show_size(size));
        let remedy = format!("give at least {}, better 512 MiB", show_size(SEGMENTS_MIN * segment));
        judge.error(&format!("{path}.size"), what, remedy);
    } else {
        checkpoint(judge, index);
    }
}

/// P-32: the log's device also holds whole checkpoints of every volume of its head.
fn checkpoint(judge: &mut Judge<'_>, index: usize) {
    let head = &judge.rack.heads[index];
    let own = judge.rack.volumes.iter().filter(|volume| volume.members().contains(&head.name.as_str()));
    let blocks = own.fold(0u64, |sum, volume| sum.saturating_add(volume.size_bytes / BLOCK as u64));
    let need = blocks.saturating_mul(CHECKPOINT_BYTES_PER_BLOCK);
    let size = head.log.size_bytes;
    if need > size / 2 {
        let what = format!(
            "the log of `{}` ({}) is too small: checkpoints of its volumes may take {} of it (P-32)",
            head.name,
            show_size(size),
            show_size(need)
        );
        let remedy = format!("give at least {}", show_size(need.saturating_mul(2)));
        judge.error(&format!("head[{index}].log.size"), what, remedy);
    }
}

/// EF-11: losing one fault domain must not lose more columns than the code bears.
fn domains(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let replicated: Vec<_> = rack
        .volumes
        .iter()
        .enumerate()
        .filter_map(|(index, volume)| match &volume.kind {
            VolumeKind::Replicated { code, .. } => Some((index, *code)),
            VolumeKind::Bare { .. } => None,
        })
        .collect();
    let shelves = || rack.sleds.iter().map(|sled| sled.shelf.as_str());
    for (index, code) in &replicated {
        if code.data == 0 || code.parity == 0 {
            continue;
        }
        let own = (code.data, code.parity) != (rack.code.data, rack.code.parity);
        let path = if own { format!("volume[{index}].k") } else { "code.k".to_owned() };
        if let Err(why) = spread(shelves(), code.columns(), code.shared_shelves) {
            judge.error(
                &path,
                why,
                "add sleds on shelves of their own, use a smaller code, or say [code] shared_shelves = true",
            );
            if !own {
                return;
            }
        } else if code.shared_shelves && spread(shelves(), code.columns(), false).is_err() {
            let what = "several columns of an extent share a shelf: losing that shelf may lose data";
            judge.warning("code.shared_shelves", what, "put the sleds on more shelves when you can");
        }
    }
    power(judge);
}

fn power(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let mut feeds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (index, sled) in rack.sleds.iter().enumerate().filter(|(_, sled)| !sled.power.is_empty()) {
        feeds.entry(&sled.power).or_insert((0, index)).0 += 1;
    }
    let most = usize::from(rack.code.parity);
    for (feed, (count, first)) in feeds {
        let spare = rack.sleds.len() - count;
        if count > most && spare + most < rack.code.columns() {
            let what =
                format!("{count} sleds hang on power `{feed}`: losing it may lose more than {most} columns");
            judge.warning(&format!("sled[{first}].power"), what, "spread the sleds over more power feeds");
        }
    }
}
