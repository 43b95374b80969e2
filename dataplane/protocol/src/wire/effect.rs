//! Effects that wait, and time. Machines push commands, drivers push completions.

use super::ids::{DeviceId, ExtentId, LogId, NodeId, Number, PartitionId, Proposal, Stamp};
use super::msg::Msg;
use super::status::DeviceHealth;
use super::volume::ClientDone;
use palisade_dma::{Buf, BufMut};
use smallvec::SmallVec;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Monotonic time in nanoseconds since an arbitrary start; always an argument, never read here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// Time since `earlier`, zero when that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_nanos() as u64))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Generational name of an outstanding command, chosen by the machine that waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// Which of a node's devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIx(pub u16);

/// What a device is to do. Offsets and lengths are bytes, multiples of 4096.
#[derive(Debug)]
pub enum BlockOp {
    /// Fill `buf` from `offset`.
    Read {
        /// Byte offset on the device.
        offset: u64,
        /// Its length says how much to read; comes back with the completion.
        buf: BufMut,
    },
    /// Write `bufs` one after another from `offset`.
    Write {
        /// Byte offset on the device.
        offset: u64,
        /// Each a multiple of 4096 bytes, at an address that is one too.
        bufs: SmallVec<[Buf; 4]>,
        /// Durable before it completes (P-09).
        fua: bool,
    },
    /// Everything completed before this was submitted is durable when it completes.
    Flush,
}

/// A command to the block port. Commands may complete in any order.
#[derive(Debug)]
pub struct BlockCmd {
    /// Which device.
    pub device: DeviceIx,
    /// Comes back with the completion.
    pub key: Key,
    /// What to do.
    pub op: BlockOp,
}

/// Why a device did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The medium or the kernel reported an error.
    #[error("I/O error")]
    Io,
    /// The device is gone.
    #[error("device gone")]
    Gone,
    /// The device has no room left (a thin file on a full file system).
    #[error("no space left on the backing store")]
    NoSpace,
    /// Outside the device, or unaligned.
    #[error("range outside the device or unaligned")]
    Range,
}

/// What a finished command gives back.
#[derive(Debug)]
pub enum BlockOk {
    /// The filled buffer of a read.
    Read(BufMut),
    /// A write or flush ended.
    Done,
}

/// A completion from the block port.
#[derive(Debug)]
pub struct BlockDone {
    /// The key of its command.
    pub key: Key,
    /// How it ended.
    pub result: Result<BlockOk, BlockError>,
}

/// What a machine wants done, in one place that its caller owns and empties each turn.
#[derive(Debug, Default)]
pub struct Out {
    /// Commands to the node's own devices.
    pub block: Vec<BlockCmd>,
    /// Messages to other nodes.
    pub net: Vec<(NodeId, Msg)>,
    /// Answers to clients.
    pub done: Vec<ClientDone>,
    /// What happened, for control, status, logs and metrics; never needed for correctness.
    pub events: Vec<Event>,
}

impl Out {
    /// Whether nothing waits in it.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty() && self.net.is_empty() && self.done.is_empty() && self.events.is_empty()
    }
}

/// Something that people or the control plane want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A head read its log and waits for numbers; `log` is its log's identity.
    Recovered {
        /// The log.
        log: LogId,
    },
    /// A member adopted the number durably.
    Adopted {
        /// Partition, number, grant.
        stamp: Stamp,
    },
    /// The primary reconciled and serves under the stamp (P-13).
    Serving {
        /// Partition, number, grant.
        stamp: Stamp,
    },
    /// The secondary does not answer; requests wait.
    PeerAway {
        /// The partition that waits.
        partition: PartitionId,
        /// Who is away.
        peer: NodeId,
    },
    /// A higher number was met; this head stopped serving.
    Demoted {
        /// The partition.
        partition: PartitionId,
        /// The number met.
        number: Number,
    },
    /// Bytes did not match their checksum. Counted; never passed on.
    Corrupt {
        /// Where: "log", "column", "checkpoint", ...
        place: &'static str,
        /// Which one, for people (extent 12 column 3, log block 88, ...).
        what: String,
    },
    /// Bytes that had rotted were made good again.
    Repaired {
        /// As in `Corrupt`.
        place: &'static str,
        /// As in `Corrupt`.
        what: String,
    },
    /// An extent has fewer good columns than its code needs.
    DataLost {
        /// The partition.
        partition: PartitionId,
        /// The extent.
        extent: ExtentId,
    },
    /// A device failed or is suspect.
    DeviceFailed {
        /// The device of this node.
        device: DeviceIx,
        /// What was seen.
        why: &'static str,
    },
    /// A head thinks differently of a sled's device now (EF-22).
    DeviceTurned {
        /// The device.
        device: DeviceId,
        /// The sled that serves it.
        sled: NodeId,
        /// What the head thinks of it.
        health: DeviceHealth,
        /// Why.
        why: &'static str,
    },
    /// A partition was deleted on its members and its columns were released.
    Deleted {
        /// The partition.
        partition: PartitionId,
    },
    /// A head that is no member any more gave up what it held of a partition (MA-21).
    Forgotten {
        /// The partition.
        partition: PartitionId,
    },
    /// A client command took longer than the threshold.
    SlowIo {
        /// The partition.
        partition: PartitionId,
        /// "read", "write" or "clear".
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Nanoseconds since its arrival at which each stage ended (0: not passed): numbered or looked
        /// up, own log durable, secondary durable, answered.
        stages: [u64; 4],
    },
    /// This head wants another group (MA-05). Unlike every other event it must reach the authority; the head
    /// repeats it until it hears the outcome.
    Propose(Proposal),
    /// Something that people have to see to, with what to do.
    Attention(String),
    /// Something else worth a log line.
    Note(String),
}
