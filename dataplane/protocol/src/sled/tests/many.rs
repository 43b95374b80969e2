//! What a claim costs a sled that holds few or many columns (EF-15, P-05, P-21, P-27), and what many claims of one turn do.

use super::*;

/// Commands to the device, and answers, from the request of a new number to its grant, on a device that holds
/// so many columns of the partition.
fn claim(columns: u32) -> (Vec<(bool, usize, bool)>, usize) {
    // A unit a column, and its two pages.
    let device_bytes = (u64::from(columns) + 2) * 3 * 4096 + (4 << 20);
    let small = FormatSpec { device_bytes, column_bytes: UNIT as u64, ..spec(0xd1) };
    let mut rig = Rig::unstarted(vec![Medium::formatted(&small)], Faults::default(), |_| {});
    rig.pump();
    let mut old = Head::new(1, 5);
    assert_eq!(rig.reserve(&mut old), Status::Ok);
    for extent in 0..columns {
        let (status, _) = rig.column(&mut old, u64::from(extent) + 1, 0);
        assert_eq!(status, Status::Ok);
    }
    let status = rig.sled.status();
    assert!(status.devices[0].columns - status.devices[0].free == columns);
    rig.done.clear();
    let mut new = Head::new(2, 6);
    let msg = new.reserve();
    let answers = rig.ask(&new, msg);
    assert!(matches!(answers.as_slice(), [Msg::Reserved { status: Status::Ok, .. }]), "{answers:?}");
    let done = rig.done.iter().map(|(write, _, bytes, fua)| (*write, *bytes, *fua)).collect();
    (done, answers.len())
}

/// A volume of 100,000 columns has 16,667 on each of six sleds. The request, the answer, and what the device is
/// asked for are the same as with one or two columns: the record of the partition is written, durably.
#[test]
fn a_claim_of_10_1000_and_100000_columns_costs_each_sled_the_same() {
    let few = claim(2);
    assert_eq!(few.1, 1);
    assert!(!few.0.is_empty() && few.0.len() <= 2, "{few:?}");
    assert_eq!(claim(167), few);
    assert_eq!(claim(16_667), few);
}

/// Record writes for a take-over of so many partitions, whose reservations arrive in one turn.
fn record_writes(partitions: u64, faults: Faults) -> usize {
    let mut rig = Rig::with(faults);
    for partition in 1..=partitions {
        assert_eq!(rig.reserve(&mut Head::new(1, 5).of(partition)), Status::Ok);
    }
    rig.done.clear();
    rig.sent.clear();
    for partition in 1..=partitions {
        let mut head = Head::new(2, 6).of(partition);
        let msg = head.reserve();
        rig.deliver(&head, msg);
    }
    rig.pump();
    assert_eq!(rig.sent.len() as u64, partitions);
    assert!(rig.sent.iter().all(|(_, msg)| status_of(msg).is_ok()), "{:?}", rig.sent);
    let records_end = rig.layout.columns_at;
    rig.done.iter().filter(|(write, at, ..)| *write && *at < records_end).count()
}

/// A head that takes many partitions over has each of sixty devices make one record durable a page, and not one
/// a partition: they share pages, and the pages their writes.
#[test]
fn p05_the_claims_of_a_turn_share_their_record_writes() {
    assert_eq!(record_writes(1, Faults::default()), 1);
    let shared = record_writes(24, Faults::default());
    assert!(shared <= 2, "one write carries what came before it began, another the rest: {shared}");
    let each = Faults { record_each: true, ..Faults::default() };
    assert_eq!((record_writes(1, each), record_writes(24, each)), (1, 24), "which is what P-05 forbids");
}
