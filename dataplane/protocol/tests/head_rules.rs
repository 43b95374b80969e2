//! Rules of the head that need no broken counterpart to be seen: who may replicate, every geometry, and
//! what is told of slow commands.

mod head_support;

use head_support::*;
use palisade_protocol::head::{STAGES, Stage};
use palisade_protocol::wire::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Replication of block 0 by `from` to the secondary under `stamp`; what the secondary sent.
fn replicate(rack: &mut Rack, stamp: Stamp, op: Op) -> Vec<Msg> {
    let data = rack.bytes(999, 0, 8);
    let crcs = [palisade_isal::crc32c(&data)].into_iter().collect();
    let body = Body::Write { lba: Lba(0), crcs, data };
    let entry = Entry { partition: VOLUME, number: stamp.number, op, body };
    let entries = std::iter::once(entry).collect();
    let (now, from, boot) = (rack.now, rack.nodes[0].id, rack.nodes[0].boot);
    let mut out = Out::default();
    rack.head(1).handle_msg(now, from, boot, Msg::Replicate { stamp, committed: op, entries }, &mut out);
    rack.head(1).turn(now, &mut out);
    assert!(out.block.is_empty(), "nothing is logged");
    out.net.into_iter().map(|(_, msg)| msg).collect()
}

#[test]
fn op08_replication_under_a_lower_number_is_refused_and_changes_nothing() {
    let mut rack = Rack::new(Shape::new(600));
    rack.serve();
    let old = rack.assigned.clone().expect("assigned").stamp;
    let tag = rack.write(0, 8);
    rack.wait_all(&[tag]);
    rack.restart(0);
    rack.serve();
    let held = rack.assigned.clone().expect("assigned").stamp;
    assert!(held.number > old.number);
    rack.run_for(Duration::from_millis(500));
    let sent = replicate(&mut rack, old, Op(50));
    assert!(
        sent.iter().any(
            |msg| matches!(msg, Msg::Refused { refused, held: told } if *refused == old && *told == held)
        ),
        "{sent:?}"
    );
    // The number held, but from a boot that it was not granted to (P-01).
    rack.nodes[0].boot = BootId(1);
    let sent = replicate(&mut rack, held, Op(50));
    assert!(!sent.iter().any(|msg| matches!(msg, Msg::Replicated { durable, .. } if *durable >= Op(50))));
}

#[test]
fn ef11_every_geometry_survives_the_loss_of_m_sleds() {
    for (k, m) in [(2, 1), (4, 2), (8, 3)] {
        let shape = Shape { k, m, sleds: usize::from(k + m), hot_bytes: 0, ..Shape::new(601) };
        let mut rack = Rack::new(shape);
        rack.serve();
        rack.workload(200, 512, 8);
        rack.flush_all();
        let all = rack.status().extents;
        assert!(all > 0 && rack.status().degraded == 0, "{k}+{m}");
        for at in 0..usize::from(m) {
            rack.nodes[2 + 2 * at].disk.dead = true;
        }
        for first in (0..4096).step_by(512) {
            rack.read(first, 512);
        }
        assert!(rack.counters().degraded_reads > 0, "{k}+{m}");
    }
}

#[test]
fn a_slow_command_is_told_with_its_stages_and_a_quick_one_is_not() {
    let mut rack = Rack::new(Shape::new(602));
    rack.serve();
    let tag = rack.write(0, 8);
    rack.wait_all(&[tag]);
    assert_eq!(rack.counters().slow, 0);
    rack.nodes[1].cut = true;
    let tag = rack.write(16, 8);
    rack.run_for(Duration::from_millis(300));
    rack.nodes[1].cut = false;
    rack.wait_all(&[tag]);
    assert_eq!(rack.counters().slow, 1);
    let told = rack.events.iter().find_map(|event| match event {
        Event::SlowIo { what: "write", offset: 8192, stages, .. } => Some(*stages),
        _ => None,
    });
    let [numbered, log, replica, answered] = told.expect("told");
    assert!(log < 50_000_000 && replica >= 300_000_000, "the secondary was slow: {told:?}");
    assert!(numbered <= log && replica <= answered, "{told:?}");
}

#[test]
fn every_stage_of_an_io_is_measured() {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    let stopwatch = || Time(TICKS.fetch_add(1000, Ordering::Relaxed));
    let mut rack = Rack::new(Shape { hot_bytes: 0, stopwatch: Some(stopwatch), ..Shape::new(605) });
    rack.serve();
    rack.workload(100, 256, 8);
    rack.flush_all();
    rack.verify();
    let stats = rack.status().stats;
    for stage in STAGES {
        assert!(!stats.histogram(stage).is_empty(), "nothing measured of {}", stage.name());
    }
    let encode = stats.histogram(Stage::Encode).max();
    assert!((990..=1010).contains(&encode), "from one look at the watch to the next: {encode}");
}

/// Writes until there is no room; what was written so far, in sectors, and the least of free columns.
fn fill(rack: &mut Rack) -> (usize, u32) {
    rack.serve();
    let mut next = 0;
    let refused = loop {
        assert!(next < 8192 * 8, "the volume is larger than the sleds and the log together");
        let tag = rack.write(next, 128);
        match rack.wait(tag) {
            Ok(_) => next += 128,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, ClientError::NoSpace);
    let free = (0..6).map(|at| rack.sled(at).status().devices[0].free).min();
    (next, free.expect("six sleds"))
}

fn tight(seed: u64) -> Shape {
    Shape { blocks: 8192, columns: 6, log_segments: 20, ..Shape::new(seed) }
}

#[test]
fn p32_clients_hear_no_space_before_the_reserve_is_touched_and_dead_extents_make_room() {
    let mut rack = Rack::new(tight(603));
    let (next, free) = fill(&mut rack);
    assert!(free >= 1, "the collector's columns are free");
    for first in (0..next).step_by(512) {
        rack.read(first, 512.min(next - first));
    }
    let tag = rack.trim(0, next / 2);
    rack.wait_all(&[tag]);
    rack.run_until("released columns", |rack| rack.counters().columns_released >= 6);
    // The first columns that come back may go to the collector, which makes more; room for clients follows.
    let room = (0..200).any(|_| {
        let tag = rack.write(0, 128);
        rack.wait(tag).is_ok()
    });
    assert!(room, "released columns make room for writes");
    rack.verify();
}

#[test]
fn p32_data_that_takes_the_reserve_is_noticed() {
    let mut shape = tight(603);
    shape.faults.spend_reserve = true;
    let (_, free) = fill(&mut Rack::new(shape));
    assert_eq!(free, 0, "nothing is left for the collector");
}
