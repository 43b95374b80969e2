//! The log under random work, crashes and restarts, against a model (EF-07, EF-10; P-06..P-09, P-29, P-31).

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

#[test]
fn random_lives_with_crashes_keep_everything_acknowledged() {
    let (mut torn, mut released, mut checkpoints) = (0, 0, 0);
    for seed in 1..=6 {
        let (t, r, c) = live(seed, 1500, Faults::default());
        torn += t;
        released += r;
        checkpoints += c;
    }
    assert!(torn > 2, "records tore: {torn}");
    assert!(released > 50, "segments were released: {released}");
    assert!(checkpoints > 10, "checkpoints were finished: {checkpoints}");
}

/// Crashes after every single completion of a fixed piece of work.
#[test]
fn a_crash_after_any_write_keeps_everything_acknowledged() {
    let mut stops = 0;
    for stop in (0..400).step_by(3) {
        let mut rig = Rig::new(77, config(12 << 20));
        rig.adopt();
        let mut left = stop;
        let mut turn = |rig: &mut Rig| {
            for _ in 0..3 {
                let n = left.min(1);
                left -= n;
                rig.turn(n);
            }
            left > 0
        };
        let mut work = || {
            for i in 0..60 {
                rig.write(i * 7 % 500, 1 + i % 4).expect("room");
                match i {
                    10 | 30 => rig.begin_checkpoint(),
                    20 | 40 | 50 => rig.flush(),
                    25 | 45 => drop(rig.push(Body::Clear { lba: Lba(i), count: 20 }).expect("room")),
                    55 => rig.copy_forward(),
                    _ => {}
                }
                if !turn(&mut rig) {
                    return true;
                }
                rig.release();
            }
            false
        };
        stops += u32::from(work());
        rig.crash();
        rig.settle();
        rig.crash();
    }
    assert!(stops > 30, "the work was cut at {stops} places");
}

#[test]
fn a_restart_opens_a_new_epoch_and_segment_and_old_records_do_not_revive() {
    let mut rig = Rig::new(3, config(12 << 20));
    rig.adopt();
    // Ten records in flight; the crash may keep any blocks of any of them.
    for round in 0..40 {
        for i in 0..10 {
            rig.write((round * 10 + i) % 2000, 2).expect("room");
            rig.log.end_turn(rig.now, &mut rig.out);
        }
        rig.mem.submit(&mut rig.out);
        rig.crash();
        rig.settle();
        rig.flush();
        rig.settle();
        rig.begin_checkpoint();
        rig.settle();
        rig.release();
    }
    rig.check();
}

#[test]
fn an_adoption_voids_pending_operations_above_its_tail() {
    let mut rig = Rig::new(5, config(12 << 20));
    rig.write(1, 1).expect("room");
    rig.settle();
    // Logged and durable, but never committed: the committed watermark stays at 1.
    let committed = rig.committed;
    for op in 2..=5 {
        let body = write_body(&rig.pool, Op(op), Lba(op), 1);
        let entry = Entry { partition: P, number: Number { epoch: 1, counter: 1 }, op: Op(op), body };
        rig.log.push(&entry, committed).expect("room");
    }
    let adopt = Adopt {
        partition: P,
        number: Number { epoch: 1, counter: 2 },
        grant: GrantId(2),
        members: Default::default(),
        tail: Op(3),
    };
    rig.log.push_adopt(&adopt, committed).expect("room");
    // The number is used again, for other data.
    let body = write_body(&rig.pool, Op(4), Lba(40), 1);
    let entry = Entry { partition: P, number: Number { epoch: 1, counter: 2 }, op: Op(4), body };
    rig.log.push(&entry, committed).expect("room");
    rig.turn(100);
    let (_, partitions, _, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    let found = &partitions[0];
    assert_eq!((found.committed, found.tail, found.damaged), (Op(1), Op(4), false));
    let lbas = found.pending.iter().map(|p| match &p.body {
        LoggedBody::Write { lba, .. } => (p.op.0, lba.0),
        other => panic!("a write, not {other:?}"),
    });
    let lbas: Vec<_> = lbas.collect();
    assert_eq!(lbas, [(2, 2), (3, 3), (4, 40)], "P-01: op 4 is the one logged after the adoption");
    assert_eq!(found.adopted.as_ref().expect("adopted").number.counter, 2);
}

#[test]
fn a_failed_append_fails_the_log_and_nothing_later_becomes_durable() {
    let mut rig = Rig::new(6, config(12 << 20));
    rig.write(1, 1).expect("room");
    rig.settle();
    let durable = rig.log.durable();
    rig.mem.fail_writes_from = Some(rig.mem.writes + 1);
    rig.write(2, 1).expect("room");
    rig.turn(10);
    assert!(rig.log.failed());
    assert_eq!(rig.log.durable(), durable);
    assert!(rig.out.events.iter().any(|e| matches!(e, Event::DeviceFailed { .. })));
    assert_eq!(rig.write(3, 1), Err(PushError::Full), "no room in a failed log");
    assert_eq!(rig.acked, Op(1));
}

#[test]
fn a_record_is_durable_only_when_all_before_it_are() {
    let mut rig = Rig::new(8, config(12 << 20));
    let mut lsns = Vec::new();
    for i in 0..5 {
        rig.write(i, 1).expect("room");
        lsns.push(rig.waiting.last().expect("staged").1.lsn);
        rig.log.end_turn(rig.now, &mut rig.out);
    }
    rig.mem.submit(&mut rig.out);
    // P-06: the newest finishes first.
    let before = rig.log.durable();
    for expected in [before, before, before, before, lsns[4]] {
        let last = rig.mem.queue.len() - 1;
        let done = rig.mem.finish(last);
        rig.log.handle_block(done, &mut rig.out);
        assert_eq!(rig.log.durable(), expected);
    }
}

#[test]
fn entries_of_one_turn_share_one_record_and_its_payload_is_not_copied() {
    let mut rig = Rig::new(9, config(12 << 20));
    let body = write_body(&rig.pool, Op(1), Lba(9), 2);
    let Body::Write { data, .. } = &body else { panic!("a write") };
    let at = data.as_ptr();
    rig.push(body).expect("room");
    rig.write(20, 1).expect("room");
    rig.log.end_turn(rig.now, &mut rig.out);
    assert_eq!(rig.out.block.len(), 1, "group commit");
    let BlockOp::Write { bufs, fua, .. } = &rig.out.block[0].op else { panic!("a write") };
    assert!(*fua, "P-09");
    assert!(bufs.iter().any(|buf| buf.as_ptr() == at), "the buffer itself is written");
    assert_eq!(
        rig.log.cached(rig.waiting[0].1.addr.plus(1), 1).expect("hot").as_ptr(),
        at.wrapping_add(4096)
    );
}

#[test]
fn recovery_makes_do_with_small_buffers_when_large_ones_are_out() {
    let mut rig = Rig::new(10, config(12 << 20));
    for i in 0..300 {
        rig.write(i * 3, 2).expect("room");
        rig.turn(20);
    }
    rig.settle();
    // One large buffer for the superblock, which then goes to somebody else; three small ones.
    let pool =
        palisade_dma::Pool::new(palisade_dma::PoolConfig { slots: [3, 1, 1], huge: false }).expect("maps");
    let mut recovery = Recovery::new(rig.config.clone(), pool.clone());
    let mut out = Out::default();
    recovery.start(&mut out);
    let mut taken = Vec::new();
    while recovery.state() == RecoveryState::Working {
        rig.mem.submit(&mut out);
        let done = rig.mem.finish(0);
        recovery.handle_block(done, &mut out);
        if taken.is_empty() {
            taken.extend(pool.alloc(256 << 10));
            taken.extend(pool.alloc(64 << 10));
        }
    }
    assert_eq!(recovery.state(), RecoveryState::Done);
    assert!(!taken.is_empty(), "the large buffer was gone");
    assert_eq!(recovery.finish().1[0].tail, rig.acked);
}

/// As above over fresh seeds: `LOG_SEEDS=100..200 cargo test --test log_recovery -- --ignored`.
#[test]
#[ignore = "takes as long as it is told to"]
fn more_random_lives() {
    let range = std::env::var("LOG_SEEDS").unwrap_or_else(|_| "100..120".into());
    let (from, to) = range.split_once("..").expect("a range, from..to");
    for seed in from.parse::<u64>().expect("a number")..to.parse().expect("a number") {
        let (torn, released, checkpoints) = live(seed, 1500, Faults::default());
        println!("seed {seed}: {torn} torn, {released} released, {checkpoints} checkpoints");
        assert!(released > 0);
    }
}

#[test]
fn what_a_recovery_takes_for_durable_outlives_the_power_p_09() {
    for seed in 1..40 {
        let mut rig = Rig::new(seed, config(12 << 20));
        rig.write(0, 1).expect("room");
        rig.settle();
        for at in 1..6 {
            rig.write(at, 1).expect("room");
            rig.log.end_turn(rig.now, &mut rig.out);
        }
        rig.mem.submit(&mut rig.out);
        rig.mem.die();
        let held = |rig: &mut Rig| {
            let (_, found, report, _) =
                recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
            assert_eq!(report.lost, 0);
            found[0].tail
        };
        assert_eq!(held(&mut rig), Op(6), "the first boot finds it, and says so");
        rig.mem.crash(&mut rig.rng);
        assert_eq!(held(&mut rig), Op(6), "seed {seed}: the second finds it too");
    }
}

#[test]
fn a_number_used_again_voids_what_followed_it_though_the_adoption_rotted_p_01() {
    let mut rig = Rig::new(9, config(12 << 20));
    rig.write(1, 1).expect("room");
    rig.settle();
    let committed = rig.committed;
    let push = |rig: &mut Rig, op: u64, number: u64, lba: u64| {
        let body = write_body(&rig.pool, Op(op), Lba(lba), 1);
        let number = Number { epoch: 1, counter: number };
        let placed =
            rig.log.push(&Entry { partition: P, number, op: Op(op), body }, committed).expect("room");
        rig.turn(100);
        placed
    };
    for op in 2..=5 {
        push(&mut rig, op, 1, op);
    }
    let members = Default::default();
    let number = Number { epoch: 1, counter: 2 };
    let adopt = Adopt { partition: P, number, grant: GrantId(2), members, tail: Op(2) };
    rig.log.push_adopt(&adopt, committed).expect("room");
    rig.turn(100);
    let next = push(&mut rig, 3, 2, 40).addr;
    // Both headers of the adoption's record lie right before the next record's header.
    for back in 2..=3 {
        rig.mem.bytes[(next.0 as usize - back) * BLOCK] ^= 0xff;
    }
    // Its watermark says that the record was durable.
    rig.now = Time(rig.now.0 + 1_000_000_000);
    rig.turn(100);
    rig.now = Time(rig.now.0 + 1_000_000_000);
    rig.turn(100);
    let (_, found, report, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert_eq!(report.lost, 1);
    assert_eq!(found[0].tail, Op(3), "operations 4 and 5 of the older number are void");
}
