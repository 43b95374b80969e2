//! Power cut at every moment: one run is recorded without faults of its own, then for prefixes of what
//! its devices were asked the power fails, unflushed and unfinished writes land in part and in any order,
//! a fresh rack recovers from what is left, and everything acknowledged up to there must be read back.

use crate::dice::Dice;
use crate::disk::Disk;
use crate::faults::Scenario;
use crate::rack::{self, Canaries};
use crate::world::World;
use palisade_protocol::wire::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What to cut.
#[derive(Clone, Copy, Debug)]
pub struct CutPlan {
    /// Decides the recorded run and the fates of unfinished writes.
    pub seed: u64,
    /// The rack.
    pub scenario: Scenario,
    /// Rules to break.
    pub canaries: Canaries,
    /// Every which prefix is replayed; 1 for all of them.
    pub every: usize,
    /// How many fates of unfinished writes are tried per prefix.
    pub samples: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct CutReport {
    /// Device moments on the tape.
    pub moments: usize,
    /// Power cuts replayed and recovered from.
    pub cuts: usize,
    /// Stripes that the recorded run flushed.
    pub flushes: u64,
    /// What must not be, with the prefix that showed it.
    pub violations: Vec<String>,
}

/// Records a run and replays its power cuts. Stops at the first violation.
pub fn replay_cuts(plan: &CutPlan) -> CutReport {
    let recorded = record(plan);
    let mut report = CutReport { violations: recorded.violations.clone(), ..CutReport::default() };
    let Some(tape) = &recorded.tape else { return report };
    report.moments = tape.len();
    report.flushes = recorded.tally.counts.flushes;
    let mut dice = Dice::new(plan.seed ^ 0x6375_7473);
    for prefix in (0..=tape.len()).step_by(plan.every.max(1)) {
        for _ in 0..plan.samples {
            if !report.violations.is_empty() {
                return report;
            }
            let found = recover(plan, &recorded, prefix, &mut dice);
            report.cuts += 1;
            report.violations.extend(found.into_iter().map(|what| format!("cut at {prefix}: {what}")));
        }
    }
    report
}

/// The run whose devices are recorded: load, and a flush of everything.
fn record(plan: &CutPlan) -> World {
    let mut world = rack::build(plan.seed, plan.scenario, plan.canaries);
    world.tape = Some(Default::default());
    world.start_all();
    world.start_clients();
    world.odds = plan.scenario.odds;
    let done =
        world.run_until(Duration::from_secs(60), |world| world.volumes.iter().all(|volume| volume.done()));
    if done {
        world.flush_all();
    } else {
        world.stuck("the recorded run did not end");
    }
    world.settle();
    world
}

fn recover(plan: &CutPlan, recorded: &World, prefix: usize, dice: &mut Dice) -> Vec<String> {
    let tape = recorded.tape.as_ref().expect("recorded with a tape");
    let mut world = rack::build(plan.seed, plan.scenario, plan.canaries);
    let mut disks: BTreeMap<(NodeId, usize), Disk> = BTreeMap::new();
    for node in world.nodes.values_mut() {
        for (index, disk) in std::mem::take(&mut node.disks).into_iter().enumerate() {
            disks.insert((node.id, index), disk);
        }
    }
    tape.replay(prefix, &mut disks, dice);
    for ((node, _), disk) in disks {
        world.node_mut(node).disks.push(disk);
    }
    for node in world.nodes.values_mut() {
        node.formatted = tape.is_opened(prefix, node.id);
    }
    let moment = tape.time(prefix);
    world.now = world.now.max(moment) + Duration::from_millis(1);
    world.ids = recorded.ids;
    // Boot ids of the new lives differ from those of the recorded ones.
    world.dice = dice.fork();
    world.volumes = recorded.volumes.iter().map(|volume| volume.until(moment)).collect();
    if let Some(grants) = tape.grants(prefix) {
        world.grants = grants.clone();
    }
    reckon(&mut world);
    world.violations
}

fn reckon(world: &mut World) {
    world.start_all();
    world.read_back();
    for index in 0..world.volumes.len() {
        if let (true, Err(what)) = (world.violations.is_empty(), world.volumes[index].history.judge()) {
            world.violate(what);
        }
    }
}
