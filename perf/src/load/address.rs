//! Where the next request goes: uniform, zipf or sequential, from a seed.

use super::spec::Pattern;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A stream of places below a bound.
pub struct Addresses {
    random: Xoshiro256PlusPlus,
    places: u64,
    kind: Kind,
}

enum Kind {
    Uniform,
    Zipf(Zipf),
    Sequential(u64),
}

impl Addresses {
    /// Places `0..places` by a pattern.
    pub fn new(pattern: Pattern, places: u64, seed: u64) -> Self {
        assert!(places > 0, "a region holds at least one request");
        let kind = match pattern {
            Pattern::Uniform => Kind::Uniform,
            Pattern::Zipf(skew) => Kind::Zipf(Zipf::new(places, skew)),
            Pattern::Sequential => Kind::Sequential(0),
        };
        Self { random: Xoshiro256PlusPlus::seed_from_u64(seed), places, kind }
    }

    /// The next place.
    pub fn next_place(&mut self) -> u64 {
        match &mut self.kind {
            Kind::Uniform => below(&mut self.random, self.places),
            Kind::Zipf(zipf) => scatter(zipf.rank(&mut self.random), self.places),
            Kind::Sequential(next) => {
                let place = *next;
                *next = (place + 1) % self.places;
                place
            }
        }
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u8) -> bool {
        below(&mut self.random, 100) < u64::from(percent)
    }
}

/// A number below `bound`, by multiplication (its bias is far below anything measured here).
fn below(random: &mut Xoshiro256PlusPlus, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64
}

/// A number in `0.0..1.0`.
fn unit(random: &mut Xoshiro256PlusPlus) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Spreads ranks over the region, so that hot blocks are no neighbours. Several ranks may meet in one
/// place, as they would in a hash table; the skew stays.
fn scatter(rank: u64, places: u64) -> u64 {
    let mut x = rank.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((u128::from(x) * u128::from(places)) >> 64) as u64
}

/// Zipf ranks by rejection-inversion (Hörmann and Derflinger 1996): constant time, no table.
struct Zipf {
    places: f64,
    skew: f64,
    low: f64,
    high: f64,
    shortcut: f64,
}

impl Zipf {
    fn new(places: u64, skew: f64) -> Self {
        let mut zipf = Self { places: places as f64, skew, low: 0.0, high: 0.0, shortcut: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.places + 0.5);
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.skew * x.ln()).exp()
    }

    /// Integral of the weight, with a series near skew 1 where the closed form divides by zero.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.skew) * log;
        let ratio = if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 };
        ratio * log
    }

    fn inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.skew)).max(-1.0);
        let ratio = if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 };
        (ratio * x).exp()
    }

    /// A rank, 0 the most frequent.
    fn rank(&self, random: &mut Xoshiro256PlusPlus) -> u64 {
        loop {
            let u = self.high + unit(random) * (self.low - self.high);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.places);
            if k - x <= self.shortcut || u >= self.integral(k + 0.5) - self.weight(k) {
                return k as u64 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pattern: Pattern, places: u64, draws: usize) -> Vec<usize> {
        let mut addresses = Addresses::new(pattern, places, 1);
        let mut counts = vec![0; places as usize];
        for _ in 0..draws {
            counts[addresses.next_place() as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_places_are_about_equally_likely() {
        let counts = counts(Pattern::Uniform, 100, 100_000);
        assert!(counts.iter().all(|&n| (800..1200).contains(&n)), "{counts:?}");
    }

    #[test]
    fn zipf_ranks_follow_the_law() {
        let zipf = Zipf::new(1000, 0.99);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut counts = vec![0f64; 1000];
        for _ in 0..200_000 {
            counts[zipf.rank(&mut random) as usize] += 1.0;
        }
        for rank in [1usize, 3, 9] {
            let wanted = ((rank + 1) as f64).powf(0.99);
            let got = counts[0] / counts[rank];
            assert!((got / wanted - 1.0).abs() < 0.1, "rank {rank}: {got} for {wanted}");
        }
    }

    #[test]
    fn sequential_places_wrap_and_one_place_is_enough() {
        let mut addresses = Addresses::new(Pattern::Sequential, 3, 0);
        let places: Vec<u64> = (0..5).map(|_| addresses.next_place()).collect();
        assert_eq!(places, [0, 1, 2, 0, 1]);
        assert_eq!(counts(Pattern::Zipf(0.99), 1, 10), [10]);
    }
}
