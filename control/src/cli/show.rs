//! Tables for people.

use std::io::{Write, stderr, stdout};

use crate::api::apply::Applied;
use crate::api::events::EventEntry;
use crate::api::members::Replacing;
use crate::api::moving::Drained;
use crate::api::status::{ControlStatus, DeviceStatus, PathEntry, Status, VolumeStatus};
use crate::config::size::show_size;

/// A line to standard output. A reader that went away (`| head`) is no reason to fail.
pub fn say(text: &str) {
    let _ = writeln!(stdout().lock(), "{text}");
}

/// A line to standard error.
pub fn complain(text: &str) {
    let _ = writeln!(stderr().lock(), "palisade: {text}");
}

/// Rows under headings, columns as wide as their widest cell.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// The whole rack.
pub(super) fn status(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!("rack {} {ready}, data {}, process {}\n", status.name, status.data, status.pid);
    if status.control.store == "etcd" {
        text.push_str(&control(&status.control));
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            let log = match node.log_bytes {
                0 => "-".to_owned(),
                bytes => format!(
                    "{} of {}",
                    show_size(bytes.saturating_sub(node.log_free_bytes)),
                    show_size(bytes)
                ),
            };
            let pid = if node.pid == 0 { "-".to_owned() } else { node.pid.to_string() };
            vec![
                node.name.clone(),
                node.role.clone(),
                pid,
                dash(&node.version),
                node.state.clone(),
                node.shelf.clone(),
                log,
                dash(&node.why),
            ]
        })
        .collect();
    text.push_str(&table(&["NODE", "ROLE", "PID", "VERSION", "STATE", "SHELF", "LOG USED", "WHY"], &rows));
    text.push('\n');
    text.push_str(&volumes(&status.volumes));
    if !status.paths.is_empty() {
        text.push('\n');
        text.push_str(&networks(&status.paths));
    }
    for volume in &status.volumes {
        text.push_str(&doubt(volume));
        text.push_str(&rebuild(volume));
        text.push_str(&replacement(volume));
    }
    let ill = |device: &&DeviceStatus| {
        !device.trouble.is_empty() || matches!(device.state.as_str(), "suspect" | "failed")
    };
    let trouble: Vec<DeviceStatus> = status.devices.iter().filter(ill).cloned().collect();
    if !trouble.is_empty() {
        text.push('\n');
        text.push_str(&devices(&trouble));
    }
    let warnings: Vec<&crate::api::status::EventEntry> =
        status.events.iter().filter(|event| event.warning).collect();
    for event in &warnings[warnings.len().saturating_sub(5)..] {
        text.push_str(&format!("\nwarning: {}: {}", event.node, event.what));
    }
    text
}

/// Who decides, when that moves from process to process.
fn control(control: &ControlStatus) -> String {
    let ControlStatus { state, why, holder, tenure, .. } = control;
    if why.is_empty() {
        return format!("control {state}: {holder} has the lease (tenure {tenure})\n");
    }
    format!("control {state}, nothing is decided: {why}\n")
}

/// How far the rebuild of a volume is, and what has to leave drained sleds; empty when there is nothing to do.
fn rebuild(volume: &VolumeStatus) -> String {
    let mut parts = Vec::new();
    if volume.degraded_extents > 0 {
        let left = show_size(volume.rebuild_bytes);
        let spare = match volume.redundancy {
            Some(spare) if spare < 0 => "data is lost".to_owned(),
            Some(spare) => format!("the worst can lose {spare} more columns"),
            None => String::new(),
        };
        parts.push(format!("{} extents ({left}) lack columns, {spare}", volume.degraded_extents));
    }
    if volume.leaving_extents > 0 {
        let left = show_size(volume.leaving_bytes);
        parts.push(format!("{} extents ({left}) have to leave drained sleds", volume.leaving_extents));
    }
    if parts.is_empty() {
        return String::new();
    }
    let done = volume.counters.get("rebuilt_bytes").copied().unwrap_or(0);
    format!("\nrebuild of volume {}: {}; {} moved so far\n", volume.name, parts.join("; "), show_size(done))
}

/// A row for each network, and for what does not carry on it.
fn networks(paths: &[PathEntry]) -> String {
    let mut rows = Vec::new();
    for network in 1..=paths.iter().map(|path| path.report.network).max().unwrap_or(0) {
        let on: Vec<&PathEntry> = paths.iter().filter(|path| path.report.network == network).collect();
        let down: Vec<&&PathEntry> = on.iter().filter(|path| path.report.state == "down").collect();
        let state = match down.len() {
            0 => "up",
            all if all == on.len() => "down",
            _ => "partly down",
        };
        let mut rtts: Vec<u64> = on.iter().map(|path| path.report.rtt_us).filter(|rtt| *rtt > 0).collect();
        rtts.sort_unstable();
        let median = rtts.get(rtts.len() / 2).map_or("-".to_owned(), |rtt| format!("{rtt} us"));
        let loss = on.iter().map(|path| path.report.loss_ppm).max().unwrap_or(0);
        let resent: u64 = on.iter().map(|path| path.report.resent).sum();
        let mut between: Vec<String> =
            down.iter().take(4).map(|path| format!("{} - {}", path.node, path.peer)).collect();
        if down.len() > between.len() {
            between.push(format!("{} more", down.len() - between.len()));
        }
        rows.push(vec![
            network.to_string(),
            state.to_owned(),
            format!("{} of {}", on.len() - down.len(), on.len()),
            median,
            format!("{}.{:02} %", loss / 10_000, loss / 100 % 100),
            resent.to_string(),
            dash(&between.join(", ")),
        ]);
    }
    table(&["NETWORK", "STATE", "PATHS UP", "ROUND TRIP", "WORST LOSS", "RESENT", "DOWN BETWEEN"], &rows)
}

/// Volumes.
pub(super) fn volumes(volumes: &[VolumeStatus]) -> String {
    let rows: Vec<Vec<String>> = volumes
        .iter()
        .map(|volume| {
            let mut state = volume.state.clone();
            if volume.degraded {
                state.push_str(" degraded");
            }
            if volume.peer_away {
                state.push_str(" peer-away");
            }
            if volume.joining {
                state.push_str(" joining");
            }
            if !volume.isolating.is_empty() {
                state.push_str(&format!(" leaves {}", volume.isolating.join(",")));
            }
            vec![
                volume.name.clone(),
                show_size(volume.bytes),
                state,
                dash(&volume.primary),
                dash(&volume.followers()),
                if volume.sequence == 0 { "-".to_owned() } else { volume.number.clone() },
                dash(&volume.code),
                volume.waiting.to_string(),
                show_size(volume.log_bytes),
                dash(&volume.address),
                dash(&volume.why),
            ]
        })
        .collect();
    let headings = [
        "VOLUME",
        "SIZE",
        "STATE",
        "PRIMARY",
        "SECONDARY",
        "NUMBER",
        "CODE",
        "WAITING",
        "IN LOG",
        "ADDRESS",
        "WHY",
    ];
    table(&headings, &rows)
}

/// Devices.
pub(super) fn devices(devices: &[DeviceStatus]) -> String {
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|device| {
            let columns = match device.columns {
                0 => "-".to_owned(),
                columns => format!("{} of {columns}", device.free),
            };
            vec![
                device.name.clone(),
                dash(&device.id),
                device.state.clone(),
                columns,
                dash(&device.medium),
                dash(&device.trouble),
            ]
        })
        .collect();
    table(&["DEVICE", "IDENTITY", "STATE", "FREE COLUMNS", "MEDIUM", "TROUBLE"], &rows)
}

/// What happened, oldest first, with UTC times.
pub(super) fn events(events: &[EventEntry]) -> String {
    table(
        &["TIME (UTC)", "SAID BY", "VOLUME", "NUMBER", "WHAT"],
        &events.iter().map(cells).collect::<Vec<_>>(),
    )
}

/// One event as a line.
pub(super) fn event(event: &EventEntry) -> String {
    cells(event).join("  ")
}

fn cells(event: &EventEntry) -> Vec<String> {
    let node = if event.warning { format!("{} !", event.node) } else { event.node.clone() };
    vec![utc(event.time_ms), node, dash(&event.volume), dash(&event.number), event.what.clone()]
}

/// `2026-11-21 22:50:23.041` of milliseconds since 1970.
fn utc(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01 in eras of 400 years, so that leap days come last in a year.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (h, m, s) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{:04}-{month:02}-{date:02} {h:02}:{m:02}:{s:02}.{:03}", era * 400 + year + carry, of_day % 1000)
}

/// What draining a head did.
pub(super) fn drained(drained: &Drained) -> String {
    let mut text = format!("head {}: {} volumes moved away\n", drained.head, drained.moved.len());
    for left in &drained.left {
        text.push_str(&format!("stays: volume {}: {}\n", left.volume, left.why));
    }
    for left in &drained.follows {
        text.push_str(&format!("follows: volume {}: {}\n", left.volume, left.why));
    }
    text.push_str(match (drained.safe_to_stop, drained.left.is_empty()) {
        (true, _) => "safe to stop\n",
        (_, false) => "not safe to stop; ask again to move what stays\n",
        _ => "not safe to stop yet\n",
    });
    text
}

/// Who is filled, and for whom.
pub(super) fn replacing(replacing: &Replacing) -> String {
    let Replacing { volume, head, leaving } = replacing;
    let then = if leaving.is_empty() { String::new() } else { format!(" in the place of {leaving}") };
    format!(
        "volume {volume}: {head} is being filled and becomes a member{then} then; `palisade status` shows how far"
    )
}

/// Why nothing is decided about a volume; empty when it is not in doubt (P-04).
fn doubt(volume: &VolumeStatus) -> String {
    if volume.doubt.is_empty() {
        return String::new();
    }
    format!("\nvolume {} is in doubt: {}\n", volume.name, volume.doubt)
}

/// What groups lack, and how far a copy is; empty when nothing is to be said.
fn replacement(volume: &VolumeStatus) -> String {
    let mut parts = Vec::new();
    if !volume.lacks.is_empty() {
        parts.push(volume.lacks.clone());
    }
    if !volume.replacement.is_empty() {
        let done = match volume.fill_bytes {
            0 => "not begun".to_owned(),
            all => format!("{} of {}", show_size(volume.filled_bytes), show_size(all)),
        };
        parts.push(format!("copy to {} ({}): {done}", volume.replacement, volume.replacement_why));
    }
    if parts.is_empty() {
        return String::new();
    }
    format!("\nmembers of volume {}: {}\n", volume.name, parts.join("; "))
}

/// What applying a file did.
pub(super) fn applied(applied: &Applied) -> String {
    let mut text = String::new();
    for (label, list) in [
        ("created", &applied.created),
        ("changed", &applied.changed),
        ("pruned", &applied.pruned),
        ("parts", &applied.parted),
        ("starts with the next `up`", &applied.needs_start),
    ] {
        for entry in list {
            text.push_str(&format!("{label}: {entry}\n"));
        }
    }
    text.push_str(&format!("{} unchanged\n", applied.unchanged.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PathReport;

    #[test]
    fn a_network_shows_between_whom_it_is_down() {
        let path = |peer: &str, network, state: &str| PathEntry {
            node: "head-1".to_owned(),
            peer: peer.to_owned(),
            report: PathReport {
                network,
                state: state.to_owned(),
                rtt_us: 80,
                loss_ppm: 12_345,
                resent: 2,
                ..PathReport::default()
            },
        };
        let paths = [
            path("sled-1", 1, "up"),
            path("sled-2", 1, "suspect"),
            path("sled-1", 2, "up"),
            path("sled-2", 2, "down"),
        ];
        let text = networks(&paths);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let cells =
            |line: usize| lines[line].iter().filter(|cell| !cell.is_empty()).copied().collect::<Vec<_>>();
        assert_eq!(cells(1), ["1", "up", "2 of 2", "80 us", "1.23 %", "4", "-"]);
        assert_eq!(cells(2), ["2", "partly down", "1 of 2", "80 us", "1.23 %", "4", "head-1 - sled-2"]);
    }

    #[test]
    fn ba02_a_volume_shows_which_member_it_leaves() {
        let volume = VolumeStatus {
            state: "serving".to_owned(),
            isolating: vec!["head-1".to_owned(), "head-2".to_owned()],
            ..VolumeStatus::default()
        };
        assert!(volumes(&[volume]).contains("  serving leaves head-1,head-2  "));
    }

    #[test]
    fn times_of_events_are_calendar_times() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(1_795_301_423_041), "2026-11-21 22:50:23.041");
        assert_eq!(utc(4_107_542_399_999), "2100-02-28 23:59:59.999");
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".to_owned(), "long cell".to_owned()], vec!["bcd".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["N", "WHAT"], &rows), "N    WHAT\na    long cell\nbcd  x\n");
    }
}
