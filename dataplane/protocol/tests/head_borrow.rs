//! What reads of lost columns and the change from one extent to the next cost: pieces of a stripe share what they read,
//! runs of a unit are read together, and batches do not wait for those of the extent before (EF-06, EF-08, EF-22).

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;
use std::time::Duration;

/// Blocks of a stripe and of an extent.
const STRIPE: usize = 16;
const EXTENT: usize = 256;
/// Sectors of a block.
const SECTORS: usize = 8;

fn shape(seed: u64) -> Shape {
    let mut shape = Shape { hot_bytes: 0, scrub_gap: Duration::from_secs(3600), ..Shape::new(seed) };
    shape.flush.checkpoint_bytes = 0;
    shape
}

/// One full extent, in order.
fn filled(seed: u64) -> Rack {
    let mut rack = Rack::new(shape(seed));
    rack.serve();
    rack.write_in_order(EXTENT);
    rack
}

fn column_reads(rack: &Rack) -> usize {
    rack.sent.get("column_read").copied().unwrap_or(0) as usize
}

#[test]
fn ef06_a_stripe_of_which_a_data_column_is_lost_costs_as_many_column_reads_as_a_whole_one() {
    for sled in 0..6 {
        let mut rack = filled(900 + sled as u64);
        rack.crash(2 + sled);
        let failed =
            |rack: &mut Rack| rack.status().devices.iter().any(|known| known.health == DeviceHealth::Failed);
        for _ in 0..120 {
            if failed(&mut rack) {
                break;
            }
            (0..4).for_each(|at| rack.read(at * 64 * SECTORS, 64 * SECTORS));
            rack.run_for(Duration::from_millis(500));
        }
        assert!(failed(&mut rack), "the device counts as failed");
        let (reads, degraded) = (column_reads(&rack), rack.counters().degraded_reads);
        for stripe in 0..EXTENT / STRIPE {
            rack.read(stripe * STRIPE * SECTORS, STRIPE * SECTORS);
        }
        // Parity is rotated by extent: the sled of a parity column is not missed.
        let (reads, degraded) = (column_reads(&rack) - reads, rack.counters().degraded_reads - degraded);
        let all = EXTENT / STRIPE * 4;
        assert!(degraded == 0 || degraded >= 16, "sled {sled}: {degraded}");
        assert!((all..=all + 4).contains(&reads), "sled {sled}: {reads} reads, {degraded} rebuilt");
    }
}

/// The column that another piece counted on turns out to be rotten: both are rebuilt from what is left.
#[test]
fn ef06_a_piece_whose_lender_rots_reads_on_its_own() {
    let mut rebuilt = 0;
    for seed in 910..922 {
        let mut rack = filled(seed);
        let (dead, rotten) = (seed as usize % 6, (seed as usize / 2 + 1) % 6);
        if dead == rotten {
            continue;
        }
        rack.crash(2 + dead);
        rack.read(0, 64 * SECTORS);
        rack.read(0, 64 * SECTORS);
        rack.rot_blocks(2 + rotten, 64..EXTENT);
        for stripe in 0..EXTENT / STRIPE {
            rack.read(stripe * STRIPE * SECTORS, STRIPE * SECTORS);
        }
        rebuilt += rack.counters().degraded_reads;
        assert!(!rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })), "seed {seed}");
        rack.verify();
    }
    assert!(rebuilt > 100, "{rebuilt}");
}

/// One block of each unit is written anew: what is left of the unit is one request, and the blocks are the right ones.
#[test]
fn ef22_runs_of_a_unit_with_a_gap_between_them_are_read_at_once() {
    let mut rack = filled(930);
    for lba in (1..EXTENT).step_by(4) {
        let tag = rack.write(lba * SECTORS, SECTORS);
        rack.wait_all(&[tag]);
    }
    rack.run_for(Duration::from_secs(1));
    let (reads, collected) = (column_reads(&rack), rack.counters().collected_bytes);
    // A column that is marked rotten makes the whole extent be written anew.
    let hurt = (0..6).find(|sled| rack.rot_blocks(2 + sled, 0..16) > 0);
    assert!(hurt.is_some());
    rack.read(0, 16 * SECTORS);
    rack.run_until("the extent is rewritten", |rack| rack.counters().extents_released > 0);
    let collected = (rack.counters().collected_bytes - collected) as usize / BLOCK;
    let reads = column_reads(&rack) - reads;
    let units = EXTENT / 4;
    assert!(collected >= EXTENT / 4 * 3, "{collected} blocks");
    // With a request for each run it would be two for each unit, and more for those that are rebuilt.
    assert!(reads < units * 7 / 4, "{reads} reads of {units} units");
    rack.verify();
}

/// One block of each stripe is dead. Batches that took sixteen blocks each would share every old stripe between two of
/// them, and read most of it twice, since some of its columns are lost.
#[test]
fn ef22_a_rebuild_reads_stripes_with_a_few_dead_blocks_once() {
    let mut worst = 0;
    for hurt in 0..6 {
        let mut rack = filled(950);
        for lba in (5..EXTENT).step_by(STRIPE) {
            let tag = rack.write(lba * SECTORS, SECTORS);
            rack.wait_all(&[tag]);
        }
        rack.run_for(Duration::from_secs(1));
        if rack.rot_blocks(2 + hurt, 0..4) == 0 {
            continue;
        }
        let (reads, repoints) = (column_reads(&rack), rack.counters().repoints);
        rack.read(0, STRIPE * SECTORS);
        rack.run_for(Duration::from_millis(5));
        rack.read(0, STRIPE * SECTORS);
        rack.run_until("the extent is rewritten", |rack| rack.counters().extents_released > 0);
        assert!(rack.counters().repoints > repoints);
        worst = worst.max(column_reads(&rack) - reads);
        rack.verify();
    }
    // Each stripe once, and what the two reads took.
    let all = EXTENT / STRIPE * 4;
    assert!((all..all + 24).contains(&worst), "{worst} reads of {all} units");
}

/// No batch of the first extent has ended, and columns of the next one are there.
#[test]
fn ef08_the_next_extent_is_made_while_batches_fill_the_last_stripes_of_the_one_before() {
    for (seed, dies) in [(940, false), (941, true), (942, true)] {
        let mut shape = shape(seed);
        (shape.flush.stripes, shape.flush.batches) = (4, 8);
        let mut rack = Rack::new(shape);
        rack.serve();
        for lba in (0..2 * EXTENT).step_by(STRIPE) {
            let tag = rack.write(lba * SECTORS, STRIPE * SECTORS);
            rack.wait_all(&[tag]);
        }
        rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnWritten { .. }));
        let flush = rack.start_flush();
        rack.run_for(Duration::from_millis(60));
        assert_eq!(rack.counters().repoints, 0, "no batch has ended");
        assert!(rack.sent["column_reserve"] >= 12, "{} columns asked for", rack.sent["column_reserve"]);
        assert!(rack.counters().extents_created >= 2);
        if dies {
            // Batches of both extents are given up, and their blocks gathered again.
            rack.crash(2 + seed as usize % 6);
        }
        rack.let_go();
        let result = rack.wait(flush);
        assert!(result.is_ok(), "{result:?}");
        rack.verify();
        rack.restart(0);
        rack.serve();
        rack.verify();
    }
}
