//! Randomness as a port: ids and secrets from the operating system, test choices from a seed.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A source of random bytes.
pub trait Entropy: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);

    /// A random number of 64 bits.
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A random number of 128 bits, for identities and secrets.
    fn next_u128(&mut self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// The operating system's randomness; the only one from which secrets may come.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        // A kernel without getrandom(2) cannot run io_uring either; there is nothing to fall back to
        // that would be fit for a secret.
        getrandom::fill(bytes).expect("getrandom(2) answers on every supported kernel");
    }
}

/// Repeatable randomness from a seed: for simulations and fault plans, never for secrets.
#[derive(Clone, Debug)]
pub struct SeededEntropy {
    rng: Xoshiro256PlusPlus,
}

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// A number below `bound`, which is not zero. The slight bias of a modulus does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// True `ppm` times in a million.
    pub fn chance(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < u64::from(ppm)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |seed| {
            let mut source = SeededEntropy::new(seed);
            (source.next_u64(), source.next_u128(), source.below(10))
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7).0, numbers(8).0);
    }

    #[test]
    fn the_system_gives_different_numbers_each_time() {
        assert_ne!(OsEntropy.next_u128(), OsEntropy.next_u128());
    }
}
