//! Columns: reserve, append, release, list; doubled messages; bounds.

use super::*;

#[test]
fn ef12_the_record_names_the_owner_before_any_write() {
    let mut rig = Rig::new();
    let (head, column) = rig.granted(5);
    rig.crash();
    let list = rig.one(
        &head,
        Msg::ColumnList { req: ReqId(900), device: head.device, partition: head.stamp.partition, from: 0 },
    );
    let Msg::ColumnListed { status: Status::Ok, columns, more: None, .. } = list else {
        panic!("{list:?}");
    };
    assert_eq!(columns.len(), 1);
    let owned = columns[0];
    assert_eq!((owned.column, owned.generation, owned.extent), (column.column, 1, ExtentId(1)));
    assert_eq!((owned.number, owned.stripes, owned.position), (head.stamp.number, 0, 0));
}

#[test]
fn ef12_two_partitions_that_race_for_the_last_column_get_one_owner() {
    let mut rig = Rig::new();
    let (mut a, _) = rig.granted(5);
    let mut b = Head::new(2, 5).of(8);
    assert_eq!(rig.reserve(&mut b), Status::Ok);
    for extent in 2..rig.layout.columns {
        assert_eq!(rig.column(&mut a, u64::from(extent), 0).0, Status::Ok);
    }
    let (first, second) = (a.column_reserve(900, 0), b.column_reserve(900, 0));
    let before = rig.sent.len();
    rig.deliver(&a, first);
    rig.deliver(&b, second);
    rig.pump();
    let mut told: Vec<_> = rig.sent[before..].iter().map(|(to, msg)| (to.0, status_of(msg))).collect();
    told.sort_by_key(|(to, _)| *to);
    assert_eq!(told, [(1, Status::Ok), (2, Status::NotFree)]);
}

#[test]
fn ef13_the_sandbox_is_preferred_and_then_any_column() {
    let mut rig = Rig::new();
    let (mut head, _) = rig.granted(5);
    let ask = |rig: &mut Rig, head: &mut Head, extent| {
        let Msg::ColumnReserve { req, device, stamp, token, extent, position, .. } =
            head.column_reserve(extent, 0)
        else {
            panic!("a column reserve");
        };
        let prefer = Some((10, 12));
        let msg = Msg::ColumnReserve { req, device, stamp, token, extent, position, prefer };
        match rig.one(head, msg) {
            Msg::ColumnReserved { status: Status::Ok, column, .. } => column.column,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut rig, &mut head, 2), 10);
    assert_eq!(ask(&mut rig, &mut head, 3), 11);
    assert!(!(10..12).contains(&ask(&mut rig, &mut head, 4)));
}

#[test]
fn a_doubled_column_reserve_gets_the_same_column_early_and_late() {
    let mut rig = Rig::new();
    let (mut head, _) = rig.granted(5);
    let msg = head.column_reserve(2, 3);
    rig.hold = rig.table_writes();
    assert!(rig.ask(&head, msg.clone()).is_empty());
    assert!(rig.ask(&head, msg.clone()).is_empty(), "the first copy will be answered");
    let before = rig.sent.len();
    rig.let_go();
    assert_eq!(rig.sent.len(), before + 1);
    let column_of = |msg: &Msg| match msg {
        Msg::ColumnReserved { status: Status::Ok, column, .. } => *column,
        other => panic!("{other:?}"),
    };
    let column = column_of(&rig.sent[before].1);
    let free = rig.sled.status().devices[0].free;
    assert_eq!(column_of(&rig.one(&head, msg.clone())), column);
    assert_eq!(rig.column(&mut head, 2, 3), (Status::Ok, column), "asked anew for the same place");
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::Ok);
    assert_eq!(column_of(&rig.one(&head, msg)), column, "a late copy reserves nothing (P-19)");
    assert_eq!(rig.sled.status().devices[0].free, free + 1);
}

#[test]
fn a_doubled_column_write_is_answered_ok_and_written_once() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3, 4]);
    rig.hold = rig.data_writes();
    assert!(rig.ask(&head, msg.clone()).is_empty());
    assert!(rig.ask(&head, msg.clone()).is_empty());
    let mut other = head.clone();
    other.req += 100;
    assert_eq!(rig.write(&mut other, column, 1, 3, 9), Status::Retry, "another write of a unit in flight");
    rig.let_go();
    assert_eq!(rig.counters().writes, 1);
    rig.done.clear();
    assert_eq!(rig.status(&head, msg), Status::Ok);
    assert!(rig.done.is_empty(), "nothing is written twice");
}

#[test]
fn p23_units_from_elsewhere_are_checked_before_they_are_written_and_those_of_the_process_when_read() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let mut msg = head.write(&rig.pool, column, 1, 0, &[0x11]);
    if let Msg::ColumnWrite { crcs, .. } = &mut msg {
        crcs[0] ^= 1;
    }
    let before = rig.data();
    assert_eq!(rig.status(&head, msg.clone()), Status::BadRequest);
    assert_eq!(rig.data(), before);
    // Handed over by a head that took the checksum of this very memory: not once more, but when it is read.
    let mut out = Out::default();
    rig.sled.handle_near(rig.now, head.node, head.boot, msg, &mut out);
    let written = out.block.iter().any(|cmd| matches!(cmd.op, BlockOp::Write { .. }));
    assert!(written && out.net.is_empty(), "{out:?}");
    for cmd in rig.collect(out) {
        rig.take(cmd);
    }
    rig.pump();
    assert_eq!(rig.read(&mut head, column, 0, UNIT as u32 / 4096).0, Status::Corrupt);
}

#[test]
fn p24_a_written_stripe_is_never_written_again_with_other_bytes() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 2, 0x11), Status::Ok);
    let before = rig.data();
    assert_eq!(rig.write(&mut head, column, 1, 2, 0x22), Status::BadRequest);
    let mut next = Head::new(1, 6);
    assert_eq!(rig.reserve(&mut next), Status::Ok);
    assert_eq!(rig.write(&mut next, column, 1, 2, 0x22), Status::BadRequest);
    assert_eq!(rig.data(), before);
    let msg = next.write(&rig.pool, column, 1, 1, &[0x10, 0x11, 0x12]);
    assert_eq!(rig.status(&next, msg), Status::BadRequest, "a hole is not filled around known units");
    let msg = next.write(&rig.pool, column, 1, 2, &[0x11, 0x12]);
    assert_eq!(rig.status(&next, msg), Status::Ok, "known units at the edge are kept, new ones written");
    assert_eq!(rig.read(&mut next, column, 2, 2).1[UNIT..], [0x12; UNIT]);
}

#[test]
fn writes_may_come_in_any_order_and_the_list_counts_the_prefix() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let prefix = |rig: &mut Rig, head: &Head| {
        let ask = Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(7), from: 0 };
        match rig.one(head, ask) {
            Msg::ColumnListed { columns, .. } => columns[0].stripes,
            other => panic!("{other:?}"),
        }
    };
    for (stripe, expected) in [(3, 0), (1, 0), (0, 2), (2, 4), (15, 4)] {
        assert_eq!(rig.write(&mut head, column, 1, stripe, stripe as u8), Status::Ok);
        assert_eq!(prefix(&mut rig, &head), expected);
    }
    rig.crash();
    assert_eq!(prefix(&mut rig, &head), 4);
}

#[test]
fn writes_of_one_turn_share_a_table_page_and_none_costs_more_than_one_block() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    rig.done.clear();
    for stripe in [0, 4, 8, 12] {
        let msg = head.write(&rig.pool, column, 1, stripe, &[1, 2, 3, 4]);
        rig.deliver(&head.clone(), msg);
    }
    rig.pump();
    assert_eq!(rig.counters().bytes_written, 16 * UNIT as u64);
    let tables: Vec<_> = rig.done.iter().filter(|done| done.1 < rig.layout.data_at).collect();
    assert_eq!(tables.len(), 1, "one page for all four");
    assert_eq!(tables[0].2, 4096);
}

#[test]
fn p19_a_release_frees_the_column_and_the_next_owner_gets_another_generation() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x77), Status::Ok);
    let release = head.release(column);
    assert_eq!(rig.status(&head, release.clone()), Status::Ok);
    assert_eq!(rig.status(&head, release.clone()), Status::Ok, "a repeat");
    let mut again = head.clone();
    let msg = again.release(column);
    assert_eq!(rig.status(&again, msg), Status::Ok, "a repeat with another request id");
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::NotOwner);
    assert_eq!(rig.write(&mut head, column, 1, 1, 1), Status::NotOwner);
    let mut next = column;
    while next.column != column.column || next.generation == column.generation {
        let extent = u64::from(next.column + 100);
        next = rig.column(&mut head, extent, 0).1;
    }
    assert_eq!(next.generation, column.generation + 1);
    assert_eq!(rig.status(&head, release), Status::NotOwner, "a delayed release changes nothing");
    assert_eq!(rig.read(&mut head, next, 0, 1).0, Status::Corrupt, "old bytes cannot be read (OP-18)");
    rig.crash();
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_eq!(rig.read(&mut head, next, 0, 1).0, Status::Corrupt, "nor after a restart");
}

#[test]
fn a_release_waits_for_writes_of_its_holder() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    rig.hold = rig.data_writes();
    let write = head.write(&rig.pool, column, 1, 0, &[1]);
    assert!(rig.ask(&head, write).is_empty());
    let release = head.release(column);
    assert_eq!(rig.status(&head, release.clone()), Status::Retry);
    rig.let_go();
    rig.hold = rig.table_writes();
    assert!(rig.ask(&head, release.clone()).is_empty());
    assert!(rig.ask(&head, release).is_empty(), "a double waits for the answer of the first");
    let mut other = head.clone();
    other.req += 100;
    assert_eq!(rig.write(&mut other, column, 1, 1, 1), Status::Retry, "no write slips in beside it");
    rig.let_go();
    assert_eq!(rig.counters().columns_released, 1);
}

#[test]
fn p27_a_long_list_comes_in_parts() {
    let mut rig = Rig::unstarted(
        vec![Medium::formatted(&FormatSpec { device_bytes: 8 << 20, column_bytes: 8192, ..spec(0xd1) })],
        Faults::default(),
        |_| {},
    );
    rig.pump();
    let mut head = Head::new(1, 5);
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    for extent in 0..300 {
        assert_eq!(rig.column(&mut head, extent, 0).0, Status::Ok);
    }
    let (mut from, mut seen) = (0, 0);
    loop {
        let ask = Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(7), from };
        match rig.one(&head, ask) {
            Msg::ColumnListed { columns, more, .. } => {
                assert!(columns.len() <= 256);
                seen += columns.len();
                match more {
                    Some(next) => from = next,
                    None => break,
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, 300);
    let ask =
        Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(1), from: u32::MAX };
    assert!(
        matches!(rig.one(&head, ask), Msg::ColumnListed { columns, more: None, .. } if columns.is_empty())
    );
}

#[test]
fn bounded_more_changes_than_the_limit_are_asked_to_come_again() {
    let mut rig = Rig::unstarted(
        vec![Medium::formatted(&FormatSpec { device_bytes: 24 << 20, ..spec(0xd1) })],
        Faults::default(),
        |_| {},
    );
    rig.layout = Superblock::plan(&FormatSpec { device_bytes: 24 << 20, ..spec(0xd1) }).expect("fits");
    rig.pump();
    let mut head = Head::new(1, 5);
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    let columns: Vec<_> = (0..40).map(|extent| rig.column(&mut head, extent, 0).1).collect();
    rig.hold = rig.data_writes();
    let mut retries = 0;
    for stripe in 0..UNITS {
        for (extent, column) in columns.iter().enumerate() {
            let mut buf = rig.pool.alloc(UNIT).map(|mut buf| {
                buf.fill(1);
                buf.freeze()
            });
            let Some(unit) = buf.take() else {
                panic!("512 small slots and the larger ones serve 512 writes");
            };
            let crc = crc32c(&unit);
            let msg = Msg::ColumnWrite {
                req: head.next(),
                stamp: head.stamp,
                column: *column,
                token: head.token(*column),
                extent: ExtentId(extent as u64),
                stripe,
                units: smallvec::smallvec![unit],
                crcs: smallvec::smallvec![crc],
            };
            let answers = rig.ask(&head, msg);
            retries += answers.iter().filter(|msg| status_of(msg) == Status::Retry).count();
        }
    }
    assert_eq!(rig.held.len(), config::CHANGES_MAX);
    assert_eq!(retries, 16 * 40 - config::CHANGES_MAX);
    rig.let_go();
    assert!(rig.sled.idle());
}

#[test]
fn an_empty_pool_delays_and_loses_nothing() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let write = head.write(&rig.pool, column, 1, 0, &[1]);
    let hoard: Vec<_> = std::iter::from_fn(|| rig.pool.alloc(4096)).collect();
    // The sender still holds its copy, so the unit's own buffer does not come back either.
    assert!(rig.ask(&head, write.clone()).is_empty(), "data is down, its table page waits for a buffer");
    assert!(rig.sled.deadline().is_some_and(|due| due <= rig.now + std::time::Duration::from_millis(1)));
    assert!(!rig.sled.idle());
    let read = head.read(column, 0, 1);
    assert!(matches!(rig.status(&head, read), Status::Corrupt | Status::Retry));
    drop(hoard);
    let before = rig.sent.len();
    rig.pump();
    assert_eq!(status_of(&rig.sent[before].1), Status::Ok);
}

#[test]
fn a_device_error_is_told_apart_and_harms_nothing_else() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let data = rig.data_writes();
    rig.fail = Box::new(move |cmd| data(cmd).then_some(BlockError::Io));
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::DeviceError);
    let tables = rig.table_writes();
    rig.fail = Box::new(move |cmd| tables(cmd).then_some(BlockError::Io));
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::DeviceError);
    assert_eq!(rig.column(&mut head, 2, 0).0, Status::DeviceError);
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::DeviceError);
    rig.fail = Box::new(|_| None);
    assert_eq!(rig.write(&mut head, column, 1, 0, 2), Status::Ok, "units that failed may be written");
    let (status, second) = rig.column(&mut head, 2, 0);
    assert_eq!((status, second.generation), (Status::Ok, 1));
    rig.fail = Box::new(|_| Some(BlockError::Io));
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::DeviceError);
    rig.fail = Box::new(|_| Some(BlockError::Gone));
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::DeviceError);
    assert_eq!(rig.state(), DeviceState::Failed("device gone"));
    assert_eq!(rig.reserve(&mut head), Status::DeviceError);
    assert_eq!(rig.counters().refused.fenced, 0);
}

#[test]
fn p19_a_generation_whose_record_may_have_landed_is_not_given_out_again() {
    let mut rig = Rig::new();
    let (mut head, first) = rig.granted(5);
    let tables = rig.table_writes();
    rig.fail = Box::new(move |cmd| tables(cmd).then_some(BlockError::Io));
    assert_eq!(rig.column(&mut head, 2, 0).0, Status::DeviceError);
    rig.fail = Box::new(|_| None);
    let mut generations = Vec::new();
    for extent in 3..rig.layout.columns + 2 {
        let (status, column) = rig.column(&mut head, u64::from(extent), 0);
        assert_eq!(status, Status::Ok);
        assert_ne!(column.column, first.column);
        generations.push(column.generation);
    }
    generations.sort_unstable();
    assert_eq!(generations.last(), Some(&2), "the column that failed skipped a generation");
    assert_eq!(generations.iter().filter(|generation| **generation == 2).count(), 1);
}

#[test]
fn columns_with_more_units_than_a_page_holds_keep_them_over_restarts() {
    let big = FormatSpec { device_bytes: 16 << 20, column_bytes: 1500 * UNIT as u64, ..spec(0xd1) };
    let mut rig = Rig::unstarted(vec![Medium::formatted(&big)], Faults::default(), |_| {});
    rig.layout = Superblock::plan(&big).expect("fits");
    assert_eq!(rig.layout.table_pages(), 2);
    rig.pump();
    let (mut head, column) = rig.granted(5);
    for first in [0, 926, 1496] {
        let msg = head.write(&rig.pool, column, 1, first, &[1, 2, 3, 4]);
        assert_eq!(rig.status(&head, msg), Status::Ok, "unit {first}; 926 straddles two pages");
    }
    let mut next = Head::new(2, 6);
    assert_eq!(rig.reserve(&mut next), Status::Ok);
    assert_eq!(rig.write(&mut next, column, 1, 1000, 9), Status::Ok);
    rig.crash();
    for first in [0, 926, 1496] {
        assert_eq!(rig.read(&mut head, column, first, 4).1.len(), 4 * UNIT, "unit {first}");
    }
    let ask = Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(7), from: 0 };
    match rig.one(&head, ask) {
        Msg::ColumnListed { columns, .. } => {
            assert_eq!(columns[0].number, next.stamp.number, "stamped by the first write under it");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.reserve(&mut next), Status::Ok);
    let release = next.release(column);
    assert_eq!(rig.status(&next, release), Status::Ok);
    let mut again = column;
    for extent in 50..52 {
        let (status, got) = rig.column(&mut next, extent, 0);
        assert_eq!(status, Status::Ok);
        if got.column == column.column {
            again = got;
        }
    }
    assert_eq!(again.generation, 2);
    assert_eq!(
        rig.read(&mut next, again, 1000, 1).0,
        Status::Corrupt,
        "table pages of old generations are void"
    );
    rig.crash();
    assert_eq!(rig.read(&mut next, again, 1000, 1).0, Status::Corrupt);
}

#[test]
fn ef03_a_sled_shows_its_devices_and_answers_every_verb() {
    let media = vec![Medium::formatted(&spec(0xd1)), Medium::formatted(&spec(0xd2))];
    let mut rig = Rig::unstarted(media, Faults::default(), |_| {});
    rig.pump();
    let shown: Vec<_> = rig.sled.status().devices.iter().map(|device| device.device).collect();
    assert_eq!(shown, [Some(DeviceId(0xd1)), Some(DeviceId(0xd2))]);
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Ok);
    let list = Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(7), from: 0 };
    assert_eq!(rig.status(&head, list), Status::Ok);
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::Ok);
    let device = &rig.sled.status().devices[0];
    assert_eq!((device.columns, device.free, device.partitions), (rig.layout.columns, rig.layout.columns, 1));
    let counted = &device.counters;
    let verbs =
        [counted.grants, counted.columns_reserved, counted.writes, counted.reads, counted.columns_released];
    assert_eq!(verbs, [1; 5]);
    assert_eq!(counted.refused, Refusals::default());
}

#[test]
fn op30_every_status_has_its_cause_and_fenced_is_never_a_device_error() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
    let mut forged = head.clone();
    forged.secret = GrantSecret(9);
    forged.req += 50;
    assert_eq!(rig.write(&mut forged, column, 1, 1, 1), Status::NoToken);
    assert_eq!(rig.write(&mut head, column, 2, 1, 1), Status::NotOwner);
    assert_eq!(rig.write(&mut head, column, 1, UNITS, 1), Status::BadRequest);
    assert_eq!(rig.read(&mut head, column, 9, 1).0, Status::Corrupt);
    assert_eq!(rig.reserve(&mut Head::new(2, 4)), stale(5));
    let mut new = Head::new(2, 6);
    rig.hold = rig.record_writes();
    let msg = new.reserve();
    assert!(rig.ask(&new, msg).is_empty());
    assert_eq!(rig.write(&mut new, column, 1, 1, 1), Status::Retry);
    rig.let_go();
    assert_eq!(rig.write(&mut head, column, 1, 1, 1), fenced(6));
    // On a device that fails, a superseded head is told the one thing that matters to it.
    rig.fail = Box::new(|_| Some(BlockError::Io));
    assert_eq!(rig.write(&mut head, column, 1, 1, 1), fenced(6));
    assert_eq!(rig.reserve(&mut Head::new(3, 9)), Status::DeviceError);
    rig.fail = Box::new(|_| None);
    let mut last = Head::new(3, 10);
    assert_eq!(rig.reserve(&mut last), Status::Ok);
    for extent in 1..rig.layout.columns {
        assert_eq!(rig.column(&mut last, 100 + u64::from(extent), 0).0, Status::Ok);
    }
    assert_eq!(rig.column(&mut last, 999, 0).0, Status::NotFree);
    let refused = rig.counters().refused;
    let once = Refusals {
        fenced: 2,
        no_token: 1,
        not_owner: 1,
        stale_number: 1,
        not_free: 1,
        device_error: 1,
        corrupt: 1,
        retry: 1,
        bad_request: 1,
    };
    assert_eq!(refused, once);
}

#[test]
fn op29_a_refusal_needs_no_device() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    rig.done.clear();
    assert_eq!(rig.write(&mut old, column, 1, 0, 1), fenced(6));
    let mut other = Head::new(3, 5).of(8);
    assert_eq!(rig.read(&mut other, column, 0, 1).0, Status::NotOwner);
    assert!(rig.done.is_empty(), "RAM decides: {:?}", rig.done);
}
