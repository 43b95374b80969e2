//! The protocol of a Palisade rack, as pure state machines.
//!
//! Contract: messages, completions and time go in; effects come out into an output that the caller owns.
//! Nothing here reads a clock, opens a socket, starts a thread or draws a random number; checksums and
//! erasure coding are plain synchronous calls. The same code runs on the reactors and in the simulator.
//!
//! Modules by rank; each may use only lower ranks (`tests/tidy` checks it):
//!
//! | rank | module | story |
//! |---|---|---|
//! | 0 | [`wire`] | ids, limits, formats, messages, effects |
//! | 1 | [`fence`] | who may write |
//! | 1 | [`log`] | head log, index, checkpoint, recovery, release |
//! | 1 | [`fabric`] | reliable datagrams |
//! | 1 | [`export`] | NBD as a byte machine |
//! | 2 | [`sled`] | columns, admission, fence check, scrub |
//! | 2 | [`head`] | write, read, flush, collect, recover, join |
#![forbid(unsafe_code)]

pub mod export;
pub mod fabric;
pub mod fence;
pub mod head;
pub mod log;
pub mod sled;
pub mod wire;
