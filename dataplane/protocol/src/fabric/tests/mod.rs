//! Tests of the fabric: formats, and machines over a simulated network.

mod codec;
mod hostile;
mod link;
mod networks;
mod sessions;

use super::*;
use crate::wire::ops::*;
use crate::wire::*;
use palisade_dma::{Buf, Pool, PoolConfig};
use smallvec::smallvec;
use std::collections::BTreeMap;
use std::time::Duration;

/// xorshift64*.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

pub(super) fn pool() -> Pool {
    Pool::new(PoolConfig { slots: [2048, 256, 64], huge: false }).expect("maps")
}

/// A buffer whose bytes follow from `seed`.
pub(super) fn filled(pool: &Pool, seed: u64, len: usize) -> Buf {
    let mut dice = Dice::new(seed);
    let mut buf = pool.alloc(len).expect("a slot");
    buf.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.roll().to_le_bytes()[..part.len()]));
    buf.freeze()
}

pub(super) fn stamp() -> Stamp {
    Stamp { partition: PartitionId(7), number: Number { epoch: 1, counter: 9 }, grant: GrantId(0xabc) }
}

/// A message of a chosen size, named by `req`.
pub(super) fn numbered(pool: &Pool, req: u64, len: usize) -> Msg {
    let data = (len > 0).then(|| filled(pool, req, len));
    Msg::ColumnData { req: ReqId(req), status: Status::Ok, data }
}

/// The name of a [`numbered`] message whose contents are as they were sent.
pub(super) fn check_numbered(msg: &Msg) -> u64 {
    let Msg::ColumnData { req, data, .. } = msg else { panic!("not a numbered message: {msg:?}") };
    if let Some(data) = data {
        let mut dice = Dice::new(req.0);
        assert!(data.chunks(8).all(|part| part == &dice.roll().to_le_bytes()[..part.len()]), "{req}");
        assert_eq!(data.as_ptr().addr() % 4096, 0, "payload lies aligned for direct I/O");
    }
    req.0
}

/// How badly a link behaves.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) double: u64,
    pub(super) late: u64,
}

pub(super) const CALM: Weather = Weather { loss: 0, double: 0, late: 0 };

/// What one network adds for datagrams of one node.
#[derive(Clone, Copy, Default)]
pub(super) struct Lane {
    pub(super) cut: bool,
    pub(super) loss: u64,
    pub(super) delay: Duration,
}

/// Fabrics and the datagrams between them.
pub(super) struct Net {
    pub(super) now: Time,
    pub(super) nodes: Vec<Fabric>,
    pub(super) got: Vec<Vec<Envelope>>,
    pub(super) boots: Vec<Vec<(NodeId, BootId)>>,
    pub(super) weather: Weather,
    /// Nobody hears anybody.
    pub(super) cut: bool,
    pub(super) config: Config,
    /// By network, then by sender (nodes 0 and 1).
    pub(super) lanes: [[Lane; 2]; PATHS_MAX],
    /// Bytes given to each network.
    pub(super) carried: [u64; PATHS_MAX],
    /// What the first node was told of its networks.
    pub(super) told: Vec<(PathId, PathState)>,
    dice: Dice,
    on_the_way: BTreeMap<(Time, u64), (NodeId, PathId, Vec<u8>)>,
    sent: u64,
    out: FabricOut,
}

impl Net {
    pub(super) fn new(seed: u64, nodes: u32, config: Config, weather: Weather) -> Self {
        let mut net = Self {
            now: Time(1_000_000),
            nodes: Vec::new(),
            got: (0..nodes).map(|_| Vec::new()).collect(),
            boots: (0..nodes).map(|_| Vec::new()).collect(),
            weather,
            cut: false,
            config,
            lanes: Default::default(),
            carried: Default::default(),
            told: Vec::new(),
            dice: Dice::new(seed),
            on_the_way: BTreeMap::new(),
            sent: 0,
            out: FabricOut::default(),
        };
        net.nodes = (0..nodes).map(|node| net.fabric(node, 100 + u128::from(node), nodes)).collect();
        net
    }

    fn fabric(&self, node: u32, boot: u128, nodes: u32) -> Fabric {
        let mut fabric = Fabric::new(NodeId(node), BootId(boot), self.config, pool());
        (0..nodes).filter(|peer| *peer != node).for_each(|peer| fabric.add_peer(NodeId(peer)));
        fabric
    }

    pub(super) fn restart(&mut self, node: u32, boot: u128) {
        self.nodes[node as usize] = self.fabric(node, boot, self.nodes.len() as u32);
    }

    pub(super) fn send(&mut self, from: u32, to: u32, msg: &Msg) -> Result<(), QueueFull> {
        self.nodes[from as usize].send(self.now, NodeId(to), msg)
    }

    /// Turns everyone, then goes to the next event; false when there is none before `until`.
    pub(super) fn step(&mut self, until: Time) -> bool {
        for node in 0..self.nodes.len() {
            if self.nodes[node].deadline().is_some_and(|at| at <= self.now) {
                let mut out = std::mem::take(&mut self.out);
                self.nodes[node].turn(self.now, &mut out);
                self.collect(node, &mut out);
                self.out = out;
            }
        }
        let arrival = self.on_the_way.first_key_value().map(|(key, _)| key.0);
        let timer = self.nodes.iter().filter_map(Fabric::deadline).min();
        let Some(next) = arrival.into_iter().chain(timer).min().filter(|next| *next <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, path, bytes) = entry.remove();
            let mut out = std::mem::take(&mut self.out);
            self.nodes[to.0 as usize].datagram(self.now, path, &bytes, &mut out);
            self.collect(to.0 as usize, &mut out);
            self.out = out;
        }
        true
    }

    fn collect(&mut self, node: usize, out: &mut FabricOut) {
        self.got[node].append(&mut out.received);
        self.boots[node].append(&mut out.boots);
        let told = out.paths.drain(..).map(|(_, path, state)| (path, state));
        if node == 0 {
            self.told.extend(told)
        } else {
            drop(told)
        }
        for datagram in out.datagrams.drain(..) {
            assert!(datagram.bytes() <= self.config.datagram_bytes);
            let mut bytes = datagram.head.clone();
            datagram.payload.iter().for_each(|part| bytes.extend_from_slice(part));
            let lane = self.lanes[usize::from(datagram.path.0)][node.min(1)];
            self.carried[usize::from(datagram.path.0)] += bytes.len() as u64;
            let copies = 1 + u64::from(self.dice.chance(self.weather.double));
            for _ in 0..copies {
                if self.cut || self.dice.chance(self.weather.loss) {
                    continue;
                }
                if lane.cut || lane.loss > 0 && self.dice.chance(lane.loss) {
                    continue;
                }
                let late = if self.dice.chance(self.weather.late) { self.dice.below(5_000_000) } else { 0 };
                let at =
                    self.now + Duration::from_nanos(50_000 + self.dice.below(50_000) + late) + lane.delay;
                self.sent += 1;
                self.on_the_way.insert((at, self.sent), (datagram.to, datagram.path, bytes.clone()));
            }
            self.nodes[node].recycle(datagram);
        }
    }

    /// Runs for so long.
    pub(super) fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Runs until nothing is open any more; keep-alives may go on.
    pub(super) fn drain(&mut self) {
        let until = self.now + Duration::from_secs(100);
        while !self.nodes.iter().all(Fabric::idle) {
            assert!(self.step(until), "everything arrives in the end");
        }
    }

    /// Runs until nothing is open any more.
    pub(super) fn settle(&mut self) {
        let until = self.now + Duration::from_secs(100);
        while self.step(until) {}
        let rest = self.nodes.iter().all(Fabric::idle) && self.on_the_way.is_empty();
        assert!(rest && self.nodes.iter().all(|node| node.deadline().is_none()), "the fabric comes to rest");
    }
}
