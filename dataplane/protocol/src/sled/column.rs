//! Column pages: who owns a column, and the checksum table of its stripe units (EF-12, P-19, P-23).
//!
//! A column has one page or more, each in two alternating slots. Page 0 is the ownership record and holds the
//! table of the first units; further pages hold only table and count as empty unless their generation is
//! that of page 0, so that a reservation writes one page whatever the column's size. A column write of
//! up to four units costs one page write of 4 KiB, several of one turn share it.
//!
//! With each unit the table keeps its checksum; what else P-23 asks for (partition, extent, generation,
//! stripe, column, number) is in the page's header and in the unit's place.

use crate::fence::record::{self, PageError};
use crate::wire::codec::Writer;
use crate::wire::limits::BLOCK;
use crate::wire::{DeviceId, ExtentId, GrantId, Number, PartitionId};

/// First bytes of a column page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PALCOLM\0");
/// Format version: major, minor.
pub const VERSION: (u16, u16) = (1, 0);
/// Bytes of a page before the table.
pub const HEADER_BYTES: usize = 128;
/// Units whose checksums fit a page.
pub const PAGE_UNITS: usize = 928;
/// Bytes of the bitmap of known units.
const BITMAP_BYTES: usize = PAGE_UNITS / 8;

const _: () = assert!(HEADER_BYTES + BITMAP_BYTES + 4 * PAGE_UNITS + 4 <= BLOCK, "a page holds its table");

/// Who owns a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// Nobody; `partition`, `number` and `extent` of the record are those of the last owner (OP-18).
    #[default]
    Free,
    /// The partition of the record.
    Owned,
}

/// The ownership record of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnRecord {
    /// Owned or free.
    pub hold: Hold,
    /// Raised with every reservation (P-19).
    pub generation: u32,
    /// Owner, or last owner; 0 when there never was one.
    pub partition: PartitionId,
    /// Highest number that wrote the column or its record.
    pub number: Number,
    /// Grant of that number.
    pub grant: GrantId,
    /// The extent that the column is part of.
    pub extent: ExtentId,
    /// Its position in the extent.
    pub position: u8,
}

/// One page as it lies on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPage {
    /// The device it belongs to.
    pub device: DeviceId,
    /// The column it belongs to.
    pub column: u32,
    /// Which page of the column.
    pub page: u32,
    /// Raised with every write of the page.
    pub sequence: u64,
    /// The record; only page 0's counts.
    pub record: ColumnRecord,
    /// Checksum of each unit of this page, if the sled has written it.
    pub units: Vec<Option<u32>>,
}

impl ColumnPage {
    /// A column that nobody ever owned.
    pub fn blank(device: DeviceId, column: u32, sequence: u64) -> Self {
        Self { device, column, page: 0, sequence, record: ColumnRecord::default(), units: Vec::new() }
    }

    /// Appends the page's 4096 bytes to `out`, which is empty.
    pub fn encode(&self, out: &mut Writer) {
        let head = PageHead {
            device: self.device,
            column: self.column,
            page: self.page,
            sequence: self.sequence,
            record: self.record,
        };
        head.encode(out, self.units.len(), |at| self.units[at]);
    }

    /// Reads a page that should be page `page` of `column` of `device`.
    pub fn decode(bytes: &[u8], device: DeviceId, column: u32, page: u32) -> Result<Self, PageError> {
        let mut fields = record::open(bytes, MAGIC, VERSION)?;
        let found = (fields.u32()?, DeviceId(fields.u128()?), fields.u32()?);
        if found != (page, device, column) {
            return Err(PageError::Damaged("belongs elsewhere"));
        }
        let generation = fields.u32()?;
        let sequence = fields.u64()?;
        let hold = match fields.u8()? {
            0 => Hold::Free,
            1 => Hold::Owned,
            _ => return Err(PageError::Damaged("unknown state")),
        };
        let position = fields.u8()?;
        let count = usize::from(fields.u16()?);
        let epoch = fields.u32()?;
        let partition = PartitionId(fields.u64()?);
        let number = Number { epoch, counter: fields.u64()? };
        let grant = GrantId(fields.u64()?);
        let extent = ExtentId(fields.u64()?);
        if count > PAGE_UNITS {
            return Err(PageError::Damaged("too many units"));
        }
        fields.take(HEADER_BYTES - 88)?;
        let bitmap = fields.take(BITMAP_BYTES)?;
        let mut units = Vec::with_capacity(count);
        for unit in 0..count {
            let crc = fields.u32()?;
            units.push((bitmap[unit / 8] & (1 << (unit % 8)) != 0).then_some(crc));
        }
        let record = ColumnRecord { hold, generation, partition, number, grant, extent, position };
        Ok(Self { device, column, page, sequence, record, units })
    }
}

/// A page without its table, for writers that keep the table elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct PageHead {
    /// The device it belongs to.
    pub device: DeviceId,
    /// The column it belongs to.
    pub column: u32,
    /// Which page of the column.
    pub page: u32,
    /// One higher than the newest slot's.
    pub sequence: u64,
    /// The record.
    pub record: ColumnRecord,
}

impl PageHead {
    /// Appends the page's 4096 bytes to `out`, which is empty: `unit(i)` tells the checksum of the page's
    /// i-th unit.
    pub fn encode(&self, out: &mut Writer, units: usize, unit: impl Fn(usize) -> Option<u32>) {
        assert!(units <= PAGE_UNITS && out.bytes.is_empty(), "a page holds its table");
        let record = &self.record;
        out.u64(MAGIC).u16(VERSION.0).u16(VERSION.1).u32(self.page).u128(self.device.0);
        out.u32(self.column).u32(record.generation).u64(self.sequence);
        out.u8(u8::from(record.hold == Hold::Owned)).u8(record.position).u16(units as u16);
        out.u32(record.number.epoch).u64(record.partition.0).u64(record.number.counter);
        out.u64(record.grant.0).u64(record.extent.0).pad_to(HEADER_BYTES + BITMAP_BYTES);
        for at in 0..units {
            let crc = unit(at);
            if crc.is_some() {
                out.bytes[HEADER_BYTES + at / 8] |= 1 << (at % 8);
            }
            out.u32(crc.unwrap_or(0));
        }
        record::seal(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_isal::crc32c;

    fn page(units: usize) -> (ColumnPage, Vec<u8>) {
        let record = ColumnRecord {
            hold: Hold::Owned,
            generation: 9,
            partition: PartitionId(4),
            number: Number { epoch: 1, counter: 55 },
            grant: GrantId(66),
            extent: ExtentId(77),
            position: 5,
        };
        let units = (0..units as u32).map(|at| (!at.is_multiple_of(3)).then_some(at * 7919)).collect();
        let page = ColumnPage { device: DeviceId(1 << 90), column: 12, page: 0, sequence: 3, record, units };
        let mut out = Writer::new();
        page.encode(&mut out);
        (page, out.bytes)
    }

    #[test]
    fn a_page_comes_back_as_it_was_written() {
        for units in [0, 1, 128, PAGE_UNITS] {
            let (page, bytes) = page(units);
            assert_eq!(bytes.len(), BLOCK, "a column write costs one block of table");
            assert_eq!(ColumnPage::decode(&bytes, DeviceId(1 << 90), 12, 0), Ok(page));
        }
    }

    #[test]
    fn op21_no_flipped_bit_of_a_page_goes_unseen() {
        let (_, bytes) = page(8);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ColumnPage::decode(&bad, DeviceId(1 << 90), 12, 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn well_sealed_nonsense_is_refused_without_panic() {
        let (_, bytes) = page(8);
        let mut seed = 88172645463325252u64;
        for _ in 0..5000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let mut bad = bytes[..BLOCK - 4].to_vec();
            bad[(seed % HEADER_BYTES as u64) as usize] = (seed >> 32) as u8;
            let mut out = Writer { bytes: bad };
            record::seal(&mut out);
            if let Ok(page) = ColumnPage::decode(&out.bytes, DeviceId(1 << 90), 12, 0) {
                assert!(page.units.len() <= PAGE_UNITS);
            }
        }
    }

    #[test]
    fn a_page_of_another_place_is_refused() {
        let (_, bytes) = page(8);
        assert!(ColumnPage::decode(&bytes, DeviceId(1), 12, 0).is_err());
        assert!(ColumnPage::decode(&bytes, DeviceId(1 << 90), 13, 0).is_err());
        assert!(ColumnPage::decode(&bytes, DeviceId(1 << 90), 12, 1).is_err());
    }

    #[test]
    fn the_layout_of_a_page_is_fixed_by_a_golden_checksum() {
        let (_, bytes) = page(100);
        assert_eq!(crc32c(&bytes[..BLOCK - 4]), GOLDEN);
    }
    const GOLDEN: u32 = 520_703_597;
}
