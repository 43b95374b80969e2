//! A small rack in one thread: two heads, maybe more, some sleds, disks in memory, a network that reorders and
//! doubles, all from one seed; and a client that knows what every sector may hold.
#![allow(dead_code, unreachable_pub, unused_imports)] // Each test file uses a part of it.

use palisade_dma::{Backing, Buf, Pool, PoolConfig};
use palisade_protocol::head::*;
use palisade_protocol::sled::format::{FormatSpec, Superblock, images};
use palisade_protocol::sled::{DeviceSpec, Sled, SledConfig};
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub mod alone;
pub mod blank;
mod client;
mod copies;
mod disk;
mod lives;
mod other;
mod time;

use client::sector;
pub use disk::Disk;
pub use other::OTHER;

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
    pub log_faults: palisade_protocol::log::Faults,
    pub flush: FlushConfig,
    pub secondary: bool,
    /// Heads beside the first two; they come behind the sleds in `nodes`.
    pub reserves: usize,
    pub solo: Solo,
    pub failover: Option<FailoverConfig>,
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
            log_faults: palisade_protocol::log::Faults::default(),
            flush,
            secondary: true,
            reserves: 0,
            solo: Solo::Wait,
            failover: None,
            stopwatch: None,
            scrub_gap: Duration::from_secs(3600),
        }
    }
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
    /// Its disk takes so much longer.
    pub slow: Duration,
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
    /// The head that clients speak to.
    pub primary: usize,
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
            primary: 0,
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
        for at in 0..2 + rack.shape.sleds + rack.shape.reserves {
            rack.add_node(at);
        }
        for at in 0..rack.nodes.len() {
            rack.start(at, true);
        }
        rack
    }

    fn add_node(&mut self, at: usize) {
        let head = self.is_head(at);
        let id = match at {
            0 | 1 => NodeId(at as u32 + 1),
            _ if head => NodeId((at - self.shape.sleds) as u32 + 1),
            _ => NodeId(at as u32 + 9),
        };
        let device = DeviceId(0xd000 + at as u128);
        let bytes = if head { self.log_bytes() as usize } else { 0 };
        let mut disk = Disk { bytes: vec![0; bytes], ..Disk::default() };
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
            slow: Duration::ZERO,
            out: Out::default(),
        });
    }

    /// Places of the heads in `nodes`.
    pub fn heads(&self) -> Vec<usize> {
        let behind = 2 + self.shape.sleds;
        (0..2).chain(behind..behind + self.shape.reserves).collect()
    }

    pub fn is_head(&self, at: usize) -> bool {
        at < 2 || at >= 2 + self.shape.sleds
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
        let devices = self.nodes[2..2 + self.shape.sleds].iter().enumerate().map(|(at, node)| DeviceTarget {
            sled: node.id,
            device: node.device,
            shelf: at as u32,
            sandbox: None,
            leave: false,
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
            solo: if self.shape.secondary { self.shape.solo } else { Solo::Local },
            heads: 1 + u8::from(self.shape.secondary) + self.shape.reserves as u8,
        }
    }
}

impl Rack {
    /// Hands a message to a head at once, from whoever it claims to be.
    pub fn deliver_to(&mut self, at: usize, from: NodeId, boot: BootId, msg: Msg) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Machine::Head(head) = &mut node.machine {
            head.handle_msg(now, from, boot, msg, &mut node.out);
        }
    }
}
