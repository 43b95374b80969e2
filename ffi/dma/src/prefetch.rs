//! A hint to the processor that bytes will be needed soon, so that they come from memory while something
//! else is done. It changes nothing but time.

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Starts to bring the bytes near. Where there is no such instruction, it does nothing.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has SSE; the address lies in a live slice, and a hint faults on none anyway.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = bytes;
}

/// Starts to bring the first byte's cache line of a value near.
#[inline]
pub fn prefetch_value<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as above; the address is that of a live value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_changes_nothing() {
        let bytes = vec![7u8; 1000];
        prefetch(&bytes);
        prefetch(&bytes[999..]);
        prefetch(&[]);
        prefetch_value(&bytes[500]);
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
}
