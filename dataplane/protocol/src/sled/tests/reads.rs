//! Column reads (P-15), checksums (P-23), scrub.

use super::*;
use std::time::Duration;

#[test]
fn p15_a_read_names_partition_and_generation_and_is_refused_on_a_mismatch() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x42), Status::Ok);
    let mut other = Head::new(3, 5).of(8);
    assert_eq!(rig.read(&mut other, column, 0, 1).0, Status::NotOwner);
    let older = ColumnRef { generation: 0, ..column };
    assert_eq!(rig.read(&mut head, older, 0, 1).0, Status::NotOwner);
    assert_eq!(rig.read(&mut head, column, 0, 1), (Status::Ok, vec![0x42; UNIT]));
}

#[test]
fn p15_a_read_that_was_under_way_when_its_column_changed_hands_returns_nothing() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x42), Status::Ok);
    rig.hold = Box::new(|cmd| matches!(cmd.op, BlockOp::Read { .. }));
    let read = head.read(column, 0, 1);
    assert!(rig.ask(&head, read).is_empty());
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::Ok);
    let mut other = Head::new(3, 5).of(8);
    assert_eq!(rig.reserve(&mut other), Status::Ok);
    for extent in 0..rig.layout.columns {
        let (status, got) = rig.column(&mut other, u64::from(extent), 0);
        assert_eq!(status, Status::Ok);
        if got.column == column.column {
            assert_eq!(rig.write(&mut other, got, u64::from(extent), 0, 0x99), Status::Ok);
        }
    }
    let before = rig.sent.len();
    rig.let_go();
    assert_eq!(status_of(&rig.sent[before].1), Status::NotOwner);
}

#[test]
fn reads_outside_the_column_are_bad_requests() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    for (block, count) in [(0, 0), (UNITS, 1), (0, UNITS + 1), (u32::MAX, 2), (0, 65)] {
        assert_eq!(rig.read(&mut head, column, block, count).0, Status::BadRequest, "{block} {count}");
    }
    assert_eq!(rig.read(&mut head, ColumnRef { column: 9999, ..column }, 0, 1).0, Status::BadRequest);
}

#[test]
fn p23_rot_in_a_unit_is_refused_counted_and_told() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    let at = rig.layout.column_data(column.column) as usize + UNIT + 17;
    rig.media[0].durable[at] ^= 4;
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Ok, "its neighbours are good");
    assert_eq!(rig.read(&mut head, column, 1, 1).0, Status::Corrupt);
    assert_eq!(rig.read(&mut head, column, 0, 3).0, Status::Corrupt);
    assert_eq!(rig.counters().corrupt, 2);
    let told = rig.events.iter().any(|event| {
        matches!(event, Event::Corrupt { place: "column", what } if what.contains("extent 1 stripe 1"))
    });
    assert!(told, "{:?}", rig.events);
}

#[test]
fn parts_of_units_are_returned_for_the_head_to_check() {
    let big = FormatSpec { unit_bytes: 16384, ..spec(0xd1) };
    let mut rig = Rig::unstarted(vec![Medium::formatted(&big)], Faults::default(), |_| {});
    rig.pump();
    let (mut head, column) = rig.granted(5);
    let mut unit = rig.pool.alloc(16384).expect("pool");
    for (at, byte) in unit.iter_mut().enumerate() {
        *byte = (at / 4096) as u8;
    }
    let unit = unit.freeze();
    let msg = head.write_units(column, 1, 1, smallvec::smallvec![unit]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 6, 1), (Status::Ok, vec![2; 4096]));
    assert_eq!(rig.read(&mut head, column, 3, 2).0, Status::Corrupt, "the unit before was never written");
    assert_eq!(rig.read(&mut head, column, 4, 4).0, Status::Ok);
}

#[test]
fn units_that_the_transport_left_unaligned_are_copied() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let mut buf = rig.pool.alloc(2 * UNIT).expect("pool");
    buf.fill(0x3c);
    let unit = buf.freeze().slice(8..8 + UNIT);
    let msg = head.write_units(column, 1, 0, smallvec::smallvec![unit]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 0, 1).1, vec![0x3c; UNIT]);
}

#[test]
fn p23_scrub_reads_every_unit_alone_and_finds_rot() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let second = rig.column(&mut head, 2, 1).1;
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    assert_eq!(rig.write(&mut head, second, 2, 7, 9), Status::Ok);
    let at = rig.layout.column_data(second.column) as usize + 7 * UNIT;
    rig.media[0].durable[at] ^= 1;
    let start = rig.now;
    let mut turns = 0;
    while rig.counters().scrub_passes == 0 {
        let due = rig.sled.deadline().expect("the next unit has its time");
        assert!(due > rig.now, "scrub never asks to run at once");
        rig.now = due;
        rig.pump();
        turns += 1;
        assert!(turns < 20, "a pass ends");
    }
    assert_eq!((rig.counters().scrubbed, rig.counters().corrupt), (4, 1));
    assert!(rig.now.since(start) >= Duration::from_millis(400), "one unit at a time: {turns} turns");
    let rest = rig.sled.deadline().expect("the next pass").since(rig.now);
    assert!(rest >= Duration::from_secs(599), "{rest:?}");
    assert!(rig.sled.idle(), "pauses of scrub are idle");
}

#[test]
fn p23_the_head_that_holds_a_partition_is_told_of_what_scrub_finds() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    let at = rig.layout.column_data(column.column) as usize;
    rig.media[0].durable[at] ^= 1;
    let next = |rig: &mut Rig| {
        rig.now = rig.sled.deadline().expect("scrub goes on").max(rig.now);
        rig.pump();
    };
    let told = |rig: &Rig| {
        let words = rig.sent.iter().filter_map(|(to, msg)| match msg {
            Msg::ColumnRotten { column, extent, .. } => Some((*to, *column, extent.0)),
            _ => None,
        });
        words.collect::<Vec<_>>()
    };
    // A restarted sled finds the rot before the head has come back to it: the word may be lost.
    rig.restart();
    while rig.counters().scrub_passes == 0 {
        next(&mut rig);
    }
    (0..20).for_each(|_| next(&mut rig));
    let before = told(&rig);
    assert!(before.len() > 2 && before.iter().all(|word| *word == (head.node, column, 1)), "{before:?}");
    assert_eq!(rig.counters().corrupt, 1, "saying it again is no reason to read again");
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    (0..2).for_each(|_| next(&mut rig));
    assert_eq!(told(&rig).len(), before.len() + 1, "once to a head with a grant");
}

/// The unit as it was takes the place of a rotten one, and only that; also under a newer number, which leaves the
/// record of the column as it is.
#[test]
fn p23_p24_a_rotten_unit_is_written_again_as_it_was_and_not_otherwise() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    let at = rig.layout.column_data(column.column) as usize + UNIT + 17;
    rig.media[0].durable[at] ^= 4;
    assert_eq!(rig.write(&mut head, column, 1, 1, 2), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 1, 1).0, Status::Corrupt, "nobody knew: it was a doubled message");
    assert_eq!(rig.write(&mut head, column, 1, 1, 7), Status::BadRequest, "other bytes");
    let mut lie = head.write(&rig.pool, column, 1, 1, &[7]);
    if let Msg::ColumnWrite { crcs, .. } = &mut lie {
        crcs[0] = palisade_isal::crc32c(&[2; UNIT]);
    }
    rig.status(&head, lie);
    assert_eq!(rig.read(&mut head, column, 1, 1).0, Status::Corrupt, "other bytes under its checksum");
    let mut newer = Head::new(3, 6);
    assert_eq!(rig.reserve(&mut newer), Status::Ok);
    assert_eq!(rig.write(&mut head, column, 1, 1, 2), fenced(6), "EF-16");
    assert_eq!(rig.read(&mut newer, column, 1, 1).0, Status::Corrupt);
    assert_eq!(rig.write(&mut newer, column, 1, 1, 2), Status::Ok);
    assert_eq!(rig.read(&mut newer, column, 0, 3).0, Status::Ok);
    assert_eq!(rig.read(&mut newer, column, 1, 1).1, vec![2; UNIT]);
    let mended = |event: &Event| matches!(event, Event::Repaired { place: "column", .. });
    assert_eq!(rig.events.iter().filter(|event| mended(event)).count(), 1);
    let (req, device, partition) = (newer.next(), newer.device, newer.stamp.partition);
    let list = Msg::ColumnList { req, device, partition, from: 0 };
    let Msg::ColumnListed { columns, .. } = rig.one(&newer, list) else { panic!("a list") };
    assert_eq!(columns.iter().map(|owned| owned.number.counter).collect::<Vec<_>>(), [5]);
    // It is whole: what comes once more is a doubled message again.
    rig.fail = Box::new(|cmd| matches!(cmd.op, BlockOp::Write { .. }).then_some(BlockError::Io));
    assert_eq!(rig.write(&mut newer, column, 1, 1, 2), Status::Ok);
}

/// A rotten unit that cannot be written stays rotten, and is written when that goes again.
#[test]
fn p23_a_rotten_unit_that_cannot_be_written_stays_rotten() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    let at = rig.layout.column_data(column.column) as usize;
    rig.media[0].durable[at] ^= 1;
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Corrupt);
    rig.fail = Box::new(|cmd| matches!(cmd.op, BlockOp::Write { .. }).then_some(BlockError::Io));
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::DeviceError);
    rig.fail = Box::new(|_| None);
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Corrupt);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 0, 1), (Status::Ok, vec![9; UNIT]));
}

/// A read error is no checksum mismatch, but the bytes are as lost (P-23). A device that fails as a whole tells
/// nothing of its columns.
#[test]
fn p23_the_head_is_told_of_a_unit_that_cannot_be_read_but_not_of_a_device_that_fails() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let second = rig.column(&mut head, 2, 1).1;
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    assert_eq!(rig.write(&mut head, second, 2, 0, 9), Status::Ok);
    let passes = |rig: &mut Rig, wanted: u64| {
        while rig.counters().scrub_passes < wanted {
            rig.now = rig.sled.deadline().expect("scrub goes on").max(rig.now);
            rig.pump();
        }
    };
    let told = |rig: &Rig| -> Vec<ColumnRef> {
        let words = rig.sent.iter().filter_map(|(_, msg)| match msg {
            Msg::ColumnRotten { column, .. } => Some(*column),
            _ => None,
        });
        words.collect()
    };
    let reads = |cmd: &BlockCmd| matches!(cmd.op, BlockOp::Read { .. });
    rig.fail = Box::new(move |cmd| reads(cmd).then_some(BlockError::Io));
    passes(&mut rig, 2);
    rig.fail = Box::new(|_| None);
    passes(&mut rig, 4);
    assert_eq!((told(&rig), rig.counters().corrupt), (vec![], 0), "all is well again");
    let bad = rig.layout.column_data(column.column) + UNIT as u64;
    let hit = move |cmd: &BlockCmd| matches!(cmd.op, BlockOp::Read { offset, .. } if offset == bad);
    rig.fail = Box::new(move |cmd| hit(cmd).then_some(BlockError::Io));
    passes(&mut rig, 6);
    let words = told(&rig);
    assert!(!words.is_empty() && words.iter().all(|word| *word == column), "{words:?}");
    assert!(rig.counters().corrupt > 0, "it is counted");
}

#[test]
fn scrub_can_be_switched_off() {
    let mut rig = Rig::unstarted(vec![Medium::formatted(&spec(0xd1))], Faults::default(), |config| {
        config.scrub_gap = Duration::ZERO;
    });
    rig.pump();
    let (_, _) = rig.granted(5);
    assert_eq!(rig.sled.deadline(), None);
}

/// The last unit of a pass, and the only one that cannot be read: the pass clears that up before it rests.
#[test]
fn p23_a_pass_that_ends_in_doubt_is_cleared_up_before_it_rests() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    let at = rig.layout.column_data(column.column) + 2 * UNIT as u64;
    rig.fail = Box::new(move |cmd| {
        let bad = matches!(cmd.op, BlockOp::Read { offset, .. } if offset == at);
        bad.then_some(BlockError::Io)
    });
    let start = rig.now;
    for _ in 0..20 {
        rig.now = rig.sled.deadline().expect("scrub goes on").max(rig.now);
        if rig.now.since(start) > Duration::from_secs(60) {
            break;
        }
        rig.pump();
    }
    let told = |msg: &Msg| matches!(msg, Msg::ColumnRotten { column: known, .. } if *known == column);
    assert!(rig.sent.iter().any(|(_, msg)| told(msg)), "within the pass, not ten minutes later");
    assert_eq!((rig.counters().scrub_passes, rig.counters().corrupt), (1, 1));
    assert!(rig.sled.deadline().expect("the next pass").since(start) > Duration::from_secs(500), "it rests");
    // A device that fails as a whole is left alone until the next pass.
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    rig.fail = Box::new(|cmd| matches!(cmd.op, BlockOp::Read { .. }).then_some(BlockError::Io));
    for _ in 0..4 {
        rig.now = rig.sled.deadline().expect("scrub goes on").max(rig.now);
        rig.pump();
    }
    assert_eq!(rig.counters().corrupt, 0);
    assert!(rig.now.since(start) > Duration::from_secs(500), "passes rest: {:?}", rig.now);
}
