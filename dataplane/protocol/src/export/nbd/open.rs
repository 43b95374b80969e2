//! Open requests and commands of a connection: two slabs of fixed size.
//!
//! A request of the client becomes one command or, when it is large, several; a command's tag names its
//! slot and the slot's generation, so that a late or doubled answer finds nothing.

use super::limits::{COMMANDS_MAX, REQUESTS_MAX};
use crate::wire::{ClientTag, Payload};

/// What the client asked for, after judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Trim,
    /// Zeroes that may be holes.
    Zeroes,
    /// Zeroes that must be allocated (NBD_CMD_FLAG_NO_HOLE): written like data.
    ZeroFill,
    Flush,
    Status,
}

/// An open request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Bytes that were turned into commands.
    pub(super) issued: u32,
    /// Commands without an answer.
    pub(super) open_parts: u16,
    /// Some part failed (and, in a structured read, was reported).
    pub(super) error: Option<super::words::Errno>,
    /// Bytes of a simple read that were put out, in order; its header came before them.
    pub(super) emitted: u32,
}

impl Request {
    /// Everything issued and answered.
    pub(super) fn finished(&self) -> bool {
        self.issued == self.len && self.open_parts == 0
    }
}

/// An open command: a part of a request.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) request: u16,
    generation: u16,
    open: bool,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Part of a simple read that waits for the parts before it.
    pub(super) ready: Option<Payload>,
}

/// The two slabs.
#[derive(Debug)]
pub(super) struct Open {
    id: u32,
    requests: Vec<Request>,
    requests_free: Vec<u16>,
    commands: Vec<Command>,
    commands_free: Vec<u16>,
    /// Payload bytes of open commands.
    pub(super) bytes: usize,
}

impl Open {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            requests: Vec::new(),
            requests_free: Vec::new(),
            commands: Vec::new(),
            commands_free: Vec::new(),
            bytes: 0,
        }
    }

    /// Open requests.
    pub(super) fn requests(&self) -> usize {
        self.requests.len() - self.requests_free.len()
    }

    pub(super) fn has_request_slot(&self) -> bool {
        self.requests() < REQUESTS_MAX
    }

    pub(super) fn has_command_slot(&self) -> bool {
        self.commands.len() - self.commands_free.len() < COMMANDS_MAX
    }

    pub(super) fn add_request(&mut self, request: Request) -> u16 {
        match self.requests_free.pop() {
            Some(slot) => {
                self.requests[usize::from(slot)] = request;
                slot
            }
            None => {
                assert!(self.requests.len() < REQUESTS_MAX, "callers ask for a free slot first");
                self.requests.push(request);
                (self.requests.len() - 1) as u16
            }
        }
    }

    pub(super) fn request(&mut self, slot: u16) -> &mut Request {
        &mut self.requests[usize::from(slot)]
    }

    /// Open commands of a request.
    pub(super) fn parts(&self, slot: u16) -> u16 {
        self.requests[usize::from(slot)].open_parts
    }

    pub(super) fn free_request(&mut self, slot: u16) {
        self.requests_free.push(slot);
    }

    /// Opens a command for the request; `len` counts its payload bytes, 0 when it carries none.
    pub(super) fn add_command(&mut self, request: u16, offset: u64, len: u32) -> ClientTag {
        self.request(request).open_parts += 1;
        self.bytes += len as usize;
        let slot = self.commands_free.pop().unwrap_or_else(|| {
            assert!(self.commands.len() < COMMANDS_MAX, "callers ask for a free slot first");
            let fresh = Command { request, generation: 0, open: false, offset, len, ready: None };
            self.commands.push(fresh);
            (self.commands.len() - 1) as u16
        });
        let command = &mut self.commands[usize::from(slot)];
        command.generation = command.generation.wrapping_add(1);
        (command.request, command.offset, command.len, command.open) = (request, offset, len, true);
        ClientTag(u64::from(self.id) << 32 | u64::from(command.generation) << 16 | u64::from(slot))
    }

    /// The slot of an open command's tag; `None` for a tag that is not (or no longer) open.
    pub(super) fn find(&self, tag: ClientTag) -> Option<u16> {
        let (slot, generation) = (tag.0 as u16, (tag.0 >> 16) as u16);
        let command = self.commands.get(usize::from(slot))?;
        let known = command.open && command.generation == generation && (tag.0 >> 32) as u32 == self.id;
        (known && command.ready.is_none()).then_some(slot)
    }

    pub(super) fn command(&mut self, slot: u16) -> &mut Command {
        &mut self.commands[usize::from(slot)]
    }

    /// Closes a command; its request keeps its slot.
    pub(super) fn free_command(&mut self, slot: u16) -> u16 {
        let command = &mut self.commands[usize::from(slot)];
        assert!(command.open, "a command is closed once");
        command.open = false;
        let request = command.request;
        self.bytes -= command.len as usize;
        self.commands_free.push(slot);
        self.request(request).open_parts -= 1;
        request
    }

    /// The command of `request` that starts at `offset` and whose data came.
    pub(super) fn find_ready(&self, request: u16, offset: u64) -> Option<u16> {
        let fits = |c: &Command| c.open && c.request == request && c.offset == offset && c.ready.is_some();
        self.commands.iter().position(fits).map(|slot| slot as u16)
    }

    /// Any command of `request` whose data came.
    pub(super) fn any_ready(&self, request: u16) -> Option<u16> {
        let fits = |c: &Command| c.open && c.request == request && c.ready.is_some();
        self.commands.iter().position(fits).map(|slot| slot as u16)
    }

    /// Tags of all commands without an answer.
    pub(super) fn tags(&self) -> impl Iterator<Item = ClientTag> {
        self.commands.iter().enumerate().filter(|(_, c)| c.open && c.ready.is_none()).map(|(slot, c)| {
            ClientTag(u64::from(self.id) << 32 | u64::from(c.generation) << 16 | slot as u64)
        })
    }
}
