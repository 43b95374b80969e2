//! Sequential reads of a recovery: several under way at once, handed out in order.
//!
//! A device that cannot read a block fails the whole command. The command is then repeated block by block:
//! what still cannot be read is handed out as [`POISON`], which no checksum matches, so that it counts as rot
//! (P-06: the peer, the other copy or nobody has it) and costs no more than itself.

use super::append::{KIND_RECOVERY, key};
use crate::wire::limits::BLOCK;
use crate::wire::{BlockCmd, BlockError, BlockOp, DeviceIx, Out};
use palisade_dma::{BufMut, Pool};
use std::collections::{BTreeSet, VecDeque};

/// Reads under way at once.
const READS_MAX: usize = 8;
/// Smaller reads to fall back to, in bytes.
const PIECES: [u32; 2] = [64 << 10, 4 << 10];
/// Most blocks that may be unreadable before the device counts as failed.
const UNREADABLE_MAX: usize = 4096;
/// What stands for bytes that cannot be read.
const POISON: u8 = 0xbd;

#[derive(Debug)]
enum State {
    /// Its command is under way.
    Asked,
    /// It failed as a whole: `next` is the block to try by itself, `asked` whether that is under way.
    Pieces { next: u32, asked: bool, bad: u32, buf: Option<BufMut> },
    /// Its bytes, and how many blocks of it are poison.
    Ready(BufMut, u32),
}

#[derive(Debug)]
struct Place {
    id: u64,
    offset: u64,
    len: u32,
    /// Whether it may come in pieces of the plan.
    split: bool,
    state: State,
}

/// Bytes of the next read of the plan.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) buf: BufMut,
    /// First byte on the device.
    pub(super) offset: u64,
    /// Blocks that could not be read.
    pub(super) bad: u32,
}

/// Reads in order: issued as buffers allow, handed out in the order of the plan.
#[derive(Debug, Default)]
pub(super) struct Reads {
    plan: VecDeque<(u64, u32, bool)>,
    window: VecDeque<Place>,
    next: u64,
    unreadable: BTreeSet<u64>,
}

impl Reads {
    /// None planned; they are numbered from `next` on.
    pub(super) fn from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Plans a read that must come in one piece.
    pub(super) fn ask(&mut self, offset: u64, len: u32) {
        self.plan.push_back((offset, len, false));
    }

    /// Plans a read that may come in pieces of whole blocks, where large buffers are short.
    pub(super) fn ask_stream(&mut self, offset: u64, len: u32) {
        self.plan.push_back((offset, len, true));
    }

    /// Nothing of the plan is wanted any more; what is under way comes back to nobody.
    pub(super) fn forget(&mut self) {
        self.plan.clear();
        self.window.clear();
    }

    /// Issues what may be issued now; false if the pool has nothing left and nothing is under way.
    pub(super) fn pump(&mut self, device: DeviceIx, pool: &Pool, out: &mut Out) -> bool {
        self.pump_pieces(device, pool, out);
        while self.window.len() < READS_MAX {
            let Some((offset, len, split)) = self.plan.pop_front() else { break };
            let pieces = if split { &PIECES[..] } else { &[] };
            let sizes = std::iter::once(len).chain(pieces.iter().copied().filter(|piece| *piece < len));
            let Some(buf) = { sizes }.find_map(|size| pool.alloc(size as usize)) else {
                self.plan.push_front((offset, len, split));
                break;
            };
            let got = buf.len() as u32;
            if got < len {
                self.plan.push_front((offset + u64::from(got), len - got, split));
            }
            self.window.push_back(Place { id: self.next, offset, len: got, split, state: State::Asked });
            self.command(device, offset, buf, out);
        }
        while !self.under_way() {
            if self.window.len() < 2 {
                return self.plan.is_empty() && self.window.is_empty();
            }
            // Later reads hold the buffers that the first one lacks: they are made again.
            if let Some(Place { offset, len, split, .. }) = self.window.pop_back() {
                self.plan.push_front((offset, len, split));
            }
            self.pump_pieces(device, pool, out);
        }
        true
    }

    fn under_way(&self) -> bool {
        let asked = |place: &Place| matches!(place.state, State::Asked | State::Pieces { asked: true, .. });
        self.window.iter().any(asked)
    }

    /// Blocks that could not be read so far.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.len() as u64
    }

    fn command(&mut self, device: DeviceIx, offset: u64, buf: BufMut, out: &mut Out) {
        let key = key(KIND_RECOVERY, self.next);
        out.block.push(BlockCmd { device, key, op: BlockOp::Read { offset, buf } });
        self.next += 1;
    }

    /// Goes on with reads that failed as a whole: one block of each at a time.
    fn pump_pieces(&mut self, device: DeviceIx, pool: &Pool, out: &mut Out) {
        for at in 0..self.window.len() {
            let place = &mut self.window[at];
            let State::Pieces { next, asked: asked @ false, buf, .. } = &mut place.state else { continue };
            if buf.is_none() {
                *buf = pool.alloc(place.len as usize);
            }
            let (true, Some(piece)) = (buf.is_some(), pool.alloc(BLOCK)) else { continue };
            *asked = true;
            place.id = self.next;
            let offset = place.offset + u64::from(*next) * BLOCK as u64;
            self.command(device, offset, piece, out);
        }
    }

    /// Takes what the device says to read `id`; an error if it cannot be worked with any more.
    pub(super) fn done(&mut self, id: u64, result: Result<BufMut, BlockError>) -> Result<(), BlockError> {
        let Some(place) = self.window.iter_mut().find(|place| place.id == id) else { return Ok(()) };
        if let Err(error) = &result
            && *error != BlockError::Io
        {
            return Err(*error);
        }
        match (&mut place.state, result) {
            (state @ State::Asked, Ok(buf)) => *state = State::Ready(buf, 0),
            (state @ State::Asked, Err(_)) => {
                *state = State::Pieces { next: 0, asked: false, bad: 0, buf: None };
            }
            (State::Pieces { next, asked, bad, buf }, result) => {
                let from = *next as usize * BLOCK;
                let into = buf.as_mut().and_then(|buf| buf.get_mut(from..from + BLOCK));
                match (into, result) {
                    (Some(into), Ok(piece)) => into.copy_from_slice(&piece[..BLOCK]),
                    (Some(into), Err(error)) => {
                        into.fill(POISON);
                        *bad += 1;
                        self.unreadable.insert(place.offset / BLOCK as u64 + u64::from(*next));
                        if self.unreadable.len() > UNREADABLE_MAX {
                            return Err(error);
                        }
                    }
                    (None, _) => {}
                }
                (*next, *asked) = (*next + 1, false);
                if *next as usize * BLOCK >= place.len as usize
                    && let Some(buf) = buf.take()
                {
                    place.state = State::Ready(buf, *bad);
                }
            }
            (State::Ready(..), _) => {}
        }
        Ok(())
    }

    /// The next read of the plan, once its bytes are here.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        if !matches!(self.window.front()?.state, State::Ready(..)) {
            return None;
        }
        let Place { offset, state, .. } = self.window.pop_front()?;
        match state {
            State::Ready(buf, bad) => Some(Bytes { buf, offset, bad }),
            _ => None,
        }
    }
}
