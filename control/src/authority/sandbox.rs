//! Which columns a volume prefers on which device (EF-13), and whether its columns can be spread over
//! fault domains (EF-11). A sandbox is a preference: a sled gives a column outside it when it is full.

use std::collections::BTreeSet;

use super::Authority;
use super::record::{SandboxRecord, VolumeRecord, VolumeState};

/// Share of a volume's need that is set aside beyond its size, in percent: overwritten data waits for the
/// collector.
const SLACK_PERCENT: u64 = 25;

/// Whether `columns` columns of an extent can lie on different shelves, or at least on different devices
/// when shelves may be shared. The error says what is lacking.
pub fn spread<'s>(
    shelves: impl IntoIterator<Item = &'s str>,
    columns: usize,
    shared_shelves: bool,
) -> Result<(), String> {
    let all: Vec<&str> = shelves.into_iter().collect();
    let distinct: BTreeSet<&str> = all.iter().copied().collect();
    if all.len() < columns {
        return Err(format!("{columns} columns need as many sleds, there are {}", all.len()));
    }
    if distinct.len() < columns && !shared_shelves {
        return Err(format!(
            "{columns} columns need as many shelves, the sleds stand on {}: losing one shelf would lose several columns",
            distinct.len()
        ));
    }
    Ok(())
}

impl Authority {
    /// A range on every sled device for a volume of this shape; devices without room get none.
    pub(super) fn allocate(&self, volume: &VolumeRecord) -> Vec<SandboxRecord> {
        let devices: Vec<_> =
            self.devices.values().filter(|device| !device.log && device.columns > 0).collect();
        if devices.is_empty() {
            return Vec::new();
        }
        let extent_bytes = (u64::from(volume.k) * volume.column_bytes).max(1);
        let wanted_bytes = volume.bytes.saturating_add(volume.bytes / 100 * SLACK_PERCENT);
        let columns = wanted_bytes.div_ceil(extent_bytes) * (u64::from(volume.k) + u64::from(volume.m));
        let each = columns.div_ceil(devices.len() as u64);
        let mut sandbox = Vec::new();
        for device in devices {
            let each = each.min(u64::from(device.columns)) as u32;
            if let Some(first) = first_gap(&self.taken(&device.name), device.columns, each) {
                sandbox.push(SandboxRecord { device: device.name.clone(), first, last: first + each });
            }
        }
        sandbox
    }

    /// Ranges of a device that volumes hold, by first column.
    fn taken(&self, device: &str) -> Vec<(u32, u32)> {
        let mut taken: Vec<(u32, u32)> = self
            .volumes
            .values()
            .filter(|volume| volume.state != VolumeState::Deleted)
            .flat_map(|volume| &volume.sandbox)
            .filter(|range| range.device == device)
            .map(|range| (range.first, range.last))
            .collect();
        taken.sort_unstable();
        taken
    }
}

/// First column from which `length` columns are free.
fn first_gap(taken: &[(u32, u32)], columns: u32, length: u32) -> Option<u32> {
    let mut start = 0;
    for (first, last) in taken {
        if first.saturating_sub(start) >= length {
            break;
        }
        start = start.max(*last);
    }
    (length > 0 && columns.saturating_sub(start) >= length).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_in_order_and_never_overlap() {
        assert_eq!(first_gap(&[], 10, 4), Some(0));
        assert_eq!(first_gap(&[(0, 4)], 10, 4), Some(4));
        assert_eq!(first_gap(&[(0, 4), (6, 8)], 10, 2), Some(4));
        assert_eq!(first_gap(&[(0, 4), (6, 8)], 10, 3), None);
        assert_eq!(first_gap(&[(0, 10)], 10, 1), None);
        assert_eq!(first_gap(&[], 10, 0), None);
    }

    #[test]
    fn columns_want_shelves_unless_sharing_is_said() {
        let six = ["a", "b", "c", "d", "e", "f"];
        assert!(spread(six, 6, false).is_ok());
        assert!(spread(["a", "a", "b", "c", "d", "e"], 6, false).is_err());
        assert!(spread(["a", "a", "b", "c", "d", "e"], 6, true).is_ok());
        assert!(spread(["a", "b"], 6, true).is_err());
    }
}
