//! Reactors: one thread per core that polls its services and runs each to completion.
//!
//! A service is a machine with its drivers. It never blocks: it takes what is there, does a bounded
//! amount of work and returns. State belongs to one service; others reach it through [`crate::ring`]
//! or messages. [`Reactor::turn`] polls every service once and reads no clock, so the simulator runs
//! the same loop; [`Reactor::run`] adds a clock, pinning, idling and the watch for slow pollers.

mod run;
mod stats;

pub use run::{IdlePolicy, ReactorConfig, ReactorHandle, ReactorReport, StopHandle};
pub use stats::{ReactorStats, SlowPoller};

use crate::clock::Nanos;
use crate::park::{Parker, WaitSet, Waker};
use crate::ring::{Receiver, Sender, channel};
use stats::Watch;

/// Services that may wait to be taken in by a running reactor.
const INBOX: usize = 64;

/// Something that a reactor polls.
pub trait Service: Send {
    /// Its name in statistics and complaints.
    fn name(&self) -> &str;

    /// Takes inputs, works, hands out outputs; returns the amount of work done, zero when idle.
    fn turn(&mut self, now: Nanos) -> usize;

    /// When it must be polled again even though nothing arrives; a past time means at once.
    fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// Descriptors whose readiness must wake a sleeping reactor.
    fn wait_fds<'a>(&'a self, _set: &mut WaitSet<'a>) {}

    /// Called once per turn while the reactor stops, after [`Service::turn`]: finish what is open, take
    /// nothing new; true when nothing is open any more.
    fn stopping(&mut self, _now: Nanos) -> bool {
        true
    }
}

/// A service and what was seen of it.
struct Slot {
    service: Box<dyn Service>,
    watch: usize,
}

/// A set of services that share a core.
pub struct Reactor {
    name: String,
    slots: Vec<Slot>,
    parker: Parker,
    inbox: Receiver<Box<dyn Service>>,
    inbox_tx: Sender<Box<dyn Service>>,
    watch: Watch,
    stop: StopHandle,
}

impl Reactor {
    /// A reactor without services; fails when the process has no file descriptors left.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let parker = Parker::new()?;
        let (inbox_tx, inbox) = channel(INBOX, parker.waker());
        let stop = StopHandle::new(parker.waker());
        Ok(Self {
            name: name.to_owned(),
            slots: Vec::new(),
            parker,
            inbox,
            inbox_tx,
            watch: Watch::default(),
            stop,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a service in. Services are polled in the order in which they were added.
    pub fn add(&mut self, service: Box<dyn Service>) {
        let watch = self.watch.enter(service.name());
        self.slots.push(Slot { service, watch });
    }

    /// Wakes this reactor; give it to [`crate::ring::channel`].
    pub fn waker(&self) -> Waker {
        self.parker.waker()
    }

    /// Hands services to the reactor while it runs on its own thread.
    pub fn inbox(&self) -> Sender<Box<dyn Service>> {
        self.inbox_tx.clone()
    }

    /// Asks a running reactor to stop.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Its counters, readable from other threads.
    pub fn stats(&self) -> std::sync::Arc<ReactorStats> {
        self.watch.shared()
    }

    /// Polls every service once, and the inbox; returns the amount of work done.
    pub fn turn(&mut self, now: Nanos) -> usize {
        let mut work = self.take_in();
        for slot in &mut self.slots {
            work += slot.service.turn(now);
        }
        work
    }

    /// When [`Reactor::turn`] must run again although nothing arrives.
    pub fn deadline(&self) -> Option<Nanos> {
        self.slots.iter().filter_map(|slot| slot.service.deadline()).min()
    }

    /// Tells every service to finish; true when all have.
    pub fn stopping(&mut self, now: Nanos) -> bool {
        // Every service is told each time: `all` would stop at the first busy one.
        self.slots.iter_mut().filter_map(|slot| (!slot.service.stopping(now)).then_some(())).count() == 0
    }

    fn take_in(&mut self) -> usize {
        let mut count = 0;
        while let Some(service) = self.inbox.pop() {
            self.add(service);
            count += 1;
        }
        count
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.slots.iter().map(|slot| slot.service.name()).collect();
        f.debug_struct("Reactor").field("name", &self.name).field("services", &names).finish()
    }
}
