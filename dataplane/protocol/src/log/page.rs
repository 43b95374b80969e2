//! Pages of a checkpoint: 64 KiB, each with its own checksum (P-29).
//!
//! A page is a header of 64 bytes and a body: a leaf of an index byte for byte, or a piece of the stream
//! that describes partitions and extents. Pages name their generation and place, so that a page of an
//! older checkpoint, or one read from the wrong place, is not taken for it.

use super::index::{LEAF_BLOCKS, LEAF_BYTES};
use super::record::{put_checkpoint, put_extent, take_checkpoint, take_extent};
use super::types::{Extent, Lsn, Origin, PartitionMeta};
use crate::wire::checkpoint::CHECKPOINTS_KEPT;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::MEMBERS_MAX;
use crate::wire::*;
use palisade_isal::crc32c;
use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;
use std::hash::Hasher;

/// Bytes of a page.
pub const PAGE: usize = 64 << 10;
/// Bytes of a page's header.
pub const PAGE_HEADER: usize = 64;
/// First bytes of a page.
pub const PAGE_MAGIC: &[u8; 8] = b"PALISPAG";
/// Version of pages and of the stream in them.
pub const PAGE_VERSION: u16 = 1;

const _: () = assert!(LEAF_BYTES + PAGE_HEADER <= PAGE, "a leaf fits one page");

/// Pages that one copy of a checkpoint of `blocks` blocks may need: leaves, a part-filled leaf for each of
/// several partitions, and the stream.
pub fn pages_for(blocks: u64) -> u32 {
    let leaves = blocks.div_ceil(LEAF_BLOCKS as u64).min(1 << 24) as u32;
    leaves + leaves / 4 + 12
}

/// Most blocks whose checkpoint fits in so many pages.
pub(super) fn blocks_for(pages: u32) -> u64 {
    let Some(rest) = u64::from(pages).checked_sub(12) else { return 0 };
    // leaves + leaves / 4 <= rest
    let leaves = (rest * 4 + 3) / 5;
    leaves * LEAF_BLOCKS as u64
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// A leaf of a partition's index.
    Leaf {
        /// The partition.
        partition: PartitionId,
        /// Which leaf.
        leaf: u32,
    },
    /// A piece of the stream.
    Stream,
}

/// Header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// Checkpoint.
    pub generation: u64,
    /// Place in it.
    pub page: u32,
    /// What it holds.
    pub kind: PageKind,
    /// Bytes of the body.
    pub len: u32,
}

impl PageHeader {
    /// Fills a page; says its checksum.
    pub fn write(&self, page: &mut [u8], body: &[u8]) -> u32 {
        assert!(page.len() == PAGE && body.len() <= PAGE - PAGE_HEADER, "a body fits its page");
        let (kind, partition, leaf) = match self.kind {
            PageKind::Leaf { partition, leaf } => (1, partition.0, leaf),
            PageKind::Stream => (2, 0, 0),
        };
        let mut w = Writer::new();
        w.put(PAGE_MAGIC).u16(PAGE_VERSION).u16(kind).u32(0);
        w.u64(self.generation).u64(partition).u32(self.page).u32(leaf).u32(body.len() as u32);
        w.pad_to(PAGE_HEADER);
        page[..PAGE_HEADER].copy_from_slice(&w.bytes);
        page[PAGE_HEADER..PAGE_HEADER + body.len()].copy_from_slice(body);
        page[PAGE_HEADER + body.len()..].fill(0);
        let crc = crc32c(&page[16..]);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// A page's header, body and checksum, if all of it is sound.
    pub fn read(page: &[u8]) -> Result<(Self, &[u8], u32), DecodeError> {
        let mut r = Reader::new(page);
        let magic = r.take(8)?;
        let (version, kind, crc) = (r.u16()?, r.u16()?, r.u32()?);
        if magic != PAGE_MAGIC || version != PAGE_VERSION || page.len() != PAGE || crc != crc32c(&page[16..])
        {
            return Err(DecodeError::Range("page"));
        }
        let (generation, partition, number) = (r.u64()?, PartitionId(r.u64()?), r.u32()?);
        let (leaf, len) = (r.u32()?, r.u32()?);
        let kind = match kind {
            1 => PageKind::Leaf { partition, leaf },
            2 => PageKind::Stream,
            _ => return Err(DecodeError::Range("page kind")),
        };
        let body = page[PAGE_HEADER..].get(..len as usize).ok_or(DecodeError::Range("page length"))?;
        Ok((Self { generation, page: number, kind, len }, body, crc))
    }
}

/// The hash that names a checkpoint: over its generation and the checksums of its pages.
pub fn root_hash(generation: u64, crcs: &[u32]) -> u128 {
    let mut hasher = SipHasher24::new_with_keys(0x5061_6c69_7361_6465, generation);
    for crc in crcs {
        hasher.write(&crc.to_le_bytes());
    }
    hasher.finish128().as_u128()
}

/// The stream ends.
pub(super) const END: u8 = 0;
/// A partition follows.
const PLAIN: u8 = 1;
/// Where its history begins, then a partition.
const ORIGIN: u8 = 2;
/// Its checkpoints on sleds, then one of the two above.
const KEPT: u8 = 3;

/// Appends a partition's description to the stream: what [`take_partition`] reads back.
pub(super) fn put_partition<'a>(
    w: &mut Writer,
    meta: &PartitionMeta,
    kept: &KeptCheckpoints,
    extents: impl Iterator<Item = (u32, &'a Extent)>,
) {
    if *kept != KeptCheckpoints::default() {
        w.u8(KEPT).u64(kept.op.0).u8(kept.found.len() as u8);
        kept.found.iter().for_each(|found| put_checkpoint(w, found));
    }
    if meta.origin == Origin::default() {
        w.u8(PLAIN);
    } else {
        w.u8(ORIGIN).u64(meta.origin.since.0).u8(u8::from(meta.origin.filling));
    }
    w.u64(meta.partition.0).u64(meta.blocks).u64(meta.committed.0).u8(u8::from(meta.damaged));
    w.u8(u8::from(meta.adopted.is_some()));
    if let Some(adopt) = &meta.adopted {
        w.u32(adopt.number.epoch).u64(adopt.number.counter).u64(adopt.grant.0).u64(adopt.tail.0);
        w.u8(adopt.members.len() as u8);
        for member in &adopt.members {
            w.u32(member.head.0).u128(member.log.0).u128(member.boot.0);
        }
    }
    let count_at = w.bytes.len();
    w.u32(0);
    let mut count = 0u32;
    for (slot, extent) in extents {
        count += 1;
        w.u32(slot).u32(extent.stripes);
        match extent.sealed {
            None => w.u8(0).u32(0),
            Some(stripes) => w.u8(1).u32(stripes),
        };
        put_extent(w, &extent.desc);
        for absent in &extent.absent[..extent.stripes as usize] {
            w.u16(*absent);
        }
    }
    w.bytes[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
}

/// A partition of the stream with its checkpoints on sleds, its extents and their slots.
pub(super) type PartitionPart = (PartitionMeta, KeptCheckpoints, Vec<(u32, Extent)>);

/// Reads what [`put_partition`] wrote; `None` at the end of the stream.
pub(super) fn take_partition(r: &mut Reader<'_>) -> Result<Option<PartitionPart>, DecodeError> {
    let mut tag = r.u8()?;
    let mut kept = KeptCheckpoints::default();
    if tag == KEPT {
        kept.op = Op(r.u64()?);
        let count = usize::from(r.u8()?);
        if count > CHECKPOINTS_KEPT {
            return Err(DecodeError::Range("checkpoints on sleds"));
        }
        for _ in 0..count {
            kept.found.push(take_checkpoint(r)?);
        }
        tag = r.u8()?;
    }
    let origin = match tag {
        END if kept.op == Op(0) => return Ok(None),
        PLAIN => Origin::default(),
        ORIGIN => Origin { since: Lsn(r.u64()?), filling: r.u8()? != 0 },
        _ => return Err(DecodeError::Range("partition of the stream")),
    };
    let (partition, blocks, committed) = (PartitionId(r.u64()?), r.u64()?, Op(r.u64()?));
    let damaged = r.u8()? != 0;
    let adopted = match r.u8()? {
        0 => None,
        1 => {
            let number = Number { epoch: r.u32()?, counter: r.u64()? };
            let (grant, tail, count) = (GrantId(r.u64()?), Op(r.u64()?), usize::from(r.u8()?));
            if count > MEMBERS_MAX {
                return Err(DecodeError::Range("members"));
            }
            let mut members = SmallVec::new();
            for _ in 0..count {
                members.push(Member {
                    head: NodeId(r.u32()?),
                    log: LogId(r.u128()?),
                    boot: BootId(r.u128()?),
                });
            }
            Some(Adopt { partition, number, grant, members, tail })
        }
        _ => return Err(DecodeError::Range("adopted")),
    };
    let count = r.u32()?;
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push(take_slot(r)?);
    }
    Ok(Some((PartitionMeta { partition, blocks, committed, adopted, damaged, origin }, kept, extents)))
}

fn take_slot(r: &mut Reader<'_>) -> Result<(u32, Extent), DecodeError> {
    let (slot, stripes) = (r.u32()?, r.u32()?);
    let (sealed, at) = (r.u8()?, r.u32()?);
    let desc = take_extent(r)?;
    if stripes > desc.geometry.stripes {
        return Err(DecodeError::Range("stripes"));
    }
    let mut absent = vec![0; desc.geometry.stripes as usize];
    for place in &mut absent[..stripes as usize] {
        *place = r.u16()?;
    }
    let sealed = (sealed == 1).then_some(at);
    Ok((slot, Extent { desc, stripes, sealed, absent, live: 0, released: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p32_room_is_the_most_that_fits() {
        for pages in [0, 11, 12, 13, 14, 16, 17, 18, 100, 1023, 1024, 8_000_000] {
            let blocks = blocks_for(pages);
            assert!(blocks == 0 || pages_for(blocks) <= pages, "{pages} pages, {blocks} blocks");
            assert!(pages_for(blocks + 1) > pages, "{pages} pages, {blocks} blocks");
        }
    }

    /// The bytes of a partition in the stream, and that every byte of them is needed.
    fn golden(meta: &PartitionMeta, kept: &KeptCheckpoints) -> String {
        let mut w = Writer::new();
        put_partition(&mut w, meta, kept, std::iter::empty());
        let mut r = Reader::new(&w.bytes);
        let (back, checkpoints, extents) = take_partition(&mut r).expect("decodes").expect("a partition");
        assert!(back == *meta && checkpoints == *kept && extents.is_empty() && r.rest().is_empty());
        for len in 0..w.bytes.len() {
            assert!(take_partition(&mut Reader::new(&w.bytes[..len])).is_err(), "{len} bytes");
        }
        w.bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_partitions_of_the_stream_with_and_without_an_origin_or_checkpoints_on_sleds() {
        let none = KeptCheckpoints::default();
        let (partition, blocks, committed) = (PartitionId(1), 2, Op(3));
        let mut meta = PartitionMeta {
            partition,
            blocks,
            committed,
            adopted: None,
            damaged: true,
            origin: Origin::default(),
        };
        let plain = "010000000000000002000000000000000300000000000000010000000000";
        assert_eq!(golden(&meta, &none), format!("01{plain}"));
        meta.origin = Origin { since: Lsn(0x0405), filling: true };
        assert_eq!(golden(&meta, &none), format!("02050400000000000001{plain}"));
        meta.origin.filling = false;
        assert_eq!(golden(&meta, &none), format!("02050400000000000000{plain}"));
        let kept = KeptCheckpoints { op: Op(6), ..none };
        assert_eq!(golden(&meta, &kept), format!("0306000000000000000002050400000000000000{plain}"));
        assert!(take_partition(&mut Reader::new(&[9])).is_err(), "no such tag");
    }
}
