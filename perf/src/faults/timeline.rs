//! What a client sees of a fault: how many requests ended in each tenth of a second and how long they took, and
//! the gaps in which none ended.

use crate::load::engine::{Lane, Observer};
use crate::target::Verb;
use std::time::{Duration, Instant};

/// Length of a step of the timeline.
pub(super) const STEP: Duration = Duration::from_millis(100);
/// Shorter gaps are not kept.
const GAP: Duration = Duration::from_millis(4);
/// Latency classes: four to each power of two of microseconds.
const CLASSES: usize = 128;
/// Most steps, and most gaps, that are kept: a run of hours ends its timeline, not its checks.
const KEPT_MAX: usize = 1 << 17;

/// One step of one kind of request.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Requests that ended well.
    pub count: u32,
    /// Latency of the slowest.
    pub slowest: Duration,
    classes: [u32; CLASSES],
}

impl Default for Step {
    fn default() -> Self {
        Self { count: 0, slowest: Duration::ZERO, classes: [0; CLASSES] }
    }
}

/// The class of a latency.
fn class(micros: u64) -> usize {
    let micros = micros.max(1);
    let power = micros.ilog2() as usize;
    let quarter = if power >= 2 { (micros >> (power - 2)) as usize & 3 } else { 0 };
    (power * 4 + quarter).min(CLASSES - 1)
}

/// The upper end of a class, in microseconds.
fn upper(class: usize) -> f64 {
    2f64.powi((class / 4) as i32) * (1.0 + (class % 4 + 1) as f64 / 4.0)
}

impl Step {
    /// The latency that a share of the requests stayed below, in microseconds; zero without requests.
    pub(super) fn at(&self, share: f64) -> f64 {
        let wanted = (f64::from(self.count) * share).ceil() as u32;
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return upper(class).min(self.slowest.as_micros() as f64);
            }
        }
        0.0
    }
}

/// Records one kind of request of one client; times count from `origin`, which all clients of a drill share.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    origin: Instant,
    verb: Verb,
    /// The steps from the origin on.
    pub steps: Vec<Step>,
    /// Begin and end of each gap.
    gaps: Vec<(Duration, Duration)>,
    last: Option<Duration>,
}

impl Timeline {
    /// Nothing yet.
    pub(super) fn new(origin: Instant, verb: Verb) -> Self {
        Self { origin, verb, steps: Vec::new(), gaps: Vec::new(), last: None }
    }

    /// A request ended at `at`.
    fn take(&mut self, at: Duration, latency: Duration) {
        let index = (at.as_nanos() / STEP.as_nanos()) as usize;
        if index >= KEPT_MAX {
            return;
        }
        if index >= self.steps.len() {
            self.steps.resize(index + 1, Step::default());
        }
        let step = &mut self.steps[index];
        step.count += 1;
        step.slowest = step.slowest.max(latency);
        step.classes[class(latency.as_micros() as u64)] += 1;
        let last = self.last.replace(at).unwrap_or(at);
        if at.saturating_sub(last) >= GAP && self.gaps.len() < KEPT_MAX {
            self.gaps.push((last, at));
        }
    }

    /// The longest gap that touches a span; zero when requests ended all the while, none when nothing ended
    /// after the span's begin.
    pub(super) fn pause(&self, from: Duration, to: Duration) -> Option<Duration> {
        self.last.filter(|last| *last >= from)?;
        let touching = self.gaps.iter().filter(|(begin, end)| *begin <= to && *end >= from);
        Some(touching.map(|(begin, end)| *end - *begin).max().unwrap_or_default())
    }

    /// The latency that a share of the requests between two moments stayed below, in microseconds.
    pub(super) fn quantile(&self, from: Duration, to: Duration, share: f64) -> f64 {
        let index = |at: Duration| (at.as_nanos() / STEP.as_nanos()) as usize;
        let mut all = Step::default();
        for step in self.steps.iter().take(index(to)).skip(index(from)) {
            all.count += step.count;
            all.slowest = all.slowest.max(step.slowest);
            all.classes.iter_mut().zip(&step.classes).for_each(|(sum, one)| *sum += one);
        }
        all.at(share)
    }
}

impl Observer for Timeline {
    fn interval(&mut self, _elapsed: Duration, _lanes: &[Lane; 3]) {}

    fn ended(&mut self, verb: Verb, nanos: u64) {
        if verb == self.verb {
            self.take(self.origin.elapsed(), Duration::from_nanos(nanos));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample() -> Timeline {
        let mut line = Timeline::new(Instant::now(), Verb::Read);
        (0..500).for_each(|at| line.take(ms(at), ms(1)));
        (740..1000).for_each(|at| line.take(ms(at), ms(2)));
        line
    }

    #[test]
    fn the_pause_is_the_longest_gap_that_touches_the_span() {
        let line = sample();
        assert_eq!(line.pause(ms(510), ms(900)), Some(ms(241)));
        assert_eq!(line.pause(ms(800), ms(900)), Some(Duration::ZERO));
        assert_eq!(line.pause(ms(100), ms(400)), Some(Duration::ZERO));
        assert_eq!(line.pause(ms(1500), ms(1600)), None, "nothing ended after it");
    }

    #[test]
    fn steps_count_what_ended_in_them_and_quantiles_lie_within_a_class() {
        let line = sample();
        let counts: Vec<u32> = line.steps.iter().map(|step| step.count).collect();
        assert_eq!(counts, [100, 100, 100, 100, 100, 0, 0, 60, 100, 100]);
        assert_eq!(line.steps[5].at(0.99), 0.0);
        assert_eq!(line.steps[0].slowest, ms(1));
        for (span, wanted) in [((0, 500), 1000.0), ((700, 1000), 2000.0)] {
            let found = line.quantile(ms(span.0), ms(span.1), 0.99);
            assert!((wanted * 0.8..=wanted).contains(&found), "{found} for {wanted}");
        }
        assert_eq!((class(0), class(u64::MAX)), (0, CLASSES - 1));
        assert!((0..CLASSES - 1).all(|class| upper(class) < upper(class + 1)));
    }
}
