//! The block port: the waist between machines and devices.
//!
//! A driver takes requests ([`BlockDriver::submit`]), hands them to the device in batches
//! ([`BlockDriver::kick`], once per turn) and gives completions in any order ([`BlockDriver::poll`]).
//! It accepts every request: machines bound what they have in flight. Buffers belong to the driver
//! until completion; a read's buffer comes back filled. Drivers are an enum, not a generic: one service
//! type runs on every device, and faults wrap any of them.

mod cache;
pub mod fault;
mod mem;
pub mod nvme;
mod open;
mod record;
mod uring;
mod volatile;

pub use cache::{Survival, WriteCache};
pub use fault::{FaultDriver, FaultHandle};
pub use mem::{MemDriver, MemMedia};
pub use nvme::NvmeDriver;
pub use open::{CreateFile, OpenError};
pub use record::{Event, RecordDriver, Recording};
pub use uring::{UringDriver, UringOptions};
pub use volatile::VolatileDriver;

use crate::clock::{Clock, MonoClock, Nanos};
use palisade_dma::{Buf, BufMut};
use smallvec::SmallVec;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Smallest unit of tearing and of addressing, in bytes.
pub const SECTOR: usize = 512;

/// What a device is to do. Offsets and lengths are bytes, multiples of 512 (of 4096 for direct I/O).
#[derive(Debug)]
pub enum BlockVerb {
    /// Fill `buf` from `offset`; its length says how much.
    Read {
        /// Byte offset on the device.
        offset: u64,
        /// Comes back with the completion.
        buf: BufMut,
    },
    /// Write `bufs` one after another from `offset`.
    Write {
        /// Byte offset on the device.
        offset: u64,
        /// The bytes.
        bufs: SmallVec<[Buf; 4]>,
        /// Durable before it completes (P-09).
        fua: bool,
    },
    /// Every write that completed before this was submitted is durable when it completes.
    Flush,
}

/// A request to a device.
#[derive(Debug)]
pub struct BlockRequest {
    /// Comes back with the completion.
    pub key: u64,
    /// What to do.
    pub verb: BlockVerb,
}

/// Why a device did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BlockFault {
    /// The medium or the kernel reported an error.
    #[error("I/O error")]
    Io,
    /// The device is gone.
    #[error("device gone")]
    Gone,
    /// The device has no room left (a thin file on a full file system).
    #[error("no space left on the backing store")]
    NoSpace,
    /// Outside the device, or unaligned.
    #[error("range outside the device or unaligned")]
    Range,
}

/// What a finished request gives back.
#[derive(Debug)]
pub enum BlockOk {
    /// The filled buffer of a read.
    Read(BufMut),
    /// A write or flush ended.
    Done,
}

/// The end of a request.
#[derive(Debug)]
pub struct BlockCompletion {
    /// The key of its request.
    pub key: u64,
    /// How it ended.
    pub result: Result<BlockOk, BlockFault>,
}

/// What is known about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Where it is, for people.
    pub path: String,
    /// Usable bytes, a multiple of `block`.
    pub bytes: u64,
    /// Smallest aligned transfer in bytes.
    pub block: u32,
    /// Whether completed writes may be lost with power unless FUA or flushed (P-09).
    pub volatile_cache: bool,
    /// Whether flushed data survives the process and a restart of the host; a memory device's does not.
    pub durable: bool,
    /// Whether I/O bypasses the page cache.
    pub direct: bool,
    /// What an operator should know (why not direct, what is not durable, ...); empty if nothing.
    pub note: String,
}

/// What every driver can do.
pub trait BlockPort: Send {
    /// What is known about the device.
    fn info(&self) -> &BlockInfo;
    /// Takes a request; bad ranges come back as completions.
    fn submit(&mut self, request: BlockRequest);
    /// Hands everything submitted to the device.
    fn kick(&mut self);
    /// Appends completions to `out`; returns how many.
    fn poll(&mut self, now: Nanos, out: &mut Vec<BlockCompletion>) -> usize;
    /// Requests submitted and not yet completed.
    fn in_flight(&self) -> usize;
    /// A descriptor that becomes readable when a completion is there; `None` when polling must find out.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// When [`BlockPort::poll`] must be called even though no descriptor fires.
    fn deadline(&self) -> Option<Nanos> {
        None
    }
}

/// A device of a service.
pub enum BlockDriver {
    /// Memory of this process.
    Mem(MemDriver),
    /// A file or block device through io_uring.
    Uring(Box<UringDriver>),
    /// An NVMe controller that this process owns.
    Nvme(Box<NvmeDriver>),
    /// Another driver that goes wrong on purpose.
    Fault(Box<FaultDriver>),
    /// Memory with a volatile write cache.
    Volatile(Box<VolatileDriver>),
    /// Another driver, with everything that is asked of it recorded.
    Record(Box<RecordDriver>),
    /// Anything else, such as a simulator's device.
    Dyn(Box<dyn BlockPort>),
}

/// Calls the same method on whichever driver it is.
macro_rules! each {
    ($self:expr, $driver:ident => $call:expr) => {
        match $self {
            BlockDriver::Mem($driver) => $call,
            BlockDriver::Uring($driver) => $call,
            BlockDriver::Nvme($driver) => $call,
            BlockDriver::Fault($driver) => $call,
            BlockDriver::Volatile($driver) => $call,
            BlockDriver::Record($driver) => $call,
            BlockDriver::Dyn($driver) => $call,
        }
    };
}

impl BlockPort for BlockDriver {
    fn info(&self) -> &BlockInfo {
        each!(self, driver => driver.info())
    }
    fn submit(&mut self, request: BlockRequest) {
        each!(self, driver => driver.submit(request))
    }
    fn kick(&mut self) {
        each!(self, driver => driver.kick())
    }
    fn poll(&mut self, now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        each!(self, driver => driver.poll(now, out))
    }
    fn in_flight(&self) -> usize {
        each!(self, driver => driver.in_flight())
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, driver => driver.wait_fd())
    }
    fn deadline(&self) -> Option<Nanos> {
        each!(self, driver => driver.deadline())
    }
}

impl std::fmt::Debug for BlockDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockDriver")
            .field("info", self.info())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

/// Hands everything to the device and waits until it has completed, for set-up code and tools that own
/// their thread; false when `limit` was over first. A reactor must never call this.
pub fn complete_all(port: &mut dyn BlockPort, limit: Duration, out: &mut Vec<BlockCompletion>) -> bool {
    let end = MonoClock.now() + limit;
    port.kick();
    loop {
        let now = MonoClock.now();
        let done = port.poll(now, out);
        if port.in_flight() == 0 {
            return true;
        }
        if now >= end {
            return false;
        }
        if done == 0 {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Total bytes of a write's buffers.
pub(crate) fn total(bufs: &[Buf]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

/// Whether a verb's range lies in a device of `bytes` and is a multiple of `align`.
pub(crate) fn in_range(verb: &BlockVerb, bytes: u64, align: u64) -> bool {
    let (offset, len) = match verb {
        BlockVerb::Read { offset, buf } => (*offset, buf.len() as u64),
        BlockVerb::Write { offset, bufs, .. } => (*offset, total(bufs)),
        BlockVerb::Flush => return true,
    };
    len > 0
        && offset.is_multiple_of(align)
        && len.is_multiple_of(align)
        && offset.checked_add(len).is_some_and(|end| end <= bytes)
}
