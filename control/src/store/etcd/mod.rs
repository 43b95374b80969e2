//! The store of a rack of several hosts: an etcd cluster (EF-24). Records are the JSON of the embedded store,
//! one key each.
//!
//! Every write is one transaction that compares two keys first: the holder's, whose revision proves that this
//! control plane still holds the lease (so two never both write), and `commit`, whose revision chains it to the
//! write before (so a write that was given up and arrives late changes nothing). `commit` also carries a random
//! name, by which a write whose answer was lost is recognised when it is sent again.
//!
//! Not here: who is a member of the etcd cluster, its passwords and its encryption. Endpoints are reached over
//! plain HTTP, on the rack's own network.

mod gateway;
mod keys;
mod lease;
mod parts;
#[cfg(test)]
pub(super) mod tests;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use gateway::EtcdError;
pub use lease::{Campaign, Candidate, Holder, Tenure, TenureView};

use super::{Store, StoreError};
use crate::authority::{Change, Record};
use parts::Weight;
use wire::{Found, Outcome, Pair, Txn, end_of, range, single};

/// Longest wait for one call: an election among etcd's members fits in.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pairs of one page when everything is read.
const PAGE: usize = 500;

/// What stands under the key `commit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct CommitMark {
    /// Random, of one transaction.
    nonce: String,
    /// Parts of a large commit that holds, but is not in the records yet.
    parts: usize,
}

/// What is known of the last transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// Nothing: a transaction of ours found no answer, or there was none yet.
    Unknown,
    /// The revision at which `commit` changed last.
    At(i64),
}

/// A store in etcd, for as long as one tenure lasts.
pub struct Etcd {
    tenure: TenureView,
    chain: Chain,
    /// Parts that still have to be written into the records.
    parts: usize,
}

impl Etcd {
    /// The store of a tenure.
    pub fn of(tenure: TenureView) -> Self {
        Self { tenure, chain: Chain::Unknown, parts: 0 }
    }

    fn fail(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io { path: "etcd".to_owned(), what: error.to_string() }
    }

    fn damaged(key: &str, what: impl ToString) -> StoreError {
        StoreError::Record { path: "etcd".to_owned(), key: key.to_owned(), what: what.to_string() }
    }

    /// Whether anything may be asked at all: nothing is tried without the lease, or at an etcd that was
    /// silent just now.
    fn stand(&self) -> Result<(), StoreError> {
        if let Some(why) = self.tenure.lost() {
            return Err(self.fail(&format!("the control plane's lease is lost: {why}")));
        }
        match self.tenure.suspect() {
            Some(why) => Err(self.fail(&why)),
            None => Ok(()),
        }
    }

    fn call<A: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<A, StoreError> {
        self.stand()?;
        self.tenure.gateway().call(path, body).map_err(|error| {
            if matches!(error, EtcdError::Away { .. }) {
                self.tenure.set_suspect(&error);
            }
            self.fail(&error)
        })
    }

    fn one(&self, key: &str) -> Result<Option<Pair>, StoreError> {
        let found: Found = self.call("kv/range", &single(key))?;
        Ok(found.kvs.into_iter().next())
    }

    /// One fenced, chained transaction; `work` adds what it does. `parts` is what `commit` says after it.
    fn write(&mut self, parts: usize, work: impl FnOnce(Txn) -> Txn) -> Result<(), StoreError> {
        let Chain::At(last) = self.chain else {
            return Err(self.fail(&"the last transaction is not known"));
        };
        let keys = self.tenure.keys().clone();
        let mark = CommitMark { nonce: nonce()?, parts };
        let value = serde_json::to_vec(&mark).map_err(|error| self.fail(&error))?;
        let txn = Txn::default().if_created(&keys.holder, self.tenure.revision());
        let txn = work(txn.if_changed(&keys.commit, last)).put(&keys.commit, &value, 0);
        let txn = txn.or_read(&keys.commit).or_read(&keys.holder);
        // Until there is an answer nobody knows.
        self.chain = Chain::Unknown;
        let outcome: Outcome = self.call("kv/txn", &txn.request())?;
        if outcome.succeeded {
            self.chain = Chain::At(outcome.header.revision);
            self.parts = parts;
            return Ok(());
        }
        let found = outcome.pair(&keys.commit).cloned().unwrap_or_default();
        let ours = serde_json::from_slice::<CommitMark>(&found.value).is_ok_and(|m| m.nonce == mark.nonce);
        if ours {
            // Its first answer was lost; it holds, whoever has the lease by now.
            self.chain = Chain::At(found.mod_revision);
            self.parts = parts;
            return Ok(());
        }
        let holder = outcome.pair(&keys.holder).map_or(0, |pair| pair.create_revision);
        if holder != self.tenure.revision() {
            self.tenure.lose(if holder == 0 { "it ended at etcd" } else { "another control plane has it" });
            self.stand()?;
        }
        Err(self.fail(&"another transaction of this control plane came in between"))
    }

    /// Finds out what the last transaction was, and makes sure that no earlier one of ours is carried out any
    /// more: they all name the `commit` that this replaces.
    fn settle(&mut self) -> Result<(), StoreError> {
        if self.chain != Chain::Unknown {
            return Ok(());
        }
        let key = self.tenure.keys().commit.clone();
        let pair = self.one(&key)?.unwrap_or_default();
        let mark: CommitMark = match pair.value.as_slice() {
            [] => CommitMark::default(),
            value => serde_json::from_slice(value).map_err(|error| Self::damaged("commit", error))?,
        };
        self.chain = Chain::At(pair.mod_revision);
        self.write(mark.parts, |txn| txn)
    }

    /// Every pair of the rack as of one moment.
    fn pairs(&self) -> Result<Vec<Pair>, StoreError> {
        let keys = self.tenure.keys();
        let (mut from, end, mut revision) = (keys.all.clone(), end_of(&keys.all), 0);
        let mut pairs = Vec::new();
        loop {
            let page: Found = self.call("kv/range", &range(&from, &end, revision, PAGE))?;
            revision = page.header.revision.max(revision);
            if let Some(last) = page.kvs.last() {
                // The key right behind it.
                from = format!("{}\0", last.key);
            }
            let more = page.more && !page.kvs.is_empty();
            pairs.extend(page.kvs);
            if !more {
                return Ok(pairs);
            }
        }
    }

    /// Puts changes into the records.
    fn put_all(&self, mut txn: Txn, changes: &[Change]) -> Result<Txn, StoreError> {
        let keys = self.tenure.keys();
        for (key, record) in changes {
            txn = match record {
                Some(record) => {
                    let value = serde_json::to_vec(record).map_err(|error| Self::damaged(key, error))?;
                    txn.put(&keys.record(key), &value, 0)
                }
                None => txn.delete(&keys.record(key)),
            };
        }
        Ok(txn)
    }
}

/// A random name for a transaction.
fn nonce() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| StoreError::Io { path: "etcd".to_owned(), what: error.to_string() })?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

/// The last word on each key: etcd refuses a transaction that puts one twice.
fn last_words(changes: &[Change]) -> Vec<Change> {
    changes.iter().cloned().collect::<BTreeMap<String, Option<Record>>>().into_iter().collect()
}

impl Store for Etcd {
    fn load(&mut self) -> Result<Vec<(String, Record)>, StoreError> {
        self.settle()?;
        let mut records = BTreeMap::new();
        let mut parts = BTreeMap::new();
        for pair in self.pairs()? {
            if let Some(key) = self.tenure.keys().record_at(&pair.key) {
                let record = serde_json::from_slice(&pair.value).map_err(|e| Self::damaged(key, e))?;
                records.insert(key.to_owned(), record);
            } else if pair.key.starts_with(&self.tenure.keys().parts) {
                parts.insert(pair.key, pair.value);
            }
        }
        for change in self.overlay(&parts)? {
            match change {
                (key, Some(record)) => drop(records.insert(key, record)),
                (key, None) => drop(records.remove(&key)),
            }
        }
        Ok(records.into_iter().collect())
    }

    fn get(&mut self, key: &str) -> Result<Option<Record>, StoreError> {
        self.settle()?;
        self.finish_parts()?;
        let pair = self.one(&self.tenure.keys().record(key))?;
        pair.map(|pair| serde_json::from_slice(&pair.value).map_err(|e| Self::damaged(key, e))).transpose()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.settle()?;
        self.finish_parts()?;
        let changes = last_words(changes);
        match parts::split(&changes)? {
            Weight::One => {
                let work = self.put_all(Txn::default(), &changes)?;
                self.write(0, |txn| txn.and(work))
            }
            Weight::Parts(parts) => self.commit_parts(&parts),
        }
    }
}
