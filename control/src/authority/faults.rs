//! Test-only switches, each of which breaks exactly one rule, so that a checker can be shown to find it.

use super::Authority;

/// Rules to break; none by default. Only tests and simulators can set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// P-01: a restarted head keeps its number.
    pub number_kept: bool,
    /// P-03: a head with another log stands for the old one.
    pub any_log: bool,
    /// P-04: a restored store goes on in its old epoch.
    pub epoch_kept: bool,
    /// P-04: a store that was put back decides at once.
    pub doubt_skipped: bool,
    /// P-04: proposals are answered while nobody knows the newest group.
    pub doubt_answered: bool,
    /// P-04: a store that was put back asks the members that it knows of, and nobody else.
    pub members_heard_only: bool,
    /// `SoloByLeave`: a group is granted without its secondary.
    pub lone_group: bool,
    /// MA-05: a proposal is granted though it knows an older pair.
    pub compare_skipped: bool,
    /// P-02: what was answered to a proposal is forgotten.
    pub permission_forgotten: bool,
    /// MA-21: whoever the primary vouches for joins a whole group, chosen or not.
    pub anybody_joins: bool,
    /// MA-21: a head that came back may take over before it is refilled.
    pub joiner_trusted: bool,
}

impl Authority {
    /// Breaks rules from now on.
    #[cfg(any(test, feature = "canary"))]
    pub fn break_rules(&mut self, faults: Faults) {
        self.faults = faults;
    }
}
