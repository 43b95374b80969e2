//! What a head is told at its construction and by control at run time. No policy lives here.

use crate::wire::ids::{BootId, DeviceId, LogId, NodeId, PartitionId, RackId};
use crate::wire::limits::SEGMENT_DEFAULT;
use crate::wire::ops::Geometry;
use crate::wire::{ClientError, DeviceIx, Time};
use std::time::Duration;

use super::devices::DeviceWatch;
use super::failover::FailoverConfig;
use super::faults::Faults;

/// Everything that a head needs to know at its start.
#[derive(Clone, Debug)]
pub struct HeadConfig {
    /// This node.
    pub node: NodeId,
    /// This boot: drawn afresh by the node at each start (P-01).
    pub boot: BootId,
    /// The rack that the log must belong to.
    pub rack: RackId,
    /// Where the log lies and whether it is to be made.
    pub log: HeadLog,
    /// Partitions known at the start; more by [`super::Head::create_partition`].
    pub partitions: Vec<PartitionConfig>,
    /// When and how fast to flush and collect.
    pub flush: FlushConfig,
    /// Times of repeats, hedges and give-ups.
    pub retry: RetryConfig,
    /// When a sled's device is suspect, and when it is given up.
    pub watch: DeviceWatch,
    /// Bytes of recently written payload that stay in memory for reads and flushes.
    pub hot_bytes: usize,
    /// Most operations of a partition that are numbered but not committed.
    pub window: u32,
    /// A client command slower than this is reported with its stages.
    pub slow_io: Duration,
    /// Measures what a head does within one turn (encoding); without one that stage stays empty. Nothing
    /// is ever decided by it.
    pub stopwatch: Option<fn() -> Time>,
    /// How fast silent peers are noticed, and what is proposed then; without it roles move by
    /// [`super::Head::assign`] only.
    pub failover: Option<FailoverConfig>,
    /// Test-only switches, each of which breaks one rule.
    pub faults: Faults,
    /// The log's test-only switches.
    pub log_faults: crate::log::Faults,
}

impl HeadConfig {
    /// Defaults for everything but the names and the log.
    pub fn new(node: NodeId, boot: BootId, rack: RackId, log: HeadLog) -> Self {
        Self {
            node,
            boot,
            rack,
            log,
            partitions: Vec::new(),
            flush: FlushConfig::default(),
            retry: RetryConfig::default(),
            watch: DeviceWatch::default(),
            hot_bytes: 64 << 20,
            window: 1024,
            slow_io: Duration::from_millis(100),
            stopwatch: None,
            failover: None,
            faults: Faults::default(),
            log_faults: crate::log::Faults::default(),
        }
    }
}

/// The log's device.
#[derive(Clone, Debug)]
pub struct HeadLog {
    /// The device among the node's.
    pub device: DeviceIx,
    /// Its size in bytes.
    pub bytes: u64,
    /// Segment size in bytes; matters when the log is formatted, and when no copy of its superblock is whole.
    pub segment_bytes: u32,
    /// Whether to make a log or to open one.
    pub start: LogStart,
    /// Most volume bytes that checkpoints must have room for (P-32); matters when `segment_bytes` does.
    pub volume_bytes: u64,
}

impl HeadLog {
    /// A log of `bytes` on `device` with default segments.
    pub fn new(device: DeviceIx, bytes: u64, start: LogStart) -> Self {
        Self { device, bytes, segment_bytes: SEGMENT_DEFAULT as u32, start, volume_bytes: 16 * bytes }
    }
}

/// How a head meets its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStart {
    /// The store does not know the device and it is blank: make a log with this identity (P-03).
    Format(LogId),
    /// The store knows it: it must carry this identity, or the head stays down (P-03).
    Open(LogId),
}

/// A partition as control declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// The partition (for now: the volume).
    pub partition: PartitionId,
    /// Size in blocks of 4 KiB.
    pub blocks: u64,
    /// Code, stripe unit, stripes per column.
    pub geometry: Geometry,
    /// Fewest columns that a flush may write (P-25); 0 means k + 1.
    pub columns_min: u8,
    /// Devices of the rack that may hold columns of it.
    pub devices: Vec<DeviceTarget>,
    /// What a group of one may do.
    pub solo: Solo,
    /// Heads that are of its group, were, or are declared to be.
    pub heads: u8,
}

/// What a group of one may do with changes of blocks (P-30).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Solo {
    /// Reads are served; writes and trims wait until the group has two members again.
    #[default]
    Wait,
    /// They are acknowledged once `m + 1` sleds hold a copy of each, from which another head can salvage them.
    Sleds,
    /// They are acknowledged from one copy: an explicit choice, or a volume that never has a second member.
    Local,
}

impl PartitionConfig {
    /// What clients hear when the head's own log fails: that they ask another head, which goes on, or which they
    /// wait for. It is an error of their volume only where there never is another one.
    pub(super) fn without_log(&self) -> ClientError {
        if self.heads > 1 { ClientError::NotServed } else { ClientError::Device }
    }

    /// Whether operations are numbered by both heads of a pair or not at all: of three heads two may go on
    /// without the third.
    pub(super) fn never_without_one(&self) -> bool {
        self.solo == Solo::Wait && self.heads <= 2
    }

    /// Fewest columns that an extent of this partition is made of.
    pub fn columns_min(&self) -> usize {
        let k = usize::from(self.geometry.k);
        if self.columns_min == 0 {
            k + 1
        } else {
            usize::from(self.columns_min).clamp(k, self.geometry.columns())
        }
    }
}

/// A sled device as a target of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTarget {
    /// The sled that serves it at present.
    pub sled: NodeId,
    /// The device.
    pub device: DeviceId,
    /// Fault domain: columns of one extent prefer different shelves.
    pub shelf: u32,
    /// Sandbox: preferred columns `[first, last)` (EF-13).
    pub sandbox: Option<(u32, u32)>,
    /// Its sled is being drained: no new columns, and those that are there move elsewhere (EF-23).
    pub leave: bool,
}

/// When and how fast to flush and collect (EF-08).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushConfig {
    /// Share of log segments in use, in percent, from which flushing starts.
    pub fill_low: u8,
    /// Share from which partial stripes are flushed too.
    pub fill_high: u8,
    /// Data older than this is flushed at any fill; zero disables the age trigger.
    pub age: Duration,
    /// Stripes written by one batch (at most `limits::WRITE_UNITS_MAX`).
    pub stripes: u8,
    /// Batches in flight per partition.
    pub batches: u8,
    /// Live share of an extent, in percent, below which it is collected.
    pub collect_below: u8,
    /// Free columns per device that only the collector may take (P-32).
    pub reserve_columns: u32,
    /// Share of the time, in percent, that a rebuild may take while clients are at work (at least 1).
    pub rebuild_share: u8,
    /// Batches of a rebuild in flight on a head (at least 1).
    pub rebuild_batches: u8,
    /// Requests of a rebuild that a device has at once (at least 1).
    pub rebuild_requests: u8,
    /// Flushed bytes after which another checkpoint of the index is written to sleds (BA-01); zero: none ever.
    pub checkpoint_bytes: u64,
    /// Time after which it is written when fewer were flushed; zero disables that trigger.
    pub checkpoint_age: Duration,
}

impl Default for FlushConfig {
    fn default() -> Self {
        Self {
            fill_low: 40,
            fill_high: 75,
            age: Duration::from_secs(30),
            stripes: 4,
            batches: 2,
            collect_below: 50,
            reserve_columns: 1,
            rebuild_share: 80,
            rebuild_batches: 20,
            rebuild_requests: 3,
            checkpoint_bytes: 1 << 30,
            checkpoint_age: Duration::from_secs(600),
        }
    }
}

/// Times of repeats, hedges and give-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// First repeat of an unanswered message.
    pub first: Duration,
    /// Longest gap between repeats.
    pub last: Duration,
    /// The peer counts as away when nothing open was answered for this long.
    pub away: Duration,
    /// A column write or reserve that is not answered for this long counts as a device error (P-24).
    pub column_timeout: Duration,
    /// A column read that is not answered for this long counts as a missing column.
    pub read_timeout: Duration,
    /// Least wait before a column read is hedged.
    pub hedge_min: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(20),
            last: Duration::from_millis(200),
            away: Duration::from_millis(500),
            column_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(2),
            hedge_min: Duration::from_millis(2),
        }
    }
}
