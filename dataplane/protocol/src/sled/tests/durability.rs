//! What survives: crashes at every command, with a volatile cache that is lost; moved devices.

use super::*;

/// Carries out the first `count` commands of what `act` causes, then loses power. Returns what was answered
/// before that.
fn crash_after(rig: &mut Rig, count: usize, act: impl Fn(&mut Rig)) -> Vec<Msg> {
    let before = rig.sent.len();
    let left = std::cell::Cell::new(count);
    rig.hold = Box::new(move |_| {
        let stop = left.get() == 0;
        left.set(left.get().saturating_sub(1));
        stop
    });
    act(rig);
    let answers = rig.sent[before..].iter().map(|(_, msg)| msg.clone()).collect();
    rig.crash();
    answers
}

#[test]
fn fence_is_durable_a_crash_right_after_a_grant_keeps_its_record() {
    // Whatever the number of commands that completed: if the grant was answered, an older head is refused.
    for count in 0..4 {
        for stored in [false, true] {
            let mut rig = Rig::new();
            if stored {
                assert_eq!(rig.reserve(&mut Head::new(9, 5)), Status::Ok);
            }
            let answers = crash_after(&mut rig, count, |rig| {
                let mut head = Head::new(1, 6);
                let msg = head.reserve();
                rig.deliver(&head, msg);
                rig.pump();
            });
            let needed = if stored { 1 } else { 2 };
            assert_eq!(answers.len(), usize::from(count >= needed), "{count} commands, stored {stored}");
            let older = rig.reserve(&mut Head::new(9, 5));
            if answers.is_empty() {
                assert!(older == stale(6) || older == Status::Ok || older == stale(5), "{older:?}");
            } else {
                assert_eq!(older, stale(6), "OP-02: no older primary reclaims");
            }
        }
    }
}

#[test]
fn p18_a_new_partition_is_in_both_slots_before_its_grant_whatever_delayed_it() {
    // The record reached one slot, then: power was lost, or the device was slow and the claim given up.
    for slow in [false, true] {
        let mut rig = Rig::new();
        let mut head = Head::new(1, 6);
        if slow {
            rig.hold = rig.record_writes();
            let msg = head.reserve();
            assert!(rig.ask(&head, msg).is_empty());
            rig.now = rig.now + std::time::Duration::from_secs(1);
            rig.pump();
            rig.let_go();
        } else {
            let answers = crash_after(&mut rig, 1, |rig| {
                let mut head = Head::new(1, 6);
                let msg = head.reserve();
                rig.deliver(&head, msg);
                rig.pump();
            });
            assert!(answers.is_empty());
        }
        assert_eq!(rig.reserve(&mut head), Status::Ok);
        for slot in 0..2 {
            let at = rig.layout.record_slot(1, slot) as usize;
            let page = &rig.media[0].durable[at..at + 4096];
            let found = crate::fence::RecordPage::decode(page, DeviceId(0xd1), 1).expect("good");
            assert_eq!(found.records.len(), 1, "slow {slow}, slot {slot}");
        }
    }
}

#[test]
fn fence_is_durable_every_record_write_is_forced_to_the_medium() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
    let release = head.release(column);
    assert_eq!(rig.status(&head, release), Status::Ok);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    let writes: Vec<_> = rig.done.iter().filter(|done| done.0).collect();
    assert!(writes.len() >= 6 && writes.iter().all(|done| done.3), "{writes:?}");
    assert!(rig.media[0].cache.is_empty());
}

#[test]
fn acked_is_durable_a_column_write_survives_a_crash_once_answered_and_reads_right_or_not_at_all() {
    for count in 0..4 {
        let mut rig = Rig::new();
        let (head, column) = rig.granted(5);
        let answers = crash_after(&mut rig, count, |rig| {
            let mut head = head.clone();
            let msg = head.write(&rig.pool, column, 1, 4, &[1, 2, 3, 4]);
            rig.deliver(&head, msg);
            rig.pump();
        });
        assert_eq!(answers.len(), usize::from(count >= 2), "data, table, answer");
        let mut reader = head.clone();
        let (status, bytes) = rig.read(&mut reader, column, 4, 4);
        if answers.is_empty() {
            assert_eq!(status, Status::Corrupt, "a unit without its table entry is not there");
            let mut head = head.clone();
            assert_eq!(rig.reserve(&mut head), Status::Ok);
            assert_eq!(rig.write(&mut head, column, 1, 4, 7), Status::Ok, "and may be written");
        } else {
            assert_eq!(status, Status::Ok);
            assert_eq!((bytes[0], bytes[3 * UNIT]), (1, 4));
        }
    }
}

#[test]
fn a_crash_at_any_command_of_a_column_reserve_leaves_it_whole_or_undone() {
    for count in 0..3 {
        let mut rig = Rig::new();
        let (head, first) = rig.granted(5);
        let answers = crash_after(&mut rig, count, |rig| {
            let mut head = head.clone();
            let msg = head.column_reserve(2, 1);
            rig.deliver(&head, msg);
            rig.pump();
        });
        let mut head = head.clone();
        let ask = Msg::ColumnList { req: ReqId(1), device: head.device, partition: PartitionId(7), from: 0 };
        let Msg::ColumnListed { columns, .. } = rig.one(&head, ask) else {
            panic!("a list");
        };
        let expected = 1 + usize::from(count >= 1);
        assert_eq!((columns.len(), answers.len()), (expected, expected - 1));
        assert_eq!(columns[0].column, first.column);
        assert_eq!(rig.reserve(&mut head), Status::Ok);
        let again = rig.column(&mut head, 2, 1);
        assert_eq!(again.0, Status::Ok);
        assert_eq!(rig.sled.status().devices[0].free, rig.layout.columns - 2, "reserved once in all");
    }
}

#[test]
fn ef18_a_moved_device_takes_its_numbers_and_columns_along() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x5a), Status::Ok);
    let moved = rig.media.remove(0);
    let mut other =
        Rig::unstarted(vec![Medium::formatted(&spec(0xd2)), moved], Faults::default(), |config| {
            config.node = NodeId(51)
        });
    other.pump();
    let before = other.media[1].durable.clone();
    assert_eq!(other.write(&mut head, column, 1, 1, 1), Status::NoToken, "tokens do not travel");
    assert!(other.media[1].durable == before);
    assert_eq!(other.reserve(&mut Head::new(3, 4)), stale(5), "numbers do");
    assert_eq!(other.read(&mut head, column, 0, 1).1, vec![0x5a; UNIT], "found by device, not by sled");
    assert_eq!(other.reserve(&mut head), Status::Ok);
    assert_eq!(other.write(&mut head, column, 1, 1, 1), Status::Ok);
    let (status, fresh) = other.column(&mut head, 2, 0);
    assert_eq!((status, fresh.sled, fresh.device), (Status::Ok, NodeId(51), DeviceId(0xd1)));
}

#[test]
fn ef18_the_devices_of_a_sled_are_fenced_each_on_its_own() {
    let media = vec![Medium::formatted(&spec(0xd1)), Medium::formatted(&spec(0xd2))];
    let mut rig = Rig::unstarted(media, Faults::default(), |_| {});
    rig.pump();
    let (mut head, column) = rig.granted(5);
    head.device = DeviceId(0xd2);
    let first_secret = head.secret;
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_ne!(head.secret, first_secret, "a grant is good for one device");
    let on_second = ColumnRef { device: DeviceId(0xd2), ..column };
    assert_eq!(rig.write(&mut head, on_second, 1, 0, 1), Status::NotOwner);
    head.secret = first_secret;
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
}

#[test]
fn p17_nothing_is_served_before_the_records_were_read() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    rig.hold = Box::new(|cmd| matches!(&cmd.op, BlockOp::Read { .. }));
    rig.start();
    rig.pump();
    assert!(!rig.sled.recovered() && !rig.sled.idle());
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Retry, "which device it is, is not known yet");
    for _ in 0..3 {
        let cmds = std::mem::take(&mut rig.held);
        for cmd in cmds {
            rig.carry_out(cmd);
        }
        if !rig.sled.recovered() {
            assert_eq!(rig.reserve(&mut head), Status::Retry);
            assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Retry);
            assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Retry);
        }
    }
    assert!(rig.sled.recovered());
    rig.hold = Box::new(|_| false);
    assert_eq!(rig.reserve(&mut head), Status::Ok);
}

#[test]
fn one_writer_random_histories_never_change_a_byte_for_an_old_number() {
    // Writes of two heads in random order with takeovers, held commands and crashes between; after every
    // grant the medium may change only through the newest holder, and answered units always read back.
    for seed in 1..60u64 {
        let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut rig = Rig::new();
        let (mut head, column) = rig.granted(1);
        let mut number = 1;
        let mut acked: Vec<(u32, u8)> = Vec::new();
        let mut old: Vec<Head> = Vec::new();
        for step in 0..60u8 {
            match draw(6) {
                0 => {
                    number += 1;
                    old.push(head.clone());
                    head = Head::new(1 + (number % 3) as u32, number);
                    assert_eq!(rig.reserve(&mut head), Status::Ok);
                }
                1 => {
                    rig.crash();
                    assert_eq!(rig.reserve(&mut head), Status::Ok);
                }
                2 if !old.is_empty() => {
                    let before = rig.media[0].durable.clone();
                    let mut stale = old[draw(old.len() as u64) as usize].clone();
                    let status = rig.write(&mut stale, column, 1, draw(16) as u32, 0xff);
                    assert!(matches!(status, Status::Fenced { .. }), "{status:?}");
                    assert!(rig.media[0].durable == before, "seed {seed}");
                }
                _ => {
                    let stripe = draw(16) as u32;
                    let known = acked.iter().any(|(other, _)| *other == stripe);
                    let status = rig.write(&mut head, column, 1, stripe, step);
                    assert_eq!(status, if known { Status::BadRequest } else { Status::Ok });
                    if !known {
                        acked.push((stripe, step));
                    }
                }
            }
            for (stripe, fill) in &acked {
                let (status, bytes) = rig.read(&mut head, column, *stripe, 1);
                assert_eq!(status, Status::Ok, "seed {seed}");
                assert!(bytes == vec![*fill; UNIT], "seed {seed} stripe {stripe}");
            }
            // Answers hold the pool's buffers.
            rig.sent.clear();
        }
    }
}
