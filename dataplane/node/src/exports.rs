//! The one list of exports of a node, shared by all its listeners.
//!
//! It changes only when a volume is created or deleted or its group moves, and is read only in handshakes, so a
//! lock around it is never met in the I/O path. Beside what is served here it knows the newest group of every
//! volume that the head is or was a member of, so that clients are sent on (MA-10).

use palisade_protocol::export::nbd::{ExportInfo, Exports, Group};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// A changing list of exports.
#[derive(Debug, Default)]
pub struct ExportList {
    exports: RwLock<Vec<ExportInfo>>,
    groups: RwLock<BTreeMap<String, Group>>,
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

    /// A volume's group, from now on; never an older one than is known (MA-22).
    pub fn put_group(&self, name: &str, group: Group) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let older = groups
            .get(name)
            .is_some_and(|known| known.partition == group.partition && known.number > group.number);
        if !older {
            groups.insert(name.to_owned(), group);
        }
    }

    /// Knows nothing of a volume any more.
    pub fn remove_group(&self, name: &str) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(name);
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

    fn group(&self, name: &str) -> Option<Group> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_protocol::wire::{Number, PartitionId};

    #[test]
    fn ma22_a_group_is_never_replaced_by_an_older_one_of_the_same_volume() {
        let list = ExportList::default();
        let group = |partition, counter| Group {
            partition: PartitionId(partition),
            number: Number { epoch: 1, counter },
            leader: String::new(),
            places: Vec::new(),
        };
        let counter = |list: &ExportList| list.group("a").map(|group| group.number.counter);
        list.put_group("a", group(1, 5));
        list.put_group("a", group(1, 4));
        assert_eq!(counter(&list), Some(5));
        list.put_group("a", group(1, 6));
        assert_eq!(counter(&list), Some(6));
        list.put_group("a", group(2, 1));
        assert_eq!(counter(&list), Some(1), "another volume of that name begins anew");
        list.remove_group("a");
        assert_eq!(list.group("a"), None);
    }

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
