//! Random work on a device that goes wrong at random, from fixed seeds: every request is answered once, what is
//! read is what may stand there, and what was made durable survives a loss of power.

use palisade_nvme_model::{AbortMode, Answer, Chances, Model, ModelConfig, Rig};
use palisade_runtime::block::BlockPort;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;

/// Blocks of the device: few, so that they are written again and again.
const BLOCKS: u64 = 96;
/// Rounds of requests.
const ROUNDS: u32 = 300;

/// What may stand in a block: versions that were written, the newest last.
#[derive(Clone, Debug)]
struct Block {
    allowed: Vec<u32>,
    /// The version that a completed write left, if nothing is in doubt.
    sure: Option<u32>,
    /// A reset may have lost what a flush has not covered.
    doubtful: bool,
    busy: bool,
}

enum Asked {
    Read { lba: u64, blocks: u64 },
    Write { lba: u64, blocks: u64, version: u32, durable: bool },
    Flush { covers: Vec<Option<u32>> },
}

struct Torture {
    rig: Rig,
    random: Xoshiro256PlusPlus,
    block: usize,
    cache: bool,
    loses_cache: bool,
    blocks: Vec<Block>,
    asked: BTreeMap<u64, Asked>,
    versions: u32,
    failures: u32,
}

fn fill(block: &mut [u8], lba: u64, version: u32) {
    if version == 0 {
        return block.fill(0);
    }
    for (at, word) in block.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(lba << 48 | u64::from(version) << 16 | at as u64).to_le_bytes());
    }
}

impl Torture {
    fn new(seed: u64, chance: Chances) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut coin = || random.next_u32() & 1 == 1;
        let (large, cache, loses_cache) = (coin(), coin(), coin());
        let config = ModelConfig {
            blocks: BLOCKS,
            block_shift: if large { 12 } else { 9 },
            mdts: 1,
            volatile_cache: cache,
            sgl: coin(),
            shadow_doorbells: coin(),
            delay_steps: 1 + (seed % 7) as u32,
            seed,
            ..ModelConfig::default()
        };
        let modes = [AbortMode::Works, AbortMode::Refused, AbortMode::Late(40), AbortMode::Silent];
        let model = Model::new(config);
        model.plant(|faults| {
            faults.chance = chance;
            faults.reset_loses_cache = loses_cache;
            faults.abort = modes[seed as usize % 4];
        });
        let new = Block { allowed: vec![0], sure: Some(0), doubtful: false, busy: false };
        Self {
            rig: Rig::on(model, Rig::options()).expect("starts"),
            random,
            block: if large { 4096 } else { 512 },
            cache,
            loses_cache,
            blocks: vec![new; BLOCKS as usize],
            asked: BTreeMap::new(),
            versions: 0,
            failures: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    /// A range in which nothing is under way.
    fn free_range(&mut self) -> Option<(u64, u64)> {
        let lba = self.below(BLOCKS);
        let blocks = 1 + self.below((BLOCKS - lba).min(40));
        let range = &mut self.blocks[lba as usize..(lba + blocks) as usize];
        if range.iter().any(|block| block.busy) {
            return None;
        }
        range.iter_mut().for_each(|block| block.busy = true);
        Some((lba, blocks))
    }

    fn ask(&mut self) {
        if self.below(12) == 0 {
            let covers = self.blocks.iter().map(|block| block.sure).collect();
            let key = self.rig.flush();
            self.asked.insert(key, Asked::Flush { covers });
            return;
        }
        let Some((lba, blocks)) = self.free_range() else { return };
        let offset = lba * self.block as u64;
        if self.below(2) == 0 {
            let key = self.rig.read(offset, blocks as usize * self.block);
            self.asked.insert(key, Asked::Read { lba, blocks });
            return;
        }
        if self.below(8) == 0 {
            // Zeroes are what a block held before anything was written: version 0.
            for block in &mut self.blocks[lba as usize..(lba + blocks) as usize] {
                block.allowed.push(0);
                block.sure = None;
            }
            let key = self.rig.write_zeroes(offset, blocks * self.block as u64);
            self.asked.insert(key, Asked::Write { lba, blocks, version: 0, durable: !self.cache });
            return;
        }
        self.versions += 1;
        let (version, fua) = (self.versions, self.below(4) == 0);
        let mut bytes = vec![0; blocks as usize * self.block];
        for (at, block) in bytes.chunks_mut(self.block).enumerate() {
            fill(block, lba + at as u64, version);
        }
        for block in &mut self.blocks[lba as usize..(lba + blocks) as usize] {
            block.allowed.push(version);
            block.sure = None;
        }
        // Cut into parts at random blocks, each in a place of its own.
        let mut bufs = smallvec::SmallVec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let take = (1 + self.below(8) as usize).min(rest.len() / self.block) * self.block;
            bufs.push(self.rig.buf(&rest[..take]));
            rest = &rest[take..];
        }
        let key = self.rig.write_parts(offset, bufs, fua);
        self.asked.insert(key, Asked::Write { lba, blocks, version, durable: fua || !self.cache });
    }

    fn answered(&mut self, key: u64, answer: Answer) {
        let asked = self.asked.remove(&key).expect("asked once");
        self.failures += u32::from(answer.is_err());
        match (asked, answer) {
            (Asked::Read { lba, blocks }, answer) => {
                if let Ok(bytes) = answer {
                    self.compare(lba, &bytes.expect("a read has bytes"));
                }
                self.release(lba, blocks);
            }
            (Asked::Write { lba, blocks, version, durable }, answer) => {
                for block in &mut self.blocks[lba as usize..(lba + blocks) as usize] {
                    if answer.is_ok() {
                        (block.sure, block.doubtful) = (Some(version), false);
                        if durable {
                            block.allowed = vec![version];
                        }
                    }
                }
                self.release(lba, blocks);
            }
            (Asked::Flush { covers }, Ok(_)) => {
                for (block, covered) in self.blocks.iter_mut().zip(covers) {
                    let covered = covered.filter(|_| !block.doubtful);
                    if let Some(at) = covered.and_then(|v| block.allowed.iter().position(|&other| other == v))
                    {
                        block.allowed.drain(..at);
                    }
                }
            }
            (Asked::Flush { .. }, Err(_)) => {
                self.blocks.iter_mut().for_each(|block| block.doubtful |= block.allowed.len() > 1);
            }
        }
    }

    fn release(&mut self, lba: u64, blocks: u64) {
        let range = &mut self.blocks[lba as usize..(lba + blocks) as usize];
        range.iter_mut().for_each(|block| block.busy = false);
    }

    /// Each block holds a version that may stand there.
    fn compare(&self, lba: u64, bytes: &[u8]) {
        for (at, bytes) in bytes.chunks(self.block).enumerate() {
            let lba = lba + at as u64;
            let block = &self.blocks[lba as usize];
            let mut wanted = vec![0; self.block];
            let holds = |version: u32, wanted: &mut Vec<u8>| {
                fill(wanted, lba, version);
                wanted == bytes
            };
            let fits = match block.sure {
                Some(version) if !self.loses_cache || !self.cache => holds(version, &mut wanted),
                _ => block.allowed.iter().any(|&version| holds(version, &mut wanted)),
            };
            assert!(fits, "block {lba} holds {:?}, allowed {block:?}", &bytes[..16]);
        }
    }

    fn run(&mut self) {
        for _ in 0..ROUNDS {
            for _ in 0..self.below(6) {
                self.ask();
            }
            let turns = 1 + self.below(4);
            for _ in 0..turns {
                self.rig.turn();
            }
            self.take();
        }
        self.rig.drain();
        self.take();
        assert!(self.asked.is_empty(), "every request was answered");
    }

    fn take(&mut self) {
        for (key, answer) in std::mem::take(&mut self.rig.answers) {
            self.answered(key, answer);
        }
    }

    /// Power is lost; what was durable is there, and nothing stands that was never written.
    fn verify_after_power_loss(&mut self) {
        let mut media = self.rig.model.media();
        let random = &mut self.random;
        media.lose_power(|_| random.next_u32() & 1 == 1);
        for lba in 0..BLOCKS {
            let block = &mut self.blocks[lba as usize];
            if block.allowed.len() > 1 {
                block.sure = None;
            }
            self.compare(lba, media.read(lba));
        }
    }
}

fn torture(seeds: std::ops::Range<u64>, chance: Chances) -> (u64, u32) {
    let (mut resets, mut failures) = (0, 0);
    for seed in seeds {
        let mut torture = Torture::new(seed, chance);
        torture.run();
        torture.rig.check();
        torture.verify_after_power_loss();
        resets += torture.rig.driver.stats().resets;
        failures += torture.failures;
        assert_eq!(torture.rig.driver.in_flight(), 0, "seed {seed}");
    }
    (resets, failures)
}

#[test]
fn random_work_on_a_sound_device_never_fails() {
    assert_eq!(torture(0..24, Chances::default()), (0, 0));
}

#[test]
fn random_work_survives_errors_lost_commands_and_aborts() {
    let chance = Chances { stuck: 20, status: 300, ..Chances::default() };
    let (_, failures) = torture(100..124, chance);
    assert!(failures > 0, "something went wrong");
}

#[test]
fn random_work_survives_fatal_states_and_bad_completions() {
    let chance = Chances { bad: 15, fatal: 15, ..Chances::default() };
    let (resets, _) = torture(200..224, chance);
    assert!(resets > 10, "{resets} resets");
}

#[test]
fn random_work_survives_everything_at_once() {
    let chance = Chances { stuck: 10, status: 100, bad: 10, fatal: 10, ..Chances::default() };
    let (resets, failures) = torture(300..340, chance);
    assert!(resets > 10 && failures > 10, "{resets} resets, {failures} failures");
}

#[test]
fn a_device_that_is_pulled_out_in_random_work_owes_nothing() {
    for seed in 400..416 {
        let mut torture = Torture::new(seed, Chances { fatal: 20, ..Chances::default() });
        for round in 0..200 {
            for _ in 0..3 {
                torture.ask();
            }
            torture.rig.turn();
            torture.take();
            if round == 100 {
                torture.rig.model.remove();
            }
        }
        torture.rig.drain();
        torture.take();
        assert!(torture.asked.is_empty() && torture.rig.driver.is_gone(), "seed {seed}");
        torture.rig.check();
    }
}
