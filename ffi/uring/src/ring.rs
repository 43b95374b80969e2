//! The ring of a device: submission in batches, completion by polling, an end that frees no memory
//! under the kernel.

use crate::op::{Completion, Next, Op, Payload, Target};
use crate::regions::Regions;
use io_uring::{IoUring, types};
use palisade_dma::{Buf, BufMut, Pool};
use rustix::event::{EventfdFlags, eventfd};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a dropped ring waits for the device.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// How completions reach the submitting thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingMode {
    /// When it asks for them (DEFER_TASKRUN, SINGLE_ISSUER): no interrupts of the thread.
    Deferred,
    /// At its next system call (COOP_TASKRUN); older kernels.
    Cooperative,
    /// At any time; oldest kernels.
    Plain,
}

/// A device with its ring.
pub struct DeviceRing {
    ring: IoUring,
    mode: RingMode,
    /// Before its first submission a ring belongs to no thread.
    enabled: bool,
    file: OwnedFd,
    target: Target,
    event: OwnedFd,
    regions: Option<Regions>,
    /// Fixed in number and place: the kernel may hold addresses of iovecs inside.
    ops: Box<[Op]>,
    free: Vec<u32>,
    /// Operations that the submission queue does not hold yet.
    ready: VecDeque<u32>,
    /// Operations that the kernel has taken and not completed.
    in_kernel: usize,
    /// Set when the submission queue names operations that were given up: it must never be entered again.
    dead: bool,
}

// SAFETY: the raw pointers inside (iovecs, ring mappings) lead to memory that this struct owns, and
// nothing refers to the thread that made it; the kernel's rule of one submitter is kept by `bind`.
unsafe impl Send for DeviceRing {}

impl DeviceRing {
    /// A ring for up to `depth` operations at a time on `file`.
    pub fn new(file: OwnedFd, depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, 4096);
        let (ring, mode) = build(depth)?;
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let mut this = Self {
            ring,
            mode,
            enabled: mode != RingMode::Deferred,
            target: Target::Plain(file.as_raw_fd()),
            file,
            event,
            regions: None,
            ops: (0..depth).map(|_| Op::free()).collect(),
            free: (0..depth).rev().collect(),
            ready: VecDeque::with_capacity(depth as usize),
            in_kernel: 0,
            dead: false,
        };
        this.register_file();
        Ok(this)
    }

    /// Registers the pool's memory, which saves pinning pages at each operation on one of its slots.
    /// Fails, harmlessly, where the limit on locked memory is too low.
    pub fn register_pool(&mut self, pool: &Pool) -> io::Result<()> {
        assert!(self.regions.is_none() && self.in_flight() == 0, "register one pool, before use");
        let regions = Regions::of(pool);
        register_regions(&self.ring, &regions)?;
        self.regions = Some(regions);
        Ok(())
    }

    /// How completions reach the thread.
    pub fn mode(&self) -> RingMode {
        self.mode
    }

    /// Operations submitted and not yet completed, queued ones included.
    pub fn in_flight(&self) -> usize {
        self.ops.len() - self.free.len()
    }

    /// Operations that could be submitted now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Becomes readable when completions can be reaped. Call it after the last [`DeviceRing::reap`]
    /// before a sleep: it clears what earlier completions left, and looks once more itself.
    ///
    /// An eventfd, because a deferred ring does not wake those who poll its own descriptor.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        let mut counter = [0; 8];
        // Not blocking; an empty counter is an answer too.
        let _ = rustix::io::read(&self.event, &mut counter);
        if self.in_kernel > 0 && self.has_completions() {
            // Arrived before the read above, which may have swallowed their signal.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
        self.event.as_fd()
    }

    fn has_completions(&self) -> bool {
        // SAFETY: the views are dropped before anything else touches the queues; `&self` on one thread
        // means that no other view exists (the struct is not Sync, and `&mut self` methods end theirs).
        let (submission, completion) =
            unsafe { (self.ring.submission_shared(), self.ring.completion_shared()) };
        submission.taskrun() || submission.cq_overflow() || !completion.is_empty()
    }

    /// The device.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Queues a read into all of `buf`.
    ///
    /// # Panics
    /// As the other two: when [`DeviceRing::room`] is zero.
    pub fn read(&mut self, key: u64, offset: u64, buf: BufMut) {
        self.queue(key, offset, Payload::Read(buf), false);
    }

    /// Queues a write of `bufs`, one after another; with `dsync` it is durable when it completes.
    pub fn write(&mut self, key: u64, offset: u64, bufs: SmallVec<[Buf; 4]>, dsync: bool) {
        self.queue(key, offset, Payload::Write(bufs), dsync);
    }

    /// Queues a sync of all data that was written before.
    pub fn sync(&mut self, key: u64) {
        self.queue(key, 0, Payload::Sync, false);
    }

    /// Hands everything queued to the kernel, in one system call as a rule. What the kernel cannot take
    /// now stays queued for the next call. After an error [`DeviceRing::abandon`] ends what is queued.
    pub fn kick(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        if self.ready.is_empty() && self.ring.submission().is_empty() {
            return Ok(());
        }
        self.bind()?;
        self.fill();
        match self.enter() {
            // Only possible after the ring was bound on another thread.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && self.in_kernel == 0 => {
                self.rebuild()?;
                self.bind()?;
                self.fill();
                self.enter()
            }
            other => other,
        }
    }

    /// Appends completions to `out`; returns how many. Parts that must be sent again are queued, so a
    /// [`DeviceRing::kick`] should follow in the same turn.
    pub fn reap(&mut self, out: &mut Vec<Completion>) -> usize {
        if self.in_kernel == 0 {
            return 0;
        }
        let queue = self.ring.submission();
        let must_enter = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if must_enter {
            // Submits what may still be queued and runs deferred completions. An error shows again, and
            // is reported, at the next kick.
            let _ = self.enter();
        }
        let before = out.len();
        for entry in self.ring.completion() {
            let slot = entry.user_data() as u32;
            self.in_kernel -= 1;
            let op = &mut self.ops[slot as usize];
            match op.judge(entry.result()) {
                Next::Again => self.ready.push_back(slot),
                Next::Ended(result) => {
                    out.push(op.finish(result));
                    self.free.push(slot);
                }
            }
        }
        out.len() - before
    }

    /// Gives up everything queued, unless the kernel holds a part of it: each ends with `errno`.
    pub fn abandon(&mut self, errno: i32, out: &mut Vec<Completion>) {
        if self.in_kernel > 0 {
            return;
        }
        // Entries that still sit in the submission queue name slots that are freed here, so the queue
        // goes with them. Without a new one the ring is dead.
        self.dead = self.rebuild().is_err();
        for slot in std::mem::take(&mut self.ready) {
            out.push(self.ops[slot as usize].finish(Err(errno)));
            self.free.push(slot);
        }
    }

    fn queue(&mut self, key: u64, offset: u64, payload: Payload, dsync: bool) {
        let slot = self.free.pop().expect("callers look at room() first");
        self.ops[slot as usize].start(key, offset, payload, dsync);
        self.ready.push_back(slot);
    }

    /// Makes this thread the ring's submitter, once.
    fn bind(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Moves ready operations into the submission queue.
    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while !queue.is_full() {
            let Some(slot) = self.ready.pop_front() else { break };
            let op = &mut self.ops[slot as usize];
            let entry = op.entry(self.target, self.regions.as_ref()).user_data(u64::from(slot));
            // SAFETY: the op owns its buffers and iovecs, sits at a fixed address and is neither changed
            // nor freed before its completion is reaped (or the ring, with its queue, is gone).
            let pushed = unsafe { queue.push(&entry) };
            assert!(pushed.is_ok(), "the queue was not full");
        }
    }

    /// One system call: submits the queue and runs deferred completions.
    fn enter(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(taken) => {
                    self.in_kernel += taken;
                    return Ok(());
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Short of memory or of completion room: what was not taken stays queued.
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// A new ring for the thread that calls; everything open is queued again. Nothing may be in the kernel.
    fn rebuild(&mut self) -> io::Result<()> {
        assert_eq!(self.in_kernel, 0, "the kernel holds operations of this ring");
        self.ready.clear();
        let open = |(slot, op): (usize, &Op)| (!matches!(op.payload, Payload::Free)).then_some(slot as u32);
        self.ready.extend(self.ops.iter().enumerate().filter_map(open));
        let (ring, mode) = build(self.ops.len() as u32)?;
        ring.submitter().register_eventfd(self.event.as_raw_fd())?;
        if let Some(regions) = &self.regions
            && register_regions(&ring, regions).is_err()
        {
            self.regions = None;
        }
        (self.ring, self.mode, self.enabled) = (ring, mode, mode != RingMode::Deferred);
        self.target = Target::Plain(self.file.as_raw_fd());
        self.register_file();
        Ok(())
    }

    fn register_file(&mut self) {
        if self.ring.submitter().register_files(&[self.file.as_raw_fd()]).is_ok() {
            self.target = Target::Registered;
        }
    }

    /// Waits until the kernel holds nothing of this ring; false when it did not end in time.
    fn drain(&mut self) -> bool {
        let end = Instant::now() + DROP_WAIT;
        let mut out = Vec::new();
        while self.in_kernel > 0 {
            let wait = types::Timespec::new().nsec(50_000_000);
            let args = types::SubmitArgs::new().timespec(&wait);
            match self.ring.submitter().submit_with_args(1, &args) {
                Ok(taken) => self.in_kernel += taken,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {}
                // Another thread than the submitter's cannot wait here.
                Err(_) => return false,
            }
            self.reap(&mut out);
            // Their buffers go back to the pool; continuations of short transfers are not sent.
            out.clear();
            if Instant::now() > end {
                return false;
            }
        }
        true
    }
}

impl Drop for DeviceRing {
    fn drop(&mut self) {
        if self.in_kernel > 0 && !self.drain() {
            // The kernel may still write into these buffers: they, the pool they came from and the
            // iovecs stay allocated for ever. A few slots are lost instead of memory being corrupted.
            std::mem::forget(std::mem::take(&mut self.ops));
            std::mem::forget(self.regions.take());
            return;
        }
        // The kernel tears a ring down after close(2) has returned, and would hold the device until
        // then; without its table of files the device is free when this returns.
        let _ = self.ring.submitter().unregister_files();
    }
}

impl std::fmt::Debug for DeviceRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceRing")
            .field("mode", &self.mode)
            .field("file", &self.file)
            .field("in_flight", &self.in_flight())
            .field("in_kernel", &self.in_kernel)
            .field("registered", &self.regions)
            .finish()
    }
}

/// The best ring that the kernel offers.
fn build(depth: u32) -> io::Result<(IoUring, RingMode)> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_submit_all();
    builder.setup_r_disabled().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    if let Ok(ring) = builder.build(depth) {
        return Ok((ring, RingMode::Deferred));
    }
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_coop_taskrun().setup_taskrun_flag();
    if let Ok(ring) = builder.build(depth) {
        return Ok((ring, RingMode::Cooperative));
    }
    Ok((IoUring::new(depth)?, RingMode::Plain))
}

fn register_regions(ring: &IoUring, regions: &Regions) -> io::Result<()> {
    // SAFETY: the iovecs span memory that `regions` keeps mapped; it is dropped after the ring (or
    // leaked with the buffers), and operations on it only go through slots that an op owns.
    unsafe { ring.submitter().register_buffers(&regions.iovecs()) }
}
