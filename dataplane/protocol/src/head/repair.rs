//! Rot in the own log: the peer holds the same block; it is fetched, checked, and written back in place
//! (P-06, OP-27). Members do this for each other; of several, one after the other is asked.

use super::core::Core;
use super::part::Part;
use super::piece::{Piece, Source, Want};
use super::read::ReadOwner;
use super::slab::Id;
use super::sleds::{Ask, What};
use crate::log::{Loc, Mapping};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::SmallVec;

impl Part {
    /// The other member that is asked for a block first, or next after one that could not give it.
    fn next_other(&self, node: NodeId, after: Option<NodeId>) -> Option<Member> {
        let mut others = self.others(node).into_iter();
        if let Some(after) = after {
            others.find(|other| other.head == after)?;
        }
        others.next()
    }

    /// The member to ask in place of one that does not answer: the next one, round and round.
    pub(super) fn another(&self, node: NodeId, silent: NodeId) -> NodeId {
        let next = self.next_other(node, Some(silent)).or_else(|| self.next_other(node, None));
        next.map_or(silent, |other| other.head)
    }
}

impl Core {
    /// Asks another member for block `at` of a log piece.
    pub(super) fn fetch(&mut self, now: Time, id: Id, at: usize, out: &mut Out) {
        let Some(piece) = self.pieces.get(id) else { return };
        let (p, want) = (piece.part, piece.wants[at]);
        let asked_by_peer =
            self.reads.get(piece.read).is_some_and(|read| matches!(read.owner, ReadOwner::Peer(..)));
        let part = &mut self.parts[p];
        part.stats.counters.corrupt += 1;
        let what = format!("partition {} block {} op {}", part.cfg.partition, want.lba, want.op);
        out.events.push(Event::Corrupt { place: "log", what });
        let other = part.next_other(self.cfg.node, None);
        let Some(other) = other.filter(|_| !asked_by_peer) else {
            return self.piece_done(now, id, Err(ClientError::Unreadable), out);
        };
        let msg = Msg::Fetch { stamp: part.stamp, req: ReqId(0), lba: want.lba, op: want.op };
        self.ask(now, Ask::new(p, other.head, DeviceId(0), What::Fetch { piece: id, at }, msg), out);
    }

    /// The other member's block rotted: give it ours, if it is that very version and in good order.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_fetch(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        req: ReqId,
        lba: Lba,
        op: Op,
        out: &mut Out,
    ) {
        let none = Msg::Fetched { req, data: None };
        let Some(p) = self.parts.find(stamp.partition) else { return out.net.push((from, none)) };
        let part = &self.parts[p];
        let member = part.members.iter().any(|one| one.head == from && self.same_boot(one.boot, boot));
        if !member || lba.0 >= part.index.blocks() {
            return out.net.push((from, none));
        }
        let pending = part.pending.iter().find(|pending| pending.entry.op == op && pending.loaded);
        if let Some(Body::Write { lba: first, crcs, data }) = pending.map(|pending| &pending.entry.body) {
            let at = lba.0.wrapping_sub(first.0) as usize;
            let data = (at < crcs.len()).then(|| data.slice(at * BLOCK..(at + 1) * BLOCK));
            return out.net.push((from, Msg::Fetched { req, data }));
        }
        let mapping = part.index.get(lba);
        if mapping.op != op || matches!(mapping.loc, Loc::Hole | Loc::Cleared | Loc::Lost) {
            return out.net.push((from, none));
        }
        self.read_blocks(now, p, ReadOwner::Peer(from, req), &[(lba, mapping)], out);
    }

    pub(super) fn on_fetched(
        &mut self,
        now: Time,
        from: NodeId,
        req: ReqId,
        data: Option<Buf>,
        out: &mut Out,
    ) {
        let id = Id(req.0);
        let Some(Ask { to, what: What::Fetch { piece, at }, .. }) = self.asks.get(id) else { return };
        if *to != from {
            return;
        }
        let (piece, at) = (*piece, *at);
        self.asks.remove(id);
        let Some(read) = self.pieces.get_mut(piece) else { return };
        let (part, want) = (read.part, read.wants[at]);
        let right = data.filter(|data| data.len() == BLOCK && crc32c(data) == want.crc);
        let Source::Log { addr, bytes: Some(bytes), .. } = &mut read.source else { return };
        let addr = addr.plus(at as u64);
        match right {
            Some(data) => {
                bytes[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(&data);
                self.rewrite(part, want, addr, data, out);
                self.check_log_piece(now, piece, out);
            }
            None => match self.parts[part].next_other(self.cfg.node, Some(from)) {
                Some(other) => {
                    let msg = Msg::Fetch {
                        stamp: self.parts[part].stamp,
                        req: ReqId(0),
                        lba: want.lba,
                        op: want.op,
                    };
                    let what = What::Fetch { piece, at };
                    self.ask(now, Ask::new(part, other.head, DeviceId(0), what, msg), out);
                }
                None => self.piece_done(now, piece, Err(ClientError::Unreadable), out),
            },
        }
    }

    /// Writes a good block over its rotten copy; a pinned piece of its own keeps the place until then.
    fn rewrite(&mut self, part: usize, want: Want, addr: crate::log::LogAddr, data: Buf, out: &mut Out) {
        let still = self.parts[part].index.get(want.lba);
        let pending = self.parts[part].pending.iter().any(|pending| pending.entry.op == want.op);
        if !pending && (still.op != want.op || still.loc != Loc::Log(addr)) {
            return;
        }
        let source = Source::Log { addr, pin: Some(self.log.pin(addr)), bytes: None };
        let wants = SmallVec::from_elem(want, 1);
        let id = self.pieces.insert(Piece { read: Id::NONE, slot: 0, runs: 1, part, wants, source });
        let op = BlockOp::Write { offset: addr.offset(), bufs: SmallVec::from_elem(data, 1), fua: true };
        out.block.push(BlockCmd { device: self.cfg.log.device, key: Self::repair_key(id), op });
    }

    pub(super) fn on_repaired(&mut self, now: Time, id: Id, good: bool, out: &mut Out) {
        let Some(piece) = self.pieces.get(id) else { return };
        let (p, want) = (piece.part, piece.wants[0]);
        if good {
            let part = &mut self.parts[p];
            part.stats.counters.repaired += 1;
            let what = format!("partition {} block {} op {}", part.cfg.partition, want.lba, want.op);
            out.events.push(Event::Repaired { place: "log", what });
        }
        self.piece_done(now, id, Err(ClientError::Unreadable), out);
    }

    /// Blocks that recovery found rotten are read through the ordinary path, which mends them.
    pub(super) fn mend(&mut self, now: Time, p: usize, out: &mut Out) {
        for _ in 0..16 {
            let part = &mut self.parts[p];
            let Some(bad) = part.bad.pop() else { return };
            let mapping = part.index.get(bad.lba);
            if mapping.op == bad.op && mapping.loc == Loc::Log(bad.addr) {
                let mapping = Mapping { crc: bad.crc, ..mapping };
                self.read_blocks(now, p, ReadOwner::Mend, &[(bad.lba, mapping)], out);
            }
        }
    }
}
