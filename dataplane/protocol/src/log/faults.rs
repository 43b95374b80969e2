//! Switches that break exactly one rule each, so that tests can show that breaking it is noticed.
//!
//! A value other than the default can be made only by tests and under the cargo feature `canary`;
//! shipped binaries have every switch off.

/// Which rule of the log to break. All off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// P-09: appends are written without FUA.
    pub no_fua: bool,
    /// P-06: `durable` follows the newest finished append, holes or not.
    pub ack_with_hole: bool,
    /// P-06: recovery accepts records beyond a hole that nothing proves durable.
    pub trust_past_hole: bool,
    /// P-07: a repoint applies without comparing (op, location).
    pub repoint_unconditional: bool,
    /// P-07: a trim leaves no tombstone.
    pub drop_tombstones: bool,
    /// P-08: log space of live blocks is released.
    pub release_before_repoint: bool,
    /// P-08: segments with metadata are released without a checkpoint that covers them.
    pub checkpoint_not_covering: bool,
    /// P-29: entries "in log" of a checkpoint are taken without finding them in the log.
    pub trust_checkpoint_marks: bool,
    /// P-03: any formatted log is taken for the expected one.
    pub any_log_id: bool,
    /// P-31: user data may use the space reserved for metadata.
    pub no_reserve: bool,
    /// NothingSilent: payload checksums are not verified at recovery.
    pub no_payload_check: bool,
}

impl Faults {
    /// All off, then `set` switches some on.
    #[cfg(any(test, feature = "canary"))]
    pub fn with(set: impl FnOnce(&mut Self)) -> Self {
        let mut faults = Self::default();
        set(&mut faults);
        faults
    }
}
