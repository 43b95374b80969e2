//! The turn: takes back what was lost, answers and asks, packs what may go, acknowledges what is owed.

use super::outbox::Outbox;
use super::packet::{self, ANSWER, Fragment, HEADER_BYTES, Header, RANGE_BYTES, RANGES_MAX};
use super::peer::Peer;
use super::port::{Config, Datagram, FabricOut, PATHS_MAX, PathId, Stats};
use crate::wire::{BootId, NodeId, Time};
use smallvec::SmallVec;

/// What a turn works with.
pub(super) struct Bench<'a> {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) config: &'a Config,
    pub(super) spare: &'a mut Vec<Datagram>,
    pub(super) stats: &'a mut Stats,
    pub(super) now: Time,
    pub(super) out: &'a mut FabricOut,
}

impl Bench<'_> {
    /// Everything for one peer.
    pub(super) fn serve(&mut self, node: NodeId, peer: &mut Peer) {
        self.look(node, peer);
        self.expire(peer);
        self.introduce(node, peer);
        if let Some(boot) = peer.session {
            self.probe(node, peer, boot);
            self.pack(node, peer, boot);
            for path in 0..peer.paths.len() as u8 {
                if peer.owed >> path & 1 != 0 {
                    self.emit(node, peer, boot, 0, path);
                }
            }
        }
    }

    /// Tells of networks that fell silent. With one only a peer that says nothing at all counts.
    fn look(&mut self, node: NodeId, peer: &mut Peer) {
        if peer.paths.len() == 1 && self.now.since(peer.heard) < self.config.down_after {
            return;
        }
        for (path, state) in peer.paths.iter_mut().map(|path| path.look(self.now, self.config)).enumerate() {
            self.out.paths.extend(state.map(|state| (node, PathId(path as u8), state)));
        }
    }

    /// Takes back what must count as lost; a network with time-outs is doubted (EF-31).
    fn expire(&mut self, peer: &mut Peer) {
        let limits: SmallVec<[_; PATHS_MAX]> =
            (0..peer.paths.len() as u8).map(|path| peer.limits(path, self.config)).collect();
        let lost = peer.outbox.expire(self.now, |path| limits[usize::from(path)]);
        for (path, (overtaken, timed_out)) in peer.paths.iter_mut().zip(lost) {
            if overtaken + timed_out > 0 {
                self.stats.resends += overtaken + timed_out;
                path.lose(overtaken + timed_out, self.config);
            }
            if timed_out > 0 {
                path.doubt();
            }
        }
        if lost.iter().any(|(_, timed_out)| *timed_out > 0) {
            peer.rotate();
        }
    }

    /// Answers who asked for our boot; asks for the peer's, on every network, when it is not known.
    fn introduce(&mut self, node: NodeId, peer: &mut Peer) {
        if let Some((boot, paths)) = peer.answer_to.take() {
            for path in (0..peer.paths.len() as u8).filter(|path| paths >> path & 1 != 0) {
                self.emit(node, peer, boot, 0, path);
            }
        }
        if peer.session.is_none() && peer.outbox.open() > 0 && self.now >= peer.introduce_at {
            for path in 0..peer.paths.len() as u8 {
                self.emit(node, peer, BootId(0), ANSWER, path);
            }
            let pause = self.config.rto_initial.saturating_mul(1 << peer.introduced.min(10));
            peer.introduce_at = self.now + pause.min(self.config.rto_max);
            peer.introduced += 1;
        }
    }

    /// Keep-alives: datagrams with a number and nothing in them.
    fn probe(&mut self, node: NodeId, peer: &mut Peer, boot: BootId) {
        while let Some(path) = peer.probe_due(self.now, self.config) {
            let number = peer.outbox.next_number();
            self.numbered(node, peer, boot, path, &[]);
            peer.outbox.skip_number();
            peer.paths[usize::from(path)].probe(self.now, number, self.config);
        }
    }

    /// Packs what may be sent.
    fn pack(&mut self, node: NodeId, peer: &mut Peer, boot: BootId) {
        // Always room for the most ranges: a fragment must fit again when it is resent.
        let room = self.config.datagram_bytes - HEADER_BYTES - RANGES_MAX * RANGE_BYTES;
        while let Some((path, small)) = peer.pick(room, self.config) {
            let mut list = peer.outbox.spare_list();
            fill(&mut peer.outbox, &mut list, room, small);
            if list.is_empty() {
                peer.outbox.keep_list(list);
                return;
            }
            // Fields first: they are copied behind the headers, payload follows by handle.
            list.sort_unstable_by_key(|part| (part.piece != 0, part.msg, part.piece, part.offset));
            let bytes = self.numbered(node, peer, boot, path, &list);
            peer.outbox.depart(self.now, path, bytes, list);
            peer.paths[usize::from(path)].depart(self.now);
            peer.used = self.now;
        }
    }

    /// A datagram that must be acknowledged.
    fn numbered(
        &mut self,
        node: NodeId,
        peer: &mut Peer,
        boot: BootId,
        path: u8,
        list: &[Fragment],
    ) -> usize {
        let number = peer.outbox.next_number();
        self.put(node, peer, Header { number, ..self.header(node, peer, boot, path) }, list)
    }

    /// One that need not be.
    fn emit(&mut self, node: NodeId, peer: &mut Peer, boot: BootId, flags: u8, path: u8) {
        self.put(node, peer, Header { flags, ..self.header(node, peer, boot, path) }, &[]);
    }

    fn header(&self, node: NodeId, peer: &Peer, boot: BootId, path: u8) -> Header {
        let in_session = peer.session == Some(boot);
        Header {
            path,
            flags: 0,
            from: self.node,
            to: node,
            from_boot: self.boot,
            to_boot: boot,
            number: 0,
            credit: if in_session { peer.inbox.credit() } else { self.config.window_bytes as u64 },
            ack_delay_us: if in_session { peer.inbox.ranges(self.now).1 } else { 0 },
        }
    }

    /// Puts out one datagram and gives its length. It acknowledges what its network is owed.
    fn put(&mut self, node: NodeId, peer: &mut Peer, header: Header, list: &[Fragment]) -> usize {
        let in_session = peer.session == Some(header.to_boot);
        let ranges = if in_session { peer.inbox.ranges(self.now).0 } else { &[][..] };
        let (to, path) = (node, PathId(header.path));
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
            peer.owed &= !(1 << header.path);
        }
        let bytes = datagram.bytes();
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += bytes as u64;
        self.out.datagrams.push(datagram);
        bytes
    }
}

/// Fills a datagram with what goes next.
fn fill(outbox: &mut Outbox, list: &mut Vec<Fragment>, mut room: usize, small: bool) {
    loop {
        let empty = list.is_empty();
        let next = if small { outbox.next_small(room, empty) } else { outbox.next_fragment(room, empty) };
        let Some(fragment) = next else { return };
        room -= packet::FRAGMENT_BYTES + fragment.len as usize;
        list.push(fragment);
    }
}
