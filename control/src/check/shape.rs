//! Reactors, code, timers, limits: numbers that must fit one another.

use palisade_protocol::wire::limits::{BLOCK, COLUMNS_MAX, IO_BYTES_MAX, WRITE_UNITS_MAX};

use super::Judge;
use crate::config::size::show_size;
use crate::config::{Code, DeviceKind, StoreKind};

/// Least buffer memory of a reactor: a few hundred requests of all sizes.
const POOL_BYTES_MIN: u64 = 32 << 20;
/// Largest stripe unit: a column write of several units fits one buffer.
const UNIT_BYTES_MAX: u64 = (IO_BYTES_MAX / WRITE_UNITS_MAX) as u64;
/// Huge page.
const HUGE: u64 = 2 << 20;

pub(super) fn judge(judge: &mut Judge<'_>) {
    if judge.rack.drills {
        let what = "drills are on: `palisade device drill` can make devices of this rack fail";
        judge.warning("rack.drills", what, "leave `drills` out where the data matters");
    }
    reactors(judge);
    code(judge, "code", judge.rack.code);
    timers(judge);
    limits(judge);
    store(judge);
}

fn reactors(judge: &mut Judge<'_>) {
    let reactors = &judge.rack.reactors;
    if reactors.cores.is_empty() {
        judge.error(
            "reactors.cores",
            "no core is given to a reactor",
            "list at least one, such as cores = [0]",
        );
    }
    let mut seen = Vec::new();
    for (index, core) in reactors.cores.iter().enumerate() {
        if seen.contains(core) {
            let path = format!("reactors.cores[{index}]");
            judge.error(&path, format!("core {core} is listed twice"), "list each core once");
        }
        seen.push(*core);
    }
    let pool = reactors.pool_bytes;
    if pool < POOL_BYTES_MIN {
        let what = format!("a buffer pool of {} is too small", show_size(pool));
        judge.error("reactors.pool", what, format!("give at least {}", show_size(POOL_BYTES_MIN)));
    } else if !pool.is_multiple_of(HUGE) {
        let what = format!("a buffer pool of {pool} bytes is not a multiple of 2 MiB");
        judge.error("reactors.pool", what, "give a multiple of 2 MiB, the size of a huge page");
    }
}

/// Judges a code under a path; volumes use it too.
pub(super) fn code(judge: &mut Judge<'_>, path: &str, code: Code) {
    let at = |key: &str| format!("{path}.{key}");
    if code.data == 0 {
        judge.error(&at("k"), "k is 0: an extent needs data columns", "give k = 4");
    }
    if code.parity == 0 {
        judge.error(&at("m"), "m is 0: no device may ever fail", "give m = 2");
    }
    if code.columns() > COLUMNS_MAX {
        let what = format!("k + m is {}, above {COLUMNS_MAX}", code.columns());
        judge.error(&at("k"), what, "use fewer columns, such as 8+3");
    }
    let fewest = usize::from(code.min_columns);
    if fewest < usize::from(code.data) || fewest > code.columns() {
        let what = format!("min_columns is {fewest}, outside k..=k+m");
        judge.error(&at("min_columns"), what, format!("give k + 1 = {}", u16::from(code.data) + 1));
    } else if fewest == usize::from(code.data) && code.data > 0 {
        let what = "with min_columns = k a flush may leave data without any redundancy (P-25)";
        judge.warning(&at("min_columns"), what, format!("give k + 1 = {}", u16::from(code.data) + 1));
    }
    let unit = code.unit_bytes;
    if unit == 0 || !unit.is_multiple_of(BLOCK as u64) || unit > UNIT_BYTES_MAX {
        let what = format!("a stripe unit of {unit} bytes is not a multiple of 4 KiB up to 64 KiB");
        judge.error(&at("unit"), what, "give unit = \"64 KiB\"");
        return;
    }
    let column = code.column_bytes;
    if column == 0 || !column.is_multiple_of(unit) {
        let what = format!("a column of {column} bytes is not a multiple of the stripe unit ({unit} bytes)");
        judge.error(&at("column"), what, "give column = \"64 MiB\", or \"8 MiB\" on a small rack");
    } else if column / unit < 4 {
        let what = format!("a column holds only {} stripe units", column / unit);
        judge.error(&at("column"), what, "give at least 4 stripe units, better 64 and more");
    }
}

fn timers(judge: &mut Judge<'_>) {
    let timers = judge.rack.timers;
    let rows = [
        ("resend_ms", timers.resend_ms),
        ("resend_ms_max", timers.resend_ms_max),
        ("drain_ms", timers.drain_ms),
        ("slow_io_ms", timers.slow_io_ms),
        ("health_ms", timers.health_ms),
        ("device_fail_ms", timers.device_fail_ms),
        ("salvage_after_ms", timers.salvage_after_ms),
        ("trial_ms", timers.trial_ms),
    ];
    for (key, value) in rows {
        if value == 0 {
            judge.error(
                &format!("timers.{key}"),
                format!("{key} is 0"),
                "give a time above 0, or leave it out",
            );
        }
    }
    if timers.resend_ms > timers.resend_ms_max {
        let what =
            format!("resend_ms ({}) is above resend_ms_max ({})", timers.resend_ms, timers.resend_ms_max);
        judge.error("timers.resend_ms", what, "repeats start short and grow: give a smaller resend_ms");
    }
}

fn limits(judge: &mut Judge<'_>) {
    let limits = judge.rack.limits;
    if limits.log_low_percent >= limits.log_high_percent {
        let what = format!(
            "log_low_percent ({}) is not below log_high_percent ({})",
            limits.log_low_percent, limits.log_high_percent
        );
        judge.error("limits.log_low_percent", what, "give 40 and 60");
    }
    if limits.log_high_percent > 90 {
        let what = "flushing starts when the log is over 90 % full: clients would wait for it";
        judge.error("limits.log_high_percent", what, "give at most 90");
    }
    if limits.rebuild_percent == 0 {
        let what = "rebuild_percent is 0: a lost device would never be rebuilt under load";
        judge.error("limits.rebuild_percent", what, "give 1 to 100, better 80");
    }
    if limits.collect_percent > 95 {
        let what = "collecting extents that are over 95 % live moves data for nothing";
        judge.error("limits.collect_percent", what, "give at most 95, better 50");
    }
    if limits.connections == 0 {
        judge.error("limits.connections", "no client may connect", "give connections = 64");
    }
    for core in judge.rack.reactors.cores.clone() {
        let heads = judge.rack.heads.iter().filter(|head| head.core == core).count() as u64;
        if heads * limits.hot_cache_bytes > judge.rack.reactors.pool_bytes / 2 {
            let what = format!(
                "the hot caches of {heads} heads on core {core} would take more than half of its buffer pool ({})",
                show_size(judge.rack.reactors.pool_bytes)
            );
            judge.warning("limits.hot_cache", what, "give a smaller hot_cache or a larger [reactors] pool");
        }
    }
}

/// Shortest lease: etcd gives no shorter one at its default timers.
const LEASE_MS_MIN: u64 = 2000;

/// Where etcd is, and for how long one control plane has the lease.
fn etcd(judge: &mut Judge<'_>) {
    let control = &judge.rack.control;
    if control.store != StoreKind::Etcd {
        if !control.endpoints.is_empty() {
            let what = "endpoints are of use only with store = \"etcd\"";
            judge.error("control.endpoints", what, "add store = \"etcd\", or leave the endpoints out");
        }
        return;
    }
    if control.endpoints.is_empty() {
        let what = "the etcd store has no endpoints";
        judge.error("control.store", what, "add endpoints = [\"http://10.0.0.1:2379\"], one a member");
    }
    for (index, endpoint) in control.endpoints.iter().enumerate() {
        if control.endpoints[..index].contains(endpoint) {
            let path = format!("control.endpoints[{index}]");
            judge.error(&path, format!("{endpoint} is listed twice"), "list each member of etcd once");
        }
    }
    let lease = control.lease_ms;
    if lease < LEASE_MS_MIN {
        let what = format!("a lease of {lease} ms is shorter than etcd gives");
        judge.error("control.lease_ms", what, "give at least 2000, better 5000");
    } else if !lease.is_multiple_of(1000) {
        let what = format!("a lease of {lease} ms is no whole number of seconds, as etcd counts");
        judge.error("control.lease_ms", what, "give a multiple of 1000");
    }
}

/// A memory device forgets at exit what a store that lasts remembers: the rack would not start twice.
fn store(judge: &mut Judge<'_>) {
    etcd(judge);
    let lasting = judge.rack.control.store != StoreKind::Memory;
    let kind = if judge.rack.control.store == StoreKind::Etcd { "etcd" } else { "embedded" };
    let heads = judge.rack.heads.iter().enumerate();
    let logs = heads.map(|(index, head)| (format!("head[{index}].log.kind"), &head.log.kind));
    let sleds = judge.rack.sleds.iter().enumerate().flat_map(|(sled, entry)| {
        let devices = entry.devices.iter().enumerate();
        devices.map(move |(index, device)| (format!("sled[{sled}].device[{index}].kind"), &device.kind))
    });
    let all: Vec<(String, bool)> =
        logs.chain(sleds).map(|(path, kind)| (path, *kind == DeviceKind::Memory)).collect();
    if lasting {
        for (path, memory) in &all {
            if *memory {
                judge.error(
                    path,
                    format!("a memory device is blank at the next start, but the {kind} store will remember it and not format it again"),
                    "use kind = \"file\", or add [control] store = \"memory\" if the whole rack may forget",
                );
            }
        }
    } else if let Some((path, _)) = all.iter().find(|(_, memory)| !memory) {
        judge.error(
            path,
            "this device outlives the memory store: at the next start it would belong to a rack that nobody knows",
            "use kind = \"memory\" for every device, or [control] store = \"embedded\"",
        );
    }
}
