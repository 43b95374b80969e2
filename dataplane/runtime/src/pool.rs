//! Buffer pools of reactors, with a spoken fall-back when the host lacks huge pages.

use palisade_dma::{Backing, Pool, PoolConfig, PoolError};

/// A pool and what to tell the operator about it.
#[derive(Debug)]
pub struct PoolReport {
    /// The pool.
    pub pool: Pool,
    /// A sentence for the log when the pool is not what was asked for.
    pub note: Option<String>,
}

/// Huge pages of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Reserved 2 MiB pages.
    pub total: u64,
    /// Of them free.
    pub free: u64,
}

impl HugePages {
    /// Reads the host's counters; zeroes where the kernel has no huge pages at all.
    pub fn of_host() -> Self {
        let read = |name: &str| {
            let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        Self { total: read("nr_hugepages"), free: read("free_hugepages") }
    }

    /// Pages that a pool of `bytes` needs.
    pub fn needed(bytes: usize) -> u64 {
        (bytes as u64).div_ceil(2 << 20)
    }
}

/// Makes a pool of about `bytes`; where `huge` cannot be had, ordinary pages and a sentence that says so.
pub fn create(bytes: usize, huge: bool) -> Result<PoolReport, PoolError> {
    let pool = Pool::new(PoolConfig::sized(bytes, huge))?;
    let note = (pool.backing() == Backing::OrdinaryFallback).then(|| {
        let pages = HugePages::of_host();
        format!(
            "buffer pool of {} MiB uses ordinary pages: {} huge pages of 2 MiB are free and {} are needed; \
             reserve them with `sysctl vm.nr_hugepages={}`",
            bytes >> 20,
            pages.free,
            HugePages::needed(bytes),
            pages.total - pages.free + HugePages::needed(bytes),
        )
    });
    Ok(PoolReport { pool, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_enough_huge_pages_gets_ordinary_ones_and_is_told() {
        let report = create(16 << 20, true).expect("ordinary pages are there");
        match report.pool.backing() {
            Backing::OrdinaryFallback => {
                let note = report.note.expect("a sentence");
                assert!(note.contains("vm.nr_hugepages="), "{note}");
            }
            _ => assert_eq!(report.note, None),
        }
        assert!(report.pool.alloc(4096).is_some());
    }

    #[test]
    fn ordinary_pages_by_wish_need_no_words() {
        assert_eq!(create(1 << 20, false).expect("mapped").note, None);
        assert_eq!(HugePages::needed((2 << 20) + 1), 2);
    }
}
