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
//!
//! | file | story |
//! |---|---|
//! | `format`, `record`, `page` | bytes of superblock and segments, of records, of checkpoints |
//! | `append`, `room`, `segments`, `release` | the write path, who may write how much, the ring, what it gives back |
//! | `index`, `extents` | where each block is |
//! | `checkpoint`, `restore` | writing and loading a checkpoint |
//! | `import` | a partition as another head gives it: void what was, take index and payload |
//! | `recover`, `reads`, `scan`, `replay` | from a device to a log again |
//! | `inspect` | a log device described for people |

mod append;
mod checkpoint;
mod extents;
mod faults;
pub mod format;
mod import;
mod index;
pub mod inspect;
pub mod page;
mod reads;
pub mod record;
mod recover;
mod release;
mod replay;
mod restore;
mod room;
mod scan;
mod segments;
mod types;

pub use append::Log;
pub use checkpoint::Indexes;
pub use faults::Faults;
pub use index::{AHEAD, ENTRY_BYTES, Index, LEAF_BLOCKS};
pub use recover::{Recovery, RecoveryState};
pub use types::*;
