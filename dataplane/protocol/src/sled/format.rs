//! The superblock of a sled device, the layout that follows from it, and the verdict on a device found.
//!
//! Two copies in blocks 0 and 1; they are written once, at format time, last of all, so that a format that
//! was cut short leaves a device without one. Nothing here is ever rewritten in place while data lives.
//! After them: partition record pages (two slots each), column pages (two slots each), data.

use crate::fence::record::{self, PageError, RecordPage};
use crate::sled::column::{self, ColumnPage, PAGE_UNITS};
use crate::wire::codec::{Reader, Writer};
use crate::wire::limits::{BLOCK, IO_BYTES_MAX, WRITE_UNITS_MAX};
use crate::wire::{DeviceId, RackId};

/// First bytes of a sled superblock.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PALSLED\0");
/// First bytes of a device whose format was begun and not ended.
const UNFINISHED: u64 = u64::from_le_bytes(*b"PALFORM\0");
/// Format version: major, minor.
pub const VERSION: (u16, u16) = (1, 0);
/// Bytes from the start of a device that must be zero before it may be formatted: covers the places where
/// partition tables, LVM, ext4, XFS, btrfs and ISO 9660 sign.
pub const PROBE_BYTES: usize = 128 << 10;
/// Most table pages of a column, so that all slots of a column are read with one command at boot.
pub const TABLE_PAGES_MAX: u32 = (IO_BYTES_MAX / BLOCK / 2) as u32;
/// Data starts at a multiple of this.
const DATA_ALIGN: u64 = 1 << 20;

/// What a device is to be formatted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatSpec {
    /// The rack it joins.
    pub rack: RackId,
    /// Its new identity, drawn at random by the caller.
    pub device: DeviceId,
    /// Its size.
    pub device_bytes: u64,
    /// Size of a column.
    pub column_bytes: u64,
    /// Size of a stripe unit.
    pub unit_bytes: u32,
    /// Partition record pages; each holds 62 partitions.
    pub record_pages: u32,
}

/// Why a device cannot be formatted so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The stripe unit is not a multiple of 4 KiB, or four of them exceed one column write.
    #[error("stripe unit of {0} bytes: it must be a multiple of 4096 and at most 65536")]
    Unit(u32),
    /// The column is not a multiple of the unit, is empty, or has more units than its table can hold.
    #[error("column of {0} bytes: it must be a multiple of the stripe unit with 1 to {max} units",
        max = TABLE_PAGES_MAX as usize * PAGE_UNITS)]
    Column(u64),
    /// No record pages, or absurdly many.
    #[error("{0} partition record pages: there must be 1 to 65536")]
    Records(u32),
    /// The device has no room for a single column.
    #[error("a device of {bytes} bytes has no room for a column: it needs {needed}")]
    Small {
        /// What it has.
        bytes: u64,
        /// What one column needs.
        needed: u64,
    },
}

/// A device's identity and geometry, fixed at format time (OP-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The rack that the device belongs to.
    pub rack: RackId,
    /// The device, wherever it is plugged in.
    pub device: DeviceId,
    /// Size when it was formatted.
    pub device_bytes: u64,
    /// Size of a column.
    pub column_bytes: u64,
    /// Size of a stripe unit.
    pub unit_bytes: u32,
    /// Columns.
    pub columns: u32,
    /// Partition record pages.
    pub record_pages: u32,
    /// Byte offset of the first record page.
    pub records_at: u64,
    /// Byte offset of the first column page.
    pub columns_at: u64,
    /// Byte offset of the first column's data.
    pub data_at: u64,
}

impl Superblock {
    /// Lays a device out: as many columns as fit.
    pub fn plan(spec: &FormatSpec) -> Result<Self, FormatError> {
        let unit = u64::from(spec.unit_bytes);
        if unit == 0 || !unit.is_multiple_of(BLOCK as u64) || unit as usize * WRITE_UNITS_MAX > IO_BYTES_MAX {
            return Err(FormatError::Unit(spec.unit_bytes));
        }
        let units = spec.column_bytes / unit;
        let most = u64::from(TABLE_PAGES_MAX) * PAGE_UNITS as u64;
        if !spec.column_bytes.is_multiple_of(unit) || units == 0 || units > most {
            return Err(FormatError::Column(spec.column_bytes));
        }
        if spec.record_pages == 0 || spec.record_pages > 65536 {
            return Err(FormatError::Records(spec.record_pages));
        }
        let bare = Self {
            rack: spec.rack,
            device: spec.device,
            device_bytes: spec.device_bytes,
            column_bytes: spec.column_bytes,
            unit_bytes: spec.unit_bytes,
            columns: 0,
            record_pages: spec.record_pages,
            records_at: 2 * BLOCK as u64,
            columns_at: (2 + 2 * u64::from(spec.record_pages)) * BLOCK as u64,
            data_at: 0,
        };
        bare.fill(spec.device_bytes)
    }

    /// As many columns as `bytes` hold.
    fn fill(mut self, bytes: u64) -> Result<Self, FormatError> {
        let each = self.column_bytes + self.column_pages_bytes();
        let most = bytes.saturating_sub(self.columns_at) / each;
        self.columns = u32::try_from(most).unwrap_or(u32::MAX - 1);
        loop {
            let pages_end = self.columns_at + u64::from(self.columns) * self.column_pages_bytes();
            self.data_at = pages_end.next_multiple_of(DATA_ALIGN);
            if self.columns == 0 {
                let needed = (self.columns_at + each).next_multiple_of(DATA_ALIGN) + self.column_bytes;
                return Err(FormatError::Small { bytes, needed });
            }
            if self.end() <= bytes {
                return Ok(self);
            }
            self.columns -= 1;
        }
    }

    /// Stripe units of a column.
    pub fn units(&self) -> u32 {
        (self.column_bytes / u64::from(self.unit_bytes)) as u32
    }

    /// Pages of a column's table, each in two slots.
    pub fn table_pages(&self) -> u32 {
        self.units().div_ceil(PAGE_UNITS as u32)
    }

    /// Blocks of a column.
    pub fn column_blocks(&self) -> u32 {
        (self.column_bytes / BLOCK as u64) as u32
    }

    fn column_pages_bytes(&self) -> u64 {
        2 * u64::from(self.table_pages()) * BLOCK as u64
    }

    /// First byte behind the last column.
    pub fn end(&self) -> u64 {
        self.data_at + u64::from(self.columns) * self.column_bytes
    }

    /// Byte offset of a slot of a record page.
    pub fn record_slot(&self, page: u32, slot: u8) -> u64 {
        self.records_at + (2 * u64::from(page) + u64::from(slot)) * BLOCK as u64
    }

    /// Byte offset of a slot of a column's page.
    pub fn column_slot(&self, column: u32, page: u32, slot: u8) -> u64 {
        let block = 2 * u64::from(page) + u64::from(slot);
        self.columns_at + u64::from(column) * self.column_pages_bytes() + block * BLOCK as u64
    }

    /// Byte offset of a column's data.
    pub fn column_data(&self, column: u32) -> u64 {
        self.data_at + u64::from(column) * self.column_bytes
    }

    /// Appends the superblock's 4096 bytes to `out`, which is empty.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(MAGIC).u16(VERSION.0).u16(VERSION.1).u32(0);
        out.u128(self.rack.0).u128(self.device.0).u64(self.device_bytes).u64(self.column_bytes);
        out.u32(self.unit_bytes).u32(self.columns).u32(self.record_pages).u32(0);
        out.u64(self.records_at).u64(self.columns_at).u64(self.data_at);
        record::seal(out);
    }

    /// Reads one copy and checks that its geometry is one that [`Superblock::plan`] would make.
    pub fn decode(bytes: &[u8]) -> Result<Self, PageError> {
        let mut fields = record::open(bytes, MAGIC, VERSION)?;
        fields.u32()?;
        let found = Self::fields(&mut fields)?;
        let spec = FormatSpec {
            rack: found.rack,
            device: found.device,
            device_bytes: found.device_bytes,
            column_bytes: found.column_bytes,
            unit_bytes: found.unit_bytes,
            record_pages: found.record_pages,
        };
        match Self::plan(&spec) {
            Ok(planned) if planned == found => Ok(found),
            _ => Err(PageError::Damaged("geometry")),
        }
    }

    fn fields(fields: &mut Reader<'_>) -> Result<Self, PageError> {
        let rack = RackId(fields.u128()?);
        let device = DeviceId(fields.u128()?);
        let (device_bytes, column_bytes) = (fields.u64()?, fields.u64()?);
        let (unit_bytes, columns, record_pages) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.u32()?;
        let (records_at, columns_at, data_at) = (fields.u64()?, fields.u64()?, fields.u64()?);
        Ok(Self {
            rack,
            device,
            device_bytes,
            column_bytes,
            unit_bytes,
            columns,
            record_pages,
            records_at,
            columns_at,
            data_at,
        })
    }
}

/// Everything that formatting writes, in order, as (byte offset, 4096 bytes): a marker that makes a format
/// which was cut short repeatable, the records, then the two superblock copies. The caller flushes before
/// the last two images and after them, so that half a format is none.
pub fn images(sb: Superblock) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let mut marker = Writer::new();
    marker.u64(UNFINISHED).u16(VERSION.0).u16(VERSION.1);
    record::seal(&mut marker);
    let records = (0..sb.record_pages).flat_map(move |page| {
        (0..2u8).map(move |slot| {
            let blank =
                RecordPage { device: sb.device, page, sequence: u64::from(slot), records: Vec::new() };
            let mut out = Writer::new();
            blank.encode(&mut out);
            (sb.record_slot(page, slot), out.bytes)
        })
    });
    let columns = (0..sb.columns).flat_map(move |number| {
        (0..2u8).map(move |slot| {
            let mut out = Writer::new();
            ColumnPage::blank(sb.device, number, u64::from(slot)).encode(&mut out);
            (sb.column_slot(number, 0, slot), out.bytes)
        })
    });
    // The copy in block 1 first: the marker in block 0 stands until one copy is there.
    let supers = [1u64, 0].into_iter().map(move |copy| {
        let mut out = Writer::new();
        sb.encode(&mut out);
        (copy * BLOCK as u64, out.bytes)
    });
    std::iter::once((0, marker.bytes)).chain(records).chain(columns).chain(supers)
}

/// What a device turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, with the superblock that counts; `copy_bad` tells that the other copy is damaged.
    Ours {
        /// The superblock.
        superblock: Superblock,
        /// One of the two copies is bad.
        copy_bad: bool,
    },
    /// Nothing but zeroes, or a format that was cut short: may be formatted, if the store does not know it.
    Blank,
    /// Holds something that is not ours; never formatted.
    ForeignSignature,
    /// Belongs to another rack.
    OtherRack(RackId),
    /// Written by a format that this build does not know.
    Newer(u16, u16),
    /// Ours once, but no longer readable.
    Damaged(&'static str),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours { superblock, copy_bad: false } => write!(f, "sled device {}", superblock.device),
            Self::Ours { superblock, copy_bad: true } => {
                write!(f, "sled device {}, one superblock copy damaged", superblock.device)
            }
            Self::Blank => f.write_str("blank"),
            Self::ForeignSignature => {
                f.write_str("holds foreign data; wipe its first 128 KiB if it is really free")
            }
            Self::OtherRack(rack) => write!(f, "belongs to rack {rack}"),
            Self::Newer(major, minor) => write!(f, "format {major}.{minor} is newer than this build"),
            Self::Damaged(what) => write!(f, "superblock damaged: {what}"),
        }
    }
}

/// Judges a device by its first [`PROBE_BYTES`] (or all of it, when shorter) and its size.
pub fn judge(probe: &[u8], device_bytes: u64, rack: RackId) -> Verdict {
    let copy =
        |at: usize| probe.get(at..at + BLOCK).map_or(Err(PageError::Damaged("short")), Superblock::decode);
    let (first, second) = (copy(0), copy(BLOCK));
    let copy_bad = first.is_err() || second.is_err();
    if let Ok(superblock) = first.or(second) {
        if superblock.rack != rack {
            return Verdict::OtherRack(superblock.rack);
        }
        if superblock.end() > device_bytes {
            return Verdict::Damaged("the device is shorter than when it was formatted");
        }
        return Verdict::Ours { superblock, copy_bad };
    }
    for error in [&first, &second] {
        if let Err(PageError::Newer(major, minor)) = error {
            return Verdict::Newer(*major, *minor);
        }
    }
    let signed = |at: usize| probe.get(at..at + 8).is_some_and(|bytes| bytes == MAGIC.to_le_bytes());
    if signed(0) || signed(BLOCK) {
        return Verdict::Damaged("both copies fail their checks");
    }
    let unfinished = probe.get(..BLOCK).is_some_and(|page| record::open(page, UNFINISHED, VERSION).is_ok());
    if unfinished || probe.iter().all(|byte| *byte == 0) { Verdict::Blank } else { Verdict::ForeignSignature }
}

const _: () = {
    assert!(TABLE_PAGES_MAX >= 1 && PAGE_UNITS.is_multiple_of(WRITE_UNITS_MAX));
    assert!(column::HEADER_BYTES < BLOCK);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FormatSpec {
        FormatSpec {
            rack: RackId(5),
            device: DeviceId(6),
            device_bytes: 64 << 20,
            column_bytes: 1 << 20,
            unit_bytes: 65536,
            record_pages: 4,
        }
    }

    fn probe_of(sb: &Superblock) -> Vec<u8> {
        let mut probe = vec![0u8; PROBE_BYTES];
        for (at, bytes) in images(*sb) {
            if let Some(place) = probe.get_mut(at as usize..at as usize + BLOCK) {
                place.copy_from_slice(&bytes);
            }
        }
        probe
    }

    #[test]
    fn op16_a_device_is_filled_with_columns_and_nothing_overlaps() {
        for (bytes, column, unit) in
            [(64 << 20, 1 << 20, 65536), (3 << 20, 65536, 4096), (8u64 << 30, 64 << 20, 65536)]
        {
            let sb = Superblock::plan(&FormatSpec {
                device_bytes: bytes,
                column_bytes: column,
                unit_bytes: unit,
                ..spec()
            })
            .expect("fits");
            assert!(sb.columns > 0 && sb.end() <= bytes && sb.end() + 2 * column + (2 << 20) > bytes);
            assert!(sb.record_slot(sb.record_pages - 1, 1) + BLOCK as u64 == sb.columns_at);
            let last_page = sb.column_slot(sb.columns - 1, sb.table_pages() - 1, 1) + BLOCK as u64;
            assert!(last_page <= sb.data_at && sb.data_at.is_multiple_of(DATA_ALIGN));
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        let plan = |change: fn(&mut FormatSpec)| {
            let mut spec = spec();
            change(&mut spec);
            Superblock::plan(&spec)
        };
        assert!(matches!(plan(|s| s.unit_bytes = 5000), Err(FormatError::Unit(_))));
        assert!(matches!(plan(|s| s.unit_bytes = 0), Err(FormatError::Unit(_))));
        assert!(matches!(plan(|s| s.unit_bytes = 1 << 20), Err(FormatError::Unit(_))));
        assert!(matches!(plan(|s| s.column_bytes = 65537), Err(FormatError::Column(_))));
        assert!(matches!(plan(|s| s.column_bytes = 1 << 40), Err(FormatError::Column(_))));
        assert!(matches!(plan(|s| s.record_pages = 0), Err(FormatError::Records(0))));
        assert!(matches!(plan(|s| s.device_bytes = 1 << 20), Err(FormatError::Small { .. })));
        assert!(matches!(plan(|s| s.device_bytes = 0), Err(FormatError::Small { .. })));
    }

    #[test]
    fn a_formatted_device_is_ours_and_one_bad_copy_is_told() {
        let sb = Superblock::plan(&spec()).expect("fits");
        let mut probe = probe_of(&sb);
        let ours = |copy_bad| Verdict::Ours { superblock: sb, copy_bad };
        assert_eq!(judge(&probe, 64 << 20, RackId(5)), ours(false));
        probe[100] ^= 1;
        assert_eq!(judge(&probe, 64 << 20, RackId(5)), ours(true));
        probe[BLOCK + 100] ^= 1;
        assert_eq!(judge(&probe, 64 << 20, RackId(5)), Verdict::Damaged("both copies fail their checks"));
    }

    #[test]
    fn devices_of_others_are_refused_with_the_reason() {
        let sb = Superblock::plan(&spec()).expect("fits");
        let probe = probe_of(&sb);
        assert_eq!(judge(&probe, 64 << 20, RackId(9)), Verdict::OtherRack(RackId(5)));
        assert!(matches!(judge(&probe, 63 << 20, RackId(5)), Verdict::Damaged(_)));
        assert_eq!(judge(&vec![0; PROBE_BYTES], 1, RackId(5)), Verdict::Blank);
        let mut foreign = vec![0; PROBE_BYTES];
        foreign[1080] = 0x53;
        assert_eq!(judge(&foreign, 1, RackId(5)), Verdict::ForeignSignature);
        let mut newer = vec![0; PROBE_BYTES];
        let mut out = Writer::new();
        out.u64(MAGIC).u16(2).u16(1);
        record::seal(&mut out);
        newer[..BLOCK].copy_from_slice(&out.bytes);
        assert_eq!(judge(&newer, 1, RackId(5)), Verdict::Newer(2, 1));
        assert!(judge(&newer, 1, RackId(5)).to_string().contains("newer"));
        assert_eq!(judge(&[], 0, RackId(5)), Verdict::Blank);
    }

    #[test]
    fn half_a_format_is_blank_and_never_ours() {
        let sb = Superblock::plan(&spec()).expect("fits");
        let all: Vec<_> = images(sb).collect();
        let mut probe = vec![0u8; PROBE_BYTES];
        for (at, bytes) in &all[..all.len() - 2] {
            if let Some(place) = probe.get_mut(*at as usize..*at as usize + BLOCK) {
                place.copy_from_slice(bytes);
            }
            assert_eq!(judge(&probe, 64 << 20, RackId(5)), Verdict::Blank);
        }
    }

    #[test]
    fn the_superblock_layout_is_fixed_by_a_golden_checksum() {
        let mut out = Writer::new();
        Superblock::plan(&spec()).expect("fits").encode(&mut out);
        assert_eq!(palisade_isal::crc32c(&out.bytes[..BLOCK - 4]), GOLDEN);
    }
    const GOLDEN: u32 = 237_143_376;
}
