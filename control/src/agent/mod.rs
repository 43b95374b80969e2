//! The nodes' end of the control socket: one agent per process, whatever number of nodes it hosts.
//!
//! It registers the process's nodes, keeps the connection, says again after a reconnection what control
//! must know, and turns the socket into two bounded channels: [`Command`]s in, [`Report`]s out. No I/O
//! ever waits for it (EF-02): a full channel drops status and events, never a command.

pub use crate::api::model::{Admission, Command, NodeHello, Report};
pub use crate::identity::{Decision, Medium};
