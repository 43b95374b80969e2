//! A bare volume: a memory device exported without heads, the baseline of the benches (DESIGN section 6).
//!
//! It has no log, no replica and no checksum, and says so in `status`: what it measures is the cost of
//! export and reactor alone.

use crate::bus::{Askers, drain};
use palisade_dma::Pool;
use palisade_protocol::wire::limits::IO_BYTES_MAX;
use palisade_protocol::wire::volume::zeroes;
use palisade_protocol::wire::{
    ClientCmd, ClientDone, ClientError, ClientOk, ClientTag, ClientVerb, StatusRun,
};
use palisade_runtime::block::{BlockCompletion, BlockDriver, BlockOk, BlockPort, BlockRequest, BlockVerb};
use palisade_runtime::clock::Nanos;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::Receiver;
use smallvec::smallvec;

/// Commands taken per turn.
const BATCH: usize = 512;

/// A command that has requests at the device.
#[derive(Clone, Copy)]
struct Open {
    tag: ClientTag,
    left: u32,
    failed: bool,
}

/// A memory device behind an export.
pub struct BareService {
    name: String,
    device: BlockDriver,
    pool: Pool,
    commands: Receiver<ClientCmd>,
    /// A command that waits for a buffer.
    held: Option<ClientCmd>,
    askers: Askers,
    open: Vec<Open>,
    free: Vec<usize>,
    done: Vec<BlockCompletion>,
}

impl BareService {
    /// Serves `device`; reads come in buffers of `pool`.
    pub fn new(
        name: &str,
        device: BlockDriver,
        pool: Pool,
        commands: Receiver<ClientCmd>,
        askers: Askers,
    ) -> Self {
        Self {
            name: name.to_owned(),
            device,
            pool,
            commands,
            held: None,
            askers,
            open: Vec::with_capacity(BATCH),
            free: Vec::with_capacity(BATCH),
            done: Vec::with_capacity(BATCH),
        }
    }

    fn start(&mut self, tag: ClientTag, verbs: impl Iterator<Item = BlockVerb>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(Open { tag, left: 0, failed: false });
            self.open.len() - 1
        });
        let mut left = 0;
        for verb in verbs {
            left += 1;
            self.device.submit(BlockRequest { key: slot as u64, verb });
        }
        self.open[slot] = Open { tag, left, failed: false };
    }

    fn answer(&mut self, tag: ClientTag, result: Result<ClientOk, ClientError>) {
        self.askers.answer(ClientDone { tag, result });
    }

    /// Starts a command; gives it back when there is no buffer for it.
    fn take(&mut self, cmd: ClientCmd) -> Option<ClientCmd> {
        let tag = cmd.tag;
        match cmd.verb {
            ClientVerb::Read { offset, len } => match self.pool.alloc(len as usize) {
                Some(buf) => self.start(tag, std::iter::once(BlockVerb::Read { offset, buf })),
                None => return Some(cmd),
            },
            ClientVerb::Write { offset, data } => {
                let verb = BlockVerb::Write { offset, bufs: smallvec![data], fua: false };
                self.start(tag, std::iter::once(verb));
            }
            ClientVerb::Trim { offset, len } | ClientVerb::WriteZeroes { offset, len } => {
                self.start(tag, clears(offset, len));
            }
            ClientVerb::Flush => self.answer(tag, Ok(ClientOk::Done)),
            ClientVerb::BlockStatus { len, .. } => {
                self.answer(tag, Ok(ClientOk::Status(vec![StatusRun { len, data: true }])));
            }
        }
        None
    }

    fn finish(&mut self, done: BlockCompletion) {
        let slot = done.key as usize;
        let open = &mut self.open[slot];
        open.left -= 1;
        open.failed |= done.result.is_err();
        let (tag, failed, left) = (open.tag, open.failed, open.left);
        if left > 0 {
            return;
        }
        self.free.push(slot);
        let result = match done.result {
            Ok(BlockOk::Read(buf)) if !failed => Ok(ClientOk::Data(smallvec![buf.freeze()])),
            Ok(_) if !failed => Ok(ClientOk::Done),
            _ => Err(ClientError::Range),
        };
        self.answer(tag, result);
    }
}

/// Writes that clear a range of any length from the static block of zeroes.
fn clears(offset: u64, len: u64) -> impl Iterator<Item = BlockVerb> {
    let step = IO_BYTES_MAX as u64;
    (0..len.div_ceil(step)).map(move |part| {
        let at = part * step;
        let bytes = step.min(len - at) as usize;
        BlockVerb::Write { offset: offset + at, bufs: smallvec![zeroes(bytes)], fua: false }
    })
}

impl Service for BareService {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, now: Nanos) -> usize {
        let mut work = 0;
        while work < BATCH {
            let Some(cmd) = self.held.take().or_else(|| self.commands.pop()) else { break };
            self.held = self.take(cmd);
            if self.held.is_some() {
                break;
            }
            work += 1;
        }
        self.device.kick();
        let mut done = std::mem::take(&mut self.done);
        work += self.device.poll(now, &mut done);
        for completion in done.drain(..) {
            self.finish(completion);
        }
        self.done = done;
        self.askers.flush();
        work
    }

    fn deadline(&self) -> Option<Nanos> {
        (self.device.in_flight() > 0 || self.held.is_some()).then_some(Nanos::ZERO)
    }

    fn stopping(&mut self, _now: Nanos) -> bool {
        let left = drain(&mut self.commands, BATCH, drop);
        left == 0 && self.device.in_flight() == 0
    }
}
