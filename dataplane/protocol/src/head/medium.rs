//! What a head notices of the device of its own log: errors, how long appends take, how much went well of late.
//!
//! The share of what went well is a part of the score by which members that all isolate compare themselves (BA-02).
//! Nothing else is decided by it here: whether the device is an outlier only shows beside those of other heads,
//! and control hears of all of them.
//!
//! A device without room is not ill, and what was under way while this head slept tells nothing.

use super::core::Core;
use super::stats::MediumStatus;
use crate::wire::{BlockDone, BlockError, Time};
use std::time::Duration;

/// An append that was measured longer ago tells nothing of the device as it is.
const FRESH: Duration = Duration::from_secs(15);
/// The share of bad commands in binary digits behind the point, and the weight of the newest one: about so many
/// commands are "of late".
const POINT: u32 = 24;
const LATE: u64 = 128;

/// The device of the own log.
#[derive(Debug, Default)]
pub(super) struct Medium {
    ops: u64,
    errors: u64,
    slow: u64,
    /// Share of commands of late that failed or were slow.
    bad: u64,
    /// Smoothed time of appends, and when it was measured last.
    append_ns: u64,
    at: Time,
}

impl Medium {
    /// A command ended, which took so long if that is known. `slow`: what counts as that.
    fn ended(&mut self, now: Time, took: Option<Duration>, failed: bool, slow: Duration) {
        let late = took.is_some_and(|took| took >= slow);
        self.ops += 1;
        self.errors += u64::from(failed);
        self.slow += u64::from(late);
        self.bad -= self.bad / LATE;
        self.bad += u64::from(failed || late) * (1 << POINT) / LATE;
        let Some(took) = took.filter(|_| !failed) else { return };
        let ns = took.as_nanos() as u64;
        let fresh = self.append_ns > 0 && now.since(self.at) < FRESH;
        self.append_ns = if fresh { self.append_ns - self.append_ns / 8 + ns / 8 } else { ns };
        self.at = now;
    }

    /// Of the commands of late, those in a thousand that went well.
    pub(super) fn success(&self) -> u16 {
        1000 - ((self.bad * 1000) >> POINT).min(1000) as u16
    }

    /// A picture. `waits`: since when the oldest append is under way.
    fn status(&self, now: Time, waits: Option<Time>) -> MediumStatus {
        let measured = (self.append_ns > 0 && now.since(self.at) < FRESH).then_some(self.append_ns);
        let waited = waits.map(|since| now.since(since).as_nanos() as u64);
        // One that does not end is never measured: it counts as soon as it takes longer than usual.
        let append = measured.max(waited.filter(|ns| measured.is_none_or(|usual| *ns > usual)));
        let append = append.map(Duration::from_nanos);
        MediumStatus { ops: self.ops, errors: self.errors, slow: self.slow, success: self.success(), append }
    }
}

impl Core {
    /// Any command to the own device ended.
    pub(super) fn note_medium(&mut self, now: Time, done: &BlockDone) {
        let failed = match done.result {
            Ok(_) => false,
            Err(BlockError::Io | BlockError::Gone) => true,
            Err(BlockError::NoSpace | BlockError::Range) => return,
        };
        let (_, awake) = self.devices.clock();
        let slept = self.devices.slept(now);
        let sent = self.log.sent(done.key).filter(|sent| !slept && *sent >= awake);
        self.medium.ended(now, sent.map(|sent| now.since(sent)), failed, self.cfg.slow_io);
    }

    pub(super) fn medium_status(&self) -> MediumStatus {
        let (turned, awake) = self.devices.clock();
        self.medium.status(turned, self.log.waits_since().map(|since| since.max(awake)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(100);

    fn run(medium: &mut Medium, now: &mut Time, count: usize, took: Duration, failed: bool) {
        for _ in 0..count {
            *now = *now + took;
            medium.ended(*now, Some(took), failed, SLOW);
        }
    }

    #[test]
    fn ba02_errors_and_slow_commands_of_late_lower_the_success_and_good_ones_raise_it_again() {
        let (mut medium, mut now) = (Medium::default(), Time(1));
        assert_eq!(medium.success(), 1000, "nothing is known against it");
        run(&mut medium, &mut now, 1000, MS, false);
        assert_eq!(medium.success(), 1000);
        run(&mut medium, &mut now, 13, MS, true);
        let erred = medium.success();
        assert!((880..=920).contains(&erred), "about a tenth of the last commands: {erred}");
        run(&mut medium, &mut now, 1000, SLOW, false);
        assert!(medium.success() < 10, "slow is bad, too: {}", medium.success());
        run(&mut medium, &mut now, 4000, MS, false);
        assert_eq!(medium.success(), 1000, "what was long ago is forgiven");
        let status = medium.status(now, None);
        assert_eq!((status.ops, status.errors, status.slow), (6013, 13, 1000), "and not forgotten");
    }

    #[test]
    fn ba02_the_time_of_appends_is_smoothed_grows_old_and_counts_one_that_does_not_end() {
        let (mut medium, mut now) = (Medium::default(), Time(1));
        assert_eq!(medium.status(now, None).append, None, "nothing was measured");
        run(&mut medium, &mut now, 100, 2 * MS, false);
        assert_eq!(medium.status(now, None).append, Some(2 * MS));
        run(&mut medium, &mut now, 1, 82 * MS, false);
        let once = medium.status(now, None).append.expect("measured");
        assert!(once < 13 * MS, "one of them is an eighth: {once:?}");
        run(&mut medium, &mut now, 60, 82 * MS, false);
        assert!(medium.status(now, None).append > Some(80 * MS));
        let stuck = medium.status(now + 7 * SLOW, Some(now)).append;
        assert_eq!(stuck, Some(7 * SLOW), "no answer is an answer");
        assert!(medium.status(now + 5 * MS, Some(now)).append > Some(80 * MS), "younger than usual: nothing");
        assert_eq!(medium.status(now + 2 * FRESH, None).append, None, "an idle device is not judged");
        run(&mut medium, &mut now, 50, MS, true);
        assert!(medium.status(now, None).append > Some(80 * MS), "failures measure nothing");
    }
}
