//! How often a busy connection's socket is looked at.
//!
//! To look without pause answers a waiting client soonest. But each look takes the socket's lock and cache
//! lines away from the client's core, and sends each answer alone: a client that is itself the limit (fio at
//! depth, for one) gets up to a quarter more done when it is looked at every few tens of microseconds. A client that
//! waits for its answers gets less done. Nothing in the bytes tells the two apart, so it is found by trial,
//! as network cards do with their interrupts: now and then both ways take turns for a few milliseconds, and
//! the one with more requests stays until the next trial. Trials that change nothing become rare, so that
//! they cost a client next to nothing.

use palisade_runtime::clock::Nanos;
use std::time::Duration;

/// Time between two looks while pausing: half of it gains half as much, twice of it hardly more.
const PAUSE: Duration = Duration::from_micros(25);
/// One of the alternating parts of a trial.
const PART: Duration = Duration::from_millis(2);
/// Parts of a trial, half of them with pauses.
const PARTS: u32 = 8;
/// From the first request to the first trial, and between trials after a change.
const SOON: Duration = Duration::from_millis(20);
/// Most time between trials.
const LATE: Duration = Duration::from_secs(2);
/// Without a request for so long, a client is not pressed for throughput: no pauses.
const QUIET: Duration = Duration::from_millis(1);
/// Requests of a trial below which it says nothing.
const TELLING: u64 = 200;

/// One connection's pace.
#[derive(Debug, Default)]
pub struct Pace {
    pausing: bool,
    next_look: Nanos,
    // ---- below: not touched between trials, but for the counts ----
    requests: u64,
    last_request: Nanos,
    trial: Option<Trial>,
    next_trial: Nanos,
    between: Duration,
}

/// A trial under way.
#[derive(Debug)]
struct Trial {
    part: u32,
    part_ends: Nanos,
    part_began_at: u64,
    /// Requests without and with pauses.
    counts: [u64; 2],
    /// What was the way before.
    before: bool,
}

impl Pace {
    /// Whether the socket is to be looked at now.
    #[inline]
    pub fn due(&self, now: Nanos) -> bool {
        now >= self.next_look
    }

    /// The socket was looked at; so many requests have come in the connection's life.
    #[inline]
    pub fn looked(&mut self, now: Nanos, requests: u64) {
        let came = requests != self.requests;
        self.requests = requests;
        if came {
            if now.since(self.last_request) >= QUIET {
                self.restart(now);
            }
            self.last_request = now;
        } else if self.pausing && now.since(self.last_request) >= QUIET {
            self.restart(now);
        }
        if came && (self.trial.is_some() || now >= self.next_trial) {
            self.try_out(now);
        }
        if self.pausing {
            self.next_look = now + PAUSE;
        }
    }

    /// Forgets what was found: the client was quiet, and may be another one now.
    fn restart(&mut self, now: Nanos) {
        self.pausing = false;
        self.trial = None;
        self.between = SOON;
        self.next_trial = now + SOON;
    }

    fn try_out(&mut self, now: Nanos) {
        let requests = self.requests;
        let Some(trial) = &mut self.trial else {
            let before = self.pausing;
            let part_ends = now + PART;
            self.trial = Some(Trial { part: 0, part_ends, part_began_at: requests, counts: [0; 2], before });
            self.pausing = false;
            return;
        };
        if now < trial.part_ends {
            return;
        }
        trial.counts[usize::from(self.pausing)] += requests - trial.part_began_at;
        trial.part += 1;
        (trial.part_began_at, trial.part_ends) = (requests, now + PART);
        let (before, [without, with]) = (trial.before, trial.counts);
        if trial.part == 2 && with < without / 2 {
            return self.settle(now, before, false); // No chance is that large.
        }
        // without, with, with, without, …: what drifts meanwhile falls on both alike.
        self.pausing = matches!(trial.part % 4, 1 | 2);
        if trial.part == PARTS {
            // To begin it must be worth it by more than chance; to go on it must not be worse.
            let better = if before { with >= without } else { with > without + without / 25 };
            self.settle(now, before, better && without + with >= TELLING);
        }
    }

    fn settle(&mut self, now: Nanos, before: bool, pausing: bool) {
        self.trial = None;
        self.between = if pausing == before { (self.between * 2).clamp(SOON, LATE) } else { SOON };
        self.next_trial = now + self.between;
        self.pausing = pausing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of a client; `rate` says how many requests a look brings that comes so long after the last.
    /// Returns the requests, and the share of time in which the pace paused.
    fn run(pace: &mut Pace, from: Nanos, time: Duration, rate: impl Fn(Duration) -> f64) -> (f64, f64) {
        let (mut now, mut last, mut total, mut paused) = (from, from, pace.requests as f64, 0u32);
        let (begin, mut turns) = (total, 0u32);
        while now < from + time {
            now = now + Duration::from_nanos(500);
            turns += 1;
            paused += u32::from(pace.pausing);
            if pace.due(now) {
                total += rate(now.since(last));
                last = now;
                pace.looked(now, total as u64);
            }
        }
        (total - begin, f64::from(paused) / f64::from(turns))
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Makes 100 k requests a second, and a fifth more when it is left alone.
    fn limited(gap: Duration) -> f64 {
        let each = if gap >= Duration::from_micros(10) { 120e3 } else { 100e3 };
        gap.as_secs_f64() * each
    }

    /// Eight requests in flight that come back two microseconds after they were answered.
    fn waiting(gap: Duration) -> f64 {
        if gap < Duration::from_micros(2) { 8.0 * gap.as_secs_f64() / 2e-6 } else { 8.0 }
    }

    #[test]
    fn a_client_that_gets_more_done_is_looked_at_less_often() {
        let mut pace = Pace::default();
        let (requests, paused) = run(&mut pace, Nanos(7), SECOND, limited);
        assert!(paused > 0.85 && requests > 115e3, "{paused} {requests}");
    }

    #[test]
    fn a_client_that_waits_for_its_answers_is_looked_at_without_pause() {
        let mut pace = Pace::default();
        let (requests, _) = run(&mut pace, Nanos(7), SECOND, waiting);
        let (later, paused) = run(&mut pace, Nanos(7) + SECOND, 4 * SECOND, waiting);
        assert!(
            paused < 0.01 && requests > 0.93 * 4e6 && later > 0.985 * 16e6,
            "{paused} {requests} {later}"
        );
    }

    #[test]
    fn a_client_that_changes_is_found_out_and_a_quiet_one_is_not_kept_waiting() {
        let mut pace = Pace::default();
        run(&mut pace, Nanos(7), SECOND, limited);
        assert!(pace.pausing || pace.trial.is_some());
        let at = Nanos(7) + SECOND;
        run(&mut pace, at, 3 * SECOND, waiting);
        let (_, paused) = run(&mut pace, at + 3 * SECOND, SECOND, waiting);
        assert!(paused < 0.1, "{paused}");
        run(&mut pace, at + 4 * SECOND, SECOND, limited);
        let silent = at + 5 * SECOND;
        run(&mut pace, silent, Duration::from_millis(3), |_| 0.0);
        assert!(!pace.pausing && pace.due(silent + Duration::from_millis(3)));
    }
}
