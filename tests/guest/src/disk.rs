//! A disk under the shipping driver, in the time of the machine, and an image of what it must hold.

use palisade_dma::{Buf, BufMut, Pool, PoolConfig};
use palisade_runtime::block::nvme::{NvmeDevice, NvmeDriver, NvmeEvent, NvmeOptions, VfioNvme};
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockInfo, BlockOk, BlockPort, BlockRequest, BlockVerb,
};
use palisade_runtime::clock::{Clock, MonoClock};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A wait that takes longer is a hang.
const LIMIT: Duration = Duration::from_secs(60);
/// Largest buffer of a pool.
const BUFFER_MAX: usize = 256 << 10;

/// How a request ended: the buffer of a read, nothing else of other verbs.
pub type Answer = Result<Option<BufMut>, BlockFault>;

/// The whole set-up; every request is checked to be answered once.
pub struct Disk {
    /// The driver.
    pub driver: BlockDriver,
    /// Its buffers.
    pub pool: Pool,
    /// Answers not looked at yet.
    pub answers: BTreeMap<u64, Answer>,
    /// What the driver told.
    pub events: Vec<NvmeEvent>,
    asked: BTreeSet<u64>,
    next_key: u64,
    out: Vec<BlockCompletion>,
}

impl Disk {
    /// Buffers for all tests.
    pub fn pool(huge: bool) -> Pool {
        Pool::new(PoolConfig { slots: [1024, 128, 128], huge }).expect("pool")
    }

    /// Opens the controller at a PCI address.
    pub fn open(address: &str, options: NvmeOptions) -> Self {
        Self::on(Box::new(VfioNvme::open(address).expect("opens")), options)
    }

    /// Brings the driver up on a device.
    pub fn on(device: Box<dyn NvmeDevice>, options: NvmeOptions) -> Self {
        let pool = Self::pool(options.huge);
        let driver = NvmeDriver::open(device, &pool, options).expect("starts");
        Self {
            driver: BlockDriver::Nvme(Box::new(driver)),
            pool,
            answers: BTreeMap::new(),
            events: Vec::new(),
            asked: BTreeSet::new(),
            next_key: 1,
            out: Vec::new(),
        }
    }

    /// The driver by its own face.
    pub fn nvme(&mut self) -> &mut NvmeDriver {
        match &mut self.driver {
            BlockDriver::Nvme(driver) => driver,
            other => panic!("{other:?} is another driver"),
        }
    }

    /// What is known about the disk.
    pub fn info(&self) -> BlockInfo {
        self.driver.info().clone()
    }

    /// A key for a request that the test submits to the driver itself.
    pub fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.asked.insert(self.next_key);
        self.next_key
    }

    /// Submits a request; its key.
    pub fn submit(&mut self, verb: BlockVerb) -> u64 {
        let key = self.key();
        self.driver.submit(BlockRequest { key, verb });
        key
    }

    /// A buffer with these bytes.
    pub fn buf(&self, bytes: &[u8]) -> Buf {
        let mut buf = self.pool.alloc(bytes.len()).expect("a slot");
        buf.copy_from_slice(bytes);
        buf.freeze()
    }

    /// Submits a write, in buffers as large as there are.
    pub fn write(&mut self, offset: u64, bytes: &[u8], fua: bool) -> u64 {
        let bufs = bytes.chunks(BUFFER_MAX).map(|chunk| self.buf(chunk)).collect();
        self.submit(BlockVerb::Write { offset, bufs, fua })
    }

    /// Submits a read into a buffer whose bytes are `before`.
    pub fn read(&mut self, offset: u64, len: usize, before: u8) -> u64 {
        let mut buf = self.pool.alloc(len).expect("a slot");
        buf.fill(before);
        self.submit(BlockVerb::Read { offset, buf })
    }

    /// Submits a flush.
    pub fn flush(&mut self) -> u64 {
        self.submit(BlockVerb::Flush)
    }

    /// Requests that are not answered yet.
    pub fn open_requests(&self) -> usize {
        self.asked.len()
    }

    /// A turn of the driver.
    pub fn turn(&mut self) {
        self.driver.kick();
        let mut out = std::mem::take(&mut self.out);
        self.driver.poll(MonoClock.now(), &mut out);
        for done in out.drain(..) {
            assert!(self.asked.remove(&done.key), "key {} was answered twice, or never asked", done.key);
            let answer = done.result.map(|ok| match ok {
                BlockOk::Read(buf) => Some(buf),
                BlockOk::Done => None,
            });
            self.answers.insert(done.key, answer);
        }
        self.out = out;
        assert_eq!(self.driver.in_flight(), self.asked.len(), "the driver knows what it owes");
        while let Some(event) = self.nvme().take_event() {
            println!("{event:?}");
            self.events.push(event);
        }
    }

    /// Turns until something holds.
    ///
    /// # Panics
    /// When that takes too long: a hang.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: not within {LIMIT:?}: {:?}", self.driver);
            self.turn();
        }
    }

    /// Turns until a request is answered.
    pub fn wait(&mut self, key: u64) -> Answer {
        self.until("an answer", |disk| disk.answers.contains_key(&key));
        self.answers.remove(&key).expect("it is there")
    }

    /// Waits for a request that must succeed; the bytes of a read.
    pub fn done(&mut self, key: u64) -> Vec<u8> {
        let answer = self.wait(key).unwrap_or_else(|fault| panic!("key {key}: {fault}"));
        answer.map_or_else(Vec::new, |buf| buf.to_vec())
    }

    /// Turns until everything is answered.
    pub fn drain(&mut self) {
        self.until("all answers", |disk| disk.asked.is_empty());
    }

    /// Writes and reads a few blocks, to show that the disk serves.
    pub fn serves(&mut self, offset: u64, fill: u8) {
        let key = self.write(offset, &[fill; 8192], false);
        self.done(key);
        let key = self.read(offset, 8192, !fill);
        assert!(self.done(key).iter().all(|&byte| byte == fill), "what was written is read");
    }

    /// Checks that all buffers came back.
    pub fn check(&mut self) {
        self.answers.clear();
        let stats = self.pool.stats();
        assert_eq!(stats.free, stats.total, "every buffer came back");
    }
}

/// What a part of a disk must hold, and random work that keeps it true.
pub struct Image {
    offset: u64,
    bytes: Vec<u8>,
    block: usize,
    random: Xoshiro256PlusPlus,
    /// Ranges in the image that requests under way touch, and whether they write.
    busy: BTreeMap<u64, (usize, usize, bool)>,
}

impl Image {
    /// Writes random bytes to a part of a disk.
    pub fn write(disk: &mut Disk, offset: u64, bytes: usize, seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut image = vec![0; bytes];
        random.fill_bytes(&mut image);
        for (chunk, at) in image.chunks(BUFFER_MAX).zip((offset..).step_by(BUFFER_MAX)) {
            let key = disk.write(at, chunk, false);
            disk.done(key);
        }
        let block = disk.info().block as usize;
        Self { offset, bytes: image, block, random, busy: BTreeMap::new() }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound.max(1) as u64) as usize
    }

    /// A range of whole blocks of at most `most` bytes: mostly short ones.
    fn range(&mut self, most: usize) -> (usize, usize) {
        let blocks = most.min(self.bytes.len()) / self.block;
        let bound = if self.below(4) == 0 { blocks } else { (16 << 10) / self.block };
        let len = (1 + self.below(bound)) * self.block;
        let at = self.below((self.bytes.len() - len) / self.block + 1) * self.block;
        (at, len)
    }

    /// Submits one random request, unless it would touch what another one writes.
    fn submit(&mut self, disk: &mut Disk) {
        if self.below(32) == 0 {
            disk.flush();
            return;
        }
        let writes = self.below(2) == 0;
        let (at, len) = self.range(if writes { 4 * BUFFER_MAX } else { BUFFER_MAX });
        let meets =
            |&(start, end, other): &(usize, usize, bool)| at < end && start < at + len && (writes || other);
        if self.busy.values().any(meets) {
            return;
        }
        let offset = self.offset + at as u64;
        let key = if writes {
            // Slots first: an image that is ahead of the disk would be wrong.
            let Some(slots) = self.slots(disk, len) else { return };
            self.random.fill_bytes(&mut self.bytes[at..at + len]);
            let fua = self.below(8) == 0;
            disk.submit(BlockVerb::Write { offset, bufs: fill(slots, &self.bytes[at..at + len]), fua })
        } else {
            let Some(mut buf) = disk.pool.alloc(len) else { return };
            buf.fill(0xee);
            disk.submit(BlockVerb::Read { offset, buf })
        };
        self.busy.insert(key, (at, at + len, writes));
    }

    /// Slots for so many bytes: as few as there can be, or of random lengths; with bytes before those of the
    /// request, so that buffers begin anywhere in their slot.
    fn slots(&mut self, disk: &Disk, len: usize) -> Option<Vec<(BufMut, usize)>> {
        let mut slots = Vec::new();
        let is_plain = self.below(2) == 0;
        let mut rest = len;
        while rest > 0 {
            let most = rest.min(BUFFER_MAX);
            let take = if is_plain { most } else { (1 + self.below(most / self.block)) * self.block };
            let front = if is_plain { 0 } else { self.below(8) * self.block };
            let front = if front + take <= BUFFER_MAX { front } else { 0 };
            slots.push((disk.pool.alloc(front + take)?, front));
            rest -= take;
        }
        Some(slots)
    }

    /// Takes the answers; those of reads must be what the image holds.
    fn settle(&mut self, disk: &mut Disk) {
        while let Some((key, answer)) = disk.answers.pop_first() {
            let range = self.busy.remove(&key);
            let buf = answer.unwrap_or_else(|fault| panic!("key {key} at {range:?}: {fault}"));
            if let (Some(buf), Some((start, end, _))) = (buf, range) {
                assert!(*buf == self.bytes[start..end], "bytes {start}..{end} are read as they were written");
            }
        }
    }

    /// Keeps up to `depth` random requests under way until `count` were submitted, and waits for all.
    pub fn work(&mut self, disk: &mut Disk, depth: usize, count: usize) {
        let end = Instant::now() + 2 * LIMIT;
        let mut submitted = 0;
        while submitted < count {
            assert!(Instant::now() < end, "{submitted} of {count} requests: {:?}", disk.driver);
            for _ in 0..4 {
                if disk.open_requests() < depth {
                    self.submit(disk);
                    submitted += 1;
                }
            }
            disk.turn();
            self.settle(disk);
        }
        disk.drain();
        self.settle(disk);
    }

    /// Reads everything and compares.
    pub fn verify(&mut self, disk: &mut Disk) {
        for from in (0..self.bytes.len()).step_by(BUFFER_MAX) {
            let len = BUFFER_MAX.min(self.bytes.len() - from);
            let key = disk.read(self.offset + from as u64, len, 0xee);
            assert!(disk.done(key) == self.bytes[from..from + len], "bytes from {from} on are as written");
        }
    }
}

/// The bytes in these slots.
fn fill(slots: Vec<(BufMut, usize)>, bytes: &[u8]) -> SmallVec<[Buf; 4]> {
    let mut rest = bytes;
    let one = |(mut slot, front): (BufMut, usize)| {
        let (part, after) = rest.split_at(slot.len() - front);
        slot[front..].copy_from_slice(part);
        rest = after;
        let end = slot.len();
        slot.freeze().slice(front..end)
    };
    slots.into_iter().map(one).collect()
}
