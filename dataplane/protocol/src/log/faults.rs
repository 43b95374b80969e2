//! The rules of a head log that tests can break (`wire::switches`).

use crate::wire::switches::switches;

switches! {
    /// Breaks P-09: appends are written without FUA.
    no_fua,
    /// Breaks P-06: `durable` follows the newest finished append, holes or not.
    ack_with_hole,
    /// Breaks P-06: recovery accepts records beyond a hole that nothing proves durable.
    trust_past_hole,
    /// Breaks P-07: a repoint applies without comparing (op, location).
    repoint_unconditional,
    /// Breaks P-07: a trim leaves no tombstone.
    drop_tombstones,
    /// Breaks P-08: log space of live blocks is released.
    release_before_repoint,
    /// Breaks P-08: segments with metadata are released without a checkpoint that covers them.
    checkpoint_not_covering,
    /// Breaks P-29: entries "in log" of a checkpoint are taken without finding them in the log.
    trust_checkpoint_marks,
    /// Breaks BA-01: what a copy that was not whole has left in the log counts after a restart.
    half_copy_counts,
    /// Breaks P-29: a slot that names an older checkpoint is left as it is.
    older_checkpoint_left,
    /// Breaks P-03: any formatted log is taken for the expected one.
    any_log_id,
    /// Breaks P-31: user data may use the space reserved for metadata.
    no_reserve,
    /// Breaks `NothingSilent`: payload checksums are not verified at recovery.
    no_payload_check,
}
