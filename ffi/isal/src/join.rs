//! CRC32C of two runs of bytes put together, from the checksums of both: no byte is looked at again.
//!
//! The checksum is linear over GF(2): that of `a` followed by `b` is that of `a` carried over as many zero
//! bytes as `b` has, plus that of `b`. For a fixed length the carrying is a 32×32 bit matrix, kept here as
//! four tables, one look-up for each byte of the checksum.

/// The reflected Castagnoli polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Joins checksums where the second run has one fixed length.
pub struct Joiner {
    tables: [[u32; 256]; 4],
}

type Matrix = [u32; 32];

const fn times(matrix: &Matrix, mut vector: u32) -> u32 {
    let (mut sum, mut row) = (0, 0);
    while vector != 0 {
        if vector & 1 == 1 {
            sum ^= matrix[row];
        }
        vector >>= 1;
        row += 1;
    }
    sum
}

const fn squared(matrix: &Matrix) -> Matrix {
    let (mut out, mut row) = ([0; 32], 0);
    while row < 32 {
        out[row] = times(matrix, matrix[row]);
        row += 1;
    }
    out
}

impl Joiner {
    /// A joiner for second runs of `2^log2` bytes.
    pub const fn of_power(log2: u32) -> Self {
        // One zero bit: the lowest bit falls out and brings the polynomial in.
        let (mut matrix, mut row) = ([0; 32], 1);
        matrix[0] = POLYNOMIAL;
        while row < 32 {
            matrix[row] = 1 << (row - 1);
            row += 1;
        }
        let mut doubled = 0;
        while doubled < log2 + 3 {
            matrix = squared(&matrix);
            doubled += 1;
        }
        let (mut tables, mut byte) = ([[0; 256]; 4], 0);
        while byte < 256 {
            let mut table = 0;
            while table < 4 {
                tables[table][byte] = times(&matrix, (byte as u32) << (8 * table));
                table += 1;
            }
            byte += 1;
        }
        Self { tables }
    }

    /// Checksum of what gave `first` followed by what gave `second`, which must have the joiner's length.
    #[inline]
    pub fn join(&self, first: u32, second: u32) -> u32 {
        let bytes = first.to_le_bytes();
        let carried =
            self.tables.iter().zip(bytes).fold(0, |sum, (table, byte)| sum ^ table[usize::from(byte)]);
        carried ^ second
    }
}

impl std::fmt::Debug for Joiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joiner({:08x})", self.tables[0][1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crc32c;

    #[test]
    fn joined_checksums_are_those_of_the_bytes_put_together() {
        static BLOCKS: Joiner = Joiner::of_power(12);
        let bytes: Vec<u8> = (0..5 * 4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut sum = crc32c(&[]);
        for (at, block) in bytes.chunks_exact(4096).enumerate() {
            sum = BLOCKS.join(sum, crc32c(block));
            assert_eq!(sum, crc32c(&bytes[..(at + 1) * 4096]));
        }
        for (log2, head) in [(0, 7usize), (3, 0), (9, 100)] {
            let (a, b) = bytes[..head + (1 << log2)].split_at(head);
            assert_eq!(
                Joiner::of_power(log2).join(crc32c(a), crc32c(b)),
                crc32c(&bytes[..head + (1 << log2)])
            );
        }
    }
}
