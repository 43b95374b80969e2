//! The index by itself: order, tombstones, repoints, memory (P-07, DESIGN section 6).

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::*;

fn rig() -> Rig {
    Rig::new(1, config(12 << 20))
}

fn extent(rig: &mut Rig, op: u64) -> ExtentId {
    let column = ColumnRef { sled: NodeId(1), device: DeviceId(1), column: 1, generation: 1 };
    let desc = ExtentDesc {
        id: ExtentId(op),
        number: Number { epoch: 1, counter: 1 },
        geometry: GEOMETRY,
        columns: vec![Some(column); 3].into(),
    };
    apply(rig, op, Body::ExtentCreate(Box::new(desc)), 0);
    ExtentId(op)
}

fn apply(rig: &mut Rig, op: u64, body: Body, addr: u64) -> Applied {
    let index = rig.indexes.get_mut(&P).expect("index");
    rig.log.apply(index, Op(op), &body, LogAddr(addr))
}

fn write(rig: &mut Rig, op: u64, lba: u64, addr: u64) -> Applied {
    let body = write_body(&rig.pool, Op(op), Lba(lba), 1);
    apply(rig, op, body, addr)
}

fn repoint(rig: &mut Rig, op: u64, to: ExtentId, moves: &[(u64, u64, GatheredFrom, u32)]) -> Applied {
    let entries = moves.iter().map(|&(lba, op, from, block)| RepointEntry {
        lba: Lba(lba),
        op: Op(op),
        from,
        block,
        crc: 0,
    });
    let entries = entries.collect();
    apply(
        rig,
        op,
        Body::Repoint(Box::new(Repoint { extent: to, first_stripe: 0, stripes: 1, absent: 0, entries })),
        0,
    )
}

#[test]
fn the_newest_operation_wins_and_repeats_change_nothing_p_07() {
    let mut rig = rig();
    write(&mut rig, 5, 9, 100);
    assert_eq!(write(&mut rig, 5, 9, 100).changed, 0);
    assert_eq!(write(&mut rig, 4, 9, 200).changed, 0, "an older one never wins");
    assert_eq!(rig.index().get(Lba(9)).loc, Loc::Log(LogAddr(100)));
    assert_eq!(rig.index().get(Lba(8)), Mapping { op: Op(0), loc: Loc::Hole, crc: 0 });
}

#[test]
fn a_trim_leaves_a_tombstone_that_keeps_older_writes_out_p_07() {
    let mut rig = rig();
    write(&mut rig, 5, 9, 100);
    apply(&mut rig, 6, Body::Clear { lba: Lba(0), count: 2048 }, 0);
    assert_eq!(rig.index().get(Lba(9)), Mapping { op: Op(6), loc: Loc::Cleared, crc: 0 });
    assert_eq!(write(&mut rig, 5, 9, 100).changed, 0);
    assert_eq!(rig.index().mapped(), 0);
}

#[test]
fn without_tombstones_a_trimmed_block_comes_back_p_07() {
    let faults = Faults { drop_tombstones: true, ..Faults::default() };
    let mut rig = Rig::new(1, LogConfig { faults, ..config(12 << 20) });
    write(&mut rig, 5, 9, 100);
    apply(&mut rig, 6, Body::Clear { lba: Lba(0), count: 2048 }, 0);
    assert_eq!(write(&mut rig, 5, 9, 100).changed, 1, "the canary is noticed here");
}

#[test]
fn a_repoint_moves_only_what_was_gathered_p_07() {
    let mut rig = rig();
    for lba in 0..4 {
        write(&mut rig, lba + 1, lba, 100 + lba);
    }
    let to = extent(&mut rig, 5);
    write(&mut rig, 6, 1, 300); // overwritten after gathering
    apply(&mut rig, 7, Body::Clear { lba: Lba(2), count: 1 }, 0); // trimmed after gathering
    let elsewhere = GatheredFrom::Extent { id: to, block: 7 };
    let moves = [
        (0, 1, GatheredFrom::Log, 0),
        (1, 2, GatheredFrom::Log, 1),
        (2, 3, GatheredFrom::Log, 2),
        (3, 4, elsewhere, 3),
    ];
    assert_eq!(repoint(&mut rig, 8, to, &moves), Applied { changed: 1, stale: 3 });
    let slot = rig.index().slot_of(to).expect("exists");
    assert_eq!(rig.index().get(Lba(0)).loc, Loc::Extent { slot, block: 0 });
    assert_eq!(rig.index().get(Lba(1)).loc, Loc::Log(LogAddr(300)));
    assert_eq!(rig.index().get(Lba(2)).loc, Loc::Cleared);
    assert_eq!(rig.index().get(Lba(3)).loc, Loc::Log(LogAddr(103)));
    assert_eq!(repoint(&mut rig, 8, to, &moves).changed, 0, "a repeat changes nothing");
    assert_eq!(rig.index().extent(slot).expect("exists").live, 1);
}

#[test]
fn a_collection_moves_a_block_from_extent_to_extent_and_counts_follow() {
    let mut rig = rig();
    write(&mut rig, 1, 0, 100);
    let (a, b) = (extent(&mut rig, 2), extent(&mut rig, 3));
    repoint(&mut rig, 4, a, &[(0, 1, GatheredFrom::Log, 5)]);
    repoint(&mut rig, 5, b, &[(0, 1, GatheredFrom::Extent { id: a, block: 5 }, 6)]);
    let live =
        |rig: &Rig, id| rig.index().extent(rig.index().slot_of(id).expect("slot")).expect("extent").live;
    assert_eq!((live(&rig, a), live(&rig, b)), (0, 1));
    apply(&mut rig, 6, Body::Release { extent: a }, 0);
    assert_eq!(rig.index().slot_of(a), None);
    assert_eq!(rig.index().extents().count(), 1);
    let crc = rig.index().get(Lba(0)).crc;
    assert_eq!(crc, palisade_isal::crc32c(&pattern(Op(1), Lba(0))), "the checksum moves with the block");
}

#[test]
fn a_slot_is_used_again_only_after_a_checkpoint_is_past_the_release_p_28() {
    let mut rig = rig();
    rig.write(0, 1).expect("room");
    rig.settle();
    let id = |n| ExtentId(n);
    let first = extent(&mut rig, 2);
    let slot = rig.index().slot_of(first).expect("slot");
    apply(&mut rig, 3, Body::Release { extent: first }, 0);
    let second = extent(&mut rig, 4);
    assert_ne!(rig.index().slot_of(second), Some(slot), "pages of a checkpoint may still name it");
    rig.committed = Op(4);
    rig.begin_checkpoint();
    rig.settle();
    extent(&mut rig, 5);
    assert_eq!(rig.index().slot_of(id(5)), Some(slot));
}

#[test]
fn malformed_operations_are_ignored_and_never_panic() {
    let mut rig = rig();
    let to = extent(&mut rig, 1);
    write(&mut rig, 2, 0, 100);
    let far = GEOMETRY.extent_blocks();
    assert_eq!(repoint(&mut rig, 3, to, &[(0, 2, GatheredFrom::Log, far)]).changed, 0, "no such data block");
    assert_eq!(repoint(&mut rig, 3, ExtentId(99), &[(0, 2, GatheredFrom::Log, 0)]).changed, 0);
    let outside = Repoint { extent: to, first_stripe: u32::MAX, stripes: 2, absent: 0, entries: Vec::new() };
    apply(&mut rig, 3, Body::Repoint(Box::new(outside)), 0);
    apply(&mut rig, 3, Body::Clear { lba: Lba(u64::MAX), count: u32::MAX }, 0);
    apply(&mut rig, 3, Body::Seal { extent: ExtentId(77), stripes: u32::MAX }, 0);
    apply(&mut rig, 3, Body::Release { extent: ExtentId(77) }, 0);
    assert_eq!(rig.index().get(Lba(u64::MAX)).loc, Loc::Hole);
    assert_eq!(rig.index().get(Lba(0)).loc, Loc::Log(LogAddr(100)));
    assert_eq!(
        repoint(&mut rig, 3, to, &[(0, 2, GatheredFrom::Log, 0)]).changed,
        1,
        "and a good one applies"
    );
    assert_eq!(repoint(&mut rig, 4, to, &[(1, 2, GatheredFrom::Log, 0)]).changed, 0, "a block has one owner");
}

/// DESIGN section 6: at most 24 bytes of memory per randomly written block, reverse maps included.
#[test]
fn the_index_takes_at_most_24_bytes_a_block() {
    let mut rig = rig();
    let blocks = 400_000u64;
    rig.indexes.insert(P, Index::new(blocks));
    let data = palisade_dma::Buf::from_static(&[0; 4096]);
    // Every block, in a scattered order (the step is coprime to the count).
    for i in 0..blocks {
        let body = Body::Write { lba: Lba(i * 174_763 % blocks), crcs: vec![7].into(), data: data.clone() };
        apply(&mut rig, i + 1, body, i);
    }
    assert_eq!(rig.index().mapped(), blocks);
    let in_log = rig.index().heap_bytes() as f64 / blocks as f64;
    assert!(in_log <= 18.5, "{in_log} bytes a block in the log");
    let geometry = Geometry { k: 4, m: 2, unit_blocks: 16, stripes: 128 };
    let (mut op, mut lba) = (blocks + 1, 0);
    while lba < blocks {
        let desc =
            ExtentDesc { id: ExtentId(op), number: Number::ZERO, geometry, columns: vec![None; 6].into() };
        apply(&mut rig, op, Body::ExtentCreate(Box::new(desc)), 0);
        let extent = ExtentId(op);
        let end = blocks.min(lba + u64::from(geometry.extent_blocks()));
        let entries = (lba..end).map(|l| RepointEntry {
            lba: Lba(l),
            op: rig.index().get(Lba(l)).op,
            from: GatheredFrom::Log,
            block: (l - lba) as u32,
            crc: 7,
        });
        let repoint =
            Repoint { extent, first_stripe: 0, stripes: 128, absent: 0, entries: entries.collect() };
        apply(&mut rig, op + 1, Body::Repoint(Box::new(repoint)), 0);
        (op, lba) = (op + 2, end);
    }
    let in_extents = rig.index().heap_bytes() as f64 / blocks as f64;
    assert!(in_extents > in_log && in_extents <= 24.0, "{in_extents} bytes a block in extents");
}
