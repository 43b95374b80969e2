//! One network to one peer: round-trip time, resend time-out, and how much may be under way.
//!
//! Round trips follow RFC 6298; the window grows and shrinks as in RFC 5681, with a gentler cut, so that
//! a full socket buffer of the receiver ends in a smaller window and not in a storm of resends.

use super::port::Config;
use std::time::Duration;

/// State of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Smoothed round trip and its variation, once measured.
    smoothed: Option<(Duration, Duration)>,
    latest: Duration,
    window: usize,
    threshold: usize,
}

impl Path {
    pub(super) fn new(config: &Config) -> Self {
        let window = (10 * config.datagram_bytes).min(config.window_bytes);
        Self { smoothed: None, latest: Duration::ZERO, window, threshold: config.window_bytes }
    }

    /// A round trip was measured.
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.latest = rtt;
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((mean, variation)) => {
                let off = mean.abs_diff(rtt);
                ((mean * 7 + rtt) / 8, (variation * 3 + off) / 4)
            }
        });
    }

    /// After this long without an acknowledgement a datagram counts as lost.
    pub(super) fn timeout(&self, config: &Config, backoff: u32) -> Duration {
        let base = match self.smoothed {
            None => config.rto_initial,
            Some((mean, variation)) => (mean + variation * 4).clamp(config.rto_min, config.rto_max),
        };
        base.saturating_mul(1 << backoff.min(10)).min(config.rto_max)
    }

    /// After this long a datagram is lost if a later one was acknowledged: reordering takes less.
    pub(super) fn overtaken(&self, config: &Config) -> Duration {
        let mean = self.smoothed.map_or(config.rto_initial, |(mean, _)| mean.max(self.latest));
        (mean * 9 / 8).clamp(config.rto_min / 4, config.rto_max)
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// `bytes` were acknowledged.
    pub(super) fn grow(&mut self, bytes: usize, config: &Config) {
        let step = if self.window < self.threshold {
            bytes
        } else {
            (bytes * config.datagram_bytes / self.window).max(1)
        };
        self.window = (self.window + step).min(config.window_bytes);
    }

    /// Something was lost.
    pub(super) fn shrink(&mut self, config: &Config) {
        self.window = (self.window * 7 / 10).max(4 * config.datagram_bytes);
        self.threshold = self.window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_follow_the_round_trip_and_double_up_to_their_most() {
        let config = Config::default();
        let mut path = Path::new(&config);
        assert_eq!(path.timeout(&config, 0), config.rto_initial);
        (0..50).for_each(|_| path.sample(Duration::from_millis(10)));
        let settled = path.timeout(&config, 0);
        assert!((Duration::from_millis(10)..Duration::from_millis(12)).contains(&settled), "{settled:?}");
        assert_eq!(path.timeout(&config, 1), settled * 2);
        assert_eq!(path.timeout(&config, 30), config.rto_max);
        (0..50).for_each(|_| path.sample(Duration::from_micros(20)));
        assert_eq!(path.timeout(&config, 0), config.rto_min);
    }

    #[test]
    fn the_window_stays_between_its_limits() {
        let config = Config::default();
        let mut path = Path::new(&config);
        (0..1000).for_each(|_| path.grow(1 << 20, &config));
        assert_eq!(path.window(), config.window_bytes);
        (0..1000).for_each(|_| path.shrink(&config));
        assert_eq!(path.window(), 4 * config.datagram_bytes);
    }
}
