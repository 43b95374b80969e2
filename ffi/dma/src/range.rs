//! Ranges of memory that a device may be given, and where the device finds them.
//!
//! A device names memory by addresses of its own (IOVA), which an IOMMU turns into ours. A range is mapped as
//! a whole, so within it the way from one to the other is an addition.

use crate::pool::Shared;
use crate::{DmaMemory, Pool, SLOT_CLASSES};
use std::sync::Arc;

/// What keeps a range mapped in this process.
#[derive(Clone)]
pub(crate) enum Keep {
    Memory(DmaMemory),
    /// One class of a pool.
    Class(Arc<Shared>, usize),
}

/// A contiguous range of memory, kept alive for a device that was given it.
#[derive(Clone)]
pub struct DmaRange {
    pub(crate) keep: Keep,
    addr: usize,
    bytes: usize,
}

impl DmaRange {
    /// Address of the first byte in this process.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Length in bytes: whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl std::fmt::Debug for DmaRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaRange({} bytes)", self.bytes)
    }
}

impl DmaMemory {
    /// All of it, for a device.
    pub fn range(&self) -> DmaRange {
        DmaRange { keep: Keep::Memory(self.clone()), addr: self.addr(), bytes: self.bytes() }
    }
}

impl Pool {
    /// The memory of every class, for a device. Each range keeps the whole pool alive.
    pub fn ranges(&self) -> [DmaRange; SLOT_CLASSES.len()] {
        let regions = self.regions();
        std::array::from_fn(|class| DmaRange {
            keep: Keep::Class(self.shared(), class),
            addr: regions[class].0,
            bytes: regions[class].1,
        })
    }
}

/// Where a device finds what it was given.
#[derive(Clone, Debug, Default)]
pub struct IovaMap {
    /// Few (a pool has three ranges), so a search in order is the fastest.
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    addr: usize,
    bytes: usize,
    iova: u64,
}

impl IovaMap {
    /// Notes that the device finds `range` at `iova`.
    pub fn add(&mut self, range: &DmaRange, iova: u64) {
        self.spans.push(Span { addr: range.addr, bytes: range.bytes, iova });
    }

    /// Where the device finds these bytes; `None` unless all of them lie in one range that it was given.
    #[inline]
    pub fn find(&self, bytes: &[u8]) -> Option<u64> {
        let at = bytes.as_ptr() as usize;
        self.spans.iter().find_map(|span| {
            let offset = at.wrapping_sub(span.addr);
            let inside = offset < span.bytes && bytes.len() <= span.bytes - offset;
            inside.then(|| span.iova + offset as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolConfig;

    #[test]
    fn a_buffer_of_the_pool_has_its_place_and_nothing_else_has_one() {
        let pool = Pool::new(PoolConfig { slots: [4, 2, 2], huge: false }).expect("pool");
        let mut map = IovaMap::default();
        for (class, range) in pool.ranges().iter().enumerate() {
            map.add(range, (class as u64 + 1) << 32);
        }
        let (first, second) = (pool.alloc(4096).expect("slot"), pool.alloc(4096).expect("slot"));
        let (at, next) = (map.find(&first).expect("mapped"), map.find(&second).expect("mapped"));
        assert_eq!((at >> 32, at.abs_diff(next)), (1, 4096));
        let large = pool.alloc(70_000).expect("slot").freeze();
        let part = large.slice(512..1024);
        assert_eq!(map.find(&part), map.find(&large).map(|at| at + 512));
        assert_eq!(map.find(&large).map(|at| at >> 32), Some(3));
        assert_eq!(map.find(&[0; 16]), None);
    }
}
