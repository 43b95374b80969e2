//! Full logs, reserves, pins, deleted partitions, and restarts that only consume (P-08, P-28, P-31, P-32).

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// Writes until clients get no more room.
fn fill(rig: &mut Rig) -> u64 {
    let mut written = 0;
    loop {
        match rig.write(written * 64 % 1984, IO_BLOCKS_MAX as u64) {
            Ok(_) => written += 1,
            Err(PushError::Full) => return written,
            Err(error) => panic!("{error}"),
        }
        rig.settle();
    }
}

#[test]
fn a_full_log_refuses_clients_and_keeps_room_for_metadata_p_31() {
    let mut rig = Rig::new(1, config(12 << 20));
    rig.adopt();
    let written = fill(&mut rig);
    assert!(written > 5);
    assert!(!rig.log.room_for(IO_BLOCKS_MAX as u64, Room::User));
    assert!(rig.log.room_for(1, Room::Metadata) && rig.log.room_for(IO_BLOCKS_MAX as u64, Room::Copy));
    // Flush everything: the repoints find room, and a checkpoint lets the segments go.
    while rig.index().mapped() > 0 && rig.log.live_blocks() > 0 {
        rig.flush();
        rig.settle();
    }
    rig.begin_checkpoint();
    rig.settle();
    assert!(rig.release() > 5);
    assert!(rig.log.room_for(IO_BLOCKS_MAX as u64, Room::User));
    rig.check();
    rig.crash();
}

#[test]
fn without_the_reserve_a_full_log_has_no_room_for_repoints_p_31() {
    let mut rig = Rig::new(1, config(12 << 20));
    let faults = Faults { no_reserve: true, ..Faults::default() };
    rig = Rig::new(2, LogConfig { faults, ..rig.config });
    fill(&mut rig);
    let largest = limits::REPOINT_ENTRIES_MAX;
    let entry = RepointEntry { lba: Lba(0), op: Op(1), from: GatheredFrom::Log, block: 0, crc: 0 };
    let repoint = Repoint {
        extent: ExtentId(1),
        first_stripe: 0,
        stripes: 1,
        absent: 0,
        entries: vec![entry; largest],
    };
    let mut fits = 0;
    while rig.push(Body::Repoint(Box::new(repoint.clone()))).is_ok() && fits < 100 {
        fits += 1;
    }
    assert!(fits < 8, "user data ate the space that repoints need: {fits} fit");
}

#[test]
fn restarts_of_a_full_log_whose_sleds_are_away_never_shut_it() {
    let mut rig = Rig::new(3, config(12 << 20));
    rig.adopt();
    fill(&mut rig);
    let held = rig.acked;
    for restart in 0..60 {
        rig.crash();
        rig.settle();
        assert_eq!(rig.acked, held, "restart {restart}");
        if rig.log.checkpoint_wanted() {
            rig.begin_checkpoint();
            rig.settle();
        }
        // P-31: what blocks the tail is copied forward.
        while rig.log.free_blocks() < 4 * 128 {
            let before = rig.log.free_blocks();
            for _ in 0..64 {
                rig.copy_forward();
                rig.settle();
            }
            if rig.release() == 0 && rig.log.free_blocks() >= before {
                break;
            }
        }
    }
    rig.check();
    assert!(rig.log.room_for(0, Room::Metadata), "a flush could still begin");
}

#[test]
fn a_pinned_segment_stays_and_an_unpinned_one_goes_p_28() {
    let mut rig = Rig::new(4, config(12 << 20));
    rig.write(0, 64).expect("room");
    rig.settle();
    let Loc::Log(addr) = rig.index().get(Lba(0)).loc else { panic!("in the log") };
    let pin = rig.log.pin(addr);
    for i in 0..6 {
        rig.write(i % 2 * 64, 64).expect("room");
        rig.settle();
    }
    assert_eq!(rig.release(), 0, "a read is under way");
    assert_eq!(&rig.mem.bytes[addr.offset() as usize..][..BLOCK], &pattern(Op(1), Lba(0))[..]);
    rig.log.unpin(pin);
    assert!(rig.release() > 0);
}

#[test]
fn a_segment_with_operations_that_are_not_committed_stays() {
    let mut rig = Rig::new(5, config(12 << 20));
    for i in 0..6 {
        rig.write(i % 2 * 64, 64).expect("room");
        rig.settle();
    }
    assert_eq!(rig.log.try_release(&|_| Some(Op(0))), 0, "the secondary may still ask for them");
    assert!(rig.release() > 0);
}

#[test]
fn metadata_is_released_only_under_a_checkpoint_that_covers_it_p_08() {
    let mut rig = Rig::new(6, config(12 << 20));
    rig.push(Body::Clear { lba: Lba(7), count: 1 }).expect("room");
    for i in 0..8 {
        rig.write(i % 2 * 64, 64).expect("room");
        rig.settle();
    }
    assert_eq!(rig.release(), 0);
    assert!(rig.log.checkpoint_wanted());
    assert_eq!(rig.log.covers(P), Op(0));
    rig.begin_checkpoint();
    assert_eq!(rig.release(), 0, "not while it is being written");
    rig.settle();
    assert_eq!(rig.log.covers(P), rig.committed);
    assert!(rig.release() > 0);
}

#[test]
fn a_deleted_partition_frees_its_log_and_does_not_come_back() {
    let mut rig = Rig::new(7, config(12 << 20));
    rig.write(0, 64).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    rig.push(Body::Delete).expect("room");
    rig.settle();
    assert_eq!((rig.log.live_blocks(), rig.index().mapped()), (0, 0));
    let (_, partitions, _, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert!(matches!(partitions[0].pending[0].body, LoggedBody::Other(Body::Delete)));
    // The head drops it; the next checkpoint no longer knows it, and its segments go.
    rig.indexes = BTreeMap::new();
    rig.log.checkpoint_begin(Vec::new());
    while rig.log.checkpointing() {
        rig.log.checkpoint_step(&mut rig.indexes, &mut rig.out);
        rig.mem.submit(&mut rig.out);
        while !rig.mem.queue.is_empty() {
            let done = rig.mem.finish(0);
            rig.log.handle_block(done, &mut rig.out);
        }
    }
    let other = PartitionId(2);
    let mut index = Index::new(100);
    for op in 1..=9 {
        let body = write_body(&rig.pool, Op(op), Lba(0), 64);
        let entry = Entry { partition: other, number: Number::ZERO, op: Op(op), body };
        let placed = rig.log.push(&entry, Op(op - 1)).expect("room");
        rig.log.end_turn(Time::ZERO, &mut rig.out);
        rig.mem.submit(&mut rig.out);
        let done = rig.mem.finish(0);
        rig.log.handle_block(done, &mut rig.out);
        rig.log.apply(&mut index, Op(op), &entry.body, placed.addr);
    }
    let released = rig.log.try_release(&|partition| (partition == other).then_some(Op(9)));
    assert!(released > 0);
    let (_, partitions, _, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert!(partitions.iter().all(|p| p.partition == other || (p.deleted && p.index.mapped() == 0)));
}

#[test]
fn entries_beyond_the_limits_are_refused_and_change_nothing() {
    let mut rig = Rig::new(8, config(12 << 20));
    let free = rig.log.free_blocks();
    let data = palisade_dma::Buf::from_static(&[0; BLOCK]);
    let bad = [
        Body::Write { lba: Lba(0), crcs: vec![1, 2].into(), data: data.clone() },
        Body::Write { lba: Lba(u64::MAX), crcs: vec![1].into(), data },
        Body::Clear { lba: Lba(limits::PARTITION_BLOCKS_MAX), count: 1 },
    ];
    for body in bad {
        assert_eq!(rig.push(body), Err(PushError::TooLarge));
    }
    assert_eq!(rig.log.free_blocks(), free);
    let stale = CopyForward {
        partition: P,
        op: Op(1),
        lba: Lba(0),
        crcs: vec![0].into(),
        from: LogAddr(5),
        data: palisade_dma::Buf::from_static(&[0; BLOCK]),
    };
    assert_eq!(rig.log.push_copy(&stale, Op(0)), Err(PushError::Stale));
}

#[test]
fn hot_payload_stays_within_its_bound_and_leaves_when_it_is_dead() {
    let config = LogConfig { hot_bytes: 100 * BLOCK, ..config(12 << 20) };
    let mut rig = Rig::new(9, config);
    for i in 0..400 {
        rig.write(i, 1).expect("room");
        rig.turn(10);
    }
    rig.settle();
    let hot = |rig: &Rig| {
        let is_hot = |lba: &u64| match rig.index().get(Lba(*lba)).loc {
            Loc::Log(addr) => rig.log.cached(addr, 1).is_some(),
            _ => false,
        };
        (0..400).filter(is_hot).collect::<Vec<_>>()
    };
    assert_eq!(hot(&rig), (300..400).collect::<Vec<_>>(), "the newest hundred");
    let free = rig.pool.stats().free[0];
    rig.push(Body::Clear { lba: Lba(300), count: 50 }).expect("room");
    rig.settle();
    assert!(rig.pool.stats().free[0] >= free + 50, "dead payload returns to the pool at once");
}

#[test]
fn steady_appends_take_their_headers_from_the_log_itself() {
    let config = LogConfig { hot_bytes: 0, ..config(12 << 20) };
    let mut rig = Rig::new(10, config);
    for i in 0..50 {
        rig.write(i % 10, 1).expect("room");
        rig.settle();
    }
    let before = rig.pool.stats();
    for i in 0..50 {
        rig.write(i % 10, 1).expect("room");
        rig.settle();
    }
    assert_eq!(rig.pool.stats().free, before.free, "no buffer leaks");
}

/// Fills every segment that metadata may take, without a release: as full as a ring gets. Nothing in it is
/// live, so that a checkpoint is all that is missing.
fn fill_all(rig: &mut Rig) {
    fill(rig);
    while rig.log.live_blocks() > 0 {
        rig.flush();
        rig.settle();
    }
    while rig.push(Body::Nothing).is_ok() {
        rig.turn(100);
    }
    rig.settle();
}

/// Byte offset of the segment that is being written, by the newest sequence of any header.
fn newest_segment(rig: &Rig) -> (u64, usize) {
    let superblock = format::examine_any(&rig.mem.bytes, rig.config.device_bytes).expect("a log");
    let places =
        (0..superblock.segments).map(|place| (superblock.segment_block(place) * BLOCK as u64) as usize);
    let header = |at: usize| format::SegmentHeader::decode(&rig.mem.bytes[at..at + BLOCK], LOG);
    places.filter_map(|at| Some((header(at)?.seq, at))).max().expect("segments")
}

#[test]
fn a_rotten_header_of_the_newest_segment_hides_nothing_however_full_the_ring_is_p_06() {
    for laps in 0..2 {
        rot_newest_header(laps);
    }
}

fn rot_newest_header(laps: u32) {
    let mut rig = Rig::new(11, config(12 << 20));
    rig.adopt();
    fill_all(&mut rig);
    let (mut newest, mut at) = newest_segment(&rig);
    for _ in 0..laps {
        // The next segment takes the place of the oldest that the header before it counts.
        rig.begin_checkpoint();
        rig.settle();
        assert!(rig.release() > 5);
        let before = newest;
        while newest == before {
            rig.push(Body::Clear { lba: Lba(1), count: 1 }).expect("room");
            rig.settle();
            (newest, at) = newest_segment(&rig);
        }
    }
    rig.mem.bytes[at + 100] ^= 1;
    let (_, partitions, report, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert_eq!((report.lost, partitions[0].damaged), (0, false));
    assert_eq!(partitions[0].tail, rig.acked, "AckedIsDurable");
}

#[test]
fn a_torn_first_write_of_a_segment_takes_no_old_record_for_new_and_loses_no_durable_one_p_06() {
    for keep in 0..8 {
        let mut rig = Rig::new(12, config(12 << 20));
        rig.adopt();
        rig.settle();
        fill_all(&mut rig);
        // Space is given back only after the newest header was written: that header still counts the oldest.
        let (before, _) = newest_segment(&rig);
        rig.begin_checkpoint();
        rig.settle();
        assert!(rig.release() > 5);
        // The first write of the next segment reaches the medium in part: `keep` says which blocks.
        let (seq, cmd) = loop {
            rig.push(Body::Clear { lba: Lba(1), count: 1 }).expect("room");
            rig.log.end_turn(rig.now, &mut rig.out);
            rig.mem.submit(&mut rig.out);
            let BlockOp::Write { bufs, .. } = &rig.mem.queue[0].op else { panic!("an append") };
            let header = format::SegmentHeader::decode(&bufs[0], LOG);
            if let Some(header) = header {
                break (header.seq, rig.mem.queue.remove(0));
            }
            rig.turn(100);
        };
        assert!(seq > before);
        let BlockOp::Write { offset, bufs, .. } = cmd.op else { panic!("an append") };
        for (i, buf) in bufs.iter().enumerate().filter(|(i, _)| keep >> i & 1 == 1) {
            rig.mem.bytes[offset as usize + i * BLOCK..][..BLOCK].copy_from_slice(buf);
        }
        rig.mem.queue.clear();
        let (mut log, partitions, report, _) =
            recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
        let found = &partitions[0];
        assert_eq!((report.lost, found.damaged), (0, false), "blocks {keep:b}");
        assert!(found.tail >= rig.acked, "blocks {keep:b}: {:?} of {:?}", found.tail, rig.acked);
        let tail = found.tail;
        log.try_release(&|_| Some(tail));
        assert!(log.room_for(64, Room::User), "and the ring goes on");
    }
}

/// Writes segments full for partition 2, which the head of the rig does not know otherwise.
fn other_partition(rig: &mut Rig) {
    for op in 1..=8 {
        let body = write_body(&rig.pool, Op(op), Lba(0), 64);
        let entry = Entry { partition: PartitionId(2), number: Number::ZERO, op: Op(op), body };
        let placed = rig.log.push(&entry, Op(op - 1)).expect("room");
        rig.turn(100);
        rig.log.dead(placed.addr, 64);
    }
}

#[test]
fn operations_that_an_adoption_cut_hold_no_segment_p_01_p_31() {
    let mut rig = Rig::new(13, config(12 << 20));
    let number = Number { epoch: 1, counter: 1 };
    for op in 1..=5 {
        let entry = Entry { partition: P, number, op: Op(op), body: Body::Nothing };
        rig.log.push(&entry, Op(0)).expect("room");
        rig.turn(100);
    }
    // A new primary knows two of them; the partition is idle from here on.
    rig.op = Op(2);
    rig.committed = Op(2);
    other_partition(&mut rig);
    rig.adopt();
    let committed = |id: PartitionId| Some(if id == P { Op(2) } else { Op(8) });
    rig.begin_checkpoint();
    assert_eq!(rig.log.try_release(&committed), 0, "not before the adoption is durable");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    assert!(rig.log.try_release(&committed) > 2, "what was cut will never be committed");
    // After a restart likewise.
    let mut rig = Rig::new(14, config(12 << 20));
    for op in 1..=5 {
        let entry = Entry { partition: P, number, op: Op(op), body: Body::Nothing };
        rig.log.push(&entry, Op(0)).expect("room");
    }
    rig.op = Op(2);
    rig.adopt();
    other_partition(&mut rig);
    rig.settle();
    let (mut log, _, _, mut out) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    let meta = |partition, committed, adopted| PartitionMeta {
        partition,
        blocks: 2048,
        committed,
        adopted,
        damaged: false,
        origin: Origin::default(),
    };
    log.checkpoint_begin(vec![meta(P, Op(2), rig.adopted.clone()), meta(PartitionId(2), Op(8), None)]);
    while log.checkpointing() {
        log.checkpoint_step(&mut rig.indexes, &mut out);
        rig.mem.submit(&mut out);
        while !rig.mem.queue.is_empty() {
            let done = rig.mem.finish(0);
            log.handle_block(done, &mut out);
        }
    }
    let dead: Vec<_> = {
        let mut runs = Vec::new();
        log.oldest_live(&mut |run| {
            runs.push(run);
            true
        });
        runs
    };
    for run in dead {
        log.dead(run.addr, run.blocks);
    }
    assert!(log.try_release(&committed) > 2);
}

#[test]
fn what_a_secondary_was_promised_room_for_may_use_the_reserve_p_31() {
    let mut rig = Rig::new(15, config(12 << 20));
    fill(&mut rig);
    let entry = |rig: &Rig, op: u64| {
        let body = write_body(&rig.pool, Op(op), Lba(0), 64);
        Entry { partition: PartitionId(2), number: Number::ZERO, op: Op(op), body }
    };
    let refused = entry(&rig, 1);
    assert_eq!(rig.log.push(&refused, Op(0)), Err(PushError::Full), "clients stop");
    // In the order of operations a repoint that frees the log may stand behind such a write.
    let mut taken = 0;
    while taken < 100 {
        let next = entry(&rig, taken + 1);
        if rig.log.push_cold(&next, Op(0)).is_err() {
            break;
        }
        taken += 1;
        rig.turn(100);
    }
    assert!((2..50).contains(&taken), "{taken} taken");
    assert!(rig.log.room_for(1, Room::Metadata), "a repoint finds room behind them");
}

#[test]
fn a_pool_without_buffers_stops_neither_checkpoints_nor_repoints_p_31() {
    let mut rig = Rig::new(16, config(12 << 20));
    rig.adopt();
    for lba in 0..32 {
        rig.write(lba, 1).expect("room");
    }
    rig.settle();
    let mut taken = Vec::new();
    for bytes in [256 << 10, 64 << 10, 4 << 10] {
        while let Some(buf) = rig.pool.alloc(bytes) {
            taken.push(buf);
        }
    }
    for round in 1..=3 {
        let entry = RepointEntry { lba: Lba(0), op: Op(1), from: GatheredFrom::Log, block: 0, crc: 0 };
        let entries = vec![entry; limits::REPOINT_ENTRIES_MAX];
        let repoint = Repoint { extent: ExtentId(1), first_stripe: 0, stripes: 1, absent: 0, entries };
        rig.push(Body::Repoint(Box::new(repoint))).expect("a header is kept for what makes room");
        rig.settle();
        rig.begin_checkpoint();
        rig.settle();
        assert_eq!(rig.log.checkpoint_counts(), (round, 0));
    }
    assert!(rig.pool.alloc(BLOCK).is_none(), "there was no buffer all the time");
}
