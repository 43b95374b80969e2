//! Histograms in HdrHistogram's own formats: the percentile listing (`.hgrm`) and the interval log
//! (`.hlog`, V2 compressed, base64), which its plotters and `HistogramLogProcessor` read.

use crate::load::engine::Lane;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// Ticks per halving of the distance to 100 %, as HdrHistogram's own tools use.
const TICKS: u32 = 5;
/// Values are nanoseconds; listings and logs are in microseconds.
const UNIT: f64 = 1000.0;

/// The percentile listing of a histogram of nanoseconds, in microseconds.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut seen = 0;
    for step in histogram.iter_quantiles(TICKS) {
        seen += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / UNIT;
        let quantile = step.quantile_iterated_to();
        let _ = write!(out, "{value:>12.3} {quantile:>14.12} {seen:>10}");
        let _ =
            if quantile < 1.0 { writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(out) };
    }
    let mean = histogram.mean() / UNIT;
    let deviation = histogram.stdev() / UNIT;
    let max = histogram.max() as f64 / UNIT;
    let _ = writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(out, "#[Max     = {max:>12.3}, Total count    = {:>12}]", histogram.len());
    let _ = writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", histogram.buckets(), 2048);
    out
}

/// An interval: when it began and ended since the start of the run, and per lane what was recorded.
pub struct Interval {
    /// Begin.
    pub from: Duration,
    /// End.
    pub to: Duration,
    /// Lane name and its latencies.
    pub lanes: Vec<(String, Histogram<u64>)>,
}

/// Collects intervals while a run goes on; bounded by the run's length in seconds.
#[derive(Default)]
pub struct Intervals {
    /// What was collected.
    pub list: Vec<Interval>,
    last: Duration,
}

impl Intervals {
    /// Takes over the interval histograms of the lanes.
    pub fn take(&mut self, elapsed: Duration, lanes: &[Lane]) {
        let used = lanes.iter().filter(|lane| !lane.interval.is_empty());
        let lanes = used.map(|lane| (lane.name.to_owned(), lane.interval.clone())).collect();
        self.list.push(Interval { from: self.last, to: elapsed, lanes });
        self.last = elapsed;
    }

    /// Writes the interval log.
    pub fn write_hlog(&self, out: &mut impl Write, started: SystemTime) -> io::Result<()> {
        let mut serializer = V2DeflateSerializer::new();
        let wrong = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("palisade perf; values in nanoseconds, maxima in microseconds")
            .with_start_time(started)
            .with_base_time(started)
            .with_max_value_divisor(UNIT)
            .begin_log_with(out, &mut serializer)
            .map_err(|e| wrong(e.to_string()))?;
        for interval in &self.list {
            let length = interval.to.saturating_sub(interval.from);
            for (name, histogram) in &interval.lanes {
                log.write_histogram(histogram, interval.from, length, Tag::new(name))
                    .map_err(|e| wrong(format!("{e:?}")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::engine::{LATENCY_NS_MAX, histogram};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn sample() -> Histogram<u64> {
        let mut sample = histogram();
        (1..=10_000u64).for_each(|i| sample.record(i * 1000).expect("inside"));
        sample
    }

    #[test]
    fn the_listing_ends_at_the_maximum_with_all_counts() {
        let text = hgrm(&sample());
        let last = text.lines().rfind(|l| !l.starts_with('#')).expect("a line");
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert!((fields[0].parse::<f64>().expect("a number") - 10_000.0).abs() < 10.0, "{last}");
        assert_eq!(fields[2], "10000");
        assert!(text.contains("#[Max     =") && text.contains("Total count"));
    }

    #[test]
    fn the_log_reads_back_with_hdrhistograms_own_parser() {
        let mut lane = crate::load::engine::Outcome::new().lanes[0].clone();
        lane.interval = sample();
        let mut intervals = Intervals::default();
        intervals.take(Duration::from_secs(1), std::slice::from_ref(&lane));
        intervals.take(Duration::from_secs(2), std::slice::from_ref(&lane));
        let mut log = Vec::new();
        intervals.write_hlog(&mut log, SystemTime::now()).expect("written");
        let mut counts = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(line) = entry.expect("parses") {
                assert_eq!(line.tag().expect("a tag").as_str(), "read");
                let bytes = base64_decode(line.encoded_histogram());
                let back: Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
                assert!(back.max() <= LATENCY_NS_MAX);
                counts.push(back.len());
            }
        }
        assert_eq!(counts, [10_000, 10_000]);
    }

    /// Standard base64, to read what the log writer encoded.
    fn base64_decode(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |c: u8| ALPHABET.iter().position(|&a| a == c).expect("base64") as u32;
        let mut out = Vec::new();
        let (mut bits, mut count) = (0u32, 0);
        for c in text.bytes().filter(|&c| c != b'=') {
            bits = (bits << 6) | digit(c);
            count += 6;
            if count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        out
    }
}
