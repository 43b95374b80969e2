//! Pools: slot classes, allocation, counters.

use crate::buf::{BufMut, SlotHead};
use crate::free::FreeList;
use crate::region::{Pages, Region};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    pub(crate) heads: Box<[SlotHead]>,
    pub(crate) free: FreeList,
    _region: Region,
}

impl Class {
    /// `backing` says what to try, and is lowered when huge pages run out.
    fn make(index: usize, slots: usize, backing: &mut Backing) -> Result<Self, PoolError> {
        let slot_bytes = SLOT_CLASSES[index];
        let slots = u32::try_from(slots.max(1)).unwrap_or(u32::MAX - 1);
        let bytes = slots as usize * slot_bytes;
        let mut region = None;
        if *backing == Backing::Huge {
            region = Region::map(bytes, Pages::Reserved).ok();
            if region.is_none() {
                *backing = Backing::OrdinaryFallback;
            }
        }
        // Who asked for huge pages profits from those that the kernel joins by itself.
        let pages = if *backing == Backing::Ordinary { Pages::Ordinary } else { Pages::Joined };
        let region = match region {
            Some(mapped) => mapped,
            None => Region::map(bytes, pages).map_err(|source| PoolError::Map { bytes, source })?,
        };
        assert!(region.bytes() >= bytes, "a region is never smaller than asked for");
        let heads = (0..slots).map(|slot| SlotHead::new(index as u8, slot)).collect();
        Ok(Self { slot_bytes, base: region.base(), heads, free: FreeList::full(slots), _region: region })
    }
}

/// Shared state of a pool; lives until the last slot handle is gone.
pub(crate) struct Shared {
    pub(crate) classes: [Class; SLOT_CLASSES.len()],
    backing: Backing,
    exhausted: AtomicU64,
}

// SAFETY: base pointers lead to mappings owned by the same struct; slots are handed out one owner at a time.
unsafe impl Send for Shared {}
// SAFETY: all shared mutable state is atomic, or (a head's pool) touched only by a slot's sole owner.
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
        let classes = [
            Class::make(0, config.slots[0], &mut backing)?,
            Class::make(1, config.slots[1], &mut backing)?,
            Class::make(2, config.slots[2], &mut backing)?,
        ];
        Ok(Self { shared: Arc::new(Shared { classes, backing, exhausted: AtomicU64::new(0) }) })
    }

    /// A slot of at least `len` bytes, with `len` bytes visible; `None` when all fitting slots are out
    /// or `len` exceeds the largest class. Contents are old bytes of the slot's last user.
    pub fn alloc(&self, len: usize) -> Option<BufMut> {
        self.alloc_above(len, |_| 0)
    }

    /// As [`Pool::alloc`], for what clients send and are sent: it leaves a sixteenth of every class (none of
    /// a tiny one) to the work that ends their waiting. Clients hold buffers while a log is full, and a
    /// flush that found none could never make room in it (`Bounded`).
    pub fn alloc_client(&self, len: usize) -> Option<BufMut> {
        self.alloc_above(len, |class| (class.heads.len() + 8) / 16)
    }

    /// As [`Pool::alloc_client`], with the visible bytes set to zero.
    pub fn alloc_client_zeroed(&self, len: usize) -> Option<BufMut> {
        let mut buf = self.alloc_client(len)?;
        buf.fill(0);
        Some(buf)
    }

    /// `kept` slots of a class are not touched.
    #[inline]
    fn alloc_above(&self, len: usize, kept: impl Fn(&Class) -> usize) -> Option<BufMut> {
        for (index, class) in self.shared.classes.iter().enumerate() {
            let kept = kept(class);
            if class.slot_bytes < len || kept > 0 && class.free.len() <= kept {
                continue;
            }
            if let Some(slot) = class.free.pop() {
                return Some(BufMut::claim(&self.shared, index, slot, len));
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
            stats.total[index] = class.heads.len();
        }
        stats
    }

    /// Whether no more than an eighth of some class is free: time to give up what is only convenient to keep,
    /// before clients meet the end of what they get.
    pub fn scarce(&self) -> bool {
        self.shared.classes.iter().any(|class| class.free.len() <= class.heads.len() / 8)
    }

    /// The memory of each class as (address, bytes), for registration with io_uring or a DMA device.
    pub fn regions(&self) -> [(usize, usize); SLOT_CLASSES.len()] {
        let at = |index: usize| {
            let class = &self.shared.classes[index];
            (class.base.as_ptr() as usize, class.heads.len() * class.slot_bytes)
        };
        [at(0), at(1), at(2)]
    }
}

impl Pool {
    /// For those who keep the memory alive.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
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
    use crate::Buf;

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
    fn clients_leave_a_sixteenth_of_every_class_and_find_the_pool_scarce_before() {
        let pool = Pool::new(PoolConfig { slots: [64, 16, 8], huge: false }).expect("maps");
        let held: Vec<_> = std::iter::from_fn(|| pool.alloc_client(10)).collect();
        assert_eq!((held.len(), pool.stats().free), (60 + 15 + 7, [4, 1, 1]));
        assert!(pool.scarce());
        let own: Vec<_> = std::iter::from_fn(|| pool.alloc(10)).collect();
        assert_eq!((own.len(), pool.stats().free), (6, [0, 0, 0]));
        drop(held);
        assert!(pool.alloc_client_zeroed(256 << 10).is_some_and(|buf| buf.iter().all(|&byte| byte == 0)));
    }

    #[test]
    fn the_slot_freed_last_is_used_next() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let (a, b) = (pool.alloc(10).expect("slot"), pool.alloc(10).expect("slot"));
        let at = a.as_ptr();
        assert_ne!(at, b.as_ptr());
        drop(a);
        assert_eq!(pool.alloc(10).expect("slot").as_ptr(), at);
    }

    #[test]
    fn handles_outlive_their_pool_and_free_its_memory_at_the_end() {
        let pool = Pool::new(PoolConfig { slots: [2, 1, 1], huge: false }).expect("maps");
        let mut m = pool.alloc(4096).expect("slot");
        m.fill(3);
        let shared = Arc::downgrade(&pool.shared);
        let buf = m.freeze();
        let part = buf.slice(4000..4096);
        drop((pool, buf));
        assert!(shared.upgrade().is_some());
        assert!(part.iter().all(|&byte| byte == 3));
        drop(part);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn lengths_follow_the_slot_and_static_bytes_are_never_writable() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let mut m = pool.alloc(100).expect("slot");
        m.set_len(4096);
        m.truncate(5000);
        assert_eq!((m.len(), m.capacity()), (4096, 4096));
        m.truncate(7);
        assert_eq!(m.len(), 7);
        let tail = m.freeze().slice(1..7);
        assert_eq!(tail.try_mut().expect_err("does not start its slot").len(), 6);
        let fixed = Buf::from_static(b"zeroes");
        assert_eq!(&fixed.clone().try_mut().expect_err("static")[..], b"zeroes");
    }

    #[test]
    fn slots_travel_between_threads_without_loss_or_sharing() {
        let pool = Pool::new(PoolConfig { slots: [64, 1, 1], huge: false }).expect("maps");
        let (tx, rx) = std::sync::mpsc::sync_channel::<(u64, Buf)>(32);
        let consumer = std::thread::spawn(move || {
            for (stamp, buf) in rx {
                let twin = buf.clone();
                drop(buf);
                assert!(twin.chunks(8).all(|word| word == stamp.to_le_bytes()), "slot reused while held");
            }
        });
        for stamp in 0..50_000u64 {
            let mut m = loop {
                match pool.alloc(256) {
                    Some(m) if m.capacity() == 4096 => break m,
                    _ => std::thread::yield_now(),
                }
            };
            m.chunks_mut(8).for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
            tx.send((stamp, m.freeze())).expect("consumer lives");
        }
        drop(tx);
        consumer.join().expect("consumer");
        assert_eq!(pool.stats().free, [64, 1, 1]);
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
