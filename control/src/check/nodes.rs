//! Heads and sleds: cores, logs, devices, fault domains.

use std::collections::BTreeMap;

use palisade_protocol::log::format::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, Superblock};
use palisade_protocol::log::{Faults, FormatAs, LogConfig, LogError};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::{DeviceIx, LogId, RackId};

use super::Judge;
use crate::api::apply::layout_of;
use crate::authority::spread;
use crate::config::size::show_size;
use crate::config::{Device, DeviceKind, VolumeKind};

/// Fewest columns of a sled device.
const COLUMNS_MIN: u64 = 4;

pub(super) fn judge(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let bare = rack.volumes.iter().any(|volume| matches!(volume.kind, VolumeKind::Bare { .. }));
    if rack.heads.is_empty() && !bare {
        let remedy = "add a [[head]] with a log; configs/one-box.toml shows a whole rack";
        judge.error("head", "the rack has no head: nothing could serve a volume", remedy);
    }
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
            } else if device.size_bytes > 0
                && let Err(error) = layout_of(device, &rack.code)
            {
                let what = format!("device `{}` cannot be laid out: {error}", device.name);
                judge.error(&format!("{path}.size"), what, "give another size, or other columns in [code]");
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
    if let DeviceKind::Nvme(address) = &device.kind
        && !is_pci_address(address)
    {
        let what = format!("`{address}` is no PCI address of an NVMe controller");
        let at = if address.is_empty() { path.to_owned() } else { format!("{path}.address") };
        judge.error(&at, what, "add address = \"0000:03:00.0\", as `ls /sys/bus/pci/drivers/nvme` shows it");
    }
    let whole = matches!(device.kind, DeviceKind::Block(_) | DeviceKind::Nvme(_));
    if device.size_bytes == 0 && !whole {
        let what = format!("device `{}` has no size", device.name);
        judge.error(path, what, "add size = \"2 GiB\"");
    } else if !device.size_bytes.is_multiple_of(BLOCK as u64) {
        let what = format!("a size of {} bytes is not a multiple of 4 KiB", device.size_bytes);
        judge.error(&at, what, "give a multiple of 4 KiB");
    }
}

/// `DOMAIN:BUS:DEVICE.FUNCTION` in hexadecimal digits, as sysfs writes it.
fn is_pci_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let hex = |part: &str| part.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    // Domains behind some host bridges have more digits.
    let fits = matches!(lengths[..], [4..=8, 2, 2, 1]);
    fits && parts.iter().all(|part| hex(part))
        && text.rfind('.') == Some(text.len() - 2)
        && text.matches('.').count() == 1
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
    let fits = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment);
    if !fits || !segment.is_multiple_of(BLOCK as u64) {
        let what = format!(
            "a log segment of {segment} bytes is not a multiple of 4 KiB between {} and {}",
            show_size(SEGMENT_BYTES_MIN),
            show_size(SEGMENT_BYTES_MAX)
        );
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

/// P-32: the log's device also holds whole checkpoints of the volumes. Judged by the log's own layout.
fn checkpoint(judge: &mut Judge<'_>, index: usize) {
    let head = &judge.rack.heads[index];
    let config = LogConfig {
        device: DeviceIx(0),
        device_bytes: head.log.size_bytes,
        rack: RackId(0),
        expect: None,
        format: None,
        rescue: None,
        hot_bytes: 0,
        faults: Faults::default(),
    };
    let format = FormatAs {
        log: LogId(0),
        segment_bytes: head.segment_bytes,
        volume_blocks: judge.rack.checkpoint_bytes() / BLOCK as u64,
    };
    if let Err(LogError::TooSmall { needed, .. }) = Superblock::plan(&config, &format) {
        let what = format!(
            "the log of `{}` ({}) is too small: checkpoints of the rack's volumes lie there too (P-32)",
            head.name,
            show_size(head.log.size_bytes)
        );
        let needed = needed.next_multiple_of(head.segment_bytes);
        judge.error(&format!("head[{index}].log.size"), what, format!("give at least {}", show_size(needed)));
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
