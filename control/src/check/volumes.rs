//! Volumes: members, sizes, capacity, where they are exported.

use palisade_protocol::wire::limits::{BLOCK, MEMBERS_MAX};

use super::{Judge, nodes, shape};
use crate::api::apply::columns_of;
use crate::config::size::show_size;
use crate::config::{Code, Failover, Solo, Volume, VolumeKind};

pub(super) fn judge(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    if rack.volumes.is_empty() {
        judge.warning("volume", "the rack has no volume", "add a [[volume]], or create one at run time");
    }
    let mut wanted = 0u64;
    for (index, volume) in rack.volumes.iter().enumerate() {
        let path = format!("volume[{index}]");
        size(judge, &path, volume);
        match &volume.kind {
            VolumeKind::Bare { core, nbd } => {
                nodes::core(judge, &format!("{path}.core"), *core);
                if nbd.is_empty() {
                    let what = format!("bare volume `{}` is exported nowhere", volume.name);
                    judge.error(&path, what, "add nbd = [\"127.0.0.1:10809\"] to it or to the first head");
                }
            }
            VolumeKind::Replicated { primary, secondary, reserves, code, solo } => {
                members(judge, &path, volume, primary, secondary.as_deref());
                reserve_heads(judge, &path, volume, reserves);
                alone(judge, &path, secondary.is_some(), *solo, *code);
                if (code.data, code.parity) != (rack.code.data, rack.code.parity) {
                    shape::code(judge, &path, *code);
                }
                wanted = wanted.saturating_add(capacity(judge, &path, volume, *code));
            }
        }
    }
    spare_head(judge);
    let room = room(judge, rack.code);
    if wanted > room && room > 0 {
        judge.warning(
            "volume",
            format!(
                "written full, the volumes with their parity take {}, the sleds hold {}",
                show_size(wanted),
                show_size(room)
            ),
            "add sleds or devices before the volumes fill",
        );
    }
}

fn size(judge: &mut Judge<'_>, path: &str, volume: &Volume) {
    let at = format!("{path}.size");
    if volume.size_bytes == 0 {
        let what = format!("volume `{}` has no size", volume.name);
        judge.error(&at, what, "add size = \"4 GiB\"");
    } else if !volume.size_bytes.is_multiple_of(BLOCK as u64) {
        let what = format!("a size of {} bytes is not a multiple of 4 KiB", volume.size_bytes);
        judge.error(&at, what, "give a multiple of 4 KiB");
    }
}

fn members(judge: &mut Judge<'_>, path: &str, volume: &Volume, primary: &str, secondary: Option<&str>) {
    let known: Vec<&str> = judge.rack.heads.iter().map(|head| head.name.as_str()).collect();
    let choose = format!("choose one of the heads: {}", known.join(", "));
    let at = format!("{path}.primary");
    if primary.is_empty() {
        judge.error(path, format!("volume `{}` has no primary", volume.name), choose.as_str());
    } else if let Some(head) = judge.rack.head(primary) {
        if head.nbd.is_empty() {
            let what = format!("its primary `{primary}` exports nowhere");
            judge.error(&at, what, format!("add nbd = [\"127.0.0.1:10809\"] to head `{primary}`"));
        }
    } else {
        judge.error(&at, format!("there is no head `{primary}`"), choose.as_str());
    }
    let at = format!("{path}.secondary");
    match secondary {
        None => judge.warning(
            path,
            format!("volume `{}` has no secondary: what its head loses is lost", volume.name),
            "name a second head as secondary",
        ),
        Some(name) if name == primary => {
            let what = format!("`{name}` is primary and secondary: one failure would take both (EF-26)");
            judge.error(&at, what, "name another head as secondary");
        }
        Some(name) if judge.rack.head(name).is_none() => {
            judge.error(&at, format!("there is no head `{name}`"), choose.as_str());
        }
        Some(name) => shared_shelf(judge, &at, primary, name),
    }
}

/// BA-09: further members, each another head.
fn reserve_heads(judge: &mut Judge<'_>, path: &str, volume: &Volume, reserves: &[String]) {
    let members = volume.members();
    let at = format!("{path}.reserves");
    if members.len() > MEMBERS_MAX {
        let what = format!("volume `{}` has {} heads", volume.name, members.len());
        judge.error(&at, what, format!("a group has at most {MEMBERS_MAX} members: name fewer reserves"));
    }
    let before = members.len() - reserves.len();
    if before < 2 && !reserves.is_empty() {
        let what = format!("volume `{}` has reserves and no secondary", volume.name);
        judge.error(&at, what, "name the first of them as secondary");
    }
    let known: Vec<&str> = judge.rack.heads.iter().map(|head| head.name.as_str()).collect();
    for (index, name) in reserves.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let earlier = &members[..before + index];
        if judge.rack.head(name).is_none() {
            let choose = format!("choose one of the heads: {}", known.join(", "));
            judge.error(&at, format!("there is no head `{name}`"), choose);
        } else if earlier.contains(&name.as_str()) {
            let what = format!("`{name}` stands twice among the heads of volume `{}` (EF-26)", volume.name);
            judge.error(&at, what, "name another head");
        } else {
            earlier.iter().for_each(|other| shared_shelf(judge, &at, other, name));
        }
    }
}

/// MA-21: where heads move roles by themselves, a member that is gone for good needs another head.
fn spare_head(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let by_itself = rack.control.failover == Failover::Auto && rack.control.replace_after_ms.is_some();
    let most = rack.volumes.iter().map(|volume| volume.members().len()).max().unwrap_or(0);
    if by_itself && most > 1 && rack.heads.len() <= most {
        judge.warning(
            "control.failover",
            format!(
                "a head that is gone for good is not replaced: the rack has no head beside a volume's {most}"
            ),
            "add a [[head]], or set replace_after_ms = \"off\" under [control]",
        );
    }
}

/// P-30: alone without a copy on the sleds is a choice that is worth a word.
fn alone(judge: &mut Judge<'_>, path: &str, pair: bool, solo: Solo, code: Code) {
    let at = format!("{path}.solo");
    match (pair, solo) {
        (false, Solo::Local) => {
            judge.note(
                &at,
                "solo says nothing here: the volume has one head anyway",
                "remove it, or add a secondary",
            );
        }
        (true, Solo::Local) => judge.note(
            &at,
            "while all but one of its heads are gone, what is acknowledged stands on that one only (P-30)",
            "leave it out if the volume should wait instead",
        ),
        (false, Solo::Sleds) => {
            let what = "solo = \"sleds\" lets another head take over, and the volume has one head";
            judge.error(&at, what, "add a secondary, or leave solo out");
        }
        (true, Solo::Sleds) => copies(judge, &at, code),
        (_, Solo::Wait) => {}
    }
}

/// P-30: copies of what a lone head acknowledges lie on one sled more than may be lost.
fn copies(judge: &mut Judge<'_>, at: &str, code: Code) {
    let (wanted, sleds) = (usize::from(code.parity) + 1, judge.rack.sleds.len());
    if sleds < wanted {
        let what =
            format!("solo = \"sleds\" needs {wanted} sleds, one more than may be lost; there are {sleds}");
        judge.error(at, what, "add sleds, or leave solo out");
    }
    if code.unit_bytes < 2 * BLOCK as u64 {
        let what = format!("a stripe unit of {} bytes holds no copy beside its header", code.unit_bytes);
        judge.error(at, what, "give unit = \"64 KiB\", or leave solo out");
    }
}

fn shared_shelf(judge: &mut Judge<'_>, at: &str, primary: &str, secondary: &str) {
    let (Some(first), Some(second)) = (judge.rack.head(primary), judge.rack.head(secondary)) else { return };
    if first.shelf == second.shelf {
        let what = format!("`{primary}` and `{secondary}` stand on one shelf, `{}`", first.shelf);
        judge.warning(at, what, "choose a secondary on another shelf");
    }
}

/// Bytes of columns of the whole rack; 0 when a block device's size is not known here.
fn room(judge: &Judge<'_>, code: Code) -> u64 {
    let mut room = 0u64;
    for device in judge.rack.sleds.iter().flat_map(|sled| &sled.devices) {
        if device.size_bytes == 0 {
            return 0;
        }
        let columns =
            u64::from(columns_of(device, &Code { column_bytes: code.column_bytes, ..judge.rack.code }));
        room = room.saturating_add(columns.saturating_mul(code.column_bytes));
    }
    room
}

/// What a volume takes with its parity; an error if it alone does not fit.
fn capacity(judge: &mut Judge<'_>, path: &str, volume: &Volume, code: Code) -> u64 {
    let room = room(judge, code);
    let columns = code.columns() as u64;
    let wanted = (volume.size_bytes / u64::from(code.data.max(1))).saturating_mul(columns);
    if room > 0 && wanted > room {
        let what = format!(
            "volume `{}` takes {} with its parity, the sleds hold {}",
            volume.name,
            show_size(wanted),
            show_size(room)
        );
        judge.error(&format!("{path}.size"), what, "make it smaller, or add sleds or devices");
    }
    wanted
}
