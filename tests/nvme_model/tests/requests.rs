//! Requests on a sound controller: every verb, block size and pointer, with the data verified.

use palisade_dma::Buf;
use palisade_nvme_model::{ModelConfig, Rig};
use palisade_runtime::block::{BlockFault, BlockPort, BlockVerb};
use smallvec::smallvec;

fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(seed | 1) >> 3) as u8 ^ seed as u8).collect()
}

fn config(block_shift: u8) -> ModelConfig {
    ModelConfig { block_shift, blocks: (16 << 20) >> block_shift, ..ModelConfig::default() }
}

#[test]
fn what_was_written_is_read_at_any_place_and_length() {
    for shift in [9, 12] {
        for sgl in [false, true] {
            let block = 1usize << shift;
            let mut rig = Rig::new(ModelConfig { sgl, ..config(shift) });
            for (turn, blocks) in [1usize, 2, 3, 7, 8, 9, 31, 33, 64].into_iter().enumerate() {
                let (offset, len) = ((turn * 80 * block) as u64, blocks * block);
                let bytes = pattern(turn as u32 + 1, len);
                let key = rig.write(offset, &bytes, false);
                assert_eq!(rig.wait(key), Ok(None));
                let key = rig.read(offset, len);
                assert!(rig.wait(key) == Ok(Some(bytes.clone())), "{blocks} blocks of {block}");
                let key = rig.read(offset + block as u64 * (blocks as u64 - 1), block);
                assert!(rig.wait(key) == Ok(Some(bytes[len - block..].to_vec())));
            }
            rig.check();
        }
    }
}

#[test]
fn transfers_beyond_mdts_are_split_and_answered_once() {
    let mut rig = Rig::new(ModelConfig { mdts: 1, ..config(9) });
    let bytes = pattern(9, 256 << 10);
    let key = rig.write(512, &bytes, false);
    assert_eq!(rig.wait(key), Ok(None));
    assert_eq!(rig.model.carried_out(), (256 << 10) / 8192);
    let key = rig.read(512, 256 << 10);
    assert!(rig.wait(key) == Ok(Some(bytes)));
    rig.check();
}

#[test]
fn scattered_parts_are_one_command_with_sgls_and_a_few_without() {
    for (sgl, commands) in [(true, 1), (false, 3)] {
        let mut rig = Rig::new(ModelConfig { sgl, ..config(9) });
        let bytes = pattern(3, 4096);
        let (a, b) = (rig.buf(&bytes), rig.buf(&bytes));
        let parts = smallvec![a.slice(512..1024), b.slice(1024..2048), a.slice(0..512)];
        let key = rig.write_parts(4096, parts, false);
        assert_eq!(rig.wait(key), Ok(None));
        assert_eq!((rig.model.carried_out(), rig.model.seen()[0].2), (commands, sgl));
        let key = rig.read(4096, 2048);
        let wanted = [&bytes[512..2048], &bytes[..512]].concat();
        assert!(rig.wait(key) == Ok(Some(wanted)));
        drop((a, b));
        rig.check();
    }
}

#[test]
fn memory_that_the_device_was_not_given_is_copied_near_and_counted() {
    static ZEROES: [u8; 8192] = [0; 8192];
    let mut rig = Rig::new(config(9));
    let key = rig.write(0, &pattern(1, 8192), false);
    assert_eq!(rig.wait(key), Ok(None));
    // Without room in the pool the request waits, and is sent when there is some.
    let held: Vec<_> = std::iter::from_fn(|| rig.pool.alloc(8192)).collect();
    let key = rig.write_parts(0, smallvec![Buf::from_static(&ZEROES)], false);
    rig.turns(50);
    assert!(rig.answers.is_empty());
    drop(held);
    assert_eq!(rig.wait(key), Ok(None));
    assert_eq!(rig.driver.stats().copied, 8192);
    let key = rig.read(0, 8192);
    assert_eq!(rig.wait(key), Ok(Some(ZEROES.to_vec())));
    rig.check();
}

#[test]
fn a_part_that_is_sent_again_stays_what_it_was_when_its_neighbour_was_copied_near() {
    static ZEROES: [u8; 4096] = [0; 4096];
    let mut rig = Rig::new(ModelConfig { delay_steps: 0, ..config(12) });
    let parts = smallvec![rig.buf(&[1; 4096]), Buf::from_static(&ZEROES), rig.buf(&[3; 4096])];
    rig.model.plant(|faults| faults.status = vec![0x0006]);
    let key = rig.write_parts(0, parts, false);
    assert_eq!(rig.wait(key), Ok(None));
    assert_eq!((rig.driver.stats().retries, rig.driver.stats().copied), (1, 4096));
    let key = rig.read(0, 12288);
    let data = rig.wait(key).expect("reads").expect("data");
    assert_eq!([0, 4096, 8192].map(|at| data[at]), [1, 0, 3]);
    rig.check();
}

#[test]
fn a_read_into_another_pool_is_refused() {
    let mut rig = Rig::new(config(12));
    let other = Rig::pool();
    let buf = other.alloc(4096).expect("slot");
    let key = rig.submit(BlockVerb::Read { offset: 0, buf });
    assert_eq!(rig.wait(key), Err(BlockFault::Range));
    rig.check();
}

#[test]
fn ranges_outside_or_unaligned_are_refused_without_a_command() {
    let mut rig = Rig::new(config(12));
    let bytes = rig.driver.info().bytes;
    for (offset, len) in
        [(bytes, 4096), (bytes - 4096, 8192), (512, 4096), (0, 512), (u64::MAX - 4095, 4096), (0, 0)]
    {
        let key = rig.read(offset, len);
        assert_eq!(rig.wait(key), Err(BlockFault::Range), "{offset} {len}");
        let key = rig.write(offset, &vec![0; len], false);
        assert_eq!(rig.wait(key), Err(BlockFault::Range), "{offset} {len}");
    }
    let parts = smallvec![rig.buf(&[1; 2048]), rig.buf(&[2; 2048])];
    let key = rig.write_parts(0, parts, false);
    assert_eq!(rig.wait(key), Err(BlockFault::Range), "a part is no block");
    assert_eq!(rig.model.carried_out(), 0);
    rig.check();
}

#[test]
fn flush_is_sent_where_there_is_a_cache_and_fua_says_so() {
    for cache in [true, false] {
        let mut rig = Rig::new(ModelConfig { volatile_cache: cache, ..config(12) });
        let key = rig.write(0, &[1; 4096], false);
        assert_eq!(rig.wait(key), Ok(None));
        let key = rig.write(4096, &[2; 4096], true);
        assert_eq!(rig.wait(key), Ok(None));
        let mut before = rig.model.media();
        before.lose_power(|_| false);
        assert_eq!((before.read(0)[0], before.read(1)[0]), (u8::from(!cache), 2));
        let key = rig.flush();
        assert_eq!(rig.wait(key), Ok(None));
        let mut after = rig.model.media();
        after.lose_power(|_| false);
        assert_eq!(after.read(0)[0], 1);
        let flushes = rig.model.seen().iter().filter(|seen| seen.0 == 0).count();
        assert_eq!(flushes, usize::from(cache), "without a cache there is nothing to flush");
        assert_eq!(rig.model.seen()[1], (1, true, false));
        rig.check();
    }
}

#[test]
fn zeroes_and_deallocation_reach_all_of_their_range_and_nothing_else() {
    let mut rig = Rig::new(config(9));
    for verb in [true, false] {
        let bytes = pattern(7, 1 << 20);
        for (at, chunk) in bytes.chunks(256 << 10).enumerate() {
            let key = rig.write((at as u64) << 18, chunk, false);
            assert_eq!(rig.wait(key), Ok(None));
        }
        let (from, len) = (512u64, (1u64 << 20) - 1024);
        let key = if verb { rig.write_zeroes(from, len) } else { rig.deallocate(from, len) };
        assert_eq!(rig.wait(key), Ok(None));
        let key = rig.read(0, 256 << 10);
        let first = rig.wait(key).expect("reads").expect("data");
        assert!(first[..512] == bytes[..512] && first[512..].iter().all(|&byte| byte == 0));
        let key = rig.read((1 << 20) - 1024, 1024);
        let last = rig.wait(key).expect("reads").expect("data");
        assert!(last[..512].iter().all(|&byte| byte == 0) && last[512..] == bytes[(1 << 20) - 512..]);
    }
    let key = rig.deallocate(0, 1 << 60);
    assert_eq!(rig.wait(key), Err(BlockFault::Range));
    rig.check();
}

#[test]
fn verbs_that_a_device_lacks_are_refused_by_name() {
    let rig_config = ModelConfig { controller_patches: vec![(520, 0)], ..config(12) };
    let mut rig = Rig::new(rig_config);
    let zeroes = rig.driver.write_zeroes(1, 0, 4096).expect_err("not offered");
    assert!(zeroes.to_string().contains("Write Zeroes"));
    assert!(rig.driver.deallocate(1, 0, 4096).is_err());
    assert_eq!(rig.driver.in_flight(), 0);
}

#[test]
fn more_requests_than_the_device_takes_wait_in_order_and_all_are_answered() {
    let mut rig = Rig::new(ModelConfig { delay_steps: 5, ..config(12) });
    let keys: Vec<u64> = (0..500u64).map(|i| rig.write(i * 4096, &pattern(i as u32, 4096), false)).collect();
    rig.drain();
    assert!(keys.iter().all(|key| rig.answers.remove(key) == Some(Ok(None))));
    for i in (0..500u64).step_by(7) {
        let key = rig.read(i * 4096, 4096);
        assert!(rig.wait(key) == Ok(Some(pattern(i as u32, 4096))));
    }
    rig.check();
}

#[test]
fn doorbells_are_rung_once_a_turn_for_all_commands_and_all_completions() {
    let mut rig = Rig::new(ModelConfig { delay_steps: 0, ..config(12) });
    for _ in 0..100 {
        for i in 0..32 {
            rig.read(i * 4096, 4096);
        }
        rig.drain();
    }
    let stats = rig.driver.stats();
    assert_eq!((stats.commands, stats.doorbells.written, stats.doorbells.spared), (3200, 200, 0));
    rig.check();
}

#[test]
fn shadow_doorbells_spare_registers_and_move_the_same_data() {
    let mut rig = Rig::new(ModelConfig { shadow_doorbells: true, ..config(12) });
    for round in 0..40u32 {
        for i in 0..20u64 {
            rig.write(i * 4096, &pattern(round + i as u32, 4096), false);
        }
        rig.drain();
    }
    for i in 0..20u64 {
        let key = rig.read(i * 4096, 4096);
        assert!(rig.wait(key) == Ok(Some(pattern(39 + i as u32, 4096))));
    }
    let doorbells = rig.driver.stats().doorbells;
    assert!(doorbells.spared > 0, "{doorbells:?}");
    rig.check();
}

#[test]
fn an_idle_driver_may_sleep_and_a_busy_one_may_not() {
    let mut rig = Rig::new(config(12));
    rig.turns(10);
    assert!(rig.driver.deadline().is_some_and(|at| at > rig.now));
    let key = rig.read(0, 4096);
    assert_eq!(rig.driver.deadline(), Some(palisade_runtime::clock::Nanos::ZERO));
    assert!(rig.wait(key).is_ok());
}
