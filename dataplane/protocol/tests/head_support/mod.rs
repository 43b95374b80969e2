//! A small rack in one thread: two heads, some sleds, disks in memory, a network that reorders and
//! doubles, all from one seed; and a client that knows what every sector may hold.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

use palisade_dma::{Backing, Buf, Pool, PoolConfig};
use palisade_protocol::head::*;
use palisade_protocol::sled::format::{FormatSpec, Superblock, images};
use palisade_protocol::sled::{DeviceSpec, Sled, SledConfig};
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const BLOCK: usize = limits::BLOCK;
pub const SECTOR: usize = limits::SECTOR;
pub const VOLUME: PartitionId = PartitionId(7);
const RACK: RackId = RackId(0xcafe);

/// How a rack is made.
#[derive(Clone)]
pub struct Shape {
    pub seed: u64,
    pub k: u8,
    pub m: u8,
    pub sleds: usize,
    pub blocks: u64,
    pub unit_blocks: u16,
    pub stripes: u32,
    pub columns: u32,
    pub log_segments: u64,
    pub segment: u32,
    pub hot_bytes: usize,
    pub faults: Faults,
    pub flush: FlushConfig,
    pub secondary: bool,
    pub stopwatch: Option<fn() -> Time>,
    /// Pause between two scrub reads of a sled.
    pub scrub_gap: Duration,
}

impl Shape {
    pub fn new(seed: u64) -> Self {
        let flush = FlushConfig { age: Duration::ZERO, reserve_columns: 1, ..FlushConfig::default() };
        Self {
            seed,
            k: 4,
            m: 2,
            sleds: 6,
            blocks: 4096,
            unit_blocks: 4,
            stripes: 16,
            columns: 24,
            log_segments: 40,
            segment: 512 << 10,
            hot_bytes: 1 << 20,
            faults: Faults::default(),
            flush,
            secondary: true,
            stopwatch: None,
            scrub_gap: Duration::from_secs(3600),
        }
    }
}

pub struct Disk {
    pub bytes: Vec<u8>,
    pub writes: u64,
    pub dead: bool,
    /// It was pulled out.
    pub gone: bool,
    /// Flushes fail but for those of a recovery: no checkpoint ever ends.
    pub no_flush: bool,
}

enum Machine {
    Head(Box<Head>),
    Sled(Box<Sled>),
    Down,
}

pub struct Node {
    pub id: NodeId,
    pub boot: BootId,
    machine: Machine,
    pub disk: Disk,
    pub log: LogId,
    pub device: DeviceId,
    pub cut: bool,
    /// Its disk takes commands and never answers.
    pub stall: bool,
    out: Out,
}

#[allow(clippy::large_enum_variant)] // A test queue; clarity before bytes.
enum Due {
    Msg { from: NodeId, boot: BootId, to: NodeId, msg: Msg },
    Block { node: usize, boot: BootId, cmd: BlockCmd },
}

pub struct Rack {
    pub shape: Shape,
    pub now: Time,
    rng: u64,
    pub pool: Pool,
    pub nodes: Vec<Node>,
    queue: BTreeMap<(Time, u64), Due>,
    order: u64,
    boots: u128,
    number: u64,
    pub assigned: Option<Assignment>,
    pub recovered: BTreeSet<NodeId>,
    pub done: BTreeMap<u64, Result<ClientOk, ClientError>>,
    pub events: Vec<Event>,
    next_tag: u64,
    next_value: u64,
    /// Values that a sector may hold.
    pub model: Vec<Vec<u64>>,
    writes: BTreeMap<u64, (usize, usize, u64)>,
    pub sent: BTreeMap<&'static str, u64>,
    pub drop_msg: Option<fn(&Msg, NodeId, NodeId) -> bool>,
    /// Messages that stay on their way until [`Rack::let_go`].
    pub hold_msg: Option<fn(&Msg, NodeId, NodeId) -> bool>,
    held: Vec<Due>,
}

pub fn pool() -> Pool {
    let pool = Pool::new(PoolConfig { slots: [8192, 1024, 160], huge: false }).expect("memory");
    assert_ne!(pool.backing(), Backing::Huge);
    pool
}

/// Content of sector `at` with value `value`; 0 is zeroes.
fn sector(value: u64, at: usize) -> [u8; SECTOR] {
    let mut bytes = [0u8; SECTOR];
    if value != 0 {
        for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
            let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64) << 20 ^ i as u64;
            word.copy_from_slice(&mixed.to_le_bytes());
        }
    }
    bytes
}

impl Rack {
    pub fn new(shape: Shape) -> Self {
        let sectors = shape.blocks as usize * (BLOCK / SECTOR);
        let mut rack = Self {
            now: Time(1_000_000),
            rng: shape.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1,
            pool: pool(),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            boots: 100,
            number: 0,
            assigned: None,
            recovered: BTreeSet::new(),
            done: BTreeMap::new(),
            events: Vec::new(),
            next_tag: 1,
            next_value: 1,
            model: vec![vec![0]; sectors],
            writes: BTreeMap::new(),
            sent: BTreeMap::new(),
            drop_msg: None,
            hold_msg: None,
            held: Vec::new(),
            shape,
        };
        for at in 0..2 + rack.shape.sleds {
            rack.add_node(at);
        }
        for at in 0..rack.nodes.len() {
            rack.start(at, true);
        }
        rack
    }

    fn add_node(&mut self, at: usize) {
        let head = at < 2;
        let id = if head { NodeId(at as u32 + 1) } else { NodeId(at as u32 + 9) };
        let device = DeviceId(0xd000 + at as u128);
        let bytes = if head { self.log_bytes() as usize } else { 0 };
        let mut disk = Disk { bytes: vec![0; bytes], writes: 0, dead: false, gone: false, no_flush: false };
        if !head {
            disk.bytes = self.format_sled(device);
        }
        self.nodes.push(Node {
            id,
            boot: BootId(0),
            machine: Machine::Down,
            disk,
            log: LogId(0x1000 + at as u128),
            device,
            cut: false,
            stall: false,
            out: Out::default(),
        });
    }

    fn log_bytes(&self) -> u64 {
        (self.shape.log_segments + 4) * u64::from(self.shape.segment) + (4 << 20)
    }

    fn format_sled(&self, device: DeviceId) -> Vec<u8> {
        let unit = u32::from(self.shape.unit_blocks) * BLOCK as u32;
        let column = u64::from(unit) * u64::from(self.shape.stripes);
        let bytes =
            column * u64::from(self.shape.columns) + u64::from(self.shape.columns) * 16 * 4096 + (4 << 20);
        let spec = FormatSpec {
            rack: RACK,
            device,
            device_bytes: bytes,
            column_bytes: column,
            unit_bytes: unit,
            record_pages: 4,
        };
        let sb = Superblock::plan(&spec).expect("plan");
        let mut disk = vec![0; bytes as usize];
        for (offset, image) in images(sb) {
            disk[offset as usize..offset as usize + image.len()].copy_from_slice(&image);
        }
        disk
    }

    pub fn rand(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng >> 11) % below.max(1)
    }

    pub fn partition(&self) -> PartitionConfig {
        let devices = self.nodes[2..].iter().enumerate().map(|(at, node)| DeviceTarget {
            sled: node.id,
            device: node.device,
            shelf: at as u32,
            sandbox: None,
        });
        PartitionConfig {
            partition: VOLUME,
            blocks: self.shape.blocks,
            geometry: Geometry {
                k: self.shape.k,
                m: self.shape.m,
                unit_blocks: self.shape.unit_blocks,
                stripes: self.shape.stripes,
            },
            columns_min: 0,
            devices: devices.collect(),
        }
    }

    /// Starts a node's machine on its disk.
    pub fn start(&mut self, at: usize, fresh: bool) {
        self.boots += 1;
        let boot = BootId(self.boots);
        let id = self.nodes[at].id;
        let machine = if at < 2 {
            let start =
                if fresh { LogStart::Format(self.nodes[at].log) } else { LogStart::Open(self.nodes[at].log) };
            let log = HeadLog {
                segment_bytes: self.shape.segment,
                volume_bytes: self.shape.blocks * BLOCK as u64,
                ..HeadLog::new(DeviceIx(0), self.log_bytes(), start)
            };
            let mut config = HeadConfig::new(id, boot, RACK, log);
            config.partitions = vec![self.partition()];
            config.hot_bytes = self.shape.hot_bytes;
            config.faults = self.shape.faults;
            config.flush = self.shape.flush;
            config.stopwatch = self.shape.stopwatch;
            config.retry.read_timeout = Duration::from_millis(400);
            config.retry.column_timeout = Duration::from_secs(1);
            Machine::Head(Box::new(Head::new(config, self.pool.clone())))
        } else {
            let spec = DeviceSpec { ix: DeviceIx(0), bytes: self.nodes[at].disk.bytes.len() as u64 };
            let mut config = SledConfig::new(id, RACK, self.boots ^ 0x5ec2e7 << 40, vec![spec]);
            config.scrub_gap = self.shape.scrub_gap;
            Machine::Sled(Box::new(Sled::new(config, self.pool.clone())))
        };
        let node = &mut self.nodes[at];
        node.boot = boot;
        node.machine = machine;
        node.out = Out::default();
        self.recovered.remove(&id);
    }

    /// Kills a node: what it had in flight to its disk lands or not, as the seed has it.
    pub fn crash(&mut self, at: usize) {
        let (id, boot) = (self.nodes[at].id, self.nodes[at].boot);
        self.nodes[at].machine = Machine::Down;
        let keys: Vec<(Time, u64)> = self.queue.keys().copied().collect();
        for key in keys {
            let mine = match &self.queue[&key] {
                Due::Block { node, boot: of, .. } => *node == at && *of == boot,
                // A connection dies with either end.
                Due::Msg { from, to, .. } => *from == id || *to == id,
            };
            if !mine {
                continue;
            }
            if let Some(Due::Block { cmd, .. }) = self.queue.remove(&key)
                && self.rand(2) == 0
            {
                let _ = self.nodes[at].disk.apply(cmd);
            }
        }
        if at == 0 {
            self.forget_commands();
        }
    }

    /// The primary died: what was not answered may or may not have happened.
    fn forget_commands(&mut self) {
        self.writes.clear();
    }

    pub fn restart(&mut self, at: usize) {
        self.crash(at);
        self.start(at, false);
    }

    pub fn head(&mut self, at: usize) -> &mut Head {
        match &mut self.nodes[at].machine {
            Machine::Head(head) => head,
            _ => panic!("node {at} is not a running head"),
        }
    }

    pub fn sled(&mut self, at: usize) -> &mut Sled {
        match &mut self.nodes[2 + at].machine {
            Machine::Sled(sled) => sled,
            _ => panic!("sled {at} is not running"),
        }
    }

    /// As control does at every boot of a member (P-01).
    pub fn grant(&mut self) {
        self.number += 1;
        let heads = if self.shape.secondary { 2 } else { 1 };
        let member = |node: &Node| Member { head: node.id, log: node.log, boot: node.boot };
        let stamp = Stamp {
            partition: VOLUME,
            number: Number { epoch: 1, counter: self.number },
            grant: GrantId(self.number + 1000),
        };
        self.assigned = Some(Assignment { stamp, members: self.nodes[..heads].iter().map(member).collect() });
        self.assign();
    }

    pub fn assign(&mut self) {
        let Some(assignment) = self.assigned.clone() else { return };
        for at in 0..2 {
            let now = self.now;
            let node = &mut self.nodes[at];
            if let Machine::Head(head) = &mut node.machine {
                head.assign(now, assignment.clone(), &mut node.out);
            }
        }
    }

    /// One turn of everything, then on to the next thing that is due.
    pub fn step(&mut self) {
        for at in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[at];
            match &mut node.machine {
                Machine::Head(head) => head.turn(now, &mut node.out),
                Machine::Sled(sled) => sled.turn(now, &mut node.out),
                Machine::Down => {}
            }
            self.drain(at);
        }
        let mut next =
            self.queue.keys().next().map(|key| key.0).unwrap_or(self.now + Duration::from_millis(10));
        for node in &self.nodes {
            let deadline = match &node.machine {
                Machine::Head(head) => head.deadline(),
                Machine::Sled(sled) => sled.deadline(),
                Machine::Down => None,
            };
            next = next.min(deadline.unwrap_or(next));
        }
        self.now = next.max(self.now + Duration::from_nanos(500));
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let due = entry.remove();
            self.deliver(due);
        }
    }

    fn drain(&mut self, at: usize) {
        let mut out = std::mem::take(&mut self.nodes[at].out);
        let (from, boot) = (self.nodes[at].id, self.nodes[at].boot);
        if self.nodes[at].stall {
            out.block.clear();
        }
        for cmd in out.block.drain(..) {
            let delay = 20_000 + self.rand(80_000);
            self.order += 1;
            let due = Due::Block { node: at, boot, cmd };
            self.queue.insert((self.now + Duration::from_nanos(delay), self.order), due);
        }
        for (to, msg) in out.net.drain(..) {
            let name = name(&msg);
            *self.sent.entry(name).or_insert(0) += 1;
            if self.drop_msg.is_some_and(|drop| drop(&msg, from, to)) {
                continue;
            }
            if self.hold_msg.is_some_and(|hold| hold(&msg, from, to)) {
                self.held.push(Due::Msg { from, boot, to, msg });
                continue;
            }
            let copies = if self.rand(12) == 0 { 2 } else { 1 };
            for _ in 0..copies {
                let late = if self.rand(10) == 0 { 400_000 } else { 30_000 };
                let delay = 5_000 + self.rand(late);
                self.order += 1;
                let due = Due::Msg { from, boot, to, msg: msg.clone() };
                self.queue.insert((self.now + Duration::from_nanos(delay), self.order), due);
            }
        }
        for done in out.done.drain(..) {
            self.answered(done);
        }
        for event in out.events.drain(..) {
            if matches!(event, Event::Recovered { .. }) {
                self.recovered.insert(from);
            }
            self.events.push(event);
        }
        self.nodes[at].out = out;
    }

    fn answered(&mut self, done: ClientDone) {
        if let Some((first, count, value)) = self.writes.remove(&done.tag.0)
            && done.result.is_ok()
        {
            for at in first..first + count {
                self.model[at] = vec![value];
            }
        }
        let earlier = self.done.insert(done.tag.0, done.result);
        assert!(earlier.is_none(), "a command is answered once");
    }

    fn deliver(&mut self, due: Due) {
        let now = self.now;
        match due {
            Due::Msg { from, boot, to, msg } => {
                let cut = self.nodes.iter().any(|node| node.cut && (node.id == from || node.id == to));
                let Some(node) = self.nodes.iter_mut().find(|node| node.id == to) else { return };
                if cut {
                    return;
                }
                match &mut node.machine {
                    Machine::Head(head) => head.handle_msg(now, from, boot, msg, &mut node.out),
                    Machine::Sled(sled) => sled.handle_msg(now, from, boot, msg, &mut node.out),
                    Machine::Down => {}
                }
            }
            Due::Block { node: at, boot, cmd } => {
                let node = &mut self.nodes[at];
                if node.boot != boot {
                    return;
                }
                let key = cmd.key;
                let result = node.disk.apply(cmd);
                let done = BlockDone { key, result };
                match &mut node.machine {
                    Machine::Head(head) => head.handle_block(now, done, &mut node.out),
                    Machine::Sled(sled) => sled.handle_block(now, done, &mut node.out),
                    Machine::Down => {}
                }
            }
        }
    }

    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now + Duration::from_secs(60);
        while !done(self) {
            assert!(self.now < limit, "seed {}: {what} did not happen in a minute", self.shape.seed);
            self.step();
        }
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.step();
        }
    }

    /// Waits until all heads recovered, grants, waits for service.
    pub fn serve(&mut self) {
        let heads = if self.shape.secondary { 2 } else { 1 };
        self.run_until("recovery", |rack| rack.recovered.len() >= heads);
        self.grant();
        let number = self.number;
        self.run_until("service", move |rack| rack.serving(number));
    }

    pub fn serving(&self, number: u64) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, Event::Serving { stamp } if stamp.number.counter == number))
    }

    pub fn submit(&mut self, verb: ClientVerb) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let now = self.now;
        let cmd = ClientCmd { tag: ClientTag(tag), partition: VOLUME, verb };
        let node = &mut self.nodes[0];
        if let Machine::Head(head) = &mut node.machine {
            head.handle_client(now, cmd, &mut node.out);
        }
        tag
    }

    pub fn bytes(&mut self, value: u64, first: usize, count: usize) -> Buf {
        let mut buf = self.pool.alloc(count * SECTOR).expect("a client's buffer");
        for (i, chunk) in buf.chunks_exact_mut(SECTOR).enumerate() {
            chunk.copy_from_slice(&sector(value, first + i));
        }
        buf.freeze()
    }

    /// Starts a write of `count` sectors from `first`.
    pub fn write(&mut self, first: usize, count: usize) -> u64 {
        let value = self.next_value;
        self.next_value += 1;
        let data = self.bytes(value, first, count);
        for at in first..first + count {
            self.model[at].push(value);
        }
        let tag = self.next_tag;
        self.writes.insert(tag, (first, count, value));
        self.submit(ClientVerb::Write { offset: (first * SECTOR) as u64, data })
    }

    /// Starts a trim of `count` sectors from `first`.
    pub fn trim(&mut self, first: usize, count: usize) -> u64 {
        for at in first..first + count {
            self.model[at].push(0);
        }
        let tag = self.next_tag;
        self.writes.insert(tag, (first, count, 0));
        self.submit(ClientVerb::Trim { offset: (first * SECTOR) as u64, len: (count * SECTOR) as u64 })
    }

    pub fn wait(&mut self, tag: u64) -> Result<ClientOk, ClientError> {
        self.run_until("an answer", |rack| rack.done.contains_key(&tag));
        self.done.remove(&tag).expect("it is there")
    }

    pub fn wait_all(&mut self, tags: &[u64]) {
        for &tag in tags {
            let result = self.wait(tag);
            if result.is_err() {
                eprintln!("{:#?}", &self.events[self.events.len().saturating_sub(30)..]);
            }
            assert!(result.is_ok(), "seed {}: command failed: {result:?}", self.shape.seed);
        }
    }

    /// Checks the bytes of a read against what the sectors may hold, and pins what was seen.
    pub fn check(&mut self, first: usize, result: Result<ClientOk, ClientError>) {
        let Ok(ClientOk::Data(pieces)) = result else {
            panic!("seed {}: read at sector {first} failed: {result:?}", self.shape.seed)
        };
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        for (i, chunk) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = first + i;
            let seen = self.model[at].iter().copied().find(|&value| sector(value, at) == chunk);
            let Some(seen) = seen else {
                panic!("seed {}: sector {at} holds none of {:?}", self.shape.seed, self.model[at])
            };
            if self.writes.values().all(|&(first, count, _)| !(first..first + count).contains(&at)) {
                self.model[at] = vec![seen];
            }
        }
    }

    pub fn read(&mut self, first: usize, count: usize) {
        let verb = ClientVerb::Read { offset: (first * SECTOR) as u64, len: (count * SECTOR) as u32 };
        let tag = self.submit(verb);
        let result = self.wait(tag);
        self.check(first, result);
    }

    /// Reads the whole volume and checks it.
    pub fn verify(&mut self) {
        let sectors = self.model.len();
        let step = 64 * BLOCK / SECTOR;
        for first in (0..sectors).step_by(step) {
            self.read(first, step.min(sectors - first));
        }
    }

    /// Random writes and trims over the first `blocks` blocks, `depth` at a time, disjoint.
    pub fn workload(&mut self, count: usize, blocks: usize, depth: usize) {
        let mut open: Vec<(u64, usize, usize)> = Vec::new();
        for _ in 0..count {
            let total = blocks * (BLOCK / SECTOR);
            let len = match self.rand(4) {
                0 => 1 + self.rand(20) as usize,
                1 => 8 * (1 + self.rand(16) as usize),
                _ => 8,
            };
            let mut first = self.rand((total - len) as u64) as usize;
            if self.rand(3) > 0 {
                first = first / 8 * 8;
            }
            let clash = |&(_, at, n): &(u64, usize, usize)| first < at + n && at < first + len;
            if let Some(at) = open.iter().position(clash) {
                let all: Vec<u64> = open.drain(..=at).map(|entry| entry.0).collect();
                self.wait_all(&all);
                while let Some(at) = open.iter().position(clash) {
                    let tag = open.remove(at).0;
                    self.wait_all(&[tag]);
                }
            }
            let tag = if self.rand(12) == 0 { self.trim(first, len) } else { self.write(first, len) };
            open.push((tag, first, len));
            if open.len() >= depth {
                let tag = open.remove(0).0;
                self.wait_all(&[tag]);
            }
        }
        let all: Vec<u64> = open.iter().map(|entry| entry.0).collect();
        self.wait_all(&all);
    }

    pub fn start_flush(&mut self) -> u64 {
        let tag = 1 << 40 | self.next_tag;
        self.next_tag += 1;
        let now = self.now;
        let node = &mut self.nodes[0];
        if let Machine::Head(head) = &mut node.machine {
            head.flush_all(now, VOLUME, ClientTag(tag), &mut node.out);
        }
        tag
    }

    pub fn flush_all(&mut self) {
        let tag = self.start_flush();
        let result = self.wait(tag);
        assert!(result.is_ok(), "seed {}: flush: {result:?}", self.shape.seed);
    }

    pub fn status(&mut self) -> PartitionStatus {
        self.head(0).status().partitions.remove(0)
    }

    pub fn counters(&mut self) -> Counters {
        self.status().stats.counters
    }
}

impl Disk {
    fn apply(&mut self, cmd: BlockCmd) -> Result<BlockOk, BlockError> {
        if self.gone {
            return Err(BlockError::Gone);
        }
        if self.dead {
            return Err(BlockError::Io);
        }
        match cmd.op {
            BlockOp::Read { offset, mut buf } => {
                let (from, len) = (offset as usize, buf.len());
                buf.copy_from_slice(self.bytes.get(from..from + len).ok_or(BlockError::Range)?);
                Ok(BlockOk::Read(buf))
            }
            BlockOp::Write { offset, bufs, .. } => {
                self.writes += 1;
                let mut at = offset as usize;
                for buf in &bufs {
                    self.bytes.get_mut(at..at + buf.len()).ok_or(BlockError::Range)?.copy_from_slice(buf);
                    at += buf.len();
                }
                Ok(BlockOk::Done)
            }
            BlockOp::Flush if self.no_flush && !recovers(cmd.key) => Err(BlockError::Io),
            BlockOp::Flush => Ok(BlockOk::Done),
        }
    }
}

/// Whether a key is of a log's recovery.
fn recovers(key: Key) -> bool {
    key.0 >> 52 & 0xf == 2
}

fn name(msg: &Msg) -> &'static str {
    match msg {
        Msg::Announce { .. } => "announce",
        Msg::Replicate { .. } => "replicate",
        Msg::Confirm { .. } => "confirm",
        Msg::Fetch { .. } => "fetch",
        Msg::Reserve { .. } => "reserve",
        Msg::ColumnWrite { .. } => "column_write",
        Msg::ColumnReserve { .. } => "column_reserve",
        Msg::ColumnRead { .. } => "column_read",
        Msg::ColumnRelease { .. } => "column_release",
        Msg::ColumnList { .. } => "column_list",
        _ => "other",
    }
}

impl Rack {
    pub fn delete(&mut self) {
        let now = self.now;
        let node = &mut self.nodes[0];
        if let Machine::Head(head) = &mut node.machine {
            head.delete_partition(now, VOLUME, &mut node.out);
        }
    }
}

impl Rack {
    /// Flips a bit in every `nth` block of a node's disk that holds a client's current data.
    pub fn rot(&mut self, at: usize, nth: usize) -> usize {
        let known: BTreeSet<[u8; 8]> = self
            .model
            .iter()
            .enumerate()
            .filter(|(_, values)| values[0] != 0)
            .map(|(at, values)| sector(values[0], at)[..8].try_into().expect("eight bytes"))
            .collect();
        let (mut found, mut hurt) = (0usize, 0);
        for block in self.nodes[at].disk.bytes.chunks_exact_mut(BLOCK) {
            if known.contains(&block[..8]) {
                if found.is_multiple_of(nth) {
                    block[77] ^= 0x10;
                    hurt += 1;
                }
                found += 1;
            }
        }
        hurt
    }
}

/// A second partition, with the roles of the heads exchanged.
pub const OTHER: PartitionId = PartitionId(8);

impl Rack {
    /// Adds [`OTHER`] to both heads and grants it a number.
    pub fn serve_other(&mut self) {
        let config = PartitionConfig { partition: OTHER, ..self.partition() };
        for at in 0..2 {
            let now = self.now;
            self.head(at).create_partition(now, config.clone());
        }
        self.number += 1;
        let member = |node: &Node| Member { head: node.id, log: node.log, boot: node.boot };
        let members = vec![member(&self.nodes[1]), member(&self.nodes[0])];
        let number = Number { epoch: 1, counter: self.number };
        let stamp = Stamp { partition: OTHER, number, grant: GrantId(self.number + 1000) };
        for at in 0..2 {
            let now = self.now;
            let node = &mut self.nodes[at];
            if let Machine::Head(head) = &mut node.machine {
                head.assign(now, Assignment { stamp, members: members.clone() }, &mut node.out);
            }
        }
        let number = self.number;
        self.run_until("service of the other", move |rack| rack.serving(number));
    }

    /// Starts a 64 KiB write to [`OTHER`] at its primary, without the model.
    pub fn write_other(&mut self, lba: u64) -> u64 {
        let data = self.bytes(lba + 1, 0, 128);
        let tag = self.next_tag;
        self.next_tag += 1;
        let verb = ClientVerb::Write { offset: lba * BLOCK as u64, data };
        let now = self.now;
        let node = &mut self.nodes[1];
        if let Machine::Head(head) = &mut node.machine {
            head.handle_client(now, ClientCmd { tag: ClientTag(tag), partition: OTHER, verb }, &mut node.out);
        }
        tag
    }
}

impl Rack {
    /// A stranger claims [`VOLUME`] on every sled under a higher number, as a new primary would.
    pub fn usurp(&mut self, counter: u64) {
        for at in 2..self.nodes.len() {
            let stamp =
                Stamp { partition: VOLUME, number: Number { epoch: 1, counter }, grant: GrantId(counter) };
            let (now, device) = (self.now, self.nodes[at].device);
            let node = &mut self.nodes[at];
            if let Machine::Sled(sled) = &mut node.machine {
                let msg = Msg::Reserve { req: ReqId(1), device, stamp };
                sled.handle_msg(now, NodeId(99), BootId(99), msg, &mut node.out);
            }
        }
        self.run_for(Duration::from_millis(5));
    }
}

impl Rack {
    /// Messages that were held arrive now; says how many.
    pub fn let_go(&mut self) -> usize {
        self.hold_msg = None;
        let held = std::mem::take(&mut self.held);
        let count = held.len();
        for due in held {
            self.deliver(due);
        }
        count
    }

    /// Flips a bit in each copy of these blocks of the volume on a node's disk; says how many there were.
    pub fn rot_blocks(&mut self, at: usize, lbas: std::ops::Range<usize>) -> usize {
        let per = BLOCK / SECTOR;
        let wanted: BTreeSet<[u8; 8]> = lbas
            .map(|lba| sector(self.model[lba * per][0], lba * per)[..8].try_into().expect("eight bytes"))
            .collect();
        let mut hurt = 0;
        for block in self.nodes[at].disk.bytes.chunks_exact_mut(BLOCK) {
            if wanted.contains(&block[..8]) {
                block[77] ^= 0x10;
                hurt += 1;
            }
        }
        hurt
    }
}

impl Rack {
    /// The connection behind these commands is lost; those that are dropped were never carried out.
    pub fn abort(&mut self, tags: &[u64]) -> usize {
        let now = self.now;
        let node = &mut self.nodes[0];
        let Machine::Head(head) = &mut node.machine else { return 0 };
        let before = node.out.done.len();
        let dropped = head.abort(now, VOLUME, &|tag: ClientTag| tags.contains(&tag.0), &mut node.out);
        for done in &node.out.done[before..] {
            if let Some((first, count, value)) = self.writes.remove(&done.tag.0) {
                (first..first + count).for_each(|at| self.model[at].retain(|&held| held != value));
            }
        }
        dropped
    }
}
