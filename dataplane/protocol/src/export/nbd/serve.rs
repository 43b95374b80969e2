//! Requests become commands: admission under the connection's limits, payload, parts of large requests.

use super::connection::{Connection, Reason, Receive};
use super::limits::{DISCARD_MAX, PARTS_MAX, REPLY_BYTES_MAX};
use super::open::{Kind, Request};
use super::request::{Attached, Header, judge, part_len};
use super::words::{Errno, cmd};
use crate::wire::limits::IO_BYTES_MAX;
use crate::wire::{ClientCmd, ClientVerb};
use palisade_dma::{BufMut, Pool};

/// Why something has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For open commands to end or unsent answers to leave.
    Limit,
    /// For a buffer.
    Pool,
}

impl Connection {
    /// Starts the request, answers it, or lets it wait (and remembers it). Returns whether input may go on.
    pub(super) fn admit(&mut self, header: Header, pool: &Pool, commands: &mut Vec<ClientCmd>) -> bool {
        let Some(attached) = self.attached else { unreachable!("requests follow an attach") };
        if header.command == cmd::DISC {
            self.drain(Reason::Disconnected);
            return false;
        }
        if self.exclusive.is_some() || self.output.header_bytes() > REPLY_BYTES_MAX {
            self.receive = Receive::Waiting(header);
            return self.wait(Wait::Limit);
        }
        if !matches!(self.receive, Receive::Header) {
            self.receive = Receive::Header;
        }
        let kind = match judge(&header, &attached) {
            Ok(kind) => kind,
            Err(errno) => return self.turn_down(header, errno),
        };
        if header.len == 0 && kind != Kind::Flush {
            self.stats.requests += 1;
            self.acknowledge(header.cookie, kind == Kind::Read);
            return true;
        }
        if let Err(wait) = self.start(&header, kind, &attached, pool, commands) {
            self.receive = Receive::Waiting(header);
            return self.wait(wait);
        }
        self.stats.requests += 1;
        true
    }

    /// Notes why input waits.
    pub(super) fn wait(&mut self, wait: Wait) -> bool {
        match wait {
            Wait::Limit => self.stats.limit_waits += 1,
            Wait::Pool => self.stats.pool_waits += 1,
        }
        if self.waiting != Some(Wait::Pool) {
            self.waiting = Some(wait); // A wait for the pool needs the owner's help: it stays visible.
        }
        false
    }

    /// Answers with an error; the payload of a refused write is read over first.
    fn turn_down(&mut self, header: Header, errno: Errno) -> bool {
        if header.command != cmd::WRITE || header.len == 0 {
            self.refuse(header.cookie, errno);
        } else if header.len > DISCARD_MAX {
            self.close(Reason::Violation("the payload of a write is longer than any request may be"));
        } else {
            self.receive = Receive::Discard { cookie: header.cookie, errno, left: header.len };
        }
        true
    }

    /// Opens the request and issues what can be issued of it.
    fn start(
        &mut self,
        header: &Header,
        kind: Kind,
        attached: &Attached,
        pool: &Pool,
        commands: &mut Vec<ClientCmd>,
    ) -> Result<(), Wait> {
        let split = part_len(header.offset, header.len) < header.len;
        let exclusive = kind == Kind::Read && split && !attached.structured;
        if !self.open.has_request_slot() || (exclusive && self.open.requests() > 0) {
            return Err(Wait::Limit);
        }
        if kind != Kind::Write {
            self.room_for(0)?;
        }
        let request = self.open.add_request(Request {
            kind,
            flags: header.flags,
            cookie: header.cookie,
            offset: header.offset,
            len: header.len,
            issued: 0,
            open_parts: 0,
            error: None,
            emitted: 0,
        });
        match kind {
            Kind::Write => self.expect_payload(request),
            Kind::Read | Kind::ZeroFill => {
                self.exclusive = exclusive.then_some(request);
                self.issue_parts(request, pool, commands);
            }
            Kind::Trim | Kind::Zeroes | Kind::Flush | Kind::Status => {
                self.issue_whole(request, commands);
            }
        }
        Ok(())
    }

    /// One command for the whole request: it carries no payload, so it needs no cutting.
    fn issue_whole(&mut self, slot: u16, commands: &mut Vec<ClientCmd>) {
        let request = self.open.request(slot);
        request.issued = request.len;
        let (offset, len) = (request.offset, u64::from(request.len));
        let verb = match request.kind {
            Kind::Trim => ClientVerb::Trim { offset, len },
            Kind::Zeroes => ClientVerb::WriteZeroes { offset, len },
            Kind::Status => ClientVerb::BlockStatus { offset, len },
            _ => ClientVerb::Flush,
        };
        self.issue(slot, offset, 0, verb, commands);
    }

    fn issue(&mut self, slot: u16, offset: u64, len: u32, verb: ClientVerb, commands: &mut Vec<ClientCmd>) {
        let Some(attached) = self.attached else { unreachable!("requests follow an attach") };
        let tag = self.open.add_command(slot, offset, len);
        commands.push(ClientCmd { tag, partition: attached.partition, verb });
    }

    /// Whether a command of `len` payload bytes may be opened now.
    fn room_for(&self, len: u32) -> Result<(), Wait> {
        let bytes = self.open.bytes + self.output.payload_bytes();
        let fits = bytes + len as usize <= self.bytes_max;
        if fits && self.open.has_command_slot() { Ok(()) } else { Err(Wait::Limit) }
    }

    /// Whether something that waits has room now.
    pub(super) fn could_start(&self) -> bool {
        let part = IO_BYTES_MAX as u32;
        let held = self.held.iter().any(|slot| usize::from(self.open.parts(*slot)) < PARTS_MAX);
        let due = match self.receive {
            Receive::Waiting(_) => {
                self.exclusive.is_none()
                    && self.open.has_request_slot()
                    && self.output.header_bytes() <= REPLY_BYTES_MAX
            }
            Receive::Payload { ref buf, .. } => buf.is_none(),
            _ => false,
        };
        (held || due) && self.room_for(part).is_ok()
    }

    /// Issues parts of requests that are larger than one command, round robin, as far as limits allow.
    pub(super) fn pump(&mut self, pool: &Pool, commands: &mut Vec<ClientCmd>) {
        for _ in 0..self.held.len() {
            let Some(slot) = self.held.pop_front() else { return };
            self.issue_parts(slot, pool, commands);
        }
    }

    /// Issues parts of one request; what must wait is held.
    fn issue_parts(&mut self, slot: u16, pool: &Pool, commands: &mut Vec<ClientCmd>) {
        loop {
            let request = self.open.request(slot);
            if request.issued == request.len {
                return;
            }
            if usize::from(request.open_parts) >= PARTS_MAX {
                break;
            }
            match self.issue_part(slot, pool, commands) {
                Ok(()) => {}
                Err(Wait::Limit) => break,
                Err(Wait::Pool) => {
                    self.wait(Wait::Pool);
                    break;
                }
            }
        }
        self.held.push_back(slot);
    }

    /// The next part of a large read or zero fill.
    fn issue_part(&mut self, slot: u16, pool: &Pool, commands: &mut Vec<ClientCmd>) -> Result<(), Wait> {
        let request = *self.open.request(slot);
        let offset = request.offset + u64::from(request.issued);
        let len = part_len(offset, request.len - request.issued);
        self.room_for(len)?;
        let verb = if request.kind == Kind::Read {
            ClientVerb::Read { offset, len }
        } else {
            let zeroes = pool.alloc_client_zeroed(len as usize).ok_or(Wait::Pool)?;
            ClientVerb::Write { offset, data: zeroes.freeze() }
        };
        self.open.request(slot).issued += len;
        self.issue(slot, offset, len, verb, commands);
        Ok(())
    }

    /// Issues nothing more of a request that failed.
    pub(super) fn stop_issuing(&mut self, slot: u16) {
        let request = self.open.request(slot);
        if request.issued < request.len {
            request.len = request.issued;
            self.held.retain(|held| *held != slot);
        }
    }

    /// The next part of a write's payload comes next on the wire, or the next request if none is left.
    fn expect_payload(&mut self, slot: u16) {
        let request = self.open.request(slot);
        let offset = request.offset + u64::from(request.issued);
        let left = request.len - request.issued;
        self.receive = match left {
            0 => Receive::Header,
            _ => {
                Receive::Payload { request: slot, buf: None, filled: 0, offset, len: part_len(offset, left) }
            }
        };
    }

    /// Takes payload bytes. Returns whether input may go on.
    pub(super) fn fill(&mut self, rest: &mut &[u8], pool: &Pool, commands: &mut Vec<ClientCmd>) -> bool {
        let (missing, len) = match &self.receive {
            Receive::Payload { buf, len, .. } => (buf.is_none(), *len),
            _ => unreachable!("payload is filled while payload is due"),
        };
        if missing {
            match self.payload_buffer(len, pool) {
                Ok(fresh) => {
                    if let Receive::Payload { buf, .. } = &mut self.receive {
                        *buf = Some(fresh);
                    }
                }
                Err(wait) => return self.wait(wait),
            }
        }
        let Receive::Payload { buf: Some(buf), filled, len, .. } = &mut self.receive else { return false };
        let count = rest.len().min((*len - *filled) as usize);
        let start = *filled as usize;
        // The one copy of small payloads: socket memory is not aligned for direct I/O, pool slots are.
        buf[start..start + count].copy_from_slice(&rest[..count]);
        *rest = &rest[count..];
        self.filled(count as u32, commands);
        count > 0
    }

    fn payload_buffer(&mut self, len: u32, pool: &Pool) -> Result<BufMut, Wait> {
        self.room_for(len)?;
        pool.alloc_client(len as usize).ok_or(Wait::Pool)
    }

    /// `count` more payload bytes are in the buffer; a full part becomes a command.
    pub(super) fn filled(&mut self, count: u32, commands: &mut Vec<ClientCmd>) {
        let Receive::Payload { request, buf, filled, offset, len } = &mut self.receive else {
            unreachable!("payload is filled while payload is due")
        };
        *filled += count;
        assert!(*filled <= *len, "no more payload was taken than there was room for");
        if *filled < *len {
            return;
        }
        let (slot, offset, len) = (*request, *offset, *len);
        let Some(data) = buf.take() else { unreachable!("a full part has a buffer") };
        self.open.request(slot).issued += len;
        self.issue(slot, offset, len, ClientVerb::Write { offset, data: data.freeze() }, commands);
        self.expect_payload(slot);
    }

    /// Reads over the payload of a refused write.
    pub(super) fn discard(&mut self, rest: &mut &[u8]) -> bool {
        let Receive::Discard { cookie, errno, left } = &mut self.receive else { return false };
        let count = rest.len().min(*left as usize);
        *rest = &rest[count..];
        *left -= count as u32;
        if *left > 0 {
            return false;
        }
        let (cookie, errno) = (*cookie, *errno);
        self.receive = Receive::Header;
        self.refuse(cookie, errno);
        true
    }

    /// No more requests are read. A write whose payload did not come whole is answered with an error.
    pub(super) fn drain(&mut self, reason: Reason) {
        self.note_end(reason);
        let receive = std::mem::replace(&mut self.receive, Receive::Nothing);
        if let Receive::Payload { request, .. } = receive {
            let open = self.open.request(request);
            open.error = Some(Errno::Shutdown);
            open.len = open.issued;
            self.finish_change(request);
        }
    }
}
