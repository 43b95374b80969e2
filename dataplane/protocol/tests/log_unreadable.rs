//! Blocks that the device cannot read (P-06, P-09, P-29): as much is lost as by rot of the same block, and a
//! device fails a recovery only when it is of no use at all.

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

type Found = (Vec<RecoveredPartition>, RecoveryReport, Out);

fn try_recover(rig: &mut Rig, pool: &palisade_dma::Pool) -> Result<Found, LogError> {
    let found = recover(&mut rig.mem, &rig.config, pool, &mut rig.rng);
    found.map(|(_, partitions, report, out)| (partitions, report, out))
}

#[test]
fn one_unreadable_block_anywhere_loses_nothing_else_and_is_told_p_06() {
    let mut rig = lived_in(5);
    let image = rig.mem.bytes.clone();
    let used: Vec<u64> = (0..image.len() / BLOCK)
        .filter(|at| image[at * BLOCK..][..BLOCK].iter().any(|byte| *byte != 0))
        .map(|at| at as u64)
        .collect();
    let pool = rig.pool.clone();
    let (mut bad, mut repaired) = (0, 0);
    for at in used {
        rig.mem.bytes.clone_from(&image);
        rig.mem.unreadable = [at].into();
        let (found, report, out) = try_recover(&mut rig, &pool).unwrap_or_else(|e| panic!("block {at}: {e}"));
        let found = &found[0];
        assert_eq!((report.lost, found.damaged), (0, false), "block {at}");
        assert!(found.tail >= rig.acked, "block {at}: {:?} of {:?}", found.tail, rig.acked);
        assert!(report.unreadable <= 1);
        let told = |e: &Event| matches!(e, Event::Corrupt { what, .. } if what.contains("cannot be read"));
        assert_eq!(out.events.iter().any(told), report.unreadable == 1, "block {at}");
        // A live block whose bytes are gone is named, so that the head fetches it from its peer.
        let live = rig.index();
        let mut lies = (0..rig.blocks).filter(|lba| live.get(Lba(*lba)).loc == Loc::Log(LogAddr(at)));
        let listed = found.bad.iter().any(|bad| bad.addr == LogAddr(at));
        assert!(listed || lies.next().is_none(), "block {at}");
        bad += u32::from(listed);
        repaired += report.repaired;
    }
    assert!(bad > 20 && repaired > 20, "{bad} bad, {repaired} repaired");
}

#[test]
fn an_unreadable_superblock_slot_is_served_from_the_other_and_two_fail_the_device() {
    for slot in 0..2 {
        let mut rig = lived_in(2);
        rig.mem.unreadable = [slot].into();
        assert_eq!(rig.restart().repaired, 1);
        assert!(rig.mem.unreadable.is_empty(), "written again");
        // Nor does it matter if that cannot be done.
        rig.settle();
        (rig.mem.unreadable, rig.mem.unwritable) = ([slot].into(), [slot].into());
        rig.restart();
    }
    let mut rig = lived_in(2);
    let pool = rig.pool.clone();
    rig.mem.unreadable = [0, 1].into();
    let error = try_recover(&mut rig, &pool).map(|found| found.1);
    let doing = "reading the superblock";
    assert_eq!(error, Err(LogError::Device { doing, error: BlockError::Io }), "never taken for blank");
}

#[test]
fn an_unreadable_page_of_a_checkpoint_is_taken_from_the_other_copy_p_29() {
    let mut rig = lived_in(3);
    let superblock = format::examine_any(&rig.mem.bytes, rig.config.device_bytes).expect("a log");
    let generation = superblock.root.generation;
    let page = |page, copy| superblock.page_offset(generation, copy, page) / BLOCK as u64 + 3;
    for at in 0..superblock.root.pages {
        rig.mem.unreadable = [page(at, 0)].into();
        assert_eq!(rig.restart().repaired, 1);
        assert!(rig.mem.unreadable.is_empty(), "mended");
        rig.settle();
    }
    rig.mem.unreadable = [page(1, 0), page(1, 1)].into();
    let pool = rig.pool.clone();
    // Neither copy: the checkpoint before stands again, and the log holds all that came since.
    let (found, report, _) = try_recover(&mut rig, &pool).expect("recovers");
    assert_eq!((report.checkpoint, report.blind), (generation - 1, false), "{report:?}");
    assert!(!found[0].damaged && found[0].tail >= rig.acked);
}

#[test]
fn a_device_that_reads_nothing_fails_the_recovery_soon() {
    let mut rig = lived_in(4);
    let pool = rig.pool.clone();
    rig.mem.unreadable = (0..rig.config.device_bytes / BLOCK as u64).collect();
    assert!(matches!(try_recover(&mut rig, &pool).map(|f| f.1), Err(LogError::Device { .. })));
}

#[test]
fn unreadable_blocks_are_isolated_with_the_last_buffers_of_a_pool() {
    let mut rig = lived_in(6);
    let small = palisade_dma::Pool::new(palisade_dma::PoolConfig { slots: [3, 1, 1], huge: false });
    let small = small.expect("maps");
    let live = rig.index();
    let addr = (0..rig.blocks).find_map(|lba| match live.get(Lba(lba)).loc {
        Loc::Log(addr) => Some(addr),
        _ => None,
    });
    let addr = addr.expect("something lies in the log");
    rig.mem.unreadable = [1, addr.0].into();
    let (found, report, _) = try_recover(&mut rig, &small).expect("recovers");
    assert_eq!((report.unreadable, found[0].bad.len()), (2, 1));
    assert!(!found[0].damaged && found[0].tail >= rig.acked);
}
