//! Racks in which a head alone fills a blank one (BA-01).

use super::*;

pub fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.flush.fill_low, shape.solo) = (1024, 5, Solo::Local);
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// The first head has flushed some, and is alone; the other one has a blank log.
pub fn alone(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut rack = rack(seed, change);
    rack.workload(120, 800, 8);
    rack.flush_all();
    rack.crash(1);
    rack.move_to(&[0]);
    rack.workload(60, 800, 8);
    rack.replace_log(1);
    rack
}

/// The copy can be served from: the filled head leads, and the other one is gone.
pub fn serves(rack: &mut Rack) {
    rack.same_index();
    rack.verify();
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.crash(0);
    rack.move_to(&[1]);
    rack.verify();
    rack.workload(30, 800, 8);
    rack.verify();
}
