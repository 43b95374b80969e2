//! Every rule of the sled broken on purpose, one at a time: what the other tests forbid must then happen.
//! A canary that changes nothing would mean that the rule is not tested.

use super::*;

fn broken(switch: impl FnOnce(&mut Faults)) -> Rig {
    let mut faults = Faults::default();
    switch(&mut faults);
    Rig::with(faults)
}

/// A takeover while a write of the old holder is in flight: whether it was granted at once.
fn granted_over_a_write_in_flight(rig: &mut Rig) -> bool {
    let (mut old, column) = rig.granted(5);
    rig.hold = rig.data_writes();
    let msg = old.write(&rig.pool, column, 1, 0, &[0x55]);
    assert!(rig.ask(&old, msg).is_empty());
    let mut new = Head::new(2, 6);
    let msg = new.reserve();
    rig.ask(&new, msg).iter().any(|msg| status_of(msg).is_ok())
}

#[test]
fn canary_p15_unchecked_reads_return_bytes_of_another_tenant() {
    let mut rig = broken(|faults| faults.read_unchecked = true);
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x42), Status::Ok);
    let mut other = Head::new(3, 5).of(8);
    assert_eq!(rig.read(&mut other, column, 0, 1), (Status::Ok, vec![0x42; UNIT]));
}

#[test]
fn canary_p16_a_permit_that_ends_at_submit_lets_a_grant_overtake_a_write() {
    assert!(granted_over_a_write_in_flight(&mut broken(|faults| faults.permit_ends_at_submit = true)));
    assert!(!granted_over_a_write_in_flight(&mut Rig::new()));
}

#[test]
fn canary_fence_drains_without_a_drain_an_old_write_lands_after_the_grant() {
    let mut rig = broken(|faults| faults.no_drain = true);
    assert!(granted_over_a_write_in_flight(&mut rig));
    let before = rig.data();
    rig.let_go();
    assert_ne!(rig.data(), before, "a byte changed for the old holder");
}

#[test]
fn canary_p17_serving_before_recovery_forgets_the_stored_number() {
    let mut rig = broken(|faults| faults.serve_before_recovery = true);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok, "the stale head got a grant");
}

#[test]
fn canary_p18_a_trusted_survivor_lets_a_stale_head_reclaim() {
    let mut rig = broken(|faults| faults.trust_rotten_slot = true);
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    for slot in 0..2 {
        let at = rig.layout.record_slot(1, slot) as usize;
        let page = &rig.media[0].durable[at..at + 4096];
        let found = crate::fence::RecordPage::decode(page, DeviceId(0xd1), 1).expect("good");
        if found.records[0].number.counter == 6 {
            rig.media[0].durable[at + 100] ^= 1;
        }
    }
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok, "5 reclaims though 6 was granted");
}

#[test]
fn canary_p19_an_ignored_generation_lets_a_late_write_through() {
    let mut rig = broken(|faults| faults.ignore_generation = true);
    let (mut head, column) = rig.granted(5);
    let late = head.write(&rig.pool, column, 1, 0, &[0xbd]);
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::Ok);
    while rig.column(&mut head, 1, 0).1.column != column.column {
        head.stamp.partition = PartitionId(7);
        let extent = head.req + 1000;
        if rig.column(&mut head, extent, 0).1.column == column.column {
            break;
        }
    }
    assert_eq!(rig.status(&head, late), Status::Ok, "the old generation's write changed the new one");
}

#[test]
fn canary_p20_a_forgotten_pending_number_grants_the_lower_one() {
    let mut rig = broken(|faults| faults.pending_not_stored = true);
    rig.hold = rig.record_writes();
    let mut seven = Head::new(2, 7);
    let msg = seven.reserve();
    assert!(rig.ask(&seven, msg).is_empty());
    let mut six = Head::new(1, 6);
    let msg = six.reserve();
    let _ = rig.ask(&six, msg);
    rig.let_go();
    let granted = rig.sent.iter().any(|(to, msg)| *to == NodeId(1) && status_of(msg).is_ok());
    assert!(granted, "six was granted after seven was pending");
}

#[test]
fn canary_p21_any_token_is_taken() {
    let mut rig = broken(|faults| faults.accept_any_token = true);
    let (mut head, column) = rig.granted(5);
    head.secret = GrantSecret(1);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
}

#[test]
fn canary_p22_a_repeated_reserve_voids_the_first_tokens() {
    let mut rig = broken(|faults| faults.dup_reserve_voids = true);
    let mut head = Head::new(1, 5);
    let msg = head.reserve();
    let first = rig.one(&head, msg.clone());
    head.keep(&first);
    let column = rig.column(&mut head, 1, 0).1;
    assert_eq!(status_of(&rig.one(&head, msg)), Status::Ok);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::NoToken, "a false fence");
}

#[test]
fn canary_p23_rot_passes_when_checksums_are_not_compared() {
    let mut rig = broken(|faults| faults.unit_crc_unchecked = true);
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x42), Status::Ok);
    let at = rig.layout.column_data(column.column) as usize;
    rig.media[0].durable[at] ^= 1;
    let (status, bytes) = rig.read(&mut head, column, 0, 1);
    assert!(status.is_ok() && bytes[0] == 0x43, "wrong bytes left the sled");
}

#[test]
fn canary_p04_an_ignored_grant_lets_a_second_store_take_over() {
    let mut rig = broken(|faults| faults.grant_ignored = true);
    let (_, _) = rig.granted(5);
    let mut twin = Head::new(2, 5);
    twin.stamp.grant = GrantId(999);
    assert_eq!(rig.reserve(&mut twin), Status::Ok, "two heads hold number 5");
}

#[test]
fn canary_one_writer_an_old_number_changes_bytes() {
    let mut rig = broken(|faults| faults.accept_old_number = true);
    let (mut old, column) = rig.granted(5);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    let before = rig.data();
    assert_eq!(rig.write(&mut old, column, 1, 0, 0xbd), Status::Ok);
    assert_ne!(rig.data(), before);
}

#[test]
fn canary_fence_is_durable_a_token_before_the_record_is_outlived_by_an_older_head() {
    let mut rig = broken(|faults| faults.token_before_record = true);
    rig.hold = rig.record_writes();
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok, "granted, nothing on the medium");
    rig.crash();
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok, "the old primary reclaims");
}

#[test]
fn canary_fence_is_durable_a_record_in_a_volatile_cache_is_lost_at_a_crash() {
    let mut rig = broken(|faults| faults.record_without_fua = true);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    rig.crash();
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok, "the old primary reclaims");
}

#[test]
fn canary_p09_data_in_a_volatile_cache_is_lost_at_a_crash() {
    let mut rig = broken(|faults| faults.data_without_fua = true);
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x42), Status::Ok);
    rig.crash();
    assert_ne!(rig.read(&mut head, column, 0, 1).0, Status::Ok, "an acknowledged unit is gone");
}
