//! A memory device with a volatile write cache: what was not flushed may be lost at a crash.
//!
//! `kill -9` cannot show a missing flush or FUA, because the host's memory survives it. This device can:
//! [`VolatileDriver::crash`] leaves what [`WriteCache`] says a power cut may leave.

use super::cache::{Survival, WriteCache};
use super::{
    BlockCompletion, BlockFault, BlockInfo, BlockOk, BlockPort, BlockRequest, BlockVerb, MemMedia, SECTOR,
    in_range, total,
};
use crate::clock::Nanos;

/// The driver of such a device.
#[derive(Debug)]
pub struct VolatileDriver {
    /// What reads see.
    front: MemMedia,
    cache: WriteCache,
    info: BlockInfo,
    /// Ids are our own: machines may use the key of a completed request again.
    done: Vec<(u64, BlockCompletion)>,
    next: u64,
    crashes: u64,
}

impl VolatileDriver {
    /// A driver over `media`, called `name` in messages.
    pub fn new(name: &str, media: MemMedia) -> Self {
        let info = BlockInfo {
            path: format!("volatile:{name}"),
            bytes: media.bytes(),
            block: SECTOR as u32,
            volatile_cache: true,
            durable: true,
            direct: true,
            note: "memory device with a simulated volatile write cache".to_owned(),
        };
        let cache = WriteCache::new(media.clone());
        Self { front: media, cache, info, done: Vec::new(), next: 0, crashes: 0 }
    }

    /// Loses power: what was in flight is forgotten, what was not durable survives as `survival` says.
    pub fn crash(&mut self, survival: Survival) {
        self.front = self.cache.crash(survival);
        self.cache = WriteCache::new(self.front.clone());
        self.done.clear();
        self.crashes += 1;
    }

    /// Times it lost power.
    pub fn crashes(&self) -> u64 {
        self.crashes
    }

    /// Bytes that a crash now might lose.
    pub fn uncertain(&self) -> usize {
        self.cache.uncertain()
    }

    /// What reads see, for a look.
    pub fn media(&self) -> &MemMedia {
        &self.front
    }

    /// The media as after an orderly end: everything reached them.
    pub fn into_media(self) -> MemMedia {
        self.front
    }

    /// Flips bits of what is stored: rot, for tests.
    pub fn flip(&mut self, offset: u64, mask: u8) {
        self.front.flip(offset, mask);
        // Rot touches the medium, not the order of writes: the sector counts as written and durable.
        let mut sector = vec![0; SECTOR];
        let at = offset / SECTOR as u64 * SECTOR as u64;
        self.front.read(at, &mut sector);
        let id = self.take_id();
        self.cache.write(id, at, sector, true);
        self.cache.completed(id);
    }

    fn take_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn carry_out(&mut self, id: u64, verb: BlockVerb) -> Result<BlockOk, BlockFault> {
        if !in_range(&verb, self.info.bytes, SECTOR as u64) {
            return Err(BlockFault::Range);
        }
        match verb {
            BlockVerb::Read { offset, mut buf } => {
                self.front.read(offset, &mut buf);
                return Ok(BlockOk::Read(buf));
            }
            BlockVerb::Write { offset, bufs, fua } => {
                let mut bytes = Vec::with_capacity(total(&bufs) as usize);
                bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
                self.front.write(offset, &bytes);
                self.cache.write(id, offset, bytes, fua);
            }
            BlockVerb::Flush => self.cache.flush(id),
        }
        Ok(BlockOk::Done)
    }
}

impl BlockPort for VolatileDriver {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn submit(&mut self, request: BlockRequest) {
        let id = self.take_id();
        let result = self.carry_out(id, request.verb);
        self.done.push((id, BlockCompletion { key: request.key, result }));
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let count = self.done.len();
        for (id, done) in self.done.drain(..) {
            self.cache.completed(id);
            out.push(done);
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn deadline(&self) -> Option<Nanos> {
        (!self.done.is_empty()).then_some(Nanos::ZERO)
    }
}
