//! What a sled is made of, and its limits.

use super::faults::Faults;
use crate::wire::{DeviceIx, NodeId, RackId};
use std::time::Duration;

/// Most column writes, reserves and releases in flight on a device; more are answered `Retry` (`Bounded`).
pub const CHANGES_MAX: usize = 512;
/// Most reads in flight on a device; more are answered `Retry` (`Bounded`).
pub const READS_MAX: usize = 512;
/// Most owned columns in one answer to a list.
pub const LIST_MAX: usize = 256;
/// Column reserves that a device remembers, so that late repeats are answered alike (P-22).
pub const REMEMBERED_RESERVES: usize = 256;

/// A device of the sled.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec {
    /// Its number at the block port.
    pub ix: DeviceIx,
    /// Its size.
    pub bytes: u64,
}

/// Everything that a sled is told at its start.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// This node.
    pub node: NodeId,
    /// The rack whose devices it serves; others are refused.
    pub rack: RackId,
    /// Drawn at random by whoever starts the sled, for every start anew: all tokens derive from it (EF-18).
    pub boot_secret: u128,
    /// Its devices. Each is held exclusively and quiet before the first turn (P-17): that is the work of
    /// the driver that opened it.
    pub devices: Vec<DeviceSpec>,
    /// How long a reservation waits for older writes and for its record before the device is suspect.
    pub drain_limit: Duration,
    /// Compare the checksums that come with a column write with its bytes, before they are written; not those
    /// of a head in the same process, whose buffers these are.
    pub verify_writes: bool,
    /// Pause between two scrub reads of a device.
    pub scrub_gap: Duration,
    /// Pause between two scrub passes over a device.
    pub scrub_rest: Duration,
    /// Rules broken on purpose; none outside tests.
    pub faults: Faults,
}

impl SledConfig {
    /// The defaults for a sled of `devices`.
    pub fn new(node: NodeId, rack: RackId, boot_secret: u128, devices: Vec<DeviceSpec>) -> Self {
        Self {
            node,
            rack,
            boot_secret,
            devices,
            drain_limit: Duration::from_millis(500),
            verify_writes: true,
            scrub_gap: Duration::from_millis(100),
            scrub_rest: Duration::from_secs(600),
            faults: Faults::default(),
        }
    }
}
