//! An emulated NVMe controller behind the driver's device trait, so that the shipping driver is tested without
//! hardware: registers, admin and I/O queues, a namespace in memory.
//!
//! **Fault model.** Everything that a device can do wrong and that its driver must outlive: it never becomes
//! ready, never stops, falls into a fatal state, is pulled out, says nonsense of itself; its completions come
//! out of order, late, twice, never, with an error, with the wrong phase, for another command or queue; its
//! aborts work, fail, come too late. What it is not: faster or slower than its steps, and a writer of memory
//! that it was not given. The model notes what the *driver* does wrong ([`Model::violations`]): doorbells out
//! of range, identifiers in use, pointers against the rules, buffers that were given back too early.
//!
//! It shares no code with the driver: both read the standard on their own.

mod admin;
mod config;
mod controller;
mod data;
mod fault;
mod io;
mod media;
mod model;
mod rig;

pub use config::{ModelConfig, cap};
pub use fault::{AbortMode, BadCompletion, Chances, Faults};
pub use media::Media;
pub use model::Model;
pub use rig::{Answer, Rig};
