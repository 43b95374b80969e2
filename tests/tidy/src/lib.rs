//! The house rules as tests: what a reviewer would otherwise have to see by eye, checked by a machine.
//!
//! Each checker is a function from text to [`Finding`]s and has a canary beside it: a bad sample that it
//! must find. `tests/house.rs` runs every checker over the repository. The checkers read text and know
//! just enough Rust to leave comments and strings alone; they are no compiler, and a rule that needs one
//! belongs into clippy.

pub mod deps;
pub mod heads;
pub mod ids;
pub mod imports;
pub mod proof;
pub mod purity;
pub mod ranks;
pub mod refs;
pub mod sizes;
pub mod source;
pub mod tree;
pub mod unsafety;
pub mod words;

use std::fmt;

/// One broken rule, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path from the root of the repository.
    pub file: String,
    /// Line, counted from 1; 0 when the whole file is meant.
    pub line: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Finding {
    /// A finding at a line.
    pub fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Fails a test with all findings, one a line.
///
/// # Panics
/// When there is a finding.
pub fn expect_none(findings: &[Finding]) {
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} finding(s):\n{}", findings.len(), text.join("\n"));
}
