//! The report: lines on the terminal, `FAULTS.md`, and a timeline for each fault.

use super::load::Both;
use super::scene::{Pause, Round};
use super::timeline::{STEP, Timeline};
use super::{Call, Results, Row};
use crate::bench::median;
use crate::report::timeline::{Picture, Point};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Most seconds of a timeline that is drawn: of fifty faults the first few are.
const DRAWN: Duration = Duration::from_secs(60);
/// The heads of the columns of [`line`].
pub(super) const HEAD: &str =
    "drill                     times  read pause ms   write pause ms   errors  wrong  reconnects";

/// The version of the source that this was built or is run in; empty when there is none.
pub(super) fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).stderr(Stdio::null()).output().ok();
        let output = output.filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "-uno"]).is_some_and(|text| !text.is_empty());
    git(&["rev-parse", "--short", "HEAD"])
        .map(|hash| if changed { format!("{hash}, changed") } else { hash })
        .unwrap_or_default()
}

/// Median and worst of one figure of some pauses.
fn both(pauses: &[Pause], of: impl Fn(&Pause) -> f64) -> (f64, f64) {
    let values: Vec<f64> = pauses.iter().map(of).collect();
    let worst = values.iter().copied().fold(0.0, f64::max);
    (median(values), worst)
}

fn cell(pauses: &[Pause], of: impl Fn(&Pause) -> f64) -> String {
    if pauses.is_empty() {
        return "–".to_owned();
    }
    let (median, worst) = both(pauses, of);
    format!("{median:.0} / {worst:.0}")
}

/// One drill on the terminal.
pub(super) fn line(row: &Row) -> String {
    if row.trouble.starts_with("skipped") {
        return format!("SKIPPED {}: {}", row.name, row.trouble.trim_start_matches("skipped: "));
    }
    let mut out = format!(
        "{:<25} {:>5} {:>14} {:>16} {:>8} {:>6} {:>11}",
        row.name,
        row.pauses.len(),
        cell(&row.pauses, |pause| pause.read_ms),
        cell(&row.pauses, |pause| pause.write_ms),
        row.errors,
        row.wrong,
        row.reconnects
    );
    let more = row.notes.iter().chain(&row.findings).chain((!row.trouble.is_empty()).then_some(&row.trouble));
    more.for_each(|text| {
        let _ = write!(out, "\n    {text}");
    });
    out
}

/// Calls to control on the terminal.
pub(super) fn calls(calls: &[Call]) -> String {
    calls.iter().fold(String::new(), |mut out, call| {
        let Call { method, count, median_ms, worst_ms } = call;
        let _ = writeln!(
            out,
            "control call {method:<14} {count:>4} times, median {median_ms:.1} ms, worst {worst_ms:.1} ms (goal 100)"
        );
        out
    })
}

/// The timeline of a drill as SVG.
pub(super) fn timeline_of(title: &str, both: &Both, rounds: &[Round]) -> String {
    let points = |line: &Timeline| -> Vec<Point> {
        let most = (DRAWN.as_nanos() / STEP.as_nanos()) as usize;
        let point = |step: &super::timeline::Step| Point {
            rate: f64::from(step.count) / STEP.as_secs_f64(),
            median_us: step.at(0.5),
            p99_us: step.at(0.99),
        };
        line.steps.iter().take(most).map(point).collect()
    };
    let lines = vec![
        ("reads".to_owned(), points(&both.reads.timeline)),
        ("writes".to_owned(), points(&both.writes.timeline)),
    ];
    let faults = rounds.iter().map(|round| (round.from.as_secs_f64(), round.to.as_secs_f64()));
    let faults = faults.filter(|(from, _)| *from < DRAWN.as_secs_f64()).collect();
    Picture { title: title.to_owned(), step: STEP.as_secs_f64(), lines, faults }.svg()
}

/// `FAULTS.md`.
fn markdown(results: &Results) -> String {
    let mut out = format!(
        "# Faults on a rack of real processes\n\nWritten by `palisade perf faults`. Machine: {}. Source: {}.\n\n\
         Each drill has a rack of its own: two heads and seven sleds as processes, files as devices, default timers,\n\
         `failover = \"auto\"`, code 4+2. Two clients drive it all the while, both verify every block they read, and\n\
         both follow the volume to its other address: one reads, one mostly writes (a fifth reads), each at the given\n\
         depth (32 unless said otherwise). The generator shares the cores with the rack. A pause is the longest gap in\n\
         which no read (no write) ended, from the fault until the rack was whole again. With `solo = \"wait\"` a write\n\
         needs two heads: its pause ends when the killed process is back, started again by `up`. \"Group\" is when\n\
         control put the next group into force, \"whole\" when the pair was complete again, both from the fault on.\n\n\
         | fault | times | read pause ms, median / worst | write pause ms, median / worst | group ms | whole ms | errors | wrong blocks | compared | reconnects |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        results.machine,
        if results.commit.is_empty() { "unknown" } else { &results.commit }
    );
    for row in &results.rows {
        if row.trouble.starts_with("skipped") {
            let _ = writeln!(out, "| {} ({}): {} | | | | | | | | | |", row.what, row.name, row.trouble);
            continue;
        }
        let what = match row.trouble.as_str() {
            "" => format!("{} ({})", row.what, row.name),
            trouble => {
                format!("{} ({}): **{}**", row.what, row.name, trouble.lines().next().unwrap_or_default())
            }
        };
        let _ = writeln!(
            out,
            "| {what} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.pauses.len(),
            cell(&row.pauses, |pause| pause.read_ms),
            cell(&row.pauses, |pause| pause.write_ms),
            cell(&row.pauses, |pause| pause.group_ms),
            cell(&row.pauses, |pause| pause.whole_ms),
            row.errors,
            row.wrong,
            row.compared,
            row.reconnects
        );
    }
    call_table(&mut out, &results.calls);
    results.rows.iter().for_each(|row| section(&mut out, row));
    out
}

fn call_table(out: &mut String, calls: &[Call]) {
    if calls.is_empty() {
        return;
    }
    out.push_str(
        "\n## Calls to control while the reactors are saturated\n\nBoth clients at depth 128; the goal is 100 ms.\n\n\
         | method | calls | median ms | worst ms |\n|---|---|---|---|\n",
    );
    for Call { method, count, median_ms, worst_ms } in calls {
        let _ = writeln!(out, "| `{method}` | {count} | {median_ms:.1} | {worst_ms:.1} |");
    }
}

/// What one drill has to show beside its line.
fn section(out: &mut String, row: &Row) {
    if row.svg.is_empty() && row.notes.is_empty() && row.events.is_empty() && row.findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n## {}\n\n{}.", row.name, row.what);
    for text in row.notes.iter().chain(&row.findings) {
        let _ = writeln!(out, "\n- {text}");
    }
    if !row.svg.is_empty() {
        let _ = writeln!(out, "\n![requests a second and latency](faults/{}.svg)", row.name);
    }
    if !row.events.is_empty() {
        out.push_str("\nTold of the first time (milliseconds after the fault):\n\n```\n");
        for (after, what) in &row.events {
            let _ = writeln!(out, "{after:>6}  {what}");
        }
        out.push_str("```\n");
    }
}

/// Writes `FAULTS.md` and `faults/NAME.svg`.
pub(super) fn files(out: &Path, results: &Results) -> std::io::Result<()> {
    std::fs::create_dir_all(out.join("faults"))?;
    std::fs::write(out.join("FAULTS.md"), markdown(results))?;
    for row in results.rows.iter().filter(|row| !row.svg.is_empty()) {
        std::fs::write(out.join("faults").join(format!("{}.svg", row.name)), &row.svg)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let pause = |read_ms, write_ms| Pause { read_ms, write_ms, group_ms: 60.0, whole_ms: 900.0 };
        let pauses = vec![pause(90.0, 700.0), pause(110.4, 800.0), pause(100.0, 2000.0)];
        let good = Row {
            name: "kill-x".into(),
            what: "SIGKILL".into(),
            pauses,
            svg: "<svg/>".into(),
            ..Row::default()
        };
        let skipped = Row { name: "cut".into(), trouble: "skipped: no namespaces".into(), ..Row::default() };
        let call = Call { method: "events".into(), count: 4, median_ms: 1.0, worst_ms: 2.5 };
        Results { machine: "m".into(), rows: vec![good, skipped], calls: vec![call], ..Results::default() }
    }

    #[test]
    fn issue3_12_the_report_has_a_line_a_drill_with_median_and_worst_and_says_what_was_skipped() {
        let text = markdown(&results());
        assert!(text.contains("| SIGKILL (kill-x) | 3 | 100 / 110 | 800 / 2000 | 60 / 60 |"), "{text}");
        assert!(text.contains("(cut): skipped: no namespaces |"), "{text}");
        assert!(
            text.contains("| `events` | 4 | 1.0 | 2.5 |") && text.contains("faults/kill-x.svg"),
            "{text}"
        );
        assert!(line(&results().rows[1]).starts_with("SKIPPED cut: no namespaces"));
    }

    #[test]
    fn the_report_and_its_images_lie_side_by_side() {
        let dir = tempfile::tempdir().expect("a directory");
        files(dir.path(), &results()).expect("written");
        for name in ["FAULTS.md", "faults/kill-x.svg"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
        assert!(!dir.path().join("faults/cut.svg").exists());
    }
}
