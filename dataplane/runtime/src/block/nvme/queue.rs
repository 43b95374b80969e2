//! A submission queue and its completion queue (NVMe Base 2.0 section 3.3.1): entries, phases, doorbells.
//! What commands mean is not known here.
//!
//! Doorbells are batched: entries are stored as they come and one write per turn tells the device of all of
//! them; the same for completions that were taken. With shadow doorbells (Base 5.11) even that write is left
//! out while the device looks at memory by itself.

use super::command::{COMMAND_BYTES, COMMAND_WORDS, COMPLETION_BYTES, Command, Completion, phase, set_cid};
use super::device::NvmeDevice;
use super::registers::{DOORBELLS, tail_doorbell};
use palisade_dma::DmaMemory;
use std::sync::atomic::{Ordering, fence};

/// Where a queue pair is and how large.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePlace {
    /// Its number: 0 is the admin queue.
    pub(super) id: u16,
    /// Entries of each of the two.
    pub(super) entries: u16,
    /// Offset of the submission queue in the queue memory.
    pub(super) submissions: usize,
    /// Offset of the completion queue.
    pub(super) completions: usize,
    /// Bytes between doorbells.
    pub(super) stride: usize,
}

/// Where shadow doorbells and event indices are in the queue memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shadow {
    pub(super) doorbells: usize,
    pub(super) events: usize,
}

/// Doorbell writes, and those that a shadow made needless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorbellCounts {
    /// Writes to registers.
    pub written: u64,
    /// Left out, because the device looks at memory by itself.
    pub spared: u64,
}

/// A queue pair as its only user sees it.
pub(super) struct QueuePair {
    memory: DmaMemory,
    place: QueuePlace,
    /// Where the next command goes.
    tail: u16,
    /// Where the next completion is expected.
    head: u16,
    /// The phase tag of new completions: 1 in the first lap, then inverted each lap.
    phase: bool,
    /// What the device was told last.
    tail_told: u16,
    head_told: u16,
    shadow: Option<Shadow>,
    doorbells: DoorbellCounts,
}

impl QueuePair {
    pub(super) fn new(memory: DmaMemory, place: QueuePlace) -> Self {
        assert!(place.entries >= 2, "a queue of one entry is always full and empty");
        let mut this = Self {
            memory,
            place,
            tail: 0,
            head: 0,
            phase: true,
            tail_told: 0,
            head_told: 0,
            shadow: None,
            doorbells: DoorbellCounts::default(),
        };
        this.restart(None);
        this
    }

    /// Forgets everything, as the device does in a reset. Only while it has no access to the memory.
    pub(super) fn restart(&mut self, shadow: Option<Shadow>) {
        (self.tail, self.head, self.phase) = (0, 0, true);
        (self.tail_told, self.head_told) = (0, 0);
        // Base 3.3.3.2: phase tags are 0 before the queue is given to the device.
        self.memory.clear(self.place.completions, usize::from(self.place.entries) * COMPLETION_BYTES);
        self.shadow = shadow;
    }

    pub(super) fn place(&self) -> QueuePlace {
        self.place
    }

    pub(super) fn doorbells(&self) -> DoorbellCounts {
        self.doorbells
    }

    /// Stores a command. Its owner has fewer than `entries` commands under way, so the entry is free: the
    /// device takes entries in order, and has taken those of every command that ended.
    #[inline(always)]
    pub(super) fn push(&mut self, mut command: Command, cid: u16) {
        set_cid(&mut command, cid);
        let at = self.place.submissions + usize::from(self.tail) * COMMAND_BYTES;
        for (word, value) in self.memory.words(at, COMMAND_WORDS).iter().zip(command) {
            word.store(value, Ordering::Relaxed); // told, with release, by the doorbell
        }
        self.tail = self.next(self.tail);
    }

    /// The next completion, if the device has written it.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let at = self.place.completions + usize::from(self.head) * COMPLETION_BYTES;
        let words = self.memory.words(at, 2);
        // The phase tag stands in the word that the device writes last; what it wrote before is seen with it.
        let second = words[1].load(Ordering::Acquire);
        if phase(second) != self.phase {
            return None;
        }
        let done = Completion::decode(words[0].load(Ordering::Relaxed), second);
        self.head = self.next(self.head);
        if self.head == 0 {
            self.phase = !self.phase;
        }
        Some(done)
    }

    /// Tells the device of commands stored and completions taken since the last time.
    #[inline]
    pub(super) fn ring(&mut self, device: &dyn NvmeDevice) {
        let at = tail_doorbell(self.place.id, self.place.stride);
        if self.tail != self.tail_told {
            self.tell(device, at, self.tail_told, self.tail);
            self.tail_told = self.tail;
        }
        if self.head != self.head_told {
            self.tell(device, at + self.place.stride, self.head_told, self.head);
            self.head_told = self.head;
        }
    }

    #[inline]
    fn next(&self, at: u16) -> u16 {
        if at + 1 == self.place.entries { 0 } else { at + 1 }
    }

    fn tell(&mut self, device: &dyn NvmeDevice, at: usize, old: u16, new: u16) {
        if let Some(shadow) = self.shadow
            && !self.publish(shadow, at, old, new)
        {
            self.doorbells.spared += 1;
            return;
        }
        self.doorbells.written += 1;
        device.write32(DOORBELLS + at, u32::from(new));
    }

    /// Stores a doorbell in its shadow; returns whether the device wants the register written, too: that is
    /// when the value passes the event index (Base 5.11).
    fn publish(&self, shadow: Shadow, at: usize, old: u16, new: u16) -> bool {
        let (word, shift) = (at & !7, (at & 4) * 8);
        let value = &self.memory.words(shadow.doorbells + word, 1)[0];
        // The neighbour in the word is the other doorbell of this pair; nobody else writes either.
        let kept = value.load(Ordering::Relaxed) & !(0xffff_ffff << shift);
        value.store(kept | u64::from(new) << shift, Ordering::Release);
        // The store must be seen before the index is read, or each side could miss the other's.
        fence(Ordering::SeqCst);
        let event = (self.memory.load(shadow.events + word) >> shift) as u16;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::nvme::device::MapError;
    use palisade_dma::DmaRange;
    use std::sync::{Arc, Mutex};

    /// Register writes: where and what.
    type Written = Arc<Mutex<Vec<(usize, u32)>>>;

    /// Notes what is written.
    struct Bells(Written);

    impl NvmeDevice for Bells {
        fn name(&self) -> &str {
            "bells"
        }
        fn register_bytes(&self) -> usize {
            0x2000
        }
        fn read32(&self, _at: usize) -> u32 {
            0
        }
        fn write32(&self, at: usize, value: u32) {
            self.0.lock().expect("not poisoned").push((at, value));
        }
        fn map(&mut self, _range: DmaRange) -> Result<u64, MapError> {
            Ok(0)
        }
        fn isolate(&mut self) -> bool {
            true
        }
    }

    fn pair(stride: usize) -> (QueuePair, DmaMemory, Bells, Written) {
        let memory = DmaMemory::new(64 << 10, false).expect("maps");
        let place = QueuePlace { id: 1, entries: 4, submissions: 0, completions: 4096, stride };
        let written = Written::default();
        (QueuePair::new(memory.clone(), place), memory, Bells(Arc::clone(&written)), written)
    }

    #[test]
    fn completions_are_taken_by_their_phase_over_laps() {
        let (mut queue, memory, bells, written) = pair(4);
        for turn in 0..10u64 {
            assert_eq!(queue.pop(), None);
            let at = 4096 + (turn as usize % 4) * 16;
            let phase = u64::from((turn / 4) % 2 == 0);
            memory.store(at, turn);
            memory.store(at + 8, (1 - phase) << 48 | turn << 32);
            assert_eq!(queue.pop(), None, "the wrong phase is an old entry");
            memory.store(at + 8, phase << 48 | turn << 32);
            let done = queue.pop().expect("new");
            assert_eq!((u64::from(done.dw0), u64::from(done.cid)), (turn, turn));
            queue.ring(&bells);
        }
        let heads: Vec<(usize, u32)> = (1..=10).map(|head| (0x100c, head % 4)).collect();
        assert_eq!(*written.lock().expect("not poisoned"), heads);
    }

    #[test]
    fn one_doorbell_tells_of_all_commands_of_a_turn() {
        let (mut queue, memory, bells, written) = pair(16);
        for cid in 0..3 {
            queue.push([9; 8], cid);
        }
        queue.ring(&bells);
        queue.ring(&bells);
        assert_eq!(*written.lock().expect("not poisoned"), [(0x1020, 3)]);
        assert_eq!(memory.load(2 * 64) >> 16 & 0xffff, 2);
        assert_eq!(queue.doorbells(), DoorbellCounts { written: 1, spared: 0 });
    }

    #[test]
    fn shadow_doorbells_spare_the_register_until_the_event_index_is_passed() {
        let (mut queue, memory, bells, written) = pair(4);
        queue.restart(Some(Shadow { doorbells: 8192, events: 12288 }));
        queue.push([0; 8], 0);
        queue.ring(&bells); // from 0 to 1 passes index 0
        memory.store(12288 + 8, 2); // the device wants to hear when 2 is passed
        queue.push([0; 8], 1);
        queue.ring(&bells);
        queue.push([0; 8], 2);
        queue.ring(&bells);
        assert_eq!(*written.lock().expect("not poisoned"), [(0x1008, 1), (0x1008, 3)]);
        assert_eq!(memory.load(8192 + 8), 3);
        memory.store(4096 + 8, 1 << 48);
        assert!(queue.pop().is_some());
        queue.ring(&bells);
        assert_eq!(memory.load(8192 + 8), 1 << 32 | 3, "both doorbells of a pair share a word");
        assert_eq!(queue.doorbells().spared, 1);
    }
}
