//! Messages between nodes.
//!
//! Transport contract: within a pair of boots messages are delivered at least once, in any order,
//! unless one side restarts; then the other sees a new [`BootId`] on the envelope and may repeat what
//! was open. Machines bear doubled, late and reordered messages (EF-04).

use super::checkpoint::SledCheckpoint;
use super::copy::CopyPart;
use super::ids::*;
use super::isolation::Score;
use super::ops::{Adopt, Entry};
use super::status::Status;
use palisade_dma::Buf;
use smallvec::SmallVec;

/// A message with its ends.
#[derive(Debug)]
pub struct Envelope {
    /// Sender.
    pub from: NodeId,
    /// Boot of the sender.
    pub boot: BootId,
    /// Receiver.
    pub to: NodeId,
    /// Handed over within the process: payload is the very memory whose checksums the sender took or checked,
    /// read-only since. What a fabric brought never is.
    pub near: bool,
    /// The message.
    pub msg: Msg,
}

/// Everything that nodes say to one another.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // The largest variants are the hot ones: boxing them would allocate.
pub enum Msg {
    // ---- primary to secondary and back ----
    /// P is about to take a number and knows where its own log ends: does the receiver's go on (P-06)? From
    /// its answer on the receiver takes nothing under lower numbers.
    Probe {
        /// The pair to come; `tail` is the end of P's log.
        adopt: Adopt,
        /// The pair that P held before.
        held: Stamp,
    },
    /// Where the secondary's log ends, and what follows the asked tail in it.
    Probed {
        /// Of the pair to come.
        stamp: Stamp,
        /// Its log, so that P refuses another (P-03).
        log: LogId,
        /// Contiguous durable tail; with `damaged`, what it has committed.
        tail: Op,
        /// Set when it cannot follow from its log (see [`Msg::Announced`]).
        damaged: bool,
        /// Set when recovery lost no record of its log: what it took for a torn end never was durable (P-06).
        whole: bool,
        /// Consecutive operations behind the asked tail, under the numbers that they were given.
        entries: SmallVec<[Entry; 4]>,
    },
    /// P took a number: its tail and what it knows committed (P-01, P-13). The receiver persists the
    /// pair, cuts back to `tail`, answers [`Msg::Announced`].
    Announce {
        /// Pair and tail.
        adopt: Adopt,
        /// Highest operation that P knows to be committed.
        committed: Op,
    },
    /// The secondary adopted the pair; `durable` is its contiguous durable tail after the cut.
    Announced {
        /// The adopted stamp.
        stamp: Stamp,
        /// Its log, so that P refuses another (P-03).
        log: LogId,
        /// Contiguous durable tail.
        durable: Op,
        /// Payload blocks, counted from now, that P may send (P-31).
        credit: u64,
        /// Operations that the secondary's durable checkpoint covers (P-28).
        covered: Op,
        /// Set when the secondary cannot follow from its log (it is blank, damaged, or committed more
        /// than P holds): says what it has, and joining needs a full copy.
        damaged: bool,
    },
    /// Operations, in order, with the committed watermark. Repeats are harmless.
    Replicate {
        /// Speaker's stamp.
        stamp: Stamp,
        /// P's committed watermark.
        committed: Op,
        /// Consecutive operations; empty when only the watermark moves.
        entries: SmallVec<[Entry; 4]>,
    },
    /// All operations up to `durable` are in the secondary's durable log, without a hole (P-06).
    Replicated {
        /// The stamp answered.
        stamp: Stamp,
        /// Contiguous durable watermark.
        durable: Op,
        /// Payload blocks, counted from the announce, that P may send in all (P-31).
        credit: u64,
        /// Operations that the secondary's durable checkpoint covers (P-28).
        covered: Op,
    },
    /// Does the peer still hold these pairs? One in flight per peer (P-12).
    Confirm {
        /// Names the question; echoed.
        nonce: u64,
        /// Partitions asked for.
        stamps: SmallVec<[Stamp; 4]>,
    },
    /// The answer to a confirm, from the peer's durable pairs.
    Confirmed {
        /// Of the question.
        nonce: u64,
        /// The peer's pair of each asked partition, in the order asked.
        stamps: SmallVec<[Stamp; 4]>,
    },
    /// Send the contents of blocks that rotted in my log (P-06).
    Fetch {
        /// Speaker's stamp.
        stamp: Stamp,
        /// Names the question.
        req: ReqId,
        /// Block wanted.
        lba: Lba,
        /// The version wanted.
        op: Op,
    },
    /// Contents of a block, if the peer holds that very version in good order.
    Fetched {
        /// Of the question.
        req: ReqId,
        /// One block.
        data: Option<Buf>,
    },
    /// The receiver of a stale or foreign stamp says what it holds (MA-06).
    Refused {
        /// The refused stamp.
        refused: Stamp,
        /// What the refuser holds.
        held: Stamp,
    },
    /// A probed secondary's log ended under an older pair than the prober's: how far are their logs the same
    /// (P-30)? What a head alone has numbered since must not stand beside what another number gave out.
    Compare {
        /// Of the probe.
        stamp: Stamp,
        /// The asker's durable pair.
        held: Stamp,
    },
    /// Up to here the sender's log holds nothing that was numbered after the receiver's pair: the answer to
    /// [`Msg::Compare`], or to a [`Msg::Probe`] of a head whose pair is older than one that the sender led.
    Common {
        /// Of the probe; in answer to a probe, the sender's durable pair.
        stamp: Stamp,
        /// The last operation that the sender numbered no later.
        upto: Op,
        /// Under which number it was: what the receiver has from a number between that and its pair's is not the
        /// sender's. The receiver's own, where the sender does not know.
        number: Number,
    },
    /// P begins to give `to` a full copy of the partition (BA-01): whatever it holds of it is void from now on.
    /// Repeated until it is answered by [`Msg::Copied`]; a higher session ends a lower one.
    Copy {
        /// P's pair; `tail` is the last operation that the copy holds: later ones come one by one.
        adopt: Adopt,
        /// Names the copy; rises within a boot of P.
        session: u64,
        /// The boot and log that are to be filled (P-01, P-03).
        to: Member,
    },
    /// A part of the copy: extents, or blocks with the bytes of those that lie in P's log. Parts count from 0.
    CopyPart {
        /// P's pair.
        stamp: Stamp,
        /// The copy.
        session: u64,
        /// Which part.
        seq: u64,
        /// What it says.
        part: CopyPart,
        /// The bytes of blocks that are [`super::copy::Place::Sent`], in their order.
        data: Option<Buf>,
    },
    /// P names the checkpoints on sleds that the receiver may begin with, and asks what it found there (P-29).
    /// Repeated until it is answered.
    CopyAsk {
        /// P's pair.
        stamp: Stamp,
        /// The copy.
        session: u64,
        /// The newest first; none once the first question was answered.
        named: Vec<SledCheckpoint>,
        /// Granules of blocks from this one on are asked for.
        from: u64,
    },
    /// What the receiver of a copy has read from a checkpoint.
    CopyHas {
        /// P's pair.
        stamp: Stamp,
        /// The copy.
        session: u64,
        /// Of the question.
        from: u64,
        /// Granules from `from` to below this one are told; `None`: still reading, ask again.
        upto: Option<u64>,
        /// Granules that hold anything, in order, and the hash of what they say.
        found: Vec<(u64, u128)>,
    },
    /// Operations behind the copy's beginning, in order, and how far they may be applied. Repeats are harmless.
    CopyOps {
        /// P's pair.
        stamp: Stamp,
        /// The copy.
        session: u64,
        /// P's committed watermark.
        committed: Op,
        /// Parts made by then: the watermark counts only once they are taken in.
        parts: u64,
        /// Consecutive operations; empty when only the watermarks move.
        entries: SmallVec<[Entry; 4]>,
    },
    /// How far a head that is being filled has come.
    Copied {
        /// The stamp answered.
        stamp: Stamp,
        /// The copy.
        session: u64,
        /// Its log (P-03).
        log: LogId,
        /// Parts taken in: all below this one.
        parts: u64,
        /// All operations up to here are in its durable log, without a hole; the copy's first one when it has
        /// thrown away what it had.
        durable: Op,
        /// What its index names may be given back if it was released at or below this operation (P-28).
        covered: Op,
        /// Blocks that its log takes for this copy beside what it has taken (P-31).
        room: u64,
        /// A restart of it would find everything up to `durable`.
        whole: bool,
        /// It cannot go on with this copy: another one has to begin.
        broken: bool,
    },
    /// The sender's head lives: one message for all partitions that it shares with the receiver. Not
    /// answered; every other message says the same.
    Heartbeat {
        /// Counts the heartbeats of this boot to this peer.
        sent: u64,
    },
    /// A secondary asks its primary how it is (MA-13).
    HealthAsk {
        /// Names the question.
        req: ReqId,
        /// The asker's durable pair.
        held: Stamp,
    },
    /// How a primary is (MA-13). Answered at once, whatever else is stuck.
    Health {
        /// Of the question.
        req: ReqId,
        /// The answerer's durable pair.
        held: Stamp,
        /// Whether it serves the partition, and its log device works.
        serving: bool,
        /// Clients connected now.
        connected: u32,
        /// Clients that may connect.
        associated: u32,
        /// Whether the busiest client is connected.
        busiest: bool,
        /// I/O that the connected clients had answered lately.
        io: u64,
        /// Milliseconds since the last I/O that went well.
        idle_ms: u64,
        /// Roles of the partition moved too often lately (MA-17).
        paused: bool,
    },
    /// A member whose volumes have to leave it asks another whether it is the same there (BA-02).
    IsolationAsk {
        /// Names the question.
        req: ReqId,
        /// The asker's durable pair.
        held: Stamp,
    },
    /// Whether volumes have to leave the answerer, and how well it is. Answered at once.
    Isolation {
        /// Of the question.
        req: ReqId,
        /// The answerer's durable pair.
        held: Stamp,
        /// Whether this one has to.
        isolating: bool,
        /// How well it is.
        score: Score,
    },
    // ---- head to sled and back; every request names its device ----
    /// Take a device's columns of a partition under a number (EF-15): drain, record, grant.
    Reserve {
        /// Names the request.
        req: ReqId,
        /// The device.
        device: DeviceId,
        /// Partition, number, grant.
        stamp: Stamp,
    },
    /// Answer to a reserve.
    Reserved {
        /// Of the request.
        req: ReqId,
        /// The device.
        device: DeviceId,
        /// Stamp answered.
        stamp: Stamp,
        /// Verdict.
        status: Status,
        /// With `Ok`: the secret from which column tokens derive.
        secret: GrantSecret,
        /// Free columns at the time.
        free: u32,
    },
    /// Reserve a column for an extent; durable record, raised generation (EF-12, P-19).
    ColumnReserve {
        /// Names the request.
        req: ReqId,
        /// The device.
        device: DeviceId,
        /// Partition, number, grant.
        stamp: Stamp,
        /// Partition-wide token of the device: column `u32::MAX`, generation 0.
        token: Token,
        /// The extent it is for.
        extent: ExtentId,
        /// Position in the extent (data first).
        position: u8,
        /// Sandbox: columns to prefer, as a range; the sled takes the first free one in it, then any.
        prefer: Option<(u32, u32)>,
    },
    /// Answer to a column reserve.
    ColumnReserved {
        /// Of the request.
        req: ReqId,
        /// Verdict.
        status: Status,
        /// With `Ok`: the column (its sled is the sender).
        column: ColumnRef,
    },
    /// Write consecutive stripe units to a column (EF-16): checked inline.
    ColumnWrite {
        /// Names the request.
        req: ReqId,
        /// Partition, number, grant.
        stamp: Stamp,
        /// Column and generation.
        column: ColumnRef,
        /// Token of the column.
        token: Token,
        /// The extent.
        extent: ExtentId,
        /// First stripe.
        stripe: u32,
        /// One buffer a stripe unit.
        units: SmallVec<[Buf; 4]>,
        /// CRC32C of each unit.
        crcs: SmallVec<[u32; 4]>,
    },
    /// Answer to a column write; with `Ok` it is durable.
    ColumnWritten {
        /// Of the request.
        req: ReqId,
        /// Verdict.
        status: Status,
    },
    /// Read from a column (P-15).
    ColumnRead {
        /// Names the request.
        req: ReqId,
        /// The partition that owns it.
        partition: PartitionId,
        /// Column and generation.
        column: ColumnRef,
        /// First block (4 KiB) in the column.
        block: u32,
        /// Blocks.
        count: u32,
    },
    /// Answer to a column read.
    ColumnData {
        /// Of the request.
        req: ReqId,
        /// Verdict.
        status: Status,
        /// With `Ok`: the bytes.
        data: Option<Buf>,
    },
    /// Free a column (OP-18).
    ColumnRelease {
        /// Names the request.
        req: ReqId,
        /// Partition, number, grant.
        stamp: Stamp,
        /// Column and generation.
        column: ColumnRef,
        /// Token of the column.
        token: Token,
    },
    /// Answer to a release; a repeat answers `Ok`.
    ColumnReleased {
        /// Of the request.
        req: ReqId,
        /// Verdict.
        status: Status,
    },
    /// Which columns of a device does the partition own (P-27)?
    ColumnList {
        /// Names the request.
        req: ReqId,
        /// The device.
        device: DeviceId,
        /// The partition.
        partition: PartitionId,
        /// Columns from this number on.
        from: u32,
    },
    /// Answer to a list: at most 256 columns; `more` names where to go on.
    ColumnListed {
        /// Of the request.
        req: ReqId,
        /// Verdict.
        status: Status,
        /// Owned columns.
        columns: Vec<OwnedColumn>,
        /// Next column to ask from, if there are more.
        more: Option<u32>,
    },
    /// Scrub found that a column has rotted (P-23); the head that holds it may rewrite its extent. Not
    /// answered: the next pass finds what is still rotten.
    ColumnRotten {
        /// The partition.
        partition: PartitionId,
        /// The column.
        column: ColumnRef,
        /// Extent on its record.
        extent: ExtentId,
        /// Position in the extent.
        position: u8,
    },
}

/// A column as its sled's durable record describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedColumn {
    /// Column number.
    pub column: u32,
    /// Generation.
    pub generation: u32,
    /// Extent it was reserved for.
    pub extent: ExtentId,
    /// Position in the extent.
    pub position: u8,
    /// Number on its record.
    pub number: Number,
    /// Stripe units that the sled holds a checksum for, counted from the first.
    pub stripes: u32,
}
