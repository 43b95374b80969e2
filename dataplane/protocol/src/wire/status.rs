//! Answers of a sled (OP-30).

use super::ids::{GrantId, Number, PartitionId};

/// Verdict of a sled on a request. `Fenced` is never merged with `DeviceError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done, and durable where the request asks for it.
    Ok,
    /// A higher number holds the partition (or the column was taken by it).
    Fenced {
        /// Holder at present.
        partition: PartitionId,
        /// Its number.
        number: Number,
        /// Its grant.
        grant: GrantId,
    },
    /// The number is right but the token is missing, void or wrong: reserve again (P-22).
    NoToken,
    /// The column belongs to another partition, extent or generation, or to none.
    NotOwner,
    /// A reservation below the stored number.
    StaleNumber {
        /// The stored number.
        number: Number,
        /// Its grant.
        grant: GrantId,
    },
    /// No free column, or the wanted one is not free.
    NotFree,
    /// The device failed, or is suspect after a drain that did not end in time.
    DeviceError,
    /// The bytes on the medium do not match their checksum.
    Corrupt,
    /// Busy (a reservation is draining, queues are full): ask again later.
    Retry,
    /// No such device, column or range here; or a malformed request.
    BadRequest,
}

impl Status {
    /// Whether the request was carried out.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

/// What a head thinks of a device that holds columns (EF-22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceHealth {
    /// Nothing is wrong with it.
    #[default]
    Good,
    /// It errs, is silent or slow: it gets no new columns, and is read only when the others do not suffice.
    Suspect,
    /// It was given up: its extents are rebuilt elsewhere. It comes back when it answers well for long.
    Failed,
}

impl DeviceHealth {
    /// Its name in status and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        }
    }
}
