//! The engine: starts requests in time, polls the target, times and checks what ends.
//!
//! Latency counts from the *intended* start. In closed loop that is the moment a slot was free; in open
//! loop it is the moment the rate asked for, so a target that stalls for a second shows a second for each
//! request that should have started in it, and requests that never got a slot before the end are counted
//! with the time they had waited by then.

use super::address::Addresses;
use super::model::Model;
use super::spec::{Pace, Spec};
use super::state;
use crate::target::{Done, Op, Target, TargetError, Verb};
use hdrhistogram::Histogram;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest latency that a histogram tells apart: ten minutes.
pub const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// How long the last requests may take after a run's time is over.
const DRAIN: Duration = Duration::from_secs(60);
/// Length of an interval of the histogram log and of the state file.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Findings that are kept word by word; the rest are counted.
const WRONG_KEPT: usize = 16;
/// Between two tries to come back after a lost connection.
const AGAIN: Duration = Duration::from_millis(10);
/// Tries to find a block that nobody is writing before a write becomes a read.
const FREE_BLOCK_TRIES: usize = 8;

/// An empty latency histogram.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("these bounds are fit")
}

/// Latencies of one kind of request.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What it holds: "read", "write", "flush".
    pub name: &'static str,
    /// Requests that ended well in the measured time.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nanoseconds.
    pub total: Histogram<u64>,
    /// Nanoseconds since the last interval.
    pub interval: Histogram<u64>,
}

impl Lane {
    fn new(name: &'static str) -> Self {
        Self { name, count: 0, bytes: 0, total: histogram(), interval: histogram() }
    }

    fn record(&mut self, nanos: u64) {
        self.total.saturating_record(nanos);
        self.interval.saturating_record(nanos);
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time or count was over.
    Complete,
    /// Somebody asked it to stop.
    Stopped,
    /// The target went away and did not come back in time.
    Lost(String),
    /// The target cannot go on.
    Fatal(String),
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Read, write, flush.
    pub lanes: [Lane; 3],
    /// Measured time.
    pub elapsed: Duration,
    /// Requests that the target answered with an error.
    pub errors: u64,
    /// Reads that showed wrong data.
    pub wrong_count: u64,
    /// The first few of them, in words; and the first errors.
    pub wrong: Vec<String>,
    /// Blocks compared with the model.
    pub compared: u64,
    /// Connections lost and found again.
    pub reconnects: u64,
    /// Open loop: requests that were due and never got a slot.
    pub unstarted: u64,
    /// How it ended.
    pub ended: Ended,
}

impl Outcome {
    pub(crate) fn new() -> Self {
        Self {
            lanes: [Lane::new("read"), Lane::new("write"), Lane::new("flush")],
            elapsed: Duration::ZERO,
            errors: 0,
            wrong_count: 0,
            wrong: Vec::new(),
            compared: 0,
            reconnects: 0,
            unstarted: 0,
            ended: Ended::Complete,
        }
    }

    /// Notes wrong data.
    pub(crate) fn note_wrong(&mut self, what: String) {
        self.wrong_count += 1;
        if self.wrong.len() < WRONG_KEPT {
            self.wrong.push(what);
        }
    }

    /// Notes an error answer.
    pub(crate) fn note_error(&mut self, op: Op, errno: u32) {
        self.errors += 1;
        if self.wrong.len() < WRONG_KEPT {
            self.wrong.push(format!("{:?} of {} bytes at {}: error {errno}", op.verb, op.len, op.offset));
        }
    }
}

/// Told about progress.
pub trait Observer {
    /// About once a second: the lanes' intervals hold what ended since the last call.
    fn interval(&mut self, elapsed: Duration, lanes: &[Lane; 3]);
    /// A request ended well, `nanos` after its intended start.
    fn ended(&mut self, _verb: Verb, _nanos: u64) {}
}

/// The observer that does not look.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn interval(&mut self, _elapsed: Duration, _lanes: &[Lane; 3]) {}
}

/// One slot.
struct Slot {
    op: Op,
    intended: u64,
    floor: Vec<u32>,
    busy: bool,
}

/// What belongs to one run.
pub struct Engine<'a> {
    target: &'a mut dyn Target,
    spec: Spec,
    model: Option<&'a mut Model>,
    state: Option<PathBuf>,
    stop: &'a AtomicBool,
    addresses: Addresses,
    slots: Vec<Slot>,
    free: Vec<u32>,
    begin: Instant,
    started: u64,
    writes: u64,
    next_interval: u64,
    outcome: Outcome,
}

impl<'a> Engine<'a> {
    /// An engine for a spec that was fitted to the target ([`Spec::fit`]); with a model it verifies, and
    /// with a state file it saves the model about once a second and at the end.
    pub fn new(
        target: &'a mut dyn Target,
        spec: Spec,
        model: Option<&'a mut Model>,
        state: Option<PathBuf>,
        stop: &'a AtomicBool,
    ) -> Self {
        let idle = Op { verb: Verb::Flush, offset: 0, len: 0 };
        let slots = (0..spec.depth).map(|_| Slot { op: idle, intended: 0, floor: Vec::new(), busy: false });
        let mut random = Xoshiro256PlusPlus::seed_from_u64(spec.seed ^ 0xf111);
        for slot in 0..spec.depth {
            random.fill_bytes(target.buffer(slot));
        }
        Self {
            slots: slots.collect(),
            free: (0..spec.depth).rev().collect(),
            addresses: Addresses::new(spec.pattern, spec.places(), spec.seed),
            target,
            model,
            state,
            stop,
            begin: Instant::now(),
            started: 0,
            writes: 0,
            next_interval: INTERVAL_NS,
            outcome: Outcome::new(),
            spec,
        }
    }

    /// Runs to the end.
    pub fn run(mut self, observer: &mut dyn Observer) -> Outcome {
        self.begin = Instant::now();
        let ended = self.drive(observer);
        let measured = self.now().min(self.end()).saturating_sub(self.warm());
        self.outcome.elapsed = Duration::from_nanos(measured);
        self.outcome.ended = ended;
        observer.interval(self.outcome.elapsed, &self.outcome.lanes);
        self.save(true);
        self.outcome
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    fn warm(&self) -> u64 {
        self.spec.warmup.as_nanos() as u64
    }

    fn end(&self) -> u64 {
        self.warm() + self.spec.time.as_nanos() as u64
    }

    fn drive(&mut self, observer: &mut dyn Observer) -> Ended {
        let mut done: Vec<Done> = Vec::with_capacity(self.slots.len());
        loop {
            let now = self.now();
            if now >= self.next_interval {
                self.interval(now, observer);
            }
            let stopped = self.stop.load(Ordering::Relaxed);
            if now < self.end() && !stopped && self.spec.requests_max.is_none_or(|max| self.started < max) {
                if let Err(e) = self.start_due(now) {
                    return Ended::Fatal(e.to_string());
                }
            } else if self.free.len() == self.slots.len() {
                self.count_unstarted(now);
                return if stopped { Ended::Stopped } else { Ended::Complete };
            } else if now > self.end() + DRAIN.as_nanos() as u64 {
                return Ended::Lost(format!("requests without an answer for {} s", DRAIN.as_secs()));
            }
            match self.target.poll(&mut done) {
                Ok(()) => {}
                Err(TargetError::Fatal(why)) => return Ended::Fatal(why),
                Err(TargetError::Lost(why)) => {
                    if !self.come_back(&why) {
                        return Ended::Lost(why);
                    }
                    done.clear();
                }
            }
            if !done.is_empty() {
                let now = self.now();
                for done in done.drain(..) {
                    self.finish(now, done, observer);
                }
            }
        }
    }

    /// When request number `n` should start in open loop.
    fn due(rate: f64, n: u64) -> u64 {
        (n as f64 * 1e9 / rate) as u64
    }

    fn start_due(&mut self, now: u64) -> Result<(), TargetError> {
        while let Some(&slot) = self.free.last() {
            let intended = match self.spec.pace {
                Pace::Closed => now,
                Pace::Open(rate) => {
                    let due = Self::due(rate, self.started);
                    if due > now {
                        break;
                    }
                    due
                }
            };
            if self.spec.requests_max.is_some_and(|max| self.started >= max) {
                break;
            }
            let op = self.prepare(slot);
            self.free.pop();
            let place = &mut self.slots[slot as usize];
            (place.op, place.intended, place.busy) = (op, intended, true);
            self.started += 1;
            self.target.submit(slot, op)?;
        }
        Ok(())
    }

    /// Chooses the next request and, for a verified write, fills the slot's buffer.
    fn prepare(&mut self, slot: u32) -> Op {
        let flush_due = self.spec.flush_every > 0 && self.writes >= u64::from(self.spec.flush_every);
        if flush_due {
            self.writes = 0;
            return Op { verb: Verb::Flush, offset: 0, len: 0 };
        }
        let read = self.addresses.percent(self.spec.read_percent);
        let len = self.spec.size;
        let mut offset = self.next_offset();
        if !read {
            let Some(model) = &mut self.model else {
                self.writes += 1;
                return Op { verb: Verb::Write, offset, len };
            };
            for _ in 0..FREE_BLOCK_TRIES {
                let bytes = &mut self.target.buffer(slot)[..len as usize];
                if model.start_write(offset, bytes) {
                    self.writes += 1;
                    return Op { verb: Verb::Write, offset, len };
                }
                offset = self.spec.offset + self.addresses.next_place() * u64::from(len);
            }
        }
        if let Some(model) = &self.model {
            model.start_read(offset, len, &mut self.slots[slot as usize].floor);
        }
        Op { verb: Verb::Read, offset, len }
    }

    fn next_offset(&mut self) -> u64 {
        self.spec.offset + self.addresses.next_place() * u64::from(self.spec.size)
    }

    fn finish(&mut self, now: u64, done: Done, observer: &mut dyn Observer) {
        let end = self.end();
        let slot = &mut self.slots[done.slot as usize];
        assert!(slot.busy, "slot {} ended twice", done.slot);
        slot.busy = false;
        self.free.push(done.slot);
        let (op, intended) = (slot.op, slot.intended);
        if let Some(model) = &mut self.model {
            match op.verb {
                Verb::Write => model.end_write(op.offset, op.len, done.errno == 0),
                Verb::Read if done.errno == 0 => {
                    let bytes = &self.target.buffer(done.slot)[..op.len as usize];
                    match model.end_read(op.offset, bytes, &slot.floor) {
                        Ok(blocks) => self.outcome.compared += blocks,
                        Err(wrong) => self.outcome.note_wrong(wrong.to_string()),
                    }
                }
                _ => {}
            }
        }
        if done.errno != 0 {
            self.outcome.note_error(op, done.errno);
        } else if intended >= self.warm() {
            let lane = &mut self.outcome.lanes[op.verb as usize];
            lane.record(now - intended);
            observer.ended(op.verb, now - intended);
            if now <= end {
                lane.count += 1;
                lane.bytes += u64::from(op.len);
            }
        }
    }

    /// Counts what was due before the end and never started, with the time it waited.
    fn count_unstarted(&mut self, now: u64) {
        let Pace::Open(rate) = self.spec.pace else { return };
        let end = self.end().min(now);
        let whole = self.spec.requests_max.unwrap_or(u64::MAX);
        while self.started < whole && Self::due(rate, self.started) < end {
            let read = self.addresses.percent(self.spec.read_percent);
            let waited = end - Self::due(rate, self.started);
            self.outcome.lanes[usize::from(!read)].record(waited);
            self.outcome.unstarted += 1;
            self.started += 1;
        }
    }

    /// After a lost connection: everything in flight is open, and the target is asked to come back.
    fn come_back(&mut self, why: &str) -> bool {
        if let Some(model) = &mut self.model {
            model.abandon();
        }
        self.save(false);
        self.free = (0..self.spec.depth).rev().collect();
        self.slots.iter_mut().for_each(|slot| slot.busy = false);
        let begin = Instant::now();
        while begin.elapsed() < self.spec.reconnect && !self.stop.load(Ordering::Relaxed) {
            match self.target.reconnect() {
                Ok(()) => {
                    self.outcome.reconnects += 1;
                    eprintln!("perf: {why}; back after {:.1} s", begin.elapsed().as_secs_f64());
                    return true;
                }
                Err(_not_yet) => std::thread::sleep(AGAIN),
            }
        }
        false
    }

    fn interval(&mut self, now: u64, observer: &mut dyn Observer) {
        self.next_interval = now + INTERVAL_NS;
        observer.interval(Duration::from_nanos(now), &self.outcome.lanes);
        for lane in &mut self.outcome.lanes {
            lane.interval.reset();
        }
        self.save(false);
    }

    fn save(&mut self, clean: bool) {
        if let (Some(path), Some(model)) = (&self.state, &self.model)
            && let Err(e) = state::save(path, model, clean)
        {
            self.outcome.note_wrong(e.to_string());
        }
    }
}
