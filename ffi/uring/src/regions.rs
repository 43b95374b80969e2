//! Which registered buffer an address belongs to.

use palisade_dma::Pool;

/// The kernel's limit for one registered buffer; a multiple of every slot size, so no slot straddles it.
const PIECE_MAX: usize = 1 << 30;

/// Pool memory registered with a ring. Holds the pool, so the memory stays mapped while registered.
pub(crate) struct Regions {
    pieces: Vec<(usize, usize)>,
    pool: Pool,
}

impl Regions {
    /// The pool's memory, cut into pieces that the kernel accepts.
    pub(crate) fn of(pool: &Pool) -> Self {
        let mut pieces = Vec::new();
        for (start, bytes) in pool.regions() {
            let mut at = 0;
            while at < bytes {
                let len = PIECE_MAX.min(bytes - at);
                pieces.push((start + at, len));
                at += len;
            }
        }
        Self { pieces, pool: pool.clone() }
    }

    /// As the kernel wants them.
    pub(crate) fn iovecs(&self) -> Vec<libc::iovec> {
        let iovec = |&(start, len): &(usize, usize)| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(start),
            iov_len: len,
        };
        self.pieces.iter().map(iovec).collect()
    }

    /// The registered buffer that holds all of `start..start + len`.
    pub(crate) fn find(&self, start: usize, len: usize) -> Option<u16> {
        let holds = |&(base, bytes): &(usize, usize)| start >= base && start - base + len <= bytes;
        self.pieces.iter().position(holds).and_then(|index| u16::try_from(index).ok())
    }
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Regions({} pieces of {:?})", self.pieces.len(), self.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::PoolConfig;

    #[test]
    fn every_slot_of_the_pool_is_found_and_nothing_else() {
        let pool = Pool::new(PoolConfig::small()).expect("pool");
        let regions = Regions::of(&pool);
        for len in [4096, 65536, 262_144] {
            let buf = pool.alloc(len).expect("slot");
            assert!(regions.find(buf.as_ptr() as usize, len).is_some());
        }
        let other = [0u8; 16];
        assert_eq!(regions.find(other.as_ptr() as usize, 16), None);
        let (start, bytes) = pool.regions()[0];
        assert_eq!(regions.find(start + bytes - 8, 16), None, "straddles the end");
    }
}
