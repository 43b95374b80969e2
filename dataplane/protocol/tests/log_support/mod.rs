//! A log on a memory device with a volatile cache, and a model of what it must hold.
//!
//! Fault model of the device: commands complete in any order; a crash keeps any subset of the blocks of
//! writes that were not durable (completed without FUA or flush, or still under way), so that records tear.
#![allow(dead_code, unreachable_pub)] // Each test file uses its part of this.

use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_isal::crc32c;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet};

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

/// The device.
#[derive(Debug)]
pub struct Mem {
    pub bytes: Vec<u8>,
    /// Old contents of blocks whose newest contents a crash may lose.
    volatile: BTreeMap<u64, Vec<u8>>,
    pub queue: Vec<BlockCmd>,
    pub writes: u64,
    /// Fails writes from this one on.
    pub fail_writes_from: Option<u64>,
    /// Blocks that cannot be read until they are written again.
    pub unreadable: BTreeSet<u64>,
    /// Blocks that cannot be written.
    pub unwritable: BTreeSet<u64>,
}

impl Mem {
    pub fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            volatile: BTreeMap::new(),
            queue: Vec::new(),
            writes: 0,
            fail_writes_from: None,
            unreadable: BTreeSet::new(),
            unwritable: BTreeSet::new(),
        }
    }

    pub fn submit(&mut self, out: &mut Out) {
        self.queue.append(&mut out.block);
    }

    fn write_block(&mut self, at: u64, block: &[u8], durable: bool) {
        let from = at as usize * BLOCK;
        if durable {
            self.volatile.remove(&at);
        } else {
            self.volatile.entry(at).or_insert_with(|| self.bytes[from..from + BLOCK].to_vec());
        }
        self.bytes[from..from + BLOCK].copy_from_slice(block);
    }

    /// Finishes command `i` of the queue.
    pub fn finish(&mut self, i: usize) -> BlockDone {
        let cmd = self.queue.remove(i);
        let result = match cmd.op {
            BlockOp::Read { offset, mut buf } => {
                let from = offset as usize;
                let len = buf.len();
                let blocks = offset / BLOCK as u64..(offset + len as u64) / BLOCK as u64;
                if self.unreadable.range(blocks).next().is_some() {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                buf.copy_from_slice(&self.bytes[from..from + len]);
                Ok(BlockOk::Read(buf))
            }
            BlockOp::Flush => {
                self.volatile.clear();
                Ok(BlockOk::Done)
            }
            BlockOp::Write { offset, bufs, fua } => {
                self.writes += 1;
                if self.fail_writes_from.is_some_and(|n| self.writes >= n) {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                let mut at = offset / BLOCK as u64;
                let blocks: u64 = bufs.iter().map(|buf| (buf.len() / BLOCK) as u64).sum();
                if self.unwritable.range(at..at + blocks).next().is_some() {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                self.unreadable.retain(|block| !(at..at + blocks).contains(block));
                for buf in &bufs {
                    assert_eq!(buf.len() % BLOCK, 0);
                    for block in buf.chunks_exact(BLOCK) {
                        self.write_block(at, block, fua);
                        at += 1;
                    }
                }
                Ok(BlockOk::Done)
            }
        };
        BlockDone { key: cmd.key, result }
    }

    /// The process dies: what it had submitted runs on, up to the device's cache; nobody hears of it.
    pub fn die(&mut self) {
        for cmd in std::mem::take(&mut self.queue) {
            let BlockOp::Write { offset, bufs, .. } = cmd.op else { continue };
            let blocks = bufs.iter().flat_map(|buf| buf.chunks_exact(BLOCK));
            for (at, block) in (offset / BLOCK as u64..).zip(blocks) {
                self.write_block(at, block, false);
            }
        }
    }

    /// Power goes: any subset of what was not durable reaches the medium.
    pub fn crash(&mut self, rng: &mut Rng) {
        let keep = rng.below(101);
        for (at, old) in std::mem::take(&mut self.volatile) {
            if !rng.chance(keep) {
                self.bytes[at as usize * BLOCK..][..BLOCK].copy_from_slice(&old);
            }
        }
        for cmd in std::mem::take(&mut self.queue) {
            let BlockOp::Write { offset, bufs, .. } = cmd.op else { continue };
            let keep = rng.below(101);
            let mut at = offset as usize;
            for buf in &bufs {
                for block in buf.chunks_exact(BLOCK) {
                    if rng.chance(keep) {
                        self.bytes[at..at + BLOCK].copy_from_slice(block);
                    }
                    at += BLOCK;
                }
            }
        }
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
        hot_bytes: 1 << 20,
        faults: Faults::default(),
    }
}

/// Runs a recovery on the device to its end.
pub fn recover(
    mem: &mut Mem,
    config: &LogConfig,
    pool: &Pool,
    rng: &mut Rng,
) -> Result<(Log, Vec<RecoveredPartition>, RecoveryReport, Out), LogError> {
    let mut recovery = Recovery::new(config.clone(), pool.clone());
    let mut out = Out::default();
    recovery.start(&mut out);
    loop {
        match recovery.state() {
            RecoveryState::Done => break,
            RecoveryState::Failed(error) => return Err(error),
            RecoveryState::Working => {}
        }
        mem.submit(&mut out);
        assert!(!mem.queue.is_empty(), "a working recovery waits for something");
        let i = rng.below(mem.queue.len() as u64) as usize;
        let done = mem.finish(i);
        recovery.handle_block(done, &mut out);
    }
    let (log, partitions, report) = recovery.finish();
    Ok((log, partitions, report, out))
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

/// What a history of operations leaves at each block: the operation, `None` for zeroes.
pub type Contents = BTreeMap<u64, (Op, bool)>;

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
        let index = self.indexes.get_mut(&P).expect("index");
        let mut most = if self.lag { self.rng.below(6) } else { u64::MAX };
        while most > 0 && self.waiting.first().is_some_and(|(_, placed)| placed.lsn <= durable) {
            most -= 1;
            let (op, placed) = self.waiting.remove(0);
            self.log.apply(index, op, &self.history[&op], placed.addr);
            self.committed = op;
            self.acked = op;
        }
        while self.copies.first().is_some_and(|(_, placed)| placed.lsn <= durable) {
            let (copy, placed) = self.copies.remove(0);
            self.log.settle_copy(index, &copy, placed);
        }
    }

    /// Gathers up to a stripe of the oldest live committed blocks and repoints them into an extent.
    pub fn flush(&mut self) {
        let room = GEOMETRY.stripe_blocks() as usize;
        let committed = self.committed;
        let mut gathered: Vec<(Lba, Op, Vec<u8>)> = Vec::new();
        let index = &self.indexes[&P];
        self.log.oldest_live(&mut |run| {
            for i in 0..u64::from(run.blocks) {
                let (lba, addr) = (Lba(run.lba.0 + i), run.addr.plus(i));
                let mapping = index.get(lba);
                if run.op <= committed
                    && mapping.op == run.op
                    && mapping.loc == Loc::Log(addr)
                    && gathered.len() < room
                {
                    let bytes = self.mem.bytes[addr.offset() as usize..][..BLOCK].to_vec();
                    assert_eq!(crc32c(&bytes), mapping.crc);
                    gathered.push((lba, run.op, bytes));
                }
            }
            gathered.len() < room
        });
        if gathered.is_empty() {
            return;
        }
        let (extent, stripe) = match self.filling {
            Some((extent, stripe)) if stripe < GEOMETRY.stripes => (extent, stripe),
            _ => {
                let id = ExtentId(self.op.0 + 1);
                let column = |n| ColumnRef {
                    sled: NodeId(n),
                    device: DeviceId(u128::from(n)),
                    column: 3,
                    generation: 9,
                };
                let columns = (0..3).map(|n| (n < 2).then(|| column(n))).collect();
                let number = Number { epoch: 1, counter: 1 };
                let desc = ExtentDesc { id, number, geometry: GEOMETRY, columns };
                if self.push(Body::ExtentCreate(Box::new(desc))).is_err() {
                    return;
                }
                (id, 0)
            }
        };
        self.filling = Some((extent, stripe + 1));
        let first = stripe * GEOMETRY.stripe_blocks();
        let mut entries = Vec::new();
        for ((lba, op, bytes), block) in gathered.into_iter().zip(first..) {
            entries.push(RepointEntry { lba, op, from: GatheredFrom::Log, block, crc: crc32c(&bytes) });
            self.extents.insert((extent, block), bytes);
        }
        let repoint = Repoint { extent, first_stripe: stripe, stripes: 1, absent: 4, entries };
        let _ = self.push(Body::Repoint(Box::new(repoint)));
    }

    /// Releases a wholly dead extent that is full.
    pub fn release_extent(&mut self) {
        let filling = self.filling.map(|(id, _)| id);
        let dead =
            self.index().extents().find(|(_, x)| x.live == 0 && x.stripes > 0 && Some(x.desc.id) != filling);
        let dead = dead.map(|(_, x)| x.desc.id);
        // Only one that no waiting operation names.
        if let Some(extent) = dead.filter(|_| self.waiting.is_empty()) {
            let _ = self.push(Body::Release { extent });
        }
    }

    pub fn release(&mut self) -> u32 {
        let committed = self.committed;
        self.log.try_release(&|_| Some(committed))
    }

    pub fn begin_checkpoint(&mut self) {
        let meta = PartitionMeta {
            partition: P,
            blocks: self.blocks,
            committed: self.committed,
            adopted: self.adopted.clone(),
            damaged: false,
        };
        self.log.checkpoint_begin(vec![meta]);
    }

    /// Moves the first live run of the tail segment forward.
    pub fn copy_forward(&mut self) {
        if !self.copies.is_empty() {
            return;
        }
        let mut runs = Vec::new();
        self.log.tail_live(&mut runs);
        let index = &self.indexes[&P];
        let committed = self.committed;
        let run =
            runs.into_iter().find(|run| run.op <= committed && index.get(run.lba).loc == Loc::Log(run.addr));
        let Some(run) = run else { return };
        let blocks = run.blocks.min(8) as usize;
        let mut data = self.pool.alloc(blocks * BLOCK).expect("a buffer");
        data.copy_from_slice(&self.mem.bytes[run.addr.offset() as usize..][..blocks * BLOCK]);
        let crcs = data.chunks_exact(BLOCK).map(crc32c).collect();
        let copy =
            CopyForward { partition: P, op: run.op, lba: run.lba, crcs, from: run.addr, data: data.freeze() };
        if let Ok(placed) = self.log.push_copy(&copy, self.committed) {
            self.copies.push((copy, placed));
        }
    }

    /// Crash, recovery, adoption of a new number; checks everything that was acknowledged.
    pub fn crash(&mut self) -> RecoveryReport {
        self.mem.crash(&mut self.rng);
        self.restart()
    }

    /// Restart of the process with the device as it is.
    pub fn restart(&mut self) -> RecoveryReport {
        self.mem.queue.clear();
        let (log, partitions, report, _) =
            recover(&mut self.mem, &self.config, &self.pool, &mut self.rng).expect("recovers");
        self.log = log;
        self.waiting.clear();
        self.copies.clear();
        self.filling = None;
        let mut found = partitions.into_iter().find(|p| p.partition == P);
        if let Some(found) = &mut found {
            assert!(!found.damaged, "nothing durable is lost: {report:?}");
            assert!(found.bad.is_empty(), "nothing rotted: {:?}", found.bad);
            assert!(
                found.tail >= self.acked,
                "AckedIsDurable: {:?} acknowledged, {:?} held",
                self.acked,
                found.tail
            );
            let cut = if self.lag {
                self.acked.0 + self.rng.below(found.tail.0 - self.acked.0 + 1)
            } else {
                found.tail.0
            };
            self.history.retain(|op, _| *op <= found.committed.max(self.acked));
            for pending in std::mem::take(&mut found.pending) {
                if pending.op.0 > cut {
                    if let LoggedBody::Write { crcs, .. } = &pending.body {
                        self.log.dead(pending.addr, crcs.len() as u32);
                    }
                    continue;
                }
                self.log.apply_logged(&mut found.index, pending.op, &pending.body, pending.addr);
                self.remember(pending);
            }
            found.tail = Op(cut);
        }
        let tail = found.as_ref().map_or(Op(0), |f| f.tail);
        assert!(tail >= self.acked, "AckedIsDurable: {:?} was acknowledged, {tail:?} is held", self.acked);
        self.adopted = found.as_ref().and_then(|f| f.adopted.clone());
        self.indexes = BTreeMap::from([(P, found.map_or_else(|| Index::new(self.blocks), |f| f.index))]);
        (self.op, self.committed, self.acked) = (tail, tail, tail);
        self.check();
        self.adopt();
        report
    }

    /// An operation that was held but not acknowledged counts from now on; one that was, is unchanged.
    fn remember(&mut self, pending: PendingOp) {
        let body = match pending.body {
            LoggedBody::Write { lba, crcs } => Body::Write { lba, crcs, data: Buf::from_static(&[]) },
            LoggedBody::Other(body) => body,
        };
        let held = format!("{body:?}");
        let known = self.history.entry(pending.op).or_insert(body);
        assert_eq!(format!("{known:?}"), held, "operation {:?} is the one acknowledged", pending.op);
    }

    /// Logs an adoption at the present tail.
    pub fn adopt(&mut self) {
        let counter = self.adopted.as_ref().map_or(1, |a| a.number.counter + 1);
        let number = Number { epoch: 1, counter };
        let members = vec![Member { head: NodeId(1), log: LOG, boot: BootId(u128::from(counter)) }].into();
        let adopt = Adopt { partition: P, number, grant: GrantId(counter), members, tail: self.op };
        self.log.push_adopt(&adopt, self.committed).expect("metadata has room");
        self.adopted = Some(adopt);
    }

    /// What the history leaves: newest operation per block and whether it is data.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        for (op, body) in self.history.range(..=self.committed) {
            match body {
                Body::Write { lba, crcs, .. } => {
                    for i in 0..crcs.len() as u64 {
                        contents.insert(lba.0 + i, (*op, true));
                    }
                }
                Body::Clear { lba, count } => {
                    for i in 0..u64::from(*count) {
                        contents.insert(lba.0 + i, (*op, false));
                    }
                }
                _ => {}
            }
        }
        contents
    }

    /// Every block reads as the history says (NewestWins, ReleaseLast, NothingSilent).
    pub fn check(&self) {
        let contents = self.contents();
        for lba in 0..self.blocks {
            let lba = Lba(lba);
            let mapping = self.index().get(lba);
            let bytes = match mapping.loc {
                Loc::Hole | Loc::Cleared | Loc::Lost => None,
                Loc::Log(addr) => Some(match self.log.cached(addr, 1) {
                    Some(hot) => hot.to_vec(),
                    None => self.mem.bytes[addr.offset() as usize..][..BLOCK].to_vec(),
                }),
                Loc::Extent { slot, block } => {
                    let id = self.index().extent(slot).expect("an extent behind each slot").desc.id;
                    Some(self.extents[&(id, block)].clone())
                }
            };
            match (contents.get(&lba.0), bytes) {
                (Some((op, true)), Some(bytes)) => {
                    assert_eq!(mapping.op, *op, "newest operation of {lba:?}");
                    assert_eq!(crc32c(&bytes), mapping.crc, "checksum of {lba:?} at {:?}", mapping.loc);
                    assert_eq!(bytes, pattern(*op, lba), "contents of {lba:?}");
                }
                (None | Some((_, false)), None) => {}
                (want, got) => {
                    panic!("{lba:?}: history says {want:?}, index {mapping:?} ({})", got.is_some())
                }
            }
        }
        self.check_extents();
    }

    /// Live counts of extents equal what the index refers to.
    fn check_extents(&self) {
        let mut seen: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for lba in 0..self.blocks {
            if let Loc::Extent { slot, block } = self.index().get(Lba(lba)).loc {
                assert!(seen.entry(slot).or_default().insert(block), "one block, one owner");
            }
        }
        for (slot, extent) in self.index().extents() {
            let live = seen.remove(&slot).unwrap_or_default();
            assert_eq!(extent.live as usize, live.len());
            let mut listed = Vec::new();
            self.index().live_blocks(slot, &mut listed);
            assert!(listed.iter().map(|(block, _)| *block).eq(live));
        }
        assert!(seen.is_empty(), "no entry names a released extent");
    }
}

/// One random step of a head's life.
pub fn step(rig: &mut Rig) {
    match rig.rng.below(100) {
        0..=4 => {
            // Whole segments of writes and nothing else: released without a checkpoint once repointed.
            for _ in 0..rig.rng.below(8) {
                let lba = rig.rng.below(rig.blocks - 64);
                let _ = rig.write(lba, 64);
                rig.settle();
            }
            for _ in 0..80 {
                rig.flush();
                rig.settle();
            }
            rig.release();
        }
        5..=54 => {
            for _ in 0..=rig.rng.below(4) {
                let blocks = 1 + rig.rng.below(8);
                let lba = rig.rng.below(rig.blocks - blocks);
                let _ = rig.write(lba, blocks);
            }
        }
        55..=59 => {
            let lba = rig.rng.below(rig.blocks - 64);
            let count = 1 + rig.rng.below(64) as u32;
            if rig.log.room_for(0, Room::User) {
                let _ = rig.push(Body::Clear { lba: Lba(lba), count });
            }
        }
        60..=79 => {
            for _ in 0..4 {
                rig.flush();
            }
        }
        80..=84 => rig.copy_forward(),
        85..=89 => rig.release_extent(),
        90..=94 => {
            rig.release();
        }
        _ => {
            if !rig.log.checkpointing() && (rig.log.checkpoint_wanted() || rig.rng.chance(30)) {
                rig.begin_checkpoint();
            }
        }
    }
    let completions = rig.rng.below(6) as usize;
    rig.turn(completions);
}

/// A random life with crashes; says how many records tore, segments went and checkpoints were finished.
pub fn live(seed: u64, steps: u32, faults: Faults) -> (u64, u64, u64) {
    let mut rig = Rig::new(seed, LogConfig { faults, ..config(12 << 20) });
    rig.lag = seed.is_multiple_of(2);
    let (mut torn, mut released, mut checkpoints) = (0, 0, 0);
    for _ in 0..steps {
        step(&mut rig);
        released += u64::from(rig.release());
        if rig.rng.chance(1) {
            checkpoints += rig.log.checkpoint_counts().0;
            torn += rig.crash().torn;
        }
    }
    rig.settle();
    rig.check();
    rig.crash();
    (torn, released, checkpoints + rig.log.checkpoint_counts().0)
}
