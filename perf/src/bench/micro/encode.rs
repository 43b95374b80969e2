//! Erasure code in the flush path's shape, against ISA-L alone on the same buffers: what taking slots from
//! a pool, gathering slices, freezing and giving back add to a batch of four stripes (DESIGN section 6).

use super::nanos;
use crate::bench::median;
use palisade_dma::{Buf, BufMut, Pool, PoolConfig};
use palisade_isal::Codec;
use smallvec::SmallVec;
use std::hint::black_box;

/// The code of the rack files.
const K: usize = 4;
const M: usize = 2;
const UNIT: usize = 64 << 10;
const STRIPES: usize = 4;
/// Alternations of the two; the median of the ratios counts.
const PAIRS: usize = 3;

/// What was measured.
pub(super) struct EncodeFigures {
    /// GB of data a second in the flush path's shape.
    pub(super) flush_gb: f64,
    /// Its share of what ISA-L does alone.
    pub(super) share: f64,
}

/// A stripe's data and parity units.
type Stripe<'a> = (Vec<&'a [u8]>, Vec<&'a mut [u8]>);

/// Slots for a batch; the free list gives both sides the slots that the other just gave back.
fn room(pool: &Pool) -> Vec<BufMut> {
    (0..STRIPES * (K + M)).map(|_| pool.alloc(UNIT).expect("the pool is larger than a batch")).collect()
}

/// Nanoseconds of a batch with slices that were made beforehand.
fn alone(codec: &Codec, pool: &Pool) -> f64 {
    let mut room = room(pool);
    let mut stripes: Vec<Stripe<'_>> = Vec::new();
    for stripe in room.chunks_exact_mut(K + M) {
        let (data, parity) = stripe.split_at_mut(K);
        stripes.push((data.iter().map(|b| &**b).collect(), parity.iter_mut().map(|b| &mut **b).collect()));
    }
    nanos(|| {
        for (data, parity) in &mut stripes {
            codec.encode(black_box(data), parity).expect("shapes fit");
        }
    })
}

/// Nanoseconds of a batch as the flush path does it, from empty hands to frozen units and back.
fn in_flush_shape(codec: &Codec, pool: &Pool) -> f64 {
    nanos(|| {
        let mut room = room(pool);
        for stripe in room.chunks_exact_mut(K + M) {
            let (data, parity) = stripe.split_at_mut(K);
            let data: SmallVec<[&[u8]; 16]> = data.iter().map(|buf| &**buf).collect();
            let mut parity: SmallVec<[&mut [u8]; 16]> = parity.iter_mut().map(|buf| &mut **buf).collect();
            codec.encode(black_box(&data), &mut parity).expect("shapes fit");
        }
        let units: Vec<Buf> = room.into_iter().map(BufMut::freeze).collect();
        black_box(&units);
    })
}

/// Measures both, in turn.
pub(super) fn measure() -> Result<EncodeFigures, String> {
    let pool = Pool::new(PoolConfig::small()).map_err(|e| e.to_string())?;
    let codec = Codec::new(K, M).map_err(|e| e.to_string())?;
    let pairs = (0..PAIRS).map(|_| (alone(&codec, &pool), in_flush_shape(&codec, &pool)));
    let (flush, shares): (Vec<f64>, Vec<f64>) = pairs.map(|(bare, flush)| (flush, bare / flush)).unzip();
    let bytes = (K * UNIT * STRIPES) as f64;
    Ok(EncodeFigures { flush_gb: bytes / median(flush), share: median(shares) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_all_its_slots_back() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let codec = Codec::new(K, M).expect("a code");
        assert!(alone(&codec, &pool) > 0.0 && in_flush_shape(&codec, &pool) > 0.0);
        assert_eq!(pool.stats().free, pool.stats().total);
    }
}
