//! The clients of a drill: one that only reads and one that mostly writes, each with its own connection and its
//! own region, both checking every block that they read. They are apart because a volume may serve reads while
//! its writes wait for a second head; in one client the waiting writes would take all slots.

use super::timeline::Timeline;
use crate::load::check::check;
use crate::load::engine::{Ended, Engine, NoObserver, Outcome};
use crate::load::model::Model;
use crate::load::spec::{Pace, Pattern, Spec};
use crate::nbd::follow::Follower;
use crate::nbd::uri::Uri;
use crate::target::{Done, Op, Target, TargetError, Verb, Want};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of each client's region; the readers' is the first.
const REGION: u64 = 32 << 20;
/// Bytes of a request.
const SIZE: u32 = 4096;
/// Bytes of a request while the readers' region is filled.
const FILL: u32 = 65_536;
/// Longest run.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a client tries to come back.
const RECONNECT: Duration = Duration::from_secs(120);
/// Looks for answers in vain before the client rests.
const LOOKS: u32 = 32;
/// How long it rests then: the generator shares its cores with the rack.
const REST: Duration = Duration::from_micros(50);
/// The same at a pace of its own, where it would look in vain most of the time, and what is measured takes longer.
const PACED_REST: Duration = Duration::from_micros(250);

/// A target that rests while nothing ends.
struct Eased {
    inner: Follower,
    vain: u32,
    looks: u32,
    rest: Duration,
}

impl Target for Eased {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        self.inner.buffer(slot)
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        self.inner.submit(slot, op)
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        let before = done.len();
        self.inner.poll(done)?;
        self.vain = if done.len() > before { 0 } else { self.vain + 1 };
        if self.vain >= self.looks {
            self.vain = 0;
            std::thread::sleep(self.rest);
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), TargetError> {
        self.inner.reconnect()
    }
}

/// What a client found.
#[derive(Debug)]
pub(super) struct Found {
    /// When its requests ended.
    pub timeline: Timeline,
    /// What it counted and compared, with the blocks read back at the end.
    pub outcome: Outcome,
}

/// Running clients.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    readers: JoinHandle<Result<Found, String>>,
    writers: JoinHandle<Result<Found, String>>,
}

/// What both clients found.
#[derive(Debug)]
pub(super) struct Both {
    /// The one that reads.
    pub reads: Found,
    /// The one that writes.
    pub writes: Found,
}

impl Both {
    /// A sum over both.
    pub(super) fn sum(&self, count: impl Fn(&Outcome) -> u64) -> u64 {
        count(&self.reads.outcome) + count(&self.writes.outcome)
    }

    /// The first findings in words.
    pub(super) fn findings(&self) -> Vec<String> {
        let both = [&self.reads, &self.writes];
        both.iter().flat_map(|found| found.outcome.wrong.iter().take(4).cloned()).collect()
    }
}

fn spec(read_percent: u8, depth: u32, region: u64) -> Spec {
    Spec {
        read_percent,
        size: SIZE,
        depth,
        pattern: Pattern::Uniform,
        pace: Pace::Closed,
        offset: region * REGION,
        bytes: REGION,
        time: LONGEST,
        warmup: Duration::ZERO,
        requests_max: None,
        flush_every: 0,
        seed: region + 1,
        reconnect: RECONNECT,
    }
}

fn open(uris: &[Uri], spec: &Spec) -> Result<Eased, String> {
    let want = Want { slots: spec.depth, slot_bytes: spec.size as usize, connections: 1, look: true };
    let inner = Follower::open(uris.to_vec(), want).map_err(|e| format!("the load cannot connect: {e}"))?;
    let (looks, rest) = if spec.pace == Pace::Closed { (LOOKS, REST) } else { (1, PACED_REST) };
    Ok(Eased { inner, vain: 0, looks, rest })
}

/// The readers' region, filled.
fn fill(uris: &[Uri], model: &mut Model, spec: &Spec) -> Result<(), String> {
    let requests = Some(REGION / u64::from(FILL));
    let pattern = Pattern::Sequential;
    let spec = Spec { read_percent: 0, size: FILL, pattern, requests_max: requests, ..spec.clone() };
    let mut target = open(uris, &spec)?;
    let never = AtomicBool::new(false);
    let outcome = Engine::new(&mut target, spec, Some(model), None, &never).run(&mut NoObserver);
    if outcome.ended == Ended::Complete && outcome.errors == 0 {
        return Ok(());
    }
    Err(format!("the readers' region cannot be filled: {:?}, {:?}", outcome.ended, outcome.wrong))
}

/// Writes what lies beyond the regions of the clients, up to `bytes`.
pub(super) fn fill_beyond(addresses: &[String], bytes: u64) -> Result<(), String> {
    let uris: Result<Vec<Uri>, _> = addresses.iter().map(|text| Uri::parse(text)).collect();
    let uris = uris.map_err(|e| e.to_string())?;
    let from = 2 * REGION;
    let mut spec = spec(0, 16, 2);
    (spec.offset, spec.bytes, spec.size, spec.pattern) = (from, bytes - from, 4 * FILL, Pattern::Sequential);
    spec.requests_max = Some(spec.bytes / u64::from(spec.size));
    let mut target = open(&uris, &spec)?;
    let never = AtomicBool::new(false);
    let outcome = Engine::new(&mut target, spec, None, None, &never).run(&mut NoObserver);
    if outcome.ended == Ended::Complete && outcome.errors == 0 {
        return Ok(());
    }
    Err(format!("the volume cannot be filled: {:?}", outcome.ended))
}

/// One client from its begin to the read-back at its end.
fn run(
    uris: &[Uri],
    spec: &Spec,
    mut model: Model,
    mut line: Timeline,
    stop: &AtomicBool,
) -> Result<Found, String> {
    let mut target = open(uris, spec)?;
    let mut outcome = Engine::new(&mut target, spec.clone(), Some(&mut model), None, stop).run(&mut line);
    if !matches!(outcome.ended, Ended::Complete | Ended::Stopped) {
        return Err(format!("a client ended early: {:?}", outcome.ended));
    }
    let back = check(&mut target, &mut model, SIZE, spec.depth, &AtomicBool::new(false));
    outcome.compared += back.compared;
    outcome.errors += back.errors;
    outcome.wrong_count += back.wrong_count;
    outcome.wrong.extend(back.wrong);
    outcome.ended = back.ended;
    if outcome.ended != Ended::Complete {
        return Err(format!("what was written cannot be read back: {:?}", outcome.ended));
    }
    Ok(Found { timeline: line, outcome })
}

impl Load {
    /// Starts both clients with `depth` requests each, as fast as they are answered or at a pace of their own; they
    /// find the volume at any of the addresses.
    pub(super) fn start(
        addresses: &[String],
        depth: u32,
        pace: Pace,
        origin: Instant,
    ) -> Result<Self, String> {
        let uris: Result<Vec<Uri>, _> = addresses.iter().map(|text| Uri::parse(text)).collect();
        let uris = uris.map_err(|e| e.to_string())?;
        let blocks = REGION / u64::from(SIZE);
        // Blocks of an earlier drill must not pass for this one's.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let stop = Arc::new(AtomicBool::new(false));
        let client = |spec: Spec, model: Model, verb: Verb| {
            let (uris, stop) = (uris.clone(), Arc::clone(&stop));
            std::thread::spawn(move || run(&uris, &spec, model, Timeline::new(origin, verb), &stop))
        };
        let mut read = spec(100, depth, 0);
        let mut model = Model::new(SIZE, read.offset, blocks, now.as_nanos() as u64);
        read.depth = depth.min(8);
        fill(&uris, &mut model, &read)?;
        (read.depth, read.pace) = (depth, pace);
        let readers = client(read, model, Verb::Read);
        let write = Spec { pace, ..spec(20, depth, 1) };
        let model = Model::new(SIZE, write.offset, blocks, now.as_nanos() as u64 ^ 0x5151);
        let writers = client(write, model, Verb::Write);
        Ok(Self { stop, readers, writers })
    }

    /// Whether a client ended by itself.
    pub(super) fn over(&self) -> bool {
        self.readers.is_finished() || self.writers.is_finished()
    }

    /// Ends both; everything that was acknowledged is read back and compared.
    pub(super) fn stop(self) -> Result<Both, String> {
        self.stop.store(true, Ordering::Relaxed);
        let end = |thread: JoinHandle<Result<Found, String>>| {
            thread.join().unwrap_or_else(|_| Err("a client panicked".to_owned()))
        };
        let (reads, writes) = (end(self.readers), end(self.writers));
        Ok(Both { reads: reads?, writes: writes? })
    }
}
