//! Safe face of io_uring for one device and pool buffers.
//!
//! A [`DeviceRing`] owns the descriptor of its file or block device and, from submission to completion,
//! the buffers of every operation: the kernel reads and writes their memory at any time in between, so
//! nobody else may hold them mutably, and their slots may not return to the pool. A ring that is dropped
//! waits for what is in flight; where it cannot (another thread, a device that hangs), it leaks those
//! buffers instead of freeing memory under the kernel.
//!
//! The ring is submitted to and reaped by one thread ([`RingMode::Deferred`]): completions then run when
//! that thread asks for them, not by an interrupt of it. It binds to the thread of its first submission
//! and moves to another one only while nothing is in flight.
//!
//! Not offered: SQPOLL (it burns a core), IOPOLL (not supported by the file systems in use), sockets.
#![allow(unsafe_code)] // Memory shared with the kernel, see the SAFETY reasons at each block.

mod op;
mod regions;
mod ring;

pub use op::{Completion, Outcome};
pub use ring::{DeviceRing, RingMode};
