//! What a rack costs when nobody asks it for anything.

use palisade_e2e::rack::{Shape, TestRack};
use std::time::Duration;

/// Processor time that a process has used, in clock ticks (hundredths of a second).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the rack runs");
    let after = stat.rsplit(')').next().expect("fields after the name");
    let fields: Vec<u64> = after.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    assert_eq!(fields.len(), 2, "user and system time: {stat}");
    fields.iter().sum()
}

#[test]
fn an_idle_rack_uses_at_most_two_percent_of_a_core() {
    let rack = TestRack::up(&Shape::default());
    rack.perf("vol0", &["--read", "50", "--seconds", "1", "--region", "16m"], Duration::from_secs(120))
        .good();
    // What the load left to do in the background takes as long as the host's other work lets it.
    let used: Vec<u64> = std::iter::repeat_with(|| {
        let before = ticks(rack.pid());
        std::thread::sleep(Duration::from_secs(10));
        ticks(rack.pid()) - before
    })
    .take(12)
    .take_while(|used| *used > 20)
    .collect();
    assert!(used.len() < 12, "hundredths of a second in ten seconds, again and again: {used:?}");
}
