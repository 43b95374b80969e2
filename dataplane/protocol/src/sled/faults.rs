//! The rules of a sled that tests can break (`wire::switches`).

use crate::wire::switches::switches;

switches! {
    /// Breaks P-15: reads ask neither for partition nor generation.
    read_unchecked,
    /// Breaks P-16: a permit ends when its write is submitted.
    permit_ends_at_submit,
    /// Breaks P-17: serves before the records of the device were read.
    serve_before_recovery,
    /// Breaks P-18: the survivor of a half-rotten page is trusted.
    trust_rotten_slot,
    /// Breaks P-19: writes and releases of an old generation pass.
    ignore_generation,
    /// Breaks P-20: a pending number does not count as stored.
    pending_not_stored,
    /// Breaks P-21: any token of a good number is taken.
    accept_any_token,
    /// Breaks P-22: a repeated reserve voids the tokens of the first.
    dup_reserve_voids,
    /// Breaks P-23: unit checksums are not compared.
    unit_crc_unchecked,
    /// Breaks P-04: an equal number with another grant is taken for the same.
    grant_ignored,
    /// Breaks `OneWriter`: writes under an old number pass.
    accept_old_number,
    /// Breaks `FenceDrains`: grants while older writes are in flight.
    no_drain,
    /// Breaks `FenceIsDurable`: the secret leaves before the record is written.
    token_before_record,
    /// Breaks `FenceIsDurable` and P-09: records are written without FUA.
    record_without_fua,
    /// Breaks P-05: every reservation of a turn has a record write of its own.
    record_each,
    /// Breaks P-09: data and unit tables are written without FUA.
    data_without_fua,
}
