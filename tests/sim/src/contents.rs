//! Self-describing contents: every 512-byte sector that a client writes names the write and the sector,
//! and the rest of it follows from both. So a read tells which write it saw, and bytes that no client
//! ever wrote there (`NothingSilent`) are found without keeping copies.

use palisade_protocol::wire::limits::SECTOR;

/// Names a write of the run; 0 is "zeroes".
pub type WriteId = u64;

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Zeroes: never written, trimmed or zeroed.
    Zero,
    /// Whole and right: the contents that this write gave this sector.
    Write(WriteId),
    /// Something else.
    Foreign,
}

fn word(id: WriteId, sector: u64, index: u64) -> u64 {
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sector.rotate_left(32) ^ (index << 1);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

/// Fills one sector.
pub fn fill(out: &mut [u8], id: WriteId, sector: u64) {
    assert_eq!(out.len(), SECTOR);
    out[..8].copy_from_slice(&id.to_le_bytes());
    out[8..16].copy_from_slice(&sector.to_le_bytes());
    for (index, chunk) in out[16..].chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(id, sector, index as u64).to_le_bytes());
    }
}

/// Reads one sector's contents back.
pub fn decode(bytes: &[u8], sector: u64) -> Seen {
    assert_eq!(bytes.len(), SECTOR);
    if bytes.iter().all(|byte| *byte == 0) {
        return Seen::Zero;
    }
    let mut id = [0u8; 8];
    id.copy_from_slice(&bytes[..8]);
    let id = u64::from_le_bytes(id);
    let mut want = [0u8; SECTOR];
    fill(&mut want, id, sector);
    if id != 0 && bytes == want { Seen::Write(id) } else { Seen::Foreign }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_its_write_and_a_flipped_bit_or_another_place_makes_it_foreign() {
        let mut sector = [0u8; SECTOR];
        assert_eq!(decode(&sector, 9), Seen::Zero);
        fill(&mut sector, 77, 9);
        assert_eq!(decode(&sector, 9), Seen::Write(77));
        assert_eq!(decode(&sector, 10), Seen::Foreign);
        sector[300] ^= 4;
        assert_eq!(decode(&sector, 9), Seen::Foreign);
    }
}
