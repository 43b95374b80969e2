//! NBD for measuring: a polled client and a bare server.
//!
//! Both speak the plain core of the protocol (fixed newstyle, `NBD_OPT_GO`, simple replies) and nothing
//! more. The machine of `palisade_protocol::export` is what ships; these two are its rulers, kept apart on
//! purpose so that a mistake there is not repeated here.

pub mod client;
pub mod follow;
pub mod handshake;
pub mod server;
pub mod stream;
pub mod target;
pub mod uri;
pub mod wire;
