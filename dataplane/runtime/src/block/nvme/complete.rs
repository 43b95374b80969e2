//! Completions become answers.

use super::command::Status;
use super::driver::{IO_QUEUE, NvmeDriver};
use super::error::{NvmeEvent, ResetReason};
use super::ops::{Piece, Verb};
use crate::clock::Nanos;

/// Times that a command is sent again when the device says that it may succeed then.
const TRIES_MAX: u8 = 3;

impl NvmeDriver {
    /// Takes what the device has completed. At most one lap of the queue, so that a device that writes
    /// without end holds nobody up.
    #[inline]
    pub(super) fn reap(&mut self) {
        for _ in 0..self.io.place().entries {
            let Some(done) = self.io.pop() else { return };
            let piece = if done.queue == IO_QUEUE { self.cids.remove(done.cid) } else { None };
            let Some(piece) = piece else {
                // A doubled completion, one of a command that was given up, or nonsense: which command has
                // ended is not known any more, and its bytes may be those of another one.
                self.stats.bad_completions += 1;
                self.wants_reset = Some(ResetReason::BadCompletion);
                return;
            };
            self.end(piece, done.status);
        }
    }

    #[inline]
    fn end(&mut self, piece: Piece, status: Status) {
        if status.is_ok() {
            self.resets_in_row = 0;
        } else if self.fails(piece, status) {
            return;
        }
        self.ops.get_mut(piece.op).parts -= 1;
        self.settle(piece.op);
    }

    /// A command failed; true when it is sent again.
    #[cold]
    fn fails(&mut self, mut piece: Piece, status: Status) -> bool {
        let op = self.ops.get_mut(piece.op);
        if status.may_retry() && !op.expired && op.fault.is_none() && piece.tries < TRIES_MAX {
            (piece.tries, piece.since, piece.aborting) = (piece.tries + 1, Nanos::ZERO, false);
            self.stats.retries += 1;
            self.again.push_back(piece);
            return true;
        }
        op.fault = op.fault.or(Some(status.fault()));
        let key = op.key;
        self.tell(NvmeEvent::Failed { key, status });
        false
    }

    /// Answers a request that is over.
    #[inline]
    pub(super) fn settle(&mut self, at: u32) {
        let op = self.ops.get_mut(at);
        if !op.is_over() {
            return;
        }
        if self.info.volatile_cache {
            match op.verb {
                Verb::Read | Verb::Write { fua: true } => {}
                Verb::Write { fua: false } | Verb::WriteZeroes | Verb::Deallocate => self.cached += 1,
                Verb::Flush if op.fault.is_none() => self.flushed = self.flushed.max(op.offset),
                Verb::Flush => {}
            }
        }
        let done = self.ops.finish(at);
        self.done.push(done);
    }
}
