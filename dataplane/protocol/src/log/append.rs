// SIZE: staging, closing and finishing a record share its one state; its buffers come back where they were taken.
//! The append path: entries become records, records become one vectored FUA write each (P-06, P-09).
//!
//! A record's header takes one block and is filled by the entries of a turn; an entry too large for that
//! (a repoint) gets a record of its own. So the place of an entry's payload is known when it is pushed.
//! Many records are under way at once, at most `limits::RECORDS_IN_FLIGHT_MAX`, which is how far recovery
//! must look past a hole. Each header is written twice, before and behind the payload.

use super::checkpoint::Checkpointer;
use super::format::{SegmentHeader, Superblock};
use super::record::{self, FIXED, RecordHeader};
use super::segments::{Ring, Run};
use super::types::*;
use crate::wire::codec::Writer;
use crate::wire::limits::*;
use crate::wire::*;
use palisade_dma::{Buf, BufMut, Pool};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a quiet log waits before it writes down that everything is durable, so that rot of its last
/// record is told from a torn append (P-06).
const QUIET: Duration = Duration::from_millis(20);
/// Bits of a key that name the kind of command; the rest is its number.
pub(super) const KIND_SHIFT: u32 = 52;
/// An append; its number is the record's.
pub(super) const KIND_APPEND: u64 = 0;
/// A checkpoint's write.
pub(super) const KIND_CHECKPOINT: u64 = 1;
/// A recovery's read or write.
pub(super) const KIND_RECOVERY: u64 = 2;

/// A key of the log.
pub(super) fn key(kind: u64, number: u64) -> Key {
    Key(LOG_KEY_TAG | kind << KIND_SHIFT | number & ((1 << KIND_SHIFT) - 1))
}

/// Kind and number of a key of the log.
pub(super) fn unkey(key: Key) -> (u64, u64) {
    (key.0 >> KIND_SHIFT & 0xf, key.0 & ((1 << KIND_SHIFT) - 1))
}

/// The record that this turn fills.
#[derive(Debug)]
struct OpenRecord {
    lsn: Lsn,
    /// Block of the segment where its header starts.
    at: u32,
    header: BufMut,
    header_blocks: u32,
    /// Bytes of the header in use, and how many may hold what an earlier user left.
    used: usize,
    dirty: usize,
    entries: u16,
    /// What will be written: payload so far; headers join it when the record is closed.
    bufs: SmallVec<[Buf; 4]>,
    payload_blocks: u32,
    /// The segment's header, if this record is the segment's first.
    segment_header: Option<Buf>,
}

impl OpenRecord {
    /// First block behind it: header, payload, header again.
    fn end(&self) -> u32 {
        self.at + 2 * self.header_blocks + self.payload_blocks
    }
}

/// Header buffers of a record, which come back to the log once it is written.
#[derive(Debug, Default)]
struct Headers {
    /// The record's, and how much of it is in use.
    record: Option<(Buf, usize)>,
    segment: Option<Buf>,
}

#[derive(Debug)]
struct InFlight {
    lsn: Lsn,
    done: bool,
    sent: Time,
    headers: Headers,
}

/// The head's log, open for appends. See the words of the module `log`.
#[derive(Debug)]
pub struct Log {
    pub(super) config: LogConfig,
    pub(super) pool: Pool,
    pub(super) superblock: Superblock,
    pub(super) ring: Ring,
    pub(super) checkpoint: Checkpointer,
    epoch: u64,
    open: Option<OpenRecord>,
    closed: VecDeque<(Lsn, Headers, BlockCmd)>,
    in_flight: VecDeque<InFlight>,
    next: Lsn,
    durable: Lsn,
    failed: bool,
    /// Checksum field of the newest closed record.
    prev_crc: u32,
    /// Next free block of the segment being written.
    at: u32,
    /// Newest record with entries, and the newest watermark written.
    last_data: Lsn,
    proven: Lsn,
    quiet_at: Option<Time>,
    pub(super) entry: Writer,
    fixed: Writer,
    /// Header blocks to be used again, and how much of each is not zero.
    spare: Vec<(BufMut, usize)>,
    /// Kept for the largest header: what makes room again must never wait for a buffer (P-31).
    reserve: Option<BufMut>,
    /// Nothing is released before this record is durable: it voids operations, whose other records would
    /// miss those of a segment that went.
    pub(super) hold: Lsn,
    /// Buffers of the newest record: the next one's list is made as long at once.
    bufs_hint: usize,
}

/// Where recovery says that appends begin.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) epoch: u64,
    pub(super) next: Lsn,
    pub(super) prev_crc: u32,
    pub(super) at: u32,
}

/// How an operation is staged.
#[derive(Clone, Copy)]
struct Kind {
    /// Its payload stays in memory.
    hot: bool,
    /// It stands in the log already.
    again: bool,
    /// The room of user data.
    user: Room,
}

/// Blocks that go with an entry.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    pub(super) lba: Lba,
    pub(super) data: &'a Buf,
    /// Keep them in memory for reads and flushes.
    pub(super) hot: bool,
}

impl Log {
    pub(super) fn new(
        config: LogConfig,
        pool: Pool,
        superblock: Superblock,
        ring: Ring,
        checkpoint: Checkpointer,
        start: Start,
    ) -> Self {
        let last = Lsn(start.next.0 - 1);
        let spare = pool.alloc(BLOCK).into_iter().map(|buf| (buf, BLOCK)).collect();
        let reserve = pool.alloc(RECORD_HEADER_MAX);
        Self {
            config,
            pool,
            superblock,
            ring,
            checkpoint,
            epoch: start.epoch,
            open: None,
            closed: VecDeque::new(),
            in_flight: VecDeque::new(),
            next: start.next,
            durable: last,
            failed: false,
            prev_crc: start.prev_crc,
            at: start.at,
            last_data: last,
            proven: last,
            quiet_at: None,
            entry: Writer::new(),
            fixed: Writer::new(),
            spare,
            reserve,
            hold: Lsn(0),
            bufs_hint: 0,
        }
    }

    /// Its identity (P-03).
    pub fn id(&self) -> LogId {
        self.superblock.log
    }

    /// Every record up to this one is durable (P-06).
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The newest record that entries were put in; 0 before the first.
    pub fn newest(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    /// Whether a write failed: nothing more becomes durable.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Nothing staged, nothing under way.
    pub fn idle(&self) -> bool {
        self.open.is_none() && self.closed.is_empty() && self.in_flight.is_empty() && !self.checkpointing()
    }

    /// Stages an operation in this turn's record. `committed` is the partition's committed watermark.
    /// Writes are [`Room::User`], clears [`Room::Replica`] (they make space, and a full rack must not keep
    /// them out; the head lets them pass ordinary clients' limits only then), the rest [`Room::Metadata`].
    pub fn push(&mut self, entry: &Entry, committed: Op) -> Result<Placed, PushError> {
        self.push_entry(entry, committed, Kind { hot: true, again: false, user: Room::User })
    }

    /// As [`Log::push`], for a secondary. The payload is not kept in memory once it is written: a secondary
    /// serves no reads, and the buffers are the primary's. Clears and writes are [`Room::Replica`].
    pub fn push_cold(&mut self, entry: &Entry, committed: Op) -> Result<Placed, PushError> {
        self.push_entry(entry, committed, Kind { hot: false, again: false, user: Room::Replica })
    }

    /// Stages a pending operation once more, so that the segment in which it stands can go (P-31): once
    /// durable, what refers to the old place refers to the new one, and the old payload is [`Log::dead`].
    pub fn push_again(&mut self, entry: &Entry, committed: Op) -> Result<Placed, PushError> {
        self.push_entry(entry, committed, Kind { hot: false, again: true, user: Room::Copy })
    }

    fn push_entry(&mut self, entry: &Entry, committed: Op, kind: Kind) -> Result<Placed, PushError> {
        let Kind { hot, again, user } = kind;
        if !record::entry_ok(entry) {
            return Err(PushError::TooLarge);
        }
        let mut bytes = std::mem::take(&mut self.entry);
        bytes.bytes.clear();
        record::put_entry(&mut bytes, entry, committed, again);
        let (data, room) = match &entry.body {
            Body::Write { lba, data, .. } => (Some((*lba, data)), user),
            _ if again => (None, Room::Copy),
            Body::Clear { .. } => (None, Room::Replica),
            _ => (None, Room::Metadata),
        };
        let data = data.map(|(lba, data)| Payload { lba, data, hot });
        let placed = self.stage(&bytes.bytes, entry.partition, entry.op, data, room);
        self.entry = bytes;
        let placed = placed?;
        let head = self.ring.head;
        let top = self.ring.segment(head).top(entry.partition);
        top.op = top.op.max(entry.op);
        if data.is_none() {
            top.meta = top.meta.max(entry.op);
        }
        Ok(placed)
    }

    /// Stages an adoption; operations of the partition above `adopt.tail` that were staged before are
    /// void at recovery. The head also calls [`Log::dead`] for payload of the operations it cut.
    pub fn push_adopt(&mut self, adopt: &Adopt, committed: Op) -> Result<Placed, PushError> {
        if adopt.members.len() > MEMBERS_MAX {
            return Err(PushError::TooLarge);
        }
        let mut bytes = std::mem::take(&mut self.entry);
        bytes.bytes.clear();
        record::put_adopt(&mut bytes, adopt, committed);
        let placed = self.stage(&bytes.bytes, adopt.partition, adopt.tail, None, Room::Metadata);
        self.entry = bytes;
        let placed = placed?;
        // What is cut will never be committed: no segment waits for it.
        self.ring.cut(adopt.partition, adopt.tail);
        self.hold = placed.lsn;
        let head = self.ring.head;
        let top = self.ring.segment(head).top(adopt.partition);
        top.adopted = top.adopted.max(adopt.number);
        Ok(placed)
    }

    /// Stages a copy of committed blocks; once durable call [`Log::settle_copy`].
    pub fn push_copy(&mut self, copy: &CopyForward, committed: Op) -> Result<Placed, PushError> {
        let blocks = copy.crcs.len();
        if !(1..=IO_BLOCKS_MAX).contains(&blocks) || copy.data.len() != blocks * BLOCK {
            return Err(PushError::TooLarge);
        }
        if (0..blocks as u64).any(|i| !self.ring.is_live(copy.from.plus(i))) {
            return Err(PushError::Stale);
        }
        let mut bytes = std::mem::take(&mut self.entry);
        bytes.bytes.clear();
        record::put_copy(&mut bytes, copy.partition, copy.op, copy.lba, &copy.crcs, committed);
        let data = Some(Payload { lba: copy.lba, data: &copy.data, hot: false });
        let placed = self.stage(&bytes.bytes, copy.partition, copy.op, data, Room::Copy);
        self.entry = bytes;
        placed
    }

    /// Puts an encoded entry into the open record, or into a new one.
    pub(super) fn stage(
        &mut self,
        bytes: &[u8],
        partition: PartitionId,
        op: Op,
        data: Option<Payload<'_>>,
        room: Room,
    ) -> Result<Placed, PushError> {
        let blocks = data.as_ref().map_or(0, |payload| (payload.data.len() / BLOCK) as u32);
        self.make_room(bytes.len(), blocks, room)?;
        let seq = self.ring.head;
        let Some(open) = self.open.as_mut() else { return Err(PushError::Failed) };
        open.header[open.used..open.used + bytes.len()].copy_from_slice(bytes);
        open.used += bytes.len();
        open.entries += 1;
        let first = open.at + open.header_blocks + open.payload_blocks;
        let lsn = open.lsn;
        if let Some(Payload { lba, data, hot }) = data {
            open.bufs.push(data.clone());
            open.payload_blocks += blocks;
            let run = Run { partition, op, lba, first, blocks };
            self.ring.add_run(seq, run, true, hot.then_some(data));
        }
        self.ring.segment(seq).last = lsn;
        Ok(Placed { lsn, addr: self.ring.addr(seq, first) })
    }

    /// Makes sure that the open record has room for `len` header bytes and `blocks` payload blocks.
    fn make_room(&mut self, len: usize, blocks: u32, room: Room) -> Result<(), PushError> {
        if self.failed {
            return Err(PushError::Failed);
        }
        let header_blocks = (FIXED + len).div_ceil(BLOCK) as u32;
        if header_blocks as usize > RECORD_HEADER_MAX / BLOCK {
            return Err(PushError::TooLarge);
        }
        if self.fits_open(len, blocks) {
            return if self.may_use(room, 0) { Ok(()) } else { Err(PushError::Full) };
        }
        let (at, need) = (self.end_of_open(), 2 * header_blocks + blocks);
        let switch = at + need > self.ring.segment_blocks;
        if !self.may_use(room, u64::from(switch)) {
            return Err(PushError::Full);
        }
        let segment_header = if switch { Some(self.buffer(BLOCK)?) } else { None };
        let Ok((header, dirty)) = self.buffer(header_blocks as usize * BLOCK) else {
            self.spare.extend(segment_header);
            return Err(PushError::NoBuffer);
        };
        self.close();
        if switch {
            self.ring.advance();
            self.at = 0;
        }
        let lsn = self.next;
        self.next = Lsn(lsn.0 + 1);
        let segment_header = segment_header.map(|(buf, _)| self.segment_header(buf, lsn));
        self.at += u32::from(segment_header.is_some());
        self.open = Some(OpenRecord {
            lsn,
            at: self.at,
            header,
            header_blocks,
            used: FIXED,
            dirty,
            entries: 0,
            bufs: SmallVec::with_capacity(self.bufs_hint),
            payload_blocks: 0,
            segment_header,
        });
        Ok(())
    }

    fn fits_open(&self, len: usize, blocks: u32) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.used + len <= open.header_blocks as usize * BLOCK
                && usize::from(open.entries) < RECORD_OPS_MAX
                && (open.payload_blocks + blocks) as usize <= RECORD_BLOCKS_MAX
                && open.end() + blocks <= self.ring.segment_blocks
        })
    }

    /// First block after the open record (or after the newest closed one).
    pub(super) fn end_of_open(&self) -> u32 {
        self.open.as_ref().map_or(self.at, OpenRecord::end)
    }

    /// A header buffer, and how many of its bytes may not be zero.
    fn buffer(&mut self, len: usize) -> Result<(BufMut, usize), PushError> {
        if len == BLOCK
            && let Some(spare) = self.spare.pop()
        {
            return Ok(spare);
        }
        let mut buf = self.pool.alloc(len).or_else(|| self.reserve.take()).ok_or(PushError::NoBuffer)?;
        buf.set_len(len);
        Ok((buf, len))
    }

    fn segment_header(&self, mut buf: BufMut, first: Lsn) -> Buf {
        let header = SegmentHeader {
            log: self.superblock.log,
            epoch: self.epoch,
            seq: self.ring.head,
            tail: self.ring.tail,
            first,
            watermark: self.durable,
            prev_crc: self.prev_crc,
        };
        buf.copy_from_slice(&header.encode());
        buf.freeze()
    }

    /// Finishes the open record; its write waits in `closed`.
    fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        // Nobody's old bytes go to the medium; what is zero already need not become so again.
        let dirty = open.dirty.max(open.used);
        open.header[open.used..dirty].fill(0);
        let fixed = RecordHeader {
            log: self.superblock.log,
            epoch: self.epoch,
            segment: self.ring.head,
            at: open.at,
            lsn: open.lsn,
            watermark: self.durable,
            prev_crc: self.prev_crc,
            header_blocks: open.header_blocks as u16,
            payload_blocks: open.payload_blocks as u16,
            entries: open.entries,
            entries_len: (open.used - FIXED) as u32,
            crc: 0,
        };
        self.prev_crc = fixed.write(&mut open.header, &mut self.fixed);
        self.proven = self.durable;
        if open.entries > 0 {
            self.last_data = open.lsn;
        }
        let header = open.header.freeze();
        let first = open.at - u32::from(open.segment_header.is_some());
        let mut bufs = open.bufs;
        bufs.insert(0, header.clone());
        let segment = open.segment_header;
        bufs.insert_many(0, segment.clone());
        self.at = open.at + 2 * open.header_blocks + open.payload_blocks;
        // The header once more, so that rot of its first copy loses nothing.
        bufs.push(header.clone());
        self.bufs_hint = bufs.len();
        let offset = self.ring.addr(self.ring.head, first).offset();
        let op = BlockOp::Write { offset, bufs, fua: !self.config.faults.no_fua() };
        let cmd = BlockCmd { device: self.config.device, key: key(KIND_APPEND, open.lsn.0), op };
        let headers = Headers { record: Some((header, open.used)), segment };
        self.closed.push_back((open.lsn, headers, cmd));
    }

    /// Closes this turn's records and emits their writes. Call once per turn, also when nothing was pushed.
    pub fn end_turn(&mut self, now: Time, out: &mut Out) {
        self.note_quiet(now);
        self.close();
        while self.in_flight.len() < RECORDS_IN_FLIGHT_MAX && !self.failed {
            let Some((lsn, headers, cmd)) = self.closed.pop_front() else { break };
            self.in_flight.push_back(InFlight { lsn, done: false, sent: now, headers });
            out.block.push(cmd);
        }
    }

    /// An empty record carries the watermark when the log has been quiet for a while.
    fn note_quiet(&mut self, now: Time) {
        let busy = self.open.is_some() || !self.closed.is_empty() || !self.in_flight.is_empty();
        if busy || self.failed || self.proven >= self.last_data {
            self.quiet_at = None;
            return;
        }
        match self.quiet_at {
            None => self.quiet_at = Some(now + QUIET),
            Some(at) if now >= at => {
                self.quiet_at = None;
                // Without room or a buffer the next record carries it.
                if self.make_room(0, 0, Room::Metadata).is_ok() {
                    let (head, lsn) = (self.ring.head, self.newest());
                    self.ring.segment(head).last = lsn;
                } else {
                    self.quiet_at = Some(now + QUIET);
                }
            }
            Some(_) => {}
        }
    }

    /// When `end_turn` must be called without input.
    pub fn deadline(&self) -> Option<Time> {
        self.quiet_at
    }

    /// When the append of this key was handed to the device; none for what is no append under way.
    pub fn sent(&self, of: Key) -> Option<Time> {
        let (kind, number) = unkey(of);
        let first = self.in_flight.front().filter(|_| is_log_key(of) && kind == KIND_APPEND)?;
        let at = number.checked_sub(first.lsn.0)?;
        self.in_flight.get(at as usize).filter(|flight| !flight.done).map(|flight| flight.sent)
    }

    /// Since when the oldest append is under way.
    pub fn waits_since(&self) -> Option<Time> {
        self.in_flight.front().filter(|_| !self.failed).map(|flight| flight.sent)
    }

    /// Takes a completion with a log key.
    pub fn handle_block(&mut self, done: BlockDone, out: &mut Out) {
        let (kind, number) = unkey(done.key);
        let result = done.result.map(|_| ());
        match kind {
            KIND_APPEND => self.appended(Lsn(number), result, out),
            KIND_CHECKPOINT => self.checkpoint_done(result, out),
            _ => {}
        }
    }

    fn appended(&mut self, lsn: Lsn, result: Result<(), BlockError>, out: &mut Out) {
        let Some(first) = self.in_flight.front() else { return };
        let Some(flight) = lsn.0.checked_sub(first.lsn.0).and_then(|i| self.in_flight.get_mut(i as usize))
        else {
            return;
        };
        let headers = std::mem::take(&mut flight.headers);
        if result.is_err() {
            if !self.failed {
                out.events.push(Event::DeviceFailed { device: self.config.device, why: "log append failed" });
            }
            self.failed = true;
            return;
        }
        flight.done = true;
        self.recycle(headers);
        if self.config.faults.ack_with_hole() {
            self.durable = self.durable.max(lsn);
        }
        while self.in_flight.front().is_some_and(|flight| flight.done) {
            if let Some(flight) = self.in_flight.pop_front() {
                self.durable = self.durable.max(flight.lsn);
            }
        }
    }

    /// The device can no longer be relied on.
    pub(super) fn fail_if(&mut self, broken: bool) {
        self.failed |= broken;
    }

    /// Keeps header buffers for the next records, so that steady appends take nothing from the pool.
    fn recycle(&mut self, headers: Headers) {
        let Headers { record, segment } = headers;
        for (buf, used) in record.into_iter().chain(segment.map(|buf| (buf, BLOCK))) {
            let Ok(mut buf) = buf.try_mut() else { continue };
            if buf.capacity() == BLOCK && self.spare.len() < RECORDS_IN_FLIGHT_MAX {
                buf.set_len(BLOCK);
                self.spare.push((buf, used));
            } else if buf.capacity() >= RECORD_HEADER_MAX && self.reserve.is_none() {
                self.reserve = Some(buf);
            }
        }
    }
}
