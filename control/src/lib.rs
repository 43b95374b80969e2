//! The control plane: what the rack is to be, who may write, and how people speak to it.
//!
//! `config` reads the rack file, `check` judges it, `authority` (pure) grants numbers, `store` keeps its
//! decisions, `api` serves them on a socket, `agent` is the nodes' end of that socket, `cli` the people's.
//! Nothing here is on an I/O path (EF-02): a dead or stalled control plane stops no read and no write.

pub mod agent;
pub mod api;
pub mod authority;
pub mod check;
pub mod cli;
pub mod config;
mod control;
pub mod identity;
mod leased;
pub mod lock;
pub mod metrics;
pub mod release;
pub mod report;
pub mod store;

pub use control::{Control, ControlError, Standing};
