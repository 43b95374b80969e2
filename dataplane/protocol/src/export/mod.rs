//! Rank 1: exports as byte-in/byte-out machines. For now NBD; NVMe/TCP comes beside it.
//!
//! An export machine turns a client's bytes into [`ClientCmd`](crate::wire::ClientCmd)s and the answers
//! into bytes. It owns no socket, knows no time and waits for nothing.

pub mod nbd;
