//! Each test-only switch of the head breaks exactly one rule; each scenario here holds without the switch
//! and is seen to fail with it.

mod head_support;

use head_support::*;
use palisade_protocol::head::{Faults, RoleState};
use palisade_protocol::wire::*;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Whether the scenario's claim holds. A scenario that panics in a check does not hold.
fn holds(
    set: impl Fn(&mut Faults),
    shape: impl Fn(&mut Shape),
    scenario: impl Fn(&mut Rack) -> bool,
) -> bool {
    let run = || {
        let mut plan = Shape::new(500);
        shape(&mut plan);
        set(&mut plan.faults);
        let mut rack = Rack::new(plan);
        scenario(&mut rack)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(false)
}

fn caught(set: impl Fn(&mut Faults), shape: impl Fn(&mut Shape), scenario: impl Fn(&mut Rack) -> bool) {
    assert!(holds(|_| {}, &shape, &scenario), "the rule holds when nothing is broken");
    assert!(!holds(&set, &shape, &scenario), "the broken rule is noticed");
}

fn cold(shape: &mut Shape) {
    shape.hot_bytes = 0;
}

fn plain(_: &mut Shape) {}

/// Whether a command is still open after a second.
fn waits(rack: &mut Rack, tag: u64) -> bool {
    rack.run_for(Duration::from_secs(1));
    !rack.done.contains_key(&tag)
}

#[test]
fn p06_a_write_waits_for_the_peer() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.crash(1);
        let tag = rack.write(0, 8);
        waits(rack, tag)
    };
    caught(|faults| faults.ack_before_peer = true, plain, scenario);
}

#[test]
fn p06_the_end_of_the_own_log_is_not_the_end_of_what_was_acknowledged() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let tags: Vec<u64> = (0..24).map(|at| rack.write(at * 16, 16)).collect();
        rack.wait_all(&tags);
        rack.crash(0);
        rack.crash(1);
        assert!(rack.rot(0, 1) > 0);
        rack.start(0, false);
        rack.start(1, false);
        rack.serve();
        rack.verify();
        true
    };
    caught(|faults| faults.skip_probe = true, cold, scenario);
}

#[test]
fn p06_a_write_waits_for_the_own_log() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.nodes[0].stall = true;
        let tag = rack.write(0, 8);
        waits(rack, tag)
    };
    caught(|faults| faults.ack_before_log = true, plain, scenario);
}

#[test]
fn p01_a_restarted_head_is_idle_without_a_new_number() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.workload(20, 100, 4);
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        let tag = rack.write(0, 8);
        waits(rack, tag)
    };
    caught(|faults| faults.number_kept_over_restart = true, plain, scenario);
}

#[test]
fn p03_another_log_is_not_a_member() {
    let scenario = |rack: &mut Rack| {
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        // The member's disk was replaced behind control's back.
        let old = rack.nodes[1].log;
        rack.crash(1);
        rack.nodes[1].disk.bytes.fill(0);
        rack.nodes[1].log = LogId(0xbad);
        rack.start(1, true);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.nodes[1].log = old;
        rack.grant();
        rack.run_for(Duration::from_secs(1));
        !rack.serving(1)
    };
    caught(|faults| faults.foreign_log_accepted = true, plain, scenario);
}

#[test]
fn p04_one_number_of_two_grants_stops_the_head() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        if let Some(assigned) = &mut rack.assigned {
            assigned.stamp.grant = GrantId(1);
        }
        rack.assign();
        let tag = rack.write(0, 8);
        matches!(rack.wait(tag), Err(ClientError::NotServed))
    };
    caught(|faults| faults.grant_ignored = true, plain, scenario);
}

#[test]
fn p13_reads_wait_for_the_reconcile() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let tag = rack.write(0, 8);
        rack.wait_all(&[tag]);
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
        rack.grant();
        let result = rack.wait(read);
        rack.check(0, result);
        true
    };
    caught(|faults| faults.skip_reconcile = true, plain, scenario);
}

#[test]
fn p12_a_read_waits_for_the_confirm() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.crash(1);
        let tag = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
        waits(rack, tag)
    };
    caught(|faults| faults.skip_confirm = true, plain, scenario);
}

#[test]
fn p12_a_confirm_sent_before_a_read_does_not_release_it() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let first = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
        rack.run_until("a confirm", |rack| rack.sent.contains_key("confirm"));
        let second = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Confirm { nonce, .. } if *nonce > 1));
        let waited = waits(rack, second);
        waited && rack.done.contains_key(&first)
    };
    caught(|faults| faults.confirm_reuse_old_nonce = true, plain, scenario);
}

#[test]
fn p22_a_refused_token_is_claimed_again() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.run_for(Duration::from_secs(1));
        rack.restart(2);
        rack.run_for(Duration::from_millis(100));
        rack.workload(100, 256, 8);
        rack.flush_all();
        rack.run_for(Duration::from_secs(3));
        rack.status().degraded == 0 && rack.status().extents > 0
    };
    caught(|faults| faults.stale_token_retry = true, cold, scenario);
}

#[test]
fn p22_a_fenced_answer_at_the_own_number_is_no_demotion() {
    thread_local! {
        static ASKED: Cell<Option<ReqId>> = const { Cell::new(None) };
    }
    let scenario = |rack: &mut Rack| {
        ASKED.set(None);
        rack.serve();
        rack.workload(60, 256, 8);
        rack.drop_msg = Some(|msg, _, _| match msg {
            Msg::ColumnReserve { req, .. } => {
                ASKED.set(ASKED.get().or(Some(*req)));
                true
            }
            _ => false,
        });
        let flush = rack.start_flush();
        rack.run_until("a column reserve", |_| ASKED.get().is_some());
        let held = rack.assigned.as_ref().expect("serving").stamp;
        let column =
            ColumnRef { sled: rack.nodes[2].id, device: rack.nodes[2].device, column: 0, generation: 0 };
        for at in 2..8 {
            // Whichever sled was asked: the others' answers are strays.
            let (from, boot, now) = (rack.nodes[at].id, rack.nodes[at].boot, rack.now);
            let status = Status::Fenced { partition: held.partition, number: held.number, grant: held.grant };
            let req = ASKED.get().expect("asked");
            let answer = Msg::ColumnReserved { req, status, column };
            rack.head(0).handle_msg(now, from, boot, answer, &mut Out::default());
        }
        rack.drop_msg = None;
        rack.run_for(Duration::from_secs(2));
        rack.done.contains_key(&flush) && rack.status().role == RoleState::Serving
    };
    caught(|faults| faults.false_fence_demotes = true, cold, scenario);
}

#[test]
fn p31_what_the_peer_has_not_promised_to_take_is_not_sent() {
    let shape = |shape: &mut Shape| shape.log_segments = 24;
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.crash(1);
        for at in 0..800 {
            rack.write(at * 32, 32);
        }
        rack.run_for(Duration::from_millis(200));
        let room = u64::from(rack.shape.segment) * rack.shape.log_segments / BLOCK as u64;
        let status = rack.status();
        let sent = 4 * (status.tail.0 - status.committed.0);
        assert!(sent > 0, "the peer's first promise was used");
        // A promise counts threefold in the secondary's log, as each operation may bring a header.
        sent <= room / 3
    };
    caught(|faults| faults.no_credit = true, shape, scenario);
}

#[test]
fn p26_an_unclaimed_device_is_left_alone() {
    let scenario = |rack: &mut Rack| {
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Reserve { .. }));
        rack.serve();
        rack.workload(60, 256, 8);
        rack.head(0);
        rack.start_flush();
        rack.run_for(Duration::from_secs(1));
        !rack.sent.contains_key("column_reserve")
    };
    caught(|faults| faults.claim_unchecked = true, plain, scenario);
}

#[test]
fn p24_a_takeover_writes_to_an_extent_of_its_own() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        // Little enough that the extent has room left.
        rack.workload(10, 64, 8);
        rack.flush_all();
        rack.restart(0);
        rack.serve();
        rack.workload(5, 64, 8);
        rack.flush_all();
        rack.counters().extents_created > 0
    };
    caught(|faults| faults.seal_skipped = true, plain, scenario);
}

#[test]
fn p25_a_flush_needs_its_least_columns() {
    let scenario = |rack: &mut Rack| {
        rack.crash(2);
        rack.crash(3);
        rack.serve();
        rack.workload(60, 256, 8);
        rack.start_flush();
        rack.run_for(Duration::from_secs(2));
        rack.counters().flushes == 0
    };
    caught(|faults| faults.flush_below_k1 = true, plain, scenario);
}

#[test]
fn p27_columns_that_no_extent_names_come_back() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.workload(60, 256, 8);
        rack.start_flush();
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnReserved { .. }));
        rack.run_until("column reserves", |rack| rack.sent.contains_key("column_reserve"));
        rack.run_for(Duration::from_millis(5));
        rack.restart(0);
        rack.drop_msg = None;
        rack.serve();
        rack.run_for(Duration::from_secs(2));
        let free: u32 = (0..6).map(|at| rack.sled(at).status().devices[0].free).sum();
        let all: u32 = (0..6).map(|at| rack.sled(at).status().devices[0].columns).sum();
        let status = rack.status();
        free + 6 * status.extents == all
    };
    caught(|faults| faults.no_list_after_claim = true, plain, scenario);
}

#[test]
fn p28_columns_stay_until_every_checkpoint_is_past_their_release() {
    let shape = |shape: &mut Shape| shape.blocks = 512;
    let scenario = |rack: &mut Rack| {
        rack.nodes[1].disk.no_flush = true;
        rack.serve();
        for _ in 0..4 {
            for first in (0..512 * 8).step_by(256) {
                let tag = rack.write(first, 256);
                rack.wait_all(&[tag]);
            }
            rack.flush_all();
        }
        rack.run_for(Duration::from_secs(2));
        assert!(rack.counters().extents_released > 0, "extents died");
        !rack.sent.contains_key("column_release")
    };
    caught(|faults| faults.release_early = true, shape, scenario);
}

#[test]
fn p10_merges_see_pending_versions() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let tags: Vec<u64> = (0..8).map(|sector| rack.write(sector, 1)).collect();
        rack.wait_all(&tags);
        rack.read(0, 8);
        true
    };
    caught(|faults| faults.rmw_on_committed = true, plain, scenario);
}

#[test]
fn nothing_silent_leaves_the_head() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let tags: Vec<u64> = (0..16).map(|at| rack.write(at * 8, 8)).collect();
        rack.wait_all(&tags);
        assert!(rack.rot(0, 4) > 0);
        rack.read(0, 128);
        true
    };
    caught(|faults| faults.no_crc_check = true, cold, scenario);
}

#[test]
fn p15_reads_name_the_generation() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.workload(60, 256, 8);
        rack.flush_all();
        rack.verify();
        true
    };
    caught(|faults| faults.read_any_generation = true, cold, scenario);
}

#[test]
fn p11_a_write_of_a_lost_connection_that_has_no_number_is_never_carried_out() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        let ghost = rack.write(0, 8);
        rack.abort(&[ghost]);
        rack.serve();
        matches!(rack.wait(ghost), Err(ClientError::NotServed))
    };
    caught(|faults| faults.ghost_writes = true, plain, scenario);
}

#[test]
fn ma06_replication_under_a_lower_number_changes_nothing() {
    let scenario = |rack: &mut Rack| {
        rack.serve();
        let old = rack.assigned.clone().expect("assigned").stamp;
        let first = rack.write(0, 8);
        rack.wait_all(&[first]);
        // What the primary of before sent last is under way while it starts again under another number.
        let data = rack.bytes(999, 0, 8);
        let crcs = [palisade_isal::crc32c(&data)].into_iter().collect();
        rack.restart(0);
        rack.serve();
        rack.run_for(Duration::from_millis(500));
        let op = Op(rack.head(1).status().partitions[0].tail.0 + 1);
        let entry = Entry {
            partition: VOLUME,
            number: old.number,
            op,
            body: Body::Write { lba: Lba(0), crcs, data },
        };
        let entries = std::iter::once(entry).collect();
        let (now, from, mut out) = (rack.now, rack.nodes[0].id, Out::default());
        let late = Msg::Replicate { stamp: old, committed: op, entries };
        rack.head(1).handle_msg(now, from, BootId(1), late, &mut out);
        rack.head(1).turn(now, &mut out);
        let told =
            out.net.iter().any(|(_, msg)| matches!(msg, Msg::Refused { refused, .. } if *refused == old));
        told && out.block.is_empty()
    };
    caught(|faults| faults.lower_number_taken = true, plain, scenario);
}
