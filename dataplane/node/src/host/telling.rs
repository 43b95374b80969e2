//! What happened, in words and numbers for people: events as text, devices as reports, and a valve for
//! what would come in thousands.

use palisade_control::report::DeviceReport;
use palisade_protocol::fabric::{PathId, PathState};
use palisade_protocol::sled::{DeviceState, DeviceStatus};
use palisade_protocol::wire::{DeviceHealth, Event, PartitionId};
use std::time::{Duration, Instant};

/// A sled's device as control shows it.
pub(super) fn device_report((status, name): (&DeviceStatus, &String)) -> DeviceReport {
    let state = match &status.state {
        DeviceState::Recovering => "recovering".to_owned(),
        DeviceState::Ready => "ok".to_owned(),
        DeviceState::Suspect => "suspect".to_owned(),
        DeviceState::Full => "full: no space left on its file system".to_owned(),
        DeviceState::Refused(verdict) => format!("refused: {verdict}"),
        DeviceState::Failed(why) => format!("failed: {why}"),
    };
    let counted = &status.counters;
    let refused = &counted.refused;
    let counters = [
        ("writes", counted.writes),
        ("bytes_written", counted.bytes_written),
        ("page_writes", counted.page_writes),
        ("reads", counted.reads),
        ("bytes_read", counted.bytes_read),
        ("grants", counted.grants),
        ("columns_reserved", counted.columns_reserved),
        ("columns_released", counted.columns_released),
        ("scrubbed", counted.scrubbed),
        ("scrub_passes", counted.scrub_passes),
        ("corrupt", counted.corrupt),
        ("refused_fenced", refused.fenced),
        ("refused_no_token", refused.no_token),
        ("refused_not_owner", refused.not_owner),
        ("refused_stale_number", refused.stale_number),
        ("refused_device_error", refused.device_error),
    ];
    let counters = counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    DeviceReport {
        name: name.clone(),
        device: status.device.unwrap_or_default(),
        columns: status.columns.into(),
        free: status.free.into(),
        state,
        counters,
    }
}

/// An event for people: whether it needs attention, and its text.
pub(super) fn describe(event: &Event) -> (bool, String) {
    match event {
        Event::Recovered { log } => (false, format!("read its log {log}")),
        Event::Adopted { stamp } => {
            (false, format!("volume {}: adopted number {}", stamp.partition, stamp.number))
        }
        Event::Serving { stamp } => {
            (false, format!("volume {}: serves under number {}", stamp.partition, stamp.number))
        }
        Event::PeerAway { partition, peer } => {
            (true, format!("volume {partition}: head {peer} is away; requests wait"))
        }
        Event::Demoted { partition, number } => {
            (true, format!("volume {partition}: stopped, number {number} is in force elsewhere"))
        }
        Event::Corrupt { place, what } => (true, format!("corrupt {place}: {what}")),
        Event::Repaired { place, what } => (false, format!("repaired {place}: {what}")),
        Event::DataLost { partition, extent } => {
            (true, format!("volume {partition}: extent {extent} has fewer good columns than its code needs"))
        }
        Event::DeviceFailed { device, why } => (true, format!("device {} failed: {why}", device.0)),
        Event::DeviceTurned { device, health, why, .. } => {
            let what = match health {
                DeviceHealth::Good => "is good again",
                DeviceHealth::Suspect => "is suspect and gets no new columns",
                DeviceHealth::Failed => "counts as failed, its extents are rebuilt elsewhere",
            };
            (*health != DeviceHealth::Good, format!("device {device} {what}: {why}"))
        }
        Event::SlowIo { partition, what, offset, stages: [numbered, log, replica, answered] } => {
            let us = |ns: &u64| ns / 1000;
            let stages = format!(
                "numbered {} us, log {} us, replica {} us, answered {} us",
                us(numbered),
                us(log),
                us(replica),
                us(answered)
            );
            (true, format!("slow {what} of volume {partition} at byte {offset}: {stages}"))
        }
        Event::Propose(proposal) => {
            let heads: Vec<String> = proposal.members.iter().map(|member| member.head.to_string()).collect();
            let (partition, number) = (proposal.partition, proposal.expected.number);
            let group = heads.join(", ");
            (
                false,
                format!("volume {partition}: proposes heads {group} after number {number}: {}", proposal.why),
            )
        }
        Event::Attention(text) => (true, text.clone()),
        Event::Note(text) => (false, text.clone()),
        Event::Deleted { partition } => (false, format!("volume {partition}: deleted")),
        Event::Forgotten { partition } => (false, format!("volume {partition}: forgot the copy of before")),
    }
}

/// The partition that an event is about.
pub(super) fn partition_of(event: &Event) -> Option<PartitionId> {
    match event {
        Event::Adopted { stamp } | Event::Serving { stamp } => Some(stamp.partition),
        Event::PeerAway { partition, .. }
        | Event::Demoted { partition, .. }
        | Event::DataLost { partition, .. }
        | Event::SlowIo { partition, .. }
        | Event::Deleted { partition }
        | Event::Forgotten { partition } => Some(*partition),
        Event::Propose(proposal) => Some(proposal.partition),
        Event::Recovered { .. }
        | Event::Corrupt { .. }
        | Event::Repaired { .. }
        | Event::DeviceFailed { .. }
        | Event::DeviceTurned { .. }
        | Event::Attention(_)
        | Event::Note(_) => None,
    }
}

/// A network that went down or came up, for people.
pub(super) fn describe_path(peer: &str, path: PathId, state: PathState, others: bool) -> (bool, String) {
    let network = u32::from(path.0) + 1;
    match state {
        PathState::Up => (false, format!("network {network} to {peer} is up again")),
        _ if others => (true, format!("network {network} to {peer} is down; the other one carries")),
        // Then it is the peer rather than a network, which others tell of.
        _ => (false, format!("network {network} to {peer} is down, and no other carries")),
    }
}

/// At most so many slow I/Os are told of per second: a stalled volume has thousands at once, and the
/// counter `slow` has them all.
const SLOW_PER_SECOND: u32 = 10;

/// Counts what was told of this second.
pub(super) struct Valve {
    second: Instant,
    told: u32,
}

impl Default for Valve {
    fn default() -> Self {
        Self { second: Instant::now(), told: 0 }
    }
}

impl Valve {
    /// Whether another one may be told of.
    pub(super) fn admit(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self { second: Instant::now(), told: 0 };
        }
        self.told += 1;
        self.told <= SLOW_PER_SECOND
    }
}
