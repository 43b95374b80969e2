//! What a sled tells about itself: counters and device states, for status, metrics and tests (EF-30).

use super::format::Verdict;
use crate::wire::{DeviceId, DeviceIx, Status};

/// Refusals by status of OP-30.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// A higher number holds the partition.
    pub fenced: u64,
    /// No valid token.
    pub no_token: u64,
    /// Another owner, extent or generation.
    pub not_owner: u64,
    /// A reservation below the stored number.
    pub stale_number: u64,
    /// No free column.
    pub not_free: u64,
    /// Failed or suspect device.
    pub device_error: u64,
    /// Checksum mismatch.
    pub corrupt: u64,
    /// Asked to come again.
    pub retry: u64,
    /// Malformed or out of range.
    pub bad_request: u64,
}

impl Refusals {
    /// Counts an answer; `Ok` is none.
    pub(super) fn count(&mut self, status: &Status) {
        let counter = match status {
            Status::Ok => return,
            Status::Fenced { .. } => &mut self.fenced,
            Status::NoToken => &mut self.no_token,
            Status::NotOwner => &mut self.not_owner,
            Status::StaleNumber { .. } => &mut self.stale_number,
            Status::NotFree => &mut self.not_free,
            Status::DeviceError => &mut self.device_error,
            Status::Corrupt => &mut self.corrupt,
            Status::Retry => &mut self.retry,
            Status::BadRequest => &mut self.bad_request,
        };
        *counter += 1;
    }
}

/// Counters of a device since the sled's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Column writes carried out.
    pub writes: u64,
    /// Bytes of stripe units written.
    pub bytes_written: u64,
    /// Column page writes: the price of tables and records.
    pub page_writes: u64,
    /// Reads carried out.
    pub reads: u64,
    /// Bytes read for heads.
    pub bytes_read: u64,
    /// Partition reservations granted.
    pub grants: u64,
    /// Columns reserved.
    pub columns_reserved: u64,
    /// Columns released.
    pub columns_released: u64,
    /// Stripe units that scrub has read.
    pub scrubbed: u64,
    /// Scrub passes completed.
    pub scrub_passes: u64,
    /// Checksum mismatches found, by reads, scrub and recovery.
    pub corrupt: u64,
    /// Refused requests.
    pub refused: Refusals,
}

/// How a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Its records are being read; everything is answered `Retry` (P-17).
    Recovering,
    /// Serves.
    Ready,
    /// A drain did not end in time: refuses changes until the stuck commands have returned.
    Suspect,
    /// Its file system has no room: serves reads, claims and releases, takes no new data until there is.
    Full,
    /// Not one of ours, or unreadable: serves nothing. Never reformatted from here.
    Refused(Verdict),
    /// It failed: serves nothing.
    Failed(&'static str),
}

/// A device, as status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its number at the block port.
    pub ix: DeviceIx,
    /// Its identity, once known.
    pub device: Option<DeviceId>,
    /// How it is.
    pub state: DeviceState,
    /// Columns in all.
    pub columns: u32,
    /// Free columns.
    pub free: u32,
    /// Columns whose record rotted in both slots: neither used nor given out.
    pub quarantined: u32,
    /// Size of a column.
    pub column_bytes: u64,
    /// Partitions with a record here.
    pub partitions: u32,
    /// Counters.
    pub counters: Counters,
}

/// A sled, as status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SledStatus {
    /// Its devices, in configuration order.
    pub devices: Vec<DeviceStatus>,
    /// Requests for devices that are not here, or that are no requests to a sled.
    pub misaddressed: u64,
}
