//! Slot handles: [`BufMut`] has its slot alone, [`Buf`] is a counted read-only slice.

use crate::pool::Shared;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Where a handle's bytes live.
enum Home {
    /// A slot of a pool.
    Slot { shared: ManuallyDrop<Arc<Shared>>, class: u8, slot: u32 },
    /// Bytes that live for ever, such as a block of zeroes.
    Static,
}

/// The only handle of a slot: its bytes may be written.
pub struct BufMut {
    home: Home,
    ptr: NonNull<u8>,
    len: u32,
}

// SAFETY: a BufMut is the sole owner of its bytes; moving it to another thread moves that ownership.
unsafe impl Send for BufMut {}
// SAFETY: `&BufMut` allows reading only.
unsafe impl Sync for BufMut {}

impl BufMut {
    /// Takes a slot that was just popped from its free list.
    pub(crate) fn claim(shared: Arc<Shared>, class: u8, slot: u32, len: usize) -> Self {
        let home = &shared.classes[class as usize];
        debug_assert!(len <= home.slot_bytes);
        home.counts[slot as usize].store(1, Ordering::Relaxed);
        // SAFETY: slot < number of slots, so the offset stays inside the class's mapping.
        let ptr = unsafe { home.base.add(slot as usize * home.slot_bytes) };
        Self { home: Home::Slot { shared: ManuallyDrop::new(shared), class, slot }, ptr, len: len as u32 }
    }

    /// Makes the bytes shareable and read-only.
    pub fn freeze(self) -> Buf {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the home is moved out exactly once.
        let home = unsafe { std::ptr::read(&raw const this.home) };
        Buf { home, ptr: this.ptr, len: this.len }
    }

    /// Shortens the visible bytes to `len`; no effect when they are fewer already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// Most bytes that the slot can show.
    pub fn capacity(&self) -> usize {
        match &self.home {
            Home::Slot { shared, class, .. } => shared.classes[*class as usize].slot_bytes,
            Home::Static => self.len as usize,
        }
    }

    /// Shows `len` bytes of the slot (old contents beyond what was shown before).
    ///
    /// # Panics
    /// When `len` exceeds [`BufMut::capacity`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a slot of {} bytes cannot show {len}", self.capacity());
        self.len = len as u32;
    }
}

impl Deref for BufMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr leads to at least len initialised bytes (mappings start zeroed) owned by this handle.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for deref, and this handle is the only one of its slot.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Drop for BufMut {
    fn drop(&mut self) {
        release(&mut self.home);
    }
}

impl std::fmt::Debug for BufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufMut({} bytes)", self.len)
    }
}

/// A counted, read-only slice of a slot (or of static bytes). Cloning and slicing copy no bytes.
pub struct Buf {
    home: Home,
    ptr: NonNull<u8>,
    len: u32,
}

// SAFETY: the bytes are immutable while any Buf lives, and the count is atomic.
unsafe impl Send for Buf {}
// SAFETY: as above.
unsafe impl Sync for Buf {}

impl Buf {
    /// A handle of bytes that live for ever; dropping it frees nothing.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        assert!(u32::try_from(bytes.len()).is_ok(), "a buffer is smaller than 4 GiB");
        let ptr = NonNull::from(bytes).cast::<u8>();
        Self { home: Home::Static, ptr, len: bytes.len() as u32 }
    }

    /// Part of the same bytes.
    ///
    /// # Panics
    /// When the range does not lie inside the buffer.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len as usize,
            "slice {range:?} of {} bytes",
            self.len
        );
        let mut part = self.clone();
        // SAFETY: start <= len, so the pointer stays inside (or one past) the same allocation.
        part.ptr = unsafe { part.ptr.add(range.start) };
        part.len = (range.end - range.start) as u32;
        part
    }

    /// The writable handle, when this is the only handle of the slot and starts at the slot's start;
    /// otherwise the buffer back, unchanged.
    pub fn try_mut(self) -> Result<BufMut, Self> {
        match &self.home {
            Home::Slot { shared, class, slot } => {
                let home = &shared.classes[*class as usize];
                // SAFETY: slot < number of slots, so the offset stays inside the class's mapping.
                let start = unsafe { home.base.add(*slot as usize * home.slot_bytes) };
                if home.counts[*slot as usize].load(Ordering::Acquire) != 1 || start != self.ptr {
                    return Err(self);
                }
            }
            Home::Static => return Err(self),
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the home is moved out exactly once.
        let home = unsafe { std::ptr::read(&raw const this.home) };
        Ok(BufMut { home, ptr: this.ptr, len: this.len })
    }
}

impl Clone for Buf {
    fn clone(&self) -> Self {
        let home = match &self.home {
            Home::Slot { shared, class, slot } => {
                shared.classes[*class as usize].counts[*slot as usize].fetch_add(1, Ordering::Relaxed);
                Home::Slot { shared: ManuallyDrop::new(Arc::clone(shared)), class: *class, slot: *slot }
            }
            Home::Static => Home::Static,
        };
        Self { home, ptr: self.ptr, len: self.len }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr leads to len initialised bytes that nobody writes while a Buf of the slot lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        release(&mut self.home);
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

/// Gives up one handle; the last one returns the slot to its free list.
fn release(home: &mut Home) {
    if let Home::Slot { shared, class, slot } = home {
        let class = &shared.classes[*class as usize];
        if class.counts[*slot as usize].fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let pushed = class.free.push(*slot);
            assert!(pushed.is_ok(), "a free list has room for every slot of its class");
        }
        // SAFETY: release runs once per handle, from its drop, and the Arc is not used after it.
        unsafe { ManuallyDrop::drop(shared) };
    }
}
