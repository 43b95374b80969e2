//! How well a head is that volumes have to leave (BA-02).

/// Why volumes have to leave a head, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Its log errs.
    Errors,
    /// Its networks do.
    Network,
    /// It is thought to fail soon.
    Warning,
    /// People want it to be left.
    Planned,
}

impl Severity {
    /// As a number: higher is better.
    pub fn rank(self) -> u8 {
        self as u8
    }
}

/// How well a head is for one partition; the greater one wins, and between equals the lower node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// It holds all that was acknowledged. Who does not, never wins.
    pub whole: bool,
    /// [`Severity::rank`].
    pub severity: u8,
    /// Of the last reads and writes of its log, those in a thousand that went well and were not slow; less the
    /// partition's blocks that could not be read.
    pub success: u16,
    /// Tenths of its log that are free.
    pub spare: u8,
}
