//! Loading a checkpoint: every page verified, rotten ones taken from the second copy (P-29).

use super::format::Superblock;
use super::index::Index;
use super::page::{PageHeader, PageKind, root_hash, take_partition};
use super::types::{LogError, PartitionMeta};
use crate::wire::PartitionId;
use crate::wire::codec::Reader;
use palisade_dma::Buf;
use std::collections::BTreeMap;

/// Gathers the pages of a checkpoint.
#[derive(Debug)]
pub(super) struct Loader {
    generation: u64,
    pages: u32,
    hash: u128,
    crcs: Vec<u32>,
    indexes: BTreeMap<PartitionId, Index>,
    stream: Vec<u8>,
    /// Pages whose first copy is rotten and whose second is not asked for yet.
    pub(super) rotten: Vec<u32>,
    /// Good pages to be written over rotten copies: device offset and bytes.
    pub(super) repairs: Vec<(u64, Buf)>,
    /// Leaves that came before their turn wait here only by number: order does not matter for them, but
    /// stream pages are kept apart.
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Loader {
    pub(super) fn new(superblock: &Superblock) -> Self {
        let root = superblock.root;
        Self {
            generation: root.generation,
            pages: root.pages,
            hash: root.hash,
            crcs: vec![0; root.pages as usize],
            indexes: BTreeMap::new(),
            stream: Vec::new(),
            rotten: Vec::new(),
            repairs: Vec::new(),
            pieces: BTreeMap::new(),
        }
    }

    /// Takes page `page`; false if the bytes are not that page.
    pub(super) fn page(&mut self, page: u32, bytes: &[u8]) -> bool {
        let Ok((header, body, crc)) = PageHeader::read(bytes) else { return false };
        if header.generation != self.generation || header.page != page {
            return false;
        }
        match header.kind {
            PageKind::Leaf { partition, leaf } => {
                let index = self.indexes.entry(partition).or_default();
                if !index.restore_leaf(leaf as usize, body) {
                    return false;
                }
            }
            PageKind::Stream => {
                self.pieces.insert(page, body.to_vec());
            }
        }
        self.crcs[page as usize] = crc;
        true
    }

    pub(super) fn error(&self, page: u32) -> LogError {
        LogError::Checkpoint { generation: self.generation, page }
    }

    /// All pages were taken: the partitions, if they are what the superblock named.
    pub(super) fn finish(mut self) -> Result<Vec<(PartitionMeta, Index)>, LogError> {
        let whole = self.error(self.pages);
        if root_hash(self.generation, &self.crcs) != self.hash {
            return Err(whole);
        }
        for piece in self.pieces.values() {
            self.stream.extend_from_slice(piece);
        }
        let mut found = Vec::new();
        let mut r = Reader::new(&self.stream);
        while let Some((meta, kept, extents)) = take_partition(&mut r).map_err(|_| whole.clone())? {
            let mut index = self.indexes.remove(&meta.partition).unwrap_or_default();
            index.set_blocks(meta.blocks);
            index.kept = kept;
            for (slot, extent) in extents {
                if !index.extents.restore(slot, extent) {
                    return Err(whole);
                }
            }
            index.extents.restored();
            if !index.recount() {
                return Err(whole);
            }
            found.push((meta, index));
        }
        Ok(found)
    }
}
