//! Devices that fail, and sleds that are drained, under load: found out, rebuilt elsewhere, and what is shown
//! of it (EF-22, EF-23).

mod head_support;

use head_support::*;
use palisade_dma::SLOT_CLASSES;
use palisade_protocol::head::{Left, PartitionStatus};
use palisade_protocol::wire::*;
use std::time::Duration;

/// A rack with more sleds than columns, and contents in extents.
fn rack(seed: u64, sleds: usize) -> Rack {
    let mut rack = Rack::new(Shape { hot_bytes: 0, sleds, columns: 48, ..Shape::new(seed) });
    rack.serve();
    rack.write_in_order(2048);
    rack
}

/// What the head thought of a sled's device, in order.
fn thoughts(rack: &Rack, sled: usize) -> Vec<DeviceHealth> {
    let device = rack.nodes[2 + sled].device;
    let of = |event: &Event| match event {
        Event::DeviceTurned { device: known, health, .. } if *known == device => Some(*health),
        _ => None,
    };
    rack.events.iter().filter_map(of).collect()
}

/// Columns that the head knows to be on the device of a sled.
fn on(rack: &mut Rack, sled: usize) -> u32 {
    let device = rack.nodes[2 + sled].device;
    let status = rack.status();
    status.devices.iter().find(|known| known.device == device).map_or(0, |known| known.held)
}

/// Columns that a sled gave out.
fn used(rack: &mut Rack, sled: usize) -> u32 {
    let status = rack.sled(sled).status();
    status.devices[0].columns - status.devices[0].free
}

fn whole(status: &PartitionStatus) -> bool {
    status.rebuild == Left::default() && status.redundancy == Some(2)
}

/// Load until something is so; all of it is answered without an error.
fn load_until(rack: &mut Rack, what: &str, mut done: impl FnMut(&mut Rack) -> bool) -> Duration {
    let begin = rack.now;
    while !done(rack) {
        assert!(rack.now.since(begin) < Duration::from_secs(120), "{what} did not happen");
        // Most of the volume is cold: what lies there is moved by nobody else.
        rack.workload(20, 256, 4);
        let first = rack.rand(2048 / 16) as usize * 128;
        rack.read(first, 128);
    }
    rack.now.since(begin)
}

/// Only one device erred, so that its columns are read only when the others do not suffice.
#[test]
fn ef22_a_device_that_errs_under_load_is_found_out_and_rebuilt_to_full_redundancy() {
    let mut rack = rack(700, 8);
    assert!(on(&mut rack, 0) > 0 && whole(&rack.status()));
    rack.nodes[2].disk.dead = true;
    load_until(&mut rack, "failure", |rack| thoughts(rack, 0).contains(&DeviceHealth::Failed));
    assert_eq!(thoughts(&rack, 0), [DeviceHealth::Suspect, DeviceHealth::Failed]);
    load_until(&mut rack, "rebuild", |rack| whole(&rack.status()) && on(rack, 0) == 0);
    assert!(rack.counters().rebuilt_bytes > 0);
    assert!((1..8).all(|sled| thoughts(&rack, sled).is_empty()), "the others are well");
    // Full redundancy: any two others may be gone now.
    for (a, b) in [(1, 2), (3, 4), (5, 6), (2, 7)] {
        (rack.nodes[2 + a].cut, rack.nodes[2 + b].cut) = (true, true);
        rack.verify();
        (rack.nodes[2 + a].cut, rack.nodes[2 + b].cut) = (false, false);
        rack.run_for(Duration::from_secs(3));
    }
}

#[test]
fn ef22_a_sled_that_is_silent_for_long_is_rebuilt_and_taken_into_use_again_when_it_returns() {
    let mut rack = rack(701, 8);
    rack.crash(2);
    let took = load_until(&mut rack, "failure", |rack| thoughts(rack, 0).contains(&DeviceHealth::Failed));
    assert!(took >= Duration::from_secs(25), "a sled may start again meanwhile: {took:?}");
    load_until(&mut rack, "rebuild", |rack| whole(&rack.status()) && on(rack, 0) == 0);
    rack.start(2, false);
    load_until(&mut rack, "return", |rack| thoughts(rack, 0).last() == Some(&DeviceHealth::Good));
    load_until(&mut rack, "new columns", |rack| {
        rack.flush_all();
        on(rack, 0) > 0
    });
    rack.verify();
}

/// A disk without room below a sled that holds nothing yet: heads cannot see by reads that it works. It gets no columns
/// and is not ill, for as long as that lasts; then it gets some.
#[test]
fn ef22_a_device_without_room_that_holds_nothing_is_full_and_not_ill() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, sleds: 8, columns: 48, ..Shape::new(708) });
    rack.serve();
    rack.nodes[2].disk.full = true;
    for _ in 0..40 {
        rack.workload(300, 2048, 8);
        rack.start_flush();
        rack.run_for(Duration::from_secs(2));
    }
    assert!(rack.nodes[2].disk.refused > 2, "it was tried again and again");
    assert_eq!((thoughts(&rack, 0), on(&mut rack, 0)), (vec![], 0));
    assert!(whole(&rack.status()), "the others did");
    rack.nodes[2].disk.full = false;
    load_until(&mut rack, "new columns", |rack| {
        rack.flush_all();
        on(rack, 0) > 0
    });
    assert_eq!(thoughts(&rack, 0), []);
    rack.verify();
}

/// A short pause makes nobody fail, and what was suspect is good again.
#[test]
fn ef22_a_sled_that_pauses_for_some_seconds_is_not_given_up() {
    let mut rack = rack(702, 8);
    rack.nodes[2].stall = true;
    load_until(&mut rack, "suspicion", |rack| thoughts(rack, 0) == [DeviceHealth::Suspect]);
    rack.run_for(Duration::from_secs(5));
    rack.restart(2);
    rack.nodes[2].stall = false;
    load_until(&mut rack, "return", |rack| thoughts(rack, 0) == [DeviceHealth::Suspect, DeviceHealth::Good]);
    assert_eq!(rack.counters().rebuilt_bytes, 0);
    rack.verify();
}

#[test]
fn ef22_a_head_that_is_cut_off_from_all_sleds_gives_none_up() {
    let mut rack = rack(703, 8);
    (2..10).for_each(|at| rack.nodes[at].cut = true);
    let tag = rack.submit(ClientVerb::Read { offset: 0, len: 65536 });
    rack.run_for(Duration::from_secs(90));
    assert!(rack.done.remove(&tag).is_some_and(|result| result.is_err()));
    (2..10).for_each(|at| rack.nodes[at].cut = false);
    rack.run_for(Duration::from_secs(10));
    for sled in 0..8 {
        assert!(!thoughts(&rack, sled).contains(&DeviceHealth::Failed), "sled {sled}");
        assert_ne!(thoughts(&rack, sled).last(), Some(&DeviceHealth::Suspect), "sled {sled}");
    }
    rack.verify();
}

/// Two sleds are lost at once. The extents that lost two columns are rebuilt before any that lost one: the worst
/// only gets better. Says whether there were extents of both kinds.
fn two_lost(b: usize) -> bool {
    let mut rack = rack(704, 10);
    let devices = [rack.nodes[2].device, rack.nodes[2 + b].device];
    (rack.nodes[2].disk.dead, rack.nodes[2 + b].disk.dead) = (true, true);
    load_until(&mut rack, "failure", |rack| {
        let known = rack.status().devices;
        let failed = known.iter().filter(|known| known.health == DeviceHealth::Failed);
        failed.filter(|known| devices.contains(&known.device)).count() == 2
    });
    let mut seen = Vec::new();
    let begin = rack.now;
    while !whole(&rack.status()) {
        assert!(rack.now.since(begin) < Duration::from_secs(60), "{seen:?}");
        let status = rack.status();
        let step = (status.redundancy, status.rebuild.extents);
        if seen.last() != Some(&step) {
            seen.push(step);
        }
        rack.step();
    }
    let better = |step: &(Option<i8>, u32)| (step.0, std::cmp::Reverse(step.1));
    assert!(seen.is_sorted_by_key(better), "{seen:?}");
    rack.verify();
    assert!(!rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })));
    [Some(0), Some(1)].iter().all(|worst| seen.iter().any(|step| step.0 == *worst))
}

#[test]
fn ef22_of_two_lost_at_once_the_extents_that_lost_two_columns_come_first_and_no_read_is_wrong() {
    assert!((1..10).any(two_lost), "no pair had extents of both kinds");
}

/// Simulated time that a rebuild under load takes with this share and so many batches at once.
fn rebuild_time(share: u8, batches: u8) -> Duration {
    let mut shape = Shape { hot_bytes: 0, sleds: 8, columns: 48, ..Shape::new(705) };
    (shape.flush.rebuild_share, shape.flush.rebuild_batches) = (share, batches);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.write_in_order(4096);
    rack.nodes[2].disk.dead = true;
    load_until(&mut rack, "failure", |rack| thoughts(rack, 0).contains(&DeviceHealth::Failed));
    load_until(&mut rack, "rebuild", |rack| whole(&rack.status()))
}

#[test]
fn ef22_a_rebuild_keeps_to_its_share_while_clients_are_at_work() {
    let (much, little) = (rebuild_time(100, 4), rebuild_time(5, 4));
    assert!(little > much * 3, "with all of the time {much:?}, with a twentieth of it {little:?}");
}

#[test]
fn ef22_a_rebuild_rests_neither_between_its_batches_nor_between_its_extents() {
    // Batches one by one, in several extents: with a rest of the background after each it took eight tenths of a second.
    let took = rebuild_time(80, 1);
    assert!(!took.is_zero() && took < Duration::from_millis(400), "of simulated time: {took:?}");
}

/// Requests that devices have of a rebuild, when none of their answers comes through.
fn at_devices(requests: u8) -> u64 {
    let mut shape = Shape { hot_bytes: 0, sleds: 8, columns: 48, ..Shape::new(708) };
    (shape.flush.rebuild_batches, shape.flush.rebuild_requests) = (20, requests);
    (shape.flush.checkpoint_bytes, shape.scrub_gap) = (0, Duration::from_secs(3600));
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.write_in_order(4096);
    drain(&mut rack, &[0]);
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnData { .. }));
    // Shorter than the least time after which a question is repeated or hedged.
    rack.run_for(Duration::from_millis(1));
    let begun = rack.sent.get("column_read").copied().unwrap_or(0);
    rack.let_go();
    load_until(&mut rack, "empty", |rack| used(rack, 0) == 0 && on(rack, 0) == 0);
    rack.verify();
    begun
}

#[test]
fn ef22_a_device_has_few_requests_of_a_rebuild_at_once() {
    let (one, three, all) = (at_devices(1), at_devices(3), at_devices(200));
    // Eight devices, not all of which have columns of the first extents.
    assert!((1..=8).contains(&one) && (one + 1..=24).contains(&three), "{one}, {three}");
    assert!(all > 24, "{all}");
}

#[test]
fn p31_batches_of_a_rebuild_leave_buffers_for_what_they_have_to_read() {
    let mut shape = Shape { hot_bytes: 0, sleds: 8, columns: 48, ..Shape::new(707) };
    shape.flush.rebuild_batches = 12;
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.write_in_order(4096);
    // Somebody else has most of the buffers for stripe units: four batches would take all the others.
    let mut elsewhere = Vec::new();
    for (class, left) in [(2, 0), (1, 110)] {
        while rack.pool.stats().free[class] > left {
            elsewhere.push(rack.pool.alloc(SLOT_CLASSES[class]).expect("one is free"));
        }
    }
    rack.nodes[2].disk.dead = true;
    load_until(&mut rack, "failure", |rack| thoughts(rack, 0).contains(&DeviceHealth::Failed));
    load_until(&mut rack, "rebuild", |rack| whole(&rack.status()));
    drop(elsewhere);
    rack.verify();
}

/// Tells the primary which sleds are being drained.
fn drain(rack: &mut Rack, sleds: &[usize]) {
    let mut devices = rack.partition().devices;
    devices.iter_mut().enumerate().for_each(|(at, target)| target.leave = sleds.contains(&at));
    let now = rack.now;
    rack.head(0).set_devices(now, VOLUME, devices);
}

#[test]
fn ef23_a_drained_sled_ends_empty_under_load_is_pulled_and_used_again_after_its_return() {
    let mut rack = rack(706, 8);
    assert!(used(&mut rack, 0) > 0);
    drain(&mut rack, &[0]);
    assert!(rack.status().leaving.extents > 0 && rack.status().rebuild == Left::default());
    load_until(&mut rack, "empty", |rack| used(rack, 0) == 0);
    // The answer to the last release may be on its way.
    load_until(&mut rack, "told", |rack| on(rack, 0) == 0);
    assert_eq!((used(&mut rack, 0), rack.status().leaving), (0, Left::default()));
    assert!(whole(&rack.status()), "protection was never given up");
    // It is pulled: nothing notices.
    rack.crash(2);
    rack.workload(200, 2048, 8);
    rack.flush_all();
    rack.verify();
    assert!(whole(&rack.status()) && rack.counters().degraded_reads == 0);
    rack.start(2, false);
    drain(&mut rack, &[]);
    load_until(&mut rack, "new columns", |rack| {
        rack.flush_all();
        used(rack, 0) > 0
    });
    rack.verify();
}

/// Six sleds, six columns: there is nowhere to go, and what lies there stays protected.
#[test]
fn ef23_a_drain_without_room_elsewhere_gives_no_protection_up() {
    let mut rack = rack(707, 6);
    let before = used(&mut rack, 0);
    drain(&mut rack, &[0]);
    rack.run_for(Duration::from_secs(5));
    let status = rack.status();
    assert!(status.leaving.extents > 0 && whole(&status), "{status:?}");
    // What holds data stays; an extent that was only made ready may go.
    assert!(before - used(&mut rack, 0) <= 1 && used(&mut rack, 0) == status.leaving.extents);
    // New data does without the sled, and gets its column once the sled is in use again.
    rack.workload(100, 512, 8);
    rack.flush_all();
    assert!(used(&mut rack, 0) <= before && rack.status().redundancy == Some(1));
    drain(&mut rack, &[]);
    rack.run_until("protection", |rack| whole(&rack.status()));
    rack.verify();
}
