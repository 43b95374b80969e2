//! Data pointers: which bytes one command can carry, and how they are told to the device.
//!
//! PRP entries (NVMe Base 2.0 section 4.1.1) name pages: only the first may start inside one and only the last
//! may end inside one. Bytes that are scattered otherwise need an SGL (4.1.2), or, where the device has none,
//! a command for each part.

use super::command::DataPointer;
use super::layout::LIST_BYTES;
use palisade_dma::{DmaMemory, IovaMap};
use std::sync::atomic::Ordering;

/// Words of a list.
const LIST_WORDS: usize = LIST_BYTES / 8;
/// Most descriptors of a list: two words each.
const DESCRIPTORS_MAX: usize = LIST_WORDS / 2;
/// SGL descriptor types (4.1.2.1), in their last byte: Data Block, Last Segment.
const DATA_BLOCK: u64 = 0x00 << 56;
const LAST_SEGMENT: u64 = 0x30 << 56;

/// What a command can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// How many bytes.
    pub(super) bytes: u64,
    /// How the device is told.
    pub(super) pointer: DataPointer,
}

/// How pointers are made for a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct PointerRules {
    /// Bytes of a memory page (CC.MPS).
    pub(super) page: u64,
    /// Most bytes of a command.
    pub(super) transfer_max: u64,
    /// The device takes SGLs.
    pub(super) sgl: bool,
}

/// A command's own list.
pub(super) struct List<'a> {
    pub(super) memory: &'a DmaMemory,
    /// Where it is in the queue memory.
    pub(super) at: usize,
    /// Where the device finds it.
    pub(super) iova: u64,
}

impl PointerRules {
    /// Makes a pointer to as many bytes of one part as a command can carry: the way of nearly every request.
    #[inline(always)]
    pub(super) fn build_one(&self, part: &[u8], map: &IovaMap, list: &List<'_>) -> Option<Carried> {
        let iova = map.find(part).filter(|iova| iova % 4 == 0)?;
        let bytes = self.transfer_max.min(part.len() as u64);
        let mut pointer = DataPointer { first: iova, second: 0, sgl: false };
        // The first page that PRP1 does not name.
        let next = (iova & !(self.page - 1)) + self.page;
        let end = iova + bytes;
        if end > next {
            pointer.second = if end - next <= self.page { next } else { self.list_of(next, end, list) };
        }
        Some(Carried { bytes, pointer })
    }

    /// Lists the pages from `next` to `end`.
    fn list_of(&self, next: u64, end: u64, list: &List<'_>) -> u64 {
        let mut at = next;
        for word in list.memory.words(list.at, LIST_WORDS) {
            if at >= end {
                break;
            }
            word.store(at, Ordering::Relaxed);
            at += self.page;
        }
        list.iova
    }

    /// Makes a pointer to as many bytes of `parts` as one command can carry, in order. `None` when the next
    /// byte lies outside what the device was given, or where no pointer can lead (an odd address).
    pub(super) fn build<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        map: &IovaMap,
        list: &List<'_>,
    ) -> Option<Carried> {
        let (carried, whole) = self.pages(parts.clone(), map, list)?;
        if whole || !self.sgl {
            return Some(carried);
        }
        self.descriptors(parts, map, list)
    }

    /// By PRPs; says also whether they carry all that a command may carry.
    fn pages<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        map: &IovaMap,
        list: &List<'_>,
    ) -> Option<(Carried, bool)> {
        let words = list.memory.words(list.at, LIST_WORDS);
        let inside = self.page - 1;
        let (mut bytes, mut first, mut end, mut used) = (0, 0, 0, 0);
        let mut whole = true;
        for part in parts.filter(|part| !part.is_empty()) {
            let take = (self.transfer_max - bytes).min(part.len() as u64);
            if take == 0 {
                break;
            }
            let Some(iova) = map.find(part).filter(|iova| iova % 4 == 0) else {
                if bytes == 0 {
                    return None;
                }
                break; // said when it is the first of its own command
            };
            let mut at = iova;
            if bytes == 0 {
                first = iova;
                at = (iova & !inside) + self.page;
            } else if iova & inside != 0 || end & inside != 0 {
                if iova != end {
                    whole = false;
                    break;
                }
                at = iova.next_multiple_of(self.page); // goes on in a page that was named
            }
            end = iova + take;
            while at < end {
                words[used].store(at, Ordering::Relaxed);
                used += 1;
                at += self.page;
            }
            bytes += take;
        }
        let second = match used {
            0 => 0,
            1 => words[0].load(Ordering::Relaxed), // PRP2 is the second page itself
            _ => list.iova,
        };
        Some((Carried { bytes, pointer: DataPointer { first, second, sgl: false } }, whole))
    }

    /// By a segment of data blocks.
    fn descriptors<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        map: &IovaMap,
        list: &List<'_>,
    ) -> Option<Carried> {
        let words = list.memory.words(list.at, LIST_WORDS);
        let (mut bytes, mut used) = (0, 0);
        for part in parts.filter(|part| !part.is_empty()).take(DESCRIPTORS_MAX) {
            let take = (self.transfer_max - bytes).min(part.len() as u64);
            if take == 0 {
                break;
            }
            let Some(iova) = map.find(part).filter(|iova| iova % 4 == 0) else { break };
            words[used * 2].store(iova, Ordering::Relaxed);
            words[used * 2 + 1].store(take | DATA_BLOCK, Ordering::Relaxed);
            used += 1;
            bytes += take;
        }
        let second = (used as u64 * 16) | LAST_SEGMENT;
        (bytes > 0).then_some(Carried { bytes, pointer: DataPointer { first: list.iova, second, sgl: true } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Buf, Pool, PoolConfig};

    struct Bench {
        pool: Pool,
        map: IovaMap,
        memory: DmaMemory,
    }

    const LIST: u64 = 0x77_0000;

    impl Bench {
        fn new() -> Self {
            let pool = Pool::new(PoolConfig { slots: [32, 4, 4], huge: false }).expect("pool");
            let mut map = IovaMap::default();
            for (class, range) in pool.ranges().iter().enumerate() {
                map.add(range, (class as u64 + 1) << 32);
            }
            Self { pool, map, memory: DmaMemory::new(4096, false).expect("maps") }
        }

        fn build(&self, parts: &[&[u8]], sgl: bool) -> Option<Carried> {
            let rules = PointerRules { page: 4096, transfer_max: 256 << 10, sgl };
            let list = List { memory: &self.memory, at: 1024, iova: LIST };
            let carried = rules.build(parts.iter().copied(), &self.map, &list);
            if let [one] = parts {
                let count = (one.len() / 4096).max(2);
                let words = self.list(count);
                self.memory.clear(1024, 1024);
                assert_eq!(rules.build_one(one, &self.map, &list), carried, "both ways make the same");
                let is_listed = carried.is_some_and(|carried| carried.pointer.second == LIST);
                assert!(!is_listed || self.list(count) == words);
            }
            carried
        }

        fn list(&self, count: usize) -> Vec<u64> {
            (0..count).map(|i| self.memory.load(1024 + i * 8)).collect()
        }

        fn buf(&self, len: usize) -> Buf {
            self.pool.alloc(len).expect("slot").freeze()
        }
    }

    #[test]
    fn one_page_two_pages_and_many_are_told_in_three_ways() {
        let bench = Bench::new();
        let small = bench.buf(4096);
        let at = bench.map.find(&small).expect("mapped");
        let one = bench.build(&[&small], false).expect("fits");
        assert_eq!((one.bytes, one.pointer.first, one.pointer.second), (4096, at, 0));
        let large = bench.buf(256 << 10);
        let at = bench.map.find(&large).expect("mapped");
        let two = bench.build(&[&large[512..8192]], false).expect("fits");
        assert_eq!((two.bytes, two.pointer.first, two.pointer.second), (7680, at + 512, at + 4096));
        let many = bench.build(&[&large], false).expect("fits");
        assert_eq!((many.bytes, many.pointer.first, many.pointer.second), (256 << 10, at, LIST));
        assert_eq!(bench.list(63), (1..64).map(|i| at + i * 4096).collect::<Vec<_>>());
        let shifted = bench.build(&[&large[1024..]], false).expect("fits");
        assert_eq!((shifted.bytes, bench.list(63)[62]), ((256 << 10) - 1024, at + 63 * 4096));
    }

    #[test]
    fn pages_of_several_buffers_are_joined_where_prps_allow_it() {
        let bench = Bench::new();
        let (a, b, c) = (bench.buf(4096), bench.buf(65536), bench.buf(4096));
        let [at_a, at_b, at_c] = [&a, &b, &c].map(|buf| bench.map.find(buf).expect("mapped"));
        let all = bench.build(&[&a[1024..], &b[..8192], &c[..512]], false).expect("fits");
        assert_eq!((all.bytes, all.pointer.first), (3072 + 8192 + 512, at_a + 1024));
        assert_eq!(bench.list(3), [at_b, at_b + 4096, at_c]);
        // Parts of one page that follow one another are one.
        let joined = bench.build(&[&b[..512], &b[512..5120], &b[5120..8192]], false).expect("fits");
        assert_eq!((joined.bytes, joined.pointer.first, joined.pointer.second), (8192, at_b, at_b + 4096));
    }

    #[test]
    fn scattered_bytes_end_a_prp_command_and_are_whole_in_an_sgl() {
        let bench = Bench::new();
        let (a, b) = (bench.buf(4096), bench.buf(4096));
        let [at_a, at_b] = [&a, &b].map(|buf| bench.map.find(buf).expect("mapped"));
        let parts: [&[u8]; 3] = [&a[..512], &b[512..2048], &a[1024..2048]];
        assert_eq!(bench.build(&parts, false).expect("a part fits").bytes, 512);
        let all = bench.build(&parts, true).expect("fits");
        assert_eq!((all.bytes, all.pointer.first, all.pointer.sgl), (512 + 1536 + 1024, LIST, true));
        assert_eq!(all.pointer.second, 48 | 0x30 << 56);
        assert_eq!(bench.list(6), [at_a, 512, at_b + 512, 1536, at_a + 1024, 1024]);
    }

    #[test]
    fn memory_that_the_device_was_not_given_has_no_pointer() {
        let bench = Bench::new();
        let foreign = [0u8; 512];
        assert_eq!(bench.build(&[&foreign], true), None);
        let own = bench.buf(4096);
        assert_eq!(bench.build(&[&own, &foreign], false).expect("the first part").bytes, 4096);
        assert_eq!(bench.build(&[&own[2..514]], false), None, "no even address of a double word");
    }
}
