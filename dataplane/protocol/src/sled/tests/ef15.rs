//! Reservation of partitions: every row of EF-15, reclaim, overlap, drain, contest.

use super::*;
use std::time::Duration;

#[test]
fn ef15_a_free_column_is_granted_to_any_number() {
    for number in [1, 9, u64::from(u32::MAX) + 5] {
        let mut rig = Rig::new();
        let (_, column) = rig.granted(number);
        assert_eq!(column.generation, 1);
    }
}

#[test]
fn ef15_a_higher_number_takes_over_and_voids_every_older_token() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    let mut new = Head::new(2, 6);
    assert_eq!(rig.reserve(&mut new), Status::Ok);
    let before = rig.data();
    assert_eq!(rig.write(&mut old, column, 1, 0, 0xaa), fenced(6));
    assert_eq!(rig.data(), before);
    assert_eq!(rig.write(&mut new, column, 1, 0, 0xbb), Status::Ok, "the column came along");
}

#[test]
fn ef15_a_lower_number_is_refused_with_what_is_stored() {
    let mut rig = Rig::new();
    let (_, _) = rig.granted(5);
    assert_eq!(rig.reserve(&mut Head::new(1, 4)), stale(5));
    let mut epoch_below = Head::new(1, 99);
    epoch_below.stamp.number.epoch = 0;
    assert_eq!(rig.reserve(&mut epoch_below), stale(5), "the epoch counts first (P-04)");
}

#[test]
fn op01_an_equal_number_is_granted_only_to_the_head_and_boot_on_record() {
    let mut rig = Rig::new();
    let (head, column) = rig.granted(5);
    let mut other_head = head.clone();
    other_head.node = NodeId(9);
    assert_eq!(rig.reserve(&mut other_head), stale(5));
    let mut other_boot = head.clone();
    other_boot.boot = BootId(1);
    assert_eq!(rig.reserve(&mut other_boot), stale(5), "a number belongs to one boot (P-01)");
    let mut head = head;
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok, "the holder was not disturbed");
}

#[test]
fn ef15_columns_of_another_partition_are_never_taken() {
    let mut rig = Rig::new();
    let (_, column) = rig.granted(5);
    let mut other = Head::new(2, 900).of(8);
    assert_eq!(rig.reserve(&mut other), Status::Ok, "its own number is not compared with another's (OP-03)");
    let before = rig.data();
    assert_eq!(rig.write(&mut other, column, 1, 0, 0xcc), Status::NotOwner);
    assert_eq!(rig.data(), before);
    let total = rig.layout.columns;
    for extent in 1..total {
        assert_eq!(rig.column(&mut other, u64::from(extent), 0).0, Status::Ok);
    }
    assert_eq!(rig.column(&mut other, 5000, 0).0, Status::NotFree, "the last one is the first partition's");
}

#[test]
fn op18_a_released_column_remembers_its_last_owner_and_number() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.release(column);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    // Without the partition's own record the column still names the number.
    let page = crate::fence::record::page_of(PartitionId(7), 2);
    for slot in 0..2 {
        let blank = crate::fence::RecordPage {
            device: DeviceId(0xd1),
            page,
            sequence: 100 + u64::from(slot),
            records: Vec::new(),
        };
        let mut out = Writer::new();
        blank.encode(&mut out);
        let at = rig.layout.record_slot(page, slot) as usize;
        rig.media[0].durable[at..at + 4096].copy_from_slice(&out.bytes);
    }
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(1, 4)), stale(5), "the superseded primary fails");
    let mut twin = head.clone();
    twin.stamp.grant = GrantId(1);
    assert_eq!(rig.reserve(&mut twin), stale(5), "the grant tells who held it");
    rig.restart();
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_eq!(rig.reserve(&mut Head::new(1, 6)), Status::Ok);
}

#[test]
fn ef18_after_a_restart_old_tokens_are_refused_and_the_current_primary_reclaims() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    rig.crash();
    let before = rig.data();
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::NoToken);
    assert_eq!(rig.data(), before);
    assert_eq!(rig.reserve(&mut Head::new(2, 4)), stale(5), "a superseded head cannot win the race");
    let old_secret = head.secret;
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_ne!(head.secret, old_secret);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
    assert_eq!(rig.data()[..UNIT], [1; UNIT]);
}

#[test]
fn p22_a_repeated_reserve_is_answered_alike_and_voids_nothing() {
    let mut rig = Rig::new();
    let mut head = Head::new(1, 5);
    let msg = head.reserve();
    let first = rig.one(&head, msg.clone());
    head.keep(&first);
    let column = rig.column(&mut head, 1, 0).1;
    let secret = head.secret;
    let again = rig.one(&head, msg);
    head.keep(&again);
    assert_eq!(head.secret, secret);
    assert_eq!(rig.reserve(&mut head), Status::Ok, "another request of the same holder");
    assert_eq!(head.secret, secret);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
}

#[test]
fn p20_a_pending_number_counts_as_stored_and_a_higher_one_cancels_it() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    rig.hold = rig.data_writes();
    let msg = old.write(&rig.pool, column, 1, 0, &[5]);
    assert!(rig.ask(&old, msg).is_empty(), "in flight");
    let mut seven = Head::new(2, 7);
    let msg = seven.reserve();
    assert!(rig.ask(&seven, msg).is_empty(), "drains");
    assert_eq!(rig.reserve(&mut Head::new(3, 6)), stale(7));
    let mut eight = Head::new(4, 8);
    let msg = eight.reserve();
    let cancelled = rig.ask(&eight, msg);
    assert_eq!(cancelled.iter().map(status_of).collect::<Vec<_>>(), [stale(8)], "seven is told");
    let before = rig.sent.len();
    rig.let_go();
    let answers: Vec<_> = rig.sent[before..].iter().map(|(to, msg)| (to.0, status_of(msg))).collect();
    assert_eq!(answers, [(1, Status::Ok), (4, Status::Ok)], "five's write ended, then eight was granted");
    rig.crash();
    assert_eq!(rig.reserve(&mut seven), stale(8));
}

#[test]
fn p20_a_record_that_lands_late_does_not_lower_the_number() {
    let mut rig = Rig::new();
    rig.hold = rig.record_writes();
    let mut six = Head::new(1, 6);
    let msg = six.reserve();
    assert!(rig.ask(&six, msg).is_empty(), "its record is being written");
    let mut seven = Head::new(2, 7);
    let msg = seven.reserve();
    assert_eq!(rig.ask(&seven, msg).iter().map(status_of).collect::<Vec<_>>(), [stale(7)]);
    let before = rig.sent.len();
    rig.let_go();
    let answers: Vec<_> = rig.sent[before..].iter().map(|(to, msg)| (to.0, status_of(msg))).collect();
    assert_eq!(answers, [(2, Status::Ok)]);
    rig.crash();
    assert_eq!(rig.reserve(&mut six), stale(7));
}

#[test]
fn p04_an_equal_number_with_another_grant_stops_both() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let mut twin = Head::new(2, 5);
    twin.stamp.grant = GrantId(999);
    assert_eq!(rig.reserve(&mut twin), stale(5));
    let told = Status::Fenced { partition: PartitionId(7), number: head.stamp.number, grant: GrantId(999) };
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), told);
    let told = Status::StaleNumber { number: head.stamp.number, grant: GrantId(999) };
    assert_eq!(rig.reserve(&mut head), told);
    assert!(
        rig.events.iter().any(|event| matches!(event, Event::Note(text) if text.contains("granted twice")))
    );
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok, "a higher number settles it");
}

#[test]
fn fence_drains_a_grant_waits_for_every_write_admitted_before() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    rig.hold = rig.data_writes();
    for stripe in 0..3 {
        let msg = old.write(&rig.pool, column, 1, stripe, &[0x55]);
        assert!(rig.ask(&old, msg).is_empty());
    }
    let mut new = Head::new(2, 6);
    let msg = new.reserve();
    assert!(rig.ask(&new, msg).is_empty(), "drains");
    assert_eq!(rig.write(&mut old, column, 1, 9, 0x55), fenced(6), "admission is closed at once");
    assert_eq!(rig.write(&mut new, column, 1, 9, 0x66), Status::Retry, "and not yet open for the new one");
    for left in (0..3).rev() {
        let cmd = rig.held.remove(0);
        rig.carry_out(cmd);
        rig.pump();
        let granted =
            rig.sent.iter().any(|(to, msg)| *to == NodeId(2) && matches!(msg, Msg::Reserved { .. }));
        assert_eq!(granted, left == 0, "the grant comes with the last one and not before");
    }
}

#[test]
fn fence_drains_column_records_too() {
    let mut rig = Rig::new();
    let (mut old, _) = rig.granted(5);
    rig.hold = rig.table_writes();
    let msg = old.column_reserve(2, 0);
    assert!(rig.ask(&old, msg).is_empty());
    let mut new = Head::new(2, 6);
    let msg = new.reserve();
    assert!(rig.ask(&new, msg).is_empty(), "the record of the old holder's column is on its way");
    let before = rig.sent.len();
    rig.let_go();
    let order: Vec<_> = rig.sent[before..].iter().map(|(to, _)| to.0).collect();
    assert_eq!(order, [1, 2]);
}

#[test]
fn op05_a_drain_that_does_not_end_makes_the_device_suspect_until_it_does() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    rig.hold = rig.data_writes();
    let msg = old.write(&rig.pool, column, 1, 0, &[0x55]);
    assert!(rig.ask(&old, msg).is_empty());
    let mut new = Head::new(2, 6);
    let msg = new.reserve();
    assert!(rig.ask(&new, msg).is_empty());
    let due = rig.sled.deadline().expect("the drain is bounded");
    assert!(due <= rig.now + Duration::from_millis(500));
    rig.now = rig.now + Duration::from_millis(500);
    let before = rig.sent.len();
    rig.pump();
    assert_eq!(status_of(&rig.sent[before].1), Status::DeviceError);
    assert_eq!(rig.state(), DeviceState::Suspect);
    assert!(rig.events.iter().any(|event| matches!(event, Event::DeviceFailed { .. })));
    assert_eq!(rig.reserve(&mut new), Status::DeviceError);
    assert_eq!(rig.reserve(&mut Head::new(3, 9).of(8)), Status::DeviceError, "the whole device is suspect");
    rig.let_go();
    assert_eq!(rig.state(), DeviceState::Ready);
    assert_eq!(rig.reserve(&mut Head::new(3, 5)), stale(6), "the number stayed stored");
    assert_eq!(rig.reserve(&mut new), Status::Ok);
    assert_eq!(rig.write(&mut old, column, 1, 1, 0x55), fenced(6));
    assert_eq!(rig.write(&mut new, column, 1, 1, 0x66), Status::Ok);
}

#[test]
fn a_record_write_that_hangs_or_fails_is_a_device_error_and_keeps_the_number() {
    let mut rig = Rig::new();
    rig.hold = rig.record_writes();
    let mut head = Head::new(1, 5);
    let msg = head.reserve();
    assert!(rig.ask(&head, msg).is_empty());
    rig.now = rig.now + Duration::from_secs(1);
    rig.pump();
    assert_eq!(status_of(&rig.sent[0].1), Status::DeviceError);
    assert_eq!(rig.state(), DeviceState::Suspect);
    rig.let_go();
    assert_eq!(rig.state(), DeviceState::Ready);
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    let records = rig.record_writes();
    rig.fail = Box::new(move |cmd| records(cmd).then_some(BlockError::Io));
    let mut next = Head::new(2, 6);
    assert_eq!(rig.reserve(&mut next), Status::DeviceError);
    rig.fail = Box::new(|_| None);
    assert_eq!(rig.reserve(&mut head), stale(6), "the failed record may have landed");
    assert_eq!(rig.reserve(&mut next), Status::Ok, "its holder may ask again");
    assert_eq!(rig.reserve(&mut Head::new(2, 7)), Status::Ok);
}

#[test]
fn p05_reservations_of_one_turn_share_a_record_page() {
    let mut rig = Rig::new();
    rig.done.clear();
    let mut heads: Vec<_> = (0..40).map(|n| Head::new(1, 5).of(2 * n)).collect();
    for head in &mut heads {
        let msg = head.reserve();
        rig.deliver(&head.clone(), msg);
    }
    rig.pump();
    let granted = rig.sent.iter().filter(|(_, msg)| status_of(msg).is_ok()).count();
    let writes = rig.done.iter().filter(|done| done.0).count();
    assert_eq!((granted, writes), (40, 2), "new records go to both slots, all at once");
    rig.done.clear();
    for head in &mut heads {
        head.stamp.number.counter = 6;
        let msg = head.reserve();
        rig.deliver(&head.clone(), msg);
    }
    rig.pump();
    assert_eq!(rig.done.iter().filter(|done| done.0).count(), 1, "known ones to one slot");
}

#[test]
fn a_full_record_page_refuses_new_partitions_and_nothing_else() {
    let mut rig = Rig::new();
    for n in 0..62 {
        assert_eq!(rig.reserve(&mut Head::new(1, 5).of(2 * n)), Status::Ok);
    }
    assert_eq!(rig.reserve(&mut Head::new(1, 5).of(2 * 62)), Status::NotFree);
    assert_eq!(rig.reserve(&mut Head::new(1, 5).of(1)), Status::Ok, "another page has room");
    assert_eq!(rig.reserve(&mut Head::new(1, 6).of(0)), Status::Ok);
}

#[test]
fn takeover_cost_does_not_depend_on_the_number_of_columns() {
    let mut rig = Rig::new();
    let (mut head, _) = rig.granted(5);
    for extent in 2..20 {
        assert_eq!(rig.column(&mut head, extent, 0).0, Status::Ok);
    }
    rig.done.clear();
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    assert_eq!(rig.done.len(), 1, "one record page write: {:?}", rig.done);
}

#[test]
fn the_number_zero_is_no_number() {
    let mut rig = Rig::new();
    let mut head = Head::new(1, 0);
    head.stamp.number = Number::ZERO;
    assert_eq!(rig.reserve(&mut head), Status::BadRequest);
}
