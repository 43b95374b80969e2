//! fio with its nbd engine as the client, on the client's core.

use super::command::{output, pinned};
use crate::target::Verb;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// One measured point; times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Requests a second.
    pub iops: f64,
    /// Mean latency.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// How busy the client was, in per cent of its core: near 100 it is the limit, not the server.
    pub client_busy: f64,
}

/// How long a client may take beyond its measured time before it is killed: its server hangs.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Unmeasured time of each run.
pub const WARM_UP: Duration = Duration::from_millis(300);

/// 4 KiB random reads or writes at a depth.
pub fn measure(uri: &str, verb: Verb, depth: u32, time: Duration, core: usize) -> Result<Numbers, String> {
    let lane = if verb == Verb::Read { "read" } else { "write" };
    let mut command = pinned(Some(core), "fio");
    command.args([
        "--name=bench",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        &format!("--rw=rand{lane}"),
        "--bs=4k",
        &format!("--iodepth={depth}"),
        "--time_based=1",
        &format!("--runtime={}ms", time.as_millis()),
        &format!("--ramp_time={}ms", WARM_UP.as_millis()),
        "--thread",
        "--randrepeat=0",
        "--norandommap=1",
        "--output-format=json",
    ]);
    let text = output(command, WARM_UP + time + PATIENCE)?;
    parse(&text, lane).ok_or_else(|| "fio gave no numbers".into())
}

/// Numbers out of fio's JSON (which may have warnings before it).
fn parse(text: &str, lane: &str) -> Option<Numbers> {
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = json.get("jobs")?.get(0)?;
    let cpu = |name: &str| job.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let lane = job.get(lane)?;
    let clat = lane.get("clat_ns")?;
    let at = |name: &str| clat.get("percentile")?.get(name)?.as_f64();
    Some(Numbers {
        iops: lane.get("iops")?.as_f64()?,
        mean_us: clat.get("mean")?.as_f64()? / 1e3,
        p50_us: at("50.000000")? / 1e3,
        p99_us: at("99.000000")? / 1e3,
        p999_us: at("99.900000")? / 1e3,
        client_busy: cpu("usr_cpu") + cpu("sys_cpu"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_numbers_are_read_and_their_absence_is_noticed() {
        let text = r#"note: something
            {"jobs":[{"usr_cpu":40.5,"sys_cpu":50.0,"read":{"iops":1000.5,"clat_ns":{"mean":2000.0,"percentile":
            {"50.000000":1500,"99.000000":3000,"99.900000":4000}}}}]}"#;
        let numbers = parse(text, "read").expect("numbers");
        assert_eq!((numbers.iops, numbers.mean_us, numbers.p999_us), (1000.5, 2.0, 4.0));
        assert_eq!(numbers.client_busy, 90.5);
        assert_eq!(parse("{}", "read"), None);
        assert_eq!(parse("fio: no such engine", "read"), None);
    }
}
