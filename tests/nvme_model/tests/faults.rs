//! Devices that go wrong: time-outs, aborts, resets, bad completions, removal. Every request is answered once,
//! and no buffer is given up while the device can reach it (the model would complain).

use palisade_nvme_model::{AbortMode, BadCompletion, Model, ModelConfig, Rig};
use palisade_runtime::block::nvme::{NvmeError, NvmeEvent, ResetReason};
use palisade_runtime::block::{BlockFault, BlockPort};

fn rig() -> Rig {
    Rig::new(ModelConfig { blocks: 1024, ..ModelConfig::default() })
}

fn resets(rig: &Rig) -> Vec<ResetReason> {
    let reason = |event: &NvmeEvent| match event {
        NvmeEvent::Reset(reason) => Some(*reason),
        _ => None,
    };
    rig.events.iter().filter_map(reason).collect()
}

/// Writes and reads a block, to show that the device serves.
fn serves(rig: &mut Rig) {
    let key = rig.write(8192, &[0x77; 4096], false);
    assert_eq!(rig.wait(key), Ok(None));
    let key = rig.read(8192, 4096);
    assert_eq!(rig.wait(key), Ok(Some(vec![0x77; 4096])));
}

#[test]
fn a_command_that_takes_too_long_is_aborted_and_ends_with_an_error_alone() {
    let mut rig = rig();
    rig.model.plant(|faults| faults.stuck = 1);
    let late = rig.write(0, &[1; 4096], false);
    rig.turns(10);
    serves(&mut rig);
    assert!(rig.driver.in_flight() == 1 && rig.driver.stats().aborts == 0);
    assert_eq!(rig.wait(late), Err(BlockFault::Io));
    assert_eq!((rig.driver.stats().aborts, rig.driver.stats().resets), (1, 0));
    assert!(rig.events.contains(&NvmeEvent::Aborted { key: late }));
    serves(&mut rig);
    rig.check();
}

#[test]
fn a_completion_that_comes_late_after_its_abort_is_the_answer() {
    let mut rig = rig();
    rig.model.plant(|faults| (faults.stuck, faults.abort) = (1, AbortMode::Late(200)));
    let late = rig.write(0, &[3; 4096], false);
    assert_eq!(rig.wait(late), Ok(None), "it was carried out after all");
    assert_eq!((rig.driver.stats().aborts, rig.driver.stats().resets), (1, 0));
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Ok(Some(vec![3; 4096])));
    rig.turns(2000);
    rig.check();
}

#[test]
fn an_abort_that_does_not_help_ends_in_a_reset_and_others_are_sent_again() {
    for mode in [AbortMode::Refused, AbortMode::Silent, AbortMode::Late(100_000)] {
        let mut rig = rig();
        rig.model.plant(|faults| (faults.stuck, faults.abort) = (1, mode));
        let late = rig.write(0, &[1; 4096], false);
        rig.turns(8_100);
        rig.model.plant(|faults| faults.stuck = 3);
        let caught: Vec<u64> = (1..4).map(|i| rig.write(i * 4096, &[i as u8; 4096], false)).collect();
        assert_eq!(rig.wait(late), Err(BlockFault::Io), "{mode:?}");
        for key in caught {
            assert_eq!(rig.wait(key), Ok(None), "{mode:?}");
        }
        assert_eq!(resets(&rig).len(), 1, "{mode:?}");
        assert_eq!(rig.model.starts(), 2);
        let key = rig.read(4096, 3 * 4096);
        let data = rig.wait(key).expect("reads").expect("data");
        assert!(data.chunks(4096).zip(1..).all(|(block, fill)| block.iter().all(|&byte| byte == fill)));
        serves(&mut rig);
        rig.check();
    }
}

#[test]
fn a_request_that_two_resets_catch_ends_with_an_error() {
    let mut rig = rig();
    rig.model.plant(|faults| faults.stuck = 2);
    let key = rig.read(0, 4096);
    for _ in 0..2 {
        rig.turns(50);
        rig.model.set_fatal();
    }
    assert_eq!(rig.wait(key), Err(BlockFault::Io));
    rig.turns(50);
    assert_eq!(resets(&rig), [ResetReason::Fatal; 2]);
    serves(&mut rig);
    rig.check();
}

#[test]
fn a_fatal_state_is_reset_and_nothing_is_lost() {
    let mut rig = rig();
    let keys: Vec<u64> = (0..100u64).map(|i| rig.write(i * 4096, &[i as u8; 4096], false)).collect();
    rig.turn();
    rig.model.set_fatal();
    for key in keys {
        assert_eq!(rig.wait(key), Ok(None));
    }
    assert_eq!(resets(&rig), [ResetReason::Fatal]);
    for i in 0..100u64 {
        let key = rig.read(i * 4096, 4096);
        assert_eq!(rig.wait(key), Ok(Some(vec![i as u8; 4096])));
    }
    rig.check();
}

#[test]
fn completions_that_name_no_command_under_way_end_in_a_reset() {
    let bad = [
        BadCompletion::Cid(999),
        BadCompletion::Cid(0xffff),
        BadCompletion::Cid(1 << 10),
        BadCompletion::Queue(0),
        BadCompletion::Queue(7),
        BadCompletion::Doubled,
    ];
    for kind in bad {
        let mut rig = rig();
        rig.model.plant(|faults| faults.bad = vec![kind]);
        let keys: Vec<u64> = (0..20u64).map(|i| rig.write(i * 4096, &[i as u8 + 1; 4096], false)).collect();
        for key in keys {
            assert_eq!(rig.wait(key), Ok(None), "{kind:?}");
        }
        rig.turns(100);
        assert_eq!(resets(&rig), [ResetReason::BadCompletion], "{kind:?}");
        assert_eq!(rig.driver.stats().bad_completions, 1, "{kind:?}");
        for i in 0..20u64 {
            let key = rig.read(i * 4096, 4096);
            assert_eq!(rig.wait(key), Ok(Some(vec![i as u8 + 1; 4096])), "{kind:?}");
        }
        rig.check();
    }
}

#[test]
fn a_completion_with_the_wrong_phase_is_not_seen_and_its_command_times_out() {
    let mut rig = rig();
    rig.model.plant(|faults| faults.bad = vec![BadCompletion::WrongPhase]);
    let key = rig.write(0, &[1; 4096], false);
    // The device knows of no such command any more, so its abort does not help.
    assert_eq!(rig.wait(key), Err(BlockFault::Io));
    assert_eq!(resets(&rig), [ResetReason::Timeout]);
    serves(&mut rig);
    rig.check();
}

#[test]
fn errors_become_faults_and_those_that_may_pass_are_tried_again() {
    let mut rig = rig();
    let lasting = [
        (0x4281, BlockFault::Io),
        (0x0280, BlockFault::Io),
        (0x4080, BlockFault::Range),
        (0x0081, BlockFault::NoSpace),
        (0x4002, BlockFault::Io),
    ];
    for (status, fault) in lasting {
        rig.model.plant(|faults| faults.status = vec![status]);
        let key = rig.read(0, 4096);
        assert_eq!(rig.wait(key), Err(fault), "{status:#x}");
        assert!(matches!(rig.events.pop(), Some(NvmeEvent::Failed { key: of, .. }) if of == key));
    }
    assert_eq!(rig.driver.stats().retries, 0);
    rig.model.plant(|faults| faults.status = vec![0x0006, 0x0082, 0x0006]);
    let key = rig.read(0, 4096);
    assert!(rig.wait(key).is_ok());
    assert_eq!(rig.driver.stats().retries, 3);
    rig.model.plant(|faults| faults.status = vec![0x0006; 4]);
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Err(BlockFault::Io));
    serves(&mut rig);
    assert_eq!(rig.driver.stats().resets, 0);
    rig.check();
}

#[test]
fn one_part_of_a_request_that_fails_fails_it_once_after_all_parts_ended() {
    let mut rig = Rig::new(ModelConfig { mdts: 1, delay_steps: 6, blocks: 1024, ..ModelConfig::default() });
    rig.model.plant(|faults| faults.status = vec![0, 0, 0x4281, 0, 0x4281]);
    let key = rig.read(0, 128 << 10);
    assert_eq!(rig.wait(key), Err(BlockFault::Io));
    serves(&mut rig);
    rig.check();
}

#[test]
fn a_device_that_is_pulled_out_answers_everything_as_gone() {
    for turns in 0..6 {
        let mut rig = rig();
        let keys: Vec<u64> = (0..100u64).map(|i| rig.write(i * 4096, &[1; 4096], false)).collect();
        rig.turns(turns);
        rig.model.remove();
        let gone = keys
            .into_iter()
            .map(|key| rig.wait(key))
            .filter(|answer| *answer == Err(BlockFault::Gone))
            .count();
        assert!(gone > 0, "after {turns} turns");
        let key = rig.read(0, 4096);
        assert_eq!(rig.wait(key), Err(BlockFault::Gone));
        assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::Removed { .. })));
        assert!(matches!(rig.events.last(), Some(NvmeEvent::Gone(why)) if why.contains("unplugged")));
        assert_eq!(rig.driver.deadline(), None, "nobody has to look at it any more");
        rig.check();
    }
}

#[test]
fn a_device_that_the_host_asks_back_is_given_up() {
    let mut rig = rig();
    let key = rig.read(0, 4096);
    assert_eq!(rig.model.handles(), 2);
    rig.model.plant(|faults| (faults.stuck, faults.leaving) = (1, true));
    rig.turns(200);
    assert!(matches!(rig.wait(key), Err(BlockFault::Gone) | Ok(_)));
    assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::Leaving { .. })));
    assert_eq!(rig.model.handles(), 1, "given back though the driver is still there");
    rig.check();
}

#[test]
fn a_device_that_does_not_stop_is_cut_off_and_answered_for() {
    let mut rig = rig();
    rig.model.plant(|faults| (faults.stuck, faults.never_stops) = (1, true));
    let key = rig.read(0, 4096);
    rig.turns(5);
    rig.model.set_fatal();
    assert_eq!(rig.wait(key), Err(BlockFault::Gone));
    assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::Stuck { .. })));
    rig.check();
}

#[test]
fn buffers_of_a_device_that_can_be_neither_stopped_nor_cut_off_are_lost_not_reused() {
    let mut rig = rig();
    rig.model.plant(|faults| {
        (faults.stuck, faults.never_stops, faults.no_isolation) = (2, true, true);
    });
    let (read, write) = (rig.read(0, 4096), rig.write(4096, &[1; 4096], false));
    rig.turns(5);
    rig.model.set_fatal();
    assert_eq!((rig.wait(read), rig.wait(write)), (Err(BlockFault::Gone), Err(BlockFault::Gone)));
    let stats = rig.pool.stats();
    assert_eq!(stats.total[0] - stats.free[0], 2, "the device may still write there");
}

#[test]
fn a_device_that_fails_again_and_again_is_given_up() {
    let mut rig = rig();
    rig.model.plant(|faults| faults.chance.fatal = 10_000);
    let key = rig.write(0, &[1; 4096], false);
    assert_eq!(rig.wait(key), Err(BlockFault::Io), "two resets caught it");
    for _ in 0..4 {
        rig.read(0, 4096);
    }
    rig.drain();
    let key = rig.read(0, 4096);
    let _last = rig.wait(key);
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Err(BlockFault::Gone));
    assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::KeepsFailing { .. })));
    rig.check();
}

#[test]
fn a_restart_that_fails_is_tried_again_and_then_given_up() {
    let mut rig = rig();
    rig.model.plant(|faults| faults.fatal_start = true);
    rig.model.set_fatal();
    while resets(&rig).len() < 2 {
        rig.turn();
    }
    rig.model.plant(|faults| faults.fatal_start = false);
    serves(&mut rig);
    assert_eq!(resets(&rig), [ResetReason::Fatal, ResetReason::Start]);
    rig.model.plant(|faults| faults.never_ready = true);
    rig.model.set_fatal();
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Err(BlockFault::Gone));
    rig.check();
}

#[test]
fn requests_that_come_during_a_reset_wait_for_its_end() {
    let mut rig = rig();
    rig.model.set_fatal();
    rig.turns(101);
    let keys: Vec<u64> = (0..50u64).map(|i| rig.write(i * 4096, &[9; 4096], false)).collect();
    for key in keys {
        assert_eq!(rig.wait(key), Ok(None));
    }
    rig.check();
}

#[test]
fn a_flush_after_a_reset_that_may_have_lost_the_cache_fails_once() {
    let config = ModelConfig { volatile_cache: true, blocks: 1024, ..ModelConfig::default() };
    for (fua, flushed) in [(false, false), (false, true), (true, false)] {
        let mut rig = Rig::new(config.clone());
        rig.model.plant(|faults| faults.reset_loses_cache = true);
        let key = rig.write(0, &[1; 4096], fua);
        assert_eq!(rig.wait(key), Ok(None));
        if flushed {
            let key = rig.flush();
            assert_eq!(rig.wait(key), Ok(None));
        }
        rig.model.set_fatal();
        rig.turns(200);
        let is_safe = fua || flushed;
        let key = rig.flush();
        assert_eq!(rig.wait(key).is_ok(), is_safe, "fua {fua}, flushed {flushed}");
        assert_eq!(rig.model.media().read(0)[0], u8::from(is_safe));
        let key = rig.flush();
        assert_eq!(rig.wait(key), Ok(None), "told once");
        rig.check();
    }
}

#[test]
fn a_flush_that_a_reset_catches_fails_when_it_covered_something() {
    let mut rig = Rig::new(ModelConfig { volatile_cache: true, blocks: 1024, ..ModelConfig::default() });
    rig.model.plant(|faults| faults.reset_loses_cache = true);
    let key = rig.write(0, &[1; 4096], false);
    assert_eq!(rig.wait(key), Ok(None));
    rig.model.plant(|faults| faults.stuck = 1);
    let key = rig.flush();
    rig.turns(20);
    rig.model.set_fatal();
    assert_eq!(rig.wait(key), Err(BlockFault::Io));
    rig.check();
}

#[test]
fn a_loss_that_a_caught_flush_told_of_is_not_told_again() {
    let mut rig = Rig::new(ModelConfig { volatile_cache: true, blocks: 1024, ..ModelConfig::default() });
    rig.model.plant(|faults| faults.reset_loses_cache = true);
    let key = rig.write(0, &[1; 4096], false);
    assert_eq!(rig.wait(key), Ok(None));
    rig.model.plant(|faults| faults.stuck = 2);
    let caught = [rig.flush(), rig.flush()];
    rig.turns(20);
    rig.model.set_fatal();
    assert_eq!(
        caught.map(|key| rig.wait(key)),
        [Err(BlockFault::Io), Err(BlockFault::Io)],
        "both covered it"
    );
    let key = rig.write(0, &[2; 4096], false);
    assert_eq!(rig.wait(key), Ok(None));
    let key = rig.flush();
    assert_eq!(rig.wait(key), Ok(None), "the owner was told and wrote it again");
    assert_eq!(rig.model.media().read(0)[0], 2);
    rig.check();
}

#[test]
fn events_are_told_asked_for_again_and_their_log_is_read() {
    let mut rig = rig();
    rig.turns(200);
    rig.model.set_health(0b101, 17);
    for _ in 0..8 {
        rig.model.raise(1, 0, 2);
    }
    rig.turns(2000);
    let told = rig.events.iter().filter(|event| matches!(event, NvmeEvent::Async(event) if event.log == 2));
    assert_eq!(told.count(), 8);
    let health = *rig.driver.health().expect("asked at once");
    assert_eq!((health.warnings, health.media_errors), (5, 17));
    assert!(health.complaints().any(|text| text.contains("reliability")));
    serves(&mut rig);
    rig.check();
}

#[test]
fn a_namespace_that_shrinks_changes_its_blocks_or_leaves_ends_the_device() {
    type Change = fn(&mut ModelConfig);
    let changes: [Change; 3] =
        [|config| config.blocks = 512, |config| config.block_shift = 9, |config| config.namespaces = vec![2]];
    for change in changes {
        let mut rig = rig();
        rig.model.change(change);
        rig.model.raise(2, 0, 4);
        rig.turns(1000);
        let key = rig.read(0, 4096);
        assert_eq!(rig.wait(key), Err(BlockFault::Gone));
        let error = rig.driver.bring_up(rig.now).expect_err("told once");
        assert!(matches!(error, NvmeError::Changed { .. } | NvmeError::Identify { .. }), "{error}");
    }
    let mut rig = rig();
    rig.model.raise(2, 0, 4);
    rig.turns(1000);
    serves(&mut rig);
    rig.check();
}

#[test]
fn another_disk_after_a_reset_is_not_taken_for_the_first() {
    let mut rig = rig();
    rig.model.change(|config| config.blocks = 8);
    rig.model.set_fatal();
    rig.turns(300);
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Err(BlockFault::Gone));
    assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::Changed { nsid: 1, .. })));
    rig.check();
}

#[test]
fn admin_commands_that_are_not_answered_end_in_a_reset() {
    let mut rig = rig();
    rig.turns(200);
    rig.model.plant(|faults| faults.silent_admin = Some(0x02));
    rig.model.raise(1, 0, 2);
    rig.turns(6_000);
    assert_eq!(resets(&rig)[0], ResetReason::AdminTimeout);
    rig.model.plant(|faults| faults.silent_admin = None);
    serves(&mut rig);
    rig.check();
}

#[test]
fn dropping_a_driver_with_work_under_way_gives_its_buffers_back() {
    let model = Model::new(ModelConfig::default());
    model.plant(|faults| faults.stuck = 3);
    let mut rig = Rig::on(model, Rig::options()).expect("starts");
    for i in 0..3 {
        rig.read(i * 4096, 4096);
    }
    rig.turns(10);
    let (pool, model) = (rig.pool.clone(), rig.model.clone());
    drop(rig);
    assert_eq!(pool.stats().free, pool.stats().total);
    assert!(model.violations().is_empty());
}
