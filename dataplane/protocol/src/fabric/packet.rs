//! The datagram format (`docs/FORMATS/fabric.md`): header, acknowledged ranges, fragment table, data.

use crate::wire::codec::Reader;
use crate::wire::{BootId, NodeId};
use palisade_dma::Buf;
use palisade_isal::{crc32c, crc32c_extend};

/// First four bytes.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"PLSD");
/// Format version; another is refused.
pub const VERSION: u8 = 1;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 96;
/// Bytes of an acknowledged range.
pub(super) const RANGE_BYTES: usize = 16;
/// Bytes of a fragment's entry.
pub(super) const FRAGMENT_BYTES: usize = 28;
/// Most acknowledged ranges in a datagram.
pub(super) const RANGES_MAX: usize = 32;
/// Where the CRC stands in the header; it is computed with this field zero.
const CRC_AT: usize = 76;

/// Flag: answer, if only with an empty datagram (asks for the receiver's boot).
pub(super) const ANSWER: u8 = 1 << 0;

/// Inclusive range of acknowledged datagram numbers.
pub(super) type Range = (u64, u64);

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) path: u8,
    pub(super) flags: u8,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) from_boot: BootId,
    /// The receiver's boot as the sender knows it; zero when it does not.
    pub(super) to_boot: BootId,
    /// Rises by one with each datagram that must be acknowledged; 0 for others.
    pub(super) number: u64,
    /// Message bytes that the receiver may start in all, counted from the first contact.
    pub(super) credit: u64,
    /// Microseconds between the newest acknowledged datagram and this one.
    pub(super) ack_delay_us: u32,
}

/// A piece, or part of a piece, of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Message, counted from 0 in each session and direction.
    pub(super) msg: u64,
    /// Which of its pieces: 0 its fields, others payload.
    pub(super) piece: u16,
    /// Pieces of the message.
    pub(super) pieces: u16,
    /// Bytes of the piece.
    pub(super) piece_len: u32,
    /// First byte in the piece.
    pub(super) offset: u32,
    /// Bytes here.
    pub(super) len: u32,
    /// Bytes of all pieces.
    pub(super) total: u32,
}

/// Why bytes are no datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPacket;

/// A checked datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) header: Header,
    ranges: &'a [u8],
    fragments: &'a [u8],
    data: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks length, magic, version and CRC before anything else is believed.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BadPacket> {
        Self::read(bytes).ok_or(BadPacket)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let sound = from.u32().ok()? == MAGIC && from.u8().ok()? == VERSION;
        let (path, key, flags) = (from.u8().ok()?, from.u8().ok()?, from.u8().ok()?);
        let header = Header {
            path,
            flags,
            from: NodeId(from.u32().ok()?),
            to: NodeId(from.u32().ok()?),
            from_boot: BootId(from.u128().ok()?),
            to_boot: BootId(from.u128().ok()?),
            number: from.u64().ok()?,
            credit: from.u64().ok()?,
            ack_delay_us: from.u32().ok()?,
        };
        let (ranges, fragments) = (usize::from(from.u16().ok()?), usize::from(from.u16().ok()?));
        let len = from.u32().ok()? as usize;
        let crc = from.u32().ok()?;
        let mac = from.u128().ok()?;
        if !sound || key != 0 || mac != 0 || ranges > RANGES_MAX || crc != crc_of(bytes) {
            return None;
        }
        let ranges = from.take(ranges * RANGE_BYTES).ok()?;
        let fragments = from.take(fragments * FRAGMENT_BYTES).ok()?;
        let packet = Self { header, ranges, fragments, data: from.take(len).ok()? };
        (from.rest().is_empty() && packet.consistent()).then_some(packet)
    }

    /// Ranges fall, fragments lie inside their pieces and fill the data exactly.
    fn consistent(&self) -> bool {
        let mut below = u64::MAX;
        for (first, last) in self.ranges() {
            if first == 0 || first > last || last >= below {
                return false;
            }
            below = first;
        }
        let mut sum = 0u64;
        for entry in self.fragment_table() {
            let end = u64::from(entry.offset) + u64::from(entry.len);
            let inside = entry.len > 0 && end <= u64::from(entry.piece_len);
            if !inside || entry.piece >= entry.pieces || entry.piece_len > entry.total {
                return false;
            }
            sum += u64::from(entry.len);
        }
        sum == self.data.len() as u64
    }

    /// Acknowledged ranges, newest first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range> + 'a {
        self.ranges.chunks_exact(RANGE_BYTES).filter_map(|bytes| {
            let mut from = Reader::new(bytes);
            Some((from.u64().ok()?, from.u64().ok()?))
        })
    }

    fn fragment_table(&self) -> impl Iterator<Item = Fragment> + 'a {
        self.fragments.chunks_exact(FRAGMENT_BYTES).filter_map(|bytes| {
            let mut from = Reader::new(bytes);
            Some(Fragment {
                msg: from.u64().ok()?,
                piece: from.u16().ok()?,
                pieces: from.u16().ok()?,
                piece_len: from.u32().ok()?,
                offset: from.u32().ok()?,
                len: from.u32().ok()?,
                total: from.u32().ok()?,
            })
        })
    }

    /// Fragments with their data.
    pub(super) fn fragments(&self) -> impl Iterator<Item = (Fragment, &'a [u8])> + 'a {
        let mut rest = self.data;
        self.fragment_table().map_while(move |entry| {
            let (data, after) = rest.split_at_checked(entry.len as usize)?;
            rest = after;
            Some((entry, data))
        })
    }
}

/// CRC32C of a datagram, its own field taken as zero.
fn crc_of(bytes: &[u8]) -> u32 {
    let start = crc32c_extend(crc32c(&bytes[..CRC_AT]), &[0; 4]);
    crc32c_extend(start, &bytes[CRC_AT + 4..])
}

/// Appends header, ranges and fragment table to an empty `head`. `data_len` is what will follow.
pub(super) fn write(
    head: &mut Vec<u8>,
    header: &Header,
    ranges: &[Range],
    fragments: &[Fragment],
    data_len: usize,
) {
    assert!(head.is_empty() && ranges.len() <= RANGES_MAX, "a datagram starts with its header");
    let mut put = |bytes: &[u8]| head.extend_from_slice(bytes);
    put(&MAGIC.to_le_bytes());
    put(&[VERSION, header.path, 0, header.flags]);
    put(&header.from.0.to_le_bytes());
    put(&header.to.0.to_le_bytes());
    put(&header.from_boot.0.to_le_bytes());
    put(&header.to_boot.0.to_le_bytes());
    put(&header.number.to_le_bytes());
    put(&header.credit.to_le_bytes());
    put(&header.ack_delay_us.to_le_bytes());
    put(&(ranges.len() as u16).to_le_bytes());
    put(&(fragments.len() as u16).to_le_bytes());
    put(&(data_len as u32).to_le_bytes());
    put(&[0; 4 + 16]);
    for (first, last) in ranges {
        put(&first.to_le_bytes());
        put(&last.to_le_bytes());
    }
    for entry in fragments {
        put(&entry.msg.to_le_bytes());
        put(&entry.piece.to_le_bytes());
        put(&entry.pieces.to_le_bytes());
        put(&entry.piece_len.to_le_bytes());
        put(&entry.offset.to_le_bytes());
        put(&entry.len.to_le_bytes());
        put(&entry.total.to_le_bytes());
    }
}

/// Writes the CRC of the finished datagram into its header.
pub(super) fn seal(head: &mut [u8], payload: &[Buf]) {
    let crc = payload.iter().fold(crc32c(head), |crc, part| crc32c_extend(crc, part));
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}
