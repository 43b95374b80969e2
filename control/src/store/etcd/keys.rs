//! Where a rack's state stands in etcd (docs/FORMATS/control.md). Names of racks have no slash in them, so that
//! no rack's keys lie within another's.

/// The keys of one rack.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Before everything of this rack.
    pub(super) all: String,
    /// Who holds the control plane's lease.
    pub(super) holder: String,
    /// The last commit: every transaction is chained to the one before through it.
    pub(super) commit: String,
    /// Before the parts of a commit that is larger than a transaction.
    pub(super) parts: String,
    /// Before the records.
    records: String,
}

impl Keys {
    pub(super) fn of(rack: &str) -> Self {
        let all = format!("palisade/{rack}/");
        Self {
            holder: format!("{all}holder"),
            commit: format!("{all}commit"),
            parts: format!("{all}part/"),
            records: format!("{all}record/"),
            all,
        }
    }

    /// Where a record stands.
    pub(super) fn record(&self, key: &str) -> String {
        format!("{}{key}", self.records)
    }

    /// Which record stands at a key.
    pub(super) fn record_at<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.records)
    }

    /// Where a part of a large commit stands.
    pub(super) fn part(&self, index: usize) -> String {
        format!("{}{index:06}", self.parts)
    }
}
