//! The embedded store: one redb file, `DATA/control.redb`, one table from key to JSON. redb commits are
//! atomic and durable (two-phase, checksummed pages), and it refuses a second opener.

use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Store, StoreError};
use crate::authority::{Change, Record};

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// A store file.
pub struct Embedded {
    database: Database,
    path: PathBuf,
}

impl Embedded {
    /// Name of the file in the data directory.
    pub const FILE: &str = "control.redb";

    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| io(path, &error))?;
        let store = Self { database, path: path.to_path_buf() };
        let transaction = store.database.begin_write().map_err(|error| io(path, &error))?;
        transaction.open_table(RECORDS).map_err(|error| io(path, &error))?;
        transaction.commit().map_err(|error| io(path, &error))?;
        Ok(store)
    }

    fn decode(&self, key: &str, bytes: &[u8]) -> Result<Record, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Record {
            path: self.path.display().to_string(),
            key: key.to_owned(),
            what: error.to_string(),
        })
    }

    fn encode(&self, key: &str, record: &Record) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(record).map_err(|error| StoreError::Record {
            path: self.path.display().to_string(),
            key: key.to_owned(),
            what: error.to_string(),
        })
    }
}

fn io(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Io { path: path.display().to_string(), what: error.to_string() }
}

impl Store for Embedded {
    fn load(&mut self) -> Result<Vec<(String, Record)>, StoreError> {
        let fail = |error: &dyn std::fmt::Display| io(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fail(&error))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fail(&error))?;
        let mut records = Vec::new();
        for entry in table.iter().map_err(|error| fail(&error))? {
            let (key, value) = entry.map_err(|error| fail(&error))?;
            records.push((key.value().to_owned(), self.decode(key.value(), value.value())?));
        }
        Ok(records)
    }

    fn get(&mut self, key: &str) -> Result<Option<Record>, StoreError> {
        let fail = |error: &dyn std::fmt::Display| io(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fail(&error))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fail(&error))?;
        let value = table.get(key).map_err(|error| fail(&error))?;
        value.map(|value| self.decode(key, value.value())).transpose()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let fail = |error: &dyn std::fmt::Display| io(&self.path, error);
        let mut transaction = self.database.begin_write().map_err(|error| fail(&error))?;
        transaction.set_durability(Durability::Immediate).map_err(|error| fail(&error))?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(|error| fail(&error))?;
            for (key, record) in changes {
                match record {
                    Some(record) => {
                        let bytes = self.encode(key, record)?;
                        table.insert(key.as_str(), bytes.as_slice()).map_err(|error| fail(&error))?;
                    }
                    None => drop(table.remove(key.as_str()).map_err(|error| fail(&error))?),
                }
            }
        }
        transaction.commit().map_err(|error| fail(&error))
    }
}
