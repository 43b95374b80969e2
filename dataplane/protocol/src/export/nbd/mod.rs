//! NBD server side of one connection (newstyle fixed, structured replies, block status).

mod connection;

pub use connection::{Connection, Phase, Reason, Stats};

use crate::wire::PartitionId;

/// What a client may attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name that clients ask for.
    pub name: String,
    /// Line for people, shown by LIST and INFO; may be empty.
    pub description: String,
    /// The partition that serves it (for now: the volume).
    pub partition: PartitionId,
    /// Size; a multiple of 512.
    pub bytes: u64,
    /// Refuse everything that changes data.
    pub readonly: bool,
}

/// The one list of exports, shared by all listeners.
pub trait Exports {
    /// All exports, in the order in which LIST shows them.
    fn list(&self) -> Vec<ExportInfo>;
    /// The export of that name; the empty name asks for the default export, if there is one.
    fn lookup(&self, name: &str) -> Option<ExportInfo>;
}
