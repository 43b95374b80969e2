//! Memory as an emulated device sees it: by its own addresses, and only what it was given.
//!
//! A real device reads and writes the memory of its driver behind the language's back; the driver's promise is
//! that it names only memory that it owns, until the device has let go of it. An emulated device goes through
//! this table, which keeps drivers to that promise as an IOMMU would, and more closely: a slot that went back
//! to its pool is not there, and one that others share can be read only.

use crate::range::{DmaRange, Keep};
use crate::{DmaMemory, SLOT_CLASSES};
use std::sync::atomic::Ordering;

/// Where the first range is found: far from 0, so that a cleared field is no address.
const FIRST: u64 = 1 << 32;
/// Ranges start at multiples of this, with a gap behind each.
const STEP: u64 = 2 << 20;

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaFault {
    /// No range holds all of these bytes.
    #[error("{bytes} bytes at {iova:#x} were not given to the device")]
    Unmapped {
        /// Where.
        iova: u64,
        /// How many.
        bytes: usize,
    },
    /// The slot is on its pool's free list.
    #[error("the buffer at {iova:#x} was given back to its pool")]
    Freed {
        /// Where.
        iova: u64,
    },
    /// A write to a slot that others read.
    #[error("the buffer at {iova:#x} is shared and cannot be written")]
    Shared {
        /// Where.
        iova: u64,
    },
}

/// What an emulated device was given.
#[derive(Debug, Default)]
pub struct DeviceSpace {
    maps: Vec<(u64, DmaRange)>,
}

impl DeviceSpace {
    /// Gives the device a range; returns where it finds it.
    pub fn map(&mut self, range: DmaRange) -> u64 {
        let iova = self
            .maps
            .last()
            .map_or(FIRST, |(at, last)| (at + last.bytes() as u64).next_multiple_of(STEP) + STEP);
        self.maps.push((iova, range));
        iova
    }

    /// Takes everything back.
    pub fn clear(&mut self) {
        self.maps.clear();
    }

    /// The range that holds these bytes, and the offset in it.
    fn find(&self, iova: u64, bytes: usize) -> Result<(&DmaRange, usize), DmaFault> {
        let holds = |(at, range): &&(u64, DmaRange)| {
            iova.checked_sub(*at).is_some_and(|offset| {
                offset < range.bytes() as u64 && bytes as u64 <= range.bytes() as u64 - offset
            })
        };
        match self.maps.iter().find(holds) {
            Some((at, range)) => Ok((range, (iova - at) as usize)),
            None => Err(DmaFault::Unmapped { iova, bytes }),
        }
    }

    /// Reads from the memory of the driver.
    pub fn read(&self, iova: u64, to: &mut [u8]) -> Result<(), DmaFault> {
        let (range, at) = self.find(iova, to.len())?;
        match &range.keep {
            Keep::Memory(memory) => read_words(memory, at, to),
            Keep::Class(..) => {
                check(range, at, to.len(), iova, false)?;
                // SAFETY: the range keeps its memory mapped, and `find` put these bytes inside it. Their slots
                // are in use, and a handle that is written through (a `BufMut`) is with the driver, which
                // promises not to touch it while the device has it.
                unsafe {
                    std::ptr::copy_nonoverlapping((range.addr() + at) as *const u8, to.as_mut_ptr(), to.len())
                };
            }
        }
        Ok(())
    }

    /// Writes into the memory of the driver.
    pub fn write(&self, iova: u64, from: &[u8]) -> Result<(), DmaFault> {
        let (range, at) = self.find(iova, from.len())?;
        match &range.keep {
            Keep::Memory(memory) => write_words(memory, at, from),
            Keep::Class(..) => {
                check(range, at, from.len(), iova, true)?;
                // SAFETY: as above; and the slots have one handle each, so that no reader shares the bytes.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.as_ptr(), (range.addr() + at) as *mut u8, from.len())
                };
            }
        }
        Ok(())
    }

    /// The word at `iova`, a multiple of 8, in memory that was made for queues.
    pub fn load(&self, iova: u64) -> Result<u64, DmaFault> {
        let (memory, at) = self.queue(iova)?;
        Ok(memory.load(at))
    }

    /// Sets the word at `iova`, a multiple of 8, in memory that was made for queues.
    pub fn store(&self, iova: u64, value: u64) -> Result<(), DmaFault> {
        let (memory, at) = self.queue(iova)?;
        memory.store(at, value);
        Ok(())
    }

    fn queue(&self, iova: u64) -> Result<(&DmaMemory, usize), DmaFault> {
        let (range, at) = self.find(iova, 8)?;
        match &range.keep {
            Keep::Memory(memory) if at.is_multiple_of(8) => Ok((memory, at)),
            _ => Err(DmaFault::Unmapped { iova, bytes: 8 }),
        }
    }
}

/// Whether the slots that hold these bytes are in use, and for a write by nobody but one.
fn check(range: &DmaRange, at: usize, bytes: usize, iova: u64, write: bool) -> Result<(), DmaFault> {
    let Keep::Class(shared, class) = &range.keep else { return Ok(()) };
    let size = SLOT_CLASSES[*class];
    for slot in at / size..(at + bytes).div_ceil(size) {
        match shared.classes[*class].heads[slot].handles() {
            0 => return Err(DmaFault::Freed { iova }),
            2.. if write => return Err(DmaFault::Shared { iova }),
            _ => {}
        }
    }
    Ok(())
}

fn read_words(memory: &DmaMemory, at: usize, to: &mut [u8]) {
    let first = at & !7;
    let words = memory.words(first, (at + to.len()).div_ceil(8) - first / 8);
    for (i, byte) in to.iter_mut().enumerate() {
        let place = at - first + i;
        *byte = (words[place / 8].load(Ordering::Acquire) >> (place % 8 * 8)) as u8;
    }
}

fn write_words(memory: &DmaMemory, at: usize, from: &[u8]) {
    let first = at & !7;
    let words = memory.words(first, (at + from.len()).div_ceil(8) - first / 8);
    for (i, &byte) in from.iter().enumerate() {
        let place = at - first + i;
        let shift = place % 8 * 8;
        let word = words[place / 8].load(Ordering::Acquire);
        words[place / 8].store(word & !(0xff << shift) | u64::from(byte) << shift, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, PoolConfig};

    #[test]
    fn a_device_reaches_what_it_was_given_and_nothing_else() {
        let memory = DmaMemory::new(4096, false).expect("maps");
        let mut space = DeviceSpace::default();
        let at = space.map(memory.range());
        space.write(at + 3, &[1, 2, 3, 4, 5, 6, 7]).expect("given");
        assert_eq!((memory.load(0), memory.load(8)), (0x0504_0302_0100_0000, 0x0706));
        let mut bytes = [0; 9];
        space.read(at + 2, &mut bytes).expect("given");
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 0]);
        space.store(at + 8, 77).expect("given");
        assert_eq!((space.load(at + 8), memory.load(8)), (Ok(77), 77));
        assert_eq!(space.load(at + 4), Err(DmaFault::Unmapped { iova: at + 4, bytes: 8 }));
        let end = at + memory.bytes() as u64;
        for (iova, len) in [(0, 1), (at - 1, 1), (end, 1), (end - 4, 8), (u64::MAX, 8)] {
            assert_eq!(space.read(iova, &mut vec![0; len]), Err(DmaFault::Unmapped { iova, bytes: len }));
        }
        space.clear();
        assert!(space.load(at).is_err());
    }

    #[test]
    fn buffers_that_went_back_or_are_shared_are_out_of_a_devices_reach() {
        let pool = Pool::new(PoolConfig { slots: [4, 2, 2], huge: false }).expect("pool");
        let mut space = DeviceSpace::default();
        let bases = pool.ranges().map(|range| (range.addr(), space.map(range)));
        let mut buf = pool.alloc(4096).expect("slot");
        let iova = bases[0].1 + (buf.as_ptr() as usize - bases[0].0) as u64;
        space.write(iova, &[5; 4096]).expect("owned by one");
        assert!(buf.iter().all(|&byte| byte == 5));
        buf[0] = 6;
        let buf = buf.freeze();
        let mut bytes = [0; 2];
        space.read(iova, &mut bytes).expect("in use");
        assert_eq!(bytes, [6, 5]);
        let twin = buf.clone();
        assert_eq!(space.write(iova, &[0]), Err(DmaFault::Shared { iova }));
        space.read(iova, &mut bytes).expect("many may read");
        drop((buf, twin));
        assert_eq!(space.read(iova, &mut bytes), Err(DmaFault::Freed { iova }));
        assert_eq!(space.write(iova, &[0]), Err(DmaFault::Freed { iova }));
    }
}
