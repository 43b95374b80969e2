//! A device's register space.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

/// A mapped BAR. Reads and writes are of whole registers, in the order of the program, and never left out.
#[derive(Debug)]
pub struct Bar {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: device memory has no owner thread; every access is one volatile load or store.
unsafe impl Send for Bar {}
// SAFETY: as above: two threads' accesses are two bus transactions, in some order.
unsafe impl Sync for Bar {}

impl Bar {
    /// Maps `bytes` of a descriptor from `offset` on.
    pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; no memory of ours is touched.
        let addr = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset)
        };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(addr.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, bytes })
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where a register of type `T` is.
    ///
    /// # Panics
    /// When it does not lie in the BAR, or not at a multiple of its size: a driver's mistake.
    #[inline]
    fn place<T>(&self, at: usize) -> *mut T {
        let fits = at.is_multiple_of(size_of::<T>()) && at <= self.bytes && self.bytes - at >= size_of::<T>();
        assert!(fits, "a register of {} bytes at {at:#x} of {:#x}", size_of::<T>(), self.bytes);
        // SAFETY: `at` lies in the mapping.
        unsafe { self.base.as_ptr().add(at) }.cast()
    }

    /// Reads a register of 32 bits.
    #[inline]
    pub fn read32(&self, at: usize) -> u32 {
        // SAFETY: `place` checked range and alignment (the mapping starts a page), and the BAR is mapped.
        unsafe { self.place::<u32>(at).read_volatile() }
    }

    /// Writes a register of 32 bits, after all that was stored to memory before.
    #[inline]
    pub fn write32(&self, at: usize, value: u32) {
        fence(Ordering::Release);
        // SAFETY: as for reads; what the device does then is its driver's business (see the crate's head).
        unsafe { self.place::<u32>(at).write_volatile(value) };
    }

    /// Reads a register of 64 bits at once.
    #[inline]
    pub fn read64(&self, at: usize) -> u64 {
        // SAFETY: as above.
        unsafe { self.place::<u64>(at).read_volatile() }
    }

    /// Writes a register of 64 bits at once, after all that was stored to memory before.
    #[inline]
    pub fn write64(&self, at: usize, value: u64) {
        fence(Ordering::Release);
        // SAFETY: as above.
        unsafe { self.place::<u64>(at).write_volatile(value) };
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, and no register outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn bar() -> Bar {
        let file = tempfile::tempfile().expect("file");
        file.set_len(8192).expect("grows");
        Bar::map(file.as_fd(), 4096, 4096).expect("maps")
    }

    #[test]
    fn registers_are_read_as_they_were_written() {
        let bar = bar();
        bar.write32(4, 0x0102_0304);
        bar.write64(4088, 7);
        assert_eq!((bar.read32(4), bar.read64(0), bar.read32(4092)), (0x0102_0304, 0x0102_0304 << 32, 0));
        assert_eq!((bar.read64(4088), bar.bytes()), (7, 4096));
    }

    #[test]
    fn registers_beyond_the_bar_or_between_two_are_refused() {
        let bar = std::sync::Arc::new(bar());
        for (at, wide) in [(4096, false), (4093, false), (2, false), (4092, true), (usize::MAX - 3, false)] {
            let bar = std::sync::Arc::clone(&bar);
            let read = std::thread::spawn(move || if wide { bar.read64(at) } else { bar.read32(at).into() });
            assert!(read.join().is_err(), "{at:#x}");
        }
    }
}
