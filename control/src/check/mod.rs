//! Judges a rack file: against itself (`file`), against the host (`host`), against the running rack or
//! the store (`compare`). Every finding has its place in the file and a remedy; errors mean that `up`
//! refuses to start.

mod compare;
mod host;
mod names;
mod networks;
mod nodes;
mod shape;
mod volumes;

pub use compare::compare;
pub use host::{HostFacts, PathFacts, PciFacts, host};

use crate::config::{Finding, Parsed, Place, Places, Rack, Severity};

/// Collects findings about places of one file.
struct Judge<'r> {
    rack: &'r Rack,
    places: &'r Places,
    findings: Vec<Finding>,
}

impl<'r> Judge<'r> {
    fn new(parsed: &'r Parsed) -> Self {
        Self { rack: &parsed.rack, places: &parsed.places, findings: Vec::new() }
    }

    fn find(&mut self, severity: Severity, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let place: Option<Place> = self.places.find(path);
        self.findings.push(Finding { severity, place, what: what.into(), remedy: remedy.into() });
    }

    fn error(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Error, path, what, remedy);
    }

    fn warning(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Warning, path, what, remedy);
    }

    fn note(&mut self, path: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Note, path, what, remedy);
    }
}

/// Everything that the file alone shows, the reader's findings first. A file that could not be read far
/// enough is not judged further: what would be said about absent values misleads.
pub fn file(parsed: &Parsed) -> Vec<Finding> {
    let mut findings = parsed.findings.clone();
    if findings.iter().any(|finding| finding.what.starts_with("not TOML")) {
        return findings;
    }
    let mut judge = Judge::new(parsed);
    shape::judge(&mut judge);
    names::judge(&mut judge);
    networks::judge(&mut judge);
    nodes::judge(&mut judge);
    volumes::judge(&mut judge);
    findings.extend(judge.findings);
    findings
}

/// Findings in the order of the file, errors first at one place.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (finding.place.unwrap_or_default(), std::cmp::Reverse(finding.severity)));
}
