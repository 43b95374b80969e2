//! The one list of exports of a node, shared by all its listeners.
//!
//! It changes only when a volume is created or deleted and is read only in handshakes, so a lock around
//! it is never met in the I/O path.

use palisade_protocol::export::nbd::{ExportInfo, Exports};
use std::sync::{PoisonError, RwLock};

/// A changing list of exports.
#[derive(Debug, Default)]
pub struct ExportList {
    exports: RwLock<Vec<ExportInfo>>,
}

impl ExportList {
    /// Adds an export, or replaces the one of that name.
    pub fn put(&self, info: ExportInfo) {
        let mut exports = self.exports.write().unwrap_or_else(PoisonError::into_inner);
        match exports.iter_mut().find(|export| export.name == info.name) {
            Some(export) => *export = info,
            None => exports.push(info),
        }
    }

    /// Takes an export out.
    pub fn remove(&self, name: &str) {
        self.exports.write().unwrap_or_else(PoisonError::into_inner).retain(|export| export.name != name);
    }
}

impl Exports for ExportList {
    fn list(&self) -> Vec<ExportInfo> {
        self.exports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The empty name asks for the first export.
    fn lookup(&self, name: &str) -> Option<ExportInfo> {
        let exports = self.exports.read().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() {
            return exports.first().cloned();
        }
        exports.iter().find(|export| export.name == name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_protocol::wire::PartitionId;

    #[test]
    fn exports_are_found_by_name_replaced_and_removed() {
        let list = ExportList::default();
        let info = |name: &str, bytes| ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            partition: PartitionId(1),
            bytes,
            readonly: false,
        };
        list.put(info("a", 512));
        list.put(info("b", 512));
        list.put(info("a", 1024));
        assert_eq!(list.lookup("a").map(|e| e.bytes), Some(1024));
        assert_eq!(list.lookup("").map(|e| e.name), Some("a".to_owned()));
        list.remove("a");
        assert_eq!(list.lookup("a"), None);
        assert_eq!(list.list().len(), 1);
    }
}
