//! Rogue heads: scripted stand-ins that put a sled's fence under pressure that the real heads, whose roles
//! do not move yet, rarely give. Several rogues claim one partition in turn under rising numbers, while
//! superseded ones go on writing, reading and releasing under what they once held, with doubled and
//! late messages, crashes of sleds and power cuts in between. What a stripe unit holds follows from its
//! place, so every read can be judged; the fence checks of the world judge every write.

use crate::dice::Dice;
use crate::host::{Census, Counts, Effect, Host, Input};
use palisade_dma::{Buf, Pool};
use palisade_isal::crc32c;
use palisade_protocol::fence::token::{WHOLE_DEVICE, derive};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// A stripe unit's place: device, column, generation, stripe.
type Place = (DeviceId, u32, u32, u32);

/// What all rogues of a run know together.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The newest number given out.
    pub counter: u64,
    /// Units that a sled said are durable, and that nobody asked to release since.
    acked: BTreeSet<Place>,
    /// Columns that somebody asked to release; nothing is promised about them any more.
    doomed: BTreeSet<(DeviceId, u32, u32)>,
    /// What must not be.
    pub violations: Vec<String>,
    /// Answers by kind, to show that the script reached them.
    pub seen: BTreeMap<&'static str, u64>,
}

/// A column that a rogue believes to own.
#[derive(Clone, Copy, Debug)]
struct Held {
    column: ColumnRef,
    extent: ExtentId,
    next: u32,
}

/// An open request.
#[derive(Clone, Debug)]
enum Asked {
    Reserve { device: usize, stamp: Stamp },
    Column { device: usize, stamp: Stamp, extent: ExtentId },
    Write { held: usize, stripe: u32, device: usize, forged: bool, grant: Option<(BootId, ReqId)> },
    Read { place: Place, acked: bool },
    Release { place: (DeviceId, u32, u32) },
}

/// What a rogue is told about the rack.
#[derive(Clone, Debug)]
pub struct Target {
    /// Sleds with their device.
    pub devices: Vec<(NodeId, DeviceId)>,
    /// Blocks of a stripe unit.
    pub unit_blocks: u32,
    /// Stripes of a column.
    pub stripes: u32,
    /// The partition.
    pub partition: PartitionId,
}

/// A rogue head.
pub struct Rogue {
    node: NodeId,
    boot: BootId,
    target: Target,
    pool: Pool,
    dice: Dice,
    ledger: Rc<RefCell<Ledger>>,
    stamp: Option<Stamp>,
    secrets: BTreeMap<usize, (Stamp, GrantSecret)>,
    /// Boot of the sled that granted, and the request it answered.
    granted_by: BTreeMap<usize, (BootId, ReqId)>,
    /// The last reserve sent to a device, with its number, and how many there were under that number.
    last_reserve: BTreeMap<usize, (ReqId, Number, u64)>,
    held: Vec<Held>,
    asked: BTreeMap<ReqId, Asked>,
    next_req: u64,
    next_move: Time,
}

impl Rogue {
    /// A rogue under a boot.
    pub fn new(
        node: NodeId,
        boot: BootId,
        target: Target,
        pool: Pool,
        salt: u64,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Self {
        Self {
            node,
            boot,
            target,
            pool,
            dice: Dice::new(salt),
            ledger,
            stamp: None,
            secrets: BTreeMap::new(),
            granted_by: BTreeMap::new(),
            last_reserve: BTreeMap::new(),
            held: Vec::new(),
            asked: BTreeMap::new(),
            next_req: 0,
            next_move: Time::ZERO,
        }
    }

    fn note(&self, what: &'static str) {
        *self.ledger.borrow_mut().seen.entry(what).or_default() += 1;
    }

    fn ask(&mut self, asked: Asked) -> ReqId {
        self.next_req += 1;
        let req = ReqId(self.next_req);
        self.asked.insert(req, asked);
        if self.asked.len() > 256 {
            self.asked.pop_first();
        }
        req
    }

    /// Takes the next number, as if the authority had granted it.
    fn claim(&mut self, effects: &mut Vec<Effect>) {
        let counter = {
            let mut ledger = self.ledger.borrow_mut();
            ledger.counter += 1;
            ledger.counter
        };
        let number = Number { epoch: 1, counter };
        let stamp = Stamp { partition: self.target.partition, number, grant: GrantId(counter * 7) };
        self.stamp = Some(stamp);
        for device in 0..self.target.devices.len() {
            self.reserve(device, stamp, effects);
        }
    }

    fn reserve(&mut self, device: usize, stamp: Stamp, effects: &mut Vec<Effect>) {
        let req = self.ask(Asked::Reserve { device, stamp });
        let before = self.last_reserve.get(&device).filter(|(_, number, _)| *number == stamp.number);
        let count = before.map_or(1, |(_, _, count)| count + 1);
        self.last_reserve.insert(device, (req, stamp.number, count));
        let (sled, id) = self.target.devices[device];
        effects.push(Effect::Send(sled, Msg::Reserve { req, device: id, stamp }));
    }

    fn column_reserve(&mut self, effects: &mut Vec<Effect>) {
        let Some((device, stamp, secret)) = self.any_grant() else { return };
        let extent = ExtentId(self.dice.range(1, 1 << 40));
        let req = self.ask(Asked::Column { device, stamp, extent });
        let (sled, id) = self.target.devices[device];
        let token = derive(secret, id, WHOLE_DEVICE, 0);
        let msg = Msg::ColumnReserve { req, device: id, stamp, token, extent, position: 0, prefer: None };
        effects.push(Effect::Send(sled, msg));
    }

    fn any_grant(&mut self) -> Option<(usize, Stamp, GrantSecret)> {
        let grants: Vec<_> =
            self.secrets.iter().map(|(device, (stamp, secret))| (*device, *stamp, *secret)).collect();
        (!grants.is_empty()).then(|| *self.dice.pick(&grants))
    }

    fn device_of(&self, id: DeviceId) -> usize {
        self.target
            .devices
            .iter()
            .position(|(_, device)| *device == id)
            .expect("columns lie on known devices")
    }

    /// Appends to a column, now and then with a token that must be refused.
    fn write(&mut self, effects: &mut Vec<Effect>) {
        if self.held.is_empty() {
            return;
        }
        let index = self.dice.below(self.held.len() as u64) as usize;
        let held = self.held[index];
        if held.next >= self.target.stripes {
            return self.release(index, effects);
        }
        let device = self.device_of(held.column.device);
        let Some((stamp, secret)) = self.secrets.get(&device).copied() else { return };
        let place = (held.column.device, held.column.column, held.column.generation, held.next);
        let Some(unit) = unit(&self.pool, self.target.unit_blocks, place) else { return };
        let mut token = derive(secret, held.column.device, held.column.column, held.column.generation);
        let forged = self.dice.chance(0.05);
        if forged {
            token = Token(self.dice.wide());
        }
        let grant = self.granted_by.get(&device).copied();
        let req = self.ask(Asked::Write { held: index, stripe: held.next, device, forged, grant });
        let crcs = smallvec::smallvec![crc32c(&unit)];
        let (column, extent, stripe) = (held.column, held.extent, held.next);
        let units = smallvec::smallvec![unit];
        let msg = Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs };
        effects.push(Effect::Send(self.target.devices[device].0, msg));
    }

    fn release(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let held = self.held[index];
        let ColumnRef { device: id, column, generation, .. } = held.column;
        let device = self.device_of(id);
        let Some((stamp, secret)) = self.secrets.get(&device).copied() else { return };
        let doomed = (id, column, generation);
        self.ledger.borrow_mut().doomed.insert(doomed);
        self.ledger.borrow_mut().acked.retain(|place| (place.0, place.1, place.2) != doomed);
        let req = self.ask(Asked::Release { place: (id, column, generation) });
        let token = derive(secret, id, column, generation);
        let msg = Msg::ColumnRelease { req, stamp, column: held.column, token };
        effects.push(Effect::Send(self.target.devices[device].0, msg));
    }

    /// Reads a unit of some column, held or long released.
    fn read(&mut self, effects: &mut Vec<Effect>) {
        if self.held.is_empty() {
            return;
        }
        let held = *self.dice.pick(&self.held);
        let stripe = self.dice.below(u64::from(self.target.stripes)) as u32;
        let place = (held.column.device, held.column.column, held.column.generation, stripe);
        let acked = self.ledger.borrow().acked.contains(&place);
        let req = self.ask(Asked::Read { place, acked });
        let device = self.device_of(held.column.device);
        let count = self.target.unit_blocks;
        let block = stripe * count;
        let msg =
            Msg::ColumnRead { req, partition: self.target.partition, column: held.column, block, count };
        effects.push(Effect::Send(self.target.devices[device].0, msg));
    }

    fn take(&mut self, boot: BootId, msg: Msg) {
        match msg {
            Msg::Reserved { req, status, secret, .. } => {
                let Some(Asked::Reserve { device, stamp }) = self.asked.remove(&req) else { return };
                self.note(name(&status));
                if status.is_ok()
                    && self.secrets.get(&device).is_none_or(|(old, _)| old.number <= stamp.number)
                {
                    self.secrets.insert(device, (stamp, secret));
                    self.granted_by.insert(device, (boot, req));
                }
            }
            Msg::ColumnReserved { req, status, column } => {
                let Some(Asked::Column { device, stamp, extent }) = self.asked.remove(&req) else { return };
                self.note(name(&status));
                let current = self.secrets.get(&device).is_some_and(|(held, _)| *held == stamp);
                if status.is_ok() && current && self.held.len() < 64 {
                    self.held.push(Held { column, extent, next: 0 });
                }
            }
            Msg::ColumnWritten { req, status } => self.take_written(boot, req, &status),
            Msg::ColumnData { req, status, data } => self.take_data(req, &status, data),
            Msg::ColumnReleased { req, status } => {
                let Some(Asked::Release { place }) = self.asked.remove(&req) else { return };
                self.note(name(&status));
                let gone =
                    |held: &Held| (held.column.device, held.column.column, held.column.generation) == place;
                if status.is_ok() && self.dice.chance(0.5) {
                    self.held.iter_mut().filter(|held| gone(held)).for_each(|held| held.next = 0);
                }
            }
            _ => {}
        }
    }

    fn take_written(&mut self, boot: BootId, req: ReqId, status: &Status) {
        let Some(Asked::Write { held, stripe, device, forged, grant }) = self.asked.remove(&req) else {
            return;
        };
        self.note(name(status));
        let same = grant == self.granted_by.get(&device).copied() && grant.is_some_and(|(by, _)| by == boot);
        self.judge_write(device, forged, same, status);
        let Some(entry) = self.held.get_mut(held) else { return };
        if status.is_ok() && entry.next == stripe {
            entry.next += 1;
            let ColumnRef { device, column, generation, .. } = entry.column;
            let mut ledger = self.ledger.borrow_mut();
            if !ledger.doomed.contains(&(device, column, generation)) {
                ledger.acked.insert((device, column, generation, stripe));
            }
        }
    }

    /// A forged token must not pass (P-21), and a good one not be voided by doubled requests (P-22).
    fn judge_write(&self, device: usize, forged: bool, same_grant: bool, status: &Status) {
        // Of several requests under one number any may be answered last, and the last grant counts.
        let only = |(req, _, count): &(ReqId, Number, u64)| (*count == 1).then_some(*req);
        let last = self.last_reserve.get(&device).and_then(only).unwrap_or_default();
        let newest = self.stamp.is_some_and(|stamp| stamp.number.counter == self.ledger.borrow().counter);
        let current =
            same_grant && self.granted_by.get(&device).is_some_and(|(_, req)| *req == last) && newest;
        let verdict = match status {
            Status::Ok if forged => "ForgedToken: a write with a made-up token was carried out (P-21)",
            Status::NoToken if !forged && current => "FalseFence: a good token was refused (P-22)",
            _ => return,
        };
        self.ledger.borrow_mut().violations.push(verdict.to_owned());
    }

    fn take_data(&mut self, req: ReqId, status: &Status, data: Option<Buf>) {
        let Some(Asked::Read { place, acked }) = self.asked.remove(&req) else { return };
        self.note(name(status));
        let still = self.ledger.borrow().acked.contains(&place);
        let right = data.as_ref().map(|bytes| fits(bytes, place));
        let verdict = match (status, right) {
            (Status::Ok, Some(true)) => return self.note("read right"),
            (Status::Ok, _) => format!("NothingSilent: unit {place:?} reads other bytes than were written"),
            (Status::Corrupt | Status::NotOwner, _) if acked && still => {
                format!("AckedIsDurable: acknowledged unit {place:?} is answered with {status:?}")
            }
            _ => return,
        };
        self.ledger.borrow_mut().violations.push(verdict);
    }
}

/// Contents of a stripe unit, which follow from its place.
fn unit(pool: &Pool, blocks: u32, place: Place) -> Option<Buf> {
    let mut buf = pool.alloc(blocks as usize * BLOCK)?;
    fill(&mut buf, place);
    Some(buf.freeze())
}

fn fill(bytes: &mut [u8], place: Place) {
    let (device, column, generation, stripe) = place;
    let seed = device.0 as u64 ^ u64::from(column) << 40 ^ u64::from(generation) << 20 ^ u64::from(stripe);
    let mut dice = Dice::new(seed);
    bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&dice.next().to_le_bytes()));
}

fn fits(bytes: &[u8], place: Place) -> bool {
    let mut want = vec![0; bytes.len()];
    fill(&mut want, place);
    want == bytes
}

fn name(status: &Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Fenced { .. } => "fenced",
        Status::NoToken => "no token",
        Status::NotOwner => "not owner",
        Status::StaleNumber { .. } => "stale number",
        Status::NotFree => "not free",
        Status::DeviceError => "device error",
        Status::Corrupt => "corrupt",
        Status::Retry => "retry",
        Status::BadRequest => "bad request",
    }
}

impl Host for Rogue {
    fn turn(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        for input in inputs.drain(..) {
            if let Input::Msg { boot, msg, .. } = input {
                self.take(boot, msg);
            }
        }
        if now < self.next_move {
            return;
        }
        self.next_move = now + Duration::from_nanos(self.dice.range(20_000, 400_000));
        match self.dice.below(100) {
            0..2 => self.claim(effects),
            2..6 => {
                // A repeat of an old claim, perhaps of a number that is superseded by now.
                if let Some(stamp) = self.stamp {
                    let device = self.dice.below(self.target.devices.len() as u64) as usize;
                    self.reserve(device, stamp, effects);
                }
            }
            6..16 => self.column_reserve(effects),
            16..22 if !self.held.is_empty() => {
                let index = self.dice.below(self.held.len() as u64) as usize;
                self.release(index, effects);
            }
            22..40 => self.read(effects),
            _ => self.write(effects),
        }
    }
    fn deadline(&self) -> Option<Time> {
        Some(self.next_move)
    }
    fn ready(&self, _partition: PartitionId) -> bool {
        false
    }
    fn leads(&self, _partition: PartitionId) -> Option<Stamp> {
        None
    }
    fn counts(&self) -> Counts {
        Counts::default()
    }
    fn census(&self) -> Census {
        Census::default()
    }
    fn describe(&self) -> String {
        format!(
            "rogue {} boot {} under {:?}, holds {} columns",
            self.node,
            self.boot,
            self.stamp,
            self.held.len()
        )
    }
}
