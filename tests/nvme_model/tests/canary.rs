//! The model notices what a driver does wrong: a host of a few lines breaks one rule in each test.

use palisade_dma::{DmaMemory, Pool, PoolConfig};
use palisade_nvme_model::{Model, ModelConfig, cap};
use palisade_runtime::block::nvme::NvmeDevice;

/// Offsets in the queue memory: admin queues, I/O queues, a list.
const ADMIN: (usize, usize) = (0, 4096);
const IO: (usize, usize) = (8192, 12288);
const LIST: usize = 16384;

/// A host without a driver: it stores words where it likes.
struct Host {
    model: Model,
    memory: DmaMemory,
    base: u64,
    tails: [u32; 2],
}

impl Host {
    fn new() -> Self {
        let config = ModelConfig { eager: true, cap: cap(63, 1, 0, 0), ..ModelConfig::default() };
        let mut model = Model::new(config);
        let memory = DmaMemory::new(64 << 10, false).expect("maps");
        let base = model.map(memory.range()).expect("maps");
        model.write32(0x24, 15 | 15 << 16);
        model.write64(0x28, base + ADMIN.0 as u64);
        model.write64(0x30, base + ADMIN.1 as u64);
        model.write32(0x14, 0x0046_0001);
        assert_eq!(model.read32(0x1c), 1);
        let mut host = Self { model, memory, base, tails: [0; 2] };
        host.send(0, [5, 0, 0, base + IO.1 as u64, 0, 1 | 15 << 16 | 1 << 32, 0, 0]);
        host.send(0, [1, 0, 0, base + IO.0 as u64, 0, 1 | 15 << 16 | (1 | 1 << 16) << 32, 0, 0]);
        assert!(host.model.violations().is_empty());
        host
    }

    /// Stores an entry and rings.
    fn send(&mut self, queue: usize, words: [u64; 8]) {
        let at = [ADMIN.0, IO.0][queue] + self.tails[queue] as usize * 64;
        for (i, word) in words.into_iter().enumerate() {
            self.memory.store(at + i * 8, word);
        }
        self.tails[queue] = (self.tails[queue] + 1) % 16;
        self.model.write32(0x1000 + queue * 8, self.tails[queue]);
    }

    /// A read of so many blocks of 4 KiB with these PRPs.
    fn read(&mut self, cid: u64, lba: u64, blocks: u64, first: u64, second: u64) {
        self.send(1, [2 | cid << 16 | 1 << 32, 0, 0, first, second, lba, blocks - 1, 0]);
    }

    fn complains_of(&self, what: &str) {
        let told = self.model.violations();
        assert!(told.iter().any(|text| text.contains(what)), "wanted {what}: {told:?}");
    }
}

#[test]
fn canary_a_sound_host_is_not_complained_of() {
    let mut host = Host::new();
    let page = host.base + 32768;
    host.read(1, 0, 1, page, 0);
    host.read(2, 0, 2, page, page + 4096);
    assert_eq!((host.model.violations().len(), host.model.carried_out()), (0, 2));
}

#[test]
fn canary_a_doorbell_beyond_its_queue_is_noticed() {
    let host = Host::new();
    host.model.write32(0x1008, 16);
    host.complains_of("doorbell");
    let host = Host::new();
    host.model.write32(0x1010, 1);
    host.complains_of("doorbell 4 of no queue");
}

#[test]
fn canary_pointers_against_the_rules_are_noticed() {
    let page = |host: &Host| host.base + 32768;
    let mut host = Host::new();
    host.read(1, 0, 2, page(&host), page(&host) + 4096 + 512);
    host.complains_of("PRP2 starts inside a page");
    let mut host = Host::new();
    host.read(1, 0, 1, page(&host) + 2, 0);
    host.complains_of("PRP1 is no double word");
    let mut host = Host::new();
    host.memory.store(LIST, page(&host) + 8);
    host.read(1, 0, 4, page(&host), host.base + LIST as u64);
    host.complains_of("a list entry starts inside a page");
    let mut host = Host::new();
    host.read(1, 0, 1, 0x1234_0000_0000, 0);
    host.complains_of("were not given to the device");
}

#[test]
fn canary_a_buffer_that_was_given_back_too_early_is_noticed() {
    let pool = Pool::new(PoolConfig { slots: [4, 1, 1], huge: false }).expect("pool");
    let mut host = Host::new();
    let [range, ..] = pool.ranges();
    let at = host.model.map(range.clone()).expect("maps");
    let buf = pool.alloc(4096).expect("slot");
    let iova = at + (buf.as_ptr() as usize - range.addr()) as u64;
    host.read(1, 0, 1, iova, 0);
    assert!(host.model.violations().is_empty());
    drop(buf);
    host.read(2, 0, 1, iova, 0);
    host.complains_of("given back to its pool");
    let shared = pool.alloc(4096).expect("the same slot").freeze();
    let _twin = shared.clone();
    host.read(3, 0, 1, iova, 0);
    host.complains_of("is shared");
}

#[test]
fn canary_blocks_beyond_the_namespace_and_transfers_beyond_mdts_are_noticed() {
    let mut host = Host::new();
    let page = host.base + 32768;
    host.read(1, 4096, 1, page, 0);
    host.complains_of("blocks 4096");
    host.read(2, 0, 64, page, host.base + LIST as u64);
    host.complains_of("MDTS");
}

#[test]
fn canary_an_identifier_that_is_in_use_is_noticed() {
    let mut host = Host::new();
    let page = host.base + 32768;
    host.model.plant(|faults| faults.stuck = 1);
    host.read(9, 0, 1, page, 0);
    host.read(9, 0, 1, page, 0);
    host.complains_of("identifier 9 is in use");
}
