//! What the control side of a process tells its services, and what they tell it. Both ways are bounded
//! rings; nothing here is ever needed for an I/O to go on (`ControlOutOfPath`).

use palisade_control::report::RoleStep;
use palisade_protocol::fabric::{PathId, PathState, PathStatus};
use palisade_protocol::head::{Clients, DeviceTarget, HeadStatus, PartitionConfig};
use palisade_protocol::sled::SledStatus;
use palisade_protocol::wire::{
    Assignment, BootId, ClientCmd, ClientDone, ClientError, Envelope, Event, LogId, Member, NodeId,
    PartitionId, ProposalOutcome, Severity, Stamp,
};
use palisade_runtime::ring::{Receiver, Sender};

/// Orders that a service's ring holds.
pub const ORDERS: usize = 256;
/// Reports that the ring of a process holds; more are dropped and counted.
pub const REPORTS: usize = 4096;

/// To a head.
#[derive(Debug)]
pub enum HeadOrder {
    /// The authority granted a number.
    Assign(Assignment),
    /// What became of a proposal (P-02).
    Outcome(PartitionId, u64, ProposalOutcome),
    /// The process of another head, of that boot, is gone, as far as control sees.
    Gone(NodeId, BootId),
    /// Whether roles of a partition moved too often lately (MA-17).
    Pause(PartitionId, bool),
    /// A partition exists or changed.
    Create(PartitionConfig),
    /// Commands of a partition come from this ring, too.
    Serve(PartitionId, Receiver<ClientCmd>),
    /// A head is to be filled, to become a member (MA-21); `true`: it was one, with the log that it has.
    Fill(PartitionId, Member, bool),
    /// What the head holds of a partition that it is no member of any more is given up.
    Forget(PartitionId),
    /// Whether volumes have to leave the head (BA-02), and how bad it is.
    Isolate(Option<Severity>),
    /// A partition ends.
    Delete(PartitionId),
    /// Where columns of a partition may lie.
    Devices(PartitionId, Vec<DeviceTarget>),
    /// Everything acknowledged goes to extents; ends with [`Report::Flushed`].
    Flush {
        /// Which.
        partition: PartitionId,
        /// Names the order.
        token: u64,
    },
    /// The connection is lost: its commands for the partition that have no number are dropped (P-11). Follows
    /// those that it sent.
    Abort(PartitionId, u32),
    /// What the export knows of a partition's clients (MA-12).
    Clients(PartitionId, Clients),
    /// A client that had so much I/O answered lately wants a partition here that another head leads (MA-14).
    ClientAsks(PartitionId, u64),
    /// Messages to a node go into this ring.
    Route(NodeId, Sender<Envelope>),
    /// Answers to tags of this asker go into this ring.
    Asker(u8, Sender<ClientDone>),
    /// Ends with [`Report::Head`].
    Status,
    /// Ends with [`Report::Groups`], once everything that was ordered before was taken up (P-04).
    Groups(u64),
}

/// To a sled.
#[derive(Debug)]
pub enum SledOrder {
    /// Messages to a node go into this ring.
    Route(NodeId, Sender<Envelope>),
    /// Ends with [`Report::Sled`].
    Status,
    /// Ends with [`Report::Records`] (P-04).
    Records(u64),
}

/// From a service.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // events are what comes; a full ring of them takes under a mebibyte
pub enum Report {
    /// Something happened.
    Event(NodeId, Event),
    /// A head stopped, begins or goes on to serve a partition.
    Role {
        /// The head.
        node: NodeId,
        /// The partition.
        partition: PartitionId,
        /// What.
        step: RoleStep,
        /// When, in microseconds since 1970.
        at_us: u64,
    },
    /// A flush order ended.
    Flushed {
        /// Of the order.
        token: u64,
        /// How.
        result: Result<(), ClientError>,
    },
    /// Picture of a head.
    Head(Box<HeadStatus>),
    /// The newest pairs that the log of a head holds.
    Groups {
        /// The head.
        node: NodeId,
        /// Its log.
        log: LogId,
        /// Of the order.
        ask: u64,
        /// One for each partition of which it was a member.
        groups: Vec<Assignment>,
    },
    /// The highest pairs that the devices of a sled have records of.
    Records {
        /// The sled.
        node: NodeId,
        /// Of the order.
        ask: u64,
        /// One for each partition.
        held: Vec<Stamp>,
    },
    /// Picture of a sled.
    Sled(NodeId, Box<SledStatus>),
    /// The networks of a node, as it was asked.
    Paths(NodeId, Vec<PathStatus>),
    /// A network from a node to a peer went down or came up. `others`: the peer is reached by another one.
    Path {
        /// The node that saw it.
        node: NodeId,
        /// The peer.
        peer: NodeId,
        /// The network.
        path: PathId,
        /// What it is now.
        state: PathState,
        /// Whether another network carries to the peer.
        others: bool,
    },
}

/// Where a service's reports go. A full ring drops and counts: reports are for people.
#[derive(Debug)]
pub struct Reporter {
    ring: Sender<Report>,
    /// Reports that found no room.
    pub dropped: u64,
}

impl Reporter {
    /// Reports into `ring`.
    pub fn new(ring: Sender<Report>) -> Self {
        Self { ring, dropped: 0 }
    }

    /// Hands one over.
    pub fn send(&mut self, report: Report) {
        if self.ring.send(report).is_err() {
            self.dropped += 1;
        }
    }
}
