//! The inline fence check of a column write: permit in, permit out (EF-16).

use super::Work;
use palisade_protocol::fence::{ColumnPermit, FenceEntry, Gate, Presented, token};
use palisade_protocol::wire::{DeviceId, ExtentId, PartitionId, Stamp};
use std::hint::black_box;

/// Columns that the check walks over, so that it does not always meet the same cache line.
const COLUMNS: u32 = 4096;

/// Counting, comparing and leaving, column after column.
pub(super) fn work() -> Work {
    let secret = token::grant_secret(7, DeviceId(1), 1);
    let stamp = Stamp { partition: PartitionId(3), ..Stamp::default() };
    let gate: Gate = Gate::closed();
    gate.open();
    let entries: Vec<(FenceEntry, Presented)> = (0..COLUMNS)
        .map(|column| {
            let token = token::derive(secret, DeviceId(1), column, 1);
            let extent = ExtentId(u64::from(column));
            let mut entry =
                FenceEntry { partition: stamp.partition, extent, generation: 1, part: 0, ..FenceEntry::FREE };
            entry.refresh(stamp, 1, token);
            (entry, Presented { stamp, token, extent, generation: 1 })
        })
        .collect();
    let mut at = 0u32;
    let call = move || {
        at = (at + 1) % COLUMNS;
        let (entry, shown) = &entries[at as usize];
        let permit = ColumnPermit::admit(&gate, black_box(entry), 1, at, black_box(shown));
        permit.expect("the token is good").leave(&gate);
    };
    Work { name: "fence-check", call: Box::new(call), goal: Some(20.0) }
}
