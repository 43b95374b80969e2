//! Reads back every block that the model knows and compares it: the second half of a kill test.

use super::engine::{Ended, Outcome};
use super::model::Model;
use crate::target::{Done, Op, Target, TargetError, Verb};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Without any answer for so long the target counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Reads every piece of `size` bytes that holds a touched block, `depth` at a time.
pub fn check(
    target: &mut dyn Target,
    model: &mut Model,
    size: u32,
    depth: u32,
    stop: &AtomicBool,
) -> Outcome {
    let begin = Instant::now();
    let mut pass = Pass { outcome: Outcome::new(), flights: vec![None; depth as usize], floor: Vec::new() };
    pass.outcome.ended = pass.run(target, model, size, stop).unwrap_or_else(|e| match e {
        TargetError::Lost(why) => Ended::Lost(why),
        TargetError::Fatal(why) => Ended::Fatal(why),
    });
    pass.outcome.elapsed = begin.elapsed();
    pass.outcome
}

struct Pass {
    outcome: Outcome,
    flights: Vec<Option<(Op, Instant)>>,
    floor: Vec<u32>,
}

impl Pass {
    fn run(
        &mut self,
        target: &mut dyn Target,
        model: &mut Model,
        size: u32,
        stop: &AtomicBool,
    ) -> Result<Ended, TargetError> {
        let mut free: Vec<u32> = (0..self.flights.len() as u32).collect();
        let per_piece = (size / model.unit).max(1) as usize;
        let mut next = 0;
        let mut done = Vec::new();
        let mut last_answer = Instant::now();
        loop {
            while !free.is_empty() && next < model.issued.len() {
                let blocks = next..(next + per_piece).min(model.issued.len());
                next = blocks.end;
                if model.issued[blocks.clone()].iter().all(|&g| g == 0) {
                    continue;
                }
                let slot = free.pop().expect("checked above");
                let offset = model.offset + blocks.start as u64 * u64::from(model.unit);
                let op = Op { verb: Verb::Read, offset, len: blocks.len() as u32 * model.unit };
                self.flights[slot as usize] = Some((op, Instant::now()));
                target.submit(slot, op)?;
            }
            if free.len() == self.flights.len() {
                return Ok(Ended::Complete);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(Ended::Stopped);
            }
            target.poll(&mut done)?;
            if done.is_empty() && last_answer.elapsed() > SILENCE_MAX {
                return Err(TargetError::Lost(format!("no answer for {} s", SILENCE_MAX.as_secs())));
            }
            for done in done.drain(..) {
                last_answer = Instant::now();
                free.push(done.slot);
                self.finish(target, model, done);
            }
        }
    }

    fn finish(&mut self, target: &mut dyn Target, model: &mut Model, done: Done) {
        let (op, start) = self.flights[done.slot as usize].take().expect("only what is in flight ends");
        if done.errno != 0 {
            return self.outcome.note_error(op, done.errno);
        }
        let lane = &mut self.outcome.lanes[0];
        lane.count += 1;
        lane.bytes += u64::from(op.len);
        lane.total.saturating_record(start.elapsed().as_nanos() as u64);
        // Nothing is being written, so what is acknowledged now is the floor.
        model.start_read(op.offset, op.len, &mut self.floor);
        match model.end_read(op.offset, &target.buffer(done.slot)[..op.len as usize], &self.floor) {
            Ok(blocks) => self.outcome.compared += blocks,
            Err(wrong) => self.outcome.note_wrong(wrong.to_string()),
        }
    }
}
