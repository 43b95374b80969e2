//! Sleds gone or rotten: two of six never hurt, three are an error and never wrong data.

use palisade_e2e::rack::{Shape, TestRack, signal};
use palisade_e2e::setting;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);
/// Within this, a sled has told heads of all rot that scrub had found.
const TOLD: Duration = Duration::from_millis(7500);
const REGION: [&str; 2] = ["--region", "24m"];

/// A rack with verified contents that lie in columns only, stopped; and its state file.
fn flushed() -> (TestRack, String) {
    flushed_in(&Shape::default())
}

fn flushed_in(shape: &Shape) -> (TestRack, String) {
    let mut rack = TestRack::up(shape);
    let state = rack.path("state").display().to_string();
    let args =
        ["--read", "0", "--size", "64k", "--pattern", "sequential", "--requests", "384", "--state", &state];
    rack.perf("vol0", &[&args[..], &REGION].concat(), SOON).good();
    rack.cli(&["volume", "flush", "vol0", "--wait"]).good();
    assert!(rack.stop().success(), "{}", rack.log());
    (rack, state)
}

/// Reads everything back; the JSON of what was found.
fn read_back(rack: &TestRack, state: &str) -> Value {
    let args = ["--verify-only", "--size", "64k", "--state", state, "--json"];
    let ended = rack.perf("vol0", &[&args[..], &REGION].concat(), SOON);
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}\n{}{}", ended.out, ended.err))
}

#[track_caller]
fn all_right(found: &Value, blocks: u64) {
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert_eq!(found["compared_blocks"].as_u64(), Some(blocks), "{found}");
}

const BLOCKS: u64 = 24 << 20 >> 12;
/// Requests of one reading of everything.
const READS: u64 = 24 << 20 >> 16;

fn away(path: &Path) -> std::path::PathBuf {
    path.with_extension("away")
}

/// All pairs of six sleds, so ordered that the first three touch each sled once.
const PAIRS: [(usize, usize); 15] = [
    (1, 2),
    (3, 4),
    (5, 6),
    (1, 3),
    (2, 5),
    (4, 6),
    (1, 4),
    (2, 6),
    (3, 5),
    (1, 5),
    (2, 4),
    (3, 6),
    (1, 6),
    (2, 3),
    (4, 5),
];

/// The pairs to try: all by default, or as many as the environment says.
fn pairs() -> &'static [(usize, usize)] {
    &PAIRS[..setting("PALISADE_E2E_PAIRS", 15).min(15) as usize]
}

#[test]
fn any_two_of_six_sleds_gone_and_all_reads_are_right() {
    let (mut rack, state) = flushed();
    for &(a, b) in pairs() {
        let files = [rack.sled_file(a), rack.sled_file(b)];
        files.iter().for_each(|f| std::fs::rename(f, away(f)).expect("a device file"));
        rack.start(&[]);
        all_right(&read_back(&rack, &state), BLOCKS);
        rack.stop();
        files.iter().for_each(|f| {
            assert!(!f.exists(), "a missing device must never be made anew: {}", f.display());
            std::fs::rename(away(f), f).expect("put back");
        });
    }
}

/// True once `wanted` has been true for some time without a break.
fn steadily(time: Duration, wanted: impl Fn(&Value) -> bool) -> impl FnMut(&Value) -> bool {
    let mut since = None;
    move |status| {
        let good = wanted(status);
        since = since.filter(|_| good).or_else(|| good.then(Instant::now));
        since.is_some_and(|since| since.elapsed() >= time)
    }
}

/// Makes a sled's device fail while the rack runs, or ends that.
#[track_caller]
fn drill(rack: &TestRack, sled: usize, how: &str) {
    rack.cli(&["device", "drill", &format!("sled-{sled}/0"), how]).good();
}

/// Nothing is in a head's memory: the rack was started anew. Reads that come back as they should although two
/// devices fail were rebuilt, which the counters must show.
#[test]
fn any_two_of_six_sleds_fail_or_rot_under_a_running_rack_and_all_reads_are_right() {
    let (mut rack, state) = flushed_in(&Shape { drills: true, ..Shape::default() });
    rack.start(&[]);
    for how in ["error", "corrupt"] {
        for &(a, b) in pairs() {
            let (before, reads) = (rack.counter("degraded_reads"), rack.counter("reads"));
            [a, b].iter().for_each(|sled| drill(&rack, *sled, how));
            all_right(&read_back(&rack, &state), BLOCKS);
            [a, b].iter().for_each(|sled| drill(&rack, *sled, "clear"));
            // A picture that counts all of these reads knows of all the rot that they found.
            let good = |status: &Value| {
                let (volume, counters) = (&status["volumes"][0], &status["volumes"][0]["counters"]);
                counters["reads"].as_u64() >= Some(reads + READS)
                    && counters["degraded_reads"].as_u64() > Some(before)
                    && volume["degraded"] == false
            };
            rack.wait_for("reads were rebuilt, and what rotted is good again", SOON, good);
        }
    }
    for device in rack.status()["devices"].as_array().expect("devices") {
        let sled = device["name"].as_str().is_some_and(|name| name.starts_with("sled"));
        assert!(!sled || device["counters"]["drilled"].as_u64() > Some(0), "no drill reached {device}");
    }
    assert!(rack.counter("corrupt") > 0, "rot is counted");
}

/// A blank device in the place of one that was given up gets its columns from the others: from then on any two
/// may fail again. Until then the volume counts as degraded.
#[test]
fn a_device_replaced_in_a_running_rack_is_filled_and_two_others_may_be_gone_then() {
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let state = rack.path("state").display().to_string();
    let args =
        ["--read", "0", "--size", "64k", "--pattern", "sequential", "--requests", "384", "--state", &state];
    rack.perf("vol0", &[&args[..], &REGION].concat(), SOON).good();
    rack.cli(&["volume", "flush", "vol0", "--wait"]).good();
    let degraded = |is: bool| move |status: &Value| status["volumes"][0]["degraded"] == is;
    rack.wait_for("protection is whole", SOON, degraded(false));
    rack.cli(&["device", "replace", "sled-3/0"]).good();
    rack.wait_for("columns of a device that was given up are gone", SOON, degraded(true));
    std::fs::remove_file(rack.sled_file(3)).expect("a device file");
    signal(rack.node_pid("sled-3"), Signal::KILL);
    rack.wait_for("the new device holds columns, and protection is whole", SOON, |status| {
        let devices = status["devices"].as_array().into_iter().flatten();
        let mut filled = devices.filter(|device| device["name"] == "sled-3/0").map(|device| {
            device["state"] == "active" && device["free"].as_u64() < device["columns"].as_u64()
        });
        filled.next() == Some(true) && degraded(false)(status)
    });
    assert!(rack.stop().success(), "{}", rack.log());
    for sled in [1, 5] {
        let file = rack.sled_file(sled);
        std::fs::rename(&file, away(&file)).expect("a device file");
    }
    rack.start(&[]);
    all_right(&read_back(&rack, &state), BLOCKS);
    rack.wait_for("missing devices show", SOON, degraded(true));
}

#[test]
fn without_leave_in_the_rack_file_no_device_can_be_made_to_fail() {
    let rack = TestRack::up(&Shape::default());
    let refused = rack.cli(&["device", "drill", "sled-1/0", "error"]);
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("drills = true"), "{}", refused.err);
}

#[test]
fn three_sleds_gone_are_an_error_that_names_the_extent_and_never_wrong_data() {
    let (mut rack, state) = flushed();
    for sled in [1, 3, 5] {
        let file = rack.sled_file(sled);
        std::fs::rename(&file, away(&file)).expect("a device file");
    }
    rack.start(&[]);
    let found = read_back(&rack, &state);
    assert_eq!(found["wrong"], 0, "{found}");
    assert!(found["errors"].as_u64() > Some(0), "{found}");
    let number = |text: &str| {
        text.split("extent ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .is_some_and(|id| id.chars().any(|c| c.is_ascii_digit()))
    };
    let named = |event: &Value| {
        event["what"].as_str().is_some_and(|what| what.contains("fewer good columns") && number(what))
    };
    rack.wait_for("an event names the extent", SOON, |status| {
        status["events"].as_array().is_some_and(|events| events.iter().any(named))
    });
}

const BLOCK: u64 = 4096;
/// Where columns have begun on a device of 256 MiB; what lies before them has copies of its own.
const COLUMNS_AT: u64 = 4 << 20;

/// Blocks of a device file, from a byte on, that hold something.
fn written(path: &Path, from: u64) -> Vec<u64> {
    let file = File::open(path).expect("a device file");
    let mut block = [0; BLOCK as usize];
    let blocks = file.metadata().expect("a size").len() / BLOCK;
    let mut holds = |at: &u64| {
        file.read_exact_at(&mut block, at * BLOCK).expect("inside");
        block.iter().any(|&byte| byte != 0)
    };
    (from / BLOCK..blocks).filter(|at| holds(at)).collect()
}

/// Flips one bit in each of `count` places in these blocks of a file.
fn flip(path: &Path, blocks: &[u64], count: u64, seed: u64) {
    let file = File::options().read(true).write(true).open(path).expect("a device file");
    let mut x = seed | 1;
    for _ in 0..count {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = blocks[(x >> 16) as usize % blocks.len()] * BLOCK + x % BLOCK;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("inside");
        byte[0] ^= 1 << (x >> 32 & 7);
        file.write_all_at(&byte, at).expect("inside");
    }
}

#[test]
fn flipped_bits_in_two_sleds_are_never_passed_on() {
    let (mut rack, state) = flushed();
    for sled in [2, 5] {
        let file = rack.sled_file(sled);
        flip(&file, &written(&file, 0), 400, sled as u64);
    }
    rack.start(&[]);
    all_right(&read_back(&rack, &state), BLOCKS);
    assert!(rack.counter("corrupt") > 0, "rot is counted");
}

/// Scrub reads everything once after a start, parity too, and heads rewrite what it finds: afterwards another
/// two sleds may rot. A last look with scrub at every byte finds nothing.
#[test]
fn any_two_of_six_sleds_rot_and_are_made_good_by_scrub() {
    let shape = Shape { scrub: "64 MiB", ..Shape::default() };
    let (mut rack, state) = flushed_in(&shape);
    let scrubbed = |status: &Value| {
        let devices = status["devices"].as_array().expect("devices").iter();
        let mut sleds = devices.filter(|device| device["columns"].as_u64() > Some(0));
        sleds.all(|device| device["counters"]["scrub_passes"].as_u64() > Some(0))
    };
    for &(a, b) in pairs() {
        for sled in [a, b] {
            let file = rack.sled_file(sled);
            flip(&file, &written(&file, COLUMNS_AT), 100, sled as u64);
        }
        rack.start(&[]);
        let mended = |status: &Value| {
            let volume = &status["volumes"][0];
            scrubbed(status)
                && volume["counters"]["corrupt"].as_u64() > Some(0)
                && volume["degraded"] == false
        };
        let what = "scrub has been everywhere, and heads wrote the rest anew";
        rack.wait_for(what, SOON, steadily(TOLD, mended));
        all_right(&read_back(&rack, &state), BLOCKS);
        assert!(rack.stop().success(), "{}", rack.log());
    }
    rack.start(&[]);
    rack.wait_for("scrub has been everywhere", SOON, scrubbed);
    all_right(&read_back(&rack, &state), BLOCKS);
    assert_eq!(rack.counter("corrupt"), 0, "{}", rack.log());
}

/// Nothing was flushed, so that all data lies in the logs of the two heads; the rack is killed right after its
/// last answer, and of one head's log any part may rot, its end too (P-06).
fn a_log_rots(head: usize, seed: u64) -> (TestRack, String) {
    let mut rack = TestRack::up(&Shape { flush_ms: 120_000, ..Shape::default() });
    let state = rack.path("state").display().to_string();
    let args =
        ["--read", "0", "--size", "64k", "--pattern", "sequential", "--requests", "384", "--state", &state];
    rack.perf("vol0", &[&args[..], &REGION].concat(), SOON).good();
    rack.kill();
    let log = rack.log_file(head);
    let held = written(&log, 0);
    flip(&log, &held, 40, seed);
    // The records that were appended last.
    flip(&log, &held[held.len() * 15 / 16..], 20, seed);
    rack.start(&[]);
    all_right(&read_back(&rack, &state), BLOCKS);
    (rack, state)
}

#[test]
fn flipped_bits_in_a_log_are_mended_from_the_other_head() {
    let (mut rack, state) = a_log_rots(1, 9);
    rack.wait_for("rot is counted and mended", SOON, |status| {
        let counters = &status["volumes"][0]["counters"];
        counters["corrupt"].as_u64() > Some(0) && counters["repaired"].as_u64() > Some(0)
    });
    assert!(rack.stop().success(), "{}", rack.log());
    rack.start(&[]);
    all_right(&read_back(&rack, &state), BLOCKS);
    assert_eq!(rack.counter("corrupt"), 0, "nothing rotten is left\n{}", rack.log());
}

#[test]
fn flipped_bits_in_the_secondarys_log_leave_all_data_in_both() {
    let (mut rack, state) = a_log_rots(2, 10);
    // The primary's log rots next, so that all of it has to come from the one that was mended.
    rack.kill();
    let log = rack.log_file(1);
    flip(&log, &written(&log, 0), 40, 11);
    rack.start(&[]);
    all_right(&read_back(&rack, &state), BLOCKS);
}

#[test]
fn ten_times_overwritten_the_rack_still_takes_writes() {
    let rack = TestRack::up(&Shape { volume: "32 MiB", log: "64 MiB", sled: "64 MiB", ..Shape::default() });
    let bytes =
        || -> u64 { (1..=6).map(|sled| rack.sled_file(sled).metadata().expect("a device file").len()).sum() };
    let before = bytes();
    let args = ["--read", "5", "--size", "64k", "--verify", "--requests", "6000", "--seconds", "100"];
    rack.perf("vol0", &args, Duration::from_secs(200)).good();
    assert_eq!(bytes(), before, "device files do not grow");
}
