//! A latency histogram as it travels: only the buckets that count something. It keeps the resolution of
//! the histogram it was taken from, so that any other bucketing can be made of it at the endpoint.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Most buckets that are accepted from a node; more than an HdrHistogram of two digits over 100 s has.
pub const BUCKETS_MAX: usize = 16_384;

/// A sparse histogram of nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistSnapshot {
    /// Values in all.
    pub count: u64,
    /// Their sum in nanoseconds, as exact as the buckets.
    pub sum: u64,
    /// (highest value of the bucket in nanoseconds, count), rising, without empty buckets.
    pub buckets: Vec<(u64, u64)>,
}

impl HistSnapshot {
    /// A picture of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let mut snapshot = Self::default();
        for step in histogram.iter_recorded() {
            let (upper, count) = (step.value_iterated_to(), step.count_at_value());
            let middle = histogram.median_equivalent(upper);
            snapshot.count += count;
            snapshot.sum = snapshot.sum.saturating_add(middle.saturating_mul(count));
            snapshot.buckets.push((upper, count));
        }
        snapshot
    }

    /// Whether it is what [`HistSnapshot::of`] makes: rising, counted right, of bounded length.
    pub fn is_sane(&self) -> bool {
        let rising = self.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let counted = self.buckets.iter().try_fold(0u64, |sum, bucket| sum.checked_add(bucket.1));
        rising && counted == Some(self.count) && self.buckets.len() <= BUCKETS_MAX
    }

    /// The value below which a share (0 to 1) of the values lie; 0 without values.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (upper, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return *upper;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_counts_and_quantiles() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 100_000_000_000, 2).expect("bounds");
        for value in 1..=1000u64 {
            histogram.record(value * 1000).expect("in range");
        }
        let snapshot = HistSnapshot::of(&histogram);
        assert!(snapshot.is_sane());
        assert_eq!(snapshot.count, 1000);
        for share in [0.5, 0.99, 0.999] {
            let (ours, theirs) = (snapshot.quantile(share), histogram.value_at_quantile(share));
            assert_eq!(ours, theirs, "quantile {share}");
        }
        let exact = 500_500_000.0;
        assert!((snapshot.sum as f64 - exact).abs() / exact < 0.01);
    }

    #[test]
    fn a_lying_snapshot_is_seen() {
        let lie = HistSnapshot { count: 3, sum: 0, buckets: vec![(5, 1), (4, 2)] };
        assert!(!lie.is_sane());
        let lie = HistSnapshot { count: 3, sum: 0, buckets: vec![(5, u64::MAX), (6, 4)] };
        assert!(!lie.is_sane());
    }
}
