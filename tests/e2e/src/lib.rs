//! Real processes and real clients: what a newcomer would do by hand, as tests.
//!
//! A [`rack::TestRack`] is a rack file in a directory of its own, and the `palisade` process that serves it.
//! Tests start, stop, kill and hurt it, and drive it with fio, qemu-io, nbdcopy, nbdinfo and `palisade perf`.
//! Whatever happens here could happen on a host; what needs a fault inside a machine belongs to the simulator.
//!
//! Lengths grow by environment: `PALISADE_E2E_KILLS` (rounds of kill -9, default 5), `PALISADE_E2E_BYTES`
//! (of the nbdcopy round trip, default 160 MiB), `PALISADE_E2E_SECONDS` (of verified fio, default 5),
//! `PALISADE_E2E_PAIRS` (pairs of sleds to hurt, default all 15). `PALISADE_BIN` names the binary.

pub mod binary;
pub mod clients;
pub mod etcd;
pub mod rack;

/// A number from the environment, or its default.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
