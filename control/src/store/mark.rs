//! The high-water mark of grants, in a small file beside the store. A store that has granted less than the
//! mark says is an older copy that was restored (P-04); then the epoch is raised above both.
//!
//! The mark is written after the commit, so a crash in between leaves it behind, which is harmless.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use palisade_protocol::wire::RackId;
use serde::{Deserialize, Serialize};

use crate::api::json;

/// The mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The rack that it is about.
    #[serde(with = "json::uuid")]
    pub rack: RackId,
    /// Epoch of the last grant.
    pub epoch: u32,
    /// Grants made.
    pub grants: u64,
}

impl Mark {
    /// Name of the file in the data directory.
    pub const FILE: &str = "control.mark";

    /// Reads the mark; none when there is none or it is damaged, which only costs the protection.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(data.join(Self::FILE)).ok()?).ok()
    }

    /// Replaces the mark, durably.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let fresh = data.join(format!("{}.new", Self::FILE));
        let mut file = fs::File::create(&fresh)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, data.join(Self::FILE))?;
        fs::File::open(data)?.sync_all()
    }
}
