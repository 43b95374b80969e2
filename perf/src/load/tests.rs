//! The engine against targets that behave, stall, lie and go away.

use super::check::check;
use super::engine::{Ended, Engine, NoObserver, Outcome};
use super::model::Model;
use super::spec::tests::sample;
use super::spec::{Pace, Spec};
use super::state;
use crate::target::mem::Memory;
use crate::target::{Done, Op, Target, TargetError, Verb, Want};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const BYTES: u64 = 4 << 20;
static GO_ON: AtomicBool = AtomicBool::new(false);

fn want(spec: &Spec) -> Want {
    Want { slots: spec.depth, slot_bytes: spec.size as usize, connections: 1, look: true }
}

/// Memory with a fault.
struct Faulty {
    memory: Memory,
    fault: Fault,
    ops: u64,
    born: Instant,
    held: Vec<Done>,
}

enum Fault {
    /// Every write after so many requests is acknowledged and dropped.
    DropWrites { after: u64 },
    /// Nothing is answered between two times.
    Stall { from: Duration, to: Duration },
    /// The connection is lost at that request, once.
    LoseAt { op: u64 },
    /// Every hundredth request is answered with an error.
    Errors,
}

impl Faulty {
    fn new(spec: &Spec, fault: Fault) -> Self {
        Self { memory: Memory::new(BYTES, want(spec)), fault, ops: 0, born: Instant::now(), held: Vec::new() }
    }
}

impl Target for Faulty {
    fn bytes(&self) -> u64 {
        BYTES
    }
    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        self.memory.buffer(slot)
    }
    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        self.ops += 1;
        match self.fault {
            Fault::DropWrites { after } if self.ops > after && op.verb == Verb::Write => {
                self.held.push(Done { slot, errno: 0 });
                Ok(())
            }
            Fault::Errors if self.ops.is_multiple_of(100) => {
                self.held.push(Done { slot, errno: 5 });
                Ok(())
            }
            _ => self.memory.submit(slot, op),
        }
    }
    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        match self.fault {
            Fault::Stall { from, to } if (from..to).contains(&self.born.elapsed()) => return Ok(()),
            Fault::LoseAt { op } if self.ops >= op => {
                self.fault = Fault::LoseAt { op: u64::MAX };
                self.memory.poll(done)?;
                return Err(TargetError::Lost("pulled".into()));
            }
            _ => {}
        }
        done.append(&mut self.held);
        self.memory.poll(done)
    }
    fn reconnect(&mut self) -> Result<(), TargetError> {
        Ok(())
    }
}

fn fitted() -> Spec {
    sample().fit(BYTES).expect("fits")
}

fn run(target: &mut dyn Target, spec: &Spec, model: Option<&mut Model>) -> Outcome {
    Engine::new(target, spec.clone(), model, None, &GO_ON).run(&mut NoObserver)
}

fn model(spec: &Spec) -> Model {
    Model::new(4096, spec.offset, spec.bytes / 4096, spec.seed)
}

#[test]
fn a_mixed_run_over_sound_memory_finds_nothing_wrong() {
    let spec = fitted();
    let mut memory = Memory::new(BYTES, want(&spec));
    let mut model = model(&spec);
    let outcome = run(&mut memory, &spec, Some(&mut model));
    assert_eq!((outcome.errors, outcome.wrong_count, outcome.ended.clone()), (0, 0, Ended::Complete));
    assert_eq!(outcome.lanes.iter().map(|l| l.total.len()).sum::<u64>(), 20_000);
    assert!(outcome.lanes.iter().all(|l| !l.total.is_empty()) && outcome.compared > 5_000);
    let back = check(&mut memory, &mut model, 4096, 8, &GO_ON);
    assert_eq!((back.wrong_count, back.compared), (0, model.touched()));
}

#[test]
fn a_target_that_loses_acknowledged_writes_is_found() {
    let spec = fitted();
    let mut target = Faulty::new(&spec, Fault::DropWrites { after: 10_000 });
    let outcome = run(&mut target, &spec, Some(&mut model(&spec)));
    assert!(outcome.wrong_count > 100, "{}", outcome.wrong_count);
    assert!(outcome.wrong[0].contains("acknowledged"), "{:?}", outcome.wrong);
}

#[test]
fn error_answers_are_counted_and_leave_the_block_open() {
    let spec = fitted();
    let mut target = Faulty::new(&spec, Fault::Errors);
    let outcome = run(&mut target, &spec, Some(&mut model(&spec)));
    assert_eq!((outcome.errors, outcome.wrong_count), (200, 0));
}

#[test]
fn an_open_loop_shows_a_stall_in_every_request_that_it_kept_waiting() {
    let mut spec = fitted();
    spec.requests_max = None;
    spec.pace = Pace::Open(2_000.0);
    spec.depth = 8;
    spec.read_percent = 100;
    spec.time = Duration::from_millis(1000);
    let fault = Fault::Stall { from: Duration::from_millis(300), to: Duration::from_millis(700) };
    let mut target = Faulty::new(&spec, fault);
    let outcome = run(&mut target, &spec, None);
    let reads = &outcome.lanes[0].total;
    assert!((1_900..=2_000).contains(&reads.len()), "{}", reads.len());
    // 400 ms of 1 s stalled: a closed view would show 8 slow requests, the honest one shows 800, half of
    // them above 200 ms.
    let slow = reads.len() - reads.count_between(0, 200_000_000);
    assert!((300..500).contains(&slow), "{slow} requests above 200 ms");
    assert!(reads.max() > 380_000_000);
}

#[test]
fn a_rate_that_the_target_cannot_keep_is_counted_to_the_end() {
    let mut spec = fitted();
    spec.requests_max = None;
    spec.pace = Pace::Open(1_000.0);
    spec.time = Duration::from_millis(400);
    let fault = Fault::Stall { from: Duration::from_millis(100), to: Duration::from_millis(600) };
    let mut target = Faulty::new(&spec, fault);
    let outcome = run(&mut target, &spec, None);
    assert!(outcome.unstarted > 200, "{}", outcome.unstarted);
}

#[test]
fn a_lost_connection_leaves_its_writes_open_and_the_run_goes_on() {
    let mut spec = fitted();
    spec.reconnect = Duration::from_secs(1);
    let mut target = Faulty::new(&spec, Fault::LoseAt { op: 5_000 });
    let mut model = model(&spec);
    let outcome = run(&mut target, &spec, Some(&mut model));
    assert_eq!((outcome.reconnects, outcome.wrong_count, outcome.ended), (1, 0, Ended::Complete));
    spec.reconnect = Duration::ZERO;
    let mut target = Faulty::new(&spec, Fault::LoseAt { op: 5_000 });
    let outcome = run(&mut target, &spec, Some(&mut self::model(&spec)));
    assert_eq!(outcome.ended, Ended::Lost("pulled".into()));
}

#[test]
fn a_second_run_continues_from_the_state_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state");
    let spec = fitted();
    let mut memory = Memory::new(BYTES, want(&spec));
    let mut first = model(&spec);
    let engine = Engine::new(&mut memory, spec.clone(), Some(&mut first), Some(path.clone()), &GO_ON);
    assert_eq!(engine.run(&mut NoObserver).wrong_count, 0);
    let mut second = state::load(&path).expect("saved at the end");
    assert_eq!(second, first);
    let outcome = run(&mut memory, &spec, Some(&mut second));
    assert_eq!(outcome.wrong_count, 0);
    let mut emptied = Memory::new(BYTES, want(&spec));
    let back = check(&mut emptied, &mut second, 4096, 8, &GO_ON);
    assert_eq!(back.wrong_count, second.touched(), "an emptied volume is wrong in every block");
}
