//! Rank 1: reliable datagrams between the processes of a rack (EF-04; room for EF-31's second network).
//!
//! The machine takes messages and datagrams and gives datagrams and messages; it owns no socket.

mod machine;
pub mod message;

pub use machine::{Config, Datagram, Fabric, FabricOut, PathId, QueueFull, Stats};
