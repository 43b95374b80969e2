//! Buffer memory of a reactor: pools of fixed-size slots in huge pages, and counted slices of them.
//!
//! A [`Pool`] owns one or more memory regions (2 MiB huge pages when the host has them, ordinary
//! pages otherwise; [`Pool::backing`] tells which). [`Pool::alloc`] hands out a [`BufMut`], the only
//! handle of its slot; [`BufMut::freeze`] turns it into a [`Buf`], a counted, read-only slice that
//! log, replica and cache share without a copy. When the last handle is dropped, on whatever core,
//! the slot returns to its pool through a lock-free stack.
//!
//! Slots are aligned to 4 KiB, so that every buffer may be used for direct I/O. Slot memory is zeroed
//! once when the pool is made; a reused slot holds old bytes, and its user writes before it reads.
//!
//! [`DmaMemory`] is for a device's queues, [`DmaRange`] names what a device is given, [`IovaMap`] where it
//! finds a buffer, and [`DeviceSpace`] is the memory as an emulated device sees it.
//!
//! This crate is one of the few homes of `unsafe`: raw slot memory and its reference counts.
#![allow(unsafe_code)] // Raw slot memory, see the SAFETY reasons at each block.

mod buf;
mod counting;
mod free;
mod memory;
mod pool;
mod prefetch;
mod range;
mod region;
mod shared;
mod space;
mod stream;
mod sync;

pub use buf::{Buf, BufMut};
pub use counting::{CountingAllocator, allocations};
pub use memory::Memory;
pub use pool::{Backing, Pool, PoolConfig, PoolError, PoolStats, SLOT_CLASSES};
pub use prefetch::{prefetch, prefetch_value};
pub use range::{DmaRange, IovaMap};
pub use shared::DmaMemory;
pub use space::{DeviceSpace, DmaFault};
pub use stream::copy_past_cache;

/// Alignment of every slot in bytes: one logical block, enough for direct I/O.
pub const SLOT_ALIGN: usize = 4096;
