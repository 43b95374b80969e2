//! Damaged media: rotten slots (P-18, OP-21), bit flips anywhere, foreign, newer and shortened devices;
//! inspection.

use super::format::Verdict;
use super::inspect::{Inspection, inspect};
use super::*;

/// Overwrites the checksum of a page.
fn rot(rig: &mut Rig, at: u64) {
    rig.media[0].durable[at as usize + 4095] ^= 0xff;
}

/// The slot of the partition's record page that holds the higher sequence.
fn newest_slot(rig: &Rig, page: u32) -> u8 {
    let sequence = |slot| {
        let at = rig.layout.record_slot(page, slot) as usize;
        crate::fence::RecordPage::decode(&rig.media[0].durable[at..at + 4096], DeviceId(0xd1), page)
            .expect("good")
            .sequence
    };
    u8::from(sequence(1) > sequence(0))
}

/// Number 5 stored, then 6; the slot with 6 rots.
fn rotten(faults: Faults) -> Rig {
    let mut rig = Rig::with(faults);
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::Ok);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    let at = rig.layout.record_slot(1, newest_slot(&rig, 1));
    rot(&mut rig, at);
    rig.restart();
    rig
}

#[test]
fn p18_with_one_rotten_slot_only_numbers_above_the_survivor_are_granted() {
    let mut rig = rotten(Faults::default());
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), stale(5), "6 may have been granted");
    assert!(rig.events.iter().any(|event| matches!(event, Event::Corrupt { place: "partition record", .. })));
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), stale(5), "the doubt outlives restarts");
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok, "above the survivor");
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok, "and then there is no doubt any more");
}

#[test]
fn p18_a_partition_that_is_absent_from_the_survivor_was_never_granted() {
    for slot in 0..2 {
        let mut rig = Rig::new();
        assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
        let at = rig.layout.record_slot(1, slot);
        rot(&mut rig, at);
        rig.restart();
        assert_eq!(rig.reserve(&mut Head::new(1, 5)), stale(6), "both slots name it");
        assert_eq!(rig.reserve(&mut Head::new(1, 7)), Status::Ok);
        rot(&mut rig, at);
        rig.restart();
        assert_eq!(rig.reserve(&mut Head::new(2, 6)), stale(7), "both slots were rewritten");
    }
}

#[test]
fn p18_with_two_rotten_slots_the_device_is_quarantined_for_the_page() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    for slot in 0..2 {
        let at = rig.layout.record_slot(1, slot);
        rot(&mut rig, at);
    }
    rig.restart();
    assert_eq!(rig.reserve(&mut Head::new(1, 50)), Status::DeviceError);
    assert_eq!(rig.write(&mut head, column, 1, 1, 1), Status::NoToken);
    assert_eq!(rig.read(&mut head, column, 0, 1), (Status::Ok, vec![9; UNIT]), "columns describe themselves");
    assert_eq!(rig.reserve(&mut Head::new(1, 5).of(8)), Status::Ok, "other pages are good");
}

#[test]
fn p19_a_free_column_with_a_rotten_slot_skips_a_generation() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    // The reservation lies in one slot, "free, generation 0" in the other: lose the reservation.
    let slot = (0..2)
        .find(|slot| {
            let at = rig.layout.column_slot(column.column, 0, *slot) as usize;
            let page = &rig.media[0].durable[at..at + 4096];
            super::column::ColumnPage::decode(page, DeviceId(0xd1), column.column, 0)
                .is_ok_and(|page| page.record.generation == 1)
        })
        .expect("the reservation is there");
    let at = rig.layout.column_slot(column.column, 0, slot);
    rot(&mut rig, at);
    rig.restart();
    rig.restart();
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::NotOwner);
    for extent in 50..50 + rig.layout.columns {
        let (status, got) = rig.column(&mut head, u64::from(extent), 0);
        assert_eq!(status, Status::Ok);
        assert!(got.column != column.column || got.generation > column.generation, "generation 1 is burnt");
    }
}

#[test]
fn op21_a_column_with_two_rotten_slots_is_quarantined() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    for slot in 0..2 {
        let at = rig.layout.column_slot(column.column, 0, slot);
        rot(&mut rig, at);
    }
    rig.restart();
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    assert_eq!(rig.read(&mut head, column, 0, 1).0, Status::Corrupt);
    assert_eq!(rig.write(&mut head, column, 1, 1, 1), Status::DeviceError);
    let status = rig.sled.status().devices[0].clone();
    assert_eq!((status.quarantined, status.free), (1, rig.layout.columns - 1));
    for extent in 0..status.free {
        assert_ne!(rig.column(&mut head, u64::from(extent), 1).1.column, column.column);
    }
    assert_eq!(rig.column(&mut head, 999, 0).0, Status::NotFree);
}

#[test]
fn a_lost_table_slot_costs_its_newest_units_and_never_gives_wrong_bytes() {
    for slot in 0..2 {
        let mut rig = Rig::new();
        let (mut head, column) = rig.granted(5);
        for stripe in 0..4 {
            assert_eq!(rig.write(&mut head, column, 1, stripe, stripe as u8 + 1), Status::Ok);
        }
        let at = rig.layout.column_slot(column.column, 0, slot);
        rot(&mut rig, at);
        rig.restart();
        let good = (0..4).filter(|stripe| {
            let (status, bytes) = rig.read(&mut head, column, *stripe, 1);
            assert!(status == Status::Corrupt || bytes == vec![*stripe as u8 + 1; UNIT], "{status:?}");
            status.is_ok()
        });
        assert!(good.count() >= 3, "at most the last write's units are lost");
        assert!(
            rig.events.iter().any(|event| matches!(event, Event::Repaired { place: "column record", .. }))
        );
        let mended = rig.counters().page_writes;
        assert_eq!(mended, 1, "the rotten slot was rewritten");
        rig.restart();
        assert_eq!(rig.counters().corrupt, 0, "and is good now");
    }
}

#[test]
fn op21_flipped_bits_anywhere_never_panic_and_never_give_wrong_bytes() {
    let mut base = Rig::new();
    let (head, column) = base.granted(5);
    let mut writer = head.clone();
    for stripe in 0..8 {
        assert_eq!(base.write(&mut writer, column, 1, stripe, stripe as u8 + 1), Status::Ok);
    }
    let image = base.media[0].clone();
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..150 {
        let mut medium = image.clone();
        let end = if round % 3 == 0 { 2 * 4096 } else { base.layout.data_at + 8 * UNIT as u64 };
        for _ in 0..1 + draw(40) {
            medium.durable[draw(end) as usize] ^= 1 << draw(8);
        }
        let mut rig = Rig::unstarted(vec![medium], Faults::default(), |_| {});
        rig.pump();
        assert!(rig.sled.recovered());
        let mut reader = head.clone();
        for stripe in 0..8 {
            let (status, bytes) = rig.read(&mut reader, column, stripe, 1);
            if status.is_ok() {
                assert_eq!(bytes, vec![stripe as u8 + 1; UNIT], "round {round}");
            }
        }
        assert_ne!(rig.reserve(&mut Head::new(9, 4)), Status::Ok, "no older number, whatever rotted");
        let status = rig.reserve(&mut Head::new(9, 6));
        assert!(matches!(status, Status::Ok | Status::DeviceError | Status::BadRequest), "{status:?}");
        assert!(rig.sled.idle());
    }
}

#[test]
fn a_record_page_of_another_place_is_not_believed() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 1), Status::Ok);
    // A misdirected write: the column's pages land on its neighbour.
    for slot in 0..2 {
        let from = rig.layout.column_slot(column.column, 0, slot) as usize;
        let to = rig.layout.column_slot(column.column + 1, 0, slot) as usize;
        rig.media[0].durable.copy_within(from..from + 4096, to);
    }
    rig.restart();
    assert_eq!(rig.sled.status().devices[0].quarantined, 1);
    let wrong = ColumnRef { column: column.column + 1, ..column };
    assert_eq!(rig.read(&mut head, wrong, 0, 1).0, Status::Corrupt);
}

#[test]
fn devices_that_are_not_ours_are_refused_with_the_reason_and_left_alone() {
    let formatted = Medium::formatted(&spec(0xd1));
    let mut foreign = Medium { durable: vec![0; 3 << 20], cache: Vec::new() };
    let blank = foreign.clone();
    foreign.durable[510] = 0x55;
    let mut damaged = formatted.clone();
    damaged.durable[200] ^= 1;
    damaged.durable[4096 + 200] ^= 1;
    let mut short = formatted.clone();
    short.durable.truncate(2 << 20);
    let tiny = Medium { durable: vec![0; 100], cache: Vec::new() };
    let mut other = formatted.clone();
    let theirs = Medium::formatted(&FormatSpec { rack: RackId(1), ..spec(0xd9) });
    other.durable.copy_from_slice(&theirs.durable);
    let media = vec![blank, foreign, damaged, short, other, tiny];
    let images: Vec<_> = media.iter().map(|medium| medium.durable.clone()).collect();
    let mut rig = Rig::unstarted(media, Faults::default(), |_| {});
    rig.pump();
    let states: Vec<_> = rig.sled.status().devices.iter().map(|device| device.state.clone()).collect();
    assert_eq!(states[0], DeviceState::Refused(Verdict::Blank));
    assert_eq!(states[1], DeviceState::Refused(Verdict::ForeignSignature));
    assert!(matches!(states[2], DeviceState::Refused(Verdict::Damaged(_))));
    assert!(matches!(states[3], DeviceState::Refused(Verdict::Damaged(_))));
    assert_eq!(states[4], DeviceState::Refused(Verdict::OtherRack(RackId(1))));
    assert!(matches!(states[5], DeviceState::Refused(Verdict::Damaged(_))));
    assert!(rig.media.iter().zip(&images).all(|(medium, image)| medium.durable == *image), "nothing written");
    assert_eq!(rig.reserve(&mut Head::new(1, 5)), Status::BadRequest);
}

#[test]
fn blocks_that_cannot_be_read_count_as_rotten_slots() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 9), Status::Ok);
    let bad = rig.layout.column_slot(column.column + 3, 0, 1);
    rig.start();
    rig.fail = Box::new(move |cmd| match &cmd.op {
        BlockOp::Read { offset, buf } => {
            (*offset..*offset + buf.len() as u64).contains(&bad).then_some(BlockError::Io)
        }
        _ => None,
    });
    rig.pump();
    assert_eq!(rig.state(), DeviceState::Ready);
    assert_eq!(rig.counters().corrupt, 1);
    assert_eq!(rig.read(&mut head, column, 0, 1), (Status::Ok, vec![9; UNIT]));
    rig.start();
    rig.fail = Box::new(|_| Some(BlockError::Io));
    rig.pump();
    assert_eq!(rig.state(), DeviceState::Failed("its superblock cannot be read"));
}

#[test]
fn a_bad_superblock_copy_is_written_anew_from_the_good_one() {
    for copy in 0..2u64 {
        let mut rig = Rig::new();
        let image = rig.media[0].durable.clone();
        rot(&mut rig, copy * 4096);
        rig.restart();
        assert_eq!(rig.state(), DeviceState::Ready);
        assert!(rig.events.iter().any(|event| matches!(event, Event::Corrupt { place: "superblock", .. })));
        assert!(rig.events.iter().any(|event| matches!(event, Event::Repaired { place: "superblock", .. })));
        assert!(rig.media[0].durable == image);
    }
}

fn look(rig: &Rig, data: bool) -> Result<Inspection, Verdict> {
    let durable = &rig.media[0].durable;
    inspect(durable.len() as u64, None, data, |at, len| Ok(durable[at as usize..at as usize + len].to_vec()))
}

#[test]
fn inspect_shows_superblock_records_and_columns_with_verdicts() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = head.write(&rig.pool, column, 1, 0, &[1, 2, 3]);
    assert_eq!(rig.status(&head, msg), Status::Ok);
    let seen = look(&rig, true).expect("ours");
    assert_eq!((seen.superblock, seen.copy_bad), (rig.layout, false));
    assert_eq!(seen.pages.len(), 1);
    assert_eq!(seen.pages[0].records[0].number, head.stamp.number);
    assert_eq!(seen.columns.len(), 1);
    let shown = &seen.columns[0];
    assert_eq!((shown.column, shown.units, shown.corrupt.len()), (column.column, 3, 0));
    assert_eq!(shown.record.map(|record| record.partition), Some(PartitionId(7)));
    let durable = rig.media[0].durable.clone();
    let stored = |partition| {
        let read = |at: u64, len: usize| Ok::<_, Verdict>(durable[at as usize..at as usize + len].to_vec());
        super::inspect::partition_record(&rig.layout, PartitionId(partition), read).expect("readable")
    };
    assert_eq!(stored(7).map(|record| (record.number, record.head)), Some((head.stamp.number, head.node)));
    assert_eq!(stored(9), None);
    let at = rig.layout.column_data(column.column) as usize + UNIT;
    rig.media[0].durable[at] ^= 1;
    let at = rig.layout.column_slot(column.column + 5, 0, 0);
    rot(&mut rig, at);
    let at = rig.layout.record_slot(0, 1);
    rot(&mut rig, at);
    rot(&mut rig, 0);
    let seen = look(&rig, true).expect("still ours");
    assert!(seen.copy_bad);
    assert_eq!(seen.columns[0].corrupt, [1]);
    assert!(!seen.columns[1].verdicts.good() && seen.columns[1].column == column.column + 5);
    assert!(!seen.pages[0].verdicts.good());
    rot(&mut rig, 4096);
    assert!(matches!(look(&rig, false), Err(Verdict::Damaged(_))));
    assert!(super::inspect::is_sled(&rig.media[0].durable[..8192]));
}

/// ENOSPC below a device: told once, new data is refused at once, everything else goes on, and when there is room it
/// is taken again without a word from anybody.
#[test]
fn p24_a_device_without_room_takes_no_new_data_until_there_is() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(1);
    assert_eq!(rig.write(&mut head, column, 1, 0, 7), Status::Ok);
    let data = rig.layout.data_at;
    let full = move |cmd: &BlockCmd| match &cmd.op {
        BlockOp::Write { offset, .. } if *offset >= data => Some(BlockError::NoSpace),
        _ => None,
    };
    rig.fail = Box::new(full);
    assert_eq!(rig.write(&mut head, column, 1, 1, 8), Status::DeviceError);
    assert_eq!(rig.state(), DeviceState::Full);
    let before = rig.done.len();
    for stripe in 2..5 {
        assert_eq!(rig.write(&mut head, column, 1, stripe, 9), Status::DeviceError);
    }
    assert_eq!(rig.column(&mut head, 2, 0).0, Status::NotFree, "no column for a new extent");
    assert_eq!(rig.done.len(), before, "refused without a try");
    let told = |rig: &Rig| {
        rig.events
            .iter()
            .filter(|event| matches!(event, Event::DeviceFailed { why, .. } if why.contains("no space")))
            .count()
    };
    assert_eq!(told(&rig), 1, "told once");
    // What needs no room: reads, another head's claim, releases.
    assert_eq!(rig.read(&mut head, column, 0, 1).1[..4], [7; 4]);
    let mut heir = Head::new(2, 2);
    assert_eq!(rig.reserve(&mut heir), Status::Ok);
    // Tries fail, ever more rarely.
    for _ in 0..40 {
        rig.now = rig.now + Duration::from_millis(250);
        rig.pump();
    }
    assert_eq!((rig.state(), told(&rig)), (DeviceState::Full, 1));
    rig.fail = Box::new(|_| None);
    for _ in 0..40 {
        rig.now = rig.now + Duration::from_millis(250);
        rig.pump();
    }
    assert_eq!(rig.state(), DeviceState::Ready);
    // The units that were tried mean nothing: they are written as any others.
    assert_eq!(rig.write(&mut heir, column, 1, 1, 5), Status::Ok);
    assert_eq!(rig.read(&mut heir, column, 1, 1).1[..4], [5; 4]);
    assert_eq!(rig.read(&mut heir, column, 0, 1).1[..4], [7; 4]);
    let (status, _) = rig.column(&mut heir, 2, 0);
    assert_eq!(status, Status::Ok);
}

/// The page of a table finds no room: nothing was written that could be tried, and time alone brings the next try.
#[test]
fn p24_a_page_without_room_is_waited_out() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(1);
    let data = rig.layout.data_at;
    rig.fail = Box::new(move |cmd: &BlockCmd| match &cmd.op {
        BlockOp::Write { offset, .. } if *offset < data => Some(BlockError::NoSpace),
        _ => None,
    });
    assert_eq!(rig.write(&mut head, column, 1, 0, 8), Status::DeviceError);
    assert_eq!(rig.state(), DeviceState::Full);
    rig.fail = Box::new(|_| None);
    rig.now = rig.now + Duration::from_secs(1);
    rig.pump();
    assert_eq!(rig.state(), DeviceState::Ready);
}

/// A device that holds nothing and finds no room for the page of its first column has none to give: it is not ill, and
/// counts none as free until there is room.
#[test]
fn ef22_a_device_without_room_for_its_first_column_has_none_to_give() {
    let mut rig = Rig::new();
    let mut head = Head::new(1, 1);
    assert_eq!(rig.reserve(&mut head), Status::Ok);
    let free = |rig: &mut Rig, head: &mut Head| {
        let asked = head.reserve();
        match rig.one(head, asked) {
            Msg::Reserved { status: Status::Ok, free, .. } => free,
            other => panic!("answered {other:?}"),
        }
    };
    let before = free(&mut rig, &mut head);
    assert!(before > 0);
    let columns = rig.layout.column_slot(0, 0, 0);
    rig.fail = Box::new(move |cmd: &BlockCmd| match &cmd.op {
        BlockOp::Write { offset, .. } if *offset >= columns => Some(BlockError::NoSpace),
        _ => None,
    });
    for _ in 0..20 {
        assert_eq!(rig.column(&mut head, 1, 0).0, Status::NotFree);
        assert_eq!((rig.state(), free(&mut rig, &mut head)), (DeviceState::Full, 0));
        rig.now = rig.now + Duration::from_secs(1);
        rig.pump();
    }
    rig.fail = Box::new(|_| None);
    assert_eq!(free(&mut rig, &mut head), before);
    assert_eq!(rig.column(&mut head, 1, 0).0, Status::Ok);
}
