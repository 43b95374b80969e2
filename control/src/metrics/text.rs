//! The text exposition: counters, gauges, and histograms with fixed buckets at powers of two, which any
//! scraper reads. Native histograms exist only in the protobuf form.

use std::fmt::Write;

use super::families::{Family, Sample, Value};
use super::snapshot::HistSnapshot;

/// Upper bounds of the buckets: 2^10 ns (1 us) to 2^34 ns (17 s).
const BOUNDS: std::ops::RangeInclusive<u32> = 10..=34;

/// Every family as text.
pub(super) fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let kind = match family.samples.first().map(|sample| &sample.value) {
            Some(Value::Counter(_)) => "counter",
            Some(Value::Gauge(_)) => "gauge",
            Some(Value::Histogram(_)) => "histogram",
            None => continue,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name);
        for sample in &family.samples {
            line(&mut text, &family.name, sample);
        }
    }
    text
}

fn line(text: &mut String, name: &str, sample: &Sample) {
    let _ = match &sample.value {
        Value::Counter(value) => writeln!(text, "{name}{} {value}", labels(sample, None)),
        Value::Gauge(value) => writeln!(text, "{name}{} {value}", labels(sample, None)),
        Value::Histogram(histogram) => {
            buckets(text, name, sample, histogram);
            Ok(())
        }
    };
}

fn buckets(text: &mut String, name: &str, sample: &Sample, histogram: &HistSnapshot) {
    let mut rest = histogram.buckets.iter().peekable();
    let mut below = 0;
    for power in BOUNDS {
        while let Some((_, count)) = rest.next_if(|(upper, _)| *upper <= 1 << power) {
            below += count;
        }
        let bound = (1u64 << power) as f64 / 1e9;
        let _ = writeln!(text, "{name}_bucket{} {below}", labels(sample, Some(&bound.to_string())));
    }
    let _ = writeln!(text, "{name}_bucket{} {}", labels(sample, Some("+Inf")), histogram.count);
    let _ = writeln!(text, "{name}_sum{} {}", labels(sample, None), histogram.sum as f64 / 1e9);
    let _ = writeln!(text, "{name}_count{} {}", labels(sample, None), histogram.count);
}

fn labels(sample: &Sample, le: Option<&str>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let own = sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    let all: Vec<String> = own.chain(le.map(|le| format!("le=\"{le}\""))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_rising_buckets_a_sum_and_a_count() {
        let histogram =
            HistSnapshot { count: 6, sum: 3_000_000, buckets: vec![(900, 1), (1 << 20, 3), (1 << 40, 2)] };
        let sample =
            Sample { labels: vec![("volume", "a\"b".to_owned())], value: Value::Histogram(histogram) };
        let family = Family { name: "x_seconds".to_owned(), help: "h".to_owned(), samples: vec![sample] };
        let text = render(&[family]);
        assert!(text.contains("x_seconds_bucket{volume=\"a\\\"b\",le=\"0.000001024\"} 1\n"), "{text}");
        assert!(text.contains("le=\"0.001048576\"} 4\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 6\n"), "{text}");
        assert!(text.contains("x_seconds_sum{volume=\"a\\\"b\"} 0.003\n"), "{text}");
    }
}
