//! The atomics of the free list.
//!
//! `src/free.rs` imports from here and is compiled a second time by `tests/loom.rs`, where the module of
//! this name offers loom's atomics, so that the model checks the very source that ships.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
