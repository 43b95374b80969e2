//! A driver on an emulated controller, with a clock that the test moves and a check that every request is
//! answered once.

use crate::{Model, ModelConfig};
use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_runtime::block::nvme::{NvmeDriver, NvmeError, NvmeEvent, NvmeOptions};
use palisade_runtime::block::{BlockCompletion, BlockFault, BlockOk, BlockPort, BlockRequest, BlockVerb};
use palisade_runtime::clock::Nanos;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a turn takes.
const TURN: Duration = Duration::from_millis(1);
/// Turns after which a wait counts as a hang: more than all time-outs of a driver together.
const TURNS_MAX: u32 = 200_000;

/// How a request ended: the bytes of a read, nothing else of other verbs.
pub type Answer = Result<Option<Vec<u8>>, BlockFault>;

/// The whole set-up.
pub struct Rig {
    /// The device.
    pub model: Model,
    /// The driver under test.
    pub driver: NvmeDriver,
    /// Its buffers.
    pub pool: Pool,
    /// The time.
    pub now: Nanos,
    /// Answers not looked at yet.
    pub answers: BTreeMap<u64, Answer>,
    /// What the driver told.
    pub events: Vec<NvmeEvent>,
    asked: BTreeSet<u64>,
    next_key: u64,
    out: Vec<BlockCompletion>,
}

impl Rig {
    /// A small pool for tests.
    pub fn pool() -> Pool {
        Pool::new(PoolConfig { slots: [1024, 64, 32], huge: false }).expect("pool")
    }

    /// Options that keep tests short and their memory small.
    pub fn options() -> NvmeOptions {
        NvmeOptions { depth: 64, huge: false, ..NvmeOptions::default() }
    }

    /// Brings a driver up on a new controller.
    pub fn new(config: ModelConfig) -> Self {
        Self::on(Model::new(config), Self::options()).expect("the driver starts")
    }

    /// Brings a driver up on a controller.
    pub fn on(model: Model, options: NvmeOptions) -> Result<Self, NvmeError> {
        let mut rig = Self::start(model, options)?;
        for _ in 0..TURNS_MAX {
            if rig.driver.bring_up(rig.now)? {
                return Ok(rig);
            }
            rig.model.step();
            rig.now = rig.now + TURN;
        }
        panic!("the driver neither started nor gave up");
    }

    /// A driver that begins to start.
    pub fn start(model: Model, options: NvmeOptions) -> Result<Self, NvmeError> {
        let (pool, now) = (Self::pool(), Nanos(1_000_000_000));
        let driver = NvmeDriver::start(Box::new(model.clone()), &pool, options, now)?;
        Ok(Self {
            model,
            driver,
            pool,
            now,
            answers: BTreeMap::new(),
            events: Vec::new(),
            asked: BTreeSet::new(),
            next_key: 1,
            out: Vec::new(),
        })
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.asked.insert(self.next_key);
        self.next_key
    }

    /// Submits a request; its key.
    pub fn submit(&mut self, verb: BlockVerb) -> u64 {
        let key = self.key();
        self.driver.submit(BlockRequest { key, verb });
        key
    }

    /// A buffer with these bytes.
    pub fn buf(&self, bytes: &[u8]) -> Buf {
        let mut buf = self.pool.alloc(bytes.len()).expect("a slot");
        buf.copy_from_slice(bytes);
        buf.freeze()
    }

    /// Submits a write of these parts.
    pub fn write_parts(&mut self, offset: u64, bufs: SmallVec<[Buf; 4]>, fua: bool) -> u64 {
        self.submit(BlockVerb::Write { offset, bufs, fua })
    }

    /// Submits a write.
    pub fn write(&mut self, offset: u64, bytes: &[u8], fua: bool) -> u64 {
        let bufs = bytes.chunks(256 << 10).map(|chunk| self.buf(chunk)).collect();
        self.write_parts(offset, bufs, fua)
    }

    /// Submits a read.
    pub fn read(&mut self, offset: u64, len: usize) -> u64 {
        let buf = self.pool.alloc(len).expect("a slot");
        self.submit(BlockVerb::Read { offset, buf })
    }

    /// Submits a flush.
    pub fn flush(&mut self) -> u64 {
        self.submit(BlockVerb::Flush)
    }

    /// Submits zeroes.
    pub fn write_zeroes(&mut self, offset: u64, bytes: u64) -> u64 {
        let key = self.key();
        self.driver.write_zeroes(key, offset, bytes).expect("offered");
        key
    }

    /// Submits a deallocation.
    pub fn deallocate(&mut self, offset: u64, bytes: u64) -> u64 {
        let key = self.key();
        self.driver.deallocate(key, offset, bytes).expect("offered");
        key
    }

    /// A millisecond: the driver's turn, then the device's.
    pub fn turn(&mut self) {
        self.now = self.now + TURN;
        self.driver.kick();
        self.model.step();
        let mut out = std::mem::take(&mut self.out);
        let count = self.driver.poll(self.now, &mut out);
        assert_eq!(count, out.len(), "poll tells how many there are");
        for done in out.drain(..) {
            assert!(self.asked.remove(&done.key), "key {} was answered twice, or never asked", done.key);
            let answer = done.result.map(|ok| match ok {
                BlockOk::Read(buf) => Some(buf.to_vec()),
                BlockOk::Done => None,
            });
            self.answers.insert(done.key, answer);
        }
        self.out = out;
        assert_eq!(self.driver.in_flight(), self.asked.len(), "the driver knows what it owes");
        while let Some(event) = self.driver.take_event() {
            self.events.push(event);
        }
    }

    /// Turns until a request is answered.
    pub fn wait(&mut self, key: u64) -> Answer {
        for _ in 0..TURNS_MAX {
            if let Some(answer) = self.answers.remove(&key) {
                return answer;
            }
            self.turn();
        }
        panic!("key {key} was never answered: {:?}", self.driver);
    }

    /// Turns until everything is answered.
    pub fn drain(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.driver.in_flight() == 0 {
                return;
            }
            self.turn();
        }
        panic!("some were never answered: {:?}", self.driver);
    }

    /// So many turns.
    pub fn turns(&mut self, count: u32) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Checks that the driver did nothing that a device would complain of, and that all buffers came back.
    pub fn check(&self) {
        assert_eq!(self.model.violations(), Vec::<String>::new());
        if self.driver.in_flight() == 0 {
            let stats = self.pool.stats();
            assert_eq!(stats.free, stats.total, "every buffer came back");
        }
    }
}
