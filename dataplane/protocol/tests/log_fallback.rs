//! Checkpoints of which no copy is whole (P-29): the one before stands again as long as the log still holds all
//! that it lacks; after that nothing passes for whole.

mod log_support;

use log_support::*;
use palisade_protocol::log::format::{self, SegmentHeader, Superblock};
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

fn superblock(rig: &Rig) -> Superblock {
    format::examine_any(&rig.mem.bytes[..128 << 10], rig.mem.bytes.len() as u64).expect("a superblock")
}

/// Lets a page rot in both copies.
fn rot(rig: &mut Rig, generation: u64, page: u32) {
    let superblock = superblock(rig);
    for copy in 0..2 {
        rig.mem.bytes[superblock.page_offset(generation, copy, page) as usize + 777] ^= 1;
    }
}

/// Whether the segment from which the older checkpoint needs the log still has its header, and the log room.
fn intact(rig: &Rig) -> bool {
    let superblock = superblock(rig);
    let header = |place: u64| {
        let at = superblock.segment_block(place) as usize * BLOCK;
        SegmentHeader::decode(&rig.mem.bytes[at..at + BLOCK], LOG)
    };
    let before = superblock.before.tail;
    let newest = (0..superblock.segments).filter_map(header).max_by_key(|header| header.seq);
    let newest = newest.expect("a segment");
    let roomy = newest.tail <= before || newest.seq - before + 3 < superblock.segments;
    header(before).is_some_and(|header| header.seq == before) && roomy
}

#[test]
fn p29_any_page_of_the_newest_checkpoint_may_rot_in_both_copies_and_nothing_is_lost() {
    let rig = lived_in(3);
    let image = rig.mem.bytes.clone();
    let newest = superblock(&rig).root;
    assert!(newest.generation == 2 && newest.pages >= 2 && intact(&rig));
    for page in 0..newest.pages {
        let mut rig = lived_in(3);
        rig.mem.bytes.clone_from(&image);
        rot(&mut rig, 2, page);
        // The rig holds every acknowledged block against what the restart finds.
        let report = rig.restart();
        assert_eq!((report.checkpoint, report.blind), (1, false), "page {page}");
        let now = superblock(&rig);
        assert_eq!(
            (now.root.generation, now.before.tail),
            (1, 0),
            "the older one is what is named from here on"
        );
        assert_eq!(now.root.tail, superblock_of(&image).before.tail);
        // The next checkpoint goes where the rotten one was, and the restart after it needs neither log nor luck.
        rig.settle();
        rig.begin_checkpoint();
        rig.settle();
        assert_eq!(rig.restart().checkpoint, 2);
    }
}

fn superblock_of(image: &[u8]) -> Superblock {
    format::examine_any(&image[..128 << 10], image.len() as u64).expect("a superblock")
}

#[test]
fn p29_before_the_first_checkpoint_an_empty_log_stands() {
    let mut rig = Rig::new(7, config(12 << 20));
    rig.adopt();
    for i in 0..80 {
        rig.write(i * 17 % 1900, 1 + i % 3).expect("room");
    }
    rig.settle();
    rig.begin_checkpoint();
    rig.settle();
    rig.write(3, 2).expect("room");
    rig.settle();
    rot(&mut rig, 1, 0);
    let report = rig.restart();
    assert_eq!((report.checkpoint, report.blind), (0, false));
    assert_eq!(superblock(&rig).root, format::Root { tail: 1, ..format::Root::default() });
}

/// Random lives: at their ends the newest checkpoint rots. Either all of it is found all the same, or nothing
/// passes for whole; both are met.
#[test]
fn p29_after_any_life_the_older_checkpoint_gives_all_or_the_partition_is_damaged() {
    let (mut older, mut blind) = (0, 0);
    for seed in 0..24 {
        let mut rig = Rig::new(seed, config(12 << 20));
        for _ in 0..150 + seed * 25 {
            step(&mut rig);
            rig.release();
        }
        rig.settle();
        let newest = superblock(&rig).root;
        if newest.generation == 0 {
            continue;
        }
        let page = rig.rng.below(u64::from(newest.pages)) as u32;
        rot(&mut rig, newest.generation, page);
        if intact(&rig) {
            older += 1;
            let report = rig.crash();
            assert_eq!((report.checkpoint, report.blind), (newest.generation - 1, false), "seed {seed}");
            for _ in 0..100 {
                step(&mut rig);
                rig.release();
            }
            rig.settle();
            rig.check();
            rig.crash();
            continue;
        }
        blind += 1;
        let mem = &mut rig.mem;
        let (_, found, report, out) = recover(mem, &rig.config, &rig.pool, &mut rig.rng).expect("goes on");
        assert!(report.blind && report.checkpoint == 0, "seed {seed}: {report:?}");
        assert!(found.iter().all(|part| part.damaged), "seed {seed}: nothing passes for whole");
        assert!(out.events.iter().any(|e| matches!(e, Event::Corrupt { place: "checkpoint", .. })));
    }
    assert!(older > 3 && blind > 3, "both were met: {older} and {blind}");
}

#[test]
fn p29_with_both_checkpoints_rotten_the_log_is_blind_and_stays_so_until_it_is_filled() {
    let mut rig = lived_in(3);
    rot(&mut rig, 2, 0);
    rot(&mut rig, 1, 1);
    for _ in 0..2 {
        let (_, found, report, _) =
            recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("goes on");
        assert!(report.blind && found.iter().all(|part| part.damaged));
        let now = superblock(&rig);
        assert_eq!(
            (now.root.generation, now.before.tail),
            (2, 0),
            "the older one is not taken for whole either"
        );
    }
}

/// The segment that the older checkpoint needs first was written over: what is left of the log is not enough.
#[test]
fn p29_an_older_checkpoint_does_not_stand_when_its_log_was_written_over() {
    let mut rig = lived_in(3);
    let at = superblock(&rig).segment_block(superblock(&rig).before.tail) as usize * BLOCK;
    rig.mem.bytes[at + 100] ^= 1;
    rot(&mut rig, 2, 0);
    let (_, found, report, _) = recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("goes on");
    assert!(report.blind && found.iter().all(|part| part.damaged));
}

/// Neither slot of the superblock is whole: the log is found where it was made, and counts for nothing.
#[test]
fn p03_a_log_without_a_superblock_is_found_by_its_segments_and_is_blind() {
    let mut rig = lived_in(4);
    for slot in 0..2 {
        rig.mem.bytes[slot * BLOCK + 40] ^= 1;
    }
    let image = rig.mem.bytes.clone();
    let open = LogConfig { format: None, ..rig.config.clone() };
    let refused = |mem: &mut Mem, config: &LogConfig, pool: &_, rng: &mut _| {
        recover(mem, config, pool, rng).map(|found| found.2).expect_err("refused")
    };
    let damaged = LogError::Refused(Verdict::Damaged("superblock: no whole copy"));
    assert_eq!(refused(&mut rig.mem, &open, &rig.pool, &mut rig.rng), damaged, "nobody says how it was made");
    let rescue = LogConfig { rescue: rig.config.format, ..open };
    let other = LogConfig { expect: Some(LogId(9)), ..rescue.clone() };
    let other = LogConfig { rescue: other.rescue.map(|made| FormatAs { log: LogId(9), ..made }), ..other };
    assert_eq!(refused(&mut rig.mem, &other, &rig.pool, &mut rig.rng), damaged, "no segment of that log");
    assert!(rig.mem.bytes == image, "what is refused is not touched");
    let (log, found, report, _) = recover(&mut rig.mem, &rescue, &rig.pool, &mut rig.rng).expect("found");
    assert!(report.blind && log.id() == LOG);
    assert!(!found.is_empty() && found.iter().all(|part| part.damaged));
    assert_eq!(superblock(&rig).log, LOG, "its superblock is whole again");
}

/// Every segment header rots, one after the other: what its records say counts all the same.
#[test]
fn p06_a_rotten_segment_header_anywhere_loses_nothing() {
    let rig = lived_in(5);
    let (image, superblock) = (rig.mem.bytes.clone(), superblock(&rig));
    let mut headers = 0;
    for place in 0..superblock.segments {
        let at = superblock.segment_block(place) as usize * BLOCK;
        if SegmentHeader::decode(&image[at..at + BLOCK], LOG).is_none() {
            continue;
        }
        headers += 1;
        let mut rig = lived_in(5);
        rig.mem.bytes.clone_from(&image);
        rig.mem.bytes[at + 60] ^= 2;
        rig.restart();
    }
    assert!(headers > 1, "{headers}");
}

/// A superblock of minor version 0 names no checkpoint before the newest.
#[test]
fn p29_a_superblock_of_the_first_minor_version_is_read_and_has_no_older_checkpoint() {
    let mut rig = lived_in(3);
    for slot in 0..2 {
        let block = &mut rig.mem.bytes[slot * BLOCK..(slot + 1) * BLOCK];
        block[10..12].fill(0);
        // Behind the root's hash.
        block[132..].fill(0);
        let crc = palisade_isal::crc32c(&block[16..]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let found = superblock(&rig);
    assert_eq!((found.root.generation, found.root.tail, found.before), (2, 0, format::Root::default()));
    let image = rig.mem.bytes.clone();
    assert_eq!(rig.restart().checkpoint, 2);
    rig.mem.bytes = image;
    rot(&mut rig, 2, 0);
    let (.., report, _) = recover(&mut rig.mem, &rig.config, &rig.pool, &mut rig.rng).expect("goes on");
    assert!(report.blind);
}
