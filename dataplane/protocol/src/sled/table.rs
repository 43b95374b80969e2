//! A column's checksum table in memory: what is durable, and what is about to be.

/// Checksums of a column's stripe units. *Known* units are durable with their table entry; *staged* ones
/// have their data durable and wait for the table page.
#[derive(Clone, Debug, Default)]
pub(super) struct UnitTable {
    crcs: Vec<u32>,
    known: Vec<u64>,
    staged: Vec<u64>,
}

impl UnitTable {
    /// An empty table of `units` units.
    pub(super) fn empty(units: u32) -> Self {
        let words = units.div_ceil(64) as usize;
        Self { crcs: vec![0; units as usize], known: vec![0; words], staged: vec![0; words] }
    }

    fn bit(bits: &[u64], unit: u32) -> bool {
        bits.get(unit as usize / 64).is_some_and(|word| word & (1 << (unit % 64)) != 0)
    }

    /// Checksum of a durable unit.
    pub(super) fn known(&self, unit: u32) -> Option<u32> {
        Self::bit(&self.known, unit).then(|| self.crcs[unit as usize])
    }

    /// Checksum of a unit that the next table page shall hold.
    pub(super) fn to_write(&self, unit: u32) -> Option<u32> {
        (Self::bit(&self.known, unit) || Self::bit(&self.staged, unit)).then(|| self.crcs[unit as usize])
    }

    /// The unit's data is durable.
    pub(super) fn stage(&mut self, unit: u32, crc: u32) {
        self.crcs[unit as usize] = crc;
        self.staged[unit as usize / 64] |= 1 << (unit % 64);
    }

    /// The unit's table entry is durable (`kept`), or could not be written.
    pub(super) fn settle(&mut self, unit: u32, kept: bool) {
        let (word, bit) = (unit as usize / 64, 1u64 << (unit % 64));
        if kept {
            self.known[word] |= bit;
        }
        self.staged[word] &= !bit;
    }

    /// Known units counted from the first, without a hole.
    pub(super) fn prefix(&self) -> u32 {
        let mut units = 0;
        for word in &self.known {
            units += word.trailing_ones();
            if *word != u64::MAX {
                break;
            }
        }
        units
    }

    /// The first known unit at or behind `from`.
    pub(super) fn next_known(&self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = self.known.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.known.get(word)?;
        }
        Some(word as u32 * 64 + bits.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::UnitTable;

    #[test]
    fn a_unit_is_known_only_after_its_table_entry_is_durable() {
        let mut table = UnitTable::empty(130);
        table.stage(0, 7);
        assert_eq!((table.known(0), table.to_write(0), table.prefix()), (None, Some(7), 0));
        table.settle(0, true);
        assert_eq!((table.known(0), table.prefix()), (Some(7), 1));
        table.stage(129, 9);
        table.settle(129, false);
        assert_eq!((table.known(129), table.to_write(129), table.next_known(1)), (None, None, None));
        table.stage(129, 9);
        table.settle(129, true);
        assert_eq!((table.next_known(1), table.next_known(130), table.prefix()), (Some(129), None, 1));
    }

    #[test]
    fn the_prefix_of_a_full_table_is_all_of_it() {
        let mut table = UnitTable::empty(128);
        for unit in 0..128 {
            table.stage(unit, unit);
            table.settle(unit, true);
        }
        assert_eq!(table.prefix(), 128);
        assert_eq!(UnitTable::default().known(5), None);
    }
}
