//! Racks whose volume goes on alone with copies on sleds (P-30).

use super::*;

pub fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.flush.fill_low, shape.solo, shape.columns) = (512, 60, Solo::Sleds, 60);
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// Starts single-block writes over the first blocks, without waiting.
pub fn begin(rack: &mut Rack, count: usize, micros: u64) -> Vec<u64> {
    let tags = (0..count).map(|at| rack.write(at * 8, 8)).collect();
    rack.run_for(Duration::from_micros(micros));
    tags
}

/// The secondary dies and the primary goes on alone, with copies.
pub fn alone(rack: &mut Rack) {
    rack.crash(1);
    rack.move_to(&[0]);
}

/// The second head comes back as a process, without a number.
pub fn bring_back(rack: &mut Rack, at: usize) {
    rack.start(at, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
}

/// The lone head dies for good, and the other one takes over what it acknowledged.
pub fn lose_and_salvage(rack: &mut Rack, base: u64) {
    bring_back(rack, 1);
    rack.crash(0);
    rack.salvage_to(1, base);
}
