//! Builds the racks of scenarios: devices formatted, nodes named, volumes declared, machines configured
//! small, so that logs fill, extents die and collectors run within a short run.

use crate::clients::{Client, Volume};
use crate::dice::Dice;
use crate::disk::{Disk, Image};
use crate::faults::{Load, NetMode, Scenario};
use crate::host::Host;
use crate::hosts::{Direct, Fabricked};
use crate::links::{NETWORKS, client_place};
use crate::node::Node;
use crate::served::{Served, Wiring};
use crate::tally::Role;
use crate::world::{Builder, RecordProbe, World};
use palisade_control::identity::{Decision, Identity, Known, Medium, decide};
use palisade_dma::{Pool, PoolConfig};
use palisade_protocol::fabric::{self, Fabric};
use palisade_protocol::fence::record::{RecordPage, page_of};
use palisade_protocol::head::{
    DeviceTarget, FlushConfig, Head, HeadConfig, HeadLog, LogStart, PartitionConfig,
};
use palisade_protocol::head::{RetryConfig, Solo};
use palisade_protocol::log;
use palisade_protocol::sled::format::{self, FormatSpec, Superblock, Verdict};
use palisade_protocol::sled::{self, DeviceSpec, Sled, SledConfig};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;
use std::time::Duration;

/// The rack's identity.
const RACK: RackId = RackId(0x51a1_0000_0000_0000_0000_0000_0000_0001);
/// Names of the first head, and of the first sled.
const FIRST_HEAD: u32 = 1;
const FIRST_SLED: u32 = 11;

/// Rules that a run breaks on purpose. Without the canary feature of the machines none can be set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Canaries {
    /// Of heads.
    pub head: palisade_protocol::head::Faults,
    /// Of head logs.
    pub log: log::Faults,
    /// Of sleds.
    pub sled: sled::Faults,
}

/// Sizes and times that a seed draws within its scenario.
#[derive(Clone, Copy, Debug)]
struct Shape {
    geometry: Geometry,
    columns: u64,
    flush: FlushConfig,
    hot_bytes: usize,
    window: u32,
    /// The shipping services and reactor loop around the machines, rather than the machines alone.
    served: bool,
}

impl Shape {
    fn of(seed: u64, scenario: &Scenario) -> Self {
        let dice = &mut Dice::new(seed ^ 0x7261_636b);
        let (k, m) = scenario.code;
        let unit_blocks = *dice.pick(&[1u16, 2, 4]);
        // A copy of what is written alone needs a block beside its header (P-30).
        let unit_blocks = if scenario.solo == Solo::Sleds { unit_blocks.max(2) } else { unit_blocks };
        let stripes = *dice.pick(&[4u32, 8, 16]);
        let geometry = Geometry { k, m, unit_blocks, stripes };
        let volume_extents = scenario.volume_blocks * u64::from(scenario.heads.max(scenario.volumes).max(1))
            / u64::from(geometry.extent_blocks());
        let age = *dice.pick(&[2u64, 10, 40, 200]);
        // Dice of their own: the other draws of a seed are as they were.
        let apart = &mut Dice::new(seed ^ 0x636b_7074);
        let checkpoint_bytes = *apart.pick(&[0u64, 1, 64 << 10, 1 << 20]);
        let checkpoint_age = Duration::from_millis(*apart.pick(&[20u64, 200, 2000]));
        let flush = FlushConfig {
            checkpoint_bytes,
            checkpoint_age,
            fill_low: *dice.pick(&[0, 5, 40]),
            age: Duration::from_millis(age),
            stripes: dice.range(1, 4) as u8,
            batches: dice.range(1, 3) as u8,
            ..FlushConfig::default()
        };
        Self {
            geometry,
            columns: volume_extents * 4 + 24,
            flush,
            hot_bytes: *dice.pick(&[0usize, 64 << 10, 4 << 20]),
            window: *dice.pick(&[16u32, 256, 1024]),
            served: dice.chance(0.6) && !scenario.moves,
        }
    }

    fn unit_bytes(&self) -> u64 {
        u64::from(self.geometry.unit_blocks) * BLOCK as u64
    }
}

/// What the machines of a run are made by.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    scenario: Scenario,
    shape: Shape,
    canaries: Canaries,
}

fn head_id(index: u32) -> NodeId {
    NodeId(FIRST_HEAD + index)
}

fn sled_id(index: u32) -> NodeId {
    NodeId(FIRST_SLED + index)
}

fn device_id(index: u32) -> DeviceId {
    DeviceId(0xd000 + u128::from(index))
}

/// The log of a head that has lost so many.
pub(crate) fn log_id(head: NodeId, lost: u32) -> LogId {
    LogId(0x1060 + u128::from(head.0) + (u128::from(lost) << 32))
}

/// A blank log for a head.
pub(crate) fn blank_log(scenario: &Scenario, head: NodeId) -> Disk {
    let base_us = if head == head_id(0) { scenario.slow_log_us } else { scenario.media_us };
    Disk::new(scenario.log_bytes).paced(base_us)
}

/// Makes what runs on a head in a new life.
pub type HeadMaker = Box<dyn Fn(&Node, u64) -> Box<dyn Host>>;

/// The rack of a seed in a scenario, with blank logs and formatted sleds.
pub fn build(seed: u64, scenario: Scenario, canaries: Canaries) -> World {
    let recipe = Recipe { scenario, shape: Shape::of(seed, &scenario), canaries };
    let mut world = build_with(seed, scenario, canaries, |_, pool, _| {
        let head = |id| Node::new(id, Role::Head, vec![blank_log(&scenario, id)]);
        let heads = (0..scenario.heads).map(|index| head(head_id(index))).collect();
        let pool = pool.clone();
        let make: HeadMaker = Box::new(move |node, salt| head_host(node, &recipe, &pool, salt));
        (heads, make)
    });
    world.declared = partitions(&scenario, &recipe.shape, |_| true);
    world
}

/// A rack of formatted sleds with heads of any kind: `heads` gets the geometry of columns, the pool and
/// the sleds' devices, and gives the head nodes and what runs on them.
pub fn build_with(
    seed: u64,
    scenario: Scenario,
    canaries: Canaries,
    heads: impl FnOnce(&Geometry, &Pool, &[(NodeId, DeviceId)]) -> (Vec<Node>, HeadMaker),
) -> World {
    let shape = Shape::of(seed, &scenario);
    let pool = pool();
    let devices: Vec<_> = (0..scenario.sleds).map(|index| (sled_id(index), device_id(index))).collect();
    let (mut nodes, make) = heads(&shape.geometry, &pool, &devices);
    for index in 0..scenario.sleds {
        let disk = sled_disk(index, &shape).paced(scenario.media_us);
        nodes.push(Node::new(sled_id(index), Role::Sled, vec![disk]));
    }
    let mut dice = Dice::new(seed ^ 0x766f_6c73);
    let volumes = (0..volume_count(&scenario)).map(|index| volume(&scenario, index, &mut dice)).collect();
    let builder: Builder = Box::new(move |node, pool, salt| match node.role {
        Role::Head => make(node, salt),
        Role::Sled => sled_host(node, &Recipe { scenario, shape, canaries }, pool, salt),
        Role::Authority => unreachable!("the world plays the authority itself"),
    });
    World::new(seed, scenario, nodes, volumes, pool, builder, probe())
}

/// The buffers of the thread's runs: made once, since fresh memory costs more than a run.
fn pool() -> Pool {
    thread_local! {
        static POOL: Pool =
            Pool::new(PoolConfig { slots: [16_384, 1024, 768], huge: false }).expect("memory for a pool");
    }
    POOL.with(Pool::clone)
}

/// Volumes of a scenario.
pub fn volume_count(scenario: &Scenario) -> u32 {
    match scenario.volumes {
        0 if scenario.heads == 2 + scenario.reserves => 1,
        0 => scenario.heads,
        volumes => volumes,
    }
}

/// The heads of a volume, primary first.
fn heads_of(scenario: &Scenario, index: u32) -> Vec<NodeId> {
    (index..index + 2 + scenario.reserves).map(|at| head_id(at % scenario.heads)).collect()
}

fn volume(scenario: &Scenario, index: u32, dice: &mut Dice) -> Volume {
    let heads = heads_of(scenario, index);
    // Of steadily written volumes one is busy and the others are nearly idle: what is promised to those lies
    // unused (P-31).
    let idle = scenario.load == Load::Overwrite && index > 0;
    let requests = if idle { scenario.requests / 50 } else { scenario.requests };
    let clients = (0..scenario.clients)
        .map(|client| Client {
            left: requests,
            open: 0,
            depth: dice.range(scenario.depth.0, scenario.depth.1),
            at: heads[0],
            place: client_place(index as usize, client as usize),
            answered: 0,
            refused: 0,
        })
        .collect();
    Volume::new(PartitionId(u64::from(index) + 1), &heads, scenario.volume_blocks, clients, scenario.load)
}

fn sled_disk(index: u32, shape: &Shape) -> Disk {
    let column_bytes = shape.unit_bytes() * u64::from(shape.geometry.stripes);
    let device_bytes = (2 << 20) + shape.columns * (column_bytes + 64 * BLOCK as u64);
    let spec = FormatSpec {
        rack: RACK,
        device: device_id(index),
        device_bytes,
        column_bytes,
        unit_bytes: shape.unit_bytes() as u32,
        record_pages: 1,
    };
    let superblock = Superblock::plan(&spec).expect("the simulator's devices fit their format");
    let mut image = Image::default();
    for (offset, bytes) in format::images(superblock) {
        image.write(offset, &bytes);
    }
    image.fold();
    Disk::with_image(device_bytes, image)
}

/// Partitions of some groups of heads.
fn partitions(
    scenario: &Scenario,
    shape: &Shape,
    wanted: impl Fn(&[NodeId]) -> bool,
) -> Vec<PartitionConfig> {
    let devices: Vec<DeviceTarget> = (0..scenario.sleds)
        .map(|index| DeviceTarget {
            sled: sled_id(index),
            device: device_id(index),
            shelf: index,
            sandbox: None,
            leave: false,
        })
        .collect();
    (0..volume_count(scenario))
        .filter(|index| wanted(&heads_of(scenario, *index)))
        .map(|index| PartitionConfig {
            partition: PartitionId(u64::from(index) + 1),
            blocks: scenario.volume_blocks,
            geometry: shape.geometry,
            columns_min: 0,
            devices: devices.clone(),
            solo: scenario.solo,
            heads: 2 + scenario.reserves as u8,
        })
        .collect()
}

/// To format or to open: as control decides it. Until a log was found whole once, its format is repeated.
fn log_start(node: &Node) -> LogStart {
    let id = log_id(node.id, node.logs_lost);
    let identity = Identity(id.0);
    let known =
        if node.formatted { Known::Active { id: identity } } else { Known::Formatting { id: identity } };
    let mut start = vec![0u8; log::format::CHECKPOINT_OFFSET as usize];
    node.disks[0].durable().read(0, &mut start);
    let medium = match log::format::examine(&start, RACK, None, node.disks[0].bytes()) {
        Ok((superblock, _)) => Medium::Ours { id: Identity(superblock.log.0) },
        Err(log::Verdict::Blank) => Medium::Blank,
        Err(log::Verdict::Damaged(what)) => Medium::Damaged { what: what.to_owned() },
        Err(other) => Medium::Foreign { what: format!("{other:?}") },
    };
    match decide(&known, &medium, identity) {
        Decision::Format { .. } => LogStart::Format(id),
        _ => LogStart::Open(id),
    }
}

fn head_config(node: &Node, recipe: &Recipe) -> HeadConfig {
    let Recipe { scenario, shape, canaries } = recipe;
    let mut log = HeadLog::new(DeviceIx(0), scenario.log_bytes, log_start(node));
    log.segment_bytes = 512 << 10;
    log.volume_bytes = scenario.volume_blocks * BLOCK as u64 * 2;
    let mut config = HeadConfig::new(node.id, node.boot, RACK, log);
    config.partitions = match &node.told {
        Some(told) => told.clone(),
        None => partitions(scenario, shape, |heads| heads.contains(&node.id)),
    };
    config.flush = shape.flush;
    config.retry = RetryConfig {
        column_timeout: Duration::from_millis(300),
        read_timeout: Duration::from_millis(150),
        ..RetryConfig::default()
    };
    config.hot_bytes = shape.hot_bytes;
    config.window = shape.window;
    config.failover = scenario.moves.then_some(scenario.timers);
    config.faults = canaries.head;
    config.log_faults = canaries.log;
    config
}

fn sled_config(node: &Node, secret: u128, recipe: &Recipe) -> SledConfig {
    let devices = node
        .disks
        .iter()
        .enumerate()
        .map(|(ix, disk)| DeviceSpec { ix: DeviceIx(ix as u16), bytes: disk.bytes() });
    let mut config = SledConfig::new(node.id, RACK, secret, devices.collect());
    config.drain_limit = Duration::from_millis(200);
    config.scrub_gap = Duration::from_millis(recipe.scenario.scrub_ms);
    config.scrub_rest = Duration::from_millis(100);
    config.faults = recipe.canaries.sled;
    config
}

fn head_host(node: &Node, recipe: &Recipe, pool: &Pool, salt: u64) -> Box<dyn Host> {
    let wiring = wiring(node, &recipe.scenario, salt);
    let config = head_config(node, recipe);
    let partitions: Vec<PartitionId> = config.partitions.iter().map(|p| p.partition).collect();
    let head = Head::new(config, pool.clone());
    if recipe.shape.served {
        under_net(Served::head(&wiring, head, &partitions), node, &recipe.scenario, pool)
    } else {
        under_net(Direct::new(head, wiring.salt), node, &recipe.scenario, pool)
    }
}

fn sled_host(node: &Node, recipe: &Recipe, pool: &Pool, salt: u64) -> Box<dyn Host> {
    let mut dice = Dice::new(salt);
    let wiring = wiring(node, &recipe.scenario, dice.next());
    let sled = Sled::new(sled_config(node, dice.wide(), recipe), pool.clone());
    if recipe.shape.served {
        under_net(Served::sled(&wiring, sled), node, &recipe.scenario, pool)
    } else {
        under_net(Direct::new(sled, wiring.salt), node, &recipe.scenario, pool)
    }
}

fn wiring(node: &Node, scenario: &Scenario, salt: u64) -> Wiring {
    let devices = node.disks.iter().map(Disk::bytes).collect();
    Wiring { node: node.id, boot: node.boot, peers: peers(node.id, scenario), devices, salt }
}

fn peers(node: NodeId, scenario: &Scenario) -> Vec<NodeId> {
    let heads = (0..scenario.heads.max(3)).map(head_id);
    let sleds = (0..scenario.sleds).map(sled_id);
    heads.chain(sleds).filter(|peer| *peer != node).collect()
}

fn under_net<H: Host + 'static>(host: H, node: &Node, scenario: &Scenario, pool: &Pool) -> Box<dyn Host> {
    if scenario.net == NetMode::Direct {
        return Box::new(host);
    }
    let config = fabric::Config { datagram_bytes: 9000, paths: NETWORKS, ..fabric::Config::default() };
    let mut fabric = Fabric::new(node.id, node.boot, config, pool.clone());
    peers(node.id, scenario).into_iter().for_each(|peer| fabric.add_peer(peer));
    Box::new(Fabricked::new(host, fabric))
}

/// Reads the number of a partition from the durable image of a sled's device, as a restarted sled would.
fn probe() -> RecordProbe {
    Box::new(|node, device, partition| {
        for disk in &node.disks {
            let image = disk.durable();
            let mut head = vec![0u8; format::PROBE_BYTES];
            image.read(0, &mut head);
            let Verdict::Ours { superblock, .. } = format::judge(&head, disk.bytes(), RACK) else { continue };
            if superblock.device != device {
                continue;
            }
            return Ok(durable_number(image, &superblock, partition));
        }
        Err(format!("no device {device} is readable"))
    })
}

/// The highest number among valid slots: what recovery will hold a reservation against.
fn durable_number(image: &Image, superblock: &Superblock, partition: PartitionId) -> Number {
    let page = page_of(partition, superblock.record_pages);
    let mut newest: Option<RecordPage> = None;
    for slot in 0..2 {
        let mut bytes = vec![0u8; BLOCK];
        image.read(superblock.record_slot(page, slot), &mut bytes);
        let Ok(found) = RecordPage::decode(&bytes, superblock.device, page) else { continue };
        if newest.as_ref().is_none_or(|old| old.sequence < found.sequence) {
            newest = Some(found);
        }
    }
    let records = newest.map(|page| page.records).unwrap_or_default();
    records.iter().find(|record| record.partition == partition).map_or(Number::ZERO, |record| record.number)
}
