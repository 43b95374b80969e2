//! Reads: look-up, splitting into pieces that lie in one place, and the answer (EF-06, P-12).
//!
//! Clients, merges, flush batches, the peer and repairs all read through here; only clients wait for a
//! confirm. Every block is checked against the index's checksum before it leaves (`NothingSilent`).

use super::borrow::Kept;
use super::core::Core;
use super::piece::{Piece, Source, Want};
use super::slab::Id;
use crate::log::{Loc, Mapping};
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::SmallVec;

/// Most blocks that one block-status answer speaks of; clients ask on.
const STATUS_BLOCKS: u64 = 1 << 14;
/// Most runs of one block-status answer.
const STATUS_RUNS: usize = 1024;
/// Blocks between two runs of a stripe unit that are rather read than asked around: a request costs more than these.
const GAP: u32 = 4;
/// How often a read starts anew because its blocks moved meanwhile.
const RESTARTS: u8 = 16;

/// Who wants the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOwner {
    /// A client's read.
    Cmd(Id),
    /// A read-modify-write (P-10).
    Merge(Id),
    /// A flush or collector batch.
    Batch(Id),
    /// A recovered operation that the peer lacks.
    Load(usize, Op, Number),
    /// The peer, whose copy rotted.
    Peer(NodeId, ReqId),
    /// Copy-forward in the log.
    Copy(Id),
    /// A part of a full copy: partition and session.
    Part(usize, u64),
    /// A rotten log block found by recovery.
    Mend,
}

/// A read in progress.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) part: usize,
    pub(super) owner: ReadOwner,
    /// Pieces that are not there yet.
    open: u32,
    confirmed: bool,
    failed: Option<ClientError>,
    restarts: u8,
    /// First byte and length of the client's range, from the first block on.
    skip: usize,
    len: usize,
    lba: Lba,
    pub(super) pieces: SmallVec<[Id; 4]>,
    /// A piece counts on the column of another one.
    pub(super) lends: bool,
    /// Columns that pieces have read, where there are several.
    pub(super) kept: SmallVec<[Kept; 4]>,
    /// Blocks and bytes of each piece, in order.
    pub(super) bufs: SmallVec<[(u32, Option<Buf>); 4]>,
    status: Option<Vec<StatusRun>>,
}

impl Core {
    pub(super) fn start_read(&mut self, now: Time, p: usize, cmd: Id, offset: u64, len: u32, out: &mut Out) {
        let block = BLOCK as u64;
        let read = Read {
            lba: Lba(offset / block),
            skip: (offset % block) as usize,
            len: len as usize,
            ..Read::new(p, ReadOwner::Cmd(cmd))
        };
        let id = self.reads.insert(read);
        if !self.await_confirm(p, id)
            && let Some(read) = self.reads.get_mut(id)
        {
            read.confirmed = true;
        }
        self.look_up(now, id, out);
    }

    /// (Re)starts a client's read from the index.
    fn look_up(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some(read) = self.reads.get_mut(id) else { return };
        let (p, lba) = (read.part, read.lba);
        let count = (read.skip + read.len).div_ceil(BLOCK) as u32;
        read.bufs.clear();
        read.failed = None;
        let mut maps = std::mem::take(&mut self.maps);
        maps.clear();
        self.parts[p].index.lookup(lba, count, &mut maps);
        let mut wants = std::mem::take(&mut self.wants);
        wants.clear();
        wants.extend(maps.iter().enumerate().map(|(at, &map)| (Lba(lba.0 + at as u64), map)));
        self.maps = maps;
        self.plan(now, p, id, &wants, out);
        self.wants = wants;
        self.finish_read(now, id, out);
    }

    /// Reads given versions of given blocks for a machine's own purposes.
    pub(super) fn read_blocks(
        &mut self,
        now: Time,
        p: usize,
        owner: ReadOwner,
        blocks: &[(Lba, Mapping)],
        out: &mut Out,
    ) {
        let id = self.reads.insert(Read {
            confirmed: true,
            len: blocks.len() * BLOCK,
            lba: blocks.first().map_or(Lba(0), |block| block.0),
            ..Read::new(p, owner)
        });
        self.plan(now, p, id, blocks, out);
        self.finish_read(now, id, out);
    }

    /// Cuts blocks into runs that lie in one place and starts what is not in memory.
    fn plan(&mut self, now: Time, p: usize, id: Id, blocks: &[(Lba, Mapping)], out: &mut Out) {
        // Held open while pieces start, so that one that ends at once does not finish the read.
        self.hold(id, 1);
        if let Some(read) = self.reads.get_mut(id) {
            read.pieces.clear();
            read.kept.clear();
        }
        let mut at = 0;
        while at < blocks.len() {
            let n = self.run(p, &blocks[at..]);
            let run = &blocks[at..at + n];
            at += n;
            let found = self.at_hand(run);
            let Some(read) = self.reads.get_mut(id) else { return };
            read.bufs.push((n as u32, found));
            if read.bufs.last().is_some_and(|(_, found)| found.is_some()) {
                continue;
            }
            let slot = (read.bufs.len() - 1) as u32;
            read.open += 1;
            let mut wants: SmallVec<[Want; 2]> = wanted(run, 0).collect();
            let mut runs = 1;
            while let Some((off, n)) = self.next_in_unit(p, run[0].1.loc, &wants, &blocks[at..]) {
                wants.extend(wanted(&blocks[at..at + n], off));
                (runs, at) = (runs + 1, at + n);
                if let Some(read) = self.reads.get_mut(id) {
                    read.bufs.push((n as u32, None));
                }
            }
            let source = match run[0].1.loc {
                Loc::Log(addr) => Source::log(addr),
                Loc::Extent { slot, block } => {
                    let last = wants.last().map_or(0, |want| want.at);
                    self.column_source(p, slot, block, last + 1)
                }
                Loc::Hole | Loc::Cleared | Loc::Lost => Source::Nowhere,
            };
            let piece = self.pieces.insert(Piece { read: id, slot, runs, part: p, wants, source });
            if let Some(read) = self.reads.get_mut(id) {
                read.pieces.push(piece);
            }
        }
        // They begin when all are known: those of one stripe share what they read.
        let mut next = 0;
        while let Some(&piece) = self.reads.get(id).and_then(|read| read.pieces.get(next)) {
            next += 1;
            self.start_piece(now, piece, out);
        }
        self.hold(id, -1);
    }

    fn hold(&mut self, id: Id, by: i32) {
        if let Some(read) = self.reads.get_mut(id) {
            read.open = read.open.wrapping_add_signed(by);
        }
    }

    /// Length of the run at the start of `blocks` that lies in one place.
    fn run(&self, p: usize, blocks: &[(Lba, Mapping)]) -> usize {
        let first = blocks[0].1.loc;
        let most = blocks.len().min(IO_BLOCKS_MAX);
        match first {
            Loc::Hole | Loc::Cleared => blocks[..most]
                .iter()
                .take_while(|block| matches!(block.1.loc, Loc::Hole | Loc::Cleared))
                .count(),
            Loc::Lost => blocks[..most].iter().take_while(|block| block.1.loc == Loc::Lost).count(),
            Loc::Log(addr) => {
                // What failed once is read by itself: one bad block must not take its neighbours along.
                let alone = |at: u64| self.parts[p].unreadable.contains_key(&(addr.0 + at));
                if alone(0) {
                    return 1;
                }
                let next = |(at, block): &(usize, &(Lba, Mapping))| {
                    block.1.loc == Loc::Log(addr.plus(*at as u64)) && !alone(*at as u64)
                };
                blocks[..most].iter().enumerate().take_while(next).count()
            }
            Loc::Extent { slot, block } => {
                let Some(extent) = self.parts[p].index.extent(slot) else { return 1 };
                let unit = u32::from(extent.desc.geometry.unit_blocks).max(1);
                let most = most.min((unit - block % unit) as usize);
                let next = |(at, want): &(usize, &(Lba, Mapping))| {
                    want.1.loc == Loc::Extent { slot, block: block + *at as u32 }
                };
                blocks[..most].iter().enumerate().take_while(next).count()
            }
        }
    }

    /// The next run behind those of a piece that begins at `first`, if it lies in the same unit, a few blocks behind
    /// them: how far from the piece's beginning, and its length.
    fn next_in_unit(
        &self,
        p: usize,
        first: Loc,
        wants: &[Want],
        rest: &[(Lba, Mapping)],
    ) -> Option<(u32, usize)> {
        let (Loc::Extent { slot, block }, Loc::Extent { slot: other, block: next }) =
            (first, rest.first()?.1.loc)
        else {
            return None;
        };
        let end = block + wants.last()?.at + 1;
        let unit = u32::from(self.parts[p].index.extent(slot)?.desc.geometry.unit_blocks).max(1);
        let near = slot == other && next / unit == block / unit && next > end && next - end <= GAP;
        near.then(|| (next - block, self.run(p, rest)))
    }

    /// A run's bytes when they are in memory and right.
    fn at_hand(&self, run: &[(Lba, Mapping)]) -> Option<Buf> {
        match run[0].1.loc {
            Loc::Hole | Loc::Cleared => Some(volume::zeroes(run.len() * BLOCK)),
            Loc::Log(addr) => {
                let bytes = self.log.cached(addr, run.len() as u32)?;
                let right = |(block, want): (&[u8], &(Lba, Mapping))| crc32c(block) == want.1.crc;
                let right = self.cfg.faults.no_crc_check() || bytes.chunks_exact(BLOCK).zip(run).all(right);
                right.then_some(bytes)
            }
            Loc::Extent { .. } | Loc::Lost => None,
        }
    }

    /// A piece ended.
    pub(super) fn piece_done(&mut self, now: Time, id: Id, result: Result<Buf, ClientError>, out: &mut Out) {
        let Some(mut piece) = self.pieces.remove(id) else { return };
        if let Source::Log { pin, .. } = &mut piece.source
            && let Some(pin) = pin.take()
        {
            self.log.unpin(pin);
        }
        let read_id = piece.read;
        let Some(read) = self.reads.get_mut(read_id) else { return };
        read.open -= 1;
        let lends = read.pieces.len() > 1 && matches!(piece.source, Source::Column(_));
        let lent = lends.then(|| result.as_ref().ok().cloned());
        match result {
            Ok(bytes) => {
                let mut wants = &piece.wants[..];
                for (blocks, run) in &mut read.bufs[piece.slot as usize..][..piece.runs as usize] {
                    let from = wants[0].at as usize * BLOCK;
                    *run = Some(bytes.slice(from..from + *blocks as usize * BLOCK));
                    wants = &wants[*blocks as usize..];
                }
            }
            Err(error) => {
                let moved =
                    piece.wants.iter().any(|want| self.parts[piece.part].index.get(want.lba).op != want.op);
                read.failed = Some(if moved { ClientError::NotServed } else { error });
            }
        }
        if let Some(bytes) = lent {
            self.lend(now, piece, bytes, out);
        }
        self.finish_read(now, read_id, out);
    }

    pub(super) fn confirmed(&mut self, now: Time, id: Id, out: &mut Out) {
        if let Some(read) = self.reads.get_mut(id) {
            read.confirmed = true;
        }
        self.finish_read(now, id, out);
    }

    fn finish_read(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some(read) = self.reads.get_mut(id) else { return };
        if read.open > 0 {
            return;
        }
        if read.failed == Some(ClientError::NotServed)
            && matches!(read.owner, ReadOwner::Cmd(_))
            && read.restarts < RESTARTS
        {
            // The blocks were overwritten or moved while their old place was read.
            read.restarts += 1;
            return self.look_up(now, id, out);
        }
        if !read.confirmed {
            return;
        }
        let Some(read) = self.reads.remove(id) else { return };
        self.deliver(now, read, out);
    }

    fn deliver(&mut self, now: Time, mut read: Read, out: &mut Out) {
        if let ReadOwner::Batch(batch) = read.owner {
            return self.batch_read(now, batch, &read, out);
        }
        let failed = read.failed.take().map(|error| match error {
            ClientError::NotServed => ClientError::Unreadable,
            error => error,
        });
        if let ReadOwner::Cmd(cmd) = read.owner {
            let result = match (failed, read.status.take()) {
                (Some(error), _) => Err(error),
                (None, Some(runs)) => Ok(ClientOk::Status(runs)),
                (None, None) => Ok(ClientOk::Data(trim(&mut read))),
            };
            return self.answer(now, cmd, result, out);
        }
        let result = match (failed, read.bufs.as_mut_slice()) {
            (Some(error), _) => Err(error),
            (None, [(_, bytes)]) => bytes.take().ok_or(ClientError::Unreadable),
            (None, _) => self.joined(&read),
        };
        match read.owner {
            ReadOwner::Merge(merge) => self.merge_read(now, merge, result, out),
            ReadOwner::Load(p, op, number) => self.loaded(now, p, (op, number), result, out),
            ReadOwner::Peer(peer, req) => out.net.push((peer, Msg::Fetched { req, data: result.ok() })),
            ReadOwner::Copy(copy) => self.copy_read(copy, result),
            ReadOwner::Part(p, session) => self.part_read(now, p, session, result, out),
            ReadOwner::Mend | ReadOwner::Cmd(_) | ReadOwner::Batch(_) => {}
        }
    }

    /// Pieces as one buffer, for those that need one.
    fn joined(&self, read: &Read) -> Result<Buf, ClientError> {
        let mut all = self.pool.alloc(read.len).ok_or(ClientError::Device)?;
        let mut at = 0;
        for (_, bytes) in &read.bufs {
            let bytes = bytes.as_ref().ok_or(ClientError::Unreadable)?;
            all[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        Ok(all.freeze())
    }

    pub(super) fn start_status(
        &mut self,
        now: Time,
        p: usize,
        cmd: Id,
        offset: u64,
        len: u64,
        out: &mut Out,
    ) {
        let block = BLOCK as u64;
        let end = (offset + len).min((offset / block + STATUS_BLOCKS) * block);
        let mut runs: Vec<StatusRun> = Vec::new();
        let mut at = offset;
        while at < end && runs.len() < STATUS_RUNS {
            let next = ((at / block + 1) * block).min(end);
            let map = self.parts[p].index.get(Lba(at / block));
            let data = !matches!(map.loc, Loc::Hole | Loc::Cleared);
            match runs.last_mut() {
                Some(last) if last.data == data => last.len += next - at,
                _ => runs.push(StatusRun { len: next - at, data }),
            }
            at = next;
        }
        let id = self.reads.insert(Read { status: Some(runs), ..Read::new(p, ReadOwner::Cmd(cmd)) });
        if !self.await_confirm(p, id) {
            self.confirmed(now, id, out);
        }
    }
}

impl Read {
    /// Whether a client gets the bytes, and may hold them for long.
    pub(super) fn for_client(&self) -> bool {
        matches!(self.owner, ReadOwner::Cmd(_))
    }

    fn new(part: usize, owner: ReadOwner) -> Self {
        Self {
            part,
            owner,
            open: 0,
            confirmed: false,
            failed: None,
            restarts: 0,
            skip: 0,
            len: 0,
            lba: Lba(0),
            pieces: SmallVec::new(),
            lends: false,
            kept: SmallVec::new(),
            bufs: SmallVec::new(),
            status: None,
        }
    }
}

/// What the index says of blocks that lie together, `first` blocks behind the beginning of a piece.
fn wanted(run: &[(Lba, Mapping)], first: u32) -> impl Iterator<Item = Want> {
    run.iter().zip(first..).map(|(&(lba, map), at)| Want { lba, op: map.op, crc: map.crc, at })
}

/// The client's range of the blocks read.
fn trim(read: &mut Read) -> Payload {
    let mut payload = Payload::new();
    let (mut skip, mut left) = (read.skip, read.len);
    for (_, bytes) in read.bufs.drain(..) {
        let Some(bytes) = bytes else { continue };
        let from = skip.min(bytes.len());
        let len = (bytes.len() - from).min(left);
        skip -= from;
        left -= len;
        if len == bytes.len() {
            payload.push(bytes);
        } else if len > 0 {
            payload.push(bytes.slice(from..from + len));
        }
    }
    payload
}
