//! Reset, what becomes of requests that it caught, and the end of a device.
//!
//! A request is answered, and its buffers given up, only when the device cannot reach them any more.

use super::bringup::Stage;
use super::device::Departed;
use super::driver::NvmeDriver;
use super::error::{NvmeError, NvmeEvent, ResetReason};
use super::ops::Verb;
use super::registers::{CC, CC_SHN_NORMAL, CSTS, Csts, cc_enable};
use crate::block::BlockFault;
use crate::clock::{Clock, MonoClock, Nanos};
use std::time::Duration;

/// Resets without a command that succeeds between them, after which a device is given up.
const RESETS_MAX: u32 = 3;

impl NvmeDriver {
    /// Begins with a reset of a controller that was ready.
    #[cold]
    pub(super) fn reset(&mut self, now: Nanos, reason: ResetReason) {
        self.wants_reset = None;
        if self.resets_in_row >= RESETS_MAX {
            let (device, resets) = (self.name(), self.resets_in_row);
            return self.give_up(NvmeError::KeepsFailing { device, resets, reason });
        }
        self.resets_in_row += 1;
        self.stats.resets += 1;
        self.tell(NvmeEvent::Reset(reason));
        self.disable(now);
    }

    /// A start failed: tried again for a device that was well before, the end for one that never was.
    pub(super) fn fail(&mut self, now: Nanos, error: NvmeError) {
        if self.info.bytes > 0 && self.resets_in_row < RESETS_MAX {
            self.reset(now, ResetReason::Start);
        } else {
            self.give_up(error);
        }
    }

    /// The device has stopped: ends or queues again what it had.
    pub(super) fn recover(&mut self) {
        let lost = self.info.volatile_cache && self.cached > self.flushed;
        if lost {
            (self.cache_in_doubt, self.doubt_told) = (true, false);
        }
        self.flushed = self.cached;
        let all: Vec<u32> = self.ops.under_way().collect();
        while self.cids.pop().is_some() {}
        self.again.clear();
        self.waiting.clear();
        for at in all {
            let op = self.ops.get_mut(at);
            let was_sent = op.sent > 0;
            op.parts = 0;
            let tells = lost && op.verb == Verb::Flush;
            if was_sent && (op.resent || op.expired) || tells {
                op.fault = op.fault.or(Some(BlockFault::Io));
            }
            // Its owner hears of the loss by this one: it is not told again.
            self.doubt_told |= tells;
            (op.sent, op.resent) = (0, op.resent | was_sent);
            op.queued = op.fault.is_none();
            if op.queued {
                self.waiting.push_back(at);
            } else {
                self.settle(at);
            }
        }
    }

    /// The device is lost: cuts it off from memory and answers everything.
    #[cold]
    pub(super) fn give_up(&mut self, error: NvmeError) {
        self.device.write32(CC, 0);
        self.close();
        self.tell(NvmeEvent::Gone(error.to_string()));
        self.failure = self.failure.take().or(Some(error));
    }

    fn close(&mut self) {
        self.stage = Stage::Gone;
        self.wants_reset = None;
        self.leaked |= !self.device.isolate();
        if !self.leaked {
            // Given back at once, not when somebody drops the driver: the host may wait for it to unplug it.
            self.device = Box::new(Departed(self.name()));
        }
        while self.cids.pop().is_some() {}
        self.again.clear();
        self.waiting.clear();
        for at in self.ops.under_way().collect::<Vec<_>>() {
            let op = self.ops.get_mut(at);
            op.fault = op.fault.or(Some(BlockFault::Gone));
            if self.leaked {
                // It may still write there: these slots are lost, which is better than memory that changes.
                std::mem::forget((op.read.take(), std::mem::take(&mut op.write)));
            }
            let done = self.ops.finish(at);
            self.done.push(done);
        }
    }

    /// Tells the device to write its caches back and stop (Base 3.6.1), and waits for that; for tools that own
    /// their thread, after their last request was answered. False when it did not say so within `limit`.
    pub fn shut_down(&mut self, limit: Duration) -> bool {
        if !self.is_ready() {
            return false;
        }
        self.device.write32(CC, cc_enable(self.cap.mps_min()) | CC_SHN_NORMAL);
        let end = MonoClock.now() + limit;
        let mut done = false;
        while !done && MonoClock.now() < end {
            let csts = Csts(self.device.read32(CSTS));
            if csts.is_absent() {
                break;
            }
            done = csts.is_shut_down();
            if !done {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.device.write32(CC, 0);
        self.close();
        done
    }
}

impl Drop for NvmeDriver {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Gone) {
            self.device.write32(CC, 0);
            self.close();
        }
        if self.leaked {
            // As above, for the queues, and for all memory that the device was given.
            std::mem::forget((self.memory.clone(), self.pool.clone()));
        }
    }
}
