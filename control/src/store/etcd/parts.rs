//! Commits that are larger than an etcd transaction may be (128 operations, 1.5 MiB, unless its operator says
//! otherwise). The changes are written as parts beside the records first, where they mean nothing; one
//! transaction then makes `commit` say that there are so many parts, and from that moment all of them hold:
//! whoever reads lays them over the records. Then they are written into the records, part by part, which may
//! be done again from the start at any time, and removed.

use std::collections::BTreeMap;

use super::wire::Txn;
use super::{Etcd, StoreError};
use crate::authority::Change;

/// Most changes of one transaction.
const CHANGES_MAX: usize = 100;
/// Most bytes of JSON of one transaction, beside a single record, which is far smaller.
const BYTES_MAX: usize = 512 << 10;

/// How a commit is written.
pub(super) enum Weight {
    /// In one transaction.
    One,
    /// In several, each with its JSON.
    Parts(Vec<Vec<u8>>),
}

/// Splits changes as far as they need it.
pub(super) fn split(changes: &[Change]) -> Result<Weight, StoreError> {
    let mut groups: Vec<Vec<&Change>> = vec![Vec::new()];
    let mut bytes = 0;
    for change in changes {
        let size = serde_json::to_vec(change).map_err(|error| Etcd::damaged(&change.0, error))?.len();
        let group = groups.last().map_or(0, Vec::len);
        if group >= CHANGES_MAX || (group > 0 && bytes + size > BYTES_MAX) {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        groups.last_mut().expect("there is always one").push(change);
    }
    if groups.len() == 1 {
        return Ok(Weight::One);
    }
    let json = |group: &Vec<&Change>| serde_json::to_vec(group).map_err(|e| Etcd::damaged("part", e));
    Ok(Weight::Parts(groups.iter().map(json).collect::<Result<_, _>>()?))
}

fn read(value: &[u8]) -> Result<Vec<Change>, StoreError> {
    serde_json::from_slice(value).map_err(|error| Etcd::damaged("part", error))
}

impl Etcd {
    /// A large commit.
    pub(super) fn commit_parts(&mut self, parts: &[Vec<u8>]) -> Result<(), StoreError> {
        for (index, part) in parts.iter().enumerate() {
            let key = self.tenure.keys().part(index);
            self.write(0, |txn| txn.put(&key, part, 0))?;
        }
        self.write(parts.len(), |txn| txn)?;
        // It holds. What fails from here on is made up for before the next transaction.
        if let Err(error) = self.finish_parts() {
            tracing::warn!(%error, "a large commit holds, but is not in the records yet");
        }
        Ok(())
    }

    /// Writes what is left of a large commit into the records.
    pub(super) fn finish_parts(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        let parts = self.parts;
        if parts == 0 {
            return Ok(());
        }
        for index in 0..parts {
            let key = self.tenure.keys().part(index);
            let pair = self.one(&key)?.ok_or_else(|| Self::damaged(&key, "it is not there"))?;
            let work = self.put_all(Txn::default(), &read(&pair.value)?)?;
            self.write(parts, |txn| txn.and(work))?;
        }
        let prefix = self.tenure.keys().parts.clone();
        self.write(0, |txn| txn.delete_all(&prefix))
    }

    /// What the parts of a large commit that holds say, given all parts that are there.
    pub(super) fn overlay(&self, found: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for index in 0..self.parts {
            let key = self.tenure.keys().part(index);
            let value = found.get(&key).ok_or_else(|| Self::damaged(&key, "it is not there"))?;
            changes.extend(read(value)?);
        }
        Ok(changes)
    }
}
