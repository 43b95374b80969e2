//! Words of the log: addresses, configuration, verdicts, what is put in and what is found.

use super::Faults;
use super::index::Index;
use crate::wire::*;
use palisade_dma::Buf;
use std::collections::VecDeque;

/// Number of a log record: rises by one with every record, over restarts too. 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A 4 KiB block of the log device, counted from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogAddr(pub u64);

impl LogAddr {
    /// Byte offset on the log device.
    pub fn offset(self) -> u64 {
        self.0 * limits::BLOCK as u64
    }
    /// The address `blocks` further.
    pub fn plus(self, blocks: u64) -> Self {
        Self(self.0 + blocks)
    }
}

/// How to format a blank log device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatAs {
    /// The identity that the log gets (P-03).
    pub log: LogId,
    /// Bytes of a segment: a multiple of 4096, at least 512 KiB.
    pub segment_bytes: u64,
    /// Blocks (4 KiB) of all partitions together that a checkpoint must hold (P-32).
    pub volume_blocks: u64,
}

/// What a log needs to know.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The device, as the node numbers it.
    pub device: DeviceIx,
    /// Its size.
    pub device_bytes: u64,
    /// The rack that it must belong to.
    pub rack: RackId,
    /// Identity that the log must have; `None` takes any of the rack.
    pub expect: Option<LogId>,
    /// How to format it, if it is blank; `None` refuses a blank device.
    pub format: Option<FormatAs>,
    /// How it was formatted: should no copy of its superblock be whole, it is looked for there.
    pub rescue: Option<FormatAs>,
    /// Most bytes of buffer slots kept for reads of what was written lately.
    pub hot_bytes: usize,
    /// Rules to break (tests only).
    pub faults: Faults,
}

/// Top byte of every [`Key`] of the log's block commands; other machines of the node keep off it.
pub const LOG_KEY_TAG: u64 = 0x4c << 56;

/// Whether a completion belongs to the log.
pub fn is_log_key(key: Key) -> bool {
    key.0 >> 56 == LOG_KEY_TAG >> 56
}

/// What a device turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// Zeroes where a superblock would be.
    #[error("it is blank")]
    Blank,
    /// Somebody else's bytes.
    #[error("it holds something that is no head log")]
    ForeignSignature,
    /// A Palisade log of another rack.
    #[error("it is a log of another rack, {0}")]
    OtherRack(RackId),
    /// Another log of this rack (P-03).
    #[error("it is another log, {0}")]
    OtherLog(LogId),
    /// Written by a later version.
    #[error("a newer version of Palisade wrote it (format {major})")]
    Newer {
        /// Its major version.
        major: u16,
    },
    /// Ours by its magic, but no copy of the superblock is whole, or it does not fit the device.
    #[error("{0}")]
    Damaged(&'static str),
}

/// Why a log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The device is not a usable log.
    #[error("log device refused: {0}")]
    Refused(Verdict),
    /// A read or write failed.
    #[error("log device failed while {doing}: {error}")]
    Device {
        /// What was going on.
        doing: &'static str,
        /// The device's answer.
        error: BlockError,
    },
    /// Both copies of a checkpoint page are rotten. Fails no recovery: see `recover::fallback`.
    #[error("checkpoint {generation}: both copies of page {page} are corrupt")]
    Checkpoint {
        /// Its generation.
        generation: u64,
        /// The page.
        page: u32,
    },
    /// The geometry asked for does not fit the device.
    #[error("log device of {device_bytes} bytes is too small: it needs {needed} bytes")]
    TooSmall {
        /// What there is.
        device_bytes: u64,
        /// What is needed at least.
        needed: u64,
    },
    /// No buffers left to read with.
    #[error("buffer pool exhausted during log recovery")]
    NoBuffer,
}

impl LogError {
    /// Whether trying again may help: the device said no, and may say yes later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Device { error, .. } => matches!(error, BlockError::Io | BlockError::NoSpace),
            Self::NoBuffer => true,
            Self::Refused(_) | Self::Checkpoint { .. } | Self::TooSmall { .. } => false,
        }
    }

    /// What people can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Device { error: BlockError::NoSpace, .. } => {
                "free space on the file system below the log; a file that is not sparse needs none"
            }
            Self::Device { .. } => {
                "see to the device; if it is lost, give it up with `palisade device replace` and start the node again"
            }
            Self::Refused(Verdict::Newer { .. }) => "use the version of Palisade that wrote it",
            Self::Refused(Verdict::OtherRack(_) | Verdict::OtherLog(_) | Verdict::ForeignSignature) => {
                "bring back the device that belongs here, or mend the path in the rack file"
            }
            Self::Refused(_) | Self::Checkpoint { .. } => {
                "bring back the device that belongs here, or give it up with `palisade device replace` and start the \
                 node again: other heads fill it then"
            }
            Self::TooSmall { .. } => "configure a larger log, or smaller segments",
            Self::NoBuffer => "give a larger [reactors] pool",
        }
    }
}

/// Where an entry was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its record; durable once [`Log::durable`] reaches it.
    pub lsn: Lsn,
    /// Where its payload starts; meaningless without payload.
    pub addr: LogAddr,
}

/// Why an entry was not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No room of that kind (see [`Room`]); flush and release first.
    #[error("log is full")]
    Full,
    /// No buffer for a header; try next turn.
    #[error("no buffer for a record header")]
    NoBuffer,
    /// The device failed; nothing is acknowledged any more.
    #[error("log device failed")]
    Failed,
    /// The entry exceeds a limit (`limits::IO_BLOCKS_MAX`, `limits::REPOINT_ENTRIES_MAX`).
    #[error("entry exceeds a limit")]
    TooLarge,
    /// A block to copy forward is no longer live; gather again.
    #[error("block to copy died meanwhile")]
    Stale,
}

/// Who asks for log space (P-31, P-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Client data.
    User,
    /// The same at a secondary, and clears. It was promised room (credit), and what frees its log (a repoint) may stand
    /// behind it in the one order: so it may use the reserve as copies may.
    Replica,
    /// Copy-forward of live blocks: may use all of the reserve but one segment.
    Copy,
    /// Metadata operations and adoptions: may use the whole reserve.
    Metadata,
}

/// A committed block run that is moved to the log's head, so that its old segment can go.
#[derive(Clone, Debug)]
pub struct CopyForward {
    /// Its partition.
    pub partition: PartitionId,
    /// The operation that wrote it.
    pub op: Op,
    /// First block.
    pub lba: Lba,
    /// Checksum of each block.
    pub crcs: CrcList,
    /// Where they lay when they were gathered: refused as stale if one of them died since.
    pub from: LogAddr,
    /// The bytes.
    pub data: Buf,
}

/// Some blocks of one write, as the log holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// Their partition.
    pub partition: PartitionId,
    /// The operation that wrote them.
    pub op: Op,
    /// First block.
    pub lba: Lba,
    /// Where the first block lies.
    pub addr: LogAddr,
    /// How many.
    pub blocks: u32,
}

/// Keeps a segment from being released while a read of it is under way. Give it back to [`Log::unpin`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pin that is dropped keeps its segment for ever"]
pub struct Pin(pub(super) u64);

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loc {
    /// Never written: zeroes.
    Hole,
    /// Trimmed: zeroes; its op is kept (P-07).
    Cleared,
    /// No copy is readable: an error, until it is written or trimmed.
    Lost,
    /// In this head's log.
    Log(LogAddr),
    /// In an extent.
    Extent {
        /// Slot in the index's extent table ([`Index::extent`]).
        slot: u32,
        /// Data block in the extent.
        block: u32,
    },
}

/// One block as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The operation that wrote or cleared it; 0 for a hole.
    pub op: Op,
    /// Where it lies.
    pub loc: Loc,
    /// CRC32C of its contents.
    pub crc: u32,
}

/// An extent as the index knows it.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Columns, code, number.
    pub desc: ExtentDesc,
    /// Highest indexed stripe plus one: stripes below were repointed to (P-24).
    pub stripes: u32,
    /// Set by a seal: stripes that count.
    pub sealed: Option<u32>,
    /// Columns that lack a stripe, a bit each, per stripe (P-25).
    pub absent: Vec<u16>,
    /// Data blocks that the index refers to.
    pub live: u32,
    /// Released: nothing refers to it; kept until a checkpoint is past it.
    pub released: bool,
}

/// What an operation changed besides the mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Blocks whose mapping changed.
    pub changed: u32,
    /// Blocks of a repoint that no longer matched (P-07).
    pub stale: u32,
}

/// Where the history of a partition begins in this log: a full copy replaces all that stood before (BA-01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Records up to this one are not the partition's any more; 0 where nothing was ever replaced.
    pub since: Lsn,
    /// The copy that began there is not whole: nothing of it counts, and it is forgotten at recovery.
    pub filling: bool,
}

/// What a checkpoint stores of a partition besides its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMeta {
    /// The partition.
    pub partition: PartitionId,
    /// Its blocks.
    pub blocks: u64,
    /// Every operation up to this one is in the index: the checkpoint's C.
    pub committed: Op,
    /// The pair adopted last.
    pub adopted: Option<Adopt>,
    /// Operations up to `committed` may be missing (see [`RecoveredPartition::damaged`]); kept until the
    /// partition was filled anew.
    pub damaged: bool,
    /// Where its history begins here. Of one that is being filled the checkpoint holds nothing else.
    pub origin: Origin,
}

/// The body of an operation as the log holds it: as [`Body`], without the bytes of a write.
#[derive(Clone, Debug)]
pub enum LoggedBody {
    /// A write; its bytes lie in the log.
    Write {
        /// First block.
        lba: Lba,
        /// Checksum of each block.
        crcs: CrcList,
    },
    /// Any other body.
    Other(Body),
}

/// Committed operations that are remembered for a peer whose log lost its end. An append that was under way
/// at a crash is what rot there can take, so this is more than commands that a head holds at once.
pub const RECENT_OPS: usize = 2 * limits::COMMANDS_MAX;

/// An operation of the log, as recovery found it.
#[derive(Clone, Debug)]
pub struct PendingOp {
    /// Its place.
    pub op: Op,
    /// Number under which it was first written.
    pub number: Number,
    /// What it does.
    pub body: LoggedBody,
    /// Where its payload starts.
    pub addr: LogAddr,
}

/// A live block of the log whose bytes rotted: fetch it from the peer and rewrite it (P-06).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// The block.
    pub lba: Lba,
    /// Its version.
    pub op: Op,
    /// Where it lies.
    pub addr: LogAddr,
    /// What its checksum should be.
    pub crc: u32,
}

/// What recovery found of one partition.
#[derive(Debug)]
pub struct RecoveredPartition {
    /// The partition.
    pub partition: PartitionId,
    /// With every operation up to `committed` applied.
    pub index: Index,
    /// Highest operation known to be committed.
    pub committed: Op,
    /// Highest operation held without a hole (at least `committed`).
    pub tail: Op,
    /// The pair adopted last.
    pub adopted: Option<Adopt>,
    /// `committed + 1 ..= tail`, in order.
    pub pending: Vec<PendingOp>,
    /// The last operations up to `committed`, without a gap, as far as the log still has them; at most
    /// [`RECENT_OPS`].
    pub recent: VecDeque<PendingOp>,
    /// Live blocks whose bytes rotted.
    pub bad: Vec<BadBlock>,
    /// Set when records that were durable are lost, so that operations up to `committed` may be missing:
    /// the index must not be served from.
    pub damaged: bool,
    /// Set when records that were durable are lost behind what is held: nothing that is here is in doubt, but
    /// more may have been, and only a peer whose log is whole can tell.
    pub short: bool,
    /// A committed `Delete` was found: the partition is gone.
    pub deleted: bool,
    /// Where its history begins here; if a copy was not whole, nothing is left of it, and it is damaged.
    pub origin: Origin,
}

/// Counters of a recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Good records.
    pub records: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records that were torn or stood beyond a torn one, and were discarded.
    pub torn: u64,
    /// Records at or below the watermark that are unreadable (P-06).
    pub lost: u64,
    /// Payload blocks with a wrong checksum, live or not.
    pub bad_payload: u64,
    /// Blocks that the device could not read; they count as rot.
    pub unreadable: u64,
    /// Checkpoint pages and superblocks repaired from their second copy.
    pub repaired: u64,
    /// Generation of the checkpoint that was loaded; 0 for none.
    pub checkpoint: u64,
    /// Whether the device was blank and has been formatted.
    pub formatted: bool,
    /// No checkpoint can be read that stands for what the log gave back: any partition may lack anything, also
    /// one that is not named.
    pub blind: bool,
}
