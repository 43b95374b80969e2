//! Load, latency histograms, baselines and benches: how we know how fast the rack is, and that it is right
//! while it is fast.
//!
//! The load generator drives a [`target::Target`] in closed loop (a fixed queue depth) or in open loop (a
//! fixed rate, latency counted from the intended start, so that a stall is not hidden by the requests it
//! kept from starting: no coordinated omission). It can write blocks that describe themselves and check
//! every read against a model of what was acknowledged.
//!
//! What this crate does not do: it links nothing of a running rack. Racks are driven through NBD, or
//! through a factory that the node crate passes to [`cli::run`].

pub mod bench;
pub mod cli;
pub mod faults;
pub mod load;
pub mod nbd;
pub mod report;
pub mod target;
pub mod units;
