//! Files and block devices through io_uring: batched submission, direct I/O, real flush and FUA.
//!
//! One ring per device, not per reactor: a device's in-flight I/O, its errors and its end are then its
//! own (P-17 needs to wait for exactly one device), at the price of one system call per device and turn.
//! FUA is RWF_DSYNC, which the kernel turns into a FUA write or a write and a cache flush, whatever the
//! device needs; a flush is fdatasync(2).

use super::open::{self, CreateFile, OpenError, Opened};
use super::{BlockCompletion, BlockFault, BlockInfo, BlockOk, BlockPort, BlockRequest, BlockVerb, in_range};
use crate::clock::Nanos;
use palisade_dma::Pool;
use palisade_uring::{Completion, DeviceRing, Outcome, RingMode};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// How a device is opened.
#[derive(Clone, Debug)]
pub struct UringOptions {
    /// Makes the file when it is missing (or empty).
    pub create: Option<CreateFile>,
    /// Bypass the page cache where the file system can.
    pub direct: bool,
    /// Operations that the kernel may hold at a time; more wait in the driver.
    pub depth: u32,
    /// How long an old holder of the device, or its last I/O, may take to let go (P-17).
    pub lock_wait: Duration,
    /// Pool whose memory is registered with the ring; operations on other memory work too.
    pub pool: Option<Pool>,
}

impl Default for UringOptions {
    fn default() -> Self {
        Self { create: None, direct: true, depth: 256, lock_wait: Duration::from_secs(3), pool: None }
    }
}

/// The driver of a file or block device.
#[derive(Debug)]
pub struct UringDriver {
    ring: DeviceRing,
    info: BlockInfo,
    memory_align: usize,
    /// Requests for which the ring had no room; machines bound how many there can be.
    backlog: VecDeque<BlockRequest>,
    /// Requests that ended without the kernel.
    refused: Vec<BlockCompletion>,
    reaped: Vec<Completion>,
}

impl UringDriver {
    /// Opens and locks the device at `path`.
    pub fn open(path: &Path, options: &UringOptions) -> Result<Self, OpenError> {
        let opened = open::open(path, options.create, options.direct, options.lock_wait)?;
        let Opened { file, bytes, direct, offset_align, memory_align, durable, volatile_cache, mut note } =
            opened;
        let name = path.display().to_string();
        let ring = DeviceRing::new(file, options.depth);
        let mut ring = ring.map_err(|source| OpenError::Ring { path: name.clone(), source })?;
        if let Some(pool) = &options.pool
            && let Err(error) = ring.register_pool(pool)
        {
            let gap = if note.is_empty() { "" } else { "; " };
            note.push_str(&format!(
                "{gap}buffers not registered ({error}): raise the limit on locked memory"
            ));
        }
        let info =
            BlockInfo { path: name, bytes, block: offset_align, volatile_cache, durable, direct, note };
        Ok(Self {
            ring,
            info,
            memory_align: memory_align as usize,
            backlog: VecDeque::new(),
            refused: Vec::new(),
            reaped: Vec::new(),
        })
    }

    /// How completions reach the reactor's thread.
    pub fn mode(&self) -> RingMode {
        self.ring.mode()
    }

    /// Whether the kernel would take the request's range and memory.
    fn is_sound(&self, verb: &BlockVerb) -> bool {
        let aligned = |at: *const u8| (at as usize).is_multiple_of(self.memory_align);
        let memory = match verb {
            BlockVerb::Read { buf, .. } => aligned(buf.as_ptr()),
            BlockVerb::Write { bufs, .. } => bufs.iter().all(|buf| {
                aligned(buf.as_ptr()) && (buf.len() as u64).is_multiple_of(u64::from(self.info.block))
            }),
            BlockVerb::Flush => true,
        };
        memory && in_range(verb, self.info.bytes, u64::from(self.info.block))
    }

    fn start(&mut self, request: BlockRequest) {
        let key = request.key;
        match request.verb {
            BlockVerb::Read { offset, buf } => self.ring.read(key, offset, buf),
            BlockVerb::Write { offset, bufs, fua } => self.ring.write(key, offset, bufs, fua),
            BlockVerb::Flush => self.ring.sync(key),
        }
    }

    fn hand_over(&mut self) {
        if let Err(error) = self.ring.kick() {
            self.ring.abandon(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()), &mut self.reaped);
        }
    }
}

impl BlockPort for UringDriver {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn submit(&mut self, request: BlockRequest) {
        if !self.is_sound(&request.verb) {
            self.refused.push(BlockCompletion { key: request.key, result: Err(BlockFault::Range) });
        } else if self.ring.room() > 0 && self.backlog.is_empty() {
            self.start(request);
        } else {
            self.backlog.push_back(request);
        }
    }

    fn kick(&mut self) {
        self.hand_over();
    }

    fn poll(&mut self, _now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let before = out.len();
        out.append(&mut self.refused);
        self.ring.reap(&mut self.reaped);
        while self.ring.room() > 0
            && let Some(request) = self.backlog.pop_front()
        {
            self.start(request);
        }
        self.hand_over();
        out.extend(self.reaped.drain(..).map(translate));
        out.len() - before
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight() + self.backlog.len() + self.refused.len() + self.reaped.len()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.wait_fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        (!self.refused.is_empty() || !self.reaped.is_empty()).then_some(Nanos::ZERO)
    }
}

fn translate(done: Completion) -> BlockCompletion {
    let result = match done.result {
        Ok(Outcome::Read(buf)) => Ok(BlockOk::Read(buf)),
        Ok(Outcome::Done) => Ok(BlockOk::Done),
        Err(errno) => Err(fault(errno)),
    };
    BlockCompletion { key: done.key, result }
}

/// What an errno means to a machine.
fn fault(errno: i32) -> BlockFault {
    match Errno::from_raw_os_error(errno) {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => BlockFault::NoSpace,
        Errno::NODEV | Errno::NXIO | Errno::BADF | Errno::NOMEDIUM => BlockFault::Gone,
        Errno::INVAL => BlockFault::Range,
        _ => BlockFault::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_faults_that_machines_can_act_on() {
        assert_eq!(fault(28), BlockFault::NoSpace);
        assert_eq!(fault(19), BlockFault::Gone);
        assert_eq!(fault(22), BlockFault::Range);
        assert_eq!(fault(5), BlockFault::Io);
        assert_eq!(fault(117), BlockFault::Io);
    }
}
