//! The head's log, its index and its checkpoints (EF-07, EF-10; P-03, P-06..P-09, P-29, P-31).
//!
//! One [`Log`] per head, on one device, shared by all partitions in both roles. It starts as a
//! [`Recovery`], which reads (or formats) the device and ends as a [`Log`] plus one
//! [`RecoveredPartition`] for each partition found. The head owns one [`Index`] per partition and
//! changes it only through [`Log::apply`], so that live counts of segments follow.
//!
//! What it does not do: decide what is committed, talk to peers, choose what to flush. That is `head`.
//!
//! A turn of the head: `push*` any number of entries, then [`Log::end_turn`] writes them as few records;
//! later [`Log::handle_block`] moves [`Log::durable`]. An entry is durable once `durable() >= placed.lsn`.

mod api;
mod faults;

pub use api::*;
pub use faults::Faults;
