//! Checkpoints of the index on sleds: a replaced head is filled from them, and the giver sends what is newer (BA-01,
//! P-28, P-29, P-32, EF-15).

mod head_support;

use head_support::{BLOCK, Rack, Shape, VOLUME};
use palisade_protocol::head::Solo;
use palisade_protocol::wire::*;
use std::time::Duration;

/// Blocks of a granule.
const GRANULE: u64 = 128;
/// Columns of a checkpoint that fits one chapter.
const COPIES: u32 = 3;

/// A rack that writes a checkpoint after every `bytes` flushed bytes.
fn rack(seed: u64, bytes: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.flush.fill_low, shape.solo) = (5, Solo::Local);
    shape.flush.checkpoint_bytes = bytes;
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// Writes all blocks below `blocks`, 64 at a time, and flushes them.
fn fill(rack: &mut Rack, blocks: usize) {
    for first in (0..blocks).step_by(64) {
        let tag = rack.write(first * 8, 64 * 8);
        rack.wait_all(&[tag]);
    }
    rack.flush_all();
}

/// From now on no checkpoint is written.
fn no_more(rack: &mut Rack) {
    rack.drop_msg =
        Some(|msg, _, _| matches!(msg, Msg::ColumnReserve { position, .. } if position & 0x40 != 0));
}

/// The second head is gone, its log too, and the first one is alone.
fn lose_second(rack: &mut Rack) {
    rack.crash(1);
    rack.move_to(&[0]);
}

/// The second head comes with a blank log, is filled and takes over; then the first one is gone.
fn replace(rack: &mut Rack) {
    rack.replace_log(1);
    rack.fill(0, 1);
    rack.join(0, 1);
    rack.same_index();
}

fn serves(rack: &mut Rack) {
    rack.drop_msg = None;
    rack.same_index();
    rack.verify();
    rack.crash(0);
    rack.move_to(&[1]);
    rack.verify();
    rack.workload(30, 800, 8);
    rack.flush_all();
    rack.verify();
}

#[test]
fn ba01_a_replaced_head_is_filled_from_a_checkpoint_and_the_giver_sends_about_the_delta() {
    let mut rack = rack(1, 1, |_| {});
    fill(&mut rack, 3584);
    rack.checkpointed();
    no_more(&mut rack);
    lose_second(&mut rack);
    // Two granules change behind it, one of them in extents too.
    let tags: Vec<u64> = (0..10).map(|at| rack.write(at * 16, 8)).collect();
    rack.wait_all(&tags);
    rack.flush_all();
    let tags: Vec<u64> = (0..10).map(|at| rack.write((1024 + at) * 8, 8)).collect();
    rack.wait_all(&tags);
    let read = rack.sent("column_read");
    replace(&mut rack);
    let counters = rack.counters();
    assert!(counters.copied_blocks <= 2 * GRANULE, "{} blocks named", counters.copied_blocks);
    assert!(counters.spared_blocks >= 3584 - 2 * GRANULE, "{} blocks spared", counters.spared_blocks);
    assert_eq!(counters.copied_bytes, 10 * BLOCK as u64, "what lies in the log only");
    assert!(rack.sent("column_read") - read >= 6, "the pages came from the sleds");
    serves(&mut rack);
}

#[test]
fn ba01_without_a_checkpoint_the_giver_sends_everything() {
    let mut rack = rack(2, 0, |_| {});
    fill(&mut rack, 1024);
    rack.run_for(Duration::from_secs(2));
    assert!(rack.checkpoints().is_empty());
    lose_second(&mut rack);
    replace(&mut rack);
    let counters = rack.counters();
    assert_eq!((counters.copied_blocks, counters.spared_blocks), (1024, 0));
    serves(&mut rack);
}

#[test]
fn ba01_time_is_a_trigger_when_anything_was_flushed_and_only_then() {
    let mut rack = rack(3, 1 << 40, |shape| shape.flush.checkpoint_age = Duration::from_secs(1));
    rack.run_for(Duration::from_secs(3));
    assert!(rack.checkpoints().is_empty(), "nothing is mapped");
    fill(&mut rack, 512);
    rack.run_for(Duration::from_secs(3));
    let written = rack.counters().sled_checkpoints;
    assert!(written > 0);
    rack.run_for(Duration::from_secs(5));
    assert_eq!(rack.counters().sled_checkpoints, written, "nothing was flushed since");
    for _ in 0..3 {
        fill(&mut rack, 512);
    }
    rack.run_for(Duration::from_secs(3));
    assert!(rack.counters().sled_checkpoints > written);
    rack.no_column_lost(COPIES);
}

#[test]
fn p29_two_generations_are_kept_and_known_to_both_heads_and_after_restarts() {
    let mut rack = rack(4, 1, |_| {});
    for _ in 0..4 {
        fill(&mut rack, 512);
        rack.checkpointed();
    }
    let kept = rack.checkpoints();
    assert_eq!(kept.len(), 2);
    assert!(kept[0] > kept[1]);
    rack.same_index();
    rack.no_column_lost(COPIES);
    no_more(&mut rack);
    rack.restart_heads();
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[1, 0]);
    assert_eq!(rack.checkpoints(), kept);
    rack.same_index();
    // The other way round: what the new primary knows of them is enough to fill a head.
    rack.crash(0);
    rack.move_to(&[1]);
    rack.replace_log(0);
    rack.fill(1, 0);
    rack.join(1, 0);
    rack.same_index();
    assert!(rack.counters().spared_blocks >= 512 - 2 * GRANULE);
    assert_eq!(rack.head(0).status().partitions[0].checkpoints, kept, "the filled head knows them, too");
    rack.verify();
}

/// A head whose checkpoints have each one page with so many rotten copies; how many blocks the copy was spared.
fn rotten(seed: u64, newest: usize, older: usize) -> (Rack, u64) {
    let mut rack = rack(seed, 1, |_| {});
    fill(&mut rack, 2048);
    rack.checkpointed();
    fill(&mut rack, 1024);
    rack.checkpointed();
    no_more(&mut rack);
    lose_second(&mut rack);
    rack.workload(30, 600, 4);
    assert_eq!(rack.checkpoints().len(), 2);
    let generation = rack.counters().sled_checkpoints as u32;
    assert_eq!(rack.rot_pages(generation, 1, newest), newest);
    assert_eq!(rack.rot_pages(generation - 1, 2, older), older);
    replace(&mut rack);
    let spared = rack.counters().spared_blocks;
    (rack, spared)
}

#[test]
fn p29_one_good_copy_of_a_page_is_enough() {
    let (mut rack, spared) = rotten(10, 2, 0);
    assert!(spared >= 1024, "the newest one: {spared}");
    assert_eq!(not_whole(&rack), 0);
    serves(&mut rack);
}

/// Checkpoints that were found not to be whole.
fn not_whole(rack: &Rack) -> usize {
    let words = "is not whole, and is not used";
    rack.events.iter().filter(|event| matches!(event, Event::Note(note) if note.contains(words))).count()
}

#[test]
fn ba01_the_newest_one_corrupt_gives_the_same_index_by_the_one_before() {
    let (mut rack, spared) = rotten(11, 3, 0);
    assert_eq!(not_whole(&rack), 1);
    // The blocks above 1024 are as the one before has them.
    assert!((800..2048).contains(&spared), "{spared}");
    serves(&mut rack);
}

#[test]
fn ba01_both_corrupt_give_the_same_index_by_the_long_way() {
    let (mut rack, spared) = rotten(12, 3, 3);
    assert_eq!(spared, 0);
    assert_eq!(not_whole(&rack), 2);
    serves(&mut rack);
}

#[test]
fn ba01_any_m_sleds_may_be_lost_before_and_while_pages_are_read() {
    for (seed, at) in [(20, 0), (21, 300), (22, 900), (23, 2500)] {
        let mut rack = rack(seed, 1, |_| {});
        fill(&mut rack, 2048);
        rack.checkpointed();
        no_more(&mut rack);
        lose_second(&mut rack);
        rack.replace_log(1);
        rack.fill(0, 1);
        rack.run_for(Duration::from_micros(at));
        for sled in [2 + seed as usize % 6, 2 + (seed as usize + 1) % 6] {
            rack.crash(sled);
        }
        rack.join(0, 1);
        rack.same_index();
        let spared = rack.counters().spared_blocks;
        assert!(spared >= 2048 - 2 * GRANULE, "seed {seed}: {spared}");
        rack.verify();
    }
}

#[test]
fn ba01_with_every_sled_away_a_head_is_filled_by_the_long_way() {
    let mut rack = rack(25, 1, |_| {});
    fill(&mut rack, 2048);
    rack.checkpointed();
    no_more(&mut rack);
    lose_second(&mut rack);
    rack.replace_log(1);
    (2..8).for_each(|sled| rack.crash(sled));
    rack.fill(0, 1);
    rack.join(0, 1);
    rack.same_index();
    assert_eq!(rack.counters().spared_blocks, 0);
    (2..8).for_each(|sled| rack.start(sled, false));
    serves(&mut rack);
}

#[test]
fn p29_marks_in_log_are_resolved_by_the_giver() {
    for seed in 30..33 {
        let mut rack = rack(seed, 1, |shape| {
            (shape.flush.fill_low, shape.log_segments) = (90, 60);
        });
        no_more(&mut rack);
        fill(&mut rack, 1024);
        // These stay in the log, because nobody asks for a flush; the first checkpoint marks them.
        let tags: Vec<u64> = (8..48).map(|at| rack.write(at * 160, 24)).collect();
        rack.wait_all(&tags);
        rack.drop_msg = None;
        rack.run_until("a checkpoint with marks", |rack| !rack.checkpoints().is_empty());
        let log = rack.status().log_blocks;
        assert!(log >= 80, "{log}");
        // Some are overwritten, and are marked by another operation now.
        let tags: Vec<u64> = (8..28).map(|at| rack.write(at * 160, 16)).collect();
        rack.wait_all(&tags);
        no_more(&mut rack);
        lose_second(&mut rack);
        replace(&mut rack);
        assert!(rack.counters().copied_bytes > 0 && rack.counters().spared_blocks > 0);
        serves(&mut rack);
    }
}

/// The checkpoint itself is made while everything lies in the log: all of it are marks.
#[test]
fn p29_a_checkpoint_of_marks_only_gives_no_block_and_loses_none() {
    let mut rack = rack(35, 1, |shape| (shape.flush.fill_low, shape.log_segments) = (95, 60));
    no_more(&mut rack);
    let tags: Vec<u64> = (0..16).map(|at| rack.write(at * 512, 512)).collect();
    rack.wait_all(&tags);
    rack.drop_msg = None;
    rack.run_until("a checkpoint", |rack| !rack.checkpoints().is_empty());
    assert_eq!(rack.counters().flushes, 0);
    no_more(&mut rack);
    lose_second(&mut rack);
    replace(&mut rack);
    let counters = rack.counters();
    assert_eq!((counters.copied_blocks, counters.spared_blocks), (1024, 0));
    assert_eq!(counters.copied_bytes, 1024 * BLOCK as u64);
    serves(&mut rack);
}

#[test]
fn p07_trims_and_overwrites_behind_a_checkpoint_count() {
    for seed in 40..44 {
        let mut rack = rack(seed, 1, |_| {});
        fill(&mut rack, 1024);
        rack.checkpointed();
        no_more(&mut rack);
        let tags = [rack.trim(0, 40 * 8), rack.trim(300 * 8, 8), rack.trim(512 * 8, 256 * 8)];
        rack.wait_all(&tags);
        rack.workload(120, 400, 8);
        rack.flush_all();
        let tag = rack.write(520 * 8, 8);
        rack.wait_all(&[tag]);
        lose_second(&mut rack);
        rack.workload(20, 400, 8);
        replace(&mut rack);
        assert!(rack.counters().spared_blocks > 0);
        serves(&mut rack);
    }
}

#[test]
fn p28_extents_that_a_checkpoint_names_may_be_gone_and_their_columns_taken_again() {
    let mut rack = rack(50, 1, |shape| shape.columns = 16);
    fill(&mut rack, 2048);
    rack.checkpointed();
    no_more(&mut rack);
    let released = rack.counters().columns_released;
    // All but the last blocks are written anew, again and again.
    for _ in 0..6 {
        fill(&mut rack, 1536);
    }
    rack.run_until("columns are given back", |rack| rack.counters().columns_released > released + 24);
    fill(&mut rack, 1536);
    assert!(!rack.checkpoints().is_empty());
    lose_second(&mut rack);
    replace(&mut rack);
    let spared = rack.counters().spared_blocks;
    assert!(spared <= 512, "{spared}");
    serves(&mut rack);
}

#[test]
fn p28_a_primary_that_dies_at_any_step_of_a_checkpoint_leaves_no_column_behind() {
    let (mut named, mut lost) = (0, 0);
    for step in 0..24u64 {
        let mut rack = rack(60 + step, 4 << 20, |_| {});
        no_more(&mut rack);
        fill(&mut rack, 1024);
        rack.drop_msg = None;
        rack.run_until("a checkpoint begins", |rack| rack.counters().checkpoint_pages > 0);
        rack.run_for(Duration::from_micros(120 * step));
        rack.crash(0);
        no_more(&mut rack);
        rack.move_to(&[1]);
        let there = !rack.checkpoints().is_empty();
        (named, lost) = (named + u32::from(there), lost + u32::from(!there));
        rack.no_column_lost(COPIES);
        rack.verify();
        rack.replace_log(0);
        rack.fill(1, 0);
        rack.join(1, 0);
        rack.same_index();
        rack.verify();
    }
    assert!(named > 2 && lost > 2, "{named} were named, {lost} were not");
}

#[test]
fn ef15_a_superseded_primary_writes_no_page_and_names_no_checkpoint() {
    let mut rack = rack(90, 1, |_| {});
    // Its pages stay on their way.
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnWrite { extent, .. } if extent.0 >> 62 == 1));
    fill(&mut rack, 1024);
    rack.run_until("pages are sent", |rack| rack.counters().checkpoint_pages > 0);
    rack.run_for(Duration::from_millis(5));
    rack.nodes[0].cut = true;
    // The new primary writes none of its own.
    no_more(&mut rack);
    rack.move_to(&[1]);
    rack.nodes[0].cut = false;
    assert!(rack.let_go() > 0);
    rack.run_for(Duration::from_millis(50));
    assert!(rack.checkpoints().is_empty());
    assert_eq!(rack.head(0).status().partitions[0].checkpoints, []);
    rack.no_column_lost(COPIES);
    rack.verify();
}

#[test]
fn op18_a_deleted_volume_gives_back_the_columns_of_its_checkpoints() {
    for wait in [0, 200, 3000] {
        let mut rack = rack(100 + wait, 1, |_| {});
        fill(&mut rack, 1024);
        rack.checkpointed();
        fill(&mut rack, 512);
        rack.run_for(Duration::from_micros(wait));
        rack.delete();
        rack.run_until("the end of it", |rack| {
            rack.events.iter().any(|event| matches!(event, Event::Deleted { .. }))
        });
        for sled in 0..6 {
            let status = rack.sled(sled).status();
            assert_eq!(status.devices[0].free, status.devices[0].columns, "sled {sled}");
        }
    }
}

#[test]
fn ef23_checkpoints_leave_a_device_that_is_drained() {
    let mut moved = 0;
    for seed in 110..114 {
        let mut rack = rack(seed, 1, |shape| shape.sleds = 8);
        fill(&mut rack, 1024);
        rack.checkpointed();
        let before = rack.counters().sled_checkpoints;
        let mut devices = rack.partition().devices;
        let left = seed as usize % 8;
        devices[left].leave = true;
        for at in 0..2 {
            let (now, devices) = (rack.now, devices.clone());
            rack.head(at).set_devices(now, VOLUME, devices);
        }
        rack.run_until("the device is left", |rack| rack.status().devices[left].held == 0);
        moved += rack.counters().sled_checkpoints - before;
        assert!(!rack.checkpoints().is_empty());
        rack.verify();
    }
    assert!(moved > 0, "some had a copy there");
}

#[test]
fn ef22_checkpoints_are_written_anew_when_a_device_fails() {
    let mut rack = rack(115, 1, |shape| shape.sleds = 8);
    fill(&mut rack, 1024);
    rack.checkpointed();
    let dead = [2, 3, 4];
    // Any copies but one may be lost, so that the blocks of the volume are still there.
    rack.nodes[dead[0]].disk.dead = true;
    rack.nodes[dead[1]].disk.dead = true;
    rack.run_until("the devices are found out", |rack| {
        fill(rack, 64);
        rack.status().devices[..2].iter().all(|device| device.health == DeviceHealth::Failed)
    });
    // Two kept ones may have columns there; those that follow have not.
    (0..2).for_each(|_| rack.checkpointed());
    no_more(&mut rack);
    lose_second(&mut rack);
    // A third sled is gone, and there is a copy left.
    rack.crash(dead[2]);
    replace(&mut rack);
    assert!(rack.counters().spared_blocks > 0);
}

#[test]
fn p32_checkpoints_give_way_where_extents_find_no_columns() {
    let mut rack = rack(120, 1, |shape| (shape.columns, shape.blocks) = (9, 8192));
    fill(&mut rack, 512);
    rack.checkpointed();
    // Every extent holds 256 blocks; nine columns a device, one of them the collector's.
    let mut first = 512;
    while !rack.checkpoints().is_empty() {
        let tag = rack.write(first * 8, 512);
        rack.wait_all(&[tag]);
        rack.start_flush();
        rack.run_for(Duration::from_millis(20));
        first += 64;
        assert!(first < 8192, "{:?}", rack.status());
    }
    let held = rack.status().extents;
    rack.run_until("room of theirs is used", |rack| rack.status().extents > held);
    rack.verify();
}

#[test]
fn ba01_lost_words_about_a_checkpoint_delay_a_copy_and_do_not_hurt_it() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for seed in 130..134 {
        let mut rack = rack(seed, 1, |_| {});
        fill(&mut rack, 2048);
        rack.checkpointed();
        lose_second(&mut rack);
        rack.drop_msg = Some(|msg, _, _| match msg {
            Msg::CopyAsk { .. } | Msg::CopyHas { .. } | Msg::ColumnData { .. } => {
                let mixed = SEEN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                !(mixed >> 40).is_multiple_of(2)
            }
            Msg::ColumnReserve { position, .. } => position & 0x40 != 0,
            _ => false,
        });
        rack.replace_log(1);
        rack.fill(0, 1);
        rack.join(0, 1);
        rack.drop_msg = None;
        no_more(&mut rack);
        assert!(rack.counters().spared_blocks > 0, "seed {seed}");
        serves(&mut rack);
    }
}

#[test]
fn ba01_under_load_with_checkpoints_all_the_time_every_copy_is_right() {
    let mut spared = 0;
    for seed in 140..152 {
        let mut rack = rack(seed, 1, |shape| {
            shape.blocks = 2048;
            shape.flush.collect_below = 80;
        });
        fill(&mut rack, 2048);
        rack.workload(200, 1000, 8);
        rack.flush_all();
        rack.workload(100, 1000, 8);
        lose_second(&mut rack);
        rack.workload(40, 1000, 8);
        rack.replace_log(1);
        rack.fill(0, 1);
        let mut rounds = 0;
        while rack.joining(0, 1).is_none() {
            rack.workload(10, 1000, 8);
            if rounds % 3 == 0 {
                rack.start_flush();
            }
            rounds += 1;
            assert!(rounds < 600, "seed {seed}: {:?}", rack.status().fill);
        }
        rack.join(0, 1);
        spared += rack.counters().spared_blocks;
        rack.same_index();
        rack.verify();
        rack.crash(0);
        rack.move_to(&[1]);
        rack.verify();
        rack.no_column_lost(COPIES);
    }
    assert!(spared > 0, "some of them helped");
}

/// Whether a head that is filled from a checkpoint, behind which some blocks were moved, ends with the giver's index.
fn ends_alike(change: impl Fn(&mut Shape)) -> bool {
    let run = || {
        let mut rack = rack(160, 1, |shape| {
            // What is overwritten stays where it was, beside blocks that live.
            shape.flush.collect_below = 5;
            change(shape);
        });
        fill(&mut rack, 1024);
        rack.checkpointed();
        no_more(&mut rack);
        let tags: Vec<u64> = (2..30).map(|at| rack.write(at * 256, 8)).collect();
        rack.wait_all(&tags);
        rack.flush_all();
        lose_second(&mut rack);
        replace(&mut rack);
        rack.crash(0);
        rack.move_to(&[1]);
        rack.verify();
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_ok()
}

#[test]
fn p29_an_old_checkpoint_that_is_trusted_is_seen() {
    assert!(ends_alike(|_| {}));
    assert!(!ends_alike(|shape| shape.faults.basis_trusted = true));
}

/// The authority's word of a group without it reaches a head while it reads pages.
#[test]
fn ba01_a_head_that_hears_that_it_is_out_while_it_reads_pages_is_filled_all_the_same() {
    for seed in 170..174 {
        let mut rack = rack(seed, 1, |_| {});
        fill(&mut rack, 1024);
        rack.checkpointed();
        no_more(&mut rack);
        lose_second(&mut rack);
        rack.replace_log(1);
        rack.fill(0, 1);
        rack.hold_msg = Some(|msg, _, to| to == NodeId(2) && matches!(msg, Msg::ColumnData { .. }));
        rack.run_for(Duration::from_millis(10));
        rack.tell(1);
        rack.run_for(Duration::from_millis(10));
        rack.let_go();
        rack.join(0, 1);
        assert!(rack.counters().spared_blocks > 0);
        serves(&mut rack);
    }
}
