//! Sequential reads of a recovery: several under way at once, handed out in order.

use super::append::{KIND_RECOVERY, key};
use crate::wire::{BlockCmd, BlockOp, DeviceIx, Out};
use palisade_dma::{BufMut, Pool};
use std::collections::VecDeque;

/// Reads under way at once.
const READS_MAX: usize = 8;
/// Smaller reads to fall back to, in bytes.
const PIECES: [u32; 2] = [64 << 10, 4 << 10];

/// Reads in order: issued as buffers allow, handed out in the order of the plan.
#[derive(Debug, Default)]
pub(super) struct Reads {
    plan: VecDeque<(u64, u32, bool)>,
    window: VecDeque<(u64, Option<BufMut>)>,
    next: u64,
}

impl Reads {
    /// Plans a read that must come in one piece.
    pub(super) fn ask(&mut self, offset: u64, len: u32) {
        self.plan.push_back((offset, len, false));
    }

    /// Plans a read that may come in pieces of whole blocks, where large buffers are short.
    pub(super) fn ask_stream(&mut self, offset: u64, len: u32) {
        self.plan.push_back((offset, len, true));
    }

    /// Issues what may be issued now; false if the pool has nothing left and nothing is under way.
    pub(super) fn pump(&mut self, device: DeviceIx, pool: &Pool, out: &mut Out) -> bool {
        while self.window.len() < READS_MAX {
            let Some((offset, len, split)) = self.plan.pop_front() else { return true };
            let pieces = if split { &PIECES[..] } else { &[] };
            let sizes = std::iter::once(len).chain(pieces.iter().copied().filter(|piece| *piece < len));
            let Some(buf) = { sizes }.find_map(|size| pool.alloc(size as usize)) else {
                self.plan.push_front((offset, len, split));
                return !self.window.is_empty();
            };
            let got = buf.len() as u32;
            if got < len {
                self.plan.push_front((offset + u64::from(got), len - got, split));
            }
            self.window.push_back((self.next, None));
            let key = key(KIND_RECOVERY, self.next);
            out.block.push(BlockCmd { device, key, op: BlockOp::Read { offset, buf } });
            self.next += 1;
        }
        true
    }

    /// Takes the bytes of read `id`.
    pub(super) fn done(&mut self, id: u64, buf: BufMut) {
        if let Some(place) = self.window.iter_mut().find(|(other, _)| *other == id) {
            place.1 = Some(buf);
        }
    }

    /// The next read of the plan, once its bytes are here.
    pub(super) fn ready(&mut self) -> Option<BufMut> {
        let ready = self.window.front().is_some_and(|(_, buf)| buf.is_some());
        if ready { self.window.pop_front().and_then(|(_, buf)| buf) } else { None }
    }
}
