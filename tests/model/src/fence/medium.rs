//! The device under the sled: pages that are durable, pages that only its cache holds.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Size of everything that is written here.
pub(super) const PAGE: usize = 4096;

/// A page with its hash, so that states are told apart cheaply.
#[derive(Clone, Debug)]
pub(super) struct Page {
    bytes: Rc<Vec<u8>>,
    hash: u32,
}

impl Page {
    /// A page of these bytes.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let hash = palisade_isal::crc32c(&bytes);
        Self { bytes: Rc::new(bytes), hash }
    }
}

impl Hash for Page {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// A device; pages never written are zeroes.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Medium {
    durable: BTreeMap<u64, Page>,
    cache: Vec<(u64, Page)>,
}

impl Medium {
    /// Writes a page, durably or into the cache.
    pub(super) fn write(&mut self, at: u64, page: Page, fua: bool) {
        if fua {
            self.durable.insert(at, page);
        } else {
            self.cache.push((at, page));
        }
    }

    /// Fills `into` with what a read returns: the cache before the medium.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        for (place, chunk) in into.chunks_mut(PAGE).enumerate() {
            let at = at + (place * PAGE) as u64;
            let cached = self.cache.iter().rev().find(|(other, _)| *other == at).map(|(_, page)| page);
            match cached.or_else(|| self.durable.get(&at)) {
                Some(page) => chunk.copy_from_slice(&page.bytes[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
    }

    /// What a page holds durably.
    pub(super) fn durable(&self, at: u64) -> Option<&[u8]> {
        self.durable.get(&at).map(|page| page.bytes.as_slice())
    }

    /// Power is lost: what only the cache holds is gone.
    pub(super) fn lose_cache(&mut self) {
        self.cache.clear();
    }

    /// A page rots, or a write of it is torn: its checksum no longer fits.
    pub(super) fn spoil(&mut self, at: u64) {
        let mut bytes = self.durable(at).map_or_else(|| vec![0; PAGE], <[u8]>::to_vec);
        bytes[100] ^= 0xff;
        self.durable.insert(at, Page::new(bytes));
    }
}
