//! A device that goes wrong on purpose: errors, delays, drops, lies, torn writes, flipped bits.
//!
//! It wraps any driver, repeats itself for a seed and a sequence of requests, and is steered by a
//! [`FaultHandle`] from any thread, so that one device of a running rack can be made to fail. Without
//! rules it costs a table look-up per request and one atomic load.

mod plan;

pub use plan::{Action, FaultHandle, Ops, RottenBit, Rule};

use super::{
    BlockCompletion, BlockDriver, BlockFault, BlockInfo, BlockOk, BlockPort, BlockRequest, BlockVerb, SECTOR,
    total,
};
use crate::clock::Nanos;
use crate::entropy::SeededEntropy;
use palisade_dma::Buf;
use plan::{Rules, Verdict};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What to do with an inner completion.
#[derive(Debug, Default)]
struct Open {
    key: u64,
    delay: Duration,
    /// Bits to flip in a read.
    flip: u32,
    /// Bytes that a read or write touches.
    range: Range<u64>,
    /// How a torn write ends.
    torn: Option<Option<BlockFault>>,
    busy: bool,
}

/// The wrapper.
#[derive(Debug)]
pub struct FaultDriver {
    inner: BlockDriver,
    handle: FaultHandle,
    version: u64,
    rules: Rules,
    entropy: SeededEntropy,
    rotten: BTreeSet<RottenBit>,
    open: Vec<Open>,
    free: Vec<usize>,
    /// Ended, waiting for the next poll to tell the time from which their delay counts.
    ended: Vec<(Duration, BlockCompletion)>,
    delayed: BTreeMap<(Nanos, u64), BlockCompletion>,
    delayed_count: u64,
    /// Keys of requests that will not complete.
    dropped: Vec<u64>,
    scratch: Vec<BlockCompletion>,
}

impl FaultDriver {
    /// Wraps `inner`; choices follow from `seed`.
    pub fn new(inner: BlockDriver, seed: u64) -> (Self, FaultHandle) {
        let handle = FaultHandle::default();
        let driver = Self {
            inner,
            handle: handle.clone(),
            version: 0,
            rules: Rules::default(),
            entropy: SeededEntropy::new(seed),
            rotten: BTreeSet::new(),
            open: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            delayed: BTreeMap::new(),
            delayed_count: 0,
            dropped: Vec::new(),
            scratch: Vec::new(),
        };
        (driver, handle)
    }

    /// The driver behind.
    pub fn inner_mut(&mut self) -> &mut BlockDriver {
        &mut self.inner
    }

    /// The driver behind, for good.
    pub fn into_inner(self) -> BlockDriver {
        self.inner
    }

    fn refresh(&mut self) {
        let version = self.handle.version();
        if version == self.version {
            return;
        }
        self.version = version;
        let (rules, rotten) = self.handle.take();
        self.rules.replace(rules);
        self.rotten.extend(rotten);
        if self.rules.is_empty() {
            for key in self.dropped.drain(..) {
                let gone = BlockCompletion { key, result: Err(BlockFault::Gone) };
                self.ended.push((Duration::ZERO, gone));
            }
        }
    }

    fn judge(&mut self, verb: &BlockVerb) -> (Range<u64>, Verdict) {
        let span = |offset: u64, len: u64| offset..offset.saturating_add(len);
        let (range, kind): (_, fn(&Ops) -> bool) = match verb {
            BlockVerb::Read { offset, buf } => (span(*offset, buf.len() as u64), |ops| ops.reads),
            BlockVerb::Write { offset, bufs, .. } => (span(*offset, total(bufs)), |ops| ops.writes),
            BlockVerb::Flush => (0..u64::MAX, |ops| ops.flushes),
        };
        let verdict = self.rules.judge(kind, &range, &mut self.entropy);
        if verdict.action.is_some() || !verdict.delay.is_zero() {
            self.handle.hit();
        }
        (range, verdict)
    }

    fn end(&mut self, key: u64, delay: Duration, result: Result<BlockOk, BlockFault>) {
        self.ended.push((delay, BlockCompletion { key, result }));
    }

    fn pass(&mut self, open: Open, verb: BlockVerb) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.open.push(Open::default());
            self.open.len() - 1
        });
        self.open[index] = Open { busy: true, ..open };
        self.inner.submit(BlockRequest { key: index as u64, verb });
    }

    /// Lets a prefix of a write land.
    fn tear(&mut self, open: Open, verb: BlockVerb, sectors: Option<u32>) {
        let BlockVerb::Write { offset, bufs, fua } = verb else {
            return self.end(open.key, open.delay, Err(BlockFault::Io));
        };
        let whole = total(&bufs);
        let chosen = match sectors {
            Some(sectors) => u64::from(sectors),
            None => self.entropy.below(whole / SECTOR as u64 + 1),
        };
        let block = u64::from(self.inner.info().block.max(SECTOR as u32));
        let len = (chosen * SECTOR as u64).min(whole) / block * block;
        if len > 0 {
            return self.pass(open, BlockVerb::Write { offset, bufs: prefix(&bufs, len as usize), fua });
        }
        match open.torn.flatten() {
            Some(fault) => self.end(open.key, open.delay, Err(fault)),
            None => self.dropped.push(open.key),
        }
    }

    /// Mends the rotten bits of sectors that are written.
    fn mend(&mut self, range: &Range<u64>) {
        if !self.rotten.is_empty() {
            let start = range.start / SECTOR as u64 * SECTOR as u64;
            let end = range.end.checked_next_multiple_of(SECTOR as u64).unwrap_or(u64::MAX);
            self.rotten.retain(|(at, _)| !(start..end).contains(at));
        }
    }

    /// Turns an inner completion into what the owner is to see.
    fn finish(&mut self, done: BlockCompletion) {
        let index = done.key as usize;
        let open = std::mem::take(&mut self.open[index]);
        assert!(open.busy, "the inner driver completed a request twice");
        self.free.push(index);
        let result = match (done.result, open.torn) {
            (_, Some(None)) => return self.dropped.push(open.key),
            (_, Some(Some(fault))) => Err(fault),
            (Ok(BlockOk::Read(mut buf)), None) => {
                for (at, bit) in self.rotten.range((open.range.start, 0)..(open.range.end, 0)) {
                    buf[(at - open.range.start) as usize] ^= 1 << bit;
                }
                for _ in 0..open.flip {
                    let bit = self.entropy.below(buf.len() as u64 * 8);
                    buf[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
                Ok(BlockOk::Read(buf))
            }
            (other, None) => other,
        };
        self.end(open.key, open.delay, result);
    }
}

impl BlockPort for FaultDriver {
    fn info(&self) -> &BlockInfo {
        self.inner.info()
    }

    fn submit(&mut self, request: BlockRequest) {
        self.refresh();
        let BlockRequest { key, verb } = request;
        let (range, Verdict { delay, action }) = self.judge(&verb);
        let is_read = matches!(verb, BlockVerb::Read { .. });
        let mut open = Open { key, delay, range, ..Open::default() };
        match action {
            Some(Action::Fail(fault)) => return self.end(key, delay, Err(fault)),
            Some(Action::Drop) => return self.dropped.push(key),
            Some(Action::Lose) if is_read => return self.end(key, delay, Err(BlockFault::Io)),
            Some(Action::Lose) => return self.end(key, delay, Ok(BlockOk::Done)),
            Some(Action::Torn { sectors, then }) => {
                open.torn = Some(then);
                return self.tear(open, verb, sectors);
            }
            Some(Action::Corrupt { bits }) if is_read => open.flip = bits,
            Some(Action::Corrupt { .. } | Action::Delay(_)) | None => {}
        }
        if matches!(verb, BlockVerb::Write { .. }) {
            self.mend(&open.range.clone());
        }
        self.pass(open, verb);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let before = out.len();
        self.refresh();
        let mut scratch = std::mem::take(&mut self.scratch);
        self.inner.poll(now, &mut scratch);
        scratch.drain(..).for_each(|done| self.finish(done));
        self.scratch = scratch;
        for (delay, done) in self.ended.drain(..) {
            if delay.is_zero() {
                out.push(done);
            } else {
                self.delayed_count += 1;
                self.delayed.insert((now + delay, self.delayed_count), done);
            }
        }
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            out.push(entry.remove());
        }
        out.len() - before
    }

    fn in_flight(&self) -> usize {
        self.open.len() - self.free.len() + self.ended.len() + self.delayed.len() + self.dropped.len()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn deadline(&self) -> Option<Nanos> {
        if !self.ended.is_empty() {
            return Some(Nanos::ZERO);
        }
        let delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        delayed.into_iter().chain(self.inner.deadline()).min()
    }
}

/// The first `len` bytes of the buffers.
fn prefix(bufs: &[Buf], mut len: usize) -> SmallVec<[Buf; 4]> {
    let mut kept = SmallVec::new();
    for buf in bufs {
        let part = buf.len().min(len);
        if part == 0 {
            break;
        }
        kept.push(buf.slice(0..part));
        len -= part;
    }
    kept
}
