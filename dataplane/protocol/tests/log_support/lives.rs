//! Whole lives of a rig: one of fixed steps, and random ones with crashes.

use super::*;

/// A rig with data in log and extents, a checkpoint, and a quiet end.
pub fn lived_in(seed: u64) -> Rig {
    let mut rig = Rig::new(seed, config(12 << 20));
    rig.adopt();
    for round in 0..6 {
        for i in 0..40 {
            rig.write((round * 31 + i * 13) % 1500, 1 + i % 3).expect("room");
            if i % 8 == 0 {
                rig.turn(10);
            }
        }
        rig.flush();
        rig.push(Body::Clear { lba: Lba(round * 100), count: 30 }).expect("room");
        rig.settle();
        if round == 2 || round == 4 {
            rig.begin_checkpoint();
        }
        rig.settle();
    }
    // The quiet record says that all of it is durable.
    for _ in 0..30 {
        rig.turn(10);
    }
    rig
}

/// One random step of a head's life.
pub fn step(rig: &mut Rig) {
    match rig.rng.below(100) {
        0..=4 => {
            // Whole segments of writes and nothing else: released without a checkpoint once repointed.
            for _ in 0..rig.rng.below(8) {
                let lba = rig.rng.below(rig.blocks - 64);
                let _ = rig.write(lba, 64);
                rig.settle();
            }
            for _ in 0..80 {
                rig.flush();
                rig.settle();
            }
            rig.release();
        }
        5..=54 => {
            for _ in 0..=rig.rng.below(4) {
                let blocks = 1 + rig.rng.below(8);
                let lba = rig.rng.below(rig.blocks - blocks);
                let _ = rig.write(lba, blocks);
            }
        }
        55..=59 => {
            let lba = rig.rng.below(rig.blocks - 64);
            let count = 1 + rig.rng.below(64) as u32;
            if rig.log.room_for(0, Room::User) {
                let _ = rig.push(Body::Clear { lba: Lba(lba), count });
            }
        }
        60..=79 => {
            for _ in 0..4 {
                rig.flush();
            }
        }
        80..=84 => rig.copy_forward(),
        85..=89 => rig.release_extent(),
        90..=94 => {
            rig.release();
        }
        _ => {
            if !rig.log.checkpointing() && (rig.log.checkpoint_wanted() || rig.rng.chance(30)) {
                rig.begin_checkpoint();
            }
        }
    }
    let completions = rig.rng.below(6) as usize;
    rig.turn(completions);
}

/// A random life with crashes; says how many records tore, segments went and checkpoints were finished.
pub fn live(seed: u64, steps: u32, faults: Faults) -> (u64, u64, u64) {
    let mut rig = Rig::new(seed, LogConfig { faults, ..config(12 << 20) });
    rig.lag = seed.is_multiple_of(2);
    let (mut torn, mut released, mut checkpoints) = (0, 0, 0);
    for _ in 0..steps {
        step(&mut rig);
        released += u64::from(rig.release());
        if rig.rng.chance(1) {
            checkpoints += rig.log.checkpoint_counts().0;
            torn += rig.crash().torn;
        }
    }
    rig.settle();
    rig.check();
    rig.crash();
    (torn, released, checkpoints + rig.log.checkpoint_counts().0)
}
