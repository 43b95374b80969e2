//! A device of the simulator: what is durable, what sits in a volatile cache, what is in flight.
//!
//! Fault model. A device never lies: a write with FUA, and everything completed before a flush was
//! submitted, survives. All else may not: at a crash every 512-byte sector of an unflushed or unfinished
//! write independently keeps any of its versions, old or new, so writes are torn and reordered. Commands
//! complete in any order. Health may be set to slow, failing or hung; chosen sectors may rot (bits flip
//! in the durable image). A device of the rack is never worse than that.

use crate::dice::Dice;
use palisade_protocol::wire::limits::{BLOCK, SECTOR};
use palisade_protocol::wire::{BlockCmd, BlockDone, BlockError, BlockOk, BlockOp, Key, Time};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

type Page = Rc<[u8; BLOCK]>;
type Sector = [u8; SECTOR];

/// A sparse image of a device. Images share the pages in which they do not differ.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pages: BTreeMap<u64, Page>,
}

impl Image {
    /// Fills `out` from byte `offset`.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        for chunk in split(offset, out) {
            let within = (at % BLOCK as u64) as usize;
            match self.pages.get(&(at / BLOCK as u64)) {
                Some(page) => chunk.copy_from_slice(&page[within..within + chunk.len()]),
                None => chunk.fill(0),
            }
            at += chunk.len() as u64;
        }
    }

    /// Stores `bytes` at byte `offset`.
    pub fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let within = (at % BLOCK as u64) as usize;
            let len = bytes.len().min(BLOCK - within);
            let page = self.pages.entry(at / BLOCK as u64).or_insert_with(|| Rc::new([0; BLOCK]));
            Rc::make_mut(page)[within..within + len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            at += len as u64;
        }
    }

    /// Takes over the pages that hold `len` bytes from byte `offset` of another image, both whole blocks.
    fn share(&mut self, of: &Self, offset: u64, len: usize) {
        let first = offset / BLOCK as u64;
        let pages = of.pages.range(first..first + (len / BLOCK) as u64);
        self.pages.extend(pages.map(|(at, page)| (*at, Rc::clone(page))));
    }

    /// Lets pages that equal the page before them share it, as both slots of a fresh record do.
    pub fn fold(&mut self) {
        let mut before: Option<&Page> = None;
        for page in self.pages.values_mut() {
            match before {
                Some(one) if **one == **page => *page = Rc::clone(one),
                _ => {}
            }
            before = Some(page);
        }
    }

    /// Block numbers that were ever written.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }
}

fn split(offset: u64, out: &mut [u8]) -> Vec<&mut [u8]> {
    let lead = (BLOCK as u64 - offset % BLOCK as u64) as usize;
    let (first, rest) = out.split_at_mut(lead.min(out.len()));
    std::iter::once(first).chain(rest.chunks_mut(BLOCK)).collect()
}

/// How a device behaves at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should.
    Good,
    /// So many times slower.
    Slow(u32),
    /// Every command ends in an error.
    Failing,
    /// Commands do not end until this is lifted.
    Hung,
}

/// A command on its way.
#[derive(Debug)]
struct Flight {
    key: Key,
    op: FlightOp,
}

#[derive(Debug)]
enum FlightOp {
    Read { offset: u64, buf: palisade_dma::BufMut },
    Write { offset: u64, bytes: Vec<u8>, fua: bool },
    Flush { upto: u64 },
}

/// One version of a sector that is not durable yet.
#[derive(Clone, Debug)]
struct Version {
    age: u64,
    bytes: Sector,
}

/// What became of a crash, for the tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashToll {
    /// Writes in flight of which some sectors landed and some did not.
    pub torn: u64,
    /// Writes in flight at the crash.
    pub in_flight: u64,
    /// Sectors of completed, unflushed writes that were lost.
    pub lost: u64,
}

/// Blocks that [`Disk::newest`] remembers.
const NEWEST: usize = 24;

/// A simulated device.
#[derive(Debug)]
pub struct Disk {
    bytes: u64,
    durable: Image,
    current: Image,
    dirty: BTreeMap<u64, Vec<Version>>,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    age: u64,
    /// How it behaves.
    pub health: Health,
    /// Blocks written durably last, the newest behind.
    newest: VecDeque<u64>,
    /// Commands it has finished.
    pub finished: u64,
    /// How long a command takes, about, in microseconds.
    base_us: u64,
}

impl Disk {
    /// A blank device.
    pub fn new(bytes: u64) -> Self {
        Self::with_image(bytes, Image::default())
    }

    /// A device with contents.
    pub fn with_image(bytes: u64, image: Image) -> Self {
        Self {
            bytes,
            current: image.clone(),
            durable: image,
            dirty: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            age: 0,
            newest: VecDeque::new(),
            health: Health::Good,
            finished: 0,
            base_us: 40,
        }
    }

    /// The same device, with commands that take about so many microseconds.
    pub fn paced(self, base_us: u64) -> Self {
        Self { base_us, ..self }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What would survive if everything volatile were lost.
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// The name that the next submitted command's flight gets.
    pub fn next_flight(&self) -> u64 {
        self.next_flight
    }

    /// Accepts a command; its flight is named for [`Disk::finish`].
    pub fn submit(&mut self, cmd: BlockCmd) -> u64 {
        let op = match cmd.op {
            BlockOp::Read { offset, buf } => FlightOp::Read { offset, buf },
            BlockOp::Write { offset, bufs, fua } => {
                let mut bytes = Vec::with_capacity(bufs.iter().map(|buf| buf.len()).sum());
                bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
                FlightOp::Write { offset, bytes, fua }
            }
            BlockOp::Flush => FlightOp::Flush { upto: self.age },
        };
        self.take_off(cmd.key, op)
    }

    /// Accepts a write whose bytes were kept on a tape.
    pub fn submit_bytes(&mut self, offset: u64, bytes: Vec<u8>, fua: bool) -> u64 {
        self.take_off(Key(0), FlightOp::Write { offset, bytes, fua })
    }

    /// Accepts a flush from a tape.
    pub fn submit_flush(&mut self) -> u64 {
        self.take_off(Key(0), FlightOp::Flush { upto: self.age })
    }

    fn take_off(&mut self, key: Key, op: FlightOp) -> u64 {
        let id = self.next_flight;
        self.next_flight += 1;
        self.flights.insert(id, Flight { key, op });
        id
    }

    /// How long a command takes from now, without what [`Health`] adds.
    pub fn latency(&self, dice: &mut Dice, tail: f64) -> Duration {
        let mut nanos = dice.range(self.base_us * 300, self.base_us * 1700);
        if dice.chance(tail) {
            nanos *= dice.range(4, 40);
        }
        if let Health::Slow(factor) = self.health {
            nanos *= u64::from(factor);
        }
        Duration::from_nanos(nanos)
    }

    /// Ends a flight: its effect happens now. `None` when it is unknown, or the device hangs.
    pub fn finish(&mut self, id: u64) -> Option<BlockDone> {
        if self.health == Health::Hung {
            return None;
        }
        let flight = self.flights.remove(&id)?;
        self.finished += 1;
        let result =
            if self.health == Health::Failing { Err(BlockError::Io) } else { self.carry_out(flight.op) };
        Some(BlockDone { key: flight.key, result })
    }

    fn carry_out(&mut self, op: FlightOp) -> Result<BlockOk, BlockError> {
        match op {
            FlightOp::Read { offset, mut buf } => {
                self.in_range(offset, buf.len())?;
                self.current.read(offset, &mut buf);
                Ok(BlockOk::Read(buf))
            }
            FlightOp::Write { offset, bytes, fua } => {
                self.in_range(offset, bytes.len())?;
                self.store(offset, &bytes, fua);
                Ok(BlockOk::Done)
            }
            FlightOp::Flush { upto } => {
                self.flush(upto);
                Ok(BlockOk::Done)
            }
        }
    }

    fn in_range(&self, offset: u64, len: usize) -> Result<(), BlockError> {
        let aligned = offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK);
        match offset.checked_add(len as u64) {
            Some(end) if aligned && end <= self.bytes => Ok(()),
            _ => Err(BlockError::Range),
        }
    }

    fn store(&mut self, offset: u64, bytes: &[u8], fua: bool) {
        self.age += 1;
        self.current.write(offset, bytes);
        if fua {
            self.durable.share(&self.current, offset, bytes.len());
            self.newest.extend((0..(bytes.len() / BLOCK) as u64).map(|at| offset / BLOCK as u64 + at));
            self.newest.drain(..self.newest.len().saturating_sub(NEWEST));
        }
        for (index, chunk) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = offset / SECTOR as u64 + index as u64;
            if fua {
                self.dirty.remove(&sector);
            } else {
                let mut kept = [0; SECTOR];
                kept.copy_from_slice(chunk);
                self.dirty.entry(sector).or_default().push(Version { age: self.age, bytes: kept });
            }
        }
    }

    fn flush(&mut self, upto: u64) {
        let durable = &mut self.durable;
        self.dirty.retain(|sector, versions| {
            let split = versions.partition_point(|version| version.age <= upto);
            if let Some(newest) = split.checked_sub(1) {
                durable.write(sector * SECTOR as u64, &versions[newest].bytes);
            }
            versions.drain(..split);
            !versions.is_empty()
        });
    }

    /// The node loses power or is killed: in-flight writes land or not, sector by sector.
    /// With `power` gone the volatile cache is lost as well; otherwise it survives the process.
    pub fn crash(&mut self, dice: &mut Dice, power: bool) -> CrashToll {
        let mut toll = CrashToll::default();
        let odds = *dice.pick(&[0.0, 0.5, 1.0, 0.95, 0.05]);
        for (_, flight) in std::mem::take(&mut self.flights) {
            let FlightOp::Write { offset, bytes, .. } = flight.op else { continue };
            if self.in_range(offset, bytes.len()).is_err() {
                continue;
            }
            toll.in_flight += 1;
            toll.torn += u64::from(self.tear(dice, offset, &bytes));
        }
        if power {
            toll.lost = self.lose_cache(dice, odds);
        }
        self.health = Health::Good;
        toll
    }

    /// Lets some sectors of an unfinished write land; whether it was torn.
    fn tear(&mut self, dice: &mut Dice, offset: u64, bytes: &[u8]) -> bool {
        let sectors = bytes.len() / SECTOR;
        let style = dice.below(4);
        let cut = dice.below(sectors as u64 + 1) as usize;
        let mut landed = 0;
        self.age += 1;
        for (index, chunk) in bytes.chunks_exact(SECTOR).enumerate() {
            let lands = match style {
                0 => false,
                1 => true,
                2 => index < cut,
                _ => dice.chance(0.5),
            };
            if lands {
                landed += 1;
                let at = offset + (index * SECTOR) as u64;
                self.current.write(at, chunk);
                self.durable.write(at, chunk);
                self.dirty.remove(&(at / SECTOR as u64));
            }
        }
        landed > 0 && landed < sectors
    }

    /// Each dirty sector keeps its durable contents or, with `odds`, one of its newer versions.
    fn lose_cache(&mut self, dice: &mut Dice, odds: f64) -> u64 {
        let mut lost = 0;
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if dice.chance(odds) {
                let kept = dice.pick(&versions).bytes;
                self.durable.write(sector * SECTOR as u64, &kept);
            } else {
                lost += 1;
            }
        }
        self.current = self.durable.clone();
        lost
    }

    /// The blocks written durably last.
    pub fn newest(&self) -> impl Iterator<Item = u64> + '_ {
        self.newest.iter().copied()
    }

    /// Flips one bit of the medium.
    pub fn rot(&mut self, offset: u64, bit: u8) {
        let mut byte = [0u8];
        self.durable.read(offset, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.durable.write(offset, &byte);
        self.current.read(offset, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.current.write(offset, &byte);
    }

    /// A time by which a hung device's flights should be tried again.
    pub fn flights(&self) -> impl Iterator<Item = u64> + '_ {
        self.flights.keys().copied()
    }

    /// When a command submitted now ends.
    pub fn due(&self, now: Time, dice: &mut Dice, tail: f64) -> Time {
        now + self.latency(dice, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Buf, Pool, PoolConfig};
    use palisade_protocol::wire::DeviceIx;
    use smallvec::smallvec;

    fn write(disk: &mut Disk, offset: u64, byte: u8, fua: bool) -> u64 {
        let pool = Pool::new(PoolConfig { slots: [4, 1, 1], huge: false }).expect("maps");
        let mut buf = pool.alloc(BLOCK).expect("slot");
        buf.fill(byte);
        let bufs: smallvec::SmallVec<[Buf; 4]> = smallvec![buf.freeze()];
        disk.submit(BlockCmd { device: DeviceIx(0), key: Key(1), op: BlockOp::Write { offset, bufs, fua } })
    }

    fn byte(image: &Image, offset: u64) -> u8 {
        let mut out = [0u8];
        image.read(offset, &mut out);
        out[0]
    }

    #[test]
    fn a_completed_fua_write_survives_and_an_unflushed_one_may_not() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut disk = Disk::new(1 << 20);
            let first = write(&mut disk, 0, 1, true);
            assert!(disk.finish(first).is_some());
            let second = write(&mut disk, 4096, 2, false);
            assert!(disk.finish(second).is_some());
            disk.crash(&mut Dice::new(seed), true);
            assert_eq!(byte(disk.durable(), 0), 1);
            lost += u64::from(byte(disk.durable(), 4096) == 0);
        }
        assert!(lost > 5 && lost < 45, "sometimes kept, sometimes lost: {lost}");
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_submitted_only() {
        let mut disk = Disk::new(1 << 20);
        let first = write(&mut disk, 0, 1, false);
        disk.finish(first);
        let flush = disk.submit(BlockCmd { device: DeviceIx(0), key: Key(2), op: BlockOp::Flush });
        let late = write(&mut disk, 0, 2, false);
        disk.finish(late);
        disk.finish(flush);
        assert_eq!(byte(disk.durable(), 0), 1);
        assert_eq!(byte(&disk.current, 0), 2);
    }

    #[test]
    fn an_unfinished_write_is_torn_at_sectors_at_a_crash() {
        let torn = (0..100).filter(|seed| {
            let mut disk = Disk::new(1 << 20);
            write(&mut disk, 0, 9, true);
            disk.crash(&mut Dice::new(*seed), true).torn == 1
        });
        assert!(torn.count() > 20);
    }

    #[test]
    fn a_killed_process_keeps_its_device_cache() {
        let mut disk = Disk::new(1 << 20);
        let id = write(&mut disk, 0, 5, false);
        disk.finish(id);
        disk.crash(&mut Dice::new(3), false);
        assert_eq!(byte(&disk.current, 0), 5);
        disk.crash(&mut Dice::new(1), true);
    }
}
