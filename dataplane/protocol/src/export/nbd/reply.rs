//! Answers: from completed commands to reply bytes ("Simple reply message", "Structured reply chunk
//! message", "Structured reply types").

use super::connection::{Connection, Reason};
use super::limits::STATUS_RUNS_MAX;
use super::open::Kind;
use super::words::{CHUNK_MAGIC, CONTEXT_ID, Errno, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO, chunk, flag};
use crate::wire::volume::is_zeroes;
use crate::wire::{ClientDone, ClientError, ClientOk, Payload, StatusRun};
use palisade_dma::Buf;

/// The NBD error of a volume's error.
fn errno_of(error: ClientError) -> Errno {
    match error {
        ClientError::Range => Errno::Inval,
        ClientError::NoSpace => Errno::NoSpc,
        ClientError::NotServed => Errno::Shutdown,
        ClientError::Unreadable | ClientError::Device => Errno::Io,
    }
}

/// Text for people that goes with an error chunk.
fn text_of(errno: Errno) -> &'static str {
    match errno {
        Errno::Perm => "the export is read-only",
        Errno::Io => "too few good copies, or a device failed; see the server's log",
        Errno::Inval => "unknown request or flag, or a range that is unaligned (512) or outside the export",
        Errno::NoSpc => "beyond the end of the export, or no space left in the rack",
        Errno::Overflow => "too long for one chunk",
        Errno::NotSup => "cannot zero this range faster than writing it",
        Errno::Shutdown => "this server does not serve the volume now",
    }
}

impl Connection {
    /// The answer of one of this connection's commands. Answers to tags that are not open are counted
    /// and ignored.
    ///
    /// # Panics
    /// When the answer's shape does not fit its command (a bug of the answering machine).
    pub fn complete(&mut self, done: ClientDone) {
        let Some(slot) = self.open.find(done.tag) else {
            self.stats.stray_answers += 1;
            return;
        };
        if self.broken() {
            self.open.free_command(slot);
            return;
        }
        let request = self.open.command(slot).request;
        let kind = self.open.request(request).kind;
        match kind {
            Kind::Read if self.structured() => self.read_part(slot, done.result),
            Kind::Read => self.simple_read_part(slot, done.result),
            Kind::Status => self.status_done(slot, done.result),
            _ => self.change_part(slot, done.result.map(drop)),
        }
    }

    /// A part of a write, trim, zeroes or flush ended; the last one answers the request.
    fn change_part(&mut self, slot: u16, result: Result<(), ClientError>) {
        let request = self.open.free_command(slot);
        if let Err(error) = result {
            self.open.request(request).error.get_or_insert(errno_of(error));
            if self.open.request(request).kind == Kind::ZeroFill {
                self.stop_issuing(request);
            }
        }
        self.finish_change(request);
    }

    /// Answers a changing request if nothing of it is open any more.
    pub(super) fn finish_change(&mut self, slot: u16) {
        let request = *self.open.request(slot);
        if request.finished() {
            self.open.free_request(slot);
            match request.error {
                None => self.simple(request.cookie, 0),
                Some(errno) => self.refuse(request.cookie, errno),
            }
        }
    }

    /// A part of a structured read ended: its content chunks or its error chunk go out at once, in
    /// whatever order parts end; the last one carries the flag of the end.
    fn read_part(&mut self, slot: u16, result: Result<ClientOk, ClientError>) {
        let (offset, len) = (self.open.command(slot).offset, self.open.command(slot).len);
        let request_slot = self.open.free_command(slot);
        let request = *self.open.request(request_slot);
        let last = request.finished();
        match result {
            Ok(answer) => {
                let pieces = data_of(answer, len);
                self.content(request.cookie, offset, pieces, last, request.flags & flag::DF != 0);
            }
            Err(error) => {
                self.stats.errors += 1;
                self.error_chunk(request.cookie, errno_of(error), Some(offset), last);
            }
        }
        if last {
            self.open.free_request(request_slot);
        }
    }

    /// A hole chunk.
    pub(super) fn hole(&mut self, flags: u16, cookie: u64, offset: u64, len: u32) {
        self.chunk(flags, chunk::OFFSET_HOLE, cookie, 12);
        self.output.put(&offset.to_be_bytes());
        self.output.put(&len.to_be_bytes());
    }

    /// Content chunks of consecutive pieces; runs of zeroes become hole chunks, unless the client wants
    /// the data in one piece.
    fn content(&mut self, cookie: u64, mut offset: u64, mut pieces: Payload, last: bool, whole: bool) {
        if pieces.len() == 1 && (whole || !is_zeroes(&pieces[0])) {
            let Some(piece) = pieces.pop() else { unreachable!("there is one") };
            let flags = if last { chunk::DONE } else { 0 };
            self.output.put(&data_head(flags, cookie, offset, piece.len() as u32));
            return self.output.put_payload(piece);
        }
        let mut from = 0;
        while from < pieces.len() {
            let hole = !whole && is_zeroes(&pieces[from]);
            let same = |piece: &&Buf| whole || is_zeroes(piece) == hole;
            let to = from + pieces[from..].iter().take_while(same).count();
            let len: usize = pieces[from..to].iter().map(|piece| piece.len()).sum();
            let flags = if last && to == pieces.len() { chunk::DONE } else { 0 };
            if hole {
                self.hole(flags, cookie, offset, len as u32);
            } else {
                self.output.put(&data_head(flags, cookie, offset, len as u32));
                for piece in &mut pieces[from..to] {
                    self.output.put_payload(std::mem::replace(piece, Buf::from_static(&[])));
                }
            }
            offset += len as u64;
            from = to;
        }
    }

    /// A part of a read ended that is answered by a simple reply. Parts go out in order of address; a
    /// failure after the first byte can only be told by closing (NBD_CMD_READ, "Simple replies").
    fn simple_read_part(&mut self, slot: u16, result: Result<ClientOk, ClientError>) {
        let command = self.open.command(slot);
        let (request, len) = (command.request, command.len);
        match result {
            Ok(answer) if self.exclusive != Some(request) => return self.simple_read(slot, answer),
            Ok(answer) => self.open.command(slot).ready = Some(data_of(answer, len)),
            Err(error) => {
                self.open.free_command(slot);
                self.open.request(request).error.get_or_insert(errno_of(error));
                self.stop_issuing(request);
            }
        }
        self.drain_simple_read(request);
    }

    /// A read of one part, the usual case: header and data.
    fn simple_read(&mut self, slot: u16, answer: ClientOk) {
        let pieces = data_of(answer, self.open.command(slot).len);
        let request = self.open.free_command(slot);
        let cookie = self.open.request(request).cookie;
        self.open.free_request(request);
        self.simple(cookie, 0);
        pieces.into_iter().for_each(|piece| self.output.put_payload(piece));
    }

    /// Puts out what is next of a simple read, or ends it.
    fn drain_simple_read(&mut self, slot: u16) {
        loop {
            let request = *self.open.request(slot);
            let next = request.offset + u64::from(request.emitted);
            if let Some(errno) = request.error {
                if request.emitted > 0 {
                    return self.close(Reason::ReadFailed);
                }
                while let Some(ready) = self.open.any_ready(slot) {
                    self.open.command(ready).ready = None;
                    self.open.free_command(ready);
                }
                if self.open.request(slot).finished() {
                    self.end_simple_read(slot);
                    self.refuse(request.cookie, errno);
                }
                return;
            }
            let Some(ready) = self.open.find_ready(slot, next) else { return };
            if request.emitted == 0 {
                self.simple(request.cookie, 0);
            }
            let len = self.open.command(ready).len;
            let pieces = self.open.command(ready).ready.take();
            self.open.free_command(ready);
            pieces.into_iter().flatten().for_each(|piece| self.output.put_payload(piece));
            self.open.request(slot).emitted += len;
            if self.open.request(slot).finished() {
                return self.end_simple_read(slot);
            }
        }
    }

    fn end_simple_read(&mut self, slot: u16) {
        self.open.free_request(slot);
        if self.exclusive == Some(slot) {
            self.exclusive = None;
        }
    }

    /// A block status ended: one chunk of descriptors for the one context.
    fn status_done(&mut self, slot: u16, result: Result<ClientOk, ClientError>) {
        let request_slot = self.open.free_command(slot);
        let request = *self.open.request(request_slot);
        self.open.free_request(request_slot);
        let runs = match result {
            Ok(ClientOk::Status(runs)) => runs,
            Ok(_) => panic!("a block status is answered with runs"),
            Err(error) => return self.refuse(request.cookie, errno_of(error)),
        };
        let most = if request.flags & flag::REQ_ONE != 0 { 1 } else { STATUS_RUNS_MAX };
        merge_runs(&runs, request.len, most, &mut self.runs);
        assert!(!self.runs.is_empty(), "a block status covers at least the first byte");
        self.chunk(chunk::DONE, chunk::BLOCK_STATUS, request.cookie, 4 + 8 * self.runs.len() as u32);
        self.output.put(&CONTEXT_ID.to_be_bytes());
        for (len, state) in &self.runs {
            self.output.put(&len.to_be_bytes());
            self.output.put(&state.to_be_bytes());
        }
    }

    /// Success of a request that carries no data back. A read of nothing has no content chunk.
    pub(super) fn acknowledge(&mut self, cookie: u64, read: bool) {
        if read && self.structured() {
            self.chunk(chunk::DONE, chunk::NONE, cookie, 0);
        } else {
            self.simple(cookie, 0);
        }
    }

    /// An error as the whole answer of a request.
    pub(super) fn refuse(&mut self, cookie: u64, errno: Errno) {
        self.stats.errors += 1;
        if self.structured() {
            self.error_chunk(cookie, errno, None, true);
        } else {
            self.simple(cookie, errno as u32);
        }
    }

    #[inline]
    pub(super) fn simple(&mut self, cookie: u64, error: u32) {
        self.output.put(&simple_head(cookie, error));
    }

    /// The header of a chunk with `len` bytes behind it.
    fn chunk(&mut self, flags: u16, kind: u16, cookie: u64, len: u32) {
        self.output.put(&chunk_head(flags, kind, cookie, len));
    }

    fn error_chunk(&mut self, cookie: u64, errno: Errno, at: Option<u64>, last: bool) {
        let text = text_of(errno).as_bytes();
        let flags = if last { chunk::DONE } else { 0 };
        let kind = if at.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let tail = if at.is_some() { 8 } else { 0 };
        self.chunk(flags, kind, cookie, 6 + text.len() as u32 + tail);
        self.output.put(&(errno as u32).to_be_bytes());
        self.output.put(&(text.len() as u16).to_be_bytes());
        self.output.put(text);
        if let Some(offset) = at {
            self.output.put(&offset.to_be_bytes());
        }
    }
}

/// A simple reply.
#[inline]
pub(super) fn simple_head(cookie: u64, error: u32) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The start of a content chunk of `len` bytes.
#[inline]
pub(super) fn data_head(flags: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0u8; 28];
    bytes[..20].copy_from_slice(&chunk_head(flags, chunk::OFFSET_DATA, cookie, 8 + len));
    bytes[20..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// The header of a chunk with `len` bytes behind it.
#[inline]
fn chunk_head(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; 20] {
    let mut bytes = [0u8; 20];
    bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// The pieces of a read's answer, which must be what was asked for.
fn data_of(answer: ClientOk, len: u32) -> Payload {
    let ClientOk::Data(mut pieces) = answer else { panic!("a read is answered with data") };
    if pieces.iter().any(|piece| piece.is_empty()) {
        pieces.retain(|piece| !piece.is_empty()); // A chunk describes at least one byte.
    }
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    assert_eq!(total, len as usize, "a read is answered in full");
    pieces
}

/// Descriptors of the runs: neighbours of one state merged, cut at `len` bytes and `most` descriptors.
fn merge_runs(runs: &[StatusRun], len: u32, most: usize, merged: &mut Vec<(u32, u32)>) {
    merged.clear();
    let mut left = len;
    for run in runs {
        let part = u64::from(left).min(run.len) as u32;
        let state = if run.data { 0 } else { STATE_HOLE | STATE_ZERO };
        left -= part;
        let count = merged.len();
        match merged.last_mut() {
            _ if part == 0 => {}
            Some((bytes, before)) if *before == state => *bytes += part,
            _ if count == most => return,
            _ => merged.push((part, state)),
        }
    }
}
