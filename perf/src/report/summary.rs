//! A run in numbers: for people as a table, for programs as JSON; and the files beside it.

use super::hist::{Intervals, hgrm};
use super::svg;
use crate::load::engine::{Ended, Lane, Outcome};
use crate::load::spec::Spec;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// One lane or stage in numbers; times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct LaneNumbers {
    /// "read", "write", "flush" or a stage.
    pub name: String,
    /// Requests.
    pub count: u64,
    /// Requests a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// A run in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What was driven.
    pub target: String,
    /// How.
    pub spec: Spec,
    /// Measured seconds.
    pub seconds: f64,
    /// Read, write, flush, as far as they occurred.
    pub lanes: Vec<LaneNumbers>,
    /// Stages, when the target shows them.
    pub stages: Vec<LaneNumbers>,
    /// Error answers.
    pub errors: u64,
    /// Wrong reads.
    pub wrong: u64,
    /// The first findings in words.
    pub findings: Vec<String>,
    /// Blocks compared with the model.
    pub compared_blocks: u64,
    /// Connections found again.
    pub reconnects: u64,
    /// Open loop: due and never started.
    pub unstarted: u64,
    /// "complete", "stopped", "lost: …", "fatal: …".
    pub ended: String,
}

fn numbers(name: &str, count: u64, bytes: u64, seconds: f64, histogram: &Histogram<u64>) -> LaneNumbers {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    LaneNumbers {
        name: name.to_owned(),
        count,
        iops: count as f64 / seconds.max(1e-9),
        bytes_per_second: bytes as f64 / seconds.max(1e-9),
        mean_us: if histogram.is_empty() { 0.0 } else { histogram.mean() / 1e3 },
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: histogram.max() as f64 / 1e3,
    }
}

impl Summary {
    /// Puts a run into numbers.
    pub fn new(target: &str, spec: &Spec, outcome: &Outcome, stages: &[(String, Histogram<u64>)]) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let used = |lane: &&Lane| !lane.total.is_empty();
        Self {
            target: target.to_owned(),
            spec: spec.clone(),
            seconds,
            lanes: outcome
                .lanes
                .iter()
                .filter(used)
                .map(|lane| numbers(lane.name, lane.count, lane.bytes, seconds, &lane.total))
                .collect(),
            stages: stages.iter().map(|(name, h)| numbers(name, h.len(), 0, seconds, h)).collect(),
            errors: outcome.errors,
            wrong: outcome.wrong_count,
            findings: outcome.wrong.clone(),
            compared_blocks: outcome.compared,
            reconnects: outcome.reconnects,
            unstarted: outcome.unstarted,
            ended: match &outcome.ended {
                Ended::Complete => "complete".into(),
                Ended::Stopped => "stopped".into(),
                Ended::Lost(why) => format!("lost: {why}"),
                Ended::Fatal(why) => format!("fatal: {why}"),
            },
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = format!("{:<8}", "");
        for head in ["IOPS", "MiB/s", "mean us", "p50", "p99", "p99.9", "max"] {
            let _ = write!(out, " {head:>10}");
        }
        out.push('\n');
        for lane in self.lanes.iter().chain(&self.stages) {
            let _ = writeln!(
                out,
                "{:<8} {:>10.0} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                lane.name,
                lane.iops,
                lane.bytes_per_second / f64::from(1 << 20),
                lane.mean_us,
                lane.p50_us,
                lane.p99_us,
                lane.p999_us,
                lane.max_us
            );
        }
        let _ = writeln!(out, "{}: {:.1} s, {}", self.target, self.seconds, self.ended);
        if self.compared_blocks > 0 {
            let _ = writeln!(out, "verified {} blocks, {} wrong", self.compared_blocks, self.wrong);
        }
        for (name, count) in [
            ("error answers", self.errors),
            ("reconnects", self.reconnects),
            ("never started", self.unstarted),
        ] {
            if count > 0 {
                let _ = writeln!(out, "{name}: {count}");
            }
        }
        for finding in &self.findings {
            let _ = writeln!(out, "  {finding}");
        }
        out
    }
}

/// Writes `PREFIX.json`, `PREFIX.LANE.hgrm`, `PREFIX.hlog` and `PREFIX.svg`.
pub fn write_files(
    prefix: &Path,
    summary: &Summary,
    outcome: &Outcome,
    stages: &[(String, Histogram<u64>)],
    intervals: &Intervals,
    started: SystemTime,
) -> io::Result<()> {
    let with = |ending: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(ending);
        name
    };
    if let Some(folder) = prefix.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(with(".json"), serde_json::to_string_pretty(summary)? + "\n")?;
    let lanes = outcome.lanes.iter().map(|lane| (lane.name.to_owned(), &lane.total));
    let all: Vec<(String, &Histogram<u64>)> = lanes
        .chain(stages.iter().map(|(name, h)| (name.clone(), h)))
        .filter(|(_, h)| !h.is_empty())
        .collect();
    for (name, histogram) in &all {
        fs::write(with(&format!(".{name}.hgrm")), hgrm(histogram))?;
    }
    fs::write(with(".svg"), svg::percentiles(&summary.target, &all))?;
    intervals.write_hlog(&mut fs::File::create(with(".hlog"))?, started)
}
