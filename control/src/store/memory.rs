//! The store that forgets: for racks of memory devices, and for the simulator, which clones it to crash.

use std::collections::BTreeMap;

use super::{Store, StoreError};
use crate::authority::{Change, Record};

/// Records in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    records: BTreeMap<String, Record>,
}

impl Store for Memory {
    fn load(&mut self) -> Result<Vec<(String, Record)>, StoreError> {
        Ok(self.records.iter().map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn get(&mut self, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(key).cloned())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        for (key, record) in changes {
            match record {
                Some(record) => drop(self.records.insert(key.clone(), record.clone())),
                None => drop(self.records.remove(key)),
            }
        }
        Ok(())
    }
}
