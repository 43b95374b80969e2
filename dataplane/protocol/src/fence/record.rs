//! Partition records: the durable (partition, number, grant, holder) of a device, many to a page (EF-12, P-05).
//!
//! A page has two slots; each write goes to the slot that does not hold the newest, with a sequence one
//! higher, so that a torn write leaves the other (OP-21). What rotten slots mean is P-18's: a record that
//! comes from the survivor of a half-rotten page is *doubtful*, for the lost slot may have held a higher
//! number, and only a strictly higher number is granted on it. A record that is new to a page is written to
//! both slots before its grant is answered, so that a partition absent from the survivor was never granted.
//!
//! Which page a partition lives in follows from its id, so that a page lost whole names its partitions.

use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::BLOCK;
use crate::wire::{BootId, DeviceId, GrantId, NodeId, Number, PartitionId};
use palisade_isal::crc32c;

/// First bytes of a partition record page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PALPART\0");
/// Format version: major, minor.
pub const VERSION: (u16, u16) = (1, 0);
/// Records of one page: 62 of 64 bytes after a header of 64, before the checksum at the end.
pub const PAGE_RECORDS: usize = 62;

const _: () = assert!(64 + PAGE_RECORDS * 64 + 4 <= BLOCK, "a page holds its records");

/// The newest number that a device knows of a partition, and who holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionRecord {
    /// The partition.
    pub partition: PartitionId,
    /// Its number.
    pub number: Number,
    /// Which grant gave it (P-04).
    pub grant: GrantId,
    /// The head that holds it (OP-01).
    pub head: NodeId,
    /// The boot of that head (P-01).
    pub boot: BootId,
    /// The record outlived a rotten slot that may have held a higher number (P-18).
    pub doubtful: bool,
}

/// Why a page is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Nothing but zeroes.
    #[error("blank")]
    Blank,
    /// Another magic, checksum, device or page number, or a field out of range.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Written by a format that this build does not know.
    #[error("format {0}.{1} is newer than this build")]
    Newer(u16, u16),
}

impl From<DecodeError> for PageError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged("field out of range")
    }
}

/// One page as it lies on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPage {
    /// The device it belongs to.
    pub device: DeviceId,
    /// Which page of the device.
    pub page: u32,
    /// Raised with every write of the page; the newest valid slot wins.
    pub sequence: u64,
    /// At most [`PAGE_RECORDS`].
    pub records: Vec<PartitionRecord>,
}

impl RecordPage {
    /// Appends the page's 4096 bytes to `out`, which is empty.
    pub fn encode(&self, out: &mut Writer) {
        assert!(self.records.len() <= PAGE_RECORDS && out.bytes.is_empty(), "a page holds its records");
        out.u64(MAGIC).u16(VERSION.0).u16(VERSION.1).u32(self.page).u128(self.device.0);
        out.u64(self.sequence).u32(self.records.len() as u32).pad_to(64);
        for record in &self.records {
            out.u64(record.partition.0).u32(record.number.epoch).u32(u32::from(record.doubtful));
            out.u64(record.number.counter).u64(record.grant.0).u32(record.head.0).u32(0);
            out.u128(record.boot.0).u64(0);
        }
        seal(out);
    }

    /// Reads a page that should be number `page` of `device`.
    pub fn decode(bytes: &[u8], device: DeviceId, page: u32) -> Result<Self, PageError> {
        let mut fields = open(bytes, MAGIC, VERSION)?;
        if fields.u32()? != page || fields.u128()? != device.0 {
            return Err(PageError::Damaged("belongs elsewhere"));
        }
        let sequence = fields.u64()?;
        let count = fields.u32()? as usize;
        fields.take(20)?;
        if count > PAGE_RECORDS {
            return Err(PageError::Damaged("too many records"));
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.push(decode_record(&mut fields)?);
        }
        Ok(Self { device, page, sequence, records })
    }
}

fn decode_record(fields: &mut Reader<'_>) -> Result<PartitionRecord, PageError> {
    let partition = PartitionId(fields.u64()?);
    let epoch = fields.u32()?;
    let flags = fields.u32()?;
    let number = Number { epoch, counter: fields.u64()? };
    let grant = GrantId(fields.u64()?);
    let head = NodeId(fields.u32()?);
    fields.u32()?;
    let boot = BootId(fields.u128()?);
    fields.u64()?;
    if flags > 1 {
        return Err(PageError::Damaged("unknown flag"));
    }
    Ok(PartitionRecord { partition, number, grant, head, boot, doubtful: flags == 1 })
}

/// Pads a page to its last four bytes and puts the checksum there.
pub fn seal(out: &mut Writer) {
    assert!(out.bytes.len() <= BLOCK - 4, "a page has room for its checksum");
    out.pad_to(BLOCK - 4);
    let crc = crc32c(&out.bytes);
    out.u32(crc);
}

/// Checks length, checksum, magic and version of a page of 4096 bytes; what follows the version is next.
///
/// A newer minor version is read, an unknown major one refused.
pub fn open(bytes: &[u8], magic: u64, version: (u16, u16)) -> Result<Reader<'_>, PageError> {
    if bytes.len() != BLOCK {
        return Err(PageError::Damaged("length"));
    }
    let (body, crc) = bytes.split_at(BLOCK - 4);
    if Reader::new(crc).u32()? != crc32c(body) {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return Err(if blank { PageError::Blank } else { PageError::Damaged("checksum") });
    }
    let mut fields = Reader::new(body);
    if fields.u64()? != magic {
        return Err(PageError::Damaged("magic"));
    }
    let (major, minor) = (fields.u16()?, fields.u16()?);
    if major != version.0 {
        return Err(PageError::Newer(major, minor));
    }
    Ok(fields)
}

/// Page of a device that holds the records of `partition`.
pub fn page_of(partition: PartitionId, pages: u32) -> u32 {
    (partition.0 % u64::from(pages)) as u32
}

/// What the two slots of a page say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots<P> {
    /// Both good; `newest` is the slot of the newer one.
    Good {
        /// Contents of the newer slot.
        page: P,
        /// Its slot, 0 or 1.
        newest: u8,
        /// Contents of the other slot.
        older: P,
    },
    /// One is bad: the survivor may be the older one (P-18).
    Half {
        /// Contents of the survivor.
        page: P,
        /// Its slot, 0 or 1.
        newest: u8,
    },
    /// Both are bad.
    Lost,
}

/// Judges two slots by their sequences.
pub fn judge<P, E>(slots: [Result<P, E>; 2], sequence: impl Fn(&P) -> u64) -> Slots<P> {
    match slots {
        [Ok(a), Ok(b)] if sequence(&a) >= sequence(&b) => Slots::Good { page: a, newest: 0, older: b },
        [Ok(a), Ok(b)] => Slots::Good { page: b, newest: 1, older: a },
        [Ok(a), Err(_)] => Slots::Half { page: a, newest: 0 },
        [Err(_), Ok(b)] => Slots::Half { page: b, newest: 1 },
        [Err(_), Err(_)] => Slots::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u64) -> PartitionRecord {
        PartitionRecord {
            partition: PartitionId(n),
            number: Number { epoch: 2, counter: n + 10 },
            grant: GrantId(n * 3),
            head: NodeId(n as u32),
            boot: BootId(u128::from(n) << 70),
            doubtful: n.is_multiple_of(2),
        }
    }

    fn page(count: usize) -> (RecordPage, Vec<u8>) {
        let records = (0..count as u64).map(record).collect();
        let page = RecordPage { device: DeviceId(77), page: 3, sequence: 12, records };
        let mut out = Writer::new();
        page.encode(&mut out);
        (page, out.bytes)
    }

    #[test]
    fn a_page_comes_back_as_it_was_written() {
        for count in [0, 1, PAGE_RECORDS] {
            let (page, bytes) = page(count);
            assert_eq!(bytes.len(), BLOCK);
            assert_eq!(RecordPage::decode(&bytes, DeviceId(77), 3), Ok(page));
        }
    }

    #[test]
    fn op21_no_flipped_bit_of_a_page_goes_unseen() {
        let (_, bytes) = page(2);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordPage::decode(&bad, DeviceId(77), 3).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_page_of_another_device_or_place_is_refused() {
        let (_, bytes) = page(2);
        assert!(RecordPage::decode(&bytes, DeviceId(78), 3).is_err());
        assert!(RecordPage::decode(&bytes, DeviceId(77), 4).is_err());
        assert_eq!(RecordPage::decode(&[0; BLOCK], DeviceId(77), 3), Err(PageError::Blank));
        assert!(RecordPage::decode(&bytes[1..], DeviceId(77), 3).is_err());
    }

    #[test]
    fn a_newer_minor_version_is_read_and_a_newer_major_refused() {
        let (page, bytes) = page(2);
        let with = |major: u16, minor: u16| {
            let mut out = Writer::new();
            out.put(&bytes[..8]).u16(major).u16(minor).put(&bytes[12..BLOCK - 4]);
            seal(&mut out);
            RecordPage::decode(&out.bytes, DeviceId(77), 3)
        };
        assert_eq!(with(1, 9), Ok(page));
        assert_eq!(with(2, 0), Err(PageError::Newer(2, 0)));
    }

    #[test]
    fn the_newest_good_slot_wins_and_one_bad_slot_is_told() {
        let of = |seqs: [Result<u64, ()>; 2]| judge(seqs, |seq| *seq);
        assert_eq!(of([Ok(4), Ok(5)]), Slots::Good { page: 5, newest: 1, older: 4 });
        assert_eq!(of([Ok(6), Ok(5)]), Slots::Good { page: 6, newest: 0, older: 5 });
        assert_eq!(of([Err(()), Ok(5)]), Slots::Half { page: 5, newest: 1 });
        assert_eq!(of([Ok(5), Err(())]), Slots::Half { page: 5, newest: 0 });
        assert_eq!(of([Err(()), Err(())]), Slots::Lost);
    }

    #[test]
    fn the_layout_of_a_page_is_fixed_by_a_golden_checksum() {
        let (_, bytes) = page(3);
        assert_eq!(crc32c(&bytes[..BLOCK - 4]), GOLDEN);
    }
    const GOLDEN: u32 = 525_787_275;
}
