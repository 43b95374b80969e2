//! The protobuf exposition (`io.prometheus.client`), which native histograms need: exponential buckets
//! whose bounds grow by 2^(1/8). The messages are written out here, with only the fields that we send.

use prost::Message;

use super::families::{Family, Sample, Value};
use super::snapshot::HistSnapshot;

/// Bounds grow by 2^(2^-SCHEMA).
const SCHEMA: i32 = 3;
/// Values up to this count as zero. A histogram with a zero threshold is recognised as native.
const ZERO_THRESHOLD_S: f64 = 1e-9;

/// A name and its value.
#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A gauge or counter: one number.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

/// Consecutive buckets.
#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// A native histogram.
#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

/// A sample.
#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

/// A family.
#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    /// 0 counter, 1 gauge, 4 histogram.
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

/// Every family, each with its length before it.
pub(super) fn render(families: &[Family]) -> Vec<u8> {
    families.iter().flat_map(|family| message(family).encode_length_delimited_to_vec()).collect()
}

fn message(family: &Family) -> MetricFamily {
    let kind = match family.samples.first().map(|sample| &sample.value) {
        Some(Value::Gauge(_)) => 1,
        Some(Value::Histogram(_)) => 4,
        Some(Value::Counter(_)) | None => 0,
    };
    let metric = family.samples.iter().map(metric).collect();
    MetricFamily { name: family.name.clone(), help: family.help.clone(), kind, metric }
}

fn metric(sample: &Sample) -> Metric {
    let pair = |(name, value): &(&str, String)| LabelPair { name: (*name).to_owned(), value: value.clone() };
    let mut metric = Metric { label: sample.labels.iter().map(pair).collect(), ..Metric::default() };
    match &sample.value {
        Value::Counter(value) => metric.counter = Some(Number { value: *value as f64 }),
        Value::Gauge(value) => metric.gauge = Some(Number { value: *value }),
        Value::Histogram(histogram) => metric.histogram = Some(native(histogram)),
    }
    metric
}

/// Index of the bucket `(2^((i-1)/8), 2^(i/8)]` seconds that a value of nanoseconds lies in.
fn index(value_ns: u64) -> i32 {
    ((value_ns as f64 / 1e9).log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

fn native(snapshot: &HistSnapshot) -> Histogram {
    let mut histogram = Histogram {
        sample_count: snapshot.count,
        sample_sum: snapshot.sum as f64 / 1e9,
        schema: SCHEMA,
        zero_threshold: ZERO_THRESHOLD_S,
        ..Histogram::default()
    };
    let mut buckets: Vec<(i32, u64)> = Vec::new();
    for (upper, count) in &snapshot.buckets {
        if *upper <= 1 {
            histogram.zero_count += count;
            continue;
        }
        match buckets.last_mut() {
            Some((last, sum)) if *last == index(*upper) => *sum += count,
            _ => buckets.push((index(*upper), *count)),
        }
    }
    // Spans carry the gap to the span before, deltas the difference to the bucket before.
    let (mut next, mut before) = (0, 0i64);
    for (index, count) in buckets {
        match histogram.positive_span.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => histogram.positive_span.push(BucketSpan { offset: index - next, length: 1 }),
        }
        next = index + 1;
        histogram.positive_delta.push(count as i64 - before);
        before = count as i64;
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_spans_and_deltas_add_up_to_the_snapshot() {
        let snapshot = HistSnapshot {
            count: 21,
            sum: 5,
            buckets: vec![(1, 1), (1000, 5), (1010, 2), (1100, 4), (1_000_000, 3), (2_000_000_000, 6)],
        };
        let histogram = native(&snapshot);
        assert_eq!(histogram.zero_count, 1);
        let (mut index_now, mut count, mut seen, mut deltas) =
            (0, 0i64, Vec::new(), histogram.positive_delta.iter());
        for span in &histogram.positive_span {
            index_now += span.offset;
            for _ in 0..span.length {
                count += deltas.next().expect("a delta for every bucket");
                seen.push((index_now, count));
                index_now += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        assert_eq!(seen.iter().map(|(_, count)| count).sum::<i64>() as u64 + histogram.zero_count, 21);
        for (index, _) in &seen {
            let upper_ns = 2f64.powf(f64::from(*index) / 8.0) * 1e9;
            let near = snapshot.buckets.iter().any(|(value, _)| {
                let value = *value as f64;
                value <= upper_ns * 1.0001 && value > upper_ns / 2f64.powf(1.0 / 8.0) * 0.9999
            });
            assert!(near, "bucket {index} holds a value of the snapshot");
        }
    }

    #[test]
    fn a_family_reads_back_from_its_bytes() {
        let sample = Sample { labels: vec![("volume", "vol0".to_owned())], value: Value::Counter(7) };
        let family = Family { name: "x_total".to_owned(), help: "h".to_owned(), samples: vec![sample] };
        let bytes = render(&[family]);
        let read = MetricFamily::decode_length_delimited(bytes.as_slice()).expect("readable");
        assert_eq!((read.name.as_str(), read.kind), ("x_total", 0));
        assert_eq!(read.metric[0].counter.as_ref().map(|number| number.value), Some(7.0));
        assert_eq!(read.metric[0].label[0].value, "vol0");
    }
}
