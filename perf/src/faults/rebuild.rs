//! How fast the columns of a lost device are rebuilt elsewhere, and what clients feel of it (DESIGN section 6).

use super::load::fill_beyond;
use super::rack::Shape;
use super::scene::Scene;
use super::{FaultArgs, Trouble};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most requests in flight of each client meanwhile.
const DEPTH: u32 = 32;
/// Requests a second of each: a load that leaves room. Clients that ask for all that the processor gives, on two cores
/// that they share with ten nodes, would say what the processor does and not the rebuild.
const RATE: u32 = 500;
/// Calm before, for the latency to compare with.
const CALM: Duration = Duration::from_secs(4);
/// Bytes written to see what the disk below the devices gives.
const PROBE: usize = 512 << 20;
/// Bytes of one of these writes.
const CHUNK: usize = 1 << 20;
/// Bytes of columns written for a byte of a client, in code 4+2.
const COLUMNS: f64 = 1.5;
/// Bytes of columns read and written for a byte of a client. One disk is below all devices of this rack: both pass
/// through it, and it is the slowest device whose bandwidth the goal names.
const MOVED: f64 = 1.0 + COLUMNS;
/// The device that is lost.
const LOST: &str = "sled-2/0";

/// What a rebuild showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rebuild {
    /// Bytes of clients that were written anew.
    pub(crate) bytes: u64,
    /// MiB of columns a second, parity too, while it ran: between the first and the last report that showed more.
    pub(crate) mib_s: f64,
    /// Seconds from when the device counted as failed until nothing lacked a column, which a report told up to a second
    /// late.
    pub(crate) took_s: f64,
    /// MiB a second that the disk takes from one writer, synced at the end.
    pub(crate) device_mib_s: f64,
    /// 99 % of reads: before, and meanwhile, in microseconds.
    pub(crate) read_p99_us: [f64; 2],
    /// 99 % of writes.
    pub(crate) write_p99_us: [f64; 2],
}

impl Rebuild {
    /// MiB of columns a second that were read or written.
    pub(crate) fn moved_mib_s(&self) -> f64 {
        self.mib_s * MOVED / COLUMNS
    }
}

/// What the disk below a folder takes from one writer.
fn disk_mib_s(folder: &Path) -> Result<f64, Trouble> {
    let path = folder.join(format!("palisade-probe-{}", std::process::id()));
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let chunk = vec![0x5a; CHUNK];
    let begin = Instant::now();
    let mut file = File::create(&path).map_err(failed)?;
    for _ in 0..PROBE / CHUNK {
        file.write_all(&chunk).map_err(failed)?;
    }
    file.sync_data().map_err(failed)?;
    let took = begin.elapsed().as_secs_f64();
    std::fs::remove_file(&path).map_err(failed)?;
    Ok((PROBE / CHUNK) as f64 / took.max(1e-9))
}

fn lost(status: &Value) -> &Value {
    let devices = status["devices"].as_array();
    devices.into_iter().flatten().find(|device| device["name"] == LOST).unwrap_or(&Value::Null)
}

fn rebuilt(status: &Value) -> u64 {
    status["volumes"][0]["counters"]["rebuilt_bytes"].as_u64().unwrap_or(0)
}

/// Bytes a second between the first report and the last but one of those that showed more than the one before: within
/// the last one's second it ended.
fn pace(steps: &[(Instant, u64)]) -> f64 {
    let last = steps.len().saturating_sub(2).max(1);
    match (steps.first(), steps.get(last)) {
        (Some(first), Some(last)) => (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64().max(1e-9),
        _ => 0.0,
    }
}

/// Loses a device under load.
pub(crate) fn measure() -> Result<Rebuild, Trouble> {
    let args = FaultArgs { depth: DEPTH, rate: Some(RATE), calm: CALM, ..FaultArgs::of_bench(0) };
    let shape = Shape { sleds: 8, large: true, ..Shape::default() };
    // Before the rack runs, and not within the calm that latencies are compared with.
    let device_mib_s = disk_mib_s(&args.folder())?;
    let mut scene = Scene::set(shape, &args)?;
    fill_beyond(&scene.rack.addresses()?, shape.volume_bytes())?;
    let flush = json!({ "name": "vol0", "wait": true, "timeout_s": 120 });
    scene.rack.call("volume.flush", &flush)?;
    scene.rest();
    scene.begin();
    scene.rack.call("device.drill", &json!({ "name": LOST, "drill": "error" }))?;
    let failed =
        scene.rack.wait("the device counts as failed", |status| lost(status)["state"] == "failed")?;
    // Reports come once a second: what was done before this one is left out.
    let before = rebuilt(&failed);
    let begin = Instant::now();
    let mut steps = vec![(begin, before)];
    let end = scene.rack.wait("all its columns are elsewhere", |status| {
        if rebuilt(status) > steps[steps.len() - 1].1 {
            steps.push((Instant::now(), rebuilt(status)));
        }
        let whole = status["volumes"][0]["degraded_extents"] == 0 && status["volumes"][0]["redundancy"] == 2;
        whole && lost(status)["held"] == 0
    })?;
    let took = begin.elapsed();
    scene.end()?;
    let (both, rounds, _) = scene.finish()?;
    let bad = both.sum(|outcome| outcome.errors + outcome.wrong_count);
    if bad > 0 {
        return Err(Trouble::Failed(format!("{bad} errors or wrong blocks: {:?}", both.findings())));
    }
    let round = rounds.first().ok_or("no round")?;
    let calm = (round.from.saturating_sub(CALM), round.from);
    let p99 = |line: &super::timeline::Timeline| {
        [line.quantile(calm.0, calm.1, 0.99), line.quantile(round.from, round.to, 0.99)]
    };
    Ok(Rebuild {
        bytes: rebuilt(&end) - before,
        mib_s: pace(&steps) * COLUMNS / f64::from(1 << 20),
        took_s: took.as_secs_f64(),
        device_mib_s,
        read_p99_us: p99(&both.reads.timeline),
        write_p99_us: p99(&both.writes.timeline),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_leaves_out_the_second_in_which_a_rebuild_ended() {
        let begin = Instant::now();
        let at = |second: u64, bytes| (begin + Duration::from_secs(second), bytes);
        assert_eq!(pace(&[at(0, 100), at(1, 400), at(2, 700), at(3, 750)]), 300.0);
        assert_eq!(pace(&[at(0, 0), at(2, 100)]), 50.0, "one report");
        assert_eq!(pace(&[at(0, 0)]), 0.0, "none");
    }
}
