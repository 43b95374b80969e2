//! Counters and stage histograms of a head; what `status`, metrics and the slow-I/O log show.

use crate::wire::DeviceHealth;
use crate::wire::ids::{DeviceId, LogId, Member, NodeId, Op, PartitionId, Stamp};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Stages of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Stage {
    /// Arrival until numbered (writes) or looked up (reads): waiting for room, order and pairs.
    Receive,
    /// Numbered until durable in the own log.
    Log,
    /// Numbered until the secondary's watermark covers it.
    Replicate,
    /// Both durable until the index is changed.
    Index,
    /// A flush batch from gathering until its repoint is committed.
    Flush,
    /// Encoding of one stripe, with the checksums of its units.
    Encode,
    /// One column read from asking until its bytes are there.
    ColumnRead,
    /// Arrival until answered.
    Reply,
}

/// All stages, in order.
pub const STAGES: [Stage; 8] = [
    Stage::Receive,
    Stage::Log,
    Stage::Replicate,
    Stage::Index,
    Stage::Flush,
    Stage::Encode,
    Stage::ColumnRead,
    Stage::Reply,
];

impl Stage {
    /// Name for metrics and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Log => "log",
            Self::Replicate => "replicate",
            Self::Index => "index",
            Self::Flush => "flush",
            Self::Encode => "encode",
            Self::ColumnRead => "column_read",
            Self::Reply => "reply",
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened since the head started; they only rise.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }
        impl Counters {
            /// Calls `each` with the name and value of every counter.
            pub fn each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each(stringify!($name), self.$name);)*
            }
            /// Adds another set.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Client reads answered.
    reads,
    /// Client writes answered.
    writes,
    /// Client trims and write-zeroes answered.
    clears,
    /// Bytes of answered reads.
    read_bytes,
    /// Bytes of answered writes.
    write_bytes,
    /// Client commands that failed.
    errors,
    /// Read-modify-writes of single blocks (P-10).
    merges,
    /// Commands that had to wait for room, credit or a pair.
    waits,
    /// Flush batches whose repoint was committed.
    flushes,
    /// Repoint operations committed.
    repoints,
    /// User bytes moved by flushes.
    flushed_bytes,
    /// Bytes sent to columns, parity and padding included.
    column_bytes,
    /// Collector batches whose repoint was committed.
    collections,
    /// Bytes moved by the collector.
    collected_bytes,
    /// Bytes moved off devices that failed, were given up or are drained, and out of extents that lacked
    /// good columns.
    rebuilt_bytes,
    /// Extents created.
    extents_created,
    /// Extents released.
    extents_released,
    /// Columns released.
    columns_released,
    /// Orphan columns found by a list after a claim (P-27).
    orphans,
    /// Reads rebuilt from other columns.
    degraded_reads,
    /// Column reads that were hedged.
    hedged,
    /// Blocks whose checksum did not match, wherever.
    corrupt,
    /// Rotten blocks made good again.
    repaired,
    /// Announces that ended in serving (P-13).
    reconciles,
    /// Claims granted by devices.
    claims,
    /// Answers that fenced or voided a token.
    fenced,
    /// Times that a higher number stopped this head.
    demotions,
    /// Proposals of another group.
    proposals,
    /// Replication messages sent again.
    resends,
    /// Confirms sent.
    confirms,
    /// Blocks copied forward in the log.
    copied_forward,
    /// Full copies begun for another head.
    copies,
    /// Bytes of log blocks sent with them.
    copied_bytes,
    /// Blocks that they named.
    copied_blocks,
    /// Blocks that they left out, because their takers had them from checkpoints on sleds.
    spared_blocks,
    /// Commands slower than the threshold.
    slow,
    /// Checkpoints completed.
    checkpoints,
    /// Checkpoints on sleds that were named (P-29).
    sled_checkpoints,
    /// Pages written for such, each to all its copies.
    checkpoint_pages,
    /// Units of copies that were sent to sleds while running alone (P-30).
    journal_units,
    /// Operations taken over from such copies.
    salvaged,
    /// Questions to sleds whether the number still holds, for reads while running alone.
    vouches,
}

impl Counters {
    /// Commands of clients that were answered.
    pub fn answered(&self) -> u64 {
        self.reads + self.writes + self.clears + self.errors
    }
}

/// Counters and histograms.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Counters.
    pub counters: Counters,
    stages: [Histogram<u64>; STAGES.len()],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            stages: std::array::from_fn(|_| {
                Histogram::new_with_bounds(1, 100_000_000_000, 2).expect("constant bounds are valid")
            }),
        }
    }
}

impl Stats {
    /// Adds one duration to a stage.
    #[inline]
    pub fn record(&mut self, stage: Stage, span: Duration) {
        self.stages[stage as usize].saturating_record(span.as_nanos() as u64);
    }

    /// The histogram of a stage, in nanoseconds.
    pub fn histogram(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage as usize]
    }
}

/// What a partition does on this head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleState {
    /// No number under this boot yet (P-01).
    Idle,
    /// Primary, between assignment and service.
    Reconciling,
    /// Primary, serving.
    Serving,
    /// Secondary, following.
    Following,
    /// Stopped by a higher number, a conflict or damage; `status` tells why.
    Stopped,
}

/// A device as the primary sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The device.
    pub device: DeviceId,
    /// Its sled.
    pub sled: NodeId,
    /// Whether it granted the current number.
    pub claimed: bool,
    /// Free columns when it last told.
    pub free: u32,
    /// What the head thinks of it.
    pub health: DeviceHealth,
    /// Whether its sled is being drained.
    pub leave: bool,
    /// Columns there: of extents, of one in the making, and such that are being given back
    /// by a device that did not fail.
    pub held: u32,
}

/// What is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Extents.
    pub extents: u32,
    /// Blocks that live in them.
    pub blocks: u64,
}

/// How far a head that is being filled has come (BA-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillStatus {
    /// Who is filled: no member yet, or a member that cannot follow from its log.
    pub member: Member,
    /// Blocks of the index that it has got in this round.
    pub blocks_done: u64,
    /// Blocks of the index when the round began; of both, only blocks that hold something count.
    pub blocks_all: u64,
    /// Copies begun so far: more than one when the head restarted, was silent or fell too far behind.
    pub rounds: u32,
}

/// A partition for `status`.
#[derive(Clone, Debug)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// What it does here.
    pub role: RoleState,
    /// Why it does not serve or follow, when it does not.
    pub why: &'static str,
    /// Durable pair.
    pub stamp: Stamp,
    /// Last committed operation.
    pub committed: Op,
    /// Last numbered operation.
    pub tail: Op,
    /// Commands that wait to be numbered or looked up.
    pub waiting: u32,
    /// Commands in progress.
    pub active: u32,
    /// Whether the other member is away.
    pub peer_away: bool,
    /// Whether this head leads a group of one.
    pub alone: bool,
    /// Whether it has to leave this head (BA-02).
    pub isolating: bool,
    /// Whether it proposed another group and does not know the outcome (P-02).
    pub proposing: bool,
    /// The full copy that this primary gives to another head.
    pub fill: Option<FillStatus>,
    /// What the checkpoints on sleds that are kept cover, the newest first (P-29).
    pub checkpoints: Vec<Op>,
    /// Columns of theirs, and of one that is being written.
    pub checkpoint_columns: u32,
    /// A member of the group, possibly this head itself, whose log cannot follow: it needs a full copy.
    pub needs_copy: Option<NodeId>,
    /// Blocks whose newest version is in the log only.
    pub log_blocks: u64,
    /// Extents.
    pub extents: u32,
    /// Extents that lack good columns.
    pub degraded: u32,
    /// Extents that had blocks which could not be read.
    pub lost: u32,
    /// Blocks that live in extents.
    pub extent_blocks: u64,
    /// Data blocks that the extents have room for.
    pub extent_room: u64,
    /// Columns that the most endangered extent can still lose; below zero data is lost. None without extents.
    pub redundancy: Option<i8>,
    /// Extents that lack good columns: what a rebuild has to do.
    pub rebuild: Left,
    /// Whole extents with columns on sleds that are being drained (EF-23).
    pub leaving: Left,
    /// Devices (primary only).
    pub devices: Vec<DeviceStatus>,
    /// Counters and histograms.
    pub stats: Stats,
}

/// What a head noticed of its log's device since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediumStatus {
    /// Commands that ended.
    pub ops: u64,
    /// Of those, failed; a device without room is none.
    pub errors: u64,
    /// Appends that took longer than slow I/O may.
    pub slow: u64,
    /// Of the commands of late, those in a thousand that went well.
    pub success: u16,
    /// Smoothed time of appends, or how long one takes that does not end; none: nothing was written of late.
    pub append: Option<Duration>,
}

impl Default for MediumStatus {
    fn default() -> Self {
        Self { ops: 0, errors: 0, slow: 0, success: 1000, append: None }
    }
}

/// A head for `status`.
#[derive(Clone, Debug)]
pub struct HeadStatus {
    /// The node.
    pub node: NodeId,
    /// Its log, once known.
    pub log: Option<LogId>,
    /// Whether recovery is over.
    pub recovered: bool,
    /// The log device failed; nothing is acknowledged any more.
    pub log_failed: bool,
    /// Why the head could not open its log; empty when it could.
    pub log_why: String,
    /// Log blocks in all.
    pub log_blocks: u64,
    /// Log blocks free for appends.
    pub log_free: u64,
    /// Blocks of further partitions that checkpoints in the log have room for (P-32); 0 until it is read.
    pub log_room: u64,
    /// Its log's device.
    pub medium: MediumStatus,
    /// Partitions.
    pub partitions: Vec<PartitionStatus>,
}
