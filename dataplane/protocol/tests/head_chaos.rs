//! Everything at once: writes, trims, flushes, collections, and crashes of any node, from seeds.

mod head_support;

use head_support::*;
use std::time::Duration;

fn chaos(seed: u64) -> Rack {
    let mut shape = Shape::new(seed);
    shape.hot_bytes = if seed.is_multiple_of(2) { 0 } else { 1 << 20 };
    shape.log_segments = 24;
    shape.blocks = 2048;
    shape.flush.fill_low = 10;
    shape.flush.fill_high = 40;
    if seed.is_multiple_of(3) {
        (shape.k, shape.m, shape.sleds) = (2, 1, 3);
    }
    let mut rack = Rack::new(shape);
    rack.serve();
    for _ in 0..6 {
        rack.workload(150, 600, 8);
        for quarter in 0..4 {
            let first = 8 * (700 + 300 * quarter + rack.rand(300) as usize);
            rack.write(first, 8);
        }
        for _ in 0..rack.rand(60) {
            rack.step();
        }
        match rack.rand(5) {
            0 => rack.restart(0),
            1 => rack.restart(1),
            2 => {
                rack.restart_heads();
            }
            3 => {
                let at = 2 + rack.rand(rack.shape.sleds as u64) as usize;
                rack.restart(at);
                continue;
            }
            _ => {
                for at in 0..rack.nodes.len() {
                    rack.crash(at);
                }
                for at in 0..rack.nodes.len() {
                    rack.start(at, false);
                }
            }
        }
        rack.serve();
    }
    rack.run_for(Duration::from_millis(300));
    rack.verify();
    rack
}

#[test]
fn acknowledged_writes_survive_everything() {
    for seed in 1000..1024 {
        chaos(seed);
    }
}

#[test]
fn more_seeds_when_asked() {
    let Ok(range) = std::env::var("CHAOS") else { return };
    let (from, to) = range.split_once("..").expect("CHAOS=from..to");
    let mut failed = Vec::new();
    for seed in from.parse().expect("a number")..to.parse().expect("a number") {
        if std::panic::catch_unwind(|| chaos(seed)).is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}
