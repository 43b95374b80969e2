//! The atomics that lock-free protocols of this crate use.
//!
//! The files [`crate::flag`] imports from here are compiled a second time by `tests/loom.rs`, where the
//! module of this name offers loom's atomics, so that the model checks the very source that ships.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
