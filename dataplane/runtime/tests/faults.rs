//! Devices that go wrong: each fault does what its name says, repeats itself for a seed, and can be
//! switched on and off in use; power cuts lose exactly what was never made durable.

use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_runtime::Nanos;
use palisade_runtime::block::fault::{Action, Ops, Rule};
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockOk, BlockPort, BlockRequest, BlockVerb, Event,
    FaultDriver, FaultHandle, MemDriver, MemMedia, RecordDriver, Survival, VolatileDriver,
};
use smallvec::smallvec;
use std::time::Duration;

struct Rig {
    pool: Pool,
    driver: BlockDriver,
    now: Nanos,
    key: u64,
}

impl Rig {
    fn over(driver: BlockDriver) -> Self {
        let pool = Pool::new(PoolConfig::small()).expect("pool");
        Self { pool, driver, now: Nanos(1), key: 0 }
    }

    fn faulty(seed: u64) -> (Self, FaultHandle) {
        let inner = BlockDriver::Mem(MemDriver::new("d", MemMedia::new(1 << 20)));
        let (driver, handle) = FaultDriver::new(inner, seed);
        (Self::over(BlockDriver::Fault(Box::new(driver))), handle)
    }

    fn submit(&mut self, verb: BlockVerb) -> u64 {
        self.key += 1;
        self.driver.submit(BlockRequest { key: self.key, verb });
        self.driver.kick();
        self.key
    }

    fn poll(&mut self) -> Vec<BlockCompletion> {
        let mut out = Vec::new();
        // Twice: a wrapper may need one poll to take a completion and one to hand it on.
        self.driver.poll(self.now, &mut out);
        self.driver.poll(self.now, &mut out);
        out
    }

    fn ask(&mut self, verb: BlockVerb) -> Option<Result<BlockOk, BlockFault>> {
        let key = self.submit(verb);
        self.poll().into_iter().find(|done| done.key == key).map(|done| done.result)
    }

    fn block(&self, byte: u8) -> Buf {
        let mut buf = self.pool.alloc(4096).expect("slot");
        buf.fill(byte);
        buf.freeze()
    }

    fn write_verb(&self, offset: u64, byte: u8, fua: bool) -> BlockVerb {
        BlockVerb::Write { offset, bufs: smallvec![self.block(byte)], fua }
    }

    fn write(&mut self, offset: u64, byte: u8, fua: bool) -> Option<Result<BlockOk, BlockFault>> {
        let verb = self.write_verb(offset, byte, fua);
        self.ask(verb)
    }

    fn read(&mut self, offset: u64) -> Vec<u8> {
        let buf = self.pool.alloc(4096).expect("slot");
        match self.ask(BlockVerb::Read { offset, buf }) {
            Some(Ok(BlockOk::Read(buf))) => buf.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn without_rules_the_wrapper_changes_nothing() {
    let (mut rig, handle) = Rig::faulty(1);
    assert!(matches!(rig.write(4096, 7, true), Some(Ok(BlockOk::Done))));
    assert!(matches!(rig.ask(BlockVerb::Flush), Some(Ok(BlockOk::Done))));
    assert_eq!(rig.read(4096), vec![7; 4096]);
    assert_eq!((handle.hits(), rig.driver.in_flight()), (0, 0));
}

#[test]
fn errors_hit_the_named_kind_range_and_count_and_change_nothing() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.add(Rule::always(Ops::WRITES, Action::Fail(BlockFault::Io)).within(8192..12288).after(1).times(2));
    assert!(rig.write(0, 1, false).expect("done").is_ok(), "outside the range");
    assert!(rig.write(8192, 1, false).expect("done").is_ok(), "left out");
    for _ in 0..2 {
        assert!(matches!(rig.write(8192, 2, false), Some(Err(BlockFault::Io))));
    }
    assert_eq!(rig.read(8192), vec![1; 4096], "reads are not meant, and nothing changed");
    assert!(rig.write(8192, 3, false).expect("done").is_ok(), "the count is used up");
    assert_eq!(handle.hits(), 2);
}

#[test]
fn delays_add_up_and_set_the_deadline() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.add(Rule::always(Ops::ALL, Action::Delay(Duration::from_micros(3))));
    handle.add(Rule::always(Ops::FLUSHES, Action::Delay(Duration::from_micros(2))));
    rig.submit(BlockVerb::Flush);
    assert!(rig.poll().is_empty());
    assert_eq!((rig.driver.deadline(), rig.driver.in_flight()), (Some(Nanos(5001)), 1));
    rig.now = Nanos(5000);
    assert!(rig.poll().is_empty());
    rig.now = Nanos(5001);
    assert_eq!(rig.poll().len(), 1);
    assert_eq!((rig.driver.deadline(), rig.driver.in_flight()), (None, 0));
}

#[test]
fn a_dropped_request_stays_open_until_the_rules_are_cleared() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.add(Rule::always(Ops::WRITES, Action::Drop).times(1));
    assert!(rig.write(0, 9, true).is_none());
    assert_eq!(rig.driver.in_flight(), 1);
    assert!(rig.write(4096, 9, true).is_some(), "others go on");
    handle.clear();
    let out = rig.poll();
    assert!(matches!(out[..], [BlockCompletion { key: 1, result: Err(BlockFault::Gone) }]));
    assert_eq!(rig.read(0), vec![0; 4096]);
}

#[test]
fn a_lying_device_acknowledges_what_it_never_wrote() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.add(Rule::always(Ops::WRITES, Action::Lose));
    assert!(rig.write(0, 9, true).expect("done").is_ok());
    handle.clear();
    assert_eq!(rig.read(0), vec![0; 4096]);
}

#[test]
fn a_torn_write_leaves_a_prefix_of_sectors() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.add(Rule::always(Ops::WRITES, Action::Torn { sectors: Some(3), then: Some(BlockFault::Io) }));
    assert!(matches!(rig.write(0, 9, true), Some(Err(BlockFault::Io))));
    handle.clear();
    let got = rig.read(0);
    assert!(got[..1536].iter().all(|&b| b == 9) && got[1536..].iter().all(|&b| b == 0));
    handle.add(Rule::always(Ops::WRITES, Action::Torn { sectors: None, then: None }));
    assert!(rig.write(8192, 9, true).is_none(), "power is gone before it completes");
    assert_eq!(rig.driver.in_flight(), 1);
}

#[test]
fn corrupt_reads_flip_bits_in_flight_and_rot_stays_until_rewritten() {
    let (mut rig, handle) = Rig::faulty(3);
    assert!(rig.write(4096, 0, true).is_some());
    handle.add(Rule::always(Ops::READS, Action::Corrupt { bits: 1 }).times(1));
    let ones = |bytes: &[u8]| bytes.iter().map(|b| b.count_ones()).sum::<u32>();
    assert_eq!(ones(&rig.read(4096)), 1);
    assert_eq!(ones(&rig.read(4096)), 0, "the medium is sound");
    handle.rot(4096 + 700, 5);
    for _ in 0..2 {
        let got = rig.read(4096);
        assert_eq!((ones(&got), got[700]), (1, 1 << 5));
    }
    assert!(rig.write(0, 0, true).is_some());
    assert_eq!(ones(&rig.read(4096)), 1, "another sector was written");
    assert!(rig.write(4096, 0, true).is_some());
    assert_eq!(ones(&rig.read(4096)), 0);
}

#[test]
fn a_killed_device_fails_everything_and_the_same_seed_fails_the_same_requests() {
    let (mut rig, handle) = Rig::faulty(1);
    handle.kill(BlockFault::Gone);
    assert!(matches!(rig.write(0, 1, false), Some(Err(BlockFault::Gone))));
    assert!(matches!(rig.ask(BlockVerb::Flush), Some(Err(BlockFault::Gone))));
    let pattern = |seed| {
        let (mut rig, handle) = Rig::faulty(seed);
        handle.add(Rule::always(Ops::WRITES, Action::Fail(BlockFault::Io)).with_chance(300_000));
        (0..200).map(|n| rig.write(n % 8 * 4096, 1, false).expect("done").is_ok()).collect::<Vec<_>>()
    };
    assert_eq!(pattern(5), pattern(5));
    assert_ne!(pattern(5), pattern(6));
    let failed = pattern(5).iter().filter(|ok| !**ok).count();
    assert!((30..90).contains(&failed), "{failed} of 200 at 30 %");
}

#[test]
fn faults_compose_with_a_volatile_cache_and_a_lost_flush_loses_data_p09() {
    let volatile = VolatileDriver::new("v", MemMedia::new(1 << 20));
    let (driver, handle) = FaultDriver::new(BlockDriver::Volatile(Box::new(volatile)), 1);
    let mut rig = Rig::over(BlockDriver::Fault(Box::new(driver)));
    let crash = |rig: &mut Rig, survival| match &mut rig.driver {
        BlockDriver::Fault(fault) => match fault.inner_mut() {
            BlockDriver::Volatile(volatile) => volatile.crash(survival),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert!(rig.write(0, 1, false).is_some());
    assert!(rig.ask(BlockVerb::Flush).is_some());
    handle.add(Rule::always(Ops::FLUSHES, Action::Lose));
    assert!(rig.write(4096, 2, false).is_some());
    assert!(rig.ask(BlockVerb::Flush).is_some());
    assert!(rig.write(8192, 3, true).is_some());
    assert_eq!(rig.read(4096), vec![2; 4096]);
    crash(&mut rig, Survival::Nothing);
    assert_eq!(rig.read(0), vec![1; 4096], "flushed");
    assert_eq!(rig.read(4096), vec![0; 4096], "the flush was a lie");
    assert_eq!(rig.read(8192), vec![3; 4096], "FUA");
}

#[test]
fn requests_in_flight_at_a_crash_may_go_either_way_even_fua() {
    let mut seen = [false; 2];
    for seed in 0..40 {
        let mut rig =
            Rig::over(BlockDriver::Volatile(Box::new(VolatileDriver::new("v", MemMedia::new(1 << 20)))));
        let verb = rig.write_verb(0, 7, true);
        rig.submit(verb);
        let BlockDriver::Volatile(volatile) = &mut rig.driver else { panic!("volatile") };
        volatile.crash(Survival::Seeded(seed));
        assert_eq!((volatile.in_flight(), volatile.crashes()), (0, 1));
        seen[usize::from(rig.read(0)[0] == 7)] = true;
    }
    assert_eq!(seen, [true, true]);
}

#[test]
fn every_prefix_of_a_recording_replays_to_what_a_power_cut_may_leave() {
    let inner = BlockDriver::Mem(MemDriver::new("d", MemMedia::new(1 << 20)));
    let (driver, recording) = RecordDriver::new(inner);
    let mut rig = Rig::over(BlockDriver::Record(Box::new(driver)));
    // A log of two slots: contents first, then the header that points to them, each made durable.
    for round in 1..=20u8 {
        assert!(rig.write(u64::from(round % 2) * 4096 + 8192, round, false).is_some());
        assert!(rig.ask(BlockVerb::Flush).is_some());
        assert!(rig.write(0, round, true).is_some());
    }
    assert_eq!(recording.len(), 20 * 6);
    let base = MemMedia::new(1 << 20);
    let byte = |media: &MemMedia, offset| {
        let mut byte = [0];
        media.read(offset, &mut byte);
        byte[0]
    };
    let mut torn = 0;
    for upto in 0..=recording.len() {
        for seed in 0..4 {
            let media = recording.image(&base, upto, Survival::Seeded(seed));
            let done = upto as u8 / 6;
            let header = byte(&media, 0);
            assert!(header == done || header == done + 1, "cut {upto}: header {header}");
            if header > 0 {
                assert_eq!(byte(&media, u64::from(header % 2) * 4096 + 8192), header, "cut {upto}");
            }
            torn += usize::from(byte(&media, 511) != byte(&media, 512));
        }
    }
    assert!(torn > 0, "some cuts tear the header block between sectors");
    assert!(matches!(recording.events()[0], Event::Write { offset: 12288, fua: false, .. }));
    assert!(!recording.is_empty());
}
