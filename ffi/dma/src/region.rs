//! One anonymous memory mapping, in huge pages where asked for and available.

use std::io;
use std::ptr::NonNull;

/// Size and alignment of a huge page.
const HUGE: usize = 2 << 20;

/// What pages a mapping is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Reserved 2 MiB pages, or failure.
    Reserved,
    /// Ordinary pages that the kernel may join to huge ones as they are touched.
    Joined,
    /// Ordinary pages.
    Ordinary,
}

/// A private anonymous mapping, unmapped on drop.
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Region is plain memory with a fixed address; access to it is governed by slot handles.
unsafe impl Send for Region {}
// SAFETY: as above; Region itself offers only its base address and length.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` (rounded up to 2 MiB) of zeroed memory.
    pub(crate) fn map(bytes: usize, pages: Pages) -> io::Result<Self> {
        let bytes = bytes.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        if pages != Pages::Joined {
            let huge = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
            return anonymous(bytes, if pages == Pages::Reserved { huge } else { 0 });
        }
        // Joining needs 2 MiB alignment: map one huge page more and cut the ends off.
        let wide = anonymous(bytes.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?, 0)?;
        let aligned = wide.cut(bytes);
        // SAFETY: the range is our own mapping; the advice changes no contents. Without effect where the
        // kernel has no such pages.
        unsafe { libc::madvise(aligned.base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok(aligned)
    }

    /// The first 2 MiB-aligned `bytes` of a mapping that is one huge page longer; unmaps the rest.
    fn cut(self, bytes: usize) -> Self {
        assert_eq!(self.bytes, bytes + HUGE, "mapped one huge page more");
        let whole = std::mem::ManuallyDrop::new(self);
        let front = whole.base.as_ptr().align_offset(HUGE);
        // SAFETY: front < 2 MiB, so the address stays inside the mapping, and `bytes` follow it.
        let base = unsafe { whole.base.add(front) };
        let back = HUGE - front;
        // SAFETY: both ends lie in our own mapping, outside what is kept; nothing refers to them.
        unsafe {
            if front > 0 {
                libc::munmap(whole.base.as_ptr().cast(), front);
            }
            if back > 0 {
                libc::munmap(base.add(bytes).as_ptr().cast(), back);
            }
        }
        Self { base, bytes }
    }

    /// Keeps its pages in memory, at the addresses that they have now.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping; locking changes no contents.
        let result = unsafe { libc::mlock(self.base.as_ptr().cast(), self.bytes) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// First byte of the mapping; aligned to at least 4 KiB.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length of the mapping in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn anonymous(bytes: usize, more: libc::c_int) -> io::Result<Region> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; no memory of ours is touched.
    let addr = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(addr.cast::<u8>()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
    Ok(Region { base, bytes })
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and bytes are a mapping of ours, and no slot handle outlives its pool's regions.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_pages_are_aligned_zeroed_and_writable_to_their_ends() {
        for _ in 0..3 {
            let region = Region::map((4 << 20) - 5, Pages::Joined).expect("maps");
            assert_eq!((region.base().as_ptr() as usize % HUGE, region.bytes()), (0, 4 << 20));
            // SAFETY: the region has that many bytes and no other user.
            let bytes = unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), region.bytes()) };
            assert_eq!((bytes[0], bytes[bytes.len() - 1]), (0, 0));
            bytes[0] = 1;
            bytes[(4 << 20) - 1] = 2;
        }
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(Region::map(usize::MAX, Pages::Ordinary).is_err());
        assert!(Region::map(1 << 60, Pages::Joined).is_err());
    }
}
