//! A log on a memory device with a volatile cache, and a model of what it must hold.
#![allow(dead_code, unreachable_pub, unused_imports)] // Each test file uses its part of this.

use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_isal::crc32c;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet};

mod check;
mod device;
mod lives;
mod moves;
mod restart;
mod space;

pub use check::Contents;
pub use device::Mem;
pub use lives::{live, lived_in, step};
pub use restart::recover;

pub const RACK: RackId = RackId(7);
pub const LOG: LogId = LogId(0xabcd);
pub const P: PartitionId = PartitionId(1);

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub fn pool() -> Pool {
    Pool::new(PoolConfig { slots: [2048, 48, 40], huge: false }).expect("maps")
}

pub fn config(device_bytes: u64) -> LogConfig {
    LogConfig {
        device: DeviceIx(0),
        device_bytes,
        rack: RACK,
        expect: Some(LOG),
        format: Some(FormatAs { log: LOG, segment_bytes: 512 << 10, volume_blocks: 4096 }),
        rescue: None,
        hot_bytes: 1 << 20,
        faults: Faults::default(),
    }
}

/// Bytes of a block as operation `op` wrote it to `lba`.
pub fn pattern(op: Op, lba: Lba) -> Vec<u8> {
    let word = (op.0 << 20 | lba.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK).collect()
}

pub fn write_body(pool: &Pool, op: Op, lba: Lba, blocks: u64) -> Body {
    let mut buf = pool.alloc(blocks as usize * BLOCK).expect("a buffer");
    let mut crcs = CrcList::new();
    for i in 0..blocks {
        let bytes = pattern(op, Lba(lba.0 + i));
        buf[i as usize * BLOCK..][..BLOCK].copy_from_slice(&bytes);
        crcs.push(crc32c(&bytes));
    }
    Body::Write { lba, crcs, data: buf.freeze() }
}

/// A head of one partition that commits what its own log made durable.
pub struct Rig {
    pub mem: Mem,
    pub pool: Pool,
    pub config: LogConfig,
    pub rng: Rng,
    pub log: Log,
    pub indexes: BTreeMap<PartitionId, Index>,
    /// Contents of extent data blocks.
    pub extents: BTreeMap<(ExtentId, u32), Vec<u8>>,
    /// Every operation ever pushed, by number.
    pub history: BTreeMap<Op, Body>,
    pub waiting: Vec<(Op, Placed)>,
    pub copies: Vec<(CopyForward, Placed)>,
    /// Pending operations that are logged again, with the record in which each stood.
    pub moves: Vec<(Op, Lsn, Placed)>,
    /// Nothing commits, as while a secondary is away; what a restart finds goes on waiting.
    pub away: bool,
    /// Newest operation of another partition that shares the log.
    pub other: Op,
    pub op: Op,
    pub committed: Op,
    pub acked: Op,
    pub adopted: Option<Adopt>,
    pub now: Time,
    pub out: Out,
    pub blocks: u64,
    /// Commits lag behind what is durable, as they do while a secondary is slow; a restart may then cut
    /// operations that were never acknowledged (P-01).
    pub lag: bool,
    /// Extent being filled and its next free stripe.
    pub filling: Option<(ExtentId, u32)>,
}

pub const GEOMETRY: Geometry = Geometry { k: 2, m: 1, unit_blocks: 4, stripes: 8 };

impl Rig {
    pub fn new(seed: u64, config: LogConfig) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut mem = Mem::new(config.device_bytes as usize);
        let pool = pool();
        let (log, partitions, report, out) = recover(&mut mem, &config, &pool, &mut rng).expect("formats");
        assert!(partitions.is_empty() && report.formatted);
        Self {
            mem,
            pool,
            config,
            rng,
            log,
            indexes: BTreeMap::from([(P, Index::new(2048))]),
            extents: BTreeMap::new(),
            history: BTreeMap::new(),
            waiting: Vec::new(),
            copies: Vec::new(),
            moves: Vec::new(),
            away: false,
            other: Op(0),
            op: Op(0),
            committed: Op(0),
            acked: Op(0),
            adopted: None,
            now: Time::ZERO,
            out,
            blocks: 2048,
            lag: false,
            filling: None,
        }
    }

    pub fn index(&self) -> &Index {
        &self.indexes[&P]
    }

    pub fn push(&mut self, body: Body) -> Result<Op, PushError> {
        let op = Op(self.op.0 + 1);
        let entry = Entry { partition: P, number: Number { epoch: 1, counter: 1 }, op, body };
        let placed = self.log.push(&entry, self.committed)?;
        self.op = op;
        let body = match entry.body {
            // The history needs no bytes, and the pool is small.
            Body::Write { lba, crcs, .. } => Body::Write { lba, crcs, data: Buf::from_static(&[]) },
            other => other,
        };
        self.history.insert(op, body);
        self.waiting.push((op, placed));
        Ok(op)
    }

    pub fn write(&mut self, lba: u64, blocks: u64) -> Result<Op, PushError> {
        if !self.log.room_for(blocks, Room::User) {
            return Err(PushError::Full);
        }
        let body = write_body(&self.pool, Op(self.op.0 + 1), Lba(lba), blocks);
        self.push(body)
    }

    /// End of a turn, then `completions` block completions in random order.
    pub fn turn(&mut self, completions: usize) {
        self.now = Time(self.now.0 + 1_000_000);
        if self.log.checkpointing() {
            self.log.checkpoint_step(&mut self.indexes, &mut self.out);
        }
        self.log.end_turn(self.now, &mut self.out);
        for _ in 0..completions {
            self.mem.submit(&mut self.out);
            if self.mem.queue.is_empty() {
                break;
            }
            let i = self.rng.below(self.mem.queue.len() as u64) as usize;
            let done = self.mem.finish(i);
            assert!(is_log_key(done.key));
            self.log.handle_block(done, &mut self.out);
        }
        self.mem.submit(&mut self.out);
        self.commit();
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn(usize::MAX);
            if self.waiting.is_empty() && self.copies.is_empty() && self.log.idle() {
                return;
            }
        }
        panic!("the log does not settle");
    }

    fn commit(&mut self) {
        let durable = self.log.durable();
        let moves_first = !self.moves.is_empty() && self.rng.chance(50);
        if moves_first {
            self.settle_moves();
        }
        let index = self.indexes.get_mut(&P).expect("index");
        let mut most = match (self.away, self.lag) {
            (true, _) => 0,
            (_, true) => self.rng.below(6),
            _ => u64::MAX,
        };
        while most > 0 && self.waiting.first().is_some_and(|(_, placed)| placed.lsn <= durable) {
            most -= 1;
            let (op, placed) = self.waiting.remove(0);
            self.log.apply(index, op, &self.history[&op], placed.addr);
            self.committed = op;
            self.acked = self.acked.max(op);
        }
        while self.copies.first().is_some_and(|(_, placed)| placed.lsn <= durable) {
            let (copy, placed) = self.copies.remove(0);
            self.log.settle_copy(index, &copy, placed);
        }
        if !moves_first {
            self.settle_moves();
        }
    }
}
