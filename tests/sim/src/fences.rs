//! Runs of rogue heads against shipping sleds: the fence under claim after claim (EF-15, EF-16, EF-18).

use crate::faults::{Load, NetMode, Odds, Scenario, TIMERS};
use crate::node::Node;
use crate::rack::{self, Canaries};
use crate::rogue::{Ledger, Rogue, Target};
use crate::run::Report;
use crate::tally::Role;
use crate::world::World;
use palisade_protocol::head::Solo;
use palisade_protocol::wire::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Rogue heads of a run.
const ROGUES: u32 = 3;

/// The scenario of all fence runs.
pub const FENCES: Scenario = Scenario {
    name: "fences",
    net: NetMode::Direct,
    heads: 0,
    reserves: 0,
    volumes: 0,
    sleds: 2,
    code: (1, 2),
    volume_blocks: 64,
    log_bytes: 0,
    requests: 0,
    clients: 0,
    depth: (1, 1),
    load: Load::Mixed,
    media_us: 40,
    slow_log_us: 40,
    away: 0,
    hurt: 0,
    scrub_ms: 5,
    moves: false,
    timers: TIMERS,
    strays: 0.0,
    solo: Solo::Wait,
    replaces: false,
    odds: Odds {
        doubled: 0.1,
        held: 0.15,
        held_ms_max: 10,
        slow: 0.1,
        crashes_per_s: 15.0,
        cuts_of_power_per_s: 3.0,
        ..Odds::CALM
    },
};

/// Runs a seed; also which answers of sleds the script met, and how often.
pub fn run_fences(seed: u64, canaries: Canaries) -> (Report, Vec<(&'static str, u64)>) {
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let mut world = build(seed, canaries, &ledger);
    let start = world.now;
    world.start_all();
    world.start_trouble(FENCES.odds);
    let ill = |world: &World, ledger: &RefCell<Ledger>| {
        !world.violations.is_empty() || !ledger.borrow().violations.is_empty()
    };
    world.run_until(Duration::from_secs(2), |world| ill(world, &ledger));
    world.calm();
    world.run_until(Duration::from_millis(300), |world| ill(world, &ledger));
    world.settle();
    let mut violations = std::mem::take(&mut world.violations);
    violations.extend(world.leaks());
    violations.append(&mut ledger.borrow_mut().violations);
    let report = Report {
        seed,
        scenario: FENCES.name,
        hash: world.fold.value(),
        tally: world.tally.clone(),
        violations,
        lasted: world.now.since(start),
    };
    let seen = ledger.borrow().seen.iter().map(|(name, count)| (*name, *count)).collect();
    (report, seen)
}

fn build(seed: u64, canaries: Canaries, ledger: &Rc<RefCell<Ledger>>) -> World {
    let ledger = Rc::clone(ledger);
    rack::build_with(seed, FENCES, canaries, |shape, pool, sleds| {
        let target = Target {
            devices: sleds.to_vec(),
            unit_blocks: u32::from(shape.unit_blocks),
            stripes: shape.stripes,
            partition: PartitionId(1),
        };
        let rogues = (0..ROGUES).map(|index| Node::new(NodeId(index + 1), Role::Head, Vec::new())).collect();
        let pool = pool.clone();
        let make: rack::HeadMaker = Box::new(move |node, salt| {
            Box::new(Rogue::new(node.id, node.boot, target.clone(), pool.clone(), salt, Rc::clone(&ledger)))
        });
        (rogues, make)
    })
}
