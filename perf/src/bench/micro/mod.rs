//! Small costs on one core, in this process: erasure code, checksum, copy, fence, index, reactor turn.

mod encode;
mod export;
mod fence;
mod log;
mod nvme;
mod turn;

use super::command::{exists, output};
use super::servers::executable;
use super::verdict::{Goal, Verdicts};
use super::{median, skip};
use palisade_isal::{Codec, crc32c};
use serde::Serialize;
use std::hint::black_box;
use std::time::Duration;

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
const SAMPLE_NANOS: f64 = 60e6;
const SAMPLES: usize = 9;

/// CPU time of this thread, in nanoseconds: other work on a shared machine does not count.
pub(crate) fn cpu_nanos() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of one call of `work`: the median over samples, in CPU time of this thread.
pub(crate) fn nanos(mut work: impl FnMut()) -> f64 {
    let mut batch = 1u64;
    loop {
        let begin = cpu_nanos();
        (0..batch).for_each(|_| work());
        if cpu_nanos() - begin > SAMPLE_NANOS / 8.0 || batch > 1 << 40 {
            break;
        }
        batch *= 2;
    }
    let sample = |_| {
        let begin = cpu_nanos();
        let mut calls = 0u64;
        while cpu_nanos() - begin < SAMPLE_NANOS {
            (0..batch).for_each(|_| work());
            calls += batch;
        }
        (cpu_nanos() - begin) / calls as f64
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

/// A thing whose cost is told per call.
pub(crate) struct Work {
    /// Its name in tables and on the command line.
    pub(crate) name: &'static str,
    /// One call.
    pub(crate) call: Box<dyn FnMut()>,
    /// Most nanoseconds that DESIGN section 6 grants, if it says.
    pub(crate) goal: Option<f64>,
}

/// All of them.
fn works() -> Vec<Work> {
    let export = [export::read(), export::write(), export::read_beside(), export::write_beside()];
    let nvme = [nvme::bare(), nvme::read(), nvme::write()];
    [fence::work(), turn::work()].into_iter().chain(export).chain(nvme).collect()
}

/// Arguments of `perf micro`.
#[derive(clap::Args, Clone, Debug)]
pub struct MicroArgs {
    /// Which work
    pub name: String,
    /// How often
    #[arg(long, default_value_t = 1000)]
    pub iterations: u64,
}

/// Runs one work so many times and nothing else: what an instruction counter is put around.
pub fn repeat(args: &MicroArgs) -> Result<u8, (u8, String)> {
    let names: Vec<&str> = works().iter().map(|w| w.name).collect();
    let mut work = works()
        .into_iter()
        .find(|w| w.name == args.name)
        .ok_or_else(|| (2, format!("no work `{}`; there are {names:?}", args.name)))?;
    (0..args.iterations).for_each(|_| (work.call)());
    Ok(0)
}

/// Measures all of them.
pub fn run(verdicts: &mut Verdicts) -> Vec<Figure> {
    let mut figures = Figures(Vec::new());
    println!("\nsmall costs, one core");
    copies(&mut figures);
    erasure(&mut figures);
    let mut counts = Vec::new();
    for mut work in works() {
        let cost = figures.add(work.name, nanos(&mut work.call), "ns");
        if let Some(goal) = work.goal {
            verdicts.add(format!("{}, ns", work.name), cost, Goal::AtMost(goal));
        }
        match instructions(work.name) {
            Ok(count) => {
                figures.add(&format!("{}, instructions", work.name), count, "");
                counts.push((work.name, count));
            }
            Err(why) => skip(&format!("instructions of {}", work.name), why),
        }
    }
    nvme::judge(&counts, verdicts);
    match encode::measure() {
        Ok(encode) => {
            figures.add("encode 4+2 in the flush path's shape, data", encode.flush_gb, "GB/s");
            let what = "encode in the flush path's shape / ISA-L alone";
            verdicts.add(what, encode.share, Goal::AtLeast(0.9));
        }
        Err(why) => skip("encode in the flush path's shape", why),
    }
    match log::measure() {
        Ok(log) => {
            let bytes = figures.add("index, randomly written block", log.index_bytes, "bytes");
            verdicts.add("index, bytes a randomly written block", bytes, Goal::AtMost(24.0));
            let speed = figures.add("log recovery", log.recovery_gib, "GiB/s");
            verdicts.add("log recovery, GiB/s", speed, Goal::AtLeast(1.0));
            figures.add("log append, 4 KiB entry", log.append_nanos, "ns");
        }
        Err(why) => skip("log and index", why),
    }
    figures.0
}

/// Instructions of one call, by callgrind: the difference between two counts.
pub(super) fn instructions(name: &str) -> Result<f64, String> {
    const FEW: u64 = 2_000;
    const MANY: u64 = 12_000;
    if !exists("valgrind") {
        return Err("valgrind is not installed (make deps)".into());
    }
    let count = |iterations: u64| -> Result<f64, String> {
        let mut command = std::process::Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
        command.arg(executable()?).args(["perf", "micro", name, "--iterations", &iterations.to_string()]);
        let text = output(command, Duration::from_secs(120))?;
        let collected = text.lines().find_map(|l| l.split("Collected :").nth(1));
        collected.and_then(|n| n.trim().parse().ok()).ok_or_else(|| "callgrind gave no count".to_owned())
    };
    Ok((count(MANY)? - count(FEW)?) / (MANY - FEW) as f64)
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
    fn every_work_can_be_called_and_costs_less_than_a_millisecond() {
        for mut work in works() {
            (work.call)();
            let begin = cpu_nanos();
            (0..100).for_each(|_| (work.call)());
            assert!(cpu_nanos() - begin < 100e6, "{}", work.name);
        }
    }

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
