//! One shipping sled with one device, driven a step at a time: every message may come again or late, every
//! device command ends when the checker says, and what a step breaks is judged at once.

use super::medium::{Medium, PAGE, Page};
use super::{Bench, Step};
use crate::explore::Rule;
use palisade_dma::{Pool, PoolConfig};
use palisade_isal::crc32c;
use palisade_protocol::fence::{RecordPage, record, token};
use palisade_protocol::sled::format::{FormatSpec, Superblock, images};
use palisade_protocol::sled::{DeviceSpec, Sled, SledConfig};
use palisade_protocol::wire::{
    BlockCmd, BlockDone, BlockError, BlockOk, BlockOp, BootId, ColumnRef, DeviceId, DeviceIx, ExtentId,
    GrantId, GrantSecret, Key, Msg, NodeId, Number, Out, PartitionId, RackId, ReqId, Stamp, Status, Time,
};
use smallvec::smallvec;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

const DEVICE: DeviceId = DeviceId(0xd1);
const SLED: NodeId = NodeId(50);
const RACK: RackId = RackId(0xacc);
const PARTITION: PartitionId = PartitionId(7);

thread_local! {
    static FORMATTED: OnceCell<Medium> = const { OnceCell::new() };
    static POOL: Pool = Pool::new(PoolConfig { slots: [64, 16, 4], huge: false }).expect("a small pool");
}

/// A device write on its way.
#[derive(Debug, Hash)]
pub(super) struct Pending {
    key: u64,
    at: u64,
    page: Page,
    fua: bool,
    /// Of a column write: its number, the column's generation, and the highest number granted before.
    mark: Option<(u64, u32, u64)>,
}

/// A grant that left the sled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) number: u64,
    secret: GrantSecret,
    boot: u32,
}

/// The world of one run.
pub(super) struct World<'b> {
    bench: &'b Bench,
    sled: Sled,
    medium: Medium,
    layout: Superblock,
    now: Time,
    boots: u32,
    pub(super) pending: Vec<Pending>,
    /// Writes of a process that is gone, when nobody made sure that they ended (P-17).
    pub(super) orphans: Vec<Pending>,
    pub(super) grants: Vec<Grant>,
    /// Highest number ever granted.
    top: u64,
    /// Highest number asked for in this boot.
    asked: u64,
    /// Generation of the column's last owner that was told of it.
    pub(super) generation: u32,
    pub(super) owned: bool,
    acked: BTreeSet<(u32, u32)>,
    pub(super) broken: Option<Rule>,
    /// Two heads wrote and were answered; a crash was survived; a head was refused.
    pub(super) writers: BTreeSet<u64>,
    pub(super) refused: bool,
}

impl<'b> World<'b> {
    /// The world after `trail`.
    pub(super) fn replay(bench: &'b Bench, trail: &[Step]) -> Self {
        let mut world = Self::start(bench);
        for step in trail {
            world.step(*step);
        }
        world
    }

    /// A formatted device, a recovered sled, and the first head granted with a column.
    fn start(bench: &'b Bench) -> Self {
        let spec = FormatSpec {
            rack: RACK,
            device: DEVICE,
            device_bytes: (1 << 20) + 8 * PAGE as u64,
            column_bytes: 8 * PAGE as u64,
            unit_bytes: PAGE as u32,
            record_pages: 1,
        };
        let layout = Superblock::plan(&spec).expect("one column fits");
        assert_eq!(layout.columns, 1, "one column, so that its generations follow each other");
        let medium = FORMATTED.with(|kept| kept.get_or_init(|| formatted(layout)).clone());
        let mut world = Self {
            bench,
            sled: Sled::new(SledConfig::new(SLED, RACK, 0, Vec::new()), POOL.with(Clone::clone)),
            medium,
            layout,
            now: Time(1_000_000),
            boots: 0,
            pending: Vec::new(),
            orphans: Vec::new(),
            grants: Vec::new(),
            top: 0,
            asked: 0,
            generation: 0,
            owned: false,
            acked: BTreeSet::new(),
            broken: None,
            writers: BTreeSet::new(),
            refused: false,
        };
        world.boot();
        let first = world.bench.numbers[0];
        world.step(Step::Reserve { number: first });
        world.settle();
        world.step(Step::Take { number: first, grant: 0 });
        world.settle();
        assert!(world.owned, "the first head has its column");
        // What a broken rule does to the first grant is no run yet: the next one shows it step by step.
        world.broken = None;
        world
    }

    fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.step(Step::Land { at: 0 });
        }
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.asked = 0;
        let spec = DeviceSpec { ix: DeviceIx(0), bytes: self.layout.device_bytes };
        let mut config = SledConfig::new(SLED, RACK, 0xb007 + u128::from(self.boots), vec![spec]);
        config.faults = self.bench.faults;
        // Scrub reads change nothing here and would only multiply the states.
        config.scrub_gap = Duration::from_secs(1 << 30);
        config.scrub_rest = Duration::from_secs(1 << 30);
        self.sled = Sled::new(config, POOL.with(Clone::clone));
        self.turn(None);
    }

    /// Carries out one step.
    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Reserve { number } => {
                self.asked = self.asked.max(number);
                self.tell(number, Msg::Reserve { req: ReqId(number), device: DEVICE, stamp: stamp(number) });
            }
            Step::Take { number, grant } => self.take(number, grant),
            Step::Give { number, grant, generation } => self.give(number, grant, generation),
            Step::Write { number, grant, generation } => self.write(number, grant, generation),
            Step::Land { at } => {
                let done = self.pending.remove(usize::from(at));
                self.land(&done);
                self.end(done.key, Ok(BlockOk::Done));
            }
            Step::Fail { at } => {
                let done = self.pending.remove(usize::from(at));
                self.end(done.key, Err(BlockError::Io));
            }
            Step::LandLate { at } => {
                let late = self.orphans.remove(usize::from(at));
                self.land(&late);
            }
            Step::Crash { landed, torn, rot } => self.crash(landed, torn, rot),
            Step::Wait => {
                self.now = self.now + Duration::from_secs(1);
                self.turn(None);
            }
        }
    }

    fn take(&mut self, number: u64, grant: u8) {
        let secret = self.grants[usize::from(grant)].secret;
        let extent = u64::from(self.generation) + 1;
        let order = Msg::ColumnReserve {
            req: ReqId(1000 + extent),
            device: DEVICE,
            stamp: stamp(number),
            token: token::derive(secret, DEVICE, token::WHOLE_DEVICE, 0),
            extent: ExtentId(extent),
            position: 0,
            prefer: None,
        };
        self.tell(number, order);
    }

    fn give(&mut self, number: u64, grant: u8, generation: u32) {
        let token = self.token(grant, generation);
        let req = ReqId(2000 + u64::from(generation));
        let column = column(generation);
        self.tell(number, Msg::ColumnRelease { req, stamp: stamp(number), column, token });
    }

    /// Every head writes a unit of its own with its own number in it.
    fn write(&mut self, number: u64, grant: u8, generation: u32) {
        let mut buf = POOL.with(|pool| pool.alloc(PAGE)).expect("the pool is large enough");
        buf.fill(number as u8);
        let unit = buf.freeze();
        let order = Msg::ColumnWrite {
            req: ReqId(3000 + u64::from(grant) * 10 + u64::from(generation)),
            stamp: stamp(number),
            column: column(generation),
            token: self.token(grant, generation),
            extent: ExtentId(u64::from(generation)),
            stripe: (number % 8) as u32,
            crcs: smallvec![crc32c(&unit)],
            units: smallvec![unit],
        };
        let mut out = Out::default();
        let (node, boot) = holder(number);
        self.sled.handle_msg(self.now, node, boot, order, &mut out);
        let mark = Some((number, generation, self.top));
        self.collect(out, mark, Some(grant));
        self.turn(Some(grant));
    }

    fn token(&self, grant: u8, generation: u32) -> palisade_protocol::wire::Token {
        token::derive(self.grants[usize::from(grant)].secret, DEVICE, 0, generation)
    }

    fn tell(&mut self, number: u64, msg: Msg) {
        let (node, boot) = holder(number);
        let mut out = Out::default();
        self.sled.handle_msg(self.now, node, boot, msg, &mut out);
        self.collect(out, None, None);
        self.turn(None);
    }

    fn end(&mut self, key: u64, result: Result<BlockOk, BlockError>) {
        let mut out = Out::default();
        self.sled.handle_block(self.now, BlockDone { key: Key(key), result }, &mut out);
        self.collect(out, None, None);
        self.turn(None);
    }

    /// Turns until the sled rests; reads end at once, writes wait for their step.
    fn turn(&mut self, grant: Option<u8>) {
        loop {
            let mut out = Out::default();
            self.sled.turn(self.now, &mut out);
            let reads = out.block.iter().any(|cmd| matches!(cmd.op, BlockOp::Read { .. }));
            self.collect(out, None, grant);
            if !reads {
                return;
            }
        }
    }

    /// Takes what the sled wants done. A column write's data goes to the device within the message's call,
    /// so `mark` names it; `grant` is what the writer showed.
    fn collect(&mut self, out: Out, mark: Option<(u64, u32, u64)>, grant: Option<u8>) {
        for (to, msg) in out.net {
            self.answered(to, &msg, grant);
        }
        for BlockCmd { key, op, .. } in out.block {
            match op {
                BlockOp::Read { offset, mut buf } => {
                    self.medium.read(offset, &mut buf);
                    self.end(key.0, Ok(BlockOk::Read(buf)));
                }
                BlockOp::Write { offset, bufs, fua } => {
                    let mark = mark.filter(|_| offset >= self.layout.data_at);
                    let page = Page::new(bufs[0].to_vec());
                    self.pending.push(Pending { key: key.0, at: offset, page, fua, mark });
                }
                BlockOp::Flush => self.end(key.0, Ok(BlockOk::Done)),
            }
        }
    }

    fn land(&mut self, write: &Pending) {
        self.medium.write(write.at, write.page.clone(), write.fua);
        let Some((number, generation, top_then)) = write.mark else { return };
        if number < self.top {
            let before = top_then <= number;
            self.breaks(if before { Rule::FenceDrains } else { Rule::OneWriter });
        }
        if generation < self.generation {
            self.breaks(Rule::OneWriter);
        }
    }

    fn crash(&mut self, landed: u8, torn: Option<u8>, rot: Option<u8>) {
        for (at, write) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if landed & (1 << at) != 0 {
                self.land(&write);
            } else if torn == Some(at as u8) {
                self.medium.spoil(write.at);
            } else if self.bench.orphans {
                self.orphans.push(write);
            }
        }
        self.medium.lose_cache();
        if let Some(slot) = rot {
            self.medium.spoil(self.layout.record_slot(0, slot));
        }
        self.boot();
        self.read_back();
    }

    /// After a restart every acknowledged unit is still there.
    fn read_back(&mut self) {
        let owned = self.owned;
        for (unit, generation) in self.acked.clone() {
            if !owned || generation != self.generation {
                continue;
            }
            let req = ReqId(4000 + u64::from(unit));
            let column = column(generation);
            let ask = Msg::ColumnRead { req, partition: PARTITION, column, block: unit, count: 1 };
            let (node, boot) = holder(0);
            let mut out = Out::default();
            self.sled.handle_msg(self.now, node, boot, ask, &mut out);
            self.collect(out, None, None);
        }
    }

    fn answered(&mut self, to: NodeId, msg: &Msg, grant: Option<u8>) {
        let number = u64::from(to.0);
        match msg {
            Msg::Reserved { status: Status::Ok, secret, .. } => self.granted(number, *secret),
            Msg::Reserved { status, .. } => self.judge_refusal(number, *status, None),
            Msg::ColumnReserved { status: Status::Ok, column, .. } => {
                (self.generation, self.owned) = (column.generation, true);
            }
            Msg::ColumnReleased { status: Status::Ok, .. } => self.owned = false,
            Msg::ColumnWritten { status: Status::Ok, .. } => {
                let unit = (number % 8) as u32;
                let at = self.layout.column_data(0) + u64::from(unit) * PAGE as u64;
                if self.medium.durable(at).is_none_or(|bytes| u64::from(bytes[0]) != number) {
                    self.breaks(Rule::AckedIsDurable);
                }
                self.acked.insert((unit, self.generation));
                self.writers.insert(number);
            }
            Msg::ColumnWritten { status, .. } => self.judge_refusal(number, *status, grant),
            Msg::ColumnData { data: None, .. } => self.breaks(Rule::AckedIsDurable),
            _ => {}
        }
    }

    fn granted(&mut self, number: u64, secret: GrantSecret) {
        if number < self.top {
            self.breaks(Rule::NumbersRise);
        }
        self.top = self.top.max(number);
        if self.recorded() < number {
            self.breaks(Rule::FenceIsDurable);
        }
        let grant = Grant { number, secret, boot: self.boots };
        if !self.grants.contains(&grant) {
            self.grants.push(grant);
        }
    }

    /// The number that a restart would find.
    fn recorded(&self) -> u64 {
        let slot = |slot: u8| {
            let bytes = self.medium.durable(self.layout.record_slot(0, slot)).unwrap_or_default();
            RecordPage::decode(bytes, DEVICE, 0)
        };
        let newest = match record::judge([slot(0), slot(1)], |page| page.sequence) {
            record::Slots::Good { page, .. } | record::Slots::Half { page, .. } => page,
            record::Slots::Lost => return 0,
        };
        newest.records.first().map_or(0, |record| record.number.counter)
    }

    /// P-22: only a higher number demotes, and a token is good until then.
    fn judge_refusal(&mut self, number: u64, status: Status, grant: Option<u8>) {
        self.refused = true;
        let lower = match status {
            Status::StaleNumber { number: there, .. } | Status::Fenced { number: there, .. } => {
                there.counter < number
            }
            Status::NoToken => grant.is_some_and(|grant| {
                self.grants[usize::from(grant)].boot == self.boots && self.asked <= number
            }),
            _ => false,
        };
        if lower {
            self.breaks(Rule::NoFalseFence);
        }
    }

    fn breaks(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }

    /// Everything that what comes next depends on, as one number.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        without_counters(&format!("{:?}", self.sled)).hash(&mut hasher);
        self.medium.hash(&mut hasher);
        (&self.pending, &self.orphans, &self.acked).hash(&mut hasher);
        for grant in &self.grants {
            (grant.number, grant.boot, grant.secret.0).hash(&mut hasher);
        }
        (self.top, self.asked, self.generation, self.owned, self.now, self.boots).hash(&mut hasher);
        (self.broken, &self.writers, self.refused).hash(&mut hasher);
        hasher.finish()
    }
}

/// The device as it is formatted.
fn formatted(layout: Superblock) -> Medium {
    let mut medium = Medium::default();
    for (at, bytes) in images(layout) {
        medium.write(at, Page::new(bytes), true);
    }
    medium
}

/// The sled's state without its statistics, on which nothing depends.
fn without_counters(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some(at) = rest.find("Counters {") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find("} }").map_or(rest.len(), |end| end + 3);
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

fn stamp(number: u64) -> Stamp {
    Stamp { partition: PARTITION, number: Number { epoch: 1, counter: number }, grant: GrantId(number * 100) }
}

/// The head that holds a number, named by it.
fn holder(number: u64) -> (NodeId, BootId) {
    (NodeId(number as u32), BootId(u128::from(number) << 8))
}

fn column(generation: u32) -> ColumnRef {
    ColumnRef { sled: SLED, device: DEVICE, column: 0, generation }
}
