//! Pages of a checkpoint on sleds (BA-01, P-29): the index in granules, each with what its blocks are and where.
//!
//! A page is one stripe unit of a column and describes itself: whose it is, which checkpoint and which page. It holds
//! whole granules, [`GRANULE`] blocks each. A granule says of each block the operation, the checksum and the place:
//! an extent and the block in it, or only "in the log, by operation n", because places in a head's log mean nothing
//! elsewhere. So a granule that says the same has the same bytes on every head, and its hash is what a join compares.
//! Granules of holes only are left out. Field by field: `docs/FORMATS/sled.md`.

use crate::log::{Index, LEAF_BLOCKS, Loc};
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::{BLOCK, PARTITION_BLOCKS_MAX};
use crate::wire::*;
use palisade_isal::crc32c;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;

/// Blocks of a granule.
pub(super) const GRANULE: u64 = 128;
/// Bytes of a block's entry, and of a granule.
const ENTRY: usize = 24;
pub(super) const GRANULE_BYTES: usize = GRANULE as usize * ENTRY;
/// Bytes of a page's header, and of a granule with its number before it.
const HEADER: usize = 64;
const NUMBERED: usize = 8 + GRANULE_BYTES;
/// First bytes of a page.
const MAGIC: &[u8; 8] = b"PALCKPT\0";
/// Format version: another major is refused, a newer minor is read.
const MAJOR: u16 = 1;
const MINOR: u16 = 0;

const _: () = {
    assert!(HEADER + NUMBERED <= BLOCK, "the smallest unit holds a granule");
    assert!(LEAF_BLOCKS.is_multiple_of(GRANULE as usize), "a granule lies in one leaf");
};

const HOLE: u8 = 0;
const CLEARED: u8 = 1;
const LOST: u8 = 2;
const IN_LOG: u8 = 3;
const IN_EXTENT: u8 = 4;

/// Whose page it is and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) number: Number,
    pub(super) generation: u32,
    pub(super) covers: Op,
    pub(super) page: u32,
}

/// Why bytes are no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PageError {
    /// Something else stands there.
    #[error("no page of a checkpoint stands there")]
    Foreign,
    /// Written by a newer release.
    #[error("page of version {0}: a newer release wrote it")]
    Newer(u16),
    /// The checksum does not match.
    #[error("checksum of the page does not match")]
    Checksum,
    /// A field is out of its range.
    #[error("page: {0}")]
    Field(#[from] DecodeError),
}

/// What the index says of a granule, as bytes of [`GRANULE_BYTES`]; false when all of it are holes.
pub(super) fn granule(index: &Index, number: u64, into: &mut [u8]) -> bool {
    let mut holds = false;
    for (lba, entry) in (number * GRANULE..).zip(into.chunks_exact_mut(ENTRY)) {
        let mapping = index.get(Lba(lba));
        let (tag, block, extent) = match mapping.loc {
            Loc::Hole => (HOLE, 0, 0),
            Loc::Cleared => (CLEARED, 0, 0),
            Loc::Lost => (LOST, 0, 0),
            Loc::Log(_) => (IN_LOG, 0, 0),
            Loc::Extent { slot, block } => match index.extent(slot) {
                Some(extent) => (IN_EXTENT, block, extent.desc.id.0),
                None => (LOST, 0, 0),
            },
        };
        holds |= tag != HOLE;
        entry[..8].copy_from_slice(&mapping.op.0.to_le_bytes());
        entry[8..12].copy_from_slice(&mapping.crc.to_le_bytes());
        // A data block's number has 24 bits.
        entry[12..16].copy_from_slice(&(u32::from(tag) << 24 | block).to_le_bytes());
        entry[16..].copy_from_slice(&extent.to_le_bytes());
    }
    holds
}

/// The first granule from `from` on that holds anything.
pub(super) fn next_granule(index: &Index, from: u64) -> Option<u64> {
    let mut from = Lba(from * GRANULE);
    loop {
        let (first, count) = index.next_range(from)?;
        from = Lba(first.0 + u64::from(count));
        let holds = |&lba: &u64| index.get(Lba(lba)).loc != Loc::Hole;
        if let Some(lba) = (first.0..from.0).find(holds) {
            return Some(lba / GRANULE);
        }
    }
}

/// What a granule is compared by.
pub(super) fn hash(granule: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new_with_keys(0x5061_6c69_7361_6465, 0x6772_616e_756c_6531);
    hasher.write(granule);
    hasher.finish128().as_u128()
}

/// What a granule says of its block `at`; `None`: a hole. A block in the log is [`Place::Known`](crate::wire::Place).
pub(super) fn said(granule: &[u8], at: u64) -> Option<CopiedBlock> {
    let from = at as usize * ENTRY;
    let mut r = Reader::new(granule.get(from..from + ENTRY)?);
    let (op, crc, packed, extent) = (Op(r.u64().ok()?), r.u32().ok()?, r.u32().ok()?, r.u64().ok()?);
    let place = match (packed >> 24) as u8 {
        CLEARED => crate::wire::Place::Cleared,
        LOST => crate::wire::Place::Lost,
        IN_LOG => crate::wire::Place::Known,
        IN_EXTENT => crate::wire::Place::Extent { id: ExtentId(extent), block: packed & 0xff_ffff },
        _ => return None,
    };
    Some(CopiedBlock { at: at as u32, op, crc, place })
}

/// A page in the making, in a buffer of its size.
pub(super) struct Filling<'a> {
    bytes: &'a mut [u8],
    count: usize,
}

impl<'a> Filling<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, count: 0 }
    }

    /// Whether another granule fits.
    pub(super) fn room(&self) -> bool {
        HEADER + (self.count + 1) * NUMBERED <= self.bytes.len()
    }

    /// Adds a granule, which [`Filling::room`] has room for.
    pub(super) fn push(&mut self, index: &Index, number: u64) {
        let at = HEADER + self.count * NUMBERED;
        self.bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        granule(index, number, &mut self.bytes[at + 8..at + NUMBERED]);
        self.count += 1;
    }

    /// Writes the header, and zeroes behind the last granule; says the checksum.
    pub(super) fn finish(self, place: &Place) -> u32 {
        let Self { bytes, count } = self;
        let mut w = Writer::new();
        w.put(MAGIC).u16(MAJOR).u16(MINOR).u32(0).u64(place.partition.0);
        w.u32(place.number.epoch).u32(place.generation).u64(place.number.counter).u64(place.covers.0);
        w.u32(place.page).u16(count as u16).pad_to(HEADER);
        bytes[..HEADER].copy_from_slice(&w.bytes);
        bytes[HEADER + count * NUMBERED..].fill(0);
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

/// A page: its place, its granules by number, and its checksum.
pub(super) type Page<'a> = (Place, Vec<(u64, &'a [u8])>, u32);

/// Reads a page.
pub(super) fn decode(bytes: &[u8]) -> Result<Page<'_>, PageError> {
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err(PageError::Foreign);
    }
    let mut r = Reader::new(&bytes[8..]);
    let (major, _minor, crc) = (r.u16()?, r.u16()?, r.u32()?);
    if major != MAJOR {
        return Err(PageError::Newer(major));
    }
    if crc != crc32c(&bytes[16..]) {
        return Err(PageError::Checksum);
    }
    let partition = PartitionId(r.u64()?);
    let (epoch, generation) = (r.u32()?, r.u32()?);
    let number = Number { epoch, counter: r.u64()? };
    let (covers, page, count) = (Op(r.u64()?), r.u32()?, r.u16()?);
    let mut r = Reader::new(&bytes[HEADER..]);
    let mut granules: Vec<(u64, &[u8])> = Vec::new();
    for _ in 0..count {
        let (at, granule) = (r.u64()?, r.take(GRANULE_BYTES)?);
        let rises = granules.last().is_none_or(|(last, _)| *last < at);
        let tags = granule.chunks_exact(ENTRY).all(|entry| entry[15] <= IN_EXTENT);
        if !rises || !tags || at > PARTITION_BLOCKS_MAX / GRANULE {
            return Err(DecodeError::Range("granule").into());
        }
        granules.push((at, granule));
    }
    Ok((Place { partition, number, generation, covers, page }, granules, crc))
}

/// Extents of checkpoint columns are no operations either: the second highest bit marks them.
const MARK: u64 = 1 << 62;
/// Position of the copy `at` on a column's durable record.
const POSITION: u8 = 0x40;

/// What the record of a column calls the copy `at` of a checkpoint's chapter.
pub(super) fn named(generation: u32, chapter: u32, at: usize) -> (ExtentId, u8) {
    (ExtentId(MARK | u64::from(generation) << 16 | u64::from(chapter)), POSITION | at as u8)
}

/// Whether a column's record names a copy of a checkpoint.
pub(super) fn is_page(extent: ExtentId, position: u8) -> bool {
    extent.0 >> 62 == 1 && position & POSITION != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 4 * BLOCK;

    fn place() -> Place {
        let number = Number { epoch: 1, counter: 3 };
        Place { partition: PartitionId(7), number, generation: 4, covers: Op(55), page: 6 }
    }

    /// A granule of every kind of entry, made by hand.
    fn by_hand() -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in 0..GRANULE {
            let (op, crc, packed, extent) = match at {
                1 => (9u64, 0u32, u32::from(CLEARED) << 24, 0u64),
                2 => (10, 0, u32::from(LOST) << 24, 0),
                3 => (11, 0xaabb_ccdd, u32::from(IN_LOG) << 24, 0),
                4 => (12, 0x1122_3344, u32::from(IN_EXTENT) << 24 | 0x01_0203, 5),
                _ => (0, 0, 0, 0),
            };
            bytes.extend_from_slice(&op.to_le_bytes());
            bytes.extend_from_slice(&crc.to_le_bytes());
            bytes.extend_from_slice(&packed.to_le_bytes());
            bytes.extend_from_slice(&extent.to_le_bytes());
        }
        bytes
    }

    /// A page with that granule, and one of holes, as 3 and 9.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0xee; UNIT];
        let mut filling = Filling::new(&mut bytes);
        let empty = Index::new(4096);
        filling.push(&empty, 3);
        filling.push(&empty, 9);
        filling.finish(&place());
        bytes[HEADER + 8..HEADER + NUMBERED].copy_from_slice(&by_hand());
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn p29_a_page_is_read_as_it_was_written_and_its_layout_is_fixed_by_a_golden_checksum() {
        let bytes = sample();
        let (read, granules, crc) = decode(&bytes).expect("a page");
        assert_eq!((read, crc), (place(), GOLDEN));
        assert_eq!(granules.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 9]);
        assert_eq!(granules[0].1, by_hand());
        assert!(bytes[HEADER + 2 * NUMBERED..].iter().all(|byte| *byte == 0), "nothing old stays behind");
        assert_eq!(hash(granules[0].1), GOLDEN_HASH);
    }

    #[test]
    fn p29_a_granule_says_extents_by_name_and_marks_what_lies_in_the_log() {
        use crate::wire::Place as At;
        let bytes = by_hand();
        let block = |at, op, crc, place| Some(CopiedBlock { at, op: Op(op), crc, place });
        assert_eq!(said(&bytes, 0), None);
        assert_eq!(said(&bytes, 1), block(1, 9, 0, At::Cleared));
        assert_eq!(said(&bytes, 2), block(2, 10, 0, At::Lost));
        assert_eq!(said(&bytes, 3), block(3, 11, 0xaabb_ccdd, At::Known));
        let extent = At::Extent { id: ExtentId(5), block: 0x01_0203 };
        assert_eq!(said(&bytes, 4), block(4, 12, 0x1122_3344, extent));
        assert_eq!(said(&bytes, GRANULE), None, "beyond its end");
    }

    #[test]
    fn p29_every_flipped_bit_and_every_short_page_is_refused_without_a_panic() {
        let bytes = sample();
        for bit in (0..(HEADER + 2 * NUMBERED) * 8).filter(|bit| !(80..96).contains(bit)) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..UNIT {
            assert!(decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    /// A page that says that it has more than it has room for.
    fn short_page() -> Vec<u8> {
        let mut bytes = sample()[..HEADER + NUMBERED].to_vec();
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn p29_fields_out_of_range_are_refused_under_a_good_checksum() {
        let patched = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = sample();
            change(&mut bytes);
            let crc = crc32c(&bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            decode(&bytes).map(|_| ()).expect_err("refused")
        };
        assert_eq!(patched(&|bytes| bytes[8] = 2), PageError::Newer(2));
        assert_eq!(patched(&|bytes| bytes[HEADER + NUMBERED] = 3), DecodeError::Range("granule").into());
        assert_eq!(patched(&|bytes| bytes[HEADER + 8 + 15] = 5), DecodeError::Range("granule").into());
        assert_eq!(patched(&|bytes| bytes[HEADER + 7] = 1), DecodeError::Range("granule").into());
        assert_eq!(patched(&|bytes| bytes[52] = 200), DecodeError::Range("granule").into());
        assert!(matches!(decode(&short_page()), Err(PageError::Field(DecodeError::Short { .. }))));
        // A newer minor version is read.
        let mut newer = sample();
        newer[10] = 1;
        assert!(decode(&newer).is_ok());
    }

    #[test]
    fn p29_names_of_columns_are_told_from_those_of_extents_and_journals() {
        let (extent, position) = named(5, 3, 2);
        assert!(is_page(extent, position));
        assert!(!is_page(ExtentId(5), position) && !is_page(extent, 2));
        assert!(super::super::unit::chapter_of(extent, position).is_none());
        let (journal, copy) = super::super::unit::named(5, 2);
        assert!(!is_page(journal, copy));
        assert_ne!(named(5, 3, 0), named(5, 4, 0));
        assert_ne!(named(5, 3, 0), named(6, 3, 0));
    }

    const GOLDEN: u32 = 1_151_603_770;
    /// The same by another implementation of SipHash.
    const GOLDEN_HASH: u128 = 0x18a832a93bb8a67d_99a1948f08ad6239;
}
