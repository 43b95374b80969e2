//! A copy into memory that nobody reads soon, such as a device in memory: it goes past the cache.
//!
//! An ordinary store first reads the line that it is about to overwrite, and then keeps it in the cache in
//! place of something useful. Streaming stores do neither: half the memory traffic.

/// Shorter copies are ordinary ones: the fence would cost more than it brings.
#[cfg(target_arch = "x86_64")]
const LEAST: usize = 1024;

/// Copies `from` to `to`, which have the same length. Whoever sees what this thread writes next sees the copy.
///
/// # Panics
/// When the lengths differ.
pub fn copy_past_cache(to: &mut [u8], from: &[u8]) {
    assert!(to.len() == from.len(), "a copy has one length");
    #[cfg(target_arch = "x86_64")]
    if to.len() >= LEAST {
        let (before, lines, after) = lines(to);
        let (head, rest) = from.split_at(before.len());
        let (body, tail) = rest.split_at(size_of_val(lines));
        before.copy_from_slice(head);
        stream(lines, body);
        after.copy_from_slice(tail);
        return;
    }
    to.copy_from_slice(from);
}

/// What one step writes: a cache line, at its place.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The whole cache lines of `bytes`, and what is before and behind them.
#[cfg(target_arch = "x86_64")]
fn lines(bytes: &mut [u8]) -> (&mut [u8], &mut [Line], &mut [u8]) {
    // SAFETY: a Line is 64 bytes of which every value is valid, without padding.
    unsafe { bytes.align_to_mut::<Line>() }
}

#[cfg(target_arch = "x86_64")]
fn stream(to: &mut [Line], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    for (line, bytes) in to.iter_mut().zip(from.chunks_exact(size_of::<Line>())) {
        let (to, from) = (line.0.as_mut_ptr().cast::<__m128i>(), bytes.as_ptr().cast::<__m128i>());
        // SAFETY: SSE2 is part of x86-64. Both pointers lead to 64 bytes, `to` is aligned to 64 and borrowed
        // exclusively; loads need no alignment.
        unsafe {
            let parts = [
                _mm_loadu_si128(from),
                _mm_loadu_si128(from.add(1)),
                _mm_loadu_si128(from.add(2)),
                _mm_loadu_si128(from.add(3)),
            ];
            for (at, part) in parts.into_iter().enumerate() {
                _mm_stream_si128(to.add(at), part);
            }
        }
    }
    // SAFETY: SSE2 again. Streaming stores are not ordered with later ones without it.
    unsafe { _mm_sfence() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_past_the_cache_is_a_copy_at_any_place_and_length() {
        let from: Vec<u8> = (0..9000u32).map(|i| ((i * 7) >> 2) as u8).collect();
        for (at, len) in [(0, 0), (3, 5), (0, 1023), (1, 1024), (0, 4096), (63, 4097), (64, 8192), (17, 8000)]
        {
            let mut to = vec![0xee; 9000];
            copy_past_cache(&mut to[at..at + len], &from[at / 2..at / 2 + len]);
            assert!(to[at..at + len] == from[at / 2..at / 2 + len], "{len} bytes at {at}");
            assert!(
                to[..at].iter().chain(&to[at + len..]).all(|&byte| byte == 0xee),
                "and nothing beside it"
            );
        }
    }
}
