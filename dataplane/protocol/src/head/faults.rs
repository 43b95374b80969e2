//! The rules of a head that tests can break (`wire::switches`).

use crate::wire::switches::switches;

switches! {
    /// Breaks P-06: acknowledges before the secondary's watermark.
    ack_before_peer,
    /// Breaks MA-07 and MA-08: what the first of several secondaries holds and confirms is enough.
    first_peer_speaks_for_all,
    /// Breaks P-06: acknowledges before the own log is durable.
    ack_before_log,
    /// Breaks P-01: goes on under the recovered number after a restart.
    number_kept_over_restart,
    /// Breaks P-29: what a log without a whole checkpoint does not name passes for empty.
    blind_log_trusted,
    /// Breaks P-03: takes a peer with another log for the member.
    foreign_log_accepted,
    /// Breaks P-04: an equal number with another grant is taken for the same.
    grant_ignored,
    /// Breaks P-06: takes the end of its own log for the end of what was acknowledged.
    skip_probe,
    /// Breaks P-13: serves before it reconciled.
    skip_reconcile,
    /// Breaks P-13: a secondary that takes over serves without what it holds beyond the last commit.
    takeover_unreconciled,
    /// Breaks P-22: a superseded primary answers nobody and lets commands run on.
    serve_superseded,
    /// Breaks `SoloByLeave`: acknowledges alone while the secondary is away.
    solo_without_leave,
    /// Breaks P-30: what waits for a second copy is acknowledged from one.
    solo_unasked,
    /// Breaks P-30: a lone head acknowledges before the sleds hold its copies.
    solo_before_copies,
    /// Breaks P-30: one copy fewer than whoever salvages needs to find one.
    solo_m_copies,
    /// Breaks P-12: a lone head answers reads without asking whether it was superseded.
    solo_unvouched,
    /// Breaks OP-01: salvages before the sleds are claimed.
    salvage_unclaimed,
    /// Breaks P-01: trusts units of an older number beyond where a newer one begins.
    salvage_trusts_older,
    /// Breaks P-30: a rotten copy of what was acknowledged alone is left as it is.
    copy_rot_left,
    /// Breaks P-28: gives journal columns back while one head is still alone.
    journal_given_back,
    /// Breaks P-30: a log that went another way is not cut.
    keep_divergence,
    /// Breaks P-30: two logs count as the same as far as the other one goes under older numbers.
    compare_by_end,
    /// Breaks P-02: acts on a proposal before its outcome is known.
    act_on_proposal,
    /// Breaks P-02: while a wish to add a member is open, what the members of before hold is enough.
    ack_on_old_set,
    /// Breaks MA-06: replication under a lower number than the pair's is taken.
    lower_number_taken,
    /// Breaks P-11: commands of a lost connection stay, numbered or not.
    ghost_writes,
    /// Breaks P-12: reads do not wait for a confirm.
    skip_confirm,
    /// Breaks P-12: a confirm that was sent before the read arrived releases it.
    confirm_reuse_old_nonce,
    /// Breaks P-22: goes on with a token that was refused.
    stale_token_retry,
    /// Breaks P-22: any fenced answer demotes.
    false_fence_demotes,
    /// Breaks P-26: flushes to devices whose claim is open.
    claim_unchecked,
    /// Breaks P-24: goes on appending to extents of an older number.
    seal_skipped,
    /// Breaks P-25: repoints with fewer columns than the minimum.
    flush_below_k1,
    /// Breaks P-27: does not list columns after a claim.
    no_list_after_claim,
    /// Breaks P-28: releases columns before the release op is covered.
    release_early,
    /// Breaks P-28: releases columns that a copy under way names.
    release_copied,
    /// Breaks MA-21: a head that is being filled counts as a member before it is whole.
    counted_before_whole,
    /// Breaks BA-02: goes on alone without asking whether the others isolate, too.
    isolation_assumed,
    /// Breaks P-29: what a checkpoint on sleds says is taken without comparing it with the present index.
    basis_trusted,
    /// Breaks P-07: a copied block overwrites a newer one.
    copy_overwrites,
    /// Breaks P-10: merges onto committed bytes while a newer version is pending.
    rmw_on_committed,
    /// Breaks P-32: data of clients takes the columns that only the collector may take.
    spend_reserve,
    /// Breaks P-31: ignores the secondary's credit.
    no_credit,
    /// Breaks `NothingSilent`: hands out bytes without a look at their checksum.
    no_crc_check,
    /// Breaks P-15: reads columns with generation 0.
    read_any_generation,
}
