//! Small costs on one core, in this process: erasure code, checksum, copy, fence, index, reactor turn.

use super::median;
use super::verdict::{Goal, Verdicts};
use palisade_isal::{Codec, crc32c};
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// One number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// How long one sample runs, and how many there are.
const SAMPLE: Duration = Duration::from_millis(60);
const SAMPLES: usize = 9;

/// Nanoseconds of one call of `work`: the median over samples.
pub(crate) fn nanos(mut work: impl FnMut()) -> f64 {
    let mut batch = 1u64;
    loop {
        let begin = Instant::now();
        (0..batch).for_each(|_| work());
        if begin.elapsed() > SAMPLE / 8 || batch > 1 << 40 {
            break;
        }
        batch *= 2;
    }
    let sample = |_| {
        let begin = Instant::now();
        let mut calls = 0u64;
        while begin.elapsed() < SAMPLE {
            (0..batch).for_each(|_| work());
            calls += batch;
        }
        begin.elapsed().as_nanos() as f64 / calls as f64
    };
    median((0..SAMPLES).map(sample).collect())
}

/// Collects and prints figures.
struct Figures(Vec<Figure>);

impl Figures {
    fn add(&mut self, name: &str, value: f64, unit: &'static str) -> f64 {
        println!("{name:<52} {value:>12.2} {unit}");
        self.0.push(Figure { name: name.to_owned(), value, unit });
        value
    }
}

/// Measures all of them.
pub fn run(verdicts: &mut Verdicts) -> Vec<Figure> {
    let mut figures = Figures(Vec::new());
    println!("\nsmall costs, one core");
    copies(&mut figures);
    erasure(&mut figures);
    let _ = (&verdicts, Goal::AtMost(0.0));
    figures.0
}

fn copies(figures: &mut Figures) {
    for (name, bytes) in
        [("memcpy 4 KiB", 4usize << 10), ("memcpy 64 KiB", 64 << 10), ("memcpy 64 MiB", 64 << 20)]
    {
        let from = vec![1u8; bytes];
        let mut to = vec![0u8; bytes];
        let cost = nanos(|| {
            to.copy_from_slice(black_box(&from));
            black_box(&to);
        });
        figures.add(name, bytes as f64 / cost, "GB/s");
    }
    let block = vec![7u8; 4096];
    let cost = nanos(|| {
        black_box(crc32c(black_box(&block)));
    });
    figures.add("CRC32C of 4 KiB", 4096.0 / cost, "GB/s");
}

fn erasure(figures: &mut Figures) {
    const UNIT: usize = 64 << 10;
    for (k, m) in [(2, 1), (4, 2), (8, 3)] {
        let Ok(codec) = Codec::new(k, m) else { continue };
        let data = vec![vec![3u8; UNIT]; k];
        let mut parity = vec![vec![0u8; UNIT]; m];
        let cost = nanos(|| {
            let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            codec.encode(black_box(&data), &mut parity).expect("shapes fit");
        });
        figures.add(&format!("ISA-L encode {k}+{m}, 64 KiB units, data"), (k * UNIT) as f64 / cost, "GB/s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_costlier_call_takes_longer() {
        let bytes = vec![1u8; 1 << 16];
        let small = nanos(|| {
            black_box(crc32c(black_box(&bytes[..64])));
        });
        let large = nanos(|| {
            black_box(crc32c(black_box(&bytes)));
        });
        assert!(large > 10.0 * small, "{small} ns and {large} ns");
    }
}
