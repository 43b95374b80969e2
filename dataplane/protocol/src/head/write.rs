//! Client commands until they are numbered: order, room, splitting (P-31, `Bounded`).
//!
//! A command becomes one or more operations. An aligned write becomes one, without a copy. Partial blocks
//! go through `merge`.

use super::core::Core;
use super::part::{Pending, Phase, Stalled};
use super::slab::Id;
use super::stats::Stage;
use crate::log::{PushError, Room};
use crate::wire::limits::{BLOCK, COMMANDS_MAX, IO_BLOCKS_MAX, IO_BYTES_MAX, SECTOR};
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;

/// Most blocks that one clear operation covers: bounds the time of one index change.
const CLEAR_BLOCKS: u64 = 8192;
/// Log blocks that stay free beside everything promised, for record headers and segment ends.
pub(super) const SLACK: u64 = 128;
/// Blocks of a largest write, with a partial block at either end.
pub(super) const LEAST: u64 = IO_BLOCKS_MAX as u64 + 2;
/// Clear operations of one command under way at once.
const CLEARS_OPEN: u32 = 4;

/// Log room that a write of so many blocks may take: it is at most three operations (partial blocks at its
/// ends go by themselves), each in a record of its own with two header blocks.
pub(super) fn room_for_write(blocks: u64) -> u64 {
    blocks + 6 + SLACK
}

/// Operations under way up to which a full rack lets clears pass.
const FREEING_OPEN: usize = 16;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Clear,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Clear => "clear",
        }
    }
}

/// A client command in progress.
#[derive(Debug)]
pub(super) struct Cmd {
    pub(super) tag: ClientTag,
    pub(super) part: usize,
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) arrived: Time,
    /// When numbered or looked up, locally durable, durable at the secondary.
    pub(super) seen: [Time; 3],
    /// Operations and merges that are not done.
    pub(super) open: u32,
    pub(super) failed: Option<ClientError>,
    /// Whole blocks of a clear that are not numbered yet.
    pub(super) clear: std::ops::Range<u64>,
}

impl Core {
    pub(super) fn handle_client(&mut self, now: Time, cmd: ClientCmd, out: &mut Out) {
        self.busy = true;
        let Some(p) = self.parts.find(cmd.partition) else {
            return fail(out, cmd.tag, ClientError::NotServed);
        };
        let part = &mut self.parts[p];
        match part.phase {
            Phase::Following | Phase::Stopped(_) => return fail(out, cmd.tag, ClientError::NotServed),
            _ if part.deleting || part.deleted => return fail(out, cmd.tag, ClientError::NotServed),
            // What a log lost has no size until control declares it again: that is no mistake of the client's.
            _ if part.cfg.blocks == 0 => return fail(out, cmd.tag, ClientError::NotServed),
            // Whoever left a group and forgot its copy, or is being filled, may never get a number.
            Phase::Idle if part.copy.origin.filling => return fail(out, cmd.tag, ClientError::NotServed),
            _ => {}
        }
        if let Err(error) = check(&cmd.verb, part.cfg.blocks * BLOCK as u64) {
            part.stats.counters.errors += 1;
            return fail(out, cmd.tag, error);
        }
        let reads = !changes(&cmd.verb);
        let waits = !part.serving()
            || part.widened()
            || (!reads
                && (!part.waiting.is_empty() || !part.stalled.is_empty() || !self.admits(p, &cmd.verb)));
        if waits {
            let part = &mut self.parts[p];
            part.stats.counters.waits += 1;
            if part.waiting.len() >= 4 * COMMANDS_MAX {
                return fail(out, cmd.tag, ClientError::NotServed);
            }
            part.waiting.push_back((cmd, now));
            return;
        }
        self.start(now, now, p, cmd, out);
    }

    /// Whether a command that changes blocks may be numbered now (P-31, `Bounded`).
    pub(super) fn admits(&self, p: usize, verb: &ClientVerb) -> bool {
        let part = &self.parts[p];
        if part.frozen() && !self.cfg.faults.solo_unasked() {
            return false;
        }
        let blocks = match verb {
            ClientVerb::Write { data, .. } => (data.len() / BLOCK + 2) as u64,
            _ => 2,
        };
        if part.pending.len() >= self.cfg.window as usize || self.log.failed() || part.copy_presses() {
            return false;
        }
        let credit = self.cfg.faults.no_credit() || part.credit_for(blocks);
        let room = self.log.user_blocks() >= self.promised() + room_for_write(blocks);
        (credit && room) || self.frees(p, verb)
    }

    /// Whether a command is a clear that a full rack lets pass: there are no columns to flush to, so neither
    /// log makes room, and what is cleared is what gives columns back (P-32).
    fn frees(&self, p: usize, verb: &ClientVerb) -> bool {
        let part = &self.parts[p];
        matches!(verb, ClientVerb::Trim { .. } | ClientVerb::WriteZeroes { .. })
            && part.no_columns_since.is_some()
            && part.pending.len() < FREEING_OPEN
            && self.log.room_for(0, Room::Replica)
    }

    /// Starts what had to wait, in order; reads do not queue behind writes once the partition serves.
    pub(super) fn pump(&mut self, now: Time, p: usize, out: &mut Out) {
        if !self.parts[p].serving() || self.parts[p].widened() {
            return;
        }
        // Alone, nothing is numbered (P-30).
        let may = !self.parts[p].frozen() || self.cfg.faults.solo_unasked();
        while let Some(stalled) = self.parts[p].stalled.pop_front_if(|_| may) {
            let done = match stalled {
                Stalled::Merge(id) => self.poll_merge(now, id, out),
                Stalled::Clear(id) => self.poll_clear(now, id, out),
                Stalled::Write(id, lba, data) => self.poll_write(now, p, id, lba, data),
            };
            if !done {
                // What could not be numbered put itself at the end; it stays the next in line.
                self.parts[p].stalled.rotate_right(1);
                break;
            }
        }
        let mut passed = 0;
        while passed < self.parts[p].waiting.len() {
            let (cmd, _) = &self.parts[p].waiting[passed];
            let blocked = changes(&cmd.verb)
                && (passed > 0 || !self.parts[p].stalled.is_empty() || !self.admits(p, &cmd.verb));
            if blocked {
                passed += 1;
                continue;
            }
            if let Some((cmd, arrived)) = self.parts[p].waiting.remove(passed) {
                self.start(now, arrived, p, cmd, out);
            }
        }
        self.ask_for_credit(now, p);
    }

    fn start(&mut self, now: Time, arrived: Time, p: usize, cmd: ClientCmd, out: &mut Out) {
        let ClientCmd { tag, verb, .. } = cmd;
        match verb {
            ClientVerb::Flush => out.done.push(ClientDone { tag, result: Ok(ClientOk::Done) }),
            ClientVerb::Read { offset, len } => {
                let id = self.add_cmd(p, tag, Kind::Read, offset, u64::from(len), arrived, now);
                self.start_read(now, p, id, offset, len, out);
            }
            ClientVerb::BlockStatus { offset, len } => {
                let id = self.add_cmd(p, tag, Kind::Read, offset, len, arrived, now);
                self.start_status(now, p, id, offset, len, out);
            }
            ClientVerb::Write { offset, data } => {
                let bytes = data.len() as u64;
                let id = self.add_cmd(p, tag, Kind::Write, offset, bytes, arrived, now);
                self.start_write(now, p, id, offset, data, out);
            }
            ClientVerb::Trim { offset, len } | ClientVerb::WriteZeroes { offset, len } => {
                let id = self.add_cmd(p, tag, Kind::Clear, offset, len, arrived, now);
                self.start_clear(now, p, id, offset, len, out);
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // one call per verb, all plain values
    fn add_cmd(
        &mut self,
        part: usize,
        tag: ClientTag,
        kind: Kind,
        offset: u64,
        bytes: u64,
        arrived: Time,
        now: Time,
    ) -> Id {
        self.parts[part].active += 1;
        self.parts[part].stats.record(Stage::Receive, now.since(arrived));
        let seen = [now, Time::ZERO, Time::ZERO];
        let cmd = Cmd { tag, part, kind, offset, bytes, arrived, seen, open: 1, failed: None, clear: 0..0 };
        self.cmds.insert(cmd)
    }

    fn start_write(&mut self, now: Time, p: usize, id: Id, offset: u64, data: Buf, out: &mut Out) {
        let block = BLOCK as u64;
        let head = ((block - offset % block) % block).min(data.len() as u64) as usize;
        if head > 0 {
            let part = data.slice(0..head);
            let merge = (Lba(offset / block), (offset % block) as usize, head, Some(part));
            self.add_merge(now, p, id, merge, out);
        }
        let whole = (data.len() - head) / BLOCK * BLOCK;
        let tail = data.len() - head - whole;
        let lba = Lba((offset + head as u64) / block);
        if tail > 0 {
            let part = data.slice(head + whole..data.len());
            self.add_merge(now, p, id, (Lba(lba.0 + (whole / BLOCK) as u64), 0, tail, Some(part)), out);
        }
        if whole > 0 {
            let data = if head == 0 && tail == 0 { data } else { data.slice(head..head + whole) };
            if let Some(cmd) = self.cmds.get_mut(id) {
                cmd.open += 1;
            }
            self.poll_write(now, p, id, lba, data);
        }
        self.close_cmd(now, id, out);
    }

    /// Numbers whole blocks of a write, or puts them in line; says whether they need no retry.
    fn poll_write(&mut self, now: Time, p: usize, id: Id, lba: Lba, data: Buf) -> bool {
        if self.cmds.get(id).is_none() {
            return true;
        }
        let aligned = data.as_ptr().addr().is_multiple_of(BLOCK);
        let placed = if aligned { Some(data.clone()) } else { self.copied(&data) };
        let placed = placed.filter(|data| self.log.room_for((data.len() / BLOCK) as u64, Room::User));
        if let Some(placed) = placed {
            let crcs = placed.chunks_exact(BLOCK).map(crc32c).collect();
            if self.number(now, p, Body::Write { lba, crcs, data: placed }, id).is_ok() {
                return true;
            }
        }
        self.parts[p].stalled.push_back(Stalled::Write(id, lba, data));
        self.arm(now + std::time::Duration::from_millis(1));
        false
    }

    /// A block-aligned copy, for devices that want it (only misaligned writes need one).
    fn copied(&self, data: &Buf) -> Option<Buf> {
        let mut copy = self.pool.alloc(data.len())?;
        copy.copy_from_slice(data);
        Some(copy.freeze())
    }

    /// Gives the next number to an operation: into the own log and, by the end of the turn, to the peer.
    pub(super) fn number(&mut self, now: Time, p: usize, body: Body, cmd: Id) -> Result<Op, PushError> {
        let part = &mut self.parts[p];
        let op = Op(part.tail.0 + 1);
        let cost = super::replicate::cost(&body);
        let entry = Entry { partition: part.cfg.partition, number: part.stamp.number, op, body };
        let placed = self.log.push(&entry, part.committed)?;
        part.tail = op;
        for peer in &mut part.peers {
            peer.spent += cost;
        }
        part.learner_owes(cost);
        part.pending.push_back(Pending {
            entry,
            addr: placed.addr,
            lsn: placed.lsn,
            cmd,
            loaded: true,
            at: now,
            logged_at: Time::ZERO,
            replicated_at: Time::ZERO,
        });
        self.busy = true;
        Ok(op)
    }

    /// One thing less that the command waits for; answers it when nothing is left.
    pub(super) fn close_cmd(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some(cmd) = self.cmds.get_mut(id) else { return };
        cmd.open -= 1;
        if cmd.open == 0 && cmd.clear.is_empty() {
            self.answer(now, id, Ok(ClientOk::Done), out);
        }
    }

    pub(super) fn fail_cmd(&mut self, id: Id, error: ClientError) {
        if let Some(cmd) = self.cmds.get_mut(id) {
            cmd.failed = Some(error);
            cmd.clear = 0..0;
        }
    }

    pub(super) fn answer(&mut self, now: Time, id: Id, result: Result<ClientOk, ClientError>, out: &mut Out) {
        let Some(cmd) = self.cmds.remove(id) else { return };
        let part = &mut self.parts[cmd.part];
        part.active -= 1;
        let result = match cmd.failed {
            Some(error) => Err(error),
            None => result,
        };
        let counters = &mut part.stats.counters;
        match (&result, cmd.kind) {
            (Err(_), _) => counters.errors += 1,
            (Ok(_), Kind::Read) => {
                counters.reads += 1;
                counters.read_bytes += cmd.bytes;
            }
            (Ok(_), Kind::Write) => {
                counters.writes += 1;
                counters.write_bytes += cmd.bytes;
            }
            (Ok(_), Kind::Clear) => counters.clears += 1,
        }
        let took = now.since(cmd.arrived);
        part.stats.record(Stage::Reply, took);
        if took > self.cfg.slow_io {
            part.stats.counters.slow += 1;
            let at = |time: Time| time.since(cmd.arrived).as_nanos() as u64;
            let stages = [at(cmd.seen[0]), at(cmd.seen[1]), at(cmd.seen[2]), took.as_nanos() as u64];
            let (partition, what, offset) = (part.cfg.partition, cmd.kind.name(), cmd.offset);
            out.events.push(Event::SlowIo { partition, what, offset, stages });
        }
        out.done.push(ClientDone { tag: cmd.tag, result });
    }

    fn start_clear(&mut self, now: Time, p: usize, id: Id, offset: u64, len: u64, out: &mut Out) {
        let block = BLOCK as u64;
        let end = offset + len;
        let (first, last) = (offset.div_ceil(block), end / block);
        if first > last {
            // Inside one block.
            let merge = (Lba(offset / block), (offset % block) as usize, len as usize, None);
            self.add_merge(now, p, id, merge, out);
        } else {
            if !offset.is_multiple_of(block) {
                let from = (offset % block) as usize;
                self.add_merge(now, p, id, (Lba(offset / block), from, BLOCK - from, None), out);
            }
            if !end.is_multiple_of(block) {
                self.add_merge(now, p, id, (Lba(last), 0, (end % block) as usize, None), out);
            }
            if let Some(cmd) = self.cmds.get_mut(id) {
                cmd.clear = first..last;
            }
            self.poll_clear(now, id, out);
        }
        self.close_cmd(now, id, out);
    }

    /// Numbers clears of a command as far as room and fairness allow; says whether it needs no retry.
    pub(super) fn poll_clear(&mut self, now: Time, id: Id, _out: &mut Out) -> bool {
        while let Some(cmd) = self.cmds.get(id) {
            if cmd.clear.is_empty() || cmd.open > CLEARS_OPEN {
                return true;
            }
            let (p, lba) = (cmd.part, cmd.clear.start);
            let count = (cmd.clear.end - lba).min(CLEAR_BLOCKS);
            let verb = ClientVerb::Trim { offset: 0, len: 0 };
            let body = Body::Clear { lba: Lba(lba), count: count as u32 };
            if !self.admits(p, &verb) || self.number(now, p, body, id).is_err() {
                self.parts[p].stalled.push_back(Stalled::Clear(id));
                return false;
            }
            if let Some(cmd) = self.cmds.get_mut(id) {
                cmd.clear.start += count;
                cmd.open += 1;
            }
        }
        true
    }
}

fn changes(verb: &ClientVerb) -> bool {
    matches!(verb, ClientVerb::Write { .. } | ClientVerb::Trim { .. } | ClientVerb::WriteZeroes { .. })
}

fn fail(out: &mut Out, tag: ClientTag, error: ClientError) {
    out.done.push(ClientDone { tag, result: Err(error) });
}

/// Whether a request lies in the volume and in the limits.
fn check(verb: &ClientVerb, volume: u64) -> Result<(), ClientError> {
    let (offset, len, most) = match verb {
        ClientVerb::Read { offset, len } => (*offset, u64::from(*len), IO_BYTES_MAX as u64),
        ClientVerb::Write { offset, data } => (*offset, data.len() as u64, IO_BYTES_MAX as u64),
        ClientVerb::Trim { offset, len }
        | ClientVerb::WriteZeroes { offset, len }
        | ClientVerb::BlockStatus { offset, len } => (*offset, *len, volume),
        ClientVerb::Flush => return Ok(()),
    };
    let sector = SECTOR as u64;
    let aligned = offset.is_multiple_of(sector) && len.is_multiple_of(sector);
    let inside = offset.checked_add(len).is_some_and(|end| end <= volume);
    if aligned && inside && len > 0 && len <= most { Ok(()) } else { Err(ClientError::Range) }
}

const _: () = assert!(IO_BLOCKS_MAX * BLOCK == IO_BYTES_MAX);
