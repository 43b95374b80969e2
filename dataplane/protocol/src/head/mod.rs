//! The head machine: serves volumes as primary, follows as secondary.
//!
//! One file per verb. The path of a write: [`write`](self) numbers it, the log and the secondary get it
//! in the same turn, `commit` changes the index when both are durable, and the client is answered.

mod config;
mod faults;
mod stats;

pub use config::{DeviceTarget, FlushConfig, HeadConfig, HeadLog, LogStart, PartitionConfig, RetryConfig};
pub use faults::Faults;
pub use stats::{Counters, DeviceStatus, HeadStatus, PartitionStatus, RoleState, STAGES, Stage, Stats};

use crate::wire::{Assignment, BlockDone, BootId, ClientCmd, ClientTag, Msg, NodeId, Out, PartitionId, Time};
use palisade_dma::Pool;

/// A head.
pub struct Head {
    config: HeadConfig,
    pool: Pool,
}

impl Head {
    /// A head that will read its log at the first [`Head::turn`], and then wait for numbers.
    pub fn new(config: HeadConfig, pool: Pool) -> Self {
        Self { config, pool }
    }

    /// A message from another node.
    pub fn handle_msg(&mut self, _now: Time, _from: NodeId, _from_boot: BootId, _msg: Msg, _out: &mut Out) {}

    /// A completion of an own device.
    pub fn handle_block(&mut self, _now: Time, _done: BlockDone, _out: &mut Out) {}

    /// A client's command. Call only while [`Head::ready`] says so; the head holds what it cannot do yet.
    pub fn handle_client(&mut self, _now: Time, _cmd: ClientCmd, _out: &mut Out) {}

    /// Ends a reactor turn: group commit, replication, confirms, timers, background work.
    pub fn turn(&mut self, _now: Time, _out: &mut Out) {}

    /// When [`Head::turn`] must run again even without input.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// Whether nothing is in progress.
    pub fn idle(&self) -> bool {
        let _ = (&self.config, &self.pool);
        true
    }

    /// The authority granted a number (EF-14, P-01).
    pub fn assign(&mut self, _now: Time, _assignment: Assignment, _out: &mut Out) {}

    /// A partition came into being (or its declaration changed). Known partitions keep their contents.
    pub fn create_partition(&mut self, _now: Time, _config: PartitionConfig) {}

    /// Deletes a partition: on its primary a `Delete` operation, then its columns are released; ends
    /// with `Event::Deleted`. May be repeated after a restart.
    pub fn delete_partition(&mut self, _now: Time, _partition: PartitionId, _out: &mut Out) {}

    /// Control changed which devices may hold columns.
    pub fn set_devices(&mut self, _now: Time, _partition: PartitionId, _devices: Vec<DeviceTarget>) {}

    /// Flushes everything acknowledged before this call to extents, then answers `tag` with a
    /// `ClientDone`: `Ok(Done)`, or `NoSpace`, `NotServed`.
    pub fn flush_all(&mut self, _now: Time, _partition: PartitionId, _tag: ClientTag, _out: &mut Out) {}

    /// Whether exports may hand in another command of the partition (back-pressure).
    pub fn ready(&self, _partition: PartitionId) -> bool {
        true
    }

    /// A picture for `status` and metrics.
    pub fn status(&self) -> HeadStatus {
        HeadStatus {
            node: self.config.node,
            log: None,
            recovered: false,
            log_failed: false,
            log_blocks: 0,
            log_free: 0,
            partitions: Vec::new(),
        }
    }
}
