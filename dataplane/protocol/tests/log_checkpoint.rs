//! Checkpoints while I/O goes on, torn at every write, and the index they bring back (P-08, P-28, P-29).

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

/// Whether `a` and `b` say the same of every block.
fn same(a: &Index, b: &Index, blocks: u64) -> bool {
    (0..blocks).all(|lba| {
        let (x, y) = (a.get(Lba(lba)), b.get(Lba(lba)));
        let place = |index: &Index, m: Mapping| match m.loc {
            Loc::Extent { slot, block } => Some((index.extent(slot).expect("extent").desc.id, block)),
            _ => None,
        };
        x.op == y.op
            && x.crc == y.crc
            && place(a, x) == place(b, y)
            && (place(a, x).is_some() || x.loc == y.loc)
    })
}

#[test]
fn a_checkpoint_torn_at_any_write_leaves_the_one_before_or_itself() {
    let (mut old, mut new) = (0, 0);
    for stop in 0..40 {
        let mut rig = Rig::new(11, config(12 << 20));
        rig.adopt();
        for i in 0..100 {
            rig.write(i * 17 % 1900, 1 + i % 3).expect("room");
        }
        rig.settle();
        rig.begin_checkpoint();
        rig.settle();
        let first = rig.log.checkpoint_generation();
        for i in 0..50 {
            rig.write(i * 5, 1).expect("room");
        }
        rig.flush();
        rig.settle();
        rig.begin_checkpoint();
        let mut done = 0;
        for _ in 0..200 {
            let n = (stop - done).min(1);
            done += n;
            rig.turn(n);
        }
        let report = rig.crash();
        assert!(report.checkpoint == first || report.checkpoint == first + 1);
        old += u32::from(report.checkpoint == first);
        new += u32::from(report.checkpoint == first + 1);
    }
    assert!(old > 3 && new > 3, "both sides of the switch were met: {old} and {new}");
}

/// P-29: pages are copied while operations change the index; what replay makes of them is the same index.
#[test]
fn replay_over_a_fuzzy_checkpoint_gives_the_same_index() {
    for seed in 20..40 {
        let mut rig = Rig::new(seed, config(12 << 20));
        rig.blocks = 8192;
        rig.indexes.insert(P, Index::new(8192));
        rig.adopt();
        for _ in 0..150 {
            let lba = rig.rng.below(8000);
            rig.write(lba, 1 + seed % 4).expect("room");
            rig.turn(5);
        }
        rig.flush();
        rig.settle();
        rig.begin_checkpoint();
        while rig.log.checkpointing() {
            for _ in 0..4 {
                let lba = rig.rng.below(8000);
                rig.write(lba, 2).expect("room");
            }
            match rig.rng.below(4) {
                0 => rig.flush(),
                1 => rig.release_extent(),
                2 => {
                    let lba = Lba(rig.rng.below(8000));
                    rig.push(Body::Clear { lba, count: 50 }).expect("room");
                }
                _ => rig.copy_forward(),
            }
            rig.turn(3);
        }
        rig.settle();
        let before = rig.indexes.remove(&P).expect("index");
        let report = rig.restart();
        assert!(report.checkpoint > 0);
        assert!(same(&before, rig.index(), 8192), "seed {seed}");
        assert_eq!(before.mapped(), rig.index().mapped());
    }
}

#[test]
fn a_checkpoint_keeps_extents_seals_absences_and_the_adopted_pair() {
    let mut rig = Rig::new(12, config(12 << 20));
    rig.adopt();
    for i in 0..64 {
        rig.write(i, 1).expect("room");
    }
    rig.settle();
    rig.flush();
    rig.settle();
    let (slot, extent) = rig.index().extents().next().map(|(s, x)| (s, x.clone())).expect("an extent");
    rig.push(Body::Seal { extent: extent.desc.id, stripes: 1 }).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    let adopted = rig.adopted.clone();
    // Nothing of it is in the log any more: only the checkpoint can say it.
    let (_, partitions, report, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert_eq!(report.checkpoint, 1);
    let found = partitions[0].index.extent(slot).expect("the extent");
    assert_eq!(found.desc, extent.desc);
    assert_eq!((found.sealed, found.stripes, found.live, &found.absent), (Some(1), 1, 8, &extent.absent));
    assert_eq!(found.absent[0], 4);
    assert_eq!(partitions[0].adopted, adopted);
    assert_eq!(partitions[0].committed, rig.committed);
}

#[test]
fn damage_outlives_checkpoints_and_restarts() {
    let mut rig = Rig::new(16, config(12 << 20));
    rig.write(5, 1).expect("room");
    rig.settle();
    let origin = Origin::default();
    let meta =
        PartitionMeta { partition: P, blocks: 2048, committed: Op(1), adopted: None, damaged: true, origin };
    rig.log.checkpoint_begin(vec![meta]);
    rig.settle();
    let (_, partitions, _, _) =
        recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
    assert!(partitions[0].damaged);
}

#[test]
fn a_mark_in_the_log_that_the_log_does_not_bear_out_damages_the_partition_p_29() {
    let mut rig = Rig::new(13, config(12 << 20));
    rig.write(5, 1).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    // The segment that holds it is wiped, as if a stale head had reused it.
    let Loc::Log(addr) = rig.index().get(Lba(5)).loc else { panic!("in the log") };
    let start = addr.offset() as usize - 2 * BLOCK;
    rig.mem.bytes[start + BLOCK..start + 8 * BLOCK].fill(0);
    let outcome = |rig: &mut Rig| {
        let (_, partitions, _, _) =
            recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("recovers");
        (partitions[0].damaged, partitions[0].index.get(Lba(5)).loc)
    };
    rig.config.faults.trust_checkpoint_marks = true;
    assert_eq!(outcome(&mut rig), (false, Loc::Log(addr)), "the canary serves what is not there");
    rig.config.faults.trust_checkpoint_marks = false;
    assert_eq!(outcome(&mut rig), (true, Loc::Hole));
}

#[test]
fn an_area_too_small_for_the_volumes_is_told_before_and_during_p_32() {
    let mut rig = Rig::new(14, config(12 << 20));
    assert!(rig.log.capacity_ok(4096));
    assert!(!rig.log.capacity_ok(4096 * 100));
    let mut index = Index::new(400_000);
    for leaf in 0..100 {
        let body = write_body(&rig.pool, Op(leaf + 1), Lba(leaf * LEAF_BLOCKS as u64), 1);
        rig.log.apply(&mut index, Op(leaf + 1), &body, LogAddr(0));
    }
    rig.indexes.insert(P, index);
    rig.begin_checkpoint();
    for _ in 0..100 {
        rig.turn(100);
    }
    assert!(!rig.log.checkpointing());
    assert_eq!(rig.log.checkpoint_counts(), (0, 1), "given up, and said so");
    assert!(rig.out.events.iter().any(|e| matches!(e, Event::Note(text) if text.contains("P-32"))));
}

#[test]
fn a_failed_page_gives_the_checkpoint_up_and_the_older_one_stays() {
    let mut rig = Rig::new(15, config(12 << 20));
    rig.write(1, 1).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    rig.write(2, 1).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.mem.fail_writes_from = Some(rig.mem.writes + 1);
    rig.turn(1);
    rig.mem.fail_writes_from = None;
    for _ in 0..20 {
        rig.turn(100);
    }
    assert_eq!(rig.log.checkpoint_counts(), (1, 1));
    assert!(!rig.log.failed());
    rig.begin_checkpoint();
    rig.settle();
    assert_eq!(rig.log.checkpoint_generation(), 2);
    rig.crash();
}

/// A crash comes between the two slots of a superblock; after the restart the slot that was written rots.
/// What the next restarts read, and whether both slots named one checkpoint after the first.
fn crash_between_the_slots(faults: Faults) -> ([RecoveryReport; 2], bool) {
    let mut rig = Rig::new(16, LogConfig { faults, ..config(12 << 20) });
    for lba in 1..3 {
        rig.write(lba, 1).expect("room");
        rig.settle();
        rig.begin_checkpoint();
        rig.settle();
    }
    let older = rig.mem.bytes[BLOCK..2 * BLOCK].to_vec();
    rig.push(Body::Clear { lba: Lba(1), count: 1 }).expect("room");
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    // The second slot was not written any more.
    rig.mem.bytes[BLOCK..2 * BLOCK].copy_from_slice(&older);
    let first = rig.restart();
    let alike = rig.mem.bytes[..BLOCK] == rig.mem.bytes[BLOCK..2 * BLOCK];
    // From here on the log may release what the newer checkpoint covers; then the first slot rots.
    rig.mem.bytes[..BLOCK].fill(0xa5);
    ([first, rig.restart()], alike)
}

#[test]
fn a_crash_between_the_superblock_slots_leaves_no_older_checkpoint_behind_p_29() {
    let ([first, second], alike) = crash_between_the_slots(Faults::default());
    assert_eq!((first.checkpoint, first.repaired), (3, 0), "no rot, and nothing to report");
    assert!(alike, "both name the checkpoint again");
    assert_eq!((second.checkpoint, second.repaired), (3, 1));
}

#[test]
fn an_older_checkpoint_that_is_left_is_trusted_in_the_end_p_29() {
    let faults = Faults { older_checkpoint_left: true, ..Faults::default() };
    let ([first, second], alike) = crash_between_the_slots(faults);
    assert_eq!((first.checkpoint, alike, second.checkpoint), (3, false, 2), "the older one came back");
}
