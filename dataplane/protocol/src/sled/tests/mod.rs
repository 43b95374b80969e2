//! Tests of the sled machine on devices in memory, with a volatile cache, held commands and crashes.
//!
//! The [`Rig`] plays reactor, block port and network for one sled. Commands are carried out in order unless
//! `hold` keeps them back; writes without FUA stay in a cache that [`Rig::crash`] loses.

mod canaries;
mod durability;
mod ef15;
mod ef16;
mod many;
mod media;
mod reads;
mod verbs;

use super::format::{FormatSpec, Superblock, images};
use super::*;
use crate::fence::token;
use crate::wire::{ColumnRef, ExtentId, GrantId, GrantSecret, Number, PartitionId, RackId, Stamp, Token};
use palisade_dma::PoolConfig;
use palisade_isal::crc32c;
use smallvec::SmallVec;

pub(super) const UNIT: usize = 4096;
pub(super) const UNITS: u32 = 16;
pub(super) const RACK: RackId = RackId(0xacc);

/// A device in memory: what is durable, and what only its cache holds.
#[derive(Clone)]
pub(super) struct Medium {
    pub(super) durable: Vec<u8>,
    pub(super) cache: Vec<(usize, Vec<u8>)>,
}

impl Medium {
    /// A formatted device.
    pub(super) fn formatted(spec: &FormatSpec) -> Self {
        let mut durable = vec![0; spec.device_bytes as usize];
        for (at, bytes) in images(Superblock::plan(spec).expect("spec fits")) {
            durable[at as usize..at as usize + 4096].copy_from_slice(&bytes);
        }
        Self { durable, cache: Vec::new() }
    }

    fn write(&mut self, at: usize, bytes: &[u8], fua: bool) {
        if fua {
            self.durable[at..at + bytes.len()].copy_from_slice(bytes);
        } else {
            self.cache.push((at, bytes.to_vec()));
        }
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let end = at + into.len();
        into.copy_from_slice(&self.durable[at..end]);
        for (from, bytes) in &self.cache {
            for (byte, place) in bytes.iter().zip(*from..) {
                if (at..end).contains(&place) {
                    into[place - at] = *byte;
                }
            }
        }
    }
}

pub(super) fn spec(device: u128) -> FormatSpec {
    FormatSpec {
        rack: RACK,
        device: DeviceId(device),
        device_bytes: 3 << 20,
        column_bytes: u64::from(UNITS) * UNIT as u64,
        unit_bytes: UNIT as u32,
        record_pages: 2,
    }
}

type Hold = Box<dyn Fn(&BlockCmd) -> bool>;
type Fail = Box<dyn Fn(&BlockCmd) -> Option<BlockError>>;

/// Reactor, block port and network of one sled.
pub(super) struct Rig {
    pub(super) sled: Sled,
    pub(super) media: Vec<Medium>,
    pub(super) layout: Superblock,
    pub(super) now: Time,
    pub(super) pool: Pool,
    pub(super) sent: Vec<(NodeId, Msg)>,
    pub(super) events: Vec<Event>,
    pub(super) held: Vec<BlockCmd>,
    pub(super) hold: Hold,
    pub(super) fail: Fail,
    /// Commands carried out, newest last: (is a write, offset, bytes, fua).
    pub(super) done: Vec<(bool, u64, usize, bool)>,
    faults: Faults,
    boots: u128,
    config: fn(&mut SledConfig),
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Faults::default())
    }

    pub(super) fn with(faults: Faults) -> Self {
        let mut rig = Self::unstarted(vec![Medium::formatted(&spec(0xd1))], faults, |_| {});
        rig.pump();
        assert!(rig.sled.recovered());
        rig
    }

    pub(super) fn unstarted(media: Vec<Medium>, faults: Faults, config: fn(&mut SledConfig)) -> Self {
        let pool = Pool::new(PoolConfig { slots: [512, 64, 16], huge: false }).expect("pool");
        let mut rig = Self {
            sled: Sled::new(SledConfig::new(NodeId(50), RACK, 0, Vec::new()), pool.clone()),
            media,
            layout: Superblock::plan(&spec(0xd1)).expect("spec fits"),
            now: Time(1_000_000),
            pool,
            sent: Vec::new(),
            events: Vec::new(),
            held: Vec::new(),
            hold: Box::new(|_| false),
            fail: Box::new(|_| None),
            done: Vec::new(),
            faults,
            boots: 0,
            config,
        };
        rig.start();
        rig
    }

    fn start(&mut self) {
        self.boots += 1;
        let devices = self
            .media
            .iter()
            .enumerate()
            .map(|(ix, medium)| DeviceSpec { ix: DeviceIx(ix as u16), bytes: medium.durable.len() as u64 });
        let mut config = SledConfig::new(NodeId(50), RACK, 0xb007 + self.boots, devices.collect());
        config.faults = self.faults;
        (self.config)(&mut config);
        self.sled = Sled::new(config, self.pool.clone());
    }

    /// Power is lost: caches and commands in flight are gone; a new sled starts on what is durable.
    pub(super) fn crash(&mut self) {
        for medium in &mut self.media {
            medium.cache.clear();
        }
        self.restart();
    }

    /// The sled's process ends and starts again, recovered.
    pub(super) fn restart(&mut self) {
        self.held.clear();
        self.hold = Box::new(|_| false);
        self.fail = Box::new(|_| None);
        self.start();
        self.pump();
    }

    /// Turns until nothing moves but what is held.
    pub(super) fn pump(&mut self) {
        for _ in 0..10_000 {
            let mut out = Out::default();
            self.sled.turn(self.now, &mut out);
            let queue = self.collect(out);
            if queue.is_empty() {
                return;
            }
            for cmd in queue {
                self.take(cmd);
            }
        }
        panic!("the sled never comes to rest");
    }

    fn collect(&mut self, out: Out) -> Vec<BlockCmd> {
        self.sent.extend(out.net);
        self.events.extend(out.events);
        out.block
    }

    fn carry_out(&mut self, cmd: BlockCmd) {
        let failed = (self.fail)(&cmd);
        let medium = &mut self.media[usize::from(cmd.device.0)];
        let result = match (failed, cmd.op) {
            (Some(error), _) => Err(error),
            (None, BlockOp::Read { offset, mut buf }) => {
                assert!(offset as usize + buf.len() <= medium.durable.len(), "reads stay inside");
                medium.read(offset as usize, &mut buf);
                self.done.push((false, offset, buf.len(), false));
                Ok(BlockOk::Read(buf))
            }
            (None, BlockOp::Write { offset, bufs, fua }) => {
                let mut at = offset as usize;
                for buf in &bufs {
                    assert!((buf.as_ptr() as usize).is_multiple_of(4096), "buffers are aligned");
                    assert!(buf.len().is_multiple_of(4096), "whole blocks");
                    medium.write(at, buf, fua);
                    at += buf.len();
                }
                self.done.push((true, offset, at - offset as usize, fua));
                Ok(BlockOk::Done)
            }
            (None, BlockOp::Flush) => {
                for (at, bytes) in std::mem::take(&mut medium.cache) {
                    medium.durable[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Ok(BlockOk::Done)
            }
        };
        let mut out = Out::default();
        self.sled.handle_block(self.now, BlockDone { key: cmd.key, result }, &mut out);
        for cmd in self.collect(out) {
            self.take(cmd);
        }
    }

    /// Lets everything that was held go on, oldest first.
    pub(super) fn let_go(&mut self) {
        self.hold = Box::new(|_| false);
        for cmd in std::mem::take(&mut self.held) {
            self.carry_out(cmd);
        }
        self.pump();
    }

    /// Hands a message over without letting the turn end.
    pub(super) fn deliver(&mut self, head: &Head, msg: Msg) {
        let mut out = Out::default();
        self.sled.handle_msg(self.now, head.node, head.boot, msg, &mut out);
        for cmd in self.collect(out) {
            self.take(cmd);
        }
    }

    fn take(&mut self, cmd: BlockCmd) {
        if (self.hold)(&cmd) {
            self.held.push(cmd);
        } else {
            self.carry_out(cmd);
        }
    }

    /// Hands a message over, runs on, and gives the answers since.
    pub(super) fn ask(&mut self, head: &Head, msg: Msg) -> Vec<Msg> {
        let before = self.sent.len();
        self.deliver(head, msg);
        self.pump();
        self.sent[before..].iter().map(|(_, msg)| msg.clone()).collect()
    }

    pub(super) fn one(&mut self, head: &Head, msg: Msg) -> Msg {
        let mut answers = self.ask(head, msg);
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        answers.remove(0)
    }

    /// The status of the one answer.
    pub(super) fn status(&mut self, head: &Head, msg: Msg) -> Status {
        status_of(&self.one(head, msg))
    }

    /// Reserves the partition; a granted head keeps the secret.
    pub(super) fn reserve(&mut self, head: &mut Head) -> Status {
        let msg = head.reserve();
        let answer = self.one(head, msg);
        head.keep(&answer);
        status_of(&answer)
    }

    /// Reserves a column for an extent.
    pub(super) fn column(&mut self, head: &mut Head, extent: u64, position: u8) -> (Status, ColumnRef) {
        let msg = head.column_reserve(extent, position);
        match self.one(head, msg) {
            Msg::ColumnReserved { status, column, .. } => (status, column),
            other => panic!("answered {other:?}"),
        }
    }

    pub(super) fn write(
        &mut self,
        head: &mut Head,
        column: ColumnRef,
        extent: u64,
        stripe: u32,
        fill: u8,
    ) -> Status {
        let msg = head.write(&self.pool, column, extent, stripe, &[fill]);
        self.status(head, msg)
    }

    pub(super) fn read(
        &mut self,
        head: &mut Head,
        column: ColumnRef,
        block: u32,
        count: u32,
    ) -> (Status, Vec<u8>) {
        let msg = head.read(column, block, count);
        match self.one(head, msg) {
            Msg::ColumnData { status, data, .. } => {
                assert_eq!(status.is_ok(), data.is_some(), "bytes come with Ok and only then");
                (status, data.map(|data| data.to_vec()).unwrap_or_default())
            }
            other => panic!("answered {other:?}"),
        }
    }

    /// A granted head with one column of extent 1.
    pub(super) fn granted(&mut self, number: u64) -> (Head, ColumnRef) {
        let mut head = Head::new(1, number);
        assert_eq!(self.reserve(&mut head), Status::Ok);
        let (status, column) = self.column(&mut head, 1, 0);
        assert_eq!(status, Status::Ok);
        (head, column)
    }

    pub(super) fn counters(&self) -> Counters {
        self.sled.status().devices[0].counters
    }

    pub(super) fn state(&self) -> DeviceState {
        self.sled.status().devices[0].state.clone()
    }

    /// The data region as it would be read now.
    pub(super) fn data(&self) -> Vec<u8> {
        let at = self.layout.data_at as usize;
        let mut bytes = vec![0; self.layout.end() as usize - at];
        self.media[0].read(at, &mut bytes);
        bytes
    }

    /// Predicate: writes to the data region.
    pub(super) fn data_writes(&self) -> Hold {
        let at = self.layout.data_at;
        Box::new(move |cmd| matches!(cmd.op, BlockOp::Write { offset, .. } if offset >= at))
    }

    /// Predicate: writes to column pages.
    pub(super) fn table_writes(&self) -> Hold {
        let (from, to) = (self.layout.columns_at, self.layout.data_at);
        Box::new(move |cmd| matches!(cmd.op, BlockOp::Write { offset, .. } if (from..to).contains(&offset)))
    }

    /// Predicate: writes to partition record pages.
    pub(super) fn record_writes(&self) -> Hold {
        let to = self.layout.columns_at;
        Box::new(move |cmd| matches!(cmd.op, BlockOp::Write { offset, .. } if offset < to))
    }
}

pub(super) fn status_of(msg: &Msg) -> Status {
    match msg {
        Msg::Reserved { status, .. }
        | Msg::ColumnReserved { status, .. }
        | Msg::ColumnWritten { status, .. }
        | Msg::ColumnData { status, .. }
        | Msg::ColumnReleased { status, .. }
        | Msg::ColumnListed { status, .. } => *status,
        other => panic!("no answer of a sled: {other:?}"),
    }
}

/// A head, as the sled sees it.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) stamp: Stamp,
    pub(super) device: DeviceId,
    pub(super) secret: GrantSecret,
    pub(super) req: u64,
}

impl Head {
    /// A head of partition 7 whose boot and grant follow from node and number.
    pub(super) fn new(node: u32, number: u64) -> Self {
        let stamp = Stamp {
            partition: PartitionId(7),
            number: Number { epoch: 1, counter: number },
            grant: GrantId(number * 100),
        };
        let boot = BootId((u128::from(number) << 8) + u128::from(node));
        Self { node: NodeId(node), boot, stamp, device: DeviceId(0xd1), secret: GrantSecret(0), req: 0 }
    }

    pub(super) fn of(mut self, partition: u64) -> Self {
        self.stamp.partition = PartitionId(partition);
        self
    }

    pub(super) fn keep(&mut self, answer: &Msg) {
        if let Msg::Reserved { status: Status::Ok, secret, .. } = answer {
            self.secret = *secret;
        }
    }

    pub(super) fn next(&mut self) -> ReqId {
        self.req += 1;
        ReqId(self.req)
    }

    pub(super) fn token(&self, column: ColumnRef) -> Token {
        token::derive(self.secret, column.device, column.column, column.generation)
    }

    pub(super) fn reserve(&mut self) -> Msg {
        Msg::Reserve { req: self.next(), device: self.device, stamp: self.stamp }
    }

    pub(super) fn column_reserve(&mut self, extent: u64, position: u8) -> Msg {
        let token = token::derive(self.secret, self.device, token::WHOLE_DEVICE, 0);
        Msg::ColumnReserve {
            req: self.next(),
            device: self.device,
            stamp: self.stamp,
            token,
            extent: ExtentId(extent),
            position,
            prefer: None,
        }
    }

    /// A write of one unit a fill byte.
    pub(super) fn write(
        &mut self,
        pool: &Pool,
        column: ColumnRef,
        extent: u64,
        stripe: u32,
        fills: &[u8],
    ) -> Msg {
        let units: SmallVec<[palisade_dma::Buf; 4]> = fills
            .iter()
            .map(|fill| {
                let mut buf = pool.alloc(UNIT).expect("pool");
                buf.fill(*fill);
                buf.freeze()
            })
            .collect();
        self.write_units(column, extent, stripe, units)
    }

    /// A write of these units.
    pub(super) fn write_units(
        &mut self,
        column: ColumnRef,
        extent: u64,
        stripe: u32,
        units: SmallVec<[palisade_dma::Buf; 4]>,
    ) -> Msg {
        let crcs = units.iter().map(|unit| crc32c(unit)).collect();
        let (req, token) = (self.next(), self.token(column));
        Msg::ColumnWrite {
            req,
            stamp: self.stamp,
            column,
            token,
            extent: ExtentId(extent),
            stripe,
            units,
            crcs,
        }
    }

    pub(super) fn read(&mut self, column: ColumnRef, block: u32, count: u32) -> Msg {
        Msg::ColumnRead { req: self.next(), partition: self.stamp.partition, column, block, count }
    }

    pub(super) fn release(&mut self, column: ColumnRef) -> Msg {
        let (req, token) = (self.next(), self.token(column));
        Msg::ColumnRelease { req, stamp: self.stamp, column, token }
    }
}

pub(super) fn fenced(number: u64) -> Status {
    Status::Fenced {
        partition: PartitionId(7),
        number: Number { epoch: 1, counter: number },
        grant: GrantId(number * 100),
    }
}

pub(super) fn stale(number: u64) -> Status {
    Status::StaleNumber { number: Number { epoch: 1, counter: number }, grant: GrantId(number * 100) }
}
