//! Registers, queues and the order in which an emulated controller works.

use crate::config::ModelConfig;
use crate::fault::{BadCompletion, Faults};
use crate::media::Media;
use palisade_dma::DeviceSpace;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, VecDeque};

/// Commands that are remembered for tests.
const SEEN_MAX: usize = 4096;
/// Status: aborted on request, internal error (may be tried again), unrecovered read error.
pub(crate) const ABORTED: u16 = 0x0007;

/// A submission queue as the device sees it.
pub(crate) struct Submissions {
    pub(crate) at: u64,
    pub(crate) size: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) completions: u16,
}

/// A completion queue as the device sees it.
pub(crate) struct Completions {
    pub(crate) at: u64,
    pub(crate) size: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) phase: bool,
}

/// A command that was fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    pub(crate) queue: u16,
    pub(crate) words: [u64; 8],
    /// Steps until it is carried out.
    pub(crate) wait: u32,
    /// Never by itself.
    pub(crate) stuck: bool,
}

impl Fetched {
    pub(crate) fn opcode(&self) -> u8 {
        self.words[0] as u8
    }
    pub(crate) fn cid(&self) -> u16 {
        (self.words[0] >> 16) as u16
    }
    pub(crate) fn nsid(&self) -> u32 {
        (self.words[0] >> 32) as u32
    }
    /// Command double word 10 to 15.
    pub(crate) fn dw(&self, number: usize) -> u32 {
        (self.words[number / 2] >> (number % 2 * 32)) as u32
    }
}

/// The whole controller.
pub(crate) struct Controller {
    pub(crate) config: ModelConfig,
    pub(crate) faults: Faults,
    pub(crate) space: DeviceSpace,
    pub(crate) media: Media,
    pub(crate) random: Xoshiro256PlusPlus,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    ready_in: u32,
    pub(crate) is_removed: bool,
    pub(crate) submissions: BTreeMap<u16, Submissions>,
    pub(crate) completions: BTreeMap<u16, Completions>,
    pub(crate) shadow: Option<(u64, u64)>,
    pub(crate) under_way: Vec<Fetched>,
    /// Completions for which the queue had no room.
    unsent: VecDeque<(u16, [u64; 2])>,
    pub(crate) event_requests: Vec<Fetched>,
    pub(crate) events: VecDeque<u32>,
    pub(crate) health: (u8, u64),
    pub(crate) violations: Vec<String>,
    pub(crate) carried_out: u64,
    pub(crate) starts: u64,
    pub(crate) seen: VecDeque<(u8, bool, bool)>,
}

impl Controller {
    pub(crate) fn new(config: ModelConfig, media: Media) -> Self {
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            config,
            faults: Faults::default(),
            space: DeviceSpace::default(),
            media,
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            ready_in: 0,
            is_removed: false,
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            shadow: None,
            under_way: Vec::with_capacity(1024),
            unsent: VecDeque::with_capacity(1024),
            event_requests: Vec::new(),
            events: VecDeque::new(),
            health: (0, 0),
            violations: Vec::new(),
            carried_out: 0,
            starts: 0,
            seen: VecDeque::with_capacity(SEEN_MAX),
        }
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.random.next_u32() % limit.max(1)
    }

    /// Notes what the driver did wrong.
    pub(crate) fn violated(&mut self, what: String) {
        if self.violations.len() < 32 {
            self.violations.push(what);
        }
    }

    pub(crate) fn read(&mut self, at: usize) -> u32 {
        if self.is_removed {
            return u32::MAX;
        }
        if self.config.eager {
            self.step();
        }
        let noise = self.faults.chance.registers;
        if noise > 0 && self.below(10_000) < noise {
            return self.random.next_u32();
        }
        match at {
            0x00 => self.config.cap as u32,
            0x04 => (self.config.cap >> 32) as u32,
            0x08 => 0x0002_0000,
            0x14 => self.cc,
            0x1c => self.csts,
            0x24 => self.aqa,
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, at: usize, value: u32) {
        if self.is_removed {
            return;
        }
        match at {
            0x14 => self.configure(value),
            0x24 => self.aqa = value,
            0x28 => self.asq = self.asq & !0xffff_ffff | u64::from(value),
            0x2c => self.asq = self.asq & 0xffff_ffff | u64::from(value) << 32,
            0x30 => self.acq = self.acq & !0xffff_ffff | u64::from(value),
            0x34 => self.acq = self.acq & 0xffff_ffff | u64::from(value) << 32,
            0x1000.. => self.ring(at - 0x1000, value),
            _ => {}
        }
    }

    fn configure(&mut self, value: u32) {
        let (old, new) = (self.cc & 1, value & 1);
        self.cc = value;
        if old == 0 && new == 1 {
            self.starts += 1;
            if value >> 16 & 0xff != 0x46 {
                self.violated(format!("entry sizes of CC {value:#x}"));
            }
            self.ready_in = self.config.ready_steps + 1;
        } else if old == 1 && new == 0 {
            self.ready_in = self.config.ready_steps + 1;
            // Commands stop at once; memory is left alone from here on.
            self.forget();
            if self.faults.reset_loses_cache {
                self.media.lose_power(|_| false);
            }
        }
        if value >> 14 & 3 != 0 {
            self.media.flush();
            self.csts |= 2 << 2; // shutdown processing complete
        }
        if self.config.eager {
            self.step();
        }
    }

    fn forget(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.shadow = None;
        self.under_way.clear();
        self.unsent.clear();
        self.event_requests.clear();
    }

    pub(crate) fn set_fatal(&mut self) {
        self.csts |= 2;
        self.forget();
    }

    fn ring(&mut self, at: usize, value: u32) {
        let stride = 4 << (self.config.cap >> 32 & 0xf);
        let (index, value) = (at / stride, value & 0xffff);
        let queue = (index / 2) as u16;
        let size = if index % 2 == 0 {
            self.submissions.get(&queue).map(|queue| queue.size)
        } else {
            self.completions.get(&queue).map(|queue| queue.size)
        };
        // While it is stopped the driver may still ring for queues that are no more.
        if self.csts & 3 != 1 {
            return;
        }
        if !at.is_multiple_of(stride) || size.is_none_or(|size| value >= size) {
            return self.violated(format!("doorbell {index} of no queue, or beyond it: {value}"));
        }
        if index % 2 == 0 {
            self.submissions.entry(queue).and_modify(|queue| queue.tail = value);
        } else {
            self.completions.entry(queue).and_modify(|queue| queue.head = value);
        }
        if self.config.eager {
            self.work();
        }
    }

    /// A step: registers follow, commands are fetched, some are carried out.
    pub(crate) fn step(&mut self) {
        if self.is_removed {
            return;
        }
        if self.ready_in > 0 {
            self.ready_in = if self.config.eager { 0 } else { self.ready_in - 1 };
            if self.ready_in == 0 {
                self.follow();
            }
        }
        self.work();
    }

    /// CSTS follows CC.
    fn follow(&mut self) {
        if self.cc & 1 == 0 {
            if !self.faults.never_stops {
                self.csts = 0;
            }
        } else if self.faults.fatal_start {
            self.csts |= 2;
        } else if !self.faults.never_ready {
            self.csts = 1;
            let (asqs, acqs) = ((self.aqa & 0xfff) + 1, (self.aqa >> 16 & 0xfff) + 1);
            let queue = Submissions { at: self.asq, size: asqs, head: 0, tail: 0, completions: 0 };
            self.submissions.insert(0, queue);
            self.completions
                .insert(0, Completions { at: self.acq, size: acqs, head: 0, tail: 0, phase: true });
        }
    }

    fn work(&mut self) {
        if self.csts & 3 != 1 {
            return;
        }
        for queue in self.submissions.keys().copied().collect::<smallvec::SmallVec<[u16; 4]>>() {
            self.look_at_shadow(queue);
            self.fetch(queue);
        }
        self.send_unsent();
        let mut at = 0;
        while at < self.under_way.len() {
            let command = &mut self.under_way[at];
            if command.stuck || command.wait > 0 {
                command.wait = command.wait.saturating_sub(1);
                at += 1;
                continue;
            }
            let command = self.under_way.remove(at);
            self.carry_out(command);
            if self.csts & 3 != 1 {
                return; // it fell into a fatal state over this one
            }
        }
        self.tell_events();
    }

    /// Base 5.11: with shadow doorbells the values are in memory, and the event index says how far we looked.
    fn look_at_shadow(&mut self, queue: u16) {
        let Some((shadow, events)) = self.shadow.filter(|_| queue > 0) else { return };
        let stride = 4 << (self.config.cap >> 32 & 0xf);
        let at = 2 * u64::from(queue) * stride;
        // A device that polls puts the index behind itself, so that it is not rung for; one that is about to
        // rest puts it where it stands.
        let behind = u32::from(self.below(4) > 0);
        let (mut tail, mut head) = ([0; 4], [0; 4]);
        let event = |value: [u8; 4]| u32::from_le_bytes(value).wrapping_sub(behind).to_le_bytes();
        let read = self.space.read(shadow + at, &mut tail).and_then(|()| {
            self.space.read(shadow + at + stride, &mut head)?;
            self.space.write(events + at, &event(tail))?;
            self.space.write(events + at + stride, &event(head))
        });
        if let Err(fault) = read {
            return self.violated(format!("shadow doorbells: {fault}"));
        }
        let (tail, head) = (u32::from_le_bytes(tail), u32::from_le_bytes(head));
        self.submissions.entry(queue).and_modify(|queue| queue.tail = tail);
        self.completions.entry(queue).and_modify(|queue| queue.head = head);
    }

    fn fetch(&mut self, queue: u16) {
        loop {
            let Some(state) = self.submissions.get_mut(&queue) else { return };
            if state.head == state.tail || state.tail >= state.size {
                return;
            }
            let at = state.at + u64::from(state.head) * 64;
            state.head = (state.head + 1) % state.size;
            let mut words = [0; 8];
            for (i, word) in words.iter_mut().enumerate() {
                match self.space.load(at + i as u64 * 8) {
                    Ok(value) => *word = value,
                    Err(fault) => return self.violated(format!("submission queue {queue}: {fault}")),
                }
            }
            let limit = if self.config.eager { 1 } else { self.config.delay_steps + 1 };
            let wait = if limit == 1 { 0 } else { self.below(limit) };
            let mut command = Fetched { queue, words, wait, stuck: false };
            let twin = |other: &Fetched| (other.queue, other.cid()) == (queue, command.cid());
            if self.under_way.iter().chain(&self.event_requests).any(twin) {
                self.violated(format!("identifier {} is in use", command.cid()));
            }
            command.stuck = queue > 0 && self.is_to_hang();
            self.under_way.push(command);
        }
    }

    fn is_to_hang(&mut self) -> bool {
        if self.faults.stuck > 0 {
            self.faults.stuck -= 1;
            return true;
        }
        let chance = self.faults.chance.stuck;
        chance > 0 && self.below(10_000) < chance
    }

    fn carry_out(&mut self, command: Fetched) {
        if command.queue == 0 {
            return self.admin(command);
        }
        self.carried_out += 1;
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((
            command.opcode(),
            command.dw(12) >> 30 & 1 == 1,
            command.words[0] >> 14 & 3 == 1,
        ));
        let chance = self.faults.chance;
        if chance.fatal > 0 && self.below(10_000) < chance.fatal {
            return self.set_fatal();
        }
        let planted = if self.faults.status.is_empty() { None } else { Some(self.faults.status.remove(0)) };
        let by_chance = chance.status > 0 && self.below(10_000) < chance.status;
        let status = match planted {
            Some(status) if status != 0 => status,
            // Internal error that may pass, the same for good, unrecovered read error.
            None if by_chance => [0x0006, 0x4006, 0x4281][self.below(3) as usize],
            _ => self.io(&command),
        };
        self.complete(&command, 0, status);
    }

    /// Writes a completion, or what is planted instead of it.
    pub(crate) fn complete(&mut self, command: &Fetched, dw0: u32, status: u16) {
        let head = self.submissions.get(&command.queue).map_or(0, |queue| queue.head);
        let cid = command.cid();
        let entry = |queue: u16, cid: u16| {
            let second = u64::from(head) | u64::from(queue) << 16 | u64::from(cid) << 32;
            [u64::from(dw0), second | u64::from(status) << 49]
        };
        let chance = self.faults.chance.bad;
        let by_chance = chance > 0 && self.below(10_000) < chance;
        let bad = match command.queue {
            0 => None,
            _ if !self.faults.bad.is_empty() => Some(self.faults.bad.remove(0)),
            _ if by_chance => {
                // Of a place that drivers in these tests do not use: a lie that names another command under
                // way cannot be found out, by nobody.
                let any = self.below(1 << 16) as u16 | 0x200;
                let kinds = [
                    BadCompletion::WrongPhase,
                    BadCompletion::Cid(any),
                    BadCompletion::Queue(any),
                    BadCompletion::Doubled,
                ];
                Some(kinds[self.below(4) as usize])
            }
            _ => None,
        };
        let completions = self.submissions.get(&command.queue).map_or(0, |queue| queue.completions);
        let good = entry(command.queue, cid);
        match bad {
            None => self.send(completions, good),
            Some(BadCompletion::WrongPhase) => self.forge(completions, good, false),
            Some(BadCompletion::Cid(other)) => self.send(completions, entry(command.queue, other)),
            Some(BadCompletion::Queue(other)) => self.send(completions, entry(other, cid)),
            Some(BadCompletion::Doubled) => {
                self.send(completions, good);
                self.send(completions, good);
            }
        }
    }

    fn send(&mut self, queue: u16, entry: [u64; 2]) {
        self.unsent.push_back((queue, entry));
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        for _ in 0..self.unsent.len() {
            let Some((queue, entry)) = self.unsent.pop_front() else { return };
            let is_full = self.completions.get(&queue).is_some_and(|q| (q.tail + 1) % q.size == q.head);
            if is_full {
                self.unsent.push_back((queue, entry));
            } else {
                self.forge(queue, entry, true);
            }
        }
    }

    /// Writes an entry where the next one goes; with the wrong phase nobody sees it, and it stays the next.
    pub(crate) fn forge(&mut self, queue: u16, entry: [u64; 2], phase: bool) {
        let Some(state) = self.completions.get_mut(&queue) else { return };
        let at = state.at + u64::from(state.tail) * 16;
        let tag = u64::from(state.phase == phase) << 48;
        if phase {
            state.tail = (state.tail + 1) % state.size;
            state.phase ^= state.tail == 0;
        }
        let second = entry[1] & !(1 << 48) | tag;
        let written = self.space.store(at, entry[0]).and_then(|()| self.space.store(at + 8, second));
        if let Err(fault) = written {
            self.violated(format!("completion queue {queue}: {fault}"));
        }
    }
}
