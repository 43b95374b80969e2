//! The NVMe driver on a controller that does nothing, and beside it a loop that knows nothing but queue entries.
//!
//! Both talk to the same null controller, which answers every command of a doorbell at once; what it costs is
//! in both figures, so their difference is what the driver adds: splitting, pointers, identifiers, requests.

use super::super::verdict::{Goal, Verdicts};
use super::Work;
use palisade_dma::{BufMut, DeviceSpace, DmaMemory, DmaRange, Pool, PoolConfig};
use palisade_runtime::block::nvme::{MapError, NvmeDevice, NvmeDriver, NvmeOptions};
use palisade_runtime::block::{BlockCompletion, BlockOk, BlockPort, BlockRequest, BlockVerb};
use palisade_runtime::clock::Nanos;
use smallvec::smallvec;
use std::cell::RefCell;

/// Instructions of a request from submission to completion that DESIGN section 6 grants.
const BUDGET: f64 = 500.0;
/// Commands of a turn.
const BATCH: u64 = 32;
/// Entries of the bare loop's queues.
const ENTRIES: u64 = 256;

/// A queue pair as the null controller keeps it.
#[derive(Clone, Copy, Default)]
struct Pair {
    submissions: u64,
    completions: u64,
    size: u64,
    head: u64,
    tail: u64,
    lap: u64,
}

#[derive(Default)]
struct State {
    space: DeviceSpace,
    pairs: [Pair; 2],
    ready: u32,
    sizes: u64,
}

/// A controller that answers everything with success. It tells of one namespace of 4 KiB blocks.
#[derive(Default)]
struct NullNvme(RefCell<State>);

impl State {
    /// Answers the commands up to `tail`.
    fn answer(&mut self, queue: usize, tail: u64) {
        while self.pairs[queue].head != tail {
            let pair = self.pairs[queue];
            let at = pair.submissions + pair.head * 64;
            let first = self.space.load(at).expect("the driver's queue");
            if queue == 0 {
                if first as u8 == 0x0c {
                    self.pairs[0].head = (pair.head + 1) % pair.size;
                    continue; // an event request waits for ever
                }
                self.admin(at, first as u8);
            }
            let pair = &mut self.pairs[queue];
            pair.head = (pair.head + 1) % pair.size;
            let second = (queue as u64) << 16 | (first >> 16 & 0xffff) << 32 | (1 ^ pair.lap) << 48;
            let at = pair.completions + pair.tail * 16;
            pair.tail += 1;
            if pair.tail == pair.size {
                (pair.tail, pair.lap) = (0, pair.lap ^ 1);
            }
            self.space.store(at, 0).expect("the driver's queue");
            self.space.store(at + 8, second).expect("the driver's queue");
        }
    }

    fn admin(&mut self, at: u64, opcode: u8) {
        let word = |number: u64| self.space.load(at + number * 8).expect("the driver's queue");
        let (data, what) = (word(3), word(5));
        match opcode {
            0x05 => (self.pairs[1].completions, self.pairs[1].size) = (data, (what >> 16 & 0xffff) + 1),
            0x01 => self.pairs[1].submissions = data,
            0x06 => {
                let fields: &[(usize, u8)] = match what & 0xff {
                    0 => &[(2, 0x10), (130, 12)], // 2^20 blocks of 4 KiB
                    1 => &[(111, 1), (512, 0x66), (513, 0x44), (516, 1), (525, 1)],
                    _ => &[(0, 1)],
                };
                let mut page = [0; 4096];
                fields.iter().for_each(|&(at, value)| page[at] = value);
                self.space.write(data, &page).expect("the driver's page");
            }
            _ => {}
        }
    }
}

impl NvmeDevice for NullNvme {
    fn name(&self) -> &str {
        "null"
    }

    fn register_bytes(&self) -> usize {
        16 << 10
    }

    fn read32(&self, at: usize) -> u32 {
        match at {
            0x00 => 0x0101_03ff, // MQES 1023, CQR, TO 500 ms
            0x04 => 1 << 5,      // CSS: NVM commands
            0x1c => self.0.borrow().ready,
            _ => 0,
        }
    }

    fn write32(&self, at: usize, value: u32) {
        let mut state = self.0.borrow_mut();
        match at {
            0x14 => {
                state.ready = value & 1;
                state.pairs[0].size = (state.sizes & 0xfff) + 1;
            }
            0x24 => state.sizes = value.into(),
            0x28 => state.pairs[0].submissions = value.into(),
            0x2c => state.pairs[0].submissions |= u64::from(value) << 32,
            0x30 => state.pairs[0].completions = value.into(),
            0x34 => state.pairs[0].completions |= u64::from(value) << 32,
            0x1000 => state.answer(0, value.into()),
            0x1008 => state.answer(1, value.into()),
            _ => {}
        }
    }

    fn map(&mut self, range: DmaRange) -> Result<u64, MapError> {
        Ok(self.0.borrow_mut().space.map(range))
    }

    fn isolate(&mut self) -> bool {
        self.0.borrow_mut().space.clear();
        true
    }
}

fn driver() -> (NvmeDriver, Pool) {
    let pool = Pool::new(PoolConfig { slots: [256, 8, 8], huge: false }).expect("pool");
    let options = NvmeOptions { huge: false, ..NvmeOptions::default() };
    // Not `open`, which reads a clock: under an instruction counter there is none.
    let device = Box::new(NullNvme::default());
    let mut driver = NvmeDriver::start(device, &pool, options, Nanos::ZERO).expect("a null controller");
    while !driver.bring_up(Nanos::ZERO).expect("a null controller") {}
    (driver, pool)
}

/// Turns of 32 reads of 4 KiB through the driver; a call is one of them.
pub(super) fn read() -> Work {
    let (mut driver, pool) = driver();
    let mut bufs: Vec<BufMut> = (0..BATCH).map(|_| pool.alloc(4096).expect("slot")).collect();
    let mut out: Vec<BlockCompletion> = Vec::with_capacity(BATCH as usize);
    let mut left = 0;
    let call = move || {
        if left == 0 {
            left = BATCH;
            for (key, buf) in bufs.drain(..).enumerate() {
                let offset = key as u64 * 4096;
                driver.submit(BlockRequest { key: key as u64, verb: BlockVerb::Read { offset, buf } });
            }
            driver.kick();
            // Time stands still: looks at the device, once in milliseconds, are not the cost of a request.
            driver.poll(Nanos::ZERO, &mut out);
            assert_eq!(out.len() as u64, BATCH);
            for done in out.drain(..) {
                let Ok(BlockOk::Read(buf)) = done.result else { panic!("a read has its buffer") };
                bufs.push(buf);
            }
        }
        left -= 1;
    };
    Work { name: "nvme-read", call: Box::new(call), goal: None }
}

/// The same of writes of one buffer each.
pub(super) fn write() -> Work {
    let (mut driver, pool) = driver();
    let buf = pool.alloc_zeroed(4096).expect("slot").freeze();
    let mut out: Vec<BlockCompletion> = Vec::with_capacity(BATCH as usize);
    let mut left = 0;
    let call = move || {
        if left == 0 {
            left = BATCH;
            for key in 0..BATCH {
                let bufs = smallvec![buf.clone()];
                let verb = BlockVerb::Write { offset: key * 4096, bufs, fua: true };
                driver.submit(BlockRequest { key, verb });
            }
            driver.kick();
            driver.poll(Nanos::ZERO, &mut out);
            assert_eq!(out.len() as u64, BATCH);
            out.clear();
        }
        left -= 1;
    };
    Work { name: "nvme-write", call: Box::new(call), goal: None }
}

/// Turns of 32 entries that are stored, rung for, and taken by their phase; a call is one of them.
pub(super) fn bare() -> Work {
    let memory = DmaMemory::new(64 << 10, false).expect("queue memory");
    let device = NullNvme::default();
    let base = device.0.borrow_mut().space.map(memory.range());
    let completions = ENTRIES * 64;
    device.0.borrow_mut().pairs[1] =
        Pair { submissions: base, completions: base + completions, size: ENTRIES, ..Pair::default() };
    let device: Box<dyn NvmeDevice> = Box::new(device);
    let (mut tail, mut head, mut phase, mut left) = (0, 0, 1, 0);
    let call = move || {
        if left == 0 {
            left = BATCH;
            for cid in 0..BATCH {
                let entry = [2 | cid << 16 | 1 << 32, 0, 0, base, 0, cid, 0, 0];
                for (word, value) in memory.words(tail as usize * 64, 8).iter().zip(entry) {
                    word.store(value, std::sync::atomic::Ordering::Relaxed);
                }
                tail = (tail + 1) % ENTRIES;
            }
            device.write32(0x1008, tail as u32);
            let mut taken = 0;
            while memory.load((completions + head * 16) as usize + 8) >> 48 & 1 == phase {
                taken += 1;
                head += 1;
                if head == ENTRIES {
                    (head, phase) = (0, phase ^ 1);
                }
            }
            device.write32(0x100c, head as u32);
            assert_eq!(taken, BATCH);
        }
        left -= 1;
    };
    Work { name: "nvme-bare", call: Box::new(call), goal: None }
}

/// What the driver adds to the bare loop, in instructions, against the budget of DESIGN section 6.
pub(super) fn judge(counts: &[(&str, f64)], verdicts: &mut Verdicts) {
    let count = |name: &str| counts.iter().find(|(other, _)| *other == name).map(|(_, count)| *count);
    let Some(bare) = count("nvme-bare") else { return };
    for name in ["nvme-read", "nvme-write"] {
        if let Some(all) = count(name) {
            let what = format!("{name}, instructions above a bare queue loop");
            verdicts.add(what, all - bare, Goal::AtMost(BUDGET));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_and_bare_loop_go_round_their_queues() {
        for mut work in [read(), write(), bare()] {
            (0..10 * ENTRIES).for_each(|_| (work.call)());
            assert!(work.name.starts_with("nvme-"));
        }
    }
}
