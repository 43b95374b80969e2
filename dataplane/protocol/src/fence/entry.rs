//! The inline fence: one cache line a column, one comparison a write (EF-16, OP-29).
//!
//! The entry caches what a valid write shows under the grant of the day. It is filled by the first write
//! of a column after a grant, so that a grant costs nothing per column (P-21), and it is void as soon as the
//! partition's ordinal has moved on. It only ever admits; why something is refused is told elsewhere.

use crate::wire::{ExtentId, PartitionId, Stamp, Token};

/// `part` of a column that nobody owns.
pub const NO_PART: u32 = u32::MAX;

/// What must match before a column changes. RAM decides (OP-29): loaded at boot, changed only after the
/// record on the medium.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct FenceEntry {
    /// Token of the column under the grant of `ordinal`.
    pub token: Token,
    /// Owner.
    pub partition: PartitionId,
    /// Number of the grant: its counter.
    pub counter: u64,
    /// Which grant of the authority gave the number (P-04).
    pub grant: u64,
    /// The extent that the column was reserved for.
    pub extent: ExtentId,
    /// Number of the grant: its epoch.
    pub epoch: u32,
    /// Generation of the column (P-19).
    pub generation: u32,
    /// Which grant of this sled boot filled `token`, `counter`, `grant` and `epoch`; 0 is none.
    pub ordinal: u32,
    /// Place of the owner in the device's list of partitions, [`NO_PART`] when nobody owns the column.
    pub part: u32,
}

const _: () = assert!(size_of::<FenceEntry>() == 64 && align_of::<FenceEntry>() == 64, "one cache line");

impl FenceEntry {
    /// A column that nobody owns: admits nothing.
    pub const FREE: Self = Self {
        token: Token(0),
        partition: PartitionId(0),
        counter: 0,
        grant: 0,
        extent: ExtentId(0),
        epoch: 0,
        generation: 0,
        ordinal: 0,
        part: NO_PART,
    };

    /// Takes over what writes under the grant `ordinal` must show.
    pub fn refresh(&mut self, stamp: Stamp, ordinal: u32, token: Token) {
        self.token = token;
        self.counter = stamp.number.counter;
        self.epoch = stamp.number.epoch;
        self.grant = stamp.grant.0;
        self.ordinal = ordinal;
    }
}

/// What a write shows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Presented {
    /// Partition, number, grant.
    pub stamp: Stamp,
    /// Token of the column.
    pub token: Token,
    /// The extent it believes it writes.
    pub extent: ExtentId,
    /// The generation it believes the column has.
    pub generation: u32,
}

/// Whether the write may change the column: everything equal, and filled under the grant that lives.
///
/// `ordinal` is that of the partition's living grant, never 0.
#[inline]
pub fn check(entry: &FenceEntry, ordinal: u32, shown: &Presented) -> bool {
    // Differences are gathered without branches: the common case is that all are zero.
    let token = entry.token.0 ^ shown.token.0;
    let wide = (entry.partition.0 ^ shown.stamp.partition.0)
        | (entry.counter ^ shown.stamp.number.counter)
        | (entry.grant ^ shown.stamp.grant.0)
        | (entry.extent.0 ^ shown.extent.0);
    let narrow = (entry.epoch ^ shown.stamp.number.epoch)
        | (entry.generation ^ shown.generation)
        | (entry.ordinal ^ ordinal);
    let differs = (token as u64) | ((token >> 64) as u64) | wide | u64::from(narrow);
    differs == 0 && entry.part != NO_PART && ordinal != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{GrantId, Number};

    fn good() -> (FenceEntry, Presented) {
        let stamp =
            Stamp { partition: PartitionId(7), number: Number { epoch: 1, counter: 9 }, grant: GrantId(33) };
        let mut entry = FenceEntry {
            partition: PartitionId(7),
            extent: ExtentId(4),
            generation: 2,
            part: 0,
            ..FenceEntry::FREE
        };
        entry.refresh(stamp, 5, Token(u128::MAX / 3));
        (entry, Presented { stamp, token: Token(u128::MAX / 3), extent: ExtentId(4), generation: 2 })
    }

    #[test]
    fn ef16_one_differing_bit_anywhere_is_refused() {
        let (entry, shown) = good();
        assert!(check(&entry, 5, &shown));
        for bit in 0..128 {
            assert!(!check(&entry, 5, &Presented { token: Token(shown.token.0 ^ (1 << bit)), ..shown }));
        }
        for bit in 0..64 {
            let mut other = shown;
            other.stamp.partition.0 ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "partition bit {bit}");
            let mut other = shown;
            other.stamp.number.counter ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "counter bit {bit}");
            let mut other = shown;
            other.stamp.grant.0 ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "grant bit {bit}");
            let mut other = shown;
            other.extent.0 ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "extent bit {bit}");
        }
        for bit in 0..32 {
            let mut other = shown;
            other.generation ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "generation bit {bit}");
            let mut other = shown;
            other.stamp.number.epoch ^= 1 << bit;
            assert!(!check(&entry, 5, &other), "epoch bit {bit}");
            assert!(!check(&entry, 5 ^ (1 << bit), &shown), "ordinal bit {bit}");
        }
    }

    #[test]
    fn ef16_a_free_column_admits_nothing() {
        let (mut entry, shown) = good();
        entry.part = NO_PART;
        assert!(!check(&entry, 5, &shown));
        let nothing =
            Presented { stamp: Stamp::default(), token: Token(0), extent: ExtentId(0), generation: 0 };
        assert!(!check(&FenceEntry::FREE, 0, &nothing));
        assert!(!check(&FenceEntry { part: 0, ..FenceEntry::FREE }, 0, &nothing), "no grant lives");
    }
}
