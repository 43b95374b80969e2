//! A k+m Cauchy code: encode parity, and plans that rebuild missing fragments from any k present ones.

use crate::sys;

/// Most fragments (k + m) of a code.
pub const MAX_FRAGMENTS: usize = 32;

/// Why a code or a plan could not be made, or a call was given unfit slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// k or m is zero, or k + m exceeds [`MAX_FRAGMENTS`].
    #[error("code {k}+{m} is not supported: k and m start at 1 and k + m is at most {MAX_FRAGMENTS}")]
    Geometry {
        /// Data fragments.
        k: usize,
        /// Parity fragments.
        m: usize,
    },
    /// Fewer than k fragments are present.
    #[error("only {present} of the {needed} fragments needed are present")]
    TooFew {
        /// Fragments present.
        present: usize,
        /// Fragments needed.
        needed: usize,
    },
    /// Slices differ in number or length from what the code needs.
    #[error("fragments have unequal lengths or are of the wrong number")]
    Shape,
    /// The chosen rows do not form an invertible matrix (cannot happen with a Cauchy matrix).
    #[error("decode matrix is singular")]
    Singular,
}

/// An erasure code of `k` data and `m` parity fragments; any `k` of them rebuild all.
#[derive(Clone)]
pub struct Codec {
    k: usize,
    m: usize,
    /// (k + m) × k generator matrix, identity on top.
    matrix: Vec<u8>,
    /// ISA-L's expanded tables of the parity rows.
    tables: Vec<u8>,
}

impl Codec {
    /// Builds matrix and tables.
    pub fn new(k: usize, m: usize) -> Result<Self, CodecError> {
        if k == 0 || m == 0 || k + m > MAX_FRAGMENTS {
            return Err(CodecError::Geometry { k, m });
        }
        let mut matrix = vec![0u8; (k + m) * k];
        let mut tables = vec![0u8; 32 * k * m];
        // SAFETY: matrix holds (k + m) × k bytes and tables 32 × k × m, as ISA-L documents.
        unsafe {
            sys::gf_gen_cauchy1_matrix(matrix.as_mut_ptr(), (k + m) as i32, k as i32);
            sys::ec_init_tables(k as i32, m as i32, matrix[k * k..].as_mut_ptr(), tables.as_mut_ptr());
        }
        Ok(Self { k, m, matrix, tables })
    }

    /// Data fragments.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity fragments.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Fills `parity` (m slices) from `data` (k slices), all of one length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), CodecError> {
        if data.len() != self.k || parity.len() != self.m {
            return Err(CodecError::Shape);
        }
        apply(&self.tables, data, parity)
    }

    /// A plan that makes the fragments `wanted` from the first k of `present` (fragment numbers, data
    /// first, each below k + m).
    pub fn decode_plan(&self, present: &[usize], wanted: &[usize]) -> Result<DecodePlan, CodecError> {
        let (k, all) = (self.k, self.k + self.m);
        if present.len() < k {
            return Err(CodecError::TooFew { present: present.len(), needed: k });
        }
        if present.iter().chain(wanted).any(|&row| row >= all) || wanted.is_empty() {
            return Err(CodecError::Shape);
        }
        let sources: Vec<usize> = present[..k].to_vec();
        let mut rows = Vec::with_capacity(k * k);
        for &row in &sources {
            rows.extend_from_slice(&self.matrix[row * k..(row + 1) * k]);
        }
        let mut inverse = vec![0u8; k * k];
        // SAFETY: both matrices hold k × k bytes.
        if unsafe { sys::gf_invert_matrix(rows.as_mut_ptr(), inverse.as_mut_ptr(), k as i32) } != 0 {
            return Err(CodecError::Singular);
        }
        let mut decode = vec![0u8; wanted.len() * k];
        for (out, &row) in decode.chunks_exact_mut(k).zip(wanted) {
            for (column, cell) in out.iter_mut().enumerate() {
                for (inner, &factor) in self.matrix[row * k..(row + 1) * k].iter().enumerate() {
                    // SAFETY: gf_mul takes and returns plain bytes.
                    *cell ^= unsafe { sys::gf_mul(factor, inverse[inner * k + column]) };
                }
            }
        }
        let mut tables = vec![0u8; 32 * k * wanted.len()];
        // SAFETY: decode holds rows × k bytes and tables 32 × k × rows.
        unsafe {
            sys::ec_init_tables(k as i32, wanted.len() as i32, decode.as_mut_ptr(), tables.as_mut_ptr());
        }
        Ok(DecodePlan { sources, wanted: wanted.to_vec(), tables })
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Codec({}+{})", self.k, self.m)
    }
}

/// How to rebuild certain fragments from certain others; reusable over any number of stripes.
#[derive(Clone, Debug)]
pub struct DecodePlan {
    sources: Vec<usize>,
    wanted: Vec<usize>,
    tables: Vec<u8>,
}

impl DecodePlan {
    /// The fragments to pass to [`DecodePlan::decode`], in this order.
    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// The fragments that come out, in this order.
    pub fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    /// Fills `out` (the wanted fragments) from `sources`, all of one length.
    pub fn decode(&self, sources: &[&[u8]], out: &mut [&mut [u8]]) -> Result<(), CodecError> {
        if sources.len() != self.sources.len() || out.len() != self.wanted.len() {
            return Err(CodecError::Shape);
        }
        apply(&self.tables, sources, out)
    }
}

/// Multiplies `input` by expanded `tables` into `output`, after checking all lengths.
fn apply(tables: &[u8], input: &[&[u8]], output: &mut [&mut [u8]]) -> Result<(), CodecError> {
    let len = input[0].len();
    let equal = input.iter().all(|part| part.len() == len) && output.iter().all(|part| part.len() == len);
    if !equal || len > i32::MAX as usize || tables.len() != 32 * input.len() * output.len() {
        return Err(CodecError::Shape);
    }
    if len == 0 {
        return Ok(());
    }
    let mut sources = [std::ptr::null_mut::<u8>(); MAX_FRAGMENTS];
    let mut targets = [std::ptr::null_mut::<u8>(); MAX_FRAGMENTS];
    for (pointer, part) in sources.iter_mut().zip(input) {
        *pointer = part.as_ptr().cast_mut();
    }
    for (pointer, part) in targets.iter_mut().zip(output.iter_mut()) {
        *pointer = part.as_mut_ptr();
    }
    // SAFETY: every pointer leads to `len` bytes, tables have the size that ISA-L needs for these counts,
    // inputs and tables are only read despite their types, and outputs are exclusive borrows.
    unsafe {
        sys::ec_encode_data(
            len as i32,
            input.len() as i32,
            output.len() as i32,
            tables.as_ptr().cast_mut(),
            sources.as_mut_ptr(),
            targets.as_mut_ptr(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(k: usize, m: usize, len: usize) -> Vec<Vec<u8>> {
        let codec = Codec::new(k, m).expect("geometry");
        let mut all: Vec<Vec<u8>> =
            (0..k).map(|f| (0..len).map(|i| ((i * 31 + f * 97) ^ (i >> 3)) as u8).collect()).collect();
        let mut parity = vec![vec![0u8; len]; m];
        let data: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        codec.encode(&data, &mut out).expect("encodes");
        all.append(&mut parity);
        all
    }

    #[test]
    fn every_pair_of_losses_decodes_in_every_geometry() {
        for (k, m) in [(2, 1), (4, 2), (8, 3)] {
            let codec = Codec::new(k, m).expect("geometry");
            let all = fragments(k, m, 4096);
            for a in 0..k + m {
                for b in a..k + m {
                    if m == 1 && a != b {
                        continue;
                    }
                    let wanted: Vec<usize> = if a == b { vec![a] } else { vec![a, b] };
                    let present: Vec<usize> = (0..k + m).filter(|f| !wanted.contains(f)).collect();
                    let plan = codec.decode_plan(&present, &wanted).expect("plan");
                    let sources: Vec<&[u8]> = plan.sources().iter().map(|&f| all[f].as_slice()).collect();
                    let mut out = vec![vec![0u8; 4096]; wanted.len()];
                    let mut views: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
                    plan.decode(&sources, &mut views).expect("decodes");
                    for (bytes, &f) in out.iter().zip(&wanted) {
                        assert_eq!(bytes, &all[f], "{k}+{m} without {a} and {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn unfit_calls_are_errors() {
        let codec = Codec::new(4, 2).expect("geometry");
        assert_eq!(Codec::new(0, 2).err(), Some(CodecError::Geometry { k: 0, m: 2 }));
        assert_eq!(Codec::new(30, 3).err(), Some(CodecError::Geometry { k: 30, m: 3 }));
        assert_eq!(
            codec.decode_plan(&[0, 1, 2], &[3]).err(),
            Some(CodecError::TooFew { present: 3, needed: 4 })
        );
        assert_eq!(codec.decode_plan(&[0, 1, 2, 9], &[3]).err(), Some(CodecError::Shape));
        let short = [0u8; 8];
        let long = [0u8; 16];
        let (mut p, mut q) = ([0u8; 8], [0u8; 8]);
        let data: [&[u8]; 4] = [&short, &short, &long, &short];
        assert_eq!(codec.encode(&data, &mut [&mut p, &mut q]), Err(CodecError::Shape));
    }
}
