//! Rank 1: who may write. The records, tokens, gates and permits of enforced fencing (EF-12, EF-15, EF-16).
//!
//! A head reserves a partition on a device under its number; the sled drains what an older number has in
//! flight, makes a [`record`] durable and grants a secret from which column [`token`]s derive. Every column
//! write then passes [`check`], one comparison over one cache line, behind a [`gate::Gate`] that counts it
//! first, and leaves with a [`permit::ColumnPermit`], without which no write function can be called.
//!
//! Nothing here waits, stores or answers: that is the work of [`crate::sled`].

pub mod entry;
pub mod gate;
pub mod permit;
pub mod record;
pub mod token;

pub use entry::{FenceEntry, NO_PART, Presented, check};
pub use gate::{Gate, Pass};
pub use permit::{ColumnPermit, Denied, ReservePermit};
pub use record::{PartitionRecord, RecordPage};
