//! The fabric machine.

use crate::wire::{BootId, Envelope, Msg, NodeId, Time};
use palisade_dma::{Buf, Pool};
use smallvec::SmallVec;
use std::time::Duration;

/// Which network a datagram uses; one for now (EF-31 adds the second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u8);

/// Sizes and times of the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most bytes of one datagram, headers included.
    pub datagram_bytes: usize,
    /// Bytes that a peer may have on the way to us (credit), and most that we have in flight to it.
    pub window_bytes: usize,
    /// Most bytes that wait per peer before `send` refuses.
    pub queue_bytes: usize,
    /// Most messages that are open per peer.
    pub queue_messages: usize,
    /// Resend time-out before a round trip was measured.
    pub rto_initial: Duration,
    /// Shortest resend time-out.
    pub rto_min: Duration,
    /// Longest resend time-out.
    pub rto_max: Duration,
    /// Networks.
    pub paths: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            datagram_bytes: 60_000,
            window_bytes: 8 << 20,
            queue_bytes: 16 << 20,
            queue_messages: 4096,
            rto_initial: Duration::from_millis(20),
            rto_min: Duration::from_millis(4),
            rto_max: Duration::from_millis(200),
            paths: 1,
        }
    }
}

/// A datagram to send: `head`, then `payload`, as one gather list.
#[derive(Debug)]
pub struct Datagram {
    /// Receiver; the caller knows its address on each path.
    pub to: NodeId,
    /// The network to use.
    pub path: PathId,
    /// Headers and small data.
    pub head: Vec<u8>,
    /// Payload slices that follow.
    pub payload: SmallVec<[Buf; 4]>,
}

/// What the fabric wants done.
#[derive(Debug, Default)]
pub struct FabricOut {
    /// Datagrams to send, in order.
    pub datagrams: Vec<Datagram>,
    /// Messages received.
    pub received: Vec<Envelope>,
    /// Peers that showed a new boot.
    pub boots: Vec<(NodeId, BootId)>,
}

/// The peer's queue is full, or the peer is not named; nothing was queued. The asker repeats later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue to that node is full")]
pub struct QueueFull;

/// Counters of the fabric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received and taken.
    pub datagrams_received: u64,
    /// Datagrams that were no good (length, version, CRC, foreign boot).
    pub datagrams_refused: u64,
    /// Packets declared lost and sent again.
    pub resends: u64,
    /// Messages delivered.
    pub messages_received: u64,
    /// Copies of messages already delivered.
    pub duplicates: u64,
    /// Fragments dropped because the buffer pool was empty; they come again.
    pub pool_waits: u64,
}

/// Reliable datagrams of one node.
#[derive(Debug)]
pub struct Fabric {
    node: NodeId,
    boot: BootId,
    config: Config,
    pool: Pool,
    stats: Stats,
}

impl Fabric {
    /// A node under a boot; received payload goes into `pool`.
    pub fn new(node: NodeId, boot: BootId, config: Config, pool: Pool) -> Self {
        Self { node, boot, config, pool, stats: Stats::default() }
    }

    /// Names a peer. Datagrams of nodes that were not named are refused.
    pub fn add_peer(&mut self, _peer: NodeId) {}

    /// Whether the peer's queue has room for a largest message.
    pub fn ready(&self, _to: NodeId) -> bool {
        true
    }

    /// Queues a message; its payload is kept by handle.
    pub fn send(&mut self, _now: Time, _to: NodeId, _msg: &Msg) -> Result<(), QueueFull> {
        Err(QueueFull)
    }

    /// A datagram arrived. Its bytes are copied once, into pool buffers.
    pub fn datagram(&mut self, _now: Time, _path: PathId, _bytes: &[u8], _out: &mut FabricOut) {
        self.stats.datagrams_refused += 1;
    }

    /// Once per reactor turn, after its inputs: packs, acknowledges, resends.
    pub fn turn(&mut self, _now: Time, _out: &mut FabricOut) {}

    /// Gives a sent datagram's memory back for reuse.
    pub fn recycle(&mut self, _datagram: Datagram) {}

    /// When `turn` must run again without input.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// The boot of a peer, once known.
    pub fn peer_boot(&self, _peer: NodeId) -> Option<BootId> {
        None
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let _ = (self.node, self.boot, self.config, &self.pool);
        self.stats
    }
}
