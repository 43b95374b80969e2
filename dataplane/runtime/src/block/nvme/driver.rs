//! The driver's state, how it is opened, and its face to machines.

use super::admin::Admin;
use super::bringup::Stage;
use super::cids::{Cids, PLACES_MAX};
use super::device::NvmeDevice;
use super::error::{NvmeError, NvmeEvent, ResetReason, Unsupported};
use super::health::Health;
use super::identify::{ControllerFacts, NamespaceFacts};
use super::layout::{Layout, TRANSFER_MAX};
use super::ops::{Ops, Piece, Verb};
use super::pointer::PointerRules;
use super::queue::{DoorbellCounts, QueuePair, QueuePlace};
use super::registers::{CAP, Cap, DOORBELLS, INTMS, VS};
use crate::block::{BlockCompletion, BlockInfo, BlockPort, BlockRequest, BlockVerb};
use crate::clock::{Clock, MonoClock, Nanos};
use palisade_dma::{DmaMemory, IovaMap, Pool};
use std::collections::VecDeque;
use std::time::Duration;

/// The number of the I/O queue pair.
pub(super) const IO_QUEUE: u16 = 1;
/// Most events that wait to be taken; older ones give way.
pub(super) const EVENTS_MAX: usize = 64;

/// How a controller is used.
#[derive(Clone, Debug)]
pub struct NvmeOptions {
    /// Which namespace; the first active one if none is named.
    pub nsid: Option<u32>,
    /// Commands under way at a time.
    pub depth: u16,
    /// Queue memory in huge pages where the host has them.
    pub huge: bool,
    /// After this a command is aborted.
    pub timeout: Duration,
    /// After this an abort, or any admin command, has failed.
    pub admin_timeout: Duration,
    /// How often the device is asked for its health.
    pub health_every: Duration,
    /// Use shadow doorbells and SGLs where the device offers them.
    pub extras: bool,
}

impl Default for NvmeOptions {
    fn default() -> Self {
        Self {
            nsid: None,
            depth: 256,
            huge: true,
            timeout: Duration::from_secs(8),
            admin_timeout: Duration::from_secs(5),
            health_every: Duration::from_secs(60),
            extras: true,
        }
    }
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmeStats {
    /// I/O commands sent.
    pub commands: u64,
    /// I/O commands sent again after an error that need not last.
    pub retries: u64,
    /// Aborts asked for.
    pub aborts: u64,
    /// Controller resets.
    pub resets: u64,
    /// Completions that named nothing that was under way.
    pub bad_completions: u64,
    /// Bytes copied because the device was not given the memory that they were in.
    pub copied: u64,
    /// Doorbells of the I/O queues.
    pub doorbells: DoorbellCounts,
}

/// A controller, one queue pair, one namespace.
pub struct NvmeDriver {
    pub(super) io: QueuePair,
    pub(super) cids: Cids<Piece>,
    pub(super) ops: Ops,
    /// Requests for which commands are still to be made, in order.
    pub(super) waiting: VecDeque<u32>,
    /// Commands to be sent again.
    pub(super) again: VecDeque<Piece>,
    pub(super) done: Vec<BlockCompletion>,
    pub(super) map: IovaMap,
    pub(super) rules: PointerRules,
    pub(super) namespace: NamespaceFacts,
    pub(super) stage: Stage,
    pub(super) next_watch: Nanos,
    pub(super) info: BlockInfo,
    // What follows is not touched for an I/O.
    pub(super) device: Box<dyn NvmeDevice>,
    pub(super) memory: DmaMemory,
    pub(super) layout: Layout,
    /// Where the device finds the queue memory.
    pub(super) base: u64,
    pub(super) pool: Pool,
    pub(super) options: NvmeOptions,
    pub(super) cap: Cap,
    pub(super) admin: Admin,
    pub(super) facts: ControllerFacts,
    pub(super) health: Option<Health>,
    pub(super) events: VecDeque<NvmeEvent>,
    pub(super) stats: NvmeStats,
    /// Seen while completions were taken, done when the device is looked at.
    pub(super) wants_reset: Option<ResetReason>,
    /// Resets since the last command that succeeded.
    pub(super) resets_in_row: u32,
    /// Writes completed that went into the volatile cache, if there is one,
    pub(super) cached: u64,
    /// and how many of them a flush has covered.
    pub(super) flushed: u64,
    /// A reset happened while some were not covered: the next flush must not succeed,
    pub(super) cache_in_doubt: bool,
    /// and one was answered so.
    pub(super) doubt_told: bool,
    /// Why it is gone.
    pub(super) failure: Option<NvmeError>,
    /// The device may still reach memory: nothing of it may ever be freed.
    pub(super) leaked: bool,
}

impl NvmeDriver {
    /// Takes a controller over, whatever state it is in, and begins to start it; [`NvmeDriver::bring_up`] says
    /// when it is ready. Buffers of `pool` are what it reads and writes.
    pub fn start(
        mut device: Box<dyn NvmeDevice>,
        pool: &Pool,
        options: NvmeOptions,
        now: Nanos,
    ) -> Result<Self, NvmeError> {
        let name = device.name().to_owned();
        let cap = Cap(device.read64(CAP));
        let entries = check(&*device, cap, options.depth)?;
        device.write32(INTMS, u32::MAX); // Base 3.1.3.3: nobody listens to interrupts
        let page = 4096 << cap.mps_min();
        let layout = Layout::new(entries, page);
        let memory = DmaMemory::new(layout.bytes, options.huge);
        let memory = memory.map_err(|source| NvmeError::Memory { device: name.clone(), source })?;
        let (base, map) = give(&mut *device, &memory, pool)?;
        let place = QueuePlace {
            id: IO_QUEUE,
            entries,
            submissions: layout.submissions,
            completions: layout.completions,
            stride: cap.stride(),
        };
        let depth = usize::from(entries - 1);
        let mut this = Self {
            io: QueuePair::new(memory.clone(), place),
            cids: Cids::new(depth),
            ops: Ops::new(2 * depth),
            waiting: VecDeque::with_capacity(2 * depth),
            again: VecDeque::with_capacity(depth),
            done: Vec::with_capacity(2 * depth),
            map,
            rules: PointerRules { page: page as u64, transfer_max: TRANSFER_MAX, sgl: false },
            namespace: NamespaceFacts::default(),
            stage: Stage::Gone,
            next_watch: now,
            info: unknown(&name),
            admin: Admin::new(memory.clone(), &layout, cap.stride()),
            device,
            memory,
            layout,
            base,
            pool: pool.clone(),
            options,
            cap,
            facts: ControllerFacts::default(),
            health: None,
            events: VecDeque::with_capacity(EVENTS_MAX),
            stats: NvmeStats::default(),
            wants_reset: None,
            resets_in_row: 0,
            cached: 0,
            flushed: 0,
            cache_in_doubt: false,
            doubt_told: false,
            failure: None,
            leaked: false,
        };
        this.disable(now);
        Ok(this)
    }

    /// Goes on with starting; true when the device is ready for requests. Not an error twice: after one the
    /// driver answers every request with [`crate::block::BlockFault::Gone`].
    pub fn bring_up(&mut self, now: Nanos) -> Result<bool, NvmeError> {
        if !matches!(self.stage, Stage::Ready | Stage::Gone) {
            self.watch(now);
        }
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(self.is_ready()),
        }
    }

    /// Starts a controller and waits until it is ready; for set-up code that owns its thread.
    pub fn open(device: Box<dyn NvmeDevice>, pool: &Pool, options: NvmeOptions) -> Result<Self, NvmeError> {
        let mut this = Self::start(device, pool, options, MonoClock.now())?;
        while !this.bring_up(MonoClock.now())? {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(this)
    }

    /// Queues zeroes for a range, without data from here; it ends as a write does.
    pub fn write_zeroes(&mut self, key: u64, offset: u64, bytes: u64) -> Result<(), Unsupported> {
        if !self.facts.write_zeroes {
            return Err(Unsupported("Write Zeroes"));
        }
        self.bare(key, Verb::WriteZeroes, offset, bytes);
        Ok(())
    }

    /// Queues a promise that a range is not needed any more; what it reads as then is the device's choice.
    pub fn deallocate(&mut self, key: u64, offset: u64, bytes: u64) -> Result<(), Unsupported> {
        if !self.facts.deallocate {
            return Err(Unsupported("Dataset Management"));
        }
        self.bare(key, Verb::Deallocate, offset, bytes);
        Ok(())
    }

    /// Takes a request without data.
    fn bare(&mut self, key: u64, verb: Verb, offset: u64, bytes: u64) {
        if let Some(at) = self.accept(key, verb, offset, bytes) {
            self.enqueue(at);
        }
    }

    /// What the controller says of itself.
    pub fn facts(&self) -> &ControllerFacts {
        &self.facts
    }

    /// What the namespace is.
    pub fn namespace(&self) -> NamespaceFacts {
        self.namespace
    }

    /// Its health when it was asked last.
    pub fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// Takes the oldest event.
    pub fn take_event(&mut self) -> Option<NvmeEvent> {
        self.events.pop_front()
    }

    /// Counters.
    pub fn stats(&self) -> NvmeStats {
        NvmeStats { doorbells: self.io.doorbells(), ..self.stats }
    }

    /// Whether the device is lost to this driver.
    pub fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// Whether requests can be served.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Whether it is neither starting nor stopping.
    fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Gone)
    }

    /// Notes an event; the oldest gives way when nobody takes them.
    pub(super) fn tell(&mut self, event: NvmeEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// Checks what must hold before anything is written to the device; returns the entries of its I/O queues.
fn check(device: &dyn NvmeDevice, cap: Cap, depth: u16) -> Result<u16, NvmeError> {
    let name = || device.name().to_owned();
    if cap.0 == u64::MAX || device.read32(VS) == u32::MAX {
        return Err(NvmeError::Removed { device: name() });
    }
    if !cap.has_nvm_commands() {
        return Err(NvmeError::CommandSet { device: name(), cap: cap.0 });
    }
    if cap.mps_min() > 4 {
        return Err(NvmeError::Page { device: name(), shift: 12 + cap.mps_min() });
    }
    // One entry stays empty, so that a full queue differs from an empty one (Base 3.3.1.2).
    let entries = (u32::from(depth).clamp(1, PLACES_MAX as u32 - 1) + 1).min(cap.entries_max());
    if entries < 2 {
        return Err(NvmeError::Queues { device: name() });
    }
    let bytes = device.register_bytes();
    if bytes < DOORBELLS + 2 * (usize::from(IO_QUEUE) + 1) * cap.stride() {
        return Err(NvmeError::Registers { device: name(), bytes });
    }
    Ok(entries as u16)
}

/// Gives the device its queue memory and all of the pool; where it finds the one and the other.
fn give(device: &mut dyn NvmeDevice, memory: &DmaMemory, pool: &Pool) -> Result<(u64, IovaMap), NvmeError> {
    let name = device.name().to_owned();
    let refused = |source| NvmeError::Map { device: name.clone(), source };
    let base = device.map(memory.range()).map_err(refused)?;
    let mut map = IovaMap::default();
    for range in pool.ranges() {
        let at = device.map(range.clone()).map_err(refused)?;
        map.add(&range, at);
    }
    Ok((base, map))
}

/// What is known before the device has said anything.
fn unknown(name: &str) -> BlockInfo {
    BlockInfo {
        path: format!("nvme:{name}"),
        bytes: 0,
        block: 512,
        volatile_cache: false,
        durable: true,
        direct: true,
        note: String::new(),
    }
}

impl BlockPort for NvmeDriver {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn submit(&mut self, request: BlockRequest) {
        let key = request.key;
        // Looked at where it lies: a list of buffers is long to move.
        if let BlockVerb::Write { offset, bufs, fua } = &request.verb
            && let [one] = &bufs[..]
            && let Some(at) = self.send_whole(key, Verb::Write { fua: *fua }, *offset, one)
        {
            if let BlockVerb::Write { bufs, .. } = request.verb {
                self.ops.get_mut(at).write = bufs;
            }
            return;
        }
        match request.verb {
            BlockVerb::Read { offset, buf } => {
                if let Some(at) = self.send_whole(key, Verb::Read, offset, &buf) {
                    self.ops.get_mut(at).read = Some(buf);
                    return;
                }
                let Some(at) = self.accept(key, Verb::Read, offset, buf.len() as u64) else { return };
                self.ops.get_mut(at).read = Some(buf);
                self.enqueue(at);
            }
            BlockVerb::Write { offset, bufs, fua } => {
                let bytes = self.length(&bufs);
                let Some(at) = self.accept(key, Verb::Write { fua }, offset, bytes) else { return };
                self.ops.get_mut(at).write = bufs;
                self.enqueue(at);
            }
            // The length of a flush is one, so that it is sent when something was sent.
            BlockVerb::Flush => self.bare(key, Verb::Flush, self.cached, 1),
        }
    }

    fn kick(&mut self) {
        if self.is_ready() {
            self.pump();
            self.io.ring(&*self.device);
        }
    }

    fn poll(&mut self, now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        if self.is_ready() {
            self.reap();
        }
        if now >= self.next_watch || self.wants_reset.is_some() || !self.is_settled() {
            self.watch(now);
        }
        self.kick();
        if self.doubt_told {
            (self.doubt_told, self.cache_in_doubt) = (false, false);
        }
        let count = self.done.len();
        out.append(&mut self.done);
        count
    }

    fn in_flight(&self) -> usize {
        self.ops.len() + self.done.len()
    }

    /// Without interrupts only polling finds completions; an idle device is looked at now and then.
    fn deadline(&self) -> Option<Nanos> {
        if self.in_flight() > 0 || !self.is_settled() {
            return Some(Nanos::ZERO);
        }
        self.is_ready().then_some(self.next_watch)
    }
}

impl std::fmt::Debug for NvmeDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NvmeDriver")
            .field("info", &self.info)
            .field("stage", &self.stage)
            .field("commands", &self.cids.len())
            .field("requests", &self.ops.len())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
