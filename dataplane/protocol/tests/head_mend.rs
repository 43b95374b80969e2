//! Rotten copies of what was acknowledged alone are made good while the lone head lives (P-30, P-23).

mod head_support;

use head_support::alone::{alone, bring_back, rack};
use head_support::{Rack, Shape};
use palisade_protocol::wire::*;
use std::panic::catch_unwind;
use std::time::Duration;

/// Events of such a kind.
fn told(rack: &Rack, of: impl Fn(&Event) -> bool) -> usize {
    rack.events.iter().filter(|event| of(event)).count()
}

fn is_mended(event: &Event) -> bool {
    matches!(event, Event::Repaired { place: "journal", .. })
}

fn is_left(event: &Event) -> bool {
    matches!(event, Event::Attention(text) if text.contains("acknowledged alone has rotted"))
}

fn scrubs(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut rack = rack(seed, |shape| {
        // All of the journal is in one chapter, so that every sled that has copies has all of it.
        (shape.scrub_gap, shape.stripes, shape.columns) = (Duration::from_micros(500), 512, 12);
        change(shape);
    });
    rack.workload(10, 100, 4);
    alone(&mut rack);
    rack.workload(40, 200, 8);
    rack
}

/// The first sled with copies: all of them rot there, and the scrub of a sled that starts anew begins at once.
fn rots(rack: &mut Rack) -> usize {
    let sled = (0..rack.shape.sleds).find(|&at| rack.rot(2 + at, 1) > 0).expect("a sled with copies");
    rack.restart(2 + sled);
    sled
}

/// The lone head dies, and of all copies only those of one sled are whole.
fn salvage_from(rack: &mut Rack, sled: usize) {
    bring_back(rack, 1);
    rack.crash(0);
    let hurt: usize = (0..rack.shape.sleds).filter(|&at| at != sled).map(|at| rack.rot(2 + at, 1)).sum();
    assert!(hurt > 0, "there are other copies");
    rack.salvage_to(1, 1);
    assert!(rack.counters().salvaged > 0);
    rack.verify();
}

/// A copy rots; later it is the only one.
fn rots_and_is_the_last(seed: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = scrubs(seed, change);
    let sled = rots(&mut rack);
    rack.run_for(Duration::from_secs(3));
    salvage_from(&mut rack, sled);
}

#[test]
fn p30_a_rotten_copy_is_made_good_and_is_enough_by_itself() {
    for seed in 20..24 {
        let mut rack = scrubs(seed, |_| {});
        let sled = rots(&mut rack);
        rack.run_until("the copy is made good", |rack| told(rack, is_mended) > 0);
        let counters = rack.counters();
        assert!(counters.corrupt > 0 && counters.repaired > 0, "counted");
        rack.run_for(Duration::from_secs(3));
        assert_eq!(told(&rack, is_left), 0, "nothing is left for people");
        rack.verify();
        salvage_from(&mut rack, sled);
    }
}

#[test]
fn p30_a_rotten_copy_that_is_left_is_missed() {
    let lost = |seed| rots_and_is_the_last(seed, |shape| shape.faults.copy_rot_left = true);
    assert!((20..22).all(|seed| catch_unwind(|| lost(seed)).is_err()));
}

/// What a lone head wrote before it restarted alone has copies under an older number, which they keep.
#[test]
fn p30_p01_a_rotten_copy_of_an_older_number_is_made_good_under_that() {
    for seed in 24..28 {
        // Three sleds for three copies: each has all of them, of either number.
        let mut rack = scrubs(seed, |shape| (shape.k, shape.m, shape.sleds) = (1, 2, 3));
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[0].id));
        rack.move_to(&[0]);
        let sled = rots(&mut rack);
        rack.run_until("the copy is made good", |rack| told(rack, is_mended) > 0);
        // A sled tells of its rotten columns with a pause between them.
        rack.run_for(Duration::from_secs(12));
        salvage_from(&mut rack, sled);
    }
}

/// It rots again and again, and is made good each time.
#[test]
fn p30_a_copy_that_rots_again_is_made_good_again() {
    let mut rack = scrubs(28, |_| {});
    for round in 1..4 {
        rots(&mut rack);
        rack.run_until("the copy is made good", |rack| told(rack, is_mended) >= round);
    }
    rack.verify();
}

/// The head is cut off from the sled with the rot before it is done, or the sled dies: nothing stops, and the next
/// word of the scrub begins it anew.
#[test]
fn p30_a_mend_that_is_cut_short_hinders_nothing_and_is_begun_anew() {
    let mut rack = scrubs(29, |_| {});
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnWritten { .. }));
    let sled = rots(&mut rack);
    rack.run_until("people are told", |rack| told(rack, is_left) > 0);
    rack.drop_msg = None;
    rack.workload(20, 100, 4);
    rack.verify();
    rack.crash(2 + sled);
    rack.workload(20, 100, 4);
    assert_eq!((told(&rack, is_left), told(&rack, is_mended)), (1, 0));
    rack.rot(2 + sled, 1);
    rack.start(2 + sled, false);
    rack.run_until("the copy is made good", |rack| told(rack, is_mended) > 0);
    rack.verify();
}

#[test]
fn p30_rot_in_every_copy_is_told_once_and_never_written_over() {
    let mut rack = scrubs(30, |_| {});
    let hurt: usize = (0..6).map(|at| rack.rot(2 + at, 1)).sum();
    (0..6).for_each(|at| rack.restart(2 + at));
    rack.run_until("people are told", |rack| told(rack, is_left) > 0);
    rack.run_for(Duration::from_secs(5));
    let left = told(&rack, is_left);
    assert!(hurt > 0 && (1..=6).contains(&left), "once a column: {left}");
    assert_eq!(told(&rack, is_mended), 0, "nothing is whole to take it from");
    // The lone head has it all, and fills another one from its log.
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[0, 1]);
    rack.verify();
}
