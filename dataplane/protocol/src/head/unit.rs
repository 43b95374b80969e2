//! The journal unit: one stripe unit of a journal column, which describes itself (P-30).
//!
//! A lone head copies each operation to sleds before it acknowledges it, and whoever salvages knows nothing but
//! these bytes. So a unit says whose it is, under which number, chapter and place it was written, which
//! operation comes before its first one and under which number that was given out, and of each piece the
//! operation, its own number, the blocks, and a checksum for each block. Field by field: `docs/FORMATS/sled.md`.

use crate::log::LoggedBody;
use crate::log::record::{Logged, put_entry, take_entry};
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX, PARTITION_BLOCKS_MAX};
use crate::wire::*;
use palisade_isal::crc32c;

/// First bytes of a unit.
const MAGIC: &[u8; 8] = b"PALSOLO\0";
/// Format version: another major is refused, a newer minor is read.
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Bytes of the header before its pieces, and of a piece without its checksums.
const FIXED: usize = 80;
const PIECE: usize = 39;
/// The header block ends with its checksum.
const END: usize = BLOCK - 4;
/// Most payload blocks of one operation: a largest write, or the bytes of a largest repoint.
const BLOCKS_MAX: usize = IO_BLOCKS_MAX;

/// Extents of journal columns are no operations: the highest bit keeps them apart from those of data.
const MARK: u64 = 1 << 63;
/// Position of the copy `at` on a column's durable record.
const POSITION: u8 = 0x80;

/// What the record of a column calls the copy `at` of a chapter.
pub(super) fn named(chapter: u32, at: usize) -> (ExtentId, u8) {
    (ExtentId(MARK | u64::from(chapter)), POSITION | at as u8)
}

/// The chapter whose copy a column's record names; `None`: it is a column of an ordinary extent.
pub(super) fn chapter_of(extent: ExtentId, position: u8) -> Option<u32> {
    let chapter = u32::try_from(extent.0 & !MARK).ok()?;
    (extent.0 & MARK != 0 && position & POSITION != 0).then_some(chapter)
}

/// Why bytes are no unit, or not the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    /// Something else stands there.
    #[error("no journal unit stands there")]
    Foreign,
    /// Written by a newer release.
    #[error("journal unit of version {0}: a newer release wrote it")]
    Newer(u16),
    /// A checksum does not match.
    #[error("checksum of the journal unit does not match")]
    Checksum,
    /// A field is out of its range.
    #[error("journal unit: {0}")]
    Field(#[from] DecodeError),
}

/// Whose unit it is and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stamp: Stamp,
    pub(super) chapter: u32,
    pub(super) unit: u32,
    /// The operation before the first one here, and its number; zero when the writer did not know it any more.
    pub(super) prior: (Op, Number),
}

/// What an operation does, as its pieces name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Its payload are the blocks written from here on.
    Write(Lba),
    /// So many blocks from here on are cleared; no payload.
    Clear(Lba, u32),
    /// Its payload are so many bytes of a log entry, padded.
    Other(u32),
}

/// Part of an operation: payload blocks `first..first + crcs.len()` of `all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) op: Op,
    pub(super) number: Number,
    pub(super) deed: Deed,
    pub(super) first: u16,
    pub(super) all: u16,
    pub(super) crcs: CrcList,
}

/// A unit in the making, in a buffer of its size.
pub(super) struct Filling<'a> {
    bytes: &'a mut [u8],
    pieces: Writer,
    count: u16,
    blocks: usize,
}

impl<'a> Filling<'a> {
    /// An empty unit.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, pieces: Writer::new(), count: 0, blocks: 0 }
    }

    /// Payload blocks that there is room for beside one more piece; `None`: no piece fits.
    pub(super) fn room(&self) -> Option<usize> {
        let left = (END - FIXED).checked_sub(self.pieces.bytes.len() + PIECE)?;
        Some((self.bytes.len() / BLOCK - 1 - self.blocks).min(left / 4))
    }

    /// Adds a piece and its payload, which [`Filling::room`] has room for.
    pub(super) fn push(&mut self, piece: &Piece, payload: &[u8]) {
        let (kind, lba, extra) = match piece.deed {
            Deed::Write(lba) => (1u8, lba.0, 0),
            Deed::Clear(lba, count) => (2, lba.0, count),
            Deed::Other(bytes) => (3, 0, bytes),
        };
        let w = &mut self.pieces;
        w.u64(piece.op.0).u32(piece.number.epoch).u64(piece.number.counter).u8(kind);
        w.u16(piece.all).u16(piece.first).u16(piece.crcs.len() as u16).u64(lba).u32(extra);
        for crc in &piece.crcs {
            w.u32(*crc);
        }
        let at = (1 + self.blocks) * BLOCK;
        self.bytes[at..at + payload.len()].copy_from_slice(payload);
        self.count += 1;
        self.blocks += piece.crcs.len();
    }

    /// Whether nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes the header, and zeroes behind the last block.
    pub(super) fn finish(self, place: &Place) {
        let Self { bytes, pieces, count, blocks } = self;
        let mut w = Writer::new();
        let Stamp { partition, number, grant } = place.stamp;
        w.put(MAGIC).u16(MAJOR).u16(MINOR).u32(0).u64(partition.0);
        w.u32(number.epoch).u16(count).u16(blocks as u16).u64(number.counter).u64(grant.0);
        let (prior, under) = place.prior;
        w.u32(place.chapter).u32(place.unit).u64(prior.0).u32(under.epoch).u32(0).u64(under.counter);
        w.put(&pieces.bytes).pad_to(END);
        let crc = crc32c(&w.bytes);
        w.u32(crc);
        bytes[..BLOCK].copy_from_slice(&w.bytes);
        bytes[(1 + blocks) * BLOCK..].fill(0);
    }
}

/// Reads the header block of a unit.
pub(super) fn decode(block: &[u8]) -> Result<(Place, Vec<Piece>), UnitError> {
    if block.len() < BLOCK || &block[..8] != MAGIC {
        return Err(UnitError::Foreign);
    }
    let mut r = Reader::new(&block[8..END]);
    let mut tail = Reader::new(&block[END..BLOCK]);
    let (major, _minor, _) = (r.u16()?, r.u16()?, r.u32()?);
    if tail.u32()? != crc32c(&block[..END]) {
        return Err(UnitError::Checksum);
    }
    if major != MAJOR {
        return Err(UnitError::Newer(major));
    }
    let partition = PartitionId(r.u64()?);
    let (epoch, count, blocks) = (r.u32()?, r.u16()?, usize::from(r.u16()?));
    let number = Number { epoch, counter: r.u64()? };
    let stamp = Stamp { partition, number, grant: GrantId(r.u64()?) };
    let (chapter, unit, prior) = (r.u32()?, r.u32()?, Op(r.u64()?));
    let (epoch, _) = (r.u32()?, r.u32()?);
    let prior = (prior, Number { epoch, counter: r.u64()? });
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push(take_piece(&mut r)?);
    }
    if pieces.is_empty() || pieces.iter().map(|piece| piece.crcs.len()).sum::<usize>() != blocks {
        return Err(DecodeError::Range("payload blocks").into());
    }
    Ok((Place { stamp, chapter, unit, prior }, pieces))
}

fn take_piece(r: &mut Reader<'_>) -> Result<Piece, DecodeError> {
    let op = Op(r.u64()?);
    let number = Number { epoch: r.u32()?, counter: r.u64()? };
    let (kind, all, first, here) = (r.u8()?, r.u16()?, r.u16()?, r.u16()?);
    let (lba, extra) = (Lba(r.u64()?), r.u32()?);
    let inside = |count: u64| lba.0.checked_add(count).is_some_and(|end| end <= PARTITION_BLOCKS_MAX);
    let deed = match kind {
        1 if all > 0 && inside(u64::from(all)) => Deed::Write(lba),
        2 if all == 0 && inside(u64::from(extra)) => Deed::Clear(lba, extra),
        3 if extra > 0 && usize::from(all) == (extra as usize).div_ceil(BLOCK) => Deed::Other(extra),
        _ => return Err(DecodeError::Range("piece")),
    };
    let whole = usize::from(all) <= BLOCKS_MAX && first.checked_add(here).is_some_and(|end| end <= all);
    if !whole || (all > 0 && here == 0) || op == Op(0) {
        return Err(DecodeError::Range("piece"));
    }
    let mut crcs = CrcList::new();
    for _ in 0..here {
        crcs.push(r.u32()?);
    }
    Ok(Piece { op, number, deed, first, all, crcs })
}

/// Whether the payload of a whole unit is what its pieces say; each payload block follows the one before.
pub(super) fn sound(unit: &[u8], pieces: &[Piece]) -> bool {
    let blocks = unit.chunks_exact(BLOCK).skip(1);
    let crcs = pieces.iter().flat_map(|piece| piece.crcs.iter());
    let mut told = 0;
    let good = blocks.zip(crcs).all(|(block, &crc)| {
        told += 1;
        crc32c(block) == crc
    });
    good && told == pieces.iter().map(|piece| piece.crcs.len()).sum::<usize>()
}

/// Bytes of an operation that is neither write nor clear, padded to whole blocks; with their count before.
pub(super) fn encode_other(entry: &Entry) -> (u32, Vec<u8>) {
    let mut w = Writer::new();
    put_entry(&mut w, entry, Op(0), false);
    let bytes = w.bytes.len() as u32;
    let padded = w.bytes.len().next_multiple_of(BLOCK);
    w.pad_to(padded);
    (bytes, w.bytes)
}

/// The operation whose bytes [`encode_other`] gave.
pub(super) fn decode_other(bytes: &[u8]) -> Result<Entry, DecodeError> {
    match take_entry(&mut Reader::new(bytes))? {
        (Logged::Op { partition, number, op, body: LoggedBody::Other(body), .. }, _) => {
            Ok(Entry { partition, number, op, body })
        }
        _ => Err(DecodeError::Range("entry kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 4 * BLOCK;
    const SECOND: Number = Number { epoch: 1, counter: 2 };

    fn place() -> Place {
        let stamp =
            Stamp { partition: PartitionId(7), number: Number { epoch: 1, counter: 3 }, grant: GrantId(9) };
        Place { stamp, chapter: 4, unit: 5, prior: (Op(10), SECOND) }
    }

    fn write(op: u64, payload: &[u8], first: u16, all: u16) -> Piece {
        let crcs = payload.chunks_exact(BLOCK).map(crc32c).collect();
        Piece { op: Op(op), number: SECOND, deed: Deed::Write(Lba(77)), first, all, crcs }
    }

    fn sample() -> (Vec<u8>, Vec<Piece>) {
        let mut bytes = vec![0xee; UNIT];
        let payload: Vec<u8> = (0..2 * BLOCK).map(|at| (at / 7) as u8).collect();
        let pieces = vec![
            write(11, &payload, 3, 5),
            Piece { crcs: CrcList::new(), deed: Deed::Clear(Lba(5), 9), ..write(12, &[], 0, 0) },
        ];
        let mut filling = Filling::new(&mut bytes);
        assert_eq!((filling.is_empty(), filling.room()), (true, Some(3)));
        filling.push(&pieces[0], &payload);
        filling.push(&pieces[1], &[]);
        assert_eq!((filling.is_empty(), filling.room()), (false, Some(1)));
        filling.finish(&place());
        (bytes, pieces)
    }

    #[test]
    fn p30_a_unit_is_read_as_it_was_written_and_its_layout_is_fixed_by_a_golden_checksum() {
        let (bytes, pieces) = sample();
        assert_eq!(decode(&bytes), Ok((place(), pieces.clone())));
        assert!(sound(&bytes, &pieces));
        assert!(bytes[3 * BLOCK..].iter().all(|byte| *byte == 0), "nothing old stays behind the payload");
        assert_eq!(crc32c(&bytes), GOLDEN);
    }

    #[test]
    fn p30_every_flipped_bit_of_a_header_and_every_short_or_random_block_is_refused_without_a_panic() {
        let (bytes, pieces) = sample();
        for bit in 0..BLOCK * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..BLOCK {
            assert_eq!(decode(&bytes[..len]), Err(UnitError::Foreign));
        }
        let mut rotten = bytes.clone();
        rotten[BLOCK + 9] ^= 1;
        assert!(decode(&rotten).is_ok() && !sound(&rotten, &pieces));
        assert!(!sound(&bytes[..2 * BLOCK], &pieces), "a payload that ends early");
        let mut seed = 1u64;
        for _ in 0..2000 {
            let mut bad = bytes[..BLOCK].to_vec();
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bad[8 + (seed >> 33) as usize % (FIXED + 3 * PIECE)] = (seed >> 20) as u8;
            }
            let crc = crc32c(&bad[..END]);
            bad[END..].copy_from_slice(&crc.to_le_bytes());
            if let Ok((_, pieces)) = decode(&bad) {
                assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.crcs.len() <= BLOCKS_MAX));
            }
        }
    }

    #[test]
    fn p30_a_newer_major_version_is_refused_by_its_number() {
        let (mut bytes, _) = sample();
        bytes[8] = 2;
        let crc = crc32c(&bytes[..END]);
        bytes[END..BLOCK].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(UnitError::Newer(2)));
    }

    #[test]
    fn p30_operations_of_every_other_kind_come_back_as_they_were() {
        let bodies = [
            Body::Nothing,
            Body::Seal { extent: ExtentId(3), stripes: 4 },
            Body::Release { extent: ExtentId(3) },
            Body::Repoint(Box::new(Repoint {
                extent: ExtentId(3),
                first_stripe: 1,
                stripes: 1,
                absent: 0,
                entries: Vec::new(),
            })),
        ];
        for body in bodies {
            let entry = Entry { partition: PartitionId(7), number: SECOND, op: Op(11), body };
            let (bytes, padded) = encode_other(&entry);
            assert!(padded.len().is_multiple_of(BLOCK) && bytes > 0);
            let back = decode_other(&padded[..bytes as usize]).expect("it was just written");
            assert_eq!(format!("{back:?}"), format!("{entry:?}"));
            assert!(decode_other(&padded[..bytes as usize - 1]).is_err());
        }
        assert_eq!(chapter_of(ExtentId(5), 0x80), None, "an ordinary extent");
        assert_eq!(chapter_of(named(5, 2).0, named(5, 2).1), Some(5));
        assert_eq!(chapter_of(named(5, 2).0, 2), None, "no position of a copy");
    }

    const GOLDEN: u32 = 2_853_866_405;
}
