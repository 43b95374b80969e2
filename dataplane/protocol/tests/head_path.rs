//! The path of writes and reads, and restarts of heads, against a model of acknowledged writes.

mod head_support;

use head_support::*;

#[test]
fn what_was_written_is_read() {
    let mut rack = Rack::new(Shape::new(1));
    rack.serve();
    let tag = rack.write(0, 8);
    rack.wait_all(&[tag]);
    rack.read(0, 8);
    rack.workload(200, 256, 8);
    rack.verify();
}

#[test]
fn primary_restarts_and_loses_nothing() {
    for seed in 0..6 {
        let mut rack = Rack::new(Shape::new(seed));
        rack.serve();
        for _ in 0..4 {
            rack.workload(60, 200, 6);
            for at in 0..6 {
                rack.write(1700 + at * 8, 8);
            }
            for _ in 0..rack.rand(40) {
                rack.step();
            }
            rack.restart(0);
            rack.serve();
            rack.verify();
        }
    }
}

#[test]
fn op25_a_head_that_starts_again_with_its_log_serves_nothing_before_its_role_is_confirmed() {
    let mut rack = Rack::new(Shape::new(20));
    rack.serve();
    let tag = rack.write(0, 8);
    rack.wait_all(&[tag]);
    rack.restart_heads();
    rack.run_until("recovery", |rack| rack.recovered.len() >= 2);
    let write = rack.write(8, 8);
    let read = rack.submit(palisade_protocol::wire::ClientVerb::Read { offset: 0, len: 4096 });
    rack.run_for(std::time::Duration::from_secs(5));
    let served = |tag: &u64| matches!(rack.done.get(tag), Some(Ok(_)));
    assert!(![read, write].iter().any(served), "what is in its log is no role: {:?}", rack.done);
    // The role comes, with the number, and what was acknowledged is there.
    rack.serve();
    rack.wait_all(&[write]);
    let result = rack.wait(read);
    rack.check(0, result);
    rack.verify();
}

#[test]
fn secondary_restarts_and_requests_wait_for_it() {
    for seed in 10..14 {
        let mut rack = Rack::new(Shape::new(seed));
        rack.serve();
        rack.workload(60, 200, 6);
        rack.crash(1);
        let write = rack.write(0, 8);
        let read = rack.submit(palisade_protocol::wire::ClientVerb::Read { offset: 4096, len: 4096 });
        rack.run_for(std::time::Duration::from_secs(2));
        assert!(
            !rack.done.contains_key(&write) && !rack.done.contains_key(&read),
            "requests wait (P-06, P-12)"
        );
        assert!(rack.status().peer_away);
        rack.start(1, false);
        rack.serve();
        rack.wait_all(&[write]);
        let result = rack.wait(read);
        rack.check(8, result);
        rack.workload(60, 200, 6);
        rack.verify();
    }
}

#[test]
fn both_heads_restart_at_once() {
    for seed in 20..26 {
        let mut rack = Rack::new(Shape::new(seed));
        rack.serve();
        for _ in 0..3 {
            rack.workload(80, 300, 6);
            for at in 0..6 {
                rack.write(1700 + at * 8, 8);
            }
            for _ in 0..rack.rand(40) {
                rack.step();
            }
            rack.restart_heads();
            rack.serve();
            rack.verify();
        }
    }
}

#[test]
fn a_group_of_one_needs_nobody() {
    let mut shape = Shape::new(30);
    shape.secondary = false;
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.workload(200, 256, 8);
    rack.verify();
    rack.restart(0);
    rack.serve();
    rack.verify();
}
