//! The waist between the world and what runs on a node: inputs in, effects out, in the order in which the
//! node made them. The world may stop after any one of the effects: that is a crash.

use crate::fold::Fold;
use palisade_protocol::head::{PartitionConfig, RoleState};
use palisade_protocol::wire::*;

/// Something that reaches a node.
#[allow(clippy::large_enum_variant)] // Moved a few times per event; boxing would cost more.
#[derive(Debug)]
pub enum Input {
    /// A message (direct mode).
    Msg {
        /// Sender.
        from: NodeId,
        /// Its boot.
        boot: BootId,
        /// The message.
        msg: Msg,
    },
    /// A datagram (fabric mode).
    Datagram {
        /// Sender.
        from: NodeId,
        /// The network that it came on.
        path: u8,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A completion of one of the node's devices.
    Block(BlockDone),
    /// A client's request.
    Client(ClientCmd),
    /// The authority granted a number.
    Assign(Assignment),
    /// What became of a proposal.
    Outcome(PartitionId, u64, ProposalOutcome),
    /// Flush everything acknowledged so far to extents.
    FlushAll(PartitionId, u64),
    /// A partition exists or changed.
    Create(PartitionConfig),
    /// A head is to be filled, to become a member (MA-21).
    Fill(PartitionId, Member),
    /// What the head holds of a partition that it is no member of any more is given up.
    Forget(PartitionId),
    /// Whether volumes have to leave the head (BA-02).
    Isolate(Option<Severity>),
    /// The process of another head is gone, as far as control sees.
    Gone(NodeId, BootId),
}

/// Something that a node wants done.
#[allow(clippy::large_enum_variant)] // Moved a few times per event; boxing would cost more.
#[derive(Debug)]
pub enum Effect {
    /// To a device.
    Block(BlockCmd),
    /// To another node (direct mode).
    Send(NodeId, Msg),
    /// To another node, on one of the networks (fabric mode).
    Datagram(NodeId, u8, Vec<u8>),
    /// To a client.
    Answer(ClientDone),
    /// To people and control.
    Event(Event),
}

impl Input {
    /// Adds it to the run's hash.
    pub fn fold(&self, fold: &mut Fold) {
        match self {
            Self::Datagram { from, path, bytes } => fold.bytes(from.0 ^ u32::from(*path) << 24, bytes),
            other => fold.debug(other),
        }
    }
}

impl Effect {
    /// Adds it to the run's hash.
    pub fn fold(&self, fold: &mut Fold) {
        match self {
            Self::Datagram(to, path, bytes) => fold.bytes(to.0 ^ u32::from(*path) << 24, bytes),
            other => fold.debug(other),
        }
    }
}

/// What a node's machines count, for the tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stripes flushed from the log.
    pub flushes: u64,
    /// Repoint operations.
    pub repoints: u64,
    /// Restarts after which the head reconciled and served.
    pub reconciles: u64,
    /// Reads rebuilt from other columns.
    pub degraded_reads: u64,
    /// Extents collected.
    pub collections: u64,
    /// Log blocks copied forward from blocked tails.
    pub copies: u64,
    /// Log records that a crash tore (the world counts them at the device).
    pub torn_records: u64,
    /// Checksums that did not match.
    pub corrupt: u64,
    /// Things made good again.
    pub repaired: u64,
    /// Full copies begun for another head.
    pub fills: u64,
    /// Datagrams whose contents the fabric sent again.
    pub resends: u64,
    /// Networks towards a peer that the fabric took for down.
    pub networks_down: u64,
}

impl Counts {
    /// Adds what a life of a node counted.
    pub fn add(&mut self, other: &Self) {
        self.flushes += other.flushes;
        self.repoints += other.repoints;
        self.reconciles += other.reconciles;
        self.degraded_reads += other.degraded_reads;
        self.collections += other.collections;
        self.torn_records += other.torn_records;
        self.copies += other.copies;
        self.corrupt += other.corrupt;
        self.repaired += other.repaired;
        self.fills += other.fills;
        self.resends += other.resends;
        self.networks_down += other.networks_down;
    }
}

/// Columns as a node sees them, to find those that nobody names any more (P-27).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// A sled's columns that are not free.
    pub used: u64,
    /// Most columns that a primary's extents can be made of.
    pub named: u64,
    /// Columns of its checkpoints (P-29).
    pub pages: u64,
}

/// What a head tells control of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Which.
    pub partition: PartitionId,
    /// Its durable number.
    pub number: Number,
    /// What it does there.
    pub role: RoleState,
    /// Another member is away.
    pub peer_away: bool,
    /// A member that needs a full copy, possibly the head itself.
    pub needs_copy: Option<NodeId>,
    /// Whom it fills.
    pub fills: Option<NodeId>,
}

/// One life of a node, from boot to crash.
pub trait Host {
    /// One turn of the node's reactor: takes `inputs`, leaves effects in the order they were made.
    fn turn(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>);
    /// When the next turn is due without input.
    fn deadline(&self) -> Option<Time>;
    /// Whether a client may send another request for the partition.
    fn ready(&self, partition: PartitionId) -> bool;
    /// The pair under which it leads a partition with everybody of its group at hand, if it does.
    fn leads(&self, partition: PartitionId) -> Option<Stamp>;
    /// What it tells control, and the blocks of further partitions that its log has room for.
    fn words(&self) -> (Vec<Words>, u64) {
        (Vec::new(), 0)
    }
    /// What it has counted in this life.
    fn counts(&self) -> Counts;
    /// Its columns.
    fn census(&self) -> Census;
    /// One line for traces and failure reports.
    fn describe(&self) -> String;
}
