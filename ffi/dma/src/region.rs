//! One anonymous memory mapping, in huge pages where asked for and available.

use std::ptr::NonNull;

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
    /// Maps `bytes` (rounded up to 2 MiB) of zeroed memory. `huge` asks for reserved 2 MiB pages and
    /// fails where the host has too few of them.
    pub(crate) fn map(bytes: usize, huge: bool) -> std::io::Result<Self> {
        let bytes = bytes.next_multiple_of(2 << 20);
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if huge {
            flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
        }
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; no memory of ours is touched.
        let addr = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if addr == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let base =
            NonNull::new(addr.cast::<u8>()).ok_or_else(|| std::io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, bytes })
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

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and bytes are what mmap returned, and no slot handle outlives its pool's regions.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}
