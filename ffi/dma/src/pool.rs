//! Pools: slot classes, allocation, counters.

use crate::buf::BufMut;
use crate::region::Region;
use crossbeam_queue::ArrayQueue;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Slot sizes in bytes, smallest first: a logical block, a stripe unit, the largest single I/O.
pub const SLOT_CLASSES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];

/// How many slots of each class a pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Slots per class, in the order of [`SLOT_CLASSES`].
    pub slots: [usize; SLOT_CLASSES.len()],
    /// Try reserved 2 MiB pages first.
    pub huge: bool,
}

impl PoolConfig {
    /// A pool of about `bytes`: half in small slots, a quarter in stripe units, a quarter in large ones.
    pub fn sized(bytes: usize, huge: bool) -> Self {
        let share = |part: usize, class: usize| (part / SLOT_CLASSES[class]).max(8);
        Self { slots: [share(bytes / 2, 0), share(bytes / 4, 1), share(bytes / 4, 2)], huge }
    }

    /// A small pool of ordinary pages for tests and the simulator.
    pub fn small() -> Self {
        Self { slots: [4096, 256, 64], huge: false }
    }
}

/// What memory stands behind a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages.
    Huge,
    /// Ordinary pages, as configured.
    Ordinary,
    /// Ordinary pages because the host had too few huge ones.
    OrdinaryFallback,
}

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The kernel refused the memory.
    #[error(
        "cannot map {bytes} bytes of buffer memory: {source}; lower `pool` in the rack file or free memory"
    )]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Counters of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Free slots per class.
    pub free: [usize; SLOT_CLASSES.len()],
    /// Slots per class.
    pub total: [usize; SLOT_CLASSES.len()],
    /// Allocations refused because all fitting slots were out.
    pub exhausted: u64,
}

/// One class of slots.
pub(crate) struct Class {
    pub(crate) slot_bytes: usize,
    pub(crate) base: NonNull<u8>,
    pub(crate) counts: Box<[AtomicU32]>,
    pub(crate) free: ArrayQueue<u32>,
    _region: Region,
}

/// Shared state of a pool; lives until the last slot handle is gone.
pub(crate) struct Shared {
    pub(crate) classes: [Class; SLOT_CLASSES.len()],
    backing: Backing,
    exhausted: AtomicU64,
}

// SAFETY: base pointers lead to mappings owned by the same struct; slots are handed out one owner at a time.
unsafe impl Send for Shared {}
// SAFETY: all shared mutable state is atomic or a lock-free queue.
unsafe impl Sync for Shared {}

/// A set of slots. Cloning shares it.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Maps the memory and fills the free lists. Falls back to ordinary pages when huge ones run out.
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        let mut backing = if config.huge { Backing::Huge } else { Backing::Ordinary };
        let mut make = |index: usize| -> Result<Class, PoolError> {
            let slot_bytes = SLOT_CLASSES[index];
            let slots = config.slots[index].max(1);
            let bytes = slots * slot_bytes;
            let mut region = None;
            if backing == Backing::Huge {
                match Region::map(bytes, true) {
                    Ok(mapped) => region = Some(mapped),
                    Err(_) => backing = Backing::OrdinaryFallback,
                }
            }
            let region = match region {
                Some(mapped) => mapped,
                None => Region::map(bytes, false).map_err(|source| PoolError::Map { bytes, source })?,
            };
            debug_assert!(region.bytes() >= bytes);
            let free = ArrayQueue::new(slots);
            for slot in 0..slots {
                let pushed = free.push(slot as u32);
                assert!(pushed.is_ok(), "a fresh free list has room for every slot");
            }
            Ok(Class {
                slot_bytes,
                base: region.base(),
                counts: (0..slots).map(|_| AtomicU32::new(0)).collect(),
                free,
                _region: region,
            })
        };
        let classes = [make(0)?, make(1)?, make(2)?];
        Ok(Self { shared: Arc::new(Shared { classes, backing, exhausted: AtomicU64::new(0) }) })
    }

    /// A slot of at least `len` bytes, with `len` bytes visible; `None` when all fitting slots are out
    /// or `len` exceeds the largest class. Contents are old bytes of the slot's last user.
    pub fn alloc(&self, len: usize) -> Option<BufMut> {
        for (index, class) in self.shared.classes.iter().enumerate() {
            if class.slot_bytes < len {
                continue;
            }
            if let Some(slot) = class.free.pop() {
                return Some(BufMut::claim(Arc::clone(&self.shared), index as u8, slot, len));
            }
        }
        self.shared.exhausted.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// As [`Pool::alloc`], with the visible bytes set to zero.
    pub fn alloc_zeroed(&self, len: usize) -> Option<BufMut> {
        let mut buf = self.alloc(len)?;
        buf.fill(0);
        Some(buf)
    }

    /// What memory stands behind the pool.
    pub fn backing(&self) -> Backing {
        self.shared.backing
    }

    /// Counters, exact only while nobody allocates.
    pub fn stats(&self) -> PoolStats {
        let mut stats =
            PoolStats { exhausted: self.shared.exhausted.load(Ordering::Relaxed), ..PoolStats::default() };
        for (index, class) in self.shared.classes.iter().enumerate() {
            stats.free[index] = class.free.len();
            stats.total[index] = class.counts.len();
        }
        stats
    }

    /// The memory of each class as (address, bytes), for registration with io_uring or a DMA device.
    pub fn regions(&self) -> [(usize, usize); SLOT_CLASSES.len()] {
        let at = |index: usize| {
            let class = &self.shared.classes[index];
            (class.base.as_ptr() as usize, class.counts.len() * class.slot_bytes)
        };
        [at(0), at(1), at(2)]
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("backing", &self.backing()).field("stats", &self.stats()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_when_the_last_handle_goes() {
        let pool = Pool::new(PoolConfig { slots: [2, 1, 1], huge: false }).expect("maps");
        let a = pool.alloc(4096).expect("first").freeze();
        let b = a.slice(100..200);
        assert_eq!(pool.stats().free[0], 1);
        drop(a);
        assert_eq!(pool.stats().free[0], 1, "a slice keeps its slot");
        drop(b);
        assert_eq!(pool.stats().free[0], 2);
    }

    #[test]
    fn larger_classes_serve_when_small_ones_are_out_and_none_after_that() {
        let pool = Pool::new(PoolConfig { slots: [1, 1, 1], huge: false }).expect("maps");
        let held: Vec<_> = (0..3).map(|_| pool.alloc(10).expect("a slot")).collect();
        assert!(pool.alloc(10).is_none());
        assert_eq!(pool.stats().exhausted, 1);
        drop(held);
        assert!(pool.alloc(256 << 10).is_some());
        assert!(pool.alloc((256 << 10) + 1).is_none());
    }

    #[test]
    fn a_unique_buf_can_be_written_again_and_a_shared_one_cannot() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let mut m = pool.alloc(8).expect("slot");
        m.copy_from_slice(b"abcdefgh");
        let a = m.freeze();
        let b = a.clone();
        let a = a.try_mut().expect_err("shared");
        drop(b);
        let mut m = a.try_mut().expect("unique");
        m[0] = b'z';
        assert_eq!(&m.freeze()[..], b"zbcdefgh");
    }
}
