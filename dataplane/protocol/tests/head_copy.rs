//! Full copies: a head with another log, a damaged one or an old one is filled and becomes a member (BA-01, BA-04,
//! MA-21, P-07, P-28, P-29).

mod head_support;

use head_support::blank::{alone, rack, serves};
use head_support::{BLOCK, Shape, VOLUME};
use palisade_protocol::head::{FailoverConfig, RoleState, Solo};
use palisade_protocol::wire::*;
use std::panic::catch_unwind;
use std::time::Duration;

#[test]
fn ba01_a_blank_head_is_filled_and_takes_over() {
    for seed in 0..4 {
        let mut rack = alone(seed, |_| {});
        rack.fill(0, 1);
        rack.join(0, 1);
        assert!(rack.sent("copy_part") > 1);
        let status = rack.status();
        assert_eq!((status.fill, status.needs_copy), (None, None));
        serves(&mut rack);
    }
}

#[test]
fn ba01_bytes_moved_are_about_the_index_and_the_log_not_the_volume() {
    let mut rack = rack(5, |shape| shape.blocks = 4096);
    let tags: Vec<u64> = (0..56).map(|at| rack.write(at * 512, 512)).collect();
    rack.wait_all(&tags);
    rack.flush_all();
    rack.crash(1);
    rack.move_to(&[0]);
    let tags: Vec<u64> = (0..40).map(|at| rack.write(at * 64, 8)).collect();
    rack.wait_all(&tags);
    rack.replace_log(1);
    let logged = rack.status().log_blocks;
    rack.fill(0, 1);
    rack.join(0, 1);
    let counters = rack.counters();
    assert!((40..200).contains(&logged), "most is flushed: {logged}");
    assert!(counters.copied_bytes <= logged * BLOCK as u64, "{} of {logged} blocks", counters.copied_bytes);
    assert!(counters.copied_bytes > 0);
    // 3584 blocks are mapped: four parts of 1024 each, one or two for the rest, one for the extents.
    assert!(rack.sent("copy_part") <= 12, "{}", rack.sent("copy_part"));
    serves(&mut rack);
}

#[test]
fn ba01_writes_go_on_while_a_head_is_filled_and_the_copy_holds_them() {
    for seed in 10..16 {
        let mut rack = alone(seed, |_| {});
        rack.fill(0, 1);
        let mut rounds = 0;
        while rack.joining(0, 1).is_none() {
            rack.workload(20, 800, 8);
            if rounds % 3 == 0 {
                rack.start_flush();
            }
            rounds += 1;
            assert!(rounds < 400, "seed {seed}: {:?}", rack.status().fill);
        }
        assert!(rounds > 1, "seed {seed}: under load");
        rack.join(0, 1);
        serves(&mut rack);
    }
}

#[test]
fn ba01_a_third_head_replaces_a_secondary_that_died_and_open_writes_are_answered() {
    for seed in 20..24 {
        let mut rack = rack(seed, |shape| shape.solo = Solo::Wait);
        rack.workload(80, 800, 8);
        rack.flush_all();
        rack.crash(1);
        let tags: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
        rack.run_for(Duration::from_secs(1));
        assert!(tags.iter().all(|tag| !rack.done.contains_key(tag)), "P-30: nobody holds the second copy");
        rack.replace_log(1);
        rack.fill(0, 1);
        let wish = rack.vouched(0, 1);
        assert_eq!(wish.members.as_slice(), [rack.member(0), rack.member(1)], "the dead one is left out");
        assert_eq!(wish.why, Why::Joined);
        rack.join(0, 1);
        rack.wait_all(&tags);
        rack.same_index();
        rack.verify();
        rack.move_to(&[1, 0]);
        rack.workload(30, 800, 8);
        rack.verify();
    }
}

#[test]
fn ma20_a_member_that_was_away_for_longer_than_operations_are_remembered_is_filled_by_itself() {
    let mut rack = rack(30, |_| {});
    rack.workload(40, 800, 8);
    rack.crash(1);
    rack.move_to(&[0]);
    rack.workload(2600, 800, 8);
    rack.flush_all();
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[0, 1]);
    assert!(rack.counters().copies > 0);
    serves(&mut rack);
}

/// A primary that may be alone wishes to go on without a member that it has to fill, and to fill that later. When it
/// was filled first, it is one of those who hold everything: nothing may void that.
#[test]
fn ma21_a_member_that_was_filled_is_not_filled_once_more_for_a_wish_of_before() {
    let mut wished = 0;
    for seed in 31..37 {
        let mut rack = rack(seed, |shape| shape.failover = Some(FailoverConfig::default()));
        rack.workload(40, 800, 8);
        rack.crash(1);
        rack.move_to(&[0]);
        rack.workload(2600, 800, 8);
        rack.flush_all();
        rack.start(1, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[0, 1]);
        wished += u64::from(rack.status().proposing);
        rack.run_for(Duration::from_millis(300));
        assert_eq!(rack.counters().copies, 1, "seed {seed}");
        assert_eq!(rack.head(1).status().partitions[0].needs_copy, None, "seed {seed}: it holds everything");
    }
    assert!(wished > 0, "some wished to be alone meanwhile");
}

#[test]
fn p03_a_member_whose_log_is_blank_is_filled_before_the_volume_serves() {
    for seed in 40..43 {
        let mut rack = rack(seed, |_| {});
        rack.workload(120, 800, 8);
        rack.flush_all();
        rack.restart(0);
        rack.replace_log(1);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[0, 1]);
        rack.verify();
        serves(&mut rack);
    }
}

#[test]
fn ef19_a_primary_that_lost_its_log_says_so_and_is_filled_as_the_secondary() {
    for seed in 50..53 {
        let mut rack = rack(seed, |_| {});
        rack.workload(120, 800, 8);
        rack.flush_all();
        rack.workload(40, 800, 8);
        rack.restart(1);
        rack.replace_log(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.decide(&[0, 1]);
        rack.assign();
        let own = rack.nodes[0].id;
        rack.run_until("word of it", |rack| rack.status().needs_copy == Some(own));
        assert_ne!(rack.status().role, RoleState::Serving);
        rack.move_to(&[1, 0]);
        rack.verify();
        rack.same_index();
        rack.crash(1);
        rack.move_to(&[0]);
        rack.verify();
    }
}

/// Control may say late that a head that left is to forget its copy, when that is chosen and filled again.
#[test]
fn ma21_a_copy_that_a_head_has_to_forget_is_begun_anew() {
    let mut again = 0;
    for step in 0..24 {
        let mut rack = alone(55, |_| {});
        rack.fill(0, 1);
        rack.run_for(Duration::from_micros(20 * step));
        let mut out = Out::default();
        rack.head(1).forget(VOLUME, &mut out);
        rack.join(0, 1);
        again += u64::from(rack.counters().copies > 1);
        serves(&mut rack);
    }
    assert!(again > 0, "some had to begin anew");
}

#[test]
fn ma21_a_head_that_dies_while_it_is_filled_keeps_nothing_and_is_filled_anew() {
    let (mut half, mut whole) = (0, 0);
    for seed in 60..84 {
        let mut rack = alone(seed, |_| {});
        rack.fill(0, 1);
        rack.run_for(Duration::from_micros(100 + 90 * (seed - 60)));
        rack.restart(1);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        let status = rack.head(1).status().partitions.remove(0);
        if status.needs_copy.is_some() {
            half += 1;
            assert_eq!((status.committed, status.extents, status.log_blocks), (Op(0), 0, 0), "{status:?}");
        } else if status.committed > Op(0) {
            let (giver, taker) = (rack.head(0).digest(VOLUME), rack.head(1).digest(VOLUME));
            // What was committed last may not be known to be so there.
            if giver.map(|index| index.0) == taker.map(|index| index.0) {
                whole += 1;
                assert_eq!(giver, taker, "seed {seed}");
            }
        }
        rack.decline(0);
        rack.workload(20, 800, 4);
        rack.fill(0, 1);
        rack.join(0, 1);
        assert!(rack.counters().copies > 0, "seed {seed}: the half copy is not gone on with");
        serves(&mut rack);
    }
    assert!(half > 3, "half copies: {half}, whole ones: {whole}");
}

#[test]
fn ma21_a_primary_that_dies_while_it_fills_gives_nobody_half_a_copy() {
    for seed in 90..98 {
        let mut rack = alone(seed, |_| {});
        rack.fill(0, 1);
        rack.run_for(Duration::from_micros(200 + 150 * (seed - 90)));
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[0]);
        rack.workload(20, 800, 4);
        rack.fill(0, 1);
        rack.join(0, 1);
        assert!(rack.counters().copies > 0, "seed {seed}: the half copy is not gone on with");
        serves(&mut rack);
    }
}

#[test]
fn ma21_a_copy_ends_with_the_pair_under_which_it_began() {
    let mut rack = alone(100, |_| {});
    rack.fill(0, 1);
    rack.run_for(Duration::from_micros(600));
    let copies = rack.counters().copies;
    rack.move_to(&[0]);
    rack.join(0, 1);
    assert!(rack.counters().copies > copies, "another one began");
    serves(&mut rack);
}

#[test]
fn ma21_a_decline_is_followed_by_another_wish_and_no_other_copy() {
    let mut rack = alone(101, |_| {});
    rack.fill(0, 1);
    let wish = rack.vouched(0, 1);
    let newest = rack.assigned.clone();
    rack.outcome(0, wish.nonce, ProposalOutcome::Declined { newest });
    rack.workload(20, 800, 4);
    rack.run_until("another wish", |rack| rack.joining(0, 1).is_some_and(|next| next.nonce > wish.nonce));
    rack.join(0, 1);
    assert_eq!(rack.counters().copies, 1);
    serves(&mut rack);
}

#[test]
fn p02_an_open_wish_is_repeated_and_what_it_holds_up_goes_on_with_its_outcome() {
    let mut rack = alone(102, |_| {});
    rack.fill(0, 1);
    let wish = rack.vouched(0, 1);
    let tags: Vec<u64> = (0..10).map(|at| rack.write(at * 8, 8)).collect();
    let told = rack.proposals(0).len();
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(0).len() > told, "it is said again");
    assert!(rack.proposals(0)[told..].iter().all(|again| *again == wish), "word for word");
    rack.join(0, 1);
    rack.wait_all(&tags);
    serves(&mut rack);
}

#[test]
fn p01_messages_of_a_copy_that_ended_void_nothing_of_a_member() {
    let mut rack = alone(103, |_| {});
    rack.hold_msg =
        Some(|msg, _, _| matches!(msg, Msg::Copy { session: 1, .. } | Msg::CopyPart { session: 1, .. }));
    rack.fill(0, 1);
    rack.run_for(Duration::from_millis(100));
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::Heartbeat { .. }));
    // The wish is made anew under another pair.
    rack.move_to(&[0]);
    rack.join(0, 1);
    rack.workload(20, 800, 4);
    let before = rack.head(1).digest(VOLUME);
    assert!(rack.let_go() > 0);
    rack.run_for(Duration::from_millis(50));
    assert_eq!(rack.head(1).digest(VOLUME).map(|now| now.0.0 > 0), before.map(|then| then.0.0 > 0));
    let (boot, stamp) = (rack.nodes[0].boot, rack.status().stamp);
    let adopt = Adopt {
        partition: VOLUME,
        number: stamp.number,
        grant: stamp.grant,
        members: [rack.member(0), rack.member(1)].into_iter().collect(),
        tail: Op(1),
    };
    let (from, to) = (rack.nodes[0].id, rack.member(1));
    // What the present pair's primary never sent for this boot is refused by number and by name.
    let old = Adopt { number: Number { epoch: 1, counter: 1 }, ..adopt.clone() };
    rack.deliver_to(1, from, boot, Msg::Copy { adopt: old, session: 9, to });
    rack.deliver_to(1, NodeId(77), boot, Msg::Copy { adopt: adopt.clone(), session: 9, to });
    rack.deliver_to(1, from, boot, Msg::Copy { adopt, session: 9, to: Member { boot: BootId(5), ..to } });
    rack.run_for(Duration::from_millis(50));
    serves(&mut rack);
}

#[test]
fn ba01_lost_messages_delay_a_copy_and_do_not_hurt_it() {
    fn unlucky(msg: &Msg) -> bool {
        let salt = match msg {
            Msg::Copy { session, .. } => *session,
            Msg::CopyPart { seq, .. } => 3 * seq + 1,
            Msg::CopyOps { committed, parts, .. } => committed.0 + parts,
            Msg::Copied { durable, parts, .. } => durable.0 + 5 * parts,
            _ => return false,
        };
        salt.is_multiple_of(3)
    }
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for seed in 110..113 {
        let mut rack = alone(seed, |_| {});
        // The same message passes when it is sent again.
        rack.drop_msg =
            Some(|msg, _, _| unlucky(msg) && SEEN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2));
        rack.fill(0, 1);
        rack.workload(60, 800, 4);
        rack.join(0, 1);
        rack.drop_msg = None;
        assert!(SEEN.load(Ordering::Relaxed) > 1, "seed {seed}: some were lost");
        serves(&mut rack);
    }
}

#[test]
fn ba01_a_steady_overwrite_load_and_a_slow_head_cannot_keep_a_copy_from_ending() {
    let mut rack = alone(120, |shape| shape.blocks = 2048);
    // Every other operation message is lost: the head falls far behind.
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    rack.drop_msg = Some(|msg, _, _| {
        matches!(msg, Msg::CopyOps { .. }) && !SEEN.fetch_add(1, Ordering::Relaxed).is_multiple_of(4)
    });
    rack.fill(0, 1);
    let mut done = 0;
    while rack.joining(0, 1).is_none() {
        rack.workload(100, 100, 32);
        done += 100;
        assert!(done < 60_000, "{:?}", rack.status().fill);
    }
    rack.join(0, 1);
    rack.drop_msg = None;
    serves(&mut rack);
}

#[test]
fn op18_a_volume_that_is_deleted_ends_its_copy() {
    let mut rack = alone(140, |_| {});
    rack.fill(0, 1);
    rack.run_for(Duration::from_micros(700));
    rack.delete();
    rack.run_until("the deletion", |rack| {
        rack.events.iter().any(|event| matches!(event, Event::Deleted { partition } if *partition == VOLUME))
    });
    assert_eq!(rack.status().fill, None);
    assert!(rack.joining(0, 1).is_none());
}

#[test]
fn ba01_a_head_that_left_forgets_its_copy_and_its_log_has_room_again() {
    let mut rack = rack(150, |shape| shape.flush.fill_low = 90);
    rack.workload(200, 800, 8);
    rack.move_to(&[0]);
    rack.run_for(Duration::from_millis(50));
    let columns: u32 = (0..6).map(|at| rack.sled(at).status().devices[0].free).sum();
    let node = rack.head(1);
    let mut out = Out::default();
    let before = node.status().log_free;
    node.forget(VOLUME, &mut out);
    rack.run_for(Duration::from_secs(1));
    let status = rack.head(1).status();
    assert!(status.log_free > before, "{} of {before}", status.log_free);
    assert_eq!(status.partitions[0].log_blocks, 0);
    // It may never hear of a number again: who asks here is sent away at once.
    rack.primary = 1;
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
    assert!(matches!(rack.wait(read), Err(ClientError::NotServed)));
    rack.primary = 0;
    assert_eq!(columns, (0..6).map(|at| rack.sled(at).status().devices[0].free).sum::<u32>());
    rack.restart(1);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    assert_eq!(rack.head(1).status().partitions[0].committed, Op(0));
    rack.verify();
    rack.fill(0, 1);
    rack.join(0, 1);
    serves(&mut rack);
}

/// The wish to add a head that was filled is open, and that head is gone: whether a write is acknowledged that
/// it lacks, though it may be a member by now.
fn acknowledged_without_the_joiner(change: impl FnOnce(&mut Shape)) -> bool {
    let mut rack = alone(103, change);
    rack.fill(0, 1);
    rack.vouched(0, 1);
    rack.crash(1);
    let tag = rack.write(0, 8);
    rack.run_for(Duration::from_secs(1));
    rack.done.contains_key(&tag)
}

#[test]
fn p02_acknowledging_on_the_old_set_while_a_join_is_pending_is_seen() {
    assert!(!acknowledged_without_the_joiner(|_| {}));
    assert!(acknowledged_without_the_joiner(|shape| shape.faults.ack_on_old_set = true));
}

/// A head that is filled under load, and whether it can be served from.
fn filled(seed: u64, change: impl Fn(&mut Shape)) {
    let mut rack = alone(seed, change);
    rack.fill(0, 1);
    let mut rounds = 0;
    while rack.joining(0, 1).is_none() && rounds < 40 {
        rack.workload(20, 800, 8);
        rack.start_flush();
        rounds += 1;
    }
    rack.join(0, 1);
    serves(&mut rack);
}

#[test]
fn ma21_a_head_that_counts_before_it_is_whole_is_seen() {
    let broken = |seed| filled(seed, |shape| shape.faults.counted_before_whole = true);
    assert!((0..4).all(|seed| catch_unwind(|| filled(seed, |_| {})).is_ok()));
    assert!((0..4).any(|seed| catch_unwind(|| broken(seed)).is_err()));
}

#[test]
fn p07_a_copied_block_that_overwrites_a_newer_one_is_seen() {
    let broken = |seed| filled(seed, |shape| shape.faults.copy_overwrites = true);
    assert!((0..24).any(|seed| catch_unwind(|| broken(seed)).is_err()));
}

/// Extents die while a copy that names them stands still; says whether their columns stay until it goes on.
fn columns_stay(change: impl Fn(&mut Shape)) -> bool {
    let mut rack = alone(160, change);
    rack.flush_all();
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::CopyPart { .. }));
    rack.fill(0, 1);
    rack.run_for(Duration::from_millis(5));
    let (before, released) = (rack.sent("column_release"), rack.counters().extents_released);
    let tags: Vec<u64> = (0..100).map(|at| rack.write(at * 64, 64)).collect();
    rack.wait_all(&tags);
    rack.flush_all();
    rack.run_for(Duration::from_millis(400));
    assert!(rack.counters().extents_released > released, "extents died");
    let stay = rack.sent("column_release") == before;
    rack.drop_msg = None;
    rack.join(0, 1);
    rack.workload(10, 800, 4);
    rack.run_until("columns that go back", |rack| rack.sent("column_release") > before);
    serves(&mut rack);
    stay
}

#[test]
fn p28_columns_stay_while_a_copy_names_them_and_go_back_then() {
    assert!(columns_stay(|_| {}));
    assert!(!columns_stay(|shape| shape.faults.release_copied = true));
}

/// A head dies while it is filled; says whether what it finds then is nothing or all.
fn nothing_or_all(seed: u64, change: impl Fn(&mut Shape)) -> bool {
    let mut rack = alone(seed, change);
    rack.fill(0, 1);
    rack.run_for(Duration::from_micros(300 + 60 * seed));
    rack.restart(1);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    let status = rack.head(1).status().partitions.remove(0);
    let all = rack.head(0).digest(VOLUME) == rack.head(1).digest(VOLUME);
    status.committed == Op(0) || (status.needs_copy.is_none() && all)
}

#[test]
fn ba01_half_a_copy_that_counts_after_a_restart_is_seen() {
    assert!((0..10).all(|seed| nothing_or_all(seed, |_| {})));
    assert!((0..10).any(|seed| !nothing_or_all(seed, |shape| shape.log_faults.half_copy_counts = true)));
}
