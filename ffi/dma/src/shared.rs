//! Memory that a device and its driver share word by word: rings, lists, pages that answers arrive in.
//!
//! The other side writes at any time, so nobody may hold a reference to plain bytes of it. Everything is an
//! atomic word of 64 bits, which is what such structures are made of: a load sees all that was written before
//! the word it reads (acquire), a store shows all that was written before it (release).

use crate::region::{Pages, Region};
use crate::{Backing, PoolError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One mapping, freed with its last handle.
struct Inner {
    region: Region,
    backing: Backing,
    note: String,
}

/// Zeroed, contiguous, page-locked memory for a device's queues. Cloning shares it.
#[derive(Clone)]
pub struct DmaMemory {
    inner: Arc<Inner>,
}

impl DmaMemory {
    /// Maps at least `bytes`: in 2 MiB pages when `huge` and the host has free ones, else in ordinary pages
    /// that are locked. [`DmaMemory::note`] says aloud what was not had.
    pub fn new(bytes: usize, huge: bool) -> Result<Self, PoolError> {
        if huge && let Ok(region) = Region::map(bytes, Pages::Reserved) {
            let inner = Inner { region, backing: Backing::Huge, note: String::new() };
            return Ok(Self { inner: Arc::new(inner) });
        }
        let region = Region::map(bytes, Pages::Joined).map_err(|source| PoolError::Map { bytes, source })?;
        let mut note = String::new();
        if huge {
            note = "queue memory in ordinary pages: no free 2 MiB page (raise vm.nr_hugepages)".to_owned();
        }
        if let Err(error) = region.lock() {
            let gap = if note.is_empty() { "" } else { "; " };
            note.push_str(&format!(
                "{gap}queue memory not locked ({error}): raise the limit on locked memory"
            ));
        }
        let backing = if huge { Backing::OrdinaryFallback } else { Backing::Ordinary };
        Ok(Self { inner: Arc::new(Inner { region, backing, note }) })
    }

    /// Length in bytes, a multiple of 2 MiB.
    pub fn bytes(&self) -> usize {
        self.inner.region.bytes()
    }

    /// Address of the first byte, aligned to 2 MiB.
    pub fn addr(&self) -> usize {
        self.inner.region.base().as_ptr() as usize
    }

    /// What pages it is made of.
    pub fn backing(&self) -> Backing {
        self.inner.backing
    }

    /// What an operator should know; empty if nothing.
    pub fn note(&self) -> &str {
        &self.inner.note
    }

    /// `count` words from byte `at` on.
    ///
    /// # Panics
    /// When `at` is no multiple of 8 or the words do not lie in the memory.
    #[inline(always)] // its check folds where the count is a constant
    pub fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        let fits = at.is_multiple_of(8)
            && count
                .checked_mul(8)
                .and_then(|len| len.checked_add(at))
                .is_some_and(|end| end <= self.bytes());
        assert!(fits, "{count} words at {at} of {} bytes", self.bytes());
        // SAFETY: the range lies in a mapping that `self` keeps, aligned to 8 because the mapping is; whoever
        // has the address (a device, or an emulated one through `DeviceSpace`) and all users of this face
        // treat it as atomic words, and every value of a word is valid.
        unsafe {
            let first = self.inner.region.base().as_ptr().add(at).cast::<AtomicU64>();
            std::slice::from_raw_parts(first, count)
        }
    }

    /// The word at byte `at`.
    #[inline]
    pub fn load(&self, at: usize) -> u64 {
        self.words(at, 1)[0].load(Ordering::Acquire)
    }

    /// Sets the word at byte `at`.
    #[inline]
    pub fn store(&self, at: usize, value: u64) {
        self.words(at, 1)[0].store(value, Ordering::Release);
    }

    /// Copies words out, little-endian, into whole words of `to`.
    pub fn copy_out(&self, at: usize, to: &mut [u8]) {
        let (words, rest) = to.as_chunks_mut::<8>();
        assert!(rest.is_empty(), "whole words are copied");
        let from = self.words(at, words.len());
        for (bytes, word) in words.iter_mut().zip(from) {
            *bytes = word.load(Ordering::Acquire).to_le_bytes();
        }
    }

    /// Sets `bytes` (a multiple of 8) from `at` on to zero.
    pub fn clear(&self, at: usize, bytes: usize) {
        for word in self.words(at, bytes / 8) {
            word.store(0, Ordering::Release);
        }
    }
}

impl std::fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaMemory({} bytes, {:?})", self.bytes(), self.backing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_zeroed_aligned_and_read_as_it_was_written() {
        let memory = DmaMemory::new(100, false).expect("maps");
        assert_eq!((memory.bytes(), memory.addr() % (2 << 20)), (2 << 20, 0));
        assert!(memory.words(0, memory.bytes() / 8).iter().all(|word| word.load(Ordering::Relaxed) == 0));
        memory.store(16, 0x0807_0605_0403_0201);
        let twin = memory.clone();
        assert_eq!(twin.load(16), 0x0807_0605_0403_0201);
        let mut bytes = [9; 16];
        twin.copy_out(8, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        twin.clear(16, 8);
        assert_eq!(memory.load(16), 0);
    }

    #[test]
    fn a_host_without_huge_pages_is_told_and_served() {
        let memory = DmaMemory::new(4096, true).expect("maps");
        match memory.backing() {
            Backing::Huge => assert!(memory.note().is_empty()),
            Backing::OrdinaryFallback => assert!(memory.note().contains("nr_hugepages"), "{}", memory.note()),
            Backing::Ordinary => panic!("huge pages were asked for"),
        }
        memory.store(8, 1);
    }

    #[test]
    #[should_panic(expected = "2 words at 2097144")]
    fn words_beyond_the_memory_are_refused() {
        let memory = DmaMemory::new(8, false).expect("maps");
        let _ = memory.words((2 << 20) - 8, 2);
    }
}
