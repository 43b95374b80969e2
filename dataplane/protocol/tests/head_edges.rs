//! Runs in which two rules meet: a trim overtakes a flush, a read waits for a buffer while its log segment
//! could go, and a column is lost while there is no buffer to rebuild it in.

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

/// A block whose column lies on a sled that is cut off: reading it takes a rebuild.
fn degraded_block(rack: &mut Rack) -> usize {
    let found = (0..64).find(|block| {
        let before = rack.counters().degraded_reads;
        rack.read(block * 8, 8);
        rack.counters().degraded_reads > before
    });
    found.expect("two of six columns are away")
}

#[test]
fn a_rebuild_without_a_free_buffer_waits_for_one_and_the_read_does_not_fail_ef_06() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, unit_blocks: 1, stripes: 64, ..Shape::new(720) });
    rack.serve();
    let tags: Vec<u64> = (0..64).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    rack.flush_all();
    rack.nodes[2].cut = true;
    rack.nodes[3].cut = true;
    let block = degraded_block(&mut rack);
    rack.run_for(Duration::from_secs(1));
    let mut held: Vec<_> = std::iter::from_fn(|| rack.pool.alloc_client(BLOCK)).collect();
    // As many as the columns that are there take, and none to rebuild the other in.
    held.truncate(held.len() - usize::from(rack.shape.k));
    let (before, bytes) = (rack.counters().degraded_reads, BLOCK as u32);
    let read = rack.submit(ClientVerb::Read { offset: (block * BLOCK) as u64, len: bytes });
    rack.run_for(Duration::from_secs(2));
    assert!(!rack.done.contains_key(&read), "no buffer is no reason for an answer: {:?}", rack.done[&read]);
    assert!(rack.pool.alloc_client(BLOCK).is_none(), "the columns that are there have come");
    drop(held);
    let answer = rack.wait(read);
    rack.check(block * 8, answer);
    assert!(rack.counters().degraded_reads > before, "the block was rebuilt");
    rack.verify();
}
