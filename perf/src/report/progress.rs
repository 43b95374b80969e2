//! Collects a run's intervals and, on a terminal, shows how far it is.

use super::hist::Intervals;
use crate::load::engine::{Lane, Observer};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// The observer of a run from the command line.
pub struct Progress {
    /// What the interval log is written from.
    pub intervals: Intervals,
    bar: Option<ProgressBar>,
    counted: u64,
    last: Duration,
}

impl Progress {
    /// A bar for so long a run, when standard error is a terminal and nobody asked for silence.
    pub fn new(time: Duration, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(time.as_millis() as u64);
            let style = ProgressStyle::with_template("{bar:40.cyan/blue} {percent:>3}% {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { intervals: Intervals::default(), bar, counted: 0, last: Duration::ZERO }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn interval(&mut self, elapsed: Duration, lanes: &[Lane; 3]) {
        self.intervals.take(elapsed, lanes);
        if let Some(bar) = &self.bar {
            let count = lanes.iter().map(|lane| lane.total.len()).sum::<u64>();
            let span = elapsed.saturating_sub(self.last).as_secs_f64().max(1e-3);
            let rate = count.saturating_sub(self.counted) as f64 / span;
            bar.set_position(elapsed.as_millis() as u64);
            bar.set_message(format!("{:.1} k IOPS", rate / 1e3));
            (self.counted, self.last) = (count, elapsed);
        }
    }
}
