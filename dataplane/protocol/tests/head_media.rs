//! Heads whose logs rotted beyond what their second copies mend: they serve nothing old and are filled (EF-19,
//! P-03, P-29); and logs that cannot be written for a while.

mod head_support;

use head_support::{BLOCK, Rack, Shape};
use palisade_protocol::head::{Faults, RoleState, Solo};
use palisade_protocol::log::format::{self, Superblock};
use palisade_protocol::wire::*;
use std::time::Duration;

/// Two heads whose logs have gone round, so that older checkpoints do not stand any more.
fn lapped(seed: u64, faults: Faults) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.solo, shape.faults) = (1024, Solo::Local, faults);
    (shape.log_segments, shape.flush.fill_low) = (12, 5);
    let mut rack = Rack::new(shape);
    rack.serve();
    for _ in 0..4 {
        rack.workload(200, 900, 8);
        rack.flush_all();
    }
    rack.workload(30, 900, 8);
    rack.run_for(Duration::from_millis(100));
    rack
}

fn superblock(rack: &Rack, at: usize) -> Superblock {
    let bytes = &rack.nodes[at].disk.bytes;
    format::examine_any(&bytes[..128 << 10], bytes.len() as u64).expect("a superblock")
}

/// The newest checkpoint of a head rots in both copies, and the one before it.
fn rot_checkpoints(rack: &mut Rack, at: usize) {
    let found = superblock(rack, at);
    assert!(found.root.generation > 1, "{found:?}");
    for generation in [found.root.generation, found.root.generation - 1] {
        for copy in 0..2 {
            let from = found.page_offset(generation, copy, 0) as usize;
            rack.nodes[at].disk.bytes[from + 500] ^= 8;
        }
    }
}

fn rot_superblocks(rack: &mut Rack, at: usize) {
    for slot in 0..2 {
        rack.nodes[at].disk.bytes[slot * BLOCK + 60] ^= 8;
    }
}

fn told(rack: &Rack, words: &str) -> bool {
    rack.events.iter().any(|event| matches!(event, Event::Attention(text) if text.contains(words)))
}

const WAYS: [fn(&mut Rack, usize); 2] = [rot_checkpoints, rot_superblocks];

#[test]
fn p29_a_secondary_whose_log_is_blind_is_filled_by_itself() {
    for (seed, way) in (0..4).zip(WAYS.iter().cycle()) {
        let mut rack = lapped(seed, Faults::default());
        rack.crash(1);
        way(&mut rack, 1);
        rack.start(1, false);
        let id = rack.nodes[1].id;
        rack.run_until("recovery", move |rack| rack.recovered.contains(&id));
        assert!(told(&rack, "no whole checkpoint"), "people hear of it");
        rack.move_to(&[0, 1]);
        rack.verify();
        rack.same_index();
        // From here on it stands for itself, also after a restart.
        rack.crash(0);
        rack.restart(1);
        rack.run_until("recovery", move |rack| rack.recovered.contains(&id));
        rack.move_to(&[1]);
        rack.verify();
    }
}

#[test]
fn ef19_a_primary_whose_log_is_blind_serves_nothing_and_is_filled_as_the_secondary() {
    for (seed, way) in (10..14).zip(WAYS.iter().cycle()) {
        let mut rack = lapped(seed, Faults::default());
        rack.crash(0);
        way(&mut rack, 0);
        rack.start(0, false);
        let own = rack.nodes[0].id;
        rack.run_until("recovery", move |rack| rack.recovered.contains(&own));
        rack.decide(&[0, 1]);
        rack.assign();
        rack.run_for(Duration::from_millis(50));
        let status = rack.status();
        assert!(matches!(status.role, RoleState::Stopped) && status.needs_copy == Some(own), "{status:?}");
        rack.move_to(&[1, 0]);
        rack.verify();
        rack.same_index();
        rack.crash(1);
        rack.move_to(&[0]);
        rack.verify();
    }
}

/// Nobody else has the volume: the head stays down, over restarts and checkpoints too, and says so.
#[test]
fn p29_a_lone_head_whose_log_is_blind_stays_down_for_good() {
    for (seed, way) in (20..22).zip(WAYS) {
        let mut rack = lapped(seed, Faults::default());
        rack.crash(1);
        rack.move_to(&[0]);
        rack.workload(20, 900, 4);
        rack.crash(0);
        way(&mut rack, 0);
        for life in 0..3 {
            rack.start(0, false);
            let own = rack.nodes[0].id;
            rack.run_until("recovery", move |rack| rack.recovered.contains(&own));
            rack.decide(&[0]);
            rack.assign();
            // Long enough for a checkpoint, which must not end the doubt.
            rack.run_for(Duration::from_secs(2));
            let status = rack.status();
            assert!(matches!(status.role, RoleState::Stopped), "life {life}: {status:?}");
            assert!(status.why.contains("log damaged"), "{}", status.why);
            rack.crash(0);
        }
        // The other head comes back, and is behind what was acknowledged alone; it says nothing old of its own.
        assert!(told(&rack, "no whole checkpoint"));
    }
}

/// What happens without the rule: the log's remains pass for the volume.
#[test]
fn canary_p29_a_blind_log_that_is_trusted_serves_old_data() {
    let mut rack = lapped(30, Faults { blind_log_trusted: true, ..Faults::default() });
    rack.crash(1);
    rack.move_to(&[0]);
    rack.crash(0);
    rot_superblocks(&mut rack, 0);
    rack.start(0, false);
    let own = rack.nodes[0].id;
    rack.run_until("recovery", move |rack| rack.recovered.contains(&own));
    rack.move_to(&[0]);
    let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rack.verify()));
    assert!(wrong.is_err(), "blocks that were acknowledged are gone");
}

/// ENOSPC below a log file while the head starts: it is tried again with growing pauses, told once, and comes up
/// by itself.
#[test]
fn p09_a_log_on_a_full_disk_is_tried_again_until_there_is_room() {
    let mut rack = lapped(40, Faults::default());
    rack.crash(1);
    rack.nodes[1].disk.full = true;
    rack.start(1, false);
    rack.run_for(Duration::from_secs(5));
    let status = rack.head(1).status();
    assert!(status.log_failed && status.log_why.contains("no space left"), "{status:?}");
    let times = rack.events.iter().filter(|event| matches!(event, Event::Attention(_))).count();
    assert!(times == 1 && told(&rack, "free space"), "told once, with what to do: {times}");
    let tried = rack.nodes[1].disk.refused;
    assert!((3..10).contains(&tried), "{tried} tries in five seconds");
    // Commands meanwhile are answered, not held.
    rack.nodes[1].disk.full = false;
    let id = rack.nodes[1].id;
    rack.run_until("recovery", move |rack| rack.recovered.contains(&id));
    let status = rack.head(1).status();
    assert!(!status.log_failed && status.log_why.is_empty());
    rack.move_to(&[0, 1]);
    rack.verify();
}
