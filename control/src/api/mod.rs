//! The control socket: versioned JSON-RPC 2.0, one message a line, over `DATA/control.sock`.

pub mod client;
pub mod json;
pub mod line;
pub mod model;
pub mod rpc;

/// The version of the API. Within it, fields and methods are only added.
pub const API_VERSION: u32 = 1;
