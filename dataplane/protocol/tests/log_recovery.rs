//! The log under random work, crashes and restarts, against a model (EF-07, EF-10; P-06..P-09, P-29, P-31).

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use palisade_protocol::wire::*;

/// One random step of a head's life.
fn step(rig: &mut Rig) {
    match rig.rng.below(100) {
        0..=54 => {
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

fn live(seed: u64, steps: u32) -> (u64, u64, u64) {
    let mut rig = Rig::new(seed, config(12 << 20));
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

#[test]
fn random_lives_with_crashes_keep_everything_acknowledged() {
    let (mut torn, mut released, mut checkpoints) = (0, 0, 0);
    for seed in 1..=12 {
        let (t, r, c) = live(seed, 1500);
        torn += t;
        released += r;
        checkpoints += c;
    }
    assert!(torn > 10, "records tore: {torn}");
    assert!(released > 100, "segments were released: {released}");
    assert!(checkpoints > 20, "checkpoints were finished: {checkpoints}");
}
