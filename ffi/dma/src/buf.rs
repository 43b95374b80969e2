//! Slot handles: [`BufMut`] has its slot alone, [`Buf`] is a counted read-only slice.
//!
//! Each slot has a head with its count of handles; a handle points to the head, so that clone, slice and
//! drop touch one word of the slot and nothing that other slots share. The pool itself is held once per
//! slot in use, not once per handle.

use crate::pool::{SLOT_CLASSES, Shared};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Most handles of one slot. Far more than memory has room for, unless handles are forgotten in a loop;
/// reaching it ends the process, because a count that wraps would free memory in use.
const HANDLES_MAX: u32 = u32::MAX / 2;

/// What the handles of a slot share.
pub(crate) struct SlotHead {
    /// Handles of the slot; 0 while it is on the free list.
    count: AtomicU32,
    /// Which slot of its class.
    slot: u32,
    /// Which class.
    class: u8,
    /// The pool, held while the slot is in use. Written only by `claim`, while nobody else has the slot.
    pool: UnsafeCell<Option<NonNull<Shared>>>,
}

impl SlotHead {
    pub(crate) fn new(class: u8, slot: u32) -> Self {
        Self { count: AtomicU32::new(0), slot, class, pool: UnsafeCell::new(None) }
    }

    /// Handles that there are; a moment later it may be others.
    pub(crate) fn handles(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Gives up one handle; the last one returns the slot to its free list and lets go of the pool.
    ///
    /// # Safety
    /// `head` leads to a slot in use, and the caller gives up a handle that it owns.
    unsafe fn release(head: NonNull<Self>) {
        // SAFETY: the slot is in use, so its pool, and the head in it, are alive up to the decrement.
        let this = unsafe { head.as_ref() };
        if this.count.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // All accesses through other handles happen before the slot's reuse.
        fence(Ordering::Acquire);
        // SAFETY: the count is 0 and the slot not yet on the free list, so nobody else has access.
        let pool = unsafe { (*this.pool.get()).take() };
        let pool = pool.expect("a slot in use holds its pool");
        // SAFETY: made by Arc::into_raw in `claim`, taken out once.
        let pool = unsafe { Arc::from_raw(pool.as_ptr().cast_const()) };
        pool.classes[usize::from(this.class)].free.push(this.slot);
    }
}

/// The only handle of a slot: its bytes may be written.
pub struct BufMut {
    head: NonNull<SlotHead>,
    ptr: NonNull<u8>,
    len: u32,
}

// SAFETY: a BufMut is the sole owner of its bytes; moving it to another thread moves that ownership.
unsafe impl Send for BufMut {}
// SAFETY: `&BufMut` allows reading only.
unsafe impl Sync for BufMut {}

impl BufMut {
    /// Takes a slot that was just popped from its free list.
    pub(crate) fn claim(pool: &Arc<Shared>, class: usize, slot: u32, len: usize) -> Self {
        let home = &pool.classes[class];
        assert!(len <= home.slot_bytes, "a slot of {} bytes cannot show {len}", home.slot_bytes);
        let head = &home.heads[slot as usize];
        let held = Arc::into_raw(Arc::clone(pool)).cast_mut();
        // SAFETY: the slot came off the free list, so this thread alone has access to its head.
        unsafe { *head.pool.get() = NonNull::new(held) };
        head.count.store(1, Ordering::Relaxed);
        // SAFETY: slot < number of slots, so the offset stays inside the class's mapping.
        let ptr = unsafe { home.base.add(slot as usize * home.slot_bytes) };
        Self { head: NonNull::from(head), ptr, len: len as u32 }
    }

    /// Makes the bytes shareable and read-only.
    pub fn freeze(self) -> Buf {
        let this = std::mem::ManuallyDrop::new(self);
        Buf { head: Some(this.head), ptr: this.ptr, len: this.len }
    }

    /// Shortens the visible bytes to `len`; no effect when they are fewer already.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len as usize {
            self.len = len as u32;
        }
    }

    /// Most bytes that the slot can show.
    pub fn capacity(&self) -> usize {
        // SAFETY: this handle keeps the slot in use and the head alive.
        SLOT_CLASSES[usize::from(unsafe { self.head.as_ref() }.class)]
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
        // SAFETY: the handle is given up here, once.
        unsafe { SlotHead::release(self.head) };
    }
}

impl std::fmt::Debug for BufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufMut({} bytes)", self.len)
    }
}

/// A counted, read-only slice of a slot (or of static bytes). Cloning and slicing copy no bytes.
pub struct Buf {
    /// `None` for bytes that live for ever, such as a block of zeroes.
    head: Option<NonNull<SlotHead>>,
    ptr: NonNull<u8>,
    len: u32,
}

const _: () = assert!(size_of::<Buf>() == 24, "handles are copied into messages and lists all the time");

// SAFETY: the bytes are immutable while any Buf lives, and the count is atomic.
unsafe impl Send for Buf {}
// SAFETY: as above.
unsafe impl Sync for Buf {}

impl Buf {
    /// A handle of bytes that live for ever; dropping it frees nothing.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        assert!(u32::try_from(bytes.len()).is_ok(), "a buffer is smaller than 4 GiB");
        let ptr = NonNull::from(bytes).cast::<u8>();
        Self { head: None, ptr, len: bytes.len() as u32 }
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
        let Some(head) = self.head else { return Err(self) };
        // SAFETY: this handle keeps the slot in use and the head alive.
        let this = unsafe { head.as_ref() };
        // Acquire: what other handles read happens before what is written from now on.
        if this.count.load(Ordering::Acquire) != 1 || !self.starts_slot(this) {
            return Err(self);
        }
        let this = std::mem::ManuallyDrop::new(self);
        Ok(BufMut { head, ptr: this.ptr, len: this.len })
    }

    fn starts_slot(&self, head: &SlotHead) -> bool {
        // SAFETY: written before the first handle was made, and not again while one lives.
        let pool = unsafe { *head.pool.get() }.expect("a slot in use holds its pool");
        // SAFETY: the slot's own reference keeps the pool alive.
        let home = &unsafe { pool.as_ref() }.classes[usize::from(head.class)];
        self.ptr.as_ptr() as usize == home.base.as_ptr() as usize + head.slot as usize * home.slot_bytes
    }
}

impl Clone for Buf {
    fn clone(&self) -> Self {
        if let Some(head) = self.head {
            // SAFETY: this handle keeps the slot in use and the head alive.
            let before = unsafe { head.as_ref() }.count.fetch_add(1, Ordering::Relaxed);
            if before > HANDLES_MAX {
                std::process::abort();
            }
        }
        Self { head: self.head, ptr: self.ptr, len: self.len }
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
        if let Some(head) = self.head {
            // SAFETY: the handle is given up here, once.
            unsafe { SlotHead::release(head) };
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}
