//! Media that are blank, foreign, newer, damaged or rotten (P-03, P-06, P-29, NothingSilent), and the
//! formats' golden vectors.

mod log_support;

use log_support::*;
use palisade_isal::crc32c;
use palisade_protocol::log::format::*;
use palisade_protocol::log::inspect;
use palisade_protocol::log::page::{PAGE, PageHeader, PageKind};
use palisade_protocol::log::record::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::codec::{Reader, Writer};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

fn verdict(mem: &mut Mem, config: &LogConfig) -> Verdict {
    match recover(mem, config, &pool(), &mut Rng(5)) {
        Err(LogError::Refused(verdict)) => verdict,
        other => panic!("refused, not {:?}", other.map(|found| found.2)),
    }
}

#[test]
fn a_blank_device_is_formatted_only_where_told() {
    let config = LogConfig { format: None, ..config(12 << 20) };
    assert_eq!(verdict(&mut Mem::new(12 << 20), &config), Verdict::Blank);
}

#[test]
fn foreign_other_newer_and_damaged_devices_are_refused_with_their_reason() {
    let base = config(12 << 20);
    let mut foreign = Mem::new(12 << 20);
    foreign.bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]); // ext4
    assert_eq!(verdict(&mut foreign, &base), Verdict::ForeignSignature);

    let mut rig = Rig::new(1, base.clone());
    let whole = rig.mem.bytes.clone();
    let other_rack = LogConfig { rack: RackId(8), ..base.clone() };
    assert_eq!(verdict(&mut rig.mem, &other_rack), Verdict::OtherRack(RACK));
    let other_log = LogConfig { expect: Some(LogId(1)), ..base.clone() };
    assert_eq!(verdict(&mut rig.mem, &other_log), Verdict::OtherLog(LOG), "P-03");

    rig.mem.bytes[8] = 9;
    assert_eq!(verdict(&mut rig.mem, &base), Verdict::Newer { major: 9 });

    rig.mem.bytes = whole.clone();
    rig.mem.bytes[40] ^= 1;
    rig.mem.bytes[BLOCK + 40] ^= 1;
    assert!(matches!(verdict(&mut rig.mem, &base), Verdict::Damaged(_)));

    rig.mem.bytes = whole;
    let shrunk = LogConfig { device_bytes: 8 << 20, ..base };
    assert!(matches!(verdict(&mut rig.mem, &shrunk), Verdict::Damaged(_)));
}

#[test]
fn another_log_taken_for_ours_is_what_the_identity_check_prevents_p_03() {
    let mut rig = Rig::new(1, config(12 << 20));
    let mut wrong = LogConfig { expect: Some(LogId(1)), ..config(12 << 20) };
    assert_eq!(verdict(&mut rig.mem, &wrong), Verdict::OtherLog(LOG));
    wrong.faults.any_log_id = true;
    let (log, ..) = recover(&mut rig.mem, &wrong, &pool(), &mut Rng(5)).expect("opens under the canary");
    assert_ne!(Some(log.id()), wrong.expect, "the canary takes a log that is not the member's");
}

#[test]
fn a_device_too_small_for_its_log_is_refused_with_what_it_needs() {
    let config = config(4 << 20);
    match recover(&mut Mem::new(4 << 20), &config, &pool(), &mut Rng(1)) {
        Err(LogError::TooSmall { needed, .. }) => assert!(needed > 4 << 20),
        other => panic!("too small, not {:?}", other.map(|found| found.2)),
    }
}

#[test]
fn a_rotten_superblock_slot_is_served_and_mended_from_the_other() {
    for slot in 0..2 {
        let mut rig = lived_in(2);
        rig.mem.bytes[slot * BLOCK + 100] ^= 4;
        let report = rig.restart();
        assert_eq!(report.repaired, 1);
        let whole = |slot: usize| crc32c(&rig.mem.bytes[slot * BLOCK + 16..(slot + 1) * BLOCK]).to_le_bytes();
        assert_eq!(rig.mem.bytes[slot * BLOCK + 12..slot * BLOCK + 16], whole(slot));
    }
}

#[test]
fn a_rotten_checkpoint_page_is_served_and_mended_from_the_other_copy_and_two_are_named() {
    let mut rig = lived_in(3);
    let report = inspect_rig(&rig);
    let (superblock, checkpoint) = (report.superblock, report.checkpoint.expect("a checkpoint"));
    assert!(checkpoint.whole && checkpoint.pages >= 2);
    for page in 0..checkpoint.pages {
        let at = |copy| superblock.page_offset(checkpoint.generation, copy, page) as usize + 777;
        rig.mem.bytes[at(0)] ^= 1;
        let report = rig.restart();
        assert_eq!(report.repaired, 1);
        assert_eq!(rig.mem.bytes[at(0)], rig.mem.bytes[at(1)], "mended");
        rig.settle();
    }
    let at = |copy| superblock.page_offset(checkpoint.generation, copy, 1) as usize + 777;
    for copy in 0..2 {
        rig.mem.bytes[at(copy)] ^= 1;
    }
    assert!(inspect_rig(&rig).checkpoint.is_some_and(|c| !c.whole && c.rotten == [vec![1], vec![1]]));
    let (.., out) = recover(&mut rig.mem, &rig.config, &rig.pool, &mut Rng(1)).expect("the older one stands");
    let named = format!("checkpoint {}: both copies of page 1 are corrupt", checkpoint.generation);
    assert!(out.events.iter().any(|e| matches!(e, Event::Corrupt { what, .. } if *what == named)));
}

fn inspect_rig(rig: &Rig) -> inspect::LogReport {
    try_inspect(rig).expect("a log")
}

fn try_inspect(rig: &Rig) -> Result<inspect::LogReport, Verdict> {
    let bytes = &rig.mem.bytes;
    let mut read =
        |offset: u64, len: usize| bytes.get(offset as usize..offset as usize + len).map(<[u8]>::to_vec);
    inspect::inspect(bytes.len() as u64, &mut read)
}

#[test]
fn inspection_counts_what_is_there_and_sees_rot() {
    let mut rig = lived_in(4);
    let report = inspect_rig(&rig);
    assert_eq!(report.superblock.log, LOG);
    assert_eq!(report.slots, [inspect::Soundness::Good; 2]);
    let payload: u32 = report.segments.iter().map(|s| s.payload).sum();
    assert!(payload > 400, "{payload}");
    assert!(report.segments.iter().all(|s| s.bad_payload == 0 && s.bad_headers == 0));
    let live = rig.index().get(Lba(0));
    let hole = (0..2000).map(Lba).find_map(|lba| match rig.index().get(lba).loc {
        Loc::Log(addr) => Some(addr),
        _ => None,
    });
    let addr = hole.unwrap_or_else(|| panic!("something lies in the log, {live:?}"));
    rig.mem.bytes[addr.offset() as usize + 5] ^= 8;
    let bad: u32 = inspect_rig(&rig).segments.iter().map(|s| s.bad_payload).sum();
    assert_eq!(bad, 1);
    // Garbage is described, not believed.
    let mut rng = Rng(99);
    for _ in 0..50 {
        for _ in 0..200 {
            let at = rng.below(rig.mem.bytes.len() as u64) as usize;
            rig.mem.bytes[at] = rng.next() as u8;
        }
        rig.mem.bytes[..BLOCK].copy_from_slice(&report.superblock.encode());
        let again = inspect_rig(&rig);
        assert_eq!(again.superblock, report.superblock);
    }
}

/// P-06: one rotten bit loses nothing that was acknowledged, is counted, and never gives wrong data.
#[test]
fn a_flipped_bit_anywhere_is_counted_and_loses_nothing() {
    let rig = lived_in(5);
    let image = rig.mem.bytes.clone();
    let mut rng = Rng(4242);
    let (mut repaired, mut bad_seen) = (0, 0);
    let used = used_bytes(&rig);
    for _ in 0..250 {
        let mut mem = Mem::new(0);
        mem.bytes = image.clone();
        let at = used[rng.below(used.len() as u64) as usize] + rng.below(BLOCK as u64) as usize;
        mem.bytes[at] ^= 1 << rng.below(8);
        let (mut log, mut partitions, report, _) =
            recover(&mut mem, &rig.config, &rig.pool, &mut rng).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        let found = &mut partitions[0];
        commit_pending(&mut log, found);
        assert!(!found.damaged && report.lost == 0, "byte {at}: {report:?}");
        assert!(found.tail >= rig.acked, "byte {at}: tail {:?}, acknowledged {:?}", found.tail, rig.acked);
        repaired += report.repaired;
        bad_seen += found.bad.len();
        check_blocks(&rig, &mem, found);
    }
    assert!(repaired > 0, "headers, pages or slots were mended");
    assert!(bad_seen > 0, "payload rot was reported");
}

/// What a head alone would commit: all that its log holds.
fn commit_pending(log: &mut Log, found: &mut RecoveredPartition) {
    for pending in std::mem::take(&mut found.pending) {
        log.apply_logged(&mut found.index, pending.op, &pending.body, pending.addr);
    }
}

/// Offsets of blocks that hold something.
fn used_bytes(rig: &Rig) -> Vec<usize> {
    let blocks = rig.mem.bytes.chunks_exact(BLOCK).enumerate();
    blocks.filter(|(_, block)| block.iter().any(|b| *b != 0)).map(|(i, _)| i * BLOCK).collect()
}

/// Each block maps to what the rig wrote; what does not read so is listed as bad.
fn check_blocks(rig: &Rig, mem: &Mem, found: &RecoveredPartition) {
    let contents = rig.contents();
    for lba in 0..rig.blocks {
        let mapping = found.index.get(Lba(lba));
        let want = contents.get(&lba).copied();
        match mapping.loc {
            Loc::Hole | Loc::Cleared => assert!(want.is_none_or(|(_, data)| !data), "block {lba}"),
            Loc::Lost => panic!("block {lba} is lost"),
            Loc::Extent { .. } => assert_eq!(want, Some((mapping.op, true))),
            Loc::Log(addr) => {
                assert_eq!(want, Some((mapping.op, true)), "block {lba}");
                let bytes = &mem.bytes[addr.offset() as usize..][..BLOCK];
                let listed = found.bad.iter().any(|bad| bad.addr == addr && bad.lba == Lba(lba));
                assert_eq!(
                    crc32c(bytes) != mapping.crc,
                    listed,
                    "block {lba}: rot is reported, and only rot"
                );
            }
        }
    }
}

#[test]
fn much_rot_never_panics_and_never_gives_wrong_data() {
    let rig = lived_in(6);
    let image = rig.mem.bytes.clone();
    let used = used_bytes(&rig);
    let mut rng = Rng(31337);
    let (mut damaged, mut refused) = (0, 0);
    for _ in 0..150 {
        let mut mem = Mem::new(0);
        mem.bytes = image.clone();
        for _ in 0..=rng.below(40) {
            let at = used[rng.below(used.len() as u64) as usize];
            match rng.below(3) {
                0 => mem.bytes[at..at + BLOCK].fill(rng.next() as u8),
                1 => mem.bytes[at + rng.below(64) as usize] = rng.next() as u8,
                _ => mem.bytes[at + rng.below(BLOCK as u64) as usize] ^= 1 << rng.below(8),
            }
        }
        match recover(&mut mem, &rig.config, &rig.pool, &mut rng) {
            Err(_) => refused += 1,
            Ok((mut log, mut partitions, report, _)) => match partitions.first_mut() {
                Some(found) if !found.damaged && found.tail >= rig.acked => {
                    commit_pending(&mut log, found);
                    check_blocks(&rig, &mem, found);
                }
                _ => damaged += u32::from(report.lost > 0 || report.torn > 0 || partitions.is_empty()),
            },
        }
    }
    assert!(damaged > 0, "some were damaged; {refused} refused");
}

#[test]
fn truncated_and_random_formats_decode_to_errors() {
    let mut rng = Rng(1234);
    let rig = lived_in(7);
    let used = used_bytes(&rig);
    for _ in 0..20_000 {
        let at = used[rng.below(used.len() as u64) as usize];
        let mut block = rig.mem.bytes[at..at + BLOCK].to_vec();
        for _ in 0..=rng.below(8) {
            let span = if rng.chance(50) { 128 } else { BLOCK as u64 };
            let i = rng.below(span) as usize;
            block[i] = rng.next() as u8;
        }
        let mut r = Reader::new(&block[FIXED..]);
        while take_entry(&mut r).is_ok_and(|_| !r.rest().is_empty()) {}
        assert!(RecordHeader::decode(&block[..BLOCK - 1]).is_err(), "a short header is none");
        let _ = RecordHeader::decode(&block);
        let _ = SegmentHeader::decode(&block, LOG);
        let _ = examine(&block, RACK, None, 12 << 20);
        let _ = take_extent(&mut Reader::new(&block));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn entry_bytes(body: Body) -> String {
    let entry = Entry { partition: PartitionId(1), number: Number { epoch: 2, counter: 3 }, op: Op(4), body };
    let mut w = Writer::new();
    put_entry(&mut w, &entry, Op(3), false);
    let mut r = Reader::new(&w.bytes);
    let (back, committed) = take_entry(&mut r).expect("decodes");
    assert!(r.rest().is_empty() && committed == Op(3) && back.partition() == PartitionId(1));
    hex(&w.bytes)
}

#[test]
fn golden_entries() {
    let common = "0100000000000000020000000300000000000000\
                  04000000000000000300000000000000";
    let rest = |body| {
        let bytes = entry_bytes(body);
        assert_eq!(&bytes[2..74], common);
        format!("{} {}", &bytes[..2], &bytes[74..])
    };
    let data = palisade_dma::Buf::from_static(&[0; BLOCK]);
    let crcs = vec![0xaabbccdd].into();
    assert_eq!(rest(Body::Write { lba: Lba(9), crcs, data }), "01 09000000000000000100ddccbbaa");
    assert_eq!(rest(Body::Clear { lba: Lba(9), count: 5 }), "02 090000000000000005000000");
    assert_eq!(rest(Body::Seal { extent: ExtentId(6), stripes: 2 }), "05 060000000000000002000000");
    assert_eq!(rest(Body::Release { extent: ExtentId(6) }), "06 0600000000000000");
    assert_eq!(rest(Body::Delete), "07 ");
    assert_eq!(rest(Body::Nothing), "08 ");
    let column = ColumnRef { sled: NodeId(1), device: DeviceId(2), column: 3, generation: 4 };
    let found = SledCheckpoint {
        number: Number { epoch: 2, counter: 3 },
        generation: 5,
        covers: Op(6),
        pages: 7,
        unit_blocks: 16,
        stripes: 8,
        copies: 1,
        hash: 9,
        columns: vec![column],
    };
    assert_eq!(rest(Body::Checkpoint { found: None, keep: 0 }), "0c 0000");
    assert_eq!(
        rest(Body::Checkpoint { found: Some(Box::new(found)), keep: 1 }),
        "0c 01010200000003000000000000000500000006000000000000000700000010000800000001090000000000000000000000000000000100\
         0100000002000000000000000000000000000000" .to_string() + "0300000004000000"
    );
    let desc = ExtentDesc {
        id: ExtentId(6),
        number: Number { epoch: 2, counter: 3 },
        geometry: Geometry { k: 1, m: 1, unit_blocks: 16, stripes: 8 },
        columns: vec![Some(column), None].into(),
    };
    assert_eq!(
        rest(Body::ExtentCreate(Box::new(desc))),
        "03 0600000000000000020000000300000000000000010110000800000001010000000200000000000000000000000000000003000000\
         0400000000"
    );
    let moved = |from| RepointEntry { lba: Lba(1), op: Op(2), from, block: 3, crc: 4 };
    let entries = vec![moved(GatheredFrom::Log), moved(GatheredFrom::Extent { id: ExtentId(5), block: 7 })];
    let repoint = Repoint { extent: ExtentId(6), first_stripe: 1, stripes: 2, absent: 4, entries };
    assert_eq!(
        rest(Body::Repoint(Box::new(repoint))),
        "04 0600000000000000010000000200000004000200\
         0100000000000000020000000000000003000000040000000001000000000000000200000000000000030000000400000001\
         050000000000000007000000"
    );
}

#[test]
fn golden_forget() {
    let mut w = Writer::new();
    put_forget(&mut w, PartitionId(0x0102));
    assert_eq!(hex(&w.bytes), "0b0201000000000000".to_owned() + &"00".repeat(28));
    let mut r = Reader::new(&w.bytes);
    let (back, committed) = take_entry(&mut r).expect("decodes");
    assert!(r.rest().is_empty() && committed == Op(0), "{back:?}");
    assert!(matches!(back, Logged::Forget { partition: PartitionId(0x0102) }));
    // What is never moved bears no mark of being moved, and every byte is needed.
    w.bytes[0] |= 0x80;
    assert!(take_entry(&mut Reader::new(&w.bytes)).is_err());
    w.bytes[0] &= 0x7f;
    assert!((0..w.bytes.len()).all(|len| take_entry(&mut Reader::new(&w.bytes[..len])).is_err()));
}

#[test]
fn golden_headers() {
    let header = SegmentHeader {
        log: LogId(1),
        epoch: 2,
        seq: 5,
        tail: 4,
        first: Lsn(6),
        watermark: Lsn(5),
        prev_crc: 7,
    };
    let bytes = header.encode();
    assert_eq!(SegmentHeader::decode(&bytes, LogId(1)), Some(header));
    assert_eq!(SegmentHeader::decode(&bytes, LogId(2)), None, "another log's segment is none of ours");
    assert_eq!(
        hex(&bytes[..76]),
        "50414c495353454701000000927508f701000000000000000000000000000000020000000000000005000000000000000400000000000000\
         0600000000000000050000000000000007000000"
    );

    let fixed = RecordHeader {
        log: LogId(1),
        epoch: 2,
        segment: 5,
        at: 1,
        lsn: Lsn(6),
        watermark: Lsn(5),
        prev_crc: 7,
        header_blocks: 1,
        payload_blocks: 0,
        entries: 0,
        entries_len: 0,
        crc: 0,
    };
    let mut block = vec![0; BLOCK];
    let crc = fixed.write(&mut block, &mut Writer::new());
    assert_eq!(RecordHeader::decode(&block).map(|(h, _)| h), Ok(RecordHeader { crc, ..fixed }));
    assert_eq!(
        hex(&block[..FIXED]),
        "505245430100010018c2c7660100000000000000000000000000000002000000000000000500000000000000060000000000000005000000\
         0000000001000000070000000000000000000000"
    );

    let mut page = vec![0; PAGE];
    let kind = PageKind::Leaf { partition: PartitionId(3), leaf: 4 };
    PageHeader { generation: 1, page: 2, kind, len: 2 }.write(&mut page, &[0xab, 0xcd]);
    assert_eq!(
        hex(&page[..66]),
        "50414c495350414701000100f03a890e010000000000000003000000000000000200000004000000020000000000000000000000000000000000000000000000abcd"
    );
    let (header, body, _) = PageHeader::read(&page).expect("a page");
    assert_eq!((header.kind, body), (kind, &[0xab, 0xcd][..]));
}

#[test]
fn golden_superblock() {
    let rig = Rig::new(1, config(12 << 20));
    assert_eq!(
        hex(&rig.mem.bytes[..140]),
        "50414c49534c4f4701000100eceb2dce010000000000000007000000000000000000000000000000cdab0000000000000000\
         0000000000000000c000000000000000080000000000100000000000000000003a000000000000000e000000000000000000\
         00000000000000000000000000000000000000000000000000000000000000000100000000000000"
    );
    let fresh = format::examine_any(&rig.mem.bytes[..128 << 10], 12 << 20).expect("a superblock");
    let root = format::Root { generation: 2, pages: 3, begin: Lsn(4), hash: 5, tail: 6 };
    let before = format::Root { generation: 1, pages: 7, begin: Lsn(8), hash: 9, tail: 10 };
    assert_eq!(
        hex(&format::Superblock { root, before, ..fresh }.encode()[96..192]),
        "02000000000000000300000004000000000000000500000000000000000000000000000006000000000000000100000000000000\
         070000000800000000000000090000000000000000000000000000000a000000000000000000000000000000"
    );
}
