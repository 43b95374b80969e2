//! The waist between pure machines and the host: reactors, rings, timers, pools, ports and their drivers.
//!
//! Machines (crate `palisade_protocol`) know no clock, socket or thread. A *service* of the node wraps
//! a machine with drivers of this crate and is polled by a [`reactor::Reactor`], one pinned thread per
//! core. Everything here is driven by polling; the only place that sleeps is [`park::Parker`], and only
//! when nothing was found to do. This crate does not know what a volume, a log or a sled is.
//!
//! | module | noun |
//! |---|---|
//! | [`reactor`] | services, the poll loop, idling, slow-poller counters |
//! | [`park`], [`flag`] | sleeping and being woken from another core without a lost wake-up |
//! | [`ring`] | bounded cross-core rings |
//! | [`timer`] | timers of services that have many |
//! | [`clock`], [`entropy`] | time and randomness as ports |
//! | [`pool`] | buffer pools with a spoken fall-back |
//! | [`block`] | the block port: memory, io_uring, faults, volatile cache, recording |
//! | [`net`] | datagrams and byte streams |

pub mod block;
pub mod clock;
pub mod entropy;
pub mod flag;
pub mod net;
pub mod park;
pub mod pool;
pub mod reactor;
pub mod ring;
mod sync;
pub mod timer;

pub use clock::{Clock, ManualClock, MonoClock, Nanos};
pub use park::{Parker, WaitSet, Waker};
pub use reactor::{IdlePolicy, Reactor, ReactorConfig, Service};
