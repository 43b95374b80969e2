//! The fabric machine: peers, sessions, and the turn that packs datagrams.
//!
//! A session is a pair of boots. A datagram that names another boot of ours (or none) is answered with an
//! empty one that names both, and carries no meaning otherwise; one that names our boot proves that its
//! sender lives, and starts the session if it is new. So a late datagram of a dead process can never
//! bring its session back: it either names an old boot of ours, or a boot that was retired here.

use super::inbox::Taken;
use super::message;
use super::packet::{ANSWER, Packet};
use super::peer::Peer;
use super::port::{Config, Datagram, FabricOut, PathId, PathStatus, QueueFull, Stats};
use super::turn::Bench;
use crate::wire::limits::MSG_BYTES_MAX;
use crate::wire::{BootId, Envelope, Msg, NodeId, Time};
use palisade_dma::Pool;
use std::collections::BTreeMap;

/// Most spare datagrams that are kept for reuse.
const SPARE_MAX: usize = 256;

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

    /// Names a peer that is on all networks. Datagrams of nodes that were not named are refused.
    pub fn add_peer(&mut self, peer: NodeId) {
        self.add_peer_on(peer, self.config.paths);
    }

    /// Names a peer that is on the first `paths` networks only.
    pub fn add_peer_on(&mut self, peer: NodeId, paths: u8) {
        let (node, config) = (self.node, &self.config);
        let paths = paths.clamp(1, config.paths);
        self.peers.entry(peer).or_insert_with(|| Peer::new(node, peer, paths, config));
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
        peer.used = now;
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
        let known = header.to == self.node && header.from_boot.0 != 0;
        let peer = self.peers.get_mut(&header.from).filter(|_| known)?;
        if usize::from(path.0) >= peer.paths.len() {
            return None;
        }
        if peer.retired.contains(&header.from_boot) {
            return None;
        }
        peer.heard = peer.heard.max(now);
        if header.to_boot != self.boot {
            let asked = peer.answer_to.filter(|(boot, _)| *boot == header.from_boot).map_or(0, |(_, on)| on);
            peer.answer_to = Some((header.from_boot, asked | 1 << path.0));
            return Some(());
        }
        if peer.session != Some(header.from_boot) {
            let risen = peer.begin(header.from_boot, path, &self.config);
            out.paths.extend(risen.map(|state| (header.from, path, state)));
            out.boots.push((header.from, header.from_boot));
        }
        let newest = packet.ranges().next().map_or(0, |range| range.1);
        if !peer.outbox.plausible(newest) {
            return None;
        }
        peer.outbox.granted = peer.outbox.granted.max(header.credit);
        let risen = peer.acknowledged(now, path, packet, &self.config);
        out.paths.extend(risen.map(|state| (header.from, path, state)));
        if header.flags & ANSWER != 0 {
            peer.owe(path, false);
        }
        if header.number > 0 {
            self.take_fragments(now, path, packet, out)?;
        }
        Some(())
    }

    /// Takes the fragments; a datagram is acknowledged when all of them were kept.
    fn take_fragments(
        &mut self,
        now: Time,
        path: PathId,
        packet: &Packet<'_>,
        out: &mut FabricOut,
    ) -> Option<()> {
        let peer = self.peers.get_mut(&packet.header.from)?;
        let (mut all_kept, mut repeated) = (true, false);
        for (fragment, data) in packet.fragments() {
            peer.used = now;
            match peer.inbox.take(&fragment, data, &self.pool) {
                Taken::Kept => {}
                Taken::Duplicate => {
                    self.stats.duplicates += 1;
                    repeated = true;
                }
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
                            let to = self.node;
                            out.received.push(Envelope { from, boot, to, near: false, msg });
                        }
                        Err(_) => self.stats.messages_malformed += 1,
                    }
                    peer.inbox.recycle(fields);
                }
            }
        }
        if all_kept {
            peer.inbox.note(packet.header.number, now);
            peer.owe(path, repeated);
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
            bench.serve(*node, peer);
            let next = peer.deadline(now, &self.config);
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
        self.peers.values().all(|peer| peer.outbox.open() == 0 && peer.owed == 0)
    }

    /// The boot of a peer, once known.
    pub fn peer_boot(&self, peer: NodeId) -> Option<BootId> {
        self.peers.get(&peer)?.session
    }

    /// What is known of each network to each peer.
    pub fn paths(&self) -> impl Iterator<Item = PathStatus> {
        self.peers.iter().flat_map(|(node, peer)| peer.status(*node))
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
