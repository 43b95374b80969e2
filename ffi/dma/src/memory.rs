//! Plain memory of its own: zeroed, in pages that the kernel may join to huge ones.

use super::region::{Pages, Region};
use std::io;
use std::ops::{Deref, DerefMut};

/// Zeroed bytes outside the allocator. Their first touch costs one fault for 2 MiB rather than for 4 KiB where
/// the kernel has huge pages to give.
pub struct Memory {
    region: Region,
}

impl Memory {
    /// Maps `bytes`, rounded up to 2 MiB. Fails when the host has no memory to map.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        Ok(Self { region: Region::map(bytes, Pages::Joined)? })
    }
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the region is mapped, readable and zeroed for its whole length as long as `self` lives, and
        // nobody else has its address; `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.region.bytes()) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.region.bytes()) }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zeroed_keeps_what_is_written_and_is_aligned_for_huge_pages() {
        let mut memory = Memory::zeroed(5000).expect("maps");
        assert!(memory.len() == 2 << 20 && memory.iter().all(|&byte| byte == 0));
        assert_eq!(memory.as_ptr() as usize % (2 << 20), 0);
        memory[4999] = 7;
        assert_eq!((memory[4998], memory[4999]), (0, 7));
    }
}
