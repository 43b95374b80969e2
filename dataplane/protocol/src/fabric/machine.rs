//! The fabric machine: peers, sessions, and the turn that packs datagrams.
//!
//! A session is a pair of boots. A datagram that names another boot of ours (or none) is answered with an
//! empty one that names both, and carries no meaning otherwise; one that names our boot proves that its
//! sender lives, and starts the session if it is new. So a late datagram of a dead process can never
//! bring its session back: it either names an old boot of ours, or a boot that was retired here.

use super::inbox::{Inbox, Taken};
use super::message;
use super::outbox::Outbox;
use super::packet::{self, ANSWER, Fragment, HEADER_BYTES, Header, Packet, RANGE_BYTES, RANGES_MAX};
use super::path::Path;
use super::port::{Config, Datagram, FabricOut, PATHS_MAX, PathId, QueueFull, Stats};
use crate::wire::limits::MSG_BYTES_MAX;
use crate::wire::{BootId, Envelope, Msg, NodeId, Time};
use palisade_dma::Pool;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// Most old boots of a peer that are remembered.
const RETIRED_MAX: usize = 16;
/// Most spare datagrams that are kept for reuse.
const SPARE_MAX: usize = 256;

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    /// Boot of the peer in the present session.
    session: Option<BootId>,
    outbox: Outbox,
    inbox: Inbox,
    paths: SmallVec<[Path; PATHS_MAX]>,
    /// The network for data, and the one for bare acknowledgements: that by which data last came.
    path: u8,
    reply_path: u8,
    backoff: u32,
    /// When the peer was last heard, or else since when something waits for it.
    heard: Time,
    // ---- below: touched when sessions change ----
    retired: VecDeque<BootId>,
    /// A boot that asked who we are.
    answer_to: Option<BootId>,
    /// When to ask again for the peer's boot.
    probe_at: Time,
}

/// Reliable datagrams of one node.
#[derive(Debug)]
pub struct Fabric {
    node: NodeId,
    boot: BootId,
    config: Config,
    pool: Pool,
    peers: BTreeMap<NodeId, Peer>,
    spare: Vec<Datagram>,
    deadline: Option<Time>,
    stats: Stats,
}

impl Fabric {
    /// A node under a boot; received payload goes into `pool`.
    pub fn new(node: NodeId, boot: BootId, config: Config, pool: Pool) -> Self {
        assert!(boot.0 != 0, "a boot id is random and never zero");
        Self {
            node,
            boot,
            config: config.clamped(),
            pool,
            peers: BTreeMap::new(),
            spare: Vec::new(),
            deadline: None,
            stats: Stats::default(),
        }
    }

    /// Names a peer. Datagrams of nodes that were not named are refused.
    pub fn add_peer(&mut self, peer: NodeId) {
        let config = &self.config;
        self.peers.entry(peer).or_insert_with(|| Peer {
            session: None,
            outbox: Outbox::new(0),
            inbox: Inbox::new(config.window_bytes),
            paths: (0..config.paths).map(|_| Path::new(config)).collect(),
            path: 0,
            reply_path: 0,
            backoff: 0,
            heard: Time::ZERO,
            retired: VecDeque::new(),
            answer_to: None,
            probe_at: Time::ZERO,
        });
    }

    /// Whether the peer's queue has room for a largest message.
    pub fn ready(&self, to: NodeId) -> bool {
        self.peers.get(&to).is_some_and(|peer| has_room(peer, &self.config))
    }

    /// Queues a message; its payload is kept by handle. A full queue refuses it, or, when the peer is
    /// away, drops it: messages to a node that is cut off may be lost, and machines repeat what is open.
    ///
    /// # Panics
    /// When the message is larger than `MSG_BYTES_MAX` or one of its payloads is empty or larger than
    /// `IO_BYTES_MAX` (bugs of the sender).
    pub fn send(&mut self, now: Time, to: NodeId, msg: &Msg) -> Result<(), QueueFull> {
        let Some(peer) = self.peers.get_mut(&to) else { return Err(QueueFull) };
        if !has_room(peer, &self.config) {
            if now.since(peer.heard) >= self.config.away {
                self.stats.dropped_away += 1;
                return Ok(());
            }
            self.stats.queue_full += 1;
            return Err(QueueFull);
        }
        if peer.outbox.open() == 0 {
            peer.heard = peer.heard.max(now);
        }
        let mut fields = peer.outbox.spare_bytes();
        let mut payload = message::Pieces::new();
        message::encode(msg, &mut fields, &mut payload);
        let bytes = fields.len() + payload.iter().map(|part| part.len()).sum::<usize>();
        assert!(bytes <= MSG_BYTES_MAX, "a message of {bytes} bytes");
        peer.outbox.push(fields, payload);
        self.deadline = Some(now);
        Ok(())
    }

    /// A datagram arrived. Its bytes are copied once, into pool buffers.
    pub fn datagram(&mut self, now: Time, path: PathId, bytes: &[u8], out: &mut FabricOut) {
        let taken = Packet::parse(bytes).ok().and_then(|packet| self.take(now, path, &packet, out));
        match taken {
            Some(()) => self.stats.datagrams_received += 1,
            None => self.stats.datagrams_refused += 1,
        }
        self.deadline = Some(now);
    }

    /// Takes a well-formed datagram; `None` when it is not for us, or from nobody we know.
    fn take(&mut self, now: Time, path: PathId, packet: &Packet<'_>, out: &mut FabricOut) -> Option<()> {
        let header = packet.header;
        let known = path.0 < self.config.paths && header.to == self.node && header.from_boot.0 != 0;
        let peer = self.peers.get_mut(&header.from).filter(|_| known)?;
        if peer.retired.contains(&header.from_boot) {
            return None;
        }
        peer.reply_path = path.0;
        peer.heard = peer.heard.max(now);
        if header.to_boot != self.boot {
            peer.answer_to = Some(header.from_boot);
            return Some(());
        }
        if peer.session != Some(header.from_boot) {
            peer.begin(header.from_boot, &self.config);
            out.boots.push((header.from, header.from_boot));
        }
        let newest = packet.ranges().next().map_or(0, |range| range.1);
        if !peer.outbox.plausible(newest) {
            return None;
        }
        peer.outbox.granted = peer.outbox.granted.max(header.credit);
        peer.acknowledged(now, packet, &self.config);
        peer.inbox.ack_due |= header.flags & ANSWER != 0;
        if header.number > 0 {
            self.take_fragments(now, packet, out)?;
        }
        Some(())
    }

    /// Takes the fragments; a datagram is acknowledged when all of them were kept.
    fn take_fragments(&mut self, now: Time, packet: &Packet<'_>, out: &mut FabricOut) -> Option<()> {
        let peer = self.peers.get_mut(&packet.header.from)?;
        let mut all_kept = true;
        for (fragment, data) in packet.fragments() {
            match peer.inbox.take(&fragment, data, &self.pool) {
                Taken::Kept => {}
                Taken::Duplicate => self.stats.duplicates += 1,
                Taken::NoRoom => {
                    self.stats.pool_waits += 1;
                    all_kept = false;
                }
                Taken::Bad => return None,
                Taken::Whole(fields, payload) => {
                    match message::decode(&fields, payload) {
                        Ok(msg) => {
                            self.stats.messages_received += 1;
                            let (from, boot) = (packet.header.from, packet.header.from_boot);
                            out.received.push(Envelope { from, boot, to: self.node, msg });
                        }
                        Err(_) => self.stats.messages_malformed += 1,
                    }
                    peer.inbox.recycle(fields);
                }
            }
        }
        if all_kept {
            peer.inbox.note(packet.header.number, now);
        }
        Some(())
    }

    /// Once per reactor turn, after its inputs: packs, acknowledges, resends.
    pub fn turn(&mut self, now: Time, out: &mut FabricOut) {
        let mut deadline: Option<Time> = None;
        let mut bench = Bench {
            node: self.node,
            boot: self.boot,
            config: &self.config,
            spare: &mut self.spare,
            stats: &mut self.stats,
            now,
            out,
        };
        for (node, peer) in &mut self.peers {
            bench.expire(peer);
            bench.introduce(*node, peer);
            bench.pack(*node, peer);
            let next = peer.deadline(&self.config);
            deadline = deadline.into_iter().chain(next).min();
        }
        self.deadline = deadline;
    }

    /// Gives a sent datagram's memory back for reuse.
    pub fn recycle(&mut self, mut datagram: Datagram) {
        datagram.head.clear();
        datagram.payload.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(datagram);
        }
    }

    /// When `turn` must run again without input.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Whether nothing waits to be sent or acknowledged.
    pub fn idle(&self) -> bool {
        self.peers.values().all(|peer| peer.outbox.open() == 0 && !peer.inbox.ack_due)
    }

    /// The boot of a peer, once known.
    pub fn peer_boot(&self, peer: NodeId) -> Option<BootId> {
        self.peers.get(&peer)?.session
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

fn has_room(peer: &Peer, config: &Config) -> bool {
    let bytes = peer.outbox.queued() + MSG_BYTES_MAX <= config.queue_bytes || peer.outbox.open() == 0;
    bytes && peer.outbox.open() < config.queue_messages
}

impl Peer {
    /// A new session: what was open to the old boot is dropped; what waited for a first one is kept.
    fn begin(&mut self, boot: BootId, config: &Config) {
        if let Some(old) = self.session.replace(boot) {
            self.retired.push_back(old);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
            self.outbox = Outbox::new(0);
        }
        self.inbox = Inbox::new(config.window_bytes);
        self.backoff = 0;
        self.answer_to = None;
    }

    fn acknowledged(&mut self, now: Time, packet: &Packet<'_>, config: &Config) {
        let acked = self.outbox.acknowledge(packet.ranges());
        if let Some((left, path)) = acked.newest {
            let held = std::time::Duration::from_micros(packet.header.ack_delay_us.into());
            self.paths[usize::from(path)].sample(now.since(left).saturating_sub(held));
        }
        if acked.bytes > 0 {
            self.backoff = 0;
            self.paths[usize::from(self.path)].grow(acked.bytes, config);
        }
    }

    fn deadline(&self, config: &Config) -> Option<Time> {
        if self.session.is_none() {
            return (self.outbox.open() > 0).then_some(self.probe_at);
        }
        self.outbox.expires(|path| {
            let path = &self.paths[usize::from(path)];
            (path.overtaken(config), path.timeout(config, self.backoff))
        })
    }
}

/// What a turn works with.
struct Bench<'a> {
    node: NodeId,
    boot: BootId,
    config: &'a Config,
    spare: &'a mut Vec<Datagram>,
    stats: &'a mut Stats,
    now: Time,
    out: &'a mut FabricOut,
}

impl Bench<'_> {
    /// Takes back what must count as lost. A time-out also tries the next network (EF-31).
    fn expire(&mut self, peer: &mut Peer) {
        let (paths, backoff, config) = (&peer.paths, peer.backoff, self.config);
        let (overtaken, timed_out) = peer.outbox.expire(self.now, |path| {
            let path = &paths[usize::from(path)];
            (path.overtaken(config), path.timeout(config, backoff))
        });
        if overtaken + timed_out == 0 {
            return;
        }
        self.stats.resends += overtaken + timed_out;
        peer.paths[usize::from(peer.path)].shrink(self.config);
        if timed_out > 0 {
            peer.backoff += 1;
            peer.path = (peer.path + 1) % self.config.paths;
        }
    }

    /// Answers who asked for our boot; asks for the peer's when it is not known.
    fn introduce(&mut self, node: NodeId, peer: &mut Peer) {
        if let Some(boot) = peer.answer_to.take() {
            self.emit(node, peer, boot, 0, &[]);
        }
        if peer.session.is_none() && peer.outbox.open() > 0 && self.now >= peer.probe_at {
            self.emit(node, peer, BootId(0), ANSWER, &[]);
            peer.probe_at = self.now + peer.paths[0].timeout(self.config, peer.backoff);
            peer.backoff += 1;
            peer.path = (peer.path + 1) % self.config.paths;
        }
    }

    /// Packs what may be sent, and the acknowledgement that is owed.
    fn pack(&mut self, node: NodeId, peer: &mut Peer) {
        let Some(boot) = peer.session else { return };
        let window = peer.paths[usize::from(peer.path)].window();
        loop {
            // Always room for the most ranges: a fragment must fit again when it is resent.
            let mut room = self.config.datagram_bytes - HEADER_BYTES - RANGES_MAX * RANGE_BYTES;
            let mut list = peer.outbox.spare_list();
            if peer.outbox.under_way() == 0 || peer.outbox.under_way() + room <= window {
                while let Some(fragment) = peer.outbox.next_fragment(room, list.is_empty()) {
                    room -= packet::FRAGMENT_BYTES + fragment.len as usize;
                    list.push(fragment);
                }
            }
            if list.is_empty() {
                peer.outbox.keep_list(list);
                if peer.inbox.ack_due {
                    self.emit(node, peer, boot, 0, &[]);
                }
                return;
            }
            // Fields first: they are copied behind the headers, payload follows by handle.
            list.sort_unstable_by_key(|part| (part.piece != 0, part.msg, part.piece, part.offset));
            let bytes = self.emit(node, peer, boot, 0, &list);
            peer.outbox.depart(self.now, peer.path, bytes, list);
        }
    }

    /// Puts out one datagram and gives its length. One with fragments is numbered.
    fn emit(&mut self, node: NodeId, peer: &mut Peer, boot: BootId, flags: u8, list: &[Fragment]) -> usize {
        let in_session = peer.session == Some(boot);
        let path = if list.is_empty() && flags & ANSWER == 0 { peer.reply_path } else { peer.path };
        let (ranges, ack_delay_us) = if in_session { peer.inbox.ranges(self.now) } else { (&[][..], 0) };
        let header = Header {
            path,
            flags,
            from: self.node,
            to: node,
            from_boot: self.boot,
            to_boot: boot,
            number: if list.is_empty() { 0 } else { peer.outbox.next_number() },
            credit: if in_session { peer.inbox.credit() } else { self.config.window_bytes as u64 },
            ack_delay_us,
        };
        let (to, path) = (node, PathId(path));
        let mut datagram = match self.spare.pop() {
            Some(spare) => Datagram { to, path, ..spare },
            None => Datagram { to, path, head: Vec::new(), payload: SmallVec::new() },
        };
        let data_len = list.iter().map(|part| part.len as usize).sum();
        packet::write(&mut datagram.head, &header, ranges, list, data_len);
        for fragment in list {
            match peer.outbox.data(fragment) {
                Ok(fields) => datagram.head.extend_from_slice(fields),
                Err(payload) => datagram.payload.push(payload),
            }
        }
        packet::seal(&mut datagram.head, &datagram.payload);
        if in_session {
            peer.inbox.ack_due = false;
        }
        let bytes = datagram.bytes();
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += bytes as u64;
        self.out.datagrams.push(datagram);
        bytes
    }
}
