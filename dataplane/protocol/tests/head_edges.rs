//! Runs in which two rules meet: a trim overtakes a flush, and a read waits for a buffer while its log
//! segment could go.

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// First block of the second leaf of the index: a recovery finds it empty.
const FRESH: usize = 3584;

static HOLD: AtomicBool = AtomicBool::new(false);
static STALE: AtomicBool = AtomicBool::new(false);

/// Holds column writes back, and notices repoints that name trimmed blocks.
fn watch(msg: &Msg, _: NodeId, _: NodeId) -> bool {
    if let Msg::Replicate { entries, .. } = msg {
        for entry in entries {
            if let Body::Repoint(repoint) = &entry.body
                && repoint.entries.iter().any(|one| one.lba.0 >= FRESH as u64)
            {
                STALE.store(true, Ordering::Relaxed);
            }
        }
    }
    HOLD.load(Ordering::Relaxed) && matches!(msg, Msg::ColumnWrite { .. })
}

#[test]
fn a_trim_that_overtakes_a_flush_holds_after_the_log_record_of_the_write_is_gone_p_07() {
    let mut rack = Rack::new(Shape::new(700));
    rack.serve();
    // What comes before lies in extents and under a checkpoint, so that the log's tail can move.
    rack.workload(100, 200, 8);
    rack.flush_all();
    rack.restart(0);
    rack.serve();
    rack.flush_all();
    rack.run_for(Duration::from_secs(3));
    for at in 0..2 {
        rack.nodes[at].disk.no_flush = true;
    }
    let mut tags: Vec<u64> = (0..16).map(|at| rack.write((FRESH + at) * 8, 8)).collect();
    tags.extend((0..16).map(|at| rack.write(at * 128, 128)));
    rack.wait_all(&tags);
    rack.drop_msg = Some(watch);
    HOLD.store(true, Ordering::Relaxed);
    let flush = rack.start_flush();
    rack.run_for(Duration::from_millis(200));
    let trim = rack.trim(FRESH * 8, 128);
    rack.wait_all(&[trim]);
    HOLD.store(false, Ordering::Relaxed);
    assert!(rack.wait(flush).is_ok());
    assert!(!STALE.load(Ordering::Relaxed), "a repoint names a block as it was before a trim");
    rack.run_for(Duration::from_millis(300));
    rack.restart(0);
    rack.serve();
    rack.read(FRESH * 8, 128);
    rack.verify();
}

#[test]
fn a_read_that_waits_for_a_buffer_keeps_its_log_segment_p_28() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, log_segments: 20, secondary: false, ..Shape::new(710) });
    rack.serve();
    let turn = |rack: &mut Rack, from: usize| {
        for at in 0..16 {
            let tag = rack.write((from + at) * 8, 8);
            rack.wait_all(&[tag]);
        }
    };
    while rack.counters().checkpoints == 0 {
        turn(&mut rack, 100);
    }
    turn(&mut rack, 100);
    let tag = rack.write(0, 128);
    rack.wait_all(&[tag]);
    let held: Vec<_> = std::iter::from_fn(|| rack.pool.alloc(64 << 10)).collect();
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 64 << 10 });
    for _ in 0..16 {
        turn(&mut rack, 0);
        turn(&mut rack, 100);
    }
    assert!(!rack.done.contains_key(&read), "there was no buffer for it");
    drop(held);
    assert!(rack.wait(read).is_ok());
    rack.verify();
}
