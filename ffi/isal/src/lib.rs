//! Safe face of ISA-L: CRC32C and the Cauchy erasure code over GF(2^8) (EF-11).
//!
//! All calls are synchronous, allocate only when a [`Codec`] or a decode plan is made, and touch no
//! memory but the slices given.
#![allow(unsafe_code)] // Calls into libisal, see the SAFETY reasons at each block.

mod codec;
mod join;
mod sys;

pub use codec::{Codec, CodecError, DecodePlan, MAX_FRAGMENTS};
pub use join::Joiner;

/// CRC32C (Castagnoli) of `bytes`, the checksum of every header and block of Palisade.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_extend(0, bytes)
}

/// CRC32C of what gave `crc` followed by `bytes`.
pub fn crc32c_extend(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    for part in bytes.chunks(1 << 30) {
        // SAFETY: the pointer and length describe `part`, and crc32_iscsi only reads despite its type.
        state = unsafe { sys::crc32_iscsi(part.as_ptr().cast_mut(), part.len() as i32, state) };
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_rfc_3720_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xffu8; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&[]), 0);
    }

    #[test]
    fn crc32c_extends() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 7, 128, 255, 256] {
            assert_eq!(crc32c_extend(crc32c(&bytes[..cut]), &bytes[cut..]), crc32c(&bytes));
        }
    }
}
