//! Pending operations that are logged again, so that their segments can go (P-31): whatever step a crash meets,
//! what was durable is held, and nothing passes for committed that was not.

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

/// One step of a head of which one partition waits for its secondary.
fn live_on(rig: &mut Rig) -> (u64, u64) {
    let mut done = (0, 0);
    match rig.rng.below(100) {
        0..=19 if rig.waiting.len() < 40 => {
            let blocks = 1 + rig.rng.below(6);
            let lba = rig.rng.below(rig.blocks - blocks);
            let _ = rig.write(lba, blocks);
        }
        20..=24 if rig.waiting.len() < 40 => {
            let lba = rig.rng.below(rig.blocks - 64);
            let _ = rig.push(Body::Clear { lba: Lba(lba), count: 9 });
        }
        25..=29 if rig.waiting.len() < 40 => rig.flush(),
        30..=54 => {
            let (count, blocks) = (1 + rig.rng.below(4), 1 + rig.rng.below(60));
            rig.write_other(count, blocks);
        }
        55..=84 => done.0 += rig.move_pending(70) as u64,
        85..=89 => rig.copy_forward(),
        90..=93 if !rig.log.checkpointing() => rig.begin_checkpoint(),
        94 => rig.away ^= true,
        _ => {}
    }
    let before = rig.waiting.len();
    let completions = rig.rng.below(5) as usize;
    rig.turn(completions);
    let released = rig.release_both();
    done.1 += u64::from(released) * u64::from(before > 0);
    done
}

#[test]
fn random_lives_with_moves_and_crashes_keep_what_waits_and_commit_nothing_else_p_31() {
    let (mut moved, mut released, mut crashes) = (0, 0, 0);
    for seed in 1..=24 {
        let mut rig = Rig::new(seed, config(12 << 20));
        rig.adopt();
        rig.settle();
        rig.away = seed % 3 != 0;
        rig.lag = seed % 2 == 0;
        for _ in 0..2500 {
            let (m, r) = live_on(&mut rig);
            (moved, released) = (moved + m, released + r);
            if rig.rng.chance(1) {
                rig.crash();
                crashes += 1;
            }
        }
        rig.away = false;
        rig.crash();
        rig.settle();
        rig.check();
    }
    assert!(moved > 2000 && released > 1000 && crashes > 300, "{moved} {released} {crashes}");
}

/// A rig of which some operations wait in the oldest segment: `first` of them committed before.
fn waiting(seed: u64, first: u64, count: u64) -> Rig {
    let mut rig = Rig::new(seed, config(12 << 20));
    rig.adopt();
    for at in 0..first {
        rig.write(at * 3, 2).expect("room");
    }
    rig.settle();
    rig.away = true;
    for at in 0..count {
        rig.write(1000 + at * 3, 1 + at % 3).expect("room");
    }
    rig.turn(100);
    rig
}

/// Begins a checkpoint, unless one is being written.
fn cover(rig: &mut Rig) {
    if !rig.log.checkpointing() {
        rig.begin_checkpoint();
    }
}

/// The other partition writes some segments full.
fn go_on(rig: &mut Rig, rounds: u64) {
    for _ in 0..rounds {
        rig.write_other(1, 60);
        rig.turn(100);
    }
}

#[test]
fn a_crash_at_any_step_of_a_move_keeps_what_waits_p_31() {
    for stop in 0..60 {
        let mut rig = waiting(31, 3, 6);
        go_on(&mut rig, 4);
        let mut left = stop;
        for round in 0..30 {
            if rig.moves.is_empty() {
                rig.move_pending(if round < 2 { 50 } else { 100 });
            }
            let n = usize::from(left > 0);
            left -= n;
            rig.turn(n);
            if left == 0 {
                break;
            }
            rig.copy_forward();
            if round % 3 == 0 {
                cover(&mut rig);
            }
            rig.write_other(1, 60);
            rig.release_both();
        }
        rig.crash();
        assert_eq!(rig.waiting.len() as u64 + rig.committed.0, 9, "stopped at {stop}");
        // They are moved again, from where this life found them.
        go_on(&mut rig, 2);
        for _ in 0..20 {
            rig.move_pending(100);
            rig.turn(100);
            rig.release_both();
        }
        rig.crash();
        rig.away = false;
        rig.settle();
        rig.check();
        assert_eq!(rig.committed, Op(9));
    }
}

/// Moves all that waits in the oldest segments until `released` of them are gone.
fn pass(rig: &mut Rig, released: u32) {
    let mut gone = 0;
    for _ in 0..400 {
        if gone >= released {
            return;
        }
        go_on(rig, 1);
        rig.move_pending(100);
        rig.copy_forward();
        cover(rig);
        rig.turn(100);
        gone += rig.release_both();
    }
    panic!("{gone} segments went, {released} were to go");
}

#[test]
fn operations_moved_around_the_log_and_then_cut_are_void_and_those_before_are_not_committed_p_01_p_31() {
    for keep in 3..=9 {
        let mut rig = waiting(32, 3, 6);
        // More than the log has segments: each was moved several times.
        pass(&mut rig, 40);
        assert_eq!((rig.committed, rig.waiting.len()), (Op(3), 6));
        // A new primary's tail is `keep`: the rest is void, its numbers are used again.
        rig.op = Op(keep);
        rig.adopt();
        for (op, placed) in rig.waiting.split_off(keep as usize - 3) {
            let blocks = rig.history.remove(&op).map(|body| match body {
                Body::Write { crcs, .. } => crcs.len() as u32,
                _ => 0,
            });
            rig.log.dead(placed.addr, blocks.expect("known"));
        }
        rig.turn(100);
        rig.crash();
        assert_eq!((rig.committed, rig.op), (Op(3), Op(keep)), "cut at {keep}");
        rig.write(500, 2).expect("room");
        pass(&mut rig, 20);
        rig.crash();
        assert_eq!((rig.committed, rig.op), (Op(3), Op(keep + 1)), "cut at {keep}");
        rig.away = false;
        rig.settle();
        rig.check();
    }
}

#[test]
fn what_was_committed_after_a_move_and_is_gone_counts_as_committed_p_31() {
    let mut rig = waiting(33, 0, 6);
    cover(&mut rig);
    go_on(&mut rig, 6);
    // Half of them are moved to one segment, half to a later one; no record says that any is committed.
    let rest = rig.waiting.split_off(3);
    assert_eq!(rig.move_pending(100), 3);
    rig.turn(100);
    let first = rig.waiting[2].1.lsn;
    go_on(&mut rig, 6);
    rig.waiting.extend(rest);
    assert_eq!(rig.move_pending(100), 3);
    go_on(&mut rig, 6);
    for _ in 0..20 {
        rig.move_pending(0);
        rig.release_both();
    }
    assert!(rig.log.tail_last().is_some_and(|last| last >= first), "the first half holds the log");
    // The first half is committed, and flushed, as far as the log knows.
    for (op, placed) in rig.waiting.drain(..3) {
        let Body::Write { crcs, .. } = &rig.history[&op] else { panic!("a write") };
        rig.log.dead(placed.addr, crcs.len() as u32);
        (rig.committed, rig.acked) = (op, op);
    }
    assert!(rig.release_both() > 0);
    go_on(&mut rig, 4);
    let (_, partitions, ..) = recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    let found = partitions.iter().find(|found| found.partition == P).expect("there");
    assert_eq!((found.committed, found.tail, found.damaged), (Op(3), Op(6), false));
}

#[test]
fn moves_that_rotted_after_their_old_segment_went_end_the_partition_before_them_p_06_p_31() {
    for later in [false, true] {
        let mut rig = waiting(34, 3, 6);
        go_on(&mut rig, 12);
        rig.move_pending(100);
        rig.turn(100);
        let places: Vec<Placed> = rig.waiting.iter().map(|(_, placed)| *placed).collect();
        assert!(places.iter().all(|placed| placed.lsn == places[0].lsn), "one record holds them all");
        // An operation that is not moved stands behind them, and one whose record tells more.
        if later {
            rig.write(1900, 1).expect("room");
            rig.turn(100);
            rig.write(1901, 1).expect("room");
            rig.turn(100);
        }
        for _ in 0..40 {
            rig.copy_forward();
            cover(&mut rig);
            go_on(&mut rig, 1);
            rig.move_pending(0);
            if rig.release_both() > 0 {
                break;
            }
        }
        go_on(&mut rig, 9);
        // Both headers of the record that holds the moved ones.
        let first = places[0].addr.0 - 1;
        let blocks: u64 = (0..6).map(|at| 1 + at % 3).sum();
        for block in [first, first + 1 + blocks] {
            rig.mem.bytes[block as usize * BLOCK + 9] ^= 4;
        }
        let (log, partitions, report, _) =
            recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
        let found = partitions.iter().find(|found| found.partition == P).expect("there");
        assert!(report.lost > 0, "{report:?}");
        assert_eq!((found.committed, found.tail), (Op(3), Op(3)), "nothing else is known to be committed");
        assert!(found.short && !found.damaged, "the peer can fill it");
        // Until that is settled the log keeps what shows the loss; then the rest of it is void.
        rig.log = log;
        rig.waiting.clear();
        (rig.op, rig.adopted) = (Op(3), found.adopted.clone());
        partitions.iter().filter(|found| found.partition != P).for_each(|other| rig.forget_other(other));
        let indexes = partitions.into_iter().filter(|found| found.partition == P);
        rig.indexes = indexes.map(|found| (P, found.index)).collect();
        for _ in 0..10 {
            cover(&mut rig);
            go_on(&mut rig, 1);
            rig.move_pending(100);
            rig.copy_forward();
            assert_eq!(rig.release_both(), 0, "the loss is not settled");
        }
        rig.adopt();
        for _ in 0..20 {
            pass(&mut rig, 1);
            rig.crash();
            assert_eq!((rig.committed, rig.op), (Op(3), Op(3)), "later ones: {later}");
        }
    }
}

#[test]
fn a_segment_waits_until_the_log_says_that_what_stands_in_it_is_void_p_01_p_31() {
    let mut rig = waiting(35, 3, 6);
    go_on(&mut rig, 12);
    // Dropped in memory, like operations that nobody has acknowledged and that rotted.
    for (op, placed) in rig.waiting.split_off(2) {
        let Some(Body::Write { crcs, .. }) = rig.history.remove(&op) else { panic!("a write") };
        rig.log.dead(placed.addr, crcs.len() as u32);
    }
    rig.op = Op(5);
    for _ in 0..20 {
        rig.move_pending(100);
        rig.copy_forward();
        cover(&mut rig);
        rig.turn(100);
        assert_eq!(rig.release_both(), 0, "the adoption is not logged");
    }
    rig.adopt();
    pass(&mut rig, 3);
    rig.crash();
    assert_eq!((rig.committed, rig.op, rig.waiting.len()), (Op(3), Op(5), 2));
}
