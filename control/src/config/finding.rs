//! What a reader or a check found, and where in the file. Every finding names a remedy.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Works, but not as well or as safely as it could.
    Warning,
    /// The rack must not start like this.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in the rack file, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the file; none when it is about the host or the running rack as such.
    pub place: Option<Place>,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// `FILE:LINE:COLUMN: severity: what` and the remedy on a second line.
    pub fn render(&self, file: &Path) -> String {
        let place = match self.place {
            Some(place) => format!("{}:{}:{}", file.display(), place.line, place.column),
            None => file.display().to_string(),
        };
        format!("{place}: {}: {}\n    remedy: {}", self.severity, self.what, self.remedy)
    }
}

/// Where each key stands, by its path (`head[1].log.size`).
#[derive(Clone, Debug, Default)]
pub struct Places {
    by_path: BTreeMap<String, Place>,
}

impl Places {
    /// Records the place of a path.
    pub(crate) fn set(&mut self, path: String, place: Place) {
        self.by_path.insert(path, place);
    }

    /// Place of a path, or of the nearest table around it that stands in the file.
    pub fn find(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.by_path.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}
