//! Where control keeps its decisions: typed records under text keys, written in transactions that are
//! durable before the call returns (EF-14). Behind a trait, because a rack of several hosts keeps them in etcd;
//! one conformance suite runs over every implementation.

mod embedded;
mod etcd;
mod mark;
mod memory;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;
pub use etcd::{Campaign, Candidate, Etcd, EtcdError, Holder, Tenure, TenureView};
pub use mark::{Mark, MarkWriter};
pub use memory::Memory;

use crate::authority::{Change, Record};

/// Why a store did not do it. After a failed commit nobody knows what is durable: the caller must load
/// again before it decides anything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error("store {path}: {what}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        what: String,
    },
    /// A record cannot be read.
    #[error("store {path}: record `{key}` cannot be read: {what}")]
    Record {
        /// The file.
        path: String,
        /// The record.
        key: String,
        /// Why.
        what: String,
    },
}

/// A store of records.
pub trait Store: Send {
    /// Every record, by key.
    fn load(&mut self) -> Result<Vec<(String, Record)>, StoreError>;

    /// One record.
    fn get(&mut self, key: &str) -> Result<Option<Record>, StoreError>;

    /// All of the changes or none; durable when it returns.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}
