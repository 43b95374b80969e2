//! What can go wrong with a controller, and what an operator is told of.

use super::command::Status;
use super::device::MapError;
use super::health::AsyncEvent;
use super::identify::IdentifyError;
use palisade_dma::PoolError;

/// Why a controller cannot be used, or cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// No device answers.
    #[error("{device} does not answer: its registers read as all ones; it is unplugged or without power")]
    Removed {
        /// Which one.
        device: String,
    },
    /// Somebody wants to unplug it.
    #[error("{device} was asked back by the host, to be unplugged or bound to another driver")]
    Leaving {
        /// Which one.
        device: String,
    },
    /// It has no NVM command set.
    #[error("{device} has no NVM command set (CAP {cap:#018x}); it is no disk")]
    CommandSet {
        /// Which one.
        device: String,
        /// Its capabilities.
        cap: u64,
    },
    /// Its memory pages are too large.
    #[error("{device} wants memory pages of at least 2^{shift} bytes, more than 64 KiB")]
    Page {
        /// Which one.
        device: String,
        /// 12 + CAP.MPSMIN.
        shift: u32,
    },
    /// Its queues are too short.
    #[error("{device} allows queues of one entry, which hold nothing (CAP.MQES 0)")]
    Queues {
        /// Which one.
        device: String,
    },
    /// Its registers have no room for doorbells.
    #[error("{device} has {bytes} bytes of registers, too few for the doorbells of one queue pair")]
    Registers {
        /// Which one.
        device: String,
        /// How many.
        bytes: usize,
    },
    /// CSTS.RDY did not follow CC.EN in the time of CAP.TO.
    #[error("{device} did not {what} within {limit_ms} ms (CAP.TO), CSTS {csts:#x}; a power cycle may help")]
    Stuck {
        /// Which one.
        device: String,
        /// What it was to do.
        what: &'static str,
        /// Its own limit.
        limit_ms: u64,
        /// Its status.
        csts: u32,
    },
    /// CSTS.CFS while it was started.
    #[error(
        "{device} reports a fatal error (CSTS.CFS) when it is started; look at its SMART log, replace it"
    )]
    Fatal {
        /// Which one.
        device: String,
    },
    /// An admin command failed.
    #[error("{device} refused to {what}: {status}")]
    Refused {
        /// Which one.
        device: String,
        /// What was asked.
        what: &'static str,
        /// The answer.
        status: Status,
    },
    /// An admin command was not answered.
    #[error("{device} did not answer when it was to {what}")]
    Silent {
        /// Which one.
        device: String,
        /// What was asked.
        what: &'static str,
    },
    /// What it says of itself cannot be used.
    #[error("{device}: {source}")]
    Identify {
        /// Which one.
        device: String,
        /// What.
        source: IdentifyError,
    },
    /// Its namespace is another one now.
    #[error(
        "{device}: namespace {nsid} became smaller or changed its block size; it was formatted or replaced"
    )]
    Changed {
        /// Which one.
        device: String,
        /// Which namespace.
        nsid: u32,
    },
    /// It keeps failing.
    #[error("{device} failed {resets} times in a row, the last time because {reason}; replace it")]
    KeepsFailing {
        /// Which one.
        device: String,
        /// Resets without a success between them.
        resets: u32,
        /// Why the last one.
        reason: ResetReason,
    },
    /// Buffer or queue memory.
    #[error("{device}: no queue memory: {source}")]
    Memory {
        /// Which one.
        device: String,
        /// Why.
        source: PoolError,
    },
    /// The device cannot be given memory.
    #[error("{device} cannot be given buffer memory: {source}")]
    Map {
        /// Which one.
        device: String,
        /// Why.
        source: MapError,
    },
}

/// Why a controller was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetReason {
    /// A command took too long and its abort did not end it.
    #[error("a command was not answered in time")]
    Timeout,
    /// An admin command took too long.
    #[error("an admin command was not answered in time")]
    AdminTimeout,
    /// A completion of a command that is not under way, or of another queue.
    #[error("a completion named no command that was under way")]
    BadCompletion,
    /// CSTS.CFS.
    #[error("it reported a fatal error (CSTS.CFS)")]
    Fatal,
    /// CSTS.RDY fell by itself.
    #[error("it stopped by itself (CSTS.RDY)")]
    NotReady,
    /// It could not be started again.
    #[error("it could not be started")]
    Start,
}

/// What an operator, or a sled's health, should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvmeEvent {
    /// The controller was reset.
    Reset(ResetReason),
    /// It is ready again.
    Ready,
    /// A command was aborted because it took too long; the key is that of its request.
    Aborted {
        /// Of the request.
        key: u64,
    },
    /// A command failed.
    Failed {
        /// Of the request.
        key: u64,
        /// How.
        status: Status,
    },
    /// The device told something by itself.
    Async(AsyncEvent),
    /// The device is lost to this driver; the text says why.
    Gone(String),
}

/// The device has no such command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller has no {0} command")]
pub struct Unsupported(pub &'static str);
