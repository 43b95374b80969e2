//! What a run does, in numbers.

use std::time::Duration;

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Every block is as likely as any other.
    Uniform,
    /// Few blocks get most requests; the parameter is the skew (0.99 is usual).
    Zipf(f64),
    /// One after another, from the start again at the end.
    Sequential,
}

/// How requests start.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// A new one as soon as one ends: always `depth` in flight.
    Closed,
    /// So many a second, whether earlier ones ended or not; latency counts from the intended start.
    Open(f64),
}

/// A run.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Spec {
    /// Share of reads in per cent.
    pub read_percent: u8,
    /// Bytes of a request.
    pub size: u32,
    /// Requests in flight at most.
    pub depth: u32,
    /// Where requests go.
    pub pattern: Pattern,
    /// How they start.
    pub pace: Pace,
    /// First byte of the region.
    pub offset: u64,
    /// Bytes of the region.
    pub bytes: u64,
    /// For how long.
    pub time: Duration,
    /// Before that, unmeasured.
    pub warmup: Duration,
    /// Or until so many requests were started.
    pub requests_max: Option<u64>,
    /// A flush after so many writes; none when zero.
    pub flush_every: u32,
    /// Seed of addresses and contents.
    pub seed: u64,
    /// How long to try to come back after a lost connection; zero: give up at once.
    pub reconnect: Duration,
}

/// Why a spec cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Sizes that make no sense together.
    #[error("{0}")]
    Size(String),
}

/// Requests in flight that the generator can hold.
pub const DEPTH_MAX: u32 = 4096;
/// Largest request.
pub const SIZE_MAX: u32 = 32 << 20;
/// Buffers of all slots together.
pub const MEMORY_MAX: u64 = 4 << 30;

impl Spec {
    /// Checks the numbers against each other and against a target of `bytes`; a region of zero bytes
    /// becomes the rest of the target.
    pub fn fit(mut self, bytes: u64) -> Result<Self, Unfit> {
        let wrong = |what: String| Err(Unfit::Size(what));
        if self.size == 0 || self.size > SIZE_MAX || !self.size.is_multiple_of(512) {
            return wrong(format!(
                "a request of {} bytes: take a multiple of 512 up to {SIZE_MAX}",
                self.size
            ));
        }
        if self.depth == 0 || self.depth > DEPTH_MAX {
            return wrong(format!("a depth of {}: take 1 to {DEPTH_MAX}", self.depth));
        }
        if u64::from(self.depth) * u64::from(self.size) > MEMORY_MAX {
            return wrong(format!("depth times size is above {MEMORY_MAX} bytes"));
        }
        if self.offset > bytes || !self.offset.is_multiple_of(512) {
            return wrong(format!("an offset of {} in a target of {bytes} bytes", self.offset));
        }
        if self.bytes == 0 {
            self.bytes = bytes - self.offset;
        }
        if self.offset.checked_add(self.bytes).is_none_or(|end| end > bytes) {
            return wrong(format!("the region ends beyond the target of {bytes} bytes"));
        }
        if self.bytes < u64::from(self.size) {
            return wrong(format!("a region of {} bytes holds no request of {}", self.bytes, self.size));
        }
        if self.read_percent > 100 {
            return wrong(format!("{} per cent of reads", self.read_percent));
        }
        match (self.pace, self.pattern) {
            (Pace::Open(rate), _) if !(rate > 0.0 && rate < 1e9) => {
                wrong(format!("a rate of {rate} a second"))
            }
            (_, Pattern::Zipf(skew)) if !(skew > 0.0 && skew < 10.0) => wrong(format!("a skew of {skew}")),
            _ => Ok(self),
        }
    }

    /// Places that a request can start at.
    pub fn places(&self) -> u64 {
        self.bytes / u64::from(self.size)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small mixed run.
    pub(crate) fn sample() -> Spec {
        Spec {
            read_percent: 50,
            size: 4096,
            depth: 16,
            pattern: Pattern::Uniform,
            pace: Pace::Closed,
            offset: 0,
            bytes: 0,
            time: Duration::from_secs(60),
            warmup: Duration::ZERO,
            requests_max: Some(20_000),
            flush_every: 100,
            seed: 7,
            reconnect: Duration::ZERO,
        }
    }

    #[test]
    fn unfit_numbers_are_errors_and_a_region_of_zero_is_the_whole_target() {
        assert_eq!(sample().fit(1 << 20).expect("fits").bytes, 1 << 20);
        let wrong: [fn(&mut Spec); 8] = [
            |s| s.size = 1000,
            |s| s.size = 0,
            |s| s.depth = 0,
            |s| s.offset = 2 << 20,
            |s| s.bytes = u64::MAX,
            |s| s.bytes = 512,
            |s| s.pace = Pace::Open(f64::NAN),
            |s| s.pattern = Pattern::Zipf(-1.0),
        ];
        for (i, change) in wrong.iter().enumerate() {
            let mut spec = sample();
            change(&mut spec);
            assert!(spec.fit(1 << 20).is_err(), "case {i}");
        }
    }
}
