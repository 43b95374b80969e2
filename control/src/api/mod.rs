//! The control socket: versioned JSON-RPC 2.0, one message a line, over `DATA/control.sock`.
//!
//! `rpc` and `line` are the envelope, `model` and `report` what is said, `core` the state behind it,
//! `methods`, `moving` (roles), `balance` (loads), `replace` (members), `isolating` and `ailing` (heads that are to be
//! left), `upgrade` and `apply` what is done, `events` what is kept for people, `server` and `client` the two ends.

mod ailing;
mod alone;
pub mod apply;
mod balance;
pub mod client;
mod core;
mod devices;
mod doubt;
pub mod events;
mod isolating;
pub mod json;
pub mod line;
pub mod members;
mod methods;
pub mod model;
pub mod moving;
mod replace;
pub mod rpc;
mod server;
pub mod sleds;
pub mod status;
mod upgrade;

pub use self::core::{Core, CoreError};
pub use server::Server;

/// The version of the API. Within it, fields and methods are only added.
pub const API_VERSION: u32 = 1;
