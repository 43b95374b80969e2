//! What the fabric's owner sees beside the machine: sizes, datagrams, output, counters.

use crate::wire::limits::MSG_BYTES_MAX;
use crate::wire::{BootId, Envelope, NodeId};
use palisade_dma::Buf;
use smallvec::SmallVec;
use std::time::Duration;

/// Most messages that are open to one peer; ids of open messages lie within such a window (`Bounded`).
pub const MESSAGES_MAX: usize = 4096;
/// Most networks.
pub const PATHS_MAX: usize = 4;
/// Least bytes of a datagram that leave room for headers, acknowledgements and a fragment.
pub(super) const DATAGRAM_MIN: usize = 1200;
/// Most bytes of a datagram: what UDP can carry.
pub const DATAGRAM_MAX: usize = 65_507;

/// Which network a datagram uses, counted from 0 (EF-31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u8);

/// Sizes and times of the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most bytes of one datagram, headers included.
    pub datagram_bytes: usize,
    /// Message bytes that a peer may have on the way to us (credit), and most that we have in flight to
    /// it; at least one largest message.
    pub window_bytes: usize,
    /// Most message bytes that wait per peer before `send` refuses.
    pub queue_bytes: usize,
    /// Most messages that are open per peer; at most [`MESSAGES_MAX`].
    pub queue_messages: usize,
    /// Resend time-out before a round trip was measured.
    pub rto_initial: Duration,
    /// Shortest resend time-out.
    pub rto_min: Duration,
    /// Longest resend time-out.
    pub rto_max: Duration,
    /// A peer that was not heard for so long while something waited for it is away: once its queue is
    /// full, messages to it are dropped and counted, so that it never holds up the other peers.
    pub away: Duration,
    /// Networks, at least one. With one there are no keep-alives: it says nothing unless it has to.
    pub paths: u8,
    /// Gap of keep-alives on a network while its peer is talked to, or does not answer.
    pub probe_every: Duration,
    /// Gap of keep-alives on a network of a silent peer, and the longest on one that is down.
    pub probe_idle: Duration,
    /// A network that answered nothing for so long, though asked, is down.
    pub down_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            datagram_bytes: 60_000,
            window_bytes: 8 << 20,
            queue_bytes: 16 << 20,
            queue_messages: MESSAGES_MAX,
            rto_initial: Duration::from_millis(20),
            rto_min: Duration::from_millis(4),
            rto_max: Duration::from_millis(200),
            away: Duration::from_millis(300),
            paths: 1,
            probe_every: Duration::from_millis(50),
            probe_idle: Duration::from_secs(1),
            down_after: Duration::from_millis(250),
        }
    }
}

impl Config {
    /// The same with every value inside its limits.
    pub(super) fn clamped(mut self) -> Self {
        self.datagram_bytes = self.datagram_bytes.clamp(DATAGRAM_MIN, DATAGRAM_MAX);
        self.window_bytes = self.window_bytes.max(MSG_BYTES_MAX);
        self.queue_bytes = self.queue_bytes.max(MSG_BYTES_MAX);
        self.queue_messages = self.queue_messages.clamp(1, MESSAGES_MAX);
        self.rto_min = self.rto_min.max(Duration::from_micros(100));
        self.rto_max = self.rto_max.max(self.rto_min);
        self.rto_initial = self.rto_initial.clamp(self.rto_min, self.rto_max);
        self.paths = self.paths.clamp(1, PATHS_MAX as u8);
        self.probe_every = self.probe_every.max(self.rto_min);
        self.probe_idle = self.probe_idle.max(self.probe_every);
        self.down_after = self.down_after.max(self.probe_every * 2);
        self
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

impl Datagram {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.payload.iter().map(|part| part.len()).sum::<usize>()
    }
}

/// What the fabric wants done; the caller owns and empties it.
#[derive(Debug, Default)]
pub struct FabricOut {
    /// Datagrams to send, in order. Losing one is harmless.
    pub datagrams: Vec<Datagram>,
    /// Messages received.
    pub received: Vec<Envelope>,
    /// Peers that showed a new boot: what was open to the old one is lost.
    pub boots: Vec<(NodeId, BootId)>,
    /// Networks towards a peer that went down, or came up again.
    pub paths: Vec<(NodeId, PathId, PathState)>,
}

/// Whether a network carries to a peer and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathState {
    /// It answers.
    Up,
    /// Something on it was not answered in time: others go first until it has answered.
    Suspect,
    /// It has not answered for [`Config::down_after`]; it comes back after a few answers in a row.
    Down,
}

/// What is known of one network to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// The peer.
    pub peer: NodeId,
    /// The network.
    pub path: PathId,
    /// Whether it carries.
    pub state: PathState,
    /// Smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// Share of the last hundred or so datagrams that counted as lost, in millionths.
    pub loss_ppm: u32,
    /// Datagrams sent on it that had to be acknowledged.
    pub sent: u64,
    /// Of those, counted as lost; what they carried went again.
    pub resent: u64,
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
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Datagrams received and taken.
    pub datagrams_received: u64,
    /// Datagrams that were no good (length, version, CRC, unknown sender, old boot).
    pub datagrams_refused: u64,
    /// Datagrams declared lost, whose contents were sent again.
    pub resends: u64,
    /// Messages delivered.
    pub messages_received: u64,
    /// Messages that arrived whole but could not be decoded; they are dropped.
    pub messages_malformed: u64,
    /// Fragments that had arrived before.
    pub duplicates: u64,
    /// Fragments dropped because the buffer pool was empty; they come again.
    pub pool_waits: u64,
    /// Messages refused because a queue was full.
    pub queue_full: u64,
    /// Messages dropped because the peer is away and its queue full.
    pub dropped_away: u64,
}
