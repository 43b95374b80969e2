//! NBD server side of one connection: newstyle fixed, structured replies, block status.
//!
//! [`Connection`] takes received bytes and answers of the volume, and gives commands for the volume and
//! bytes to send; or it has simple requests carried out on the spot by a volume that is there ([`Beside`]).
//! It owns no socket and knows no time. What comes in faster than it can be served is
//! simply not consumed (back-pressure); nothing is dropped. Section names in comments are those of the
//! protocol's document, `doc/proto.md` of the NetworkBlockDevice project.
//!
//! Per turn the owner of the socket: receives (into its own buffer, or through
//! [`Connection::want_payload`] straight into a pool buffer), calls [`Connection::input`] and hands the
//! commands on; gives answers to [`Connection::complete`]; has many answers packed ([`Connection::pack_many`]),
//! sends [`Connection::pieces`] and reports with [`Connection::sent`] what the socket took; and closes the socket when [`Connection::closed`] says so.
//!
//! Not here: TLS (refused), NBD_CMD_CACHE and NBD_CMD_RESIZE (not offered, answered with EINVAL), extended
//! headers. A write of a lost connection that was not numbered yet is aborted by the owner, who learns
//! the tags from [`Connection::open_tags`] (P-11). NBD has no stable request ids, so a client that
//! reconnects must wait for the old connection to be gone before it repeats writes.

mod beside;
mod connection;
mod group;
mod handshake;
pub mod limits;
mod open;
mod output;
mod reply;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod words;

pub use beside::{Beside, Lent};
pub use connection::{Connection, Phase, Reason};
pub use group::{GROUP_CONTEXT, Group, Knock, Known, parse_group};

use crate::wire::PartitionId;

/// What a client may attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name that clients ask for; at most [`limits::NAME_MAX`] bytes.
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
    /// The newest group of a volume, served here or not, as far as it is known here (MA-10, MA-22).
    fn group(&self, _name: &str) -> Option<Group> {
        None
    }
}

/// Counters of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests accepted.
    pub requests: u64,
    /// Errors told to the client.
    pub errors: u64,
    /// Times something waited because the buffer pool was empty.
    pub pool_waits: u64,
    /// Times input waited because a limit of the connection was reached.
    pub limit_waits: u64,
    /// Answers to commands that were not open.
    pub stray_answers: u64,
}
