//! Rank 2: the sled. It owns its devices wholly, keeps the records of who may write, and carries out what
//! heads ask: reserve, write, read, release, list (EF-03, EF-12, EF-15, EF-16, EF-18).
//!
//! Messages and completions go in, messages and block commands come out; nothing here waits. One sled
//! serves any number of devices, each recovered on its own and moved freely between sleds, since all state
//! that counts lies on the device. What is volatile (grants, tokens) is meant to be lost at a restart.
//!
//! Order of durability: record before grant (`FenceIsDurable`), drain before record (`FenceDrains`), data
//! before its table entry before the answer (`AckedIsDurable`, P-09). One file a verb; the state they
//! share is in `device`. Not here: what to write where (the head), exclusive open (P-17, the driver).

pub mod column;
pub mod config;
pub mod faults;
pub mod format;
pub mod inspect;
pub mod status;

mod admit;
mod boot;
mod column_reserve;
mod device;
mod full;
mod list;
mod pages;
mod read;
mod release;
mod reserve;
mod scrub;
mod slab;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub use config::{DeviceSpec, SledConfig};
pub use faults::Faults;
pub use status::{Counters, DeviceState, DeviceStatus, Refusals, SledStatus};

use crate::wire::codec::Writer;
use crate::wire::{
    BlockCmd, BlockDone, BlockError, BlockOk, BlockOp, BootId, DeviceId, DeviceIx, Event, Key, Msg, NodeId,
    Out, PartitionId, ReqId, Stamp, Status, Time,
};
use device::Device;
use palisade_dma::Pool;
use slab::Slab;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the sled waits before it asks the pool again, when that was empty.
const STARVED: Duration = Duration::from_millis(1);

/// Who asked, to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    node: NodeId,
    boot: BootId,
    req: ReqId,
}

/// A block command in flight; `dev` is the place of its device in the sled's list.
#[derive(Debug)]
enum Io {
    /// A chunk read of recovery.
    Boot { dev: u16 },
    /// A copy of the superblock that was bad.
    Superblock { dev: u16 },
    /// A partition record page.
    Record { dev: u16, page: u32 },
    /// A column page.
    Table { dev: u16, column: u32, page: u32 },
    /// Stripe units of a column write.
    Data { dev: u16, job: u64 },
    /// A head's read.
    Read { dev: u16, read: read::Reading },
    /// A scrub read.
    Scrub { dev: u16, scrub: scrub::Scrubbing },
    /// A try whether there is room again.
    Room { dev: u16 },
}

/// What all devices of a sled share.
#[derive(Debug)]
struct Ctx {
    config: SledConfig,
    pool: Pool,
    ios: Slab<Io>,
    /// Counts grants of this boot, so that every grant has a secret of its own.
    grants: u64,
    scratch: Writer,
    /// The pool was empty this turn; try again soon.
    starved: bool,
    /// The message in hand came from within the process.
    near: bool,
    now: Time,
}

impl Ctx {
    fn submit(&mut self, device: DeviceIx, io: Io, op: BlockOp, out: &mut Out) {
        let key = Key(self.ios.insert(io));
        out.block.push(BlockCmd { device, key, op });
    }
}

/// The sled machine.
#[derive(Debug)]
pub struct Sled {
    ctx: Ctx,
    devices: Vec<Device>,
    misaddressed: u64,
}

impl Sled {
    /// A sled whose devices have not been read yet; recovery starts with the first [`Sled::turn`].
    pub fn new(config: SledConfig, pool: Pool) -> Self {
        assert!(config.devices.len() <= usize::from(u16::MAX), "a sled has at most 65535 devices");
        let devices =
            config.devices.iter().enumerate().map(|(place, spec)| Device::new(place as u16, *spec)).collect();
        let ctx = Ctx {
            config,
            pool,
            ios: Slab::new(),
            grants: 0,
            scratch: Writer::new(),
            starved: false,
            near: false,
            now: Time::ZERO,
        };
        Self { ctx, devices, misaddressed: 0 }
    }

    /// Takes a message. Doubled, late and reordered ones are harmless (EF-04).
    pub fn handle_msg(&mut self, now: Time, from: NodeId, from_boot: BootId, msg: Msg, out: &mut Out) {
        self.ctx.now = now;
        let asker = |req| Asker { node: from, boot: from_boot, req };
        match msg {
            Msg::Reserve { req, device, stamp } => match self.find(device) {
                Some((dev, ctx)) => dev.reserve(ctx, asker(req), stamp, out),
                None => reserve::refuse_unknown(device, asker(req), stamp, self.unknown(), out),
            },
            Msg::ColumnReserve { req, device, stamp, token, extent, position, prefer } => {
                let wish = column_reserve::Wish { stamp, token, extent, position, prefer };
                match self.find(device) {
                    Some((dev, ctx)) => dev.column_reserve(ctx, asker(req), wish, out),
                    None => column_reserve::answer(asker(req), self.unknown(), None, out),
                }
            }
            Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs } => {
                let order = write::Order { stamp, column, token, extent, stripe, units, crcs };
                match self.find(column.device) {
                    Some((dev, ctx)) => dev.column_write(ctx, asker(req), order, out),
                    None => write::answer(asker(req), self.unknown(), out),
                }
            }
            Msg::ColumnRead { req, partition, column, block, count } => {
                let want = read::Want { partition, column, block, count };
                match self.find(column.device) {
                    Some((dev, ctx)) => dev.column_read(ctx, asker(req), want, out),
                    None => read::answer(asker(req), self.unknown(), None, out),
                }
            }
            Msg::ColumnRelease { req, stamp, column, token } => match self.find(column.device) {
                Some((dev, ctx)) => dev.column_release(ctx, asker(req), stamp, column, token, out),
                None => release::answer(asker(req), self.unknown(), out),
            },
            Msg::ColumnList { req, device, partition, from } => match self.find(device) {
                Some((dev, _)) => dev.column_list(asker(req), partition, from, out),
                None => list::answer(asker(req), self.unknown(), Vec::new(), None, out),
            },
            // The words of heads among themselves and answers of other sleds: nothing to a sled.
            _ => self.misaddressed += 1,
        }
    }

    /// As [`Sled::handle_msg`], for a message that was handed over within the process
    /// ([`crate::wire::Envelope::near`]): the checksums of its units stand for this very memory, and are not
    /// compared with it once more.
    pub fn handle_near(&mut self, now: Time, from: NodeId, from_boot: BootId, msg: Msg, out: &mut Out) {
        self.ctx.near = true;
        self.handle_msg(now, from, from_boot, msg, out);
        self.ctx.near = false;
    }

    /// Takes a completion of the block port.
    pub fn handle_block(&mut self, now: Time, done: BlockDone, out: &mut Out) {
        self.ctx.now = now;
        let Some(io) = self.ctx.ios.remove(done.key.0) else {
            return;
        };
        let (Io::Boot { dev }
        | Io::Superblock { dev }
        | Io::Record { dev, .. }
        | Io::Table { dev, .. }
        | Io::Data { dev, .. }
        | Io::Read { dev, .. }
        | Io::Scrub { dev, .. }
        | Io::Room { dev }) = io;
        let device = &mut self.devices[usize::from(dev)];
        let ctx = &mut self.ctx;
        match &done.result {
            Err(BlockError::NoSpace) => {
                let job = if let Io::Data { job, .. } = io { Some(job) } else { None };
                device.no_room(ctx, job, out);
            }
            Err(error) => device.note_error(*error, out),
            Ok(_) => {}
        }
        match io {
            Io::Boot { .. } => device.boot_read(ctx, filled(done.result), out),
            Io::Superblock { .. } => device.superblock_written(done.result.is_ok(), out),
            Io::Record { page, .. } => device.record_written(ctx, page, done.result.is_ok(), out),
            Io::Table { column, page, .. } => {
                device.table_written(ctx, column, page, done.result.is_ok(), out);
            }
            Io::Data { job, .. } => device.data_written(ctx, job, done.result.is_ok(), out),
            Io::Read { read, .. } => device.read_done(ctx, read, filled(done.result), out),
            Io::Scrub { scrub, .. } => device.scrub_done(ctx, scrub, filled(done.result), out),
            Io::Room { .. } => device.room_tried(ctx, done.result.map(|_| ()), out),
        }
    }

    /// Ends a turn of the reactor: what the turn's messages and completions made ready is written together.
    pub fn turn(&mut self, now: Time, out: &mut Out) {
        self.ctx.now = now;
        self.ctx.starved = false;
        for device in &mut self.devices {
            device.boot_turn(&mut self.ctx, out);
            device.claims_turn(&mut self.ctx, out);
            device.pages_turn(&mut self.ctx, out);
            device.scrub_turn(&mut self.ctx, out);
            device.room_turn(&mut self.ctx, out);
        }
    }

    /// When `turn` must run again though nothing came in.
    pub fn deadline(&self) -> Option<Time> {
        let starved = self.ctx.starved.then(|| self.ctx.now + STARVED);
        self.devices.iter().flat_map(|device| device.deadlines(&self.ctx)).flatten().chain(starved).min()
    }

    /// Whether nothing is in flight or waiting. Scrub pauses count as idle.
    pub fn idle(&self) -> bool {
        self.ctx.ios.len() == 0 && self.devices.iter().all(Device::idle)
    }

    /// Whether every device has been recovered or refused.
    pub fn recovered(&self) -> bool {
        self.devices.iter().all(|device| device.state != DeviceState::Recovering)
    }

    /// Counters and device states.
    pub fn status(&self) -> SledStatus {
        let devices = self.devices.iter().map(Device::status).collect();
        SledStatus { devices, misaddressed: self.misaddressed }
    }

    /// The highest pair of each partition that a device has on its medium; none before all were read (P-04).
    pub fn records(&self) -> Option<Vec<Stamp>> {
        let mut newest: BTreeMap<PartitionId, Stamp> = BTreeMap::new();
        for record in self.devices.iter().flat_map(|device| &device.parts).filter_map(|part| part.record) {
            let stamp = Stamp { partition: record.partition, number: record.number, grant: record.grant };
            let known = newest.entry(record.partition).or_insert(stamp);
            if known.number < stamp.number {
                *known = stamp;
            }
        }
        self.recovered().then(|| newest.into_values().collect())
    }

    /// The answer for a device that is not here, as far as is known yet.
    fn unknown(&self) -> Status {
        let unread = |device: &Device| device.id.is_none() && device.state == DeviceState::Recovering;
        if self.devices.iter().any(unread) { Status::Retry } else { Status::BadRequest }
    }

    /// The device of that identity, wherever it is plugged in (EF-18).
    fn find(&mut self, id: DeviceId) -> Option<(&mut Device, &mut Ctx)> {
        let found = self.devices.iter_mut().find(|device| device.id == Some(id));
        if found.is_none() {
            self.misaddressed += 1;
        }
        found.map(|device| (device, &mut self.ctx))
    }
}

/// The buffer of a read that went well.
fn filled(result: Result<BlockOk, BlockError>) -> Result<palisade_dma::BufMut, BlockError> {
    match result? {
        BlockOk::Read(buf) => Ok(buf),
        BlockOk::Done => Err(BlockError::Io),
    }
}

/// Reports bytes that did not match their checksum.
fn corrupt(place: &'static str, what: String, out: &mut Out) {
    out.events.push(Event::Corrupt { place, what });
}
