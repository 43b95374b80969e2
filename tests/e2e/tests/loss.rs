//! Sleds gone or rotten: two of six never hurt, three are an error and never wrong data.

use palisade_e2e::rack::{Shape, TestRack};
use palisade_e2e::setting;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const REGION: [&str; 2] = ["--region", "24m"];

/// A rack with verified contents that lie in columns only, stopped; and its state file.
fn flushed() -> (TestRack, String) {
    let mut rack = TestRack::up(&Shape::default());
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

fn away(path: &Path) -> std::path::PathBuf {
    path.with_extension("away")
}

#[test]
fn any_two_of_six_sleds_gone_and_all_reads_are_right() {
    let (mut rack, state) = flushed();
    let mut pairs: Vec<(usize, usize)> = (1..=6).flat_map(|a| (a + 1..=6).map(move |b| (a, b))).collect();
    let wanted = setting("PALISADE_E2E_PAIRS", 4).min(15) as usize;
    // Spread over the list, so that a few pairs still touch every sled.
    pairs = (0..wanted).map(|i| pairs[i * pairs.len() / wanted]).collect();
    for (a, b) in pairs {
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

#[test]
fn three_sleds_gone_are_an_error_and_never_wrong_data() {
    let (mut rack, state) = flushed();
    for sled in [1, 3, 5] {
        let file = rack.sled_file(sled);
        std::fs::rename(&file, away(&file)).expect("a device file");
    }
    rack.start(&[]);
    let found = read_back(&rack, &state);
    assert_eq!(found["wrong"], 0, "{found}");
    assert!(found["errors"].as_u64() > Some(0), "{found}");
}

/// Flips one bit in each of `count` places of a file, from `first` on.
fn flip(path: &Path, first: u64, count: u64, seed: u64) {
    let file = File::options().read(true).write(true).open(path).expect("a device file");
    let bytes = file.metadata().expect("a size").len();
    let mut x = seed | 1;
    for _ in 0..count {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = first + x % (bytes - first);
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
        flip(&rack.sled_file(sled), 0, 4_000, sled as u64);
    }
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
