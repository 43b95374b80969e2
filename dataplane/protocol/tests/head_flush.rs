//! Flush, column reads, repair and collection, against a model of acknowledged writes.

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;

#[test]
fn flushed_data_is_read_from_columns() {
    for seed in 100..104 {
        let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
        rack.serve();
        rack.workload(300, 512, 8);
        rack.flush_all();
        let counters = rack.counters();
        assert!(counters.flushes > 0 && counters.repoints > 0);
        rack.verify();
        assert!(rack.sent["column_read"] > 0);
        rack.workload(100, 512, 8);
        rack.verify();
        rack.restart(0);
        rack.serve();
        rack.verify();
    }
}

#[test]
fn any_two_of_six_sleds_may_be_gone() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(110) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    for a in 0..6 {
        for b in a + 1..6 {
            rack.nodes[2 + a].disk.dead = true;
            rack.nodes[2 + b].disk.dead = true;
            for first in (0..2048).step_by(512) {
                rack.read(first, 512);
            }
            rack.nodes[2 + a].disk.dead = false;
            rack.nodes[2 + b].disk.dead = false;
            rack.restart(2 + a);
            rack.restart(2 + b);
            rack.run_for(std::time::Duration::from_millis(50));
        }
    }
    assert!(rack.counters().degraded_reads > 0);
}

#[test]
fn three_gone_is_an_error_that_names_the_extent() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(111) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    for at in 0..3 {
        rack.crash(2 + at);
    }
    let mut lost = 0;
    for first in (0..2048).step_by(8) {
        let tag = rack.submit(ClientVerb::Read { offset: first as u64 * 512, len: 4096 });
        match rack.wait(tag) {
            Err(ClientError::Unreadable) => lost += 1,
            other => rack.check(first, other),
        }
    }
    assert!(lost > 0);
    assert!(rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })));
}
