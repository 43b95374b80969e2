//! A device in memory: one copy per transfer (writes go past the cache), completions at the next poll.
//!
//! Its media ([`MemMedia`]) can be taken out and put into a new driver, as a disk moves to another
//! host, and hold what a driver acknowledged. They are sparse: chunks that were never written read as
//! zeroes and take no memory, unless they are populated: the kernel clears a page when it is touched first,
//! which a device that is to be fast does not leave to its first writes. Durable for the life of the process only, which [`BlockInfo`] says (P-09).

use super::{
    BlockCompletion, BlockFault, BlockInfo, BlockOk, BlockPort, BlockRequest, BlockVerb, SECTOR, in_range,
};
use crate::clock::Nanos;
use palisade_dma::{Memory, copy_past_cache};

/// Bytes of a chunk that is allocated at its first write: a huge page.
const CHUNK: usize = 2 << 20;

/// Contents of a memory device.
pub struct MemMedia {
    bytes: u64,
    chunks: Vec<Option<Memory>>,
}

impl Clone for MemMedia {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.bytes);
        for (to, from) in copy.chunks.iter_mut().zip(&self.chunks) {
            if let Some(from) = from {
                to.get_or_insert_with(chunk).copy_from_slice(from);
            }
        }
        copy
    }
}

/// # Panics
/// When the host has no memory left, as any allocation would.
fn chunk() -> Memory {
    Memory::zeroed(CHUNK).expect("the host has memory for its memory devices")
}

impl MemMedia {
    /// Zeroed media of `bytes`, rounded up to whole sectors.
    pub fn new(bytes: u64) -> Self {
        let bytes = bytes.next_multiple_of(SECTOR as u64);
        let count = usize::try_from(bytes.div_ceil(CHUNK as u64)).expect("a memory device fits memory");
        Self { bytes, chunks: (0..count).map(|_| None).collect() }
    }

    /// Touches all memory, so that no later write has to wait for pages.
    pub fn populate(&mut self) {
        for chunk in self.chunks.iter_mut().map(|slot| slot.get_or_insert_with(chunk)) {
            for page in chunk.chunks_mut(4096) {
                // Written through a value that the compiler cannot see, or it would drop the write of a zero.
                page[0] = std::hint::black_box(page[0]);
            }
        }
    }

    /// Media with the contents of `image`.
    pub fn from_image(image: &[u8]) -> Self {
        let mut media = Self::new(image.len() as u64);
        media.write(0, image);
        media
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory that written chunks take.
    pub fn allocated(&self) -> u64 {
        self.chunks.iter().flatten().map(|chunk| chunk.len() as u64).sum()
    }

    /// Copies `bytes` in at `offset`.
    ///
    /// # Panics
    /// When the range does not lie in the media.
    pub fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.bytes, "write beyond the media");
        while !bytes.is_empty() {
            let (index, at) = ((offset / CHUNK as u64) as usize, (offset % CHUNK as u64) as usize);
            let len = bytes.len().min(CHUNK - at);
            let chunk = self.chunks[index].get_or_insert_with(chunk);
            copy_past_cache(&mut chunk[at..at + len], &bytes[..len]);
            bytes = &bytes[len..];
            offset += len as u64;
        }
    }

    /// Copies out from `offset`.
    ///
    /// # Panics
    /// When the range does not lie in the media.
    pub fn read(&self, mut offset: u64, mut bytes: &mut [u8]) {
        assert!(offset + bytes.len() as u64 <= self.bytes, "read beyond the media");
        while !bytes.is_empty() {
            let (index, at) = ((offset / CHUNK as u64) as usize, (offset % CHUNK as u64) as usize);
            let len = bytes.len().min(CHUNK - at);
            let (part, rest) = bytes.split_at_mut(len);
            match &self.chunks[index] {
                Some(chunk) => part.copy_from_slice(&chunk[at..at + len]),
                None => part.fill(0),
            }
            bytes = rest;
            offset += len as u64;
        }
    }

    /// Flips the bits of `mask` in the byte at `offset`: rot, for tests.
    pub fn flip(&mut self, offset: u64, mask: u8) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0] ^= mask;
        self.write(offset, &byte);
    }
}

impl std::fmt::Debug for MemMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemMedia({} bytes, {} allocated)", self.bytes, self.allocated())
    }
}

/// The driver of a memory device.
#[derive(Debug)]
pub struct MemDriver {
    media: MemMedia,
    info: BlockInfo,
    done: Vec<BlockCompletion>,
}

impl MemDriver {
    /// A driver over `media`, called `name` in messages.
    pub fn new(name: &str, media: MemMedia) -> Self {
        let info = BlockInfo {
            path: format!("mem:{name}"),
            bytes: media.bytes(),
            block: SECTOR as u32,
            volatile_cache: false,
            durable: false,
            direct: true,
            note: "memory device: contents last as long as this process".to_owned(),
        };
        Self { media, info, done: Vec::new() }
    }

    /// The contents, for a look.
    pub fn media(&self) -> &MemMedia {
        &self.media
    }

    /// The contents, for meddling in tests.
    pub fn media_mut(&mut self) -> &mut MemMedia {
        &mut self.media
    }

    /// Pulls the media out, as from a crashed host. Completions nobody polled are forgotten.
    pub fn into_media(self) -> MemMedia {
        self.media
    }

    fn carry_out(&mut self, verb: BlockVerb) -> Result<BlockOk, BlockFault> {
        if !in_range(&verb, self.info.bytes, SECTOR as u64) {
            return Err(BlockFault::Range);
        }
        match verb {
            BlockVerb::Read { offset, mut buf } => {
                self.media.read(offset, &mut buf);
                Ok(BlockOk::Read(buf))
            }
            BlockVerb::Write { mut offset, bufs, .. } => {
                for buf in &bufs {
                    self.media.write(offset, buf);
                    offset += buf.len() as u64;
                }
                Ok(BlockOk::Done)
            }
            BlockVerb::Flush => Ok(BlockOk::Done),
        }
    }
}

impl BlockPort for MemDriver {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn submit(&mut self, request: BlockRequest) {
        let result = self.carry_out(request.verb);
        self.done.push(BlockCompletion { key: request.key, result });
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let count = self.done.len();
        out.append(&mut self.done);
        count
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    /// Completions are there at once: a reactor that has some does not sleep.
    fn deadline(&self) -> Option<Nanos> {
        (!self.done.is_empty()).then_some(Nanos::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Pool, PoolConfig};
    use smallvec::smallvec;

    fn pool() -> Pool {
        Pool::new(PoolConfig::small()).expect("pool")
    }

    fn ask(driver: &mut MemDriver, verb: BlockVerb) -> Result<BlockOk, BlockFault> {
        driver.submit(BlockRequest { key: 9, verb });
        driver.kick();
        let mut out = Vec::new();
        assert_eq!((driver.in_flight(), driver.poll(Nanos::ZERO, &mut out)), (1, 1));
        let done = out.pop().expect("one completion");
        assert_eq!(done.key, 9);
        done.result
    }

    #[test]
    fn a_populated_device_holds_all_its_memory_and_reads_zeroes() {
        let mut media = MemMedia::new(5 << 20);
        assert_eq!(media.allocated(), 0);
        media.populate();
        assert_eq!(media.allocated(), 6 << 20, "whole chunks");
        let mut bytes = vec![1; 4096];
        media.read((5 << 20) - 4096, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(media.clone().allocated(), media.allocated());
    }

    #[test]
    fn what_was_written_reads_back_across_chunks_and_the_rest_is_zero() {
        let pool = pool();
        let mut driver = MemDriver::new("d0", MemMedia::new(8 << 20));
        let mut a = pool.alloc(8192).expect("slot");
        a.fill(7);
        let mut b = pool.alloc(4096).expect("slot");
        b.fill(8);
        let offset = (1 << 20) - 8192;
        let bufs = smallvec![a.freeze(), b.freeze()];
        assert!(ask(&mut driver, BlockVerb::Write { offset, bufs, fua: true }).is_ok());
        let buf = pool.alloc(16384).expect("slot");
        let Ok(BlockOk::Read(buf)) = ask(&mut driver, BlockVerb::Read { offset, buf }) else {
            panic!("read")
        };
        assert!(buf[..8192].iter().all(|&byte| byte == 7) && buf[8192..12288].iter().all(|&byte| byte == 8));
        assert!(buf[12288..].iter().all(|&byte| byte == 0));
        assert_eq!(driver.media().allocated(), 2 << 20);
        assert!(matches!(ask(&mut driver, BlockVerb::Flush), Ok(BlockOk::Done)));
    }

    #[test]
    fn ranges_outside_or_unaligned_are_refused() {
        let pool = pool();
        let mut driver = MemDriver::new("d0", MemMedia::new(8192));
        for (offset, len) in [(8192, 512), (4096, 8192), (100, 512), (0, 100), (u64::MAX - 511, 512), (0, 0)]
        {
            let buf = pool.alloc(len).expect("slot");
            assert!(matches!(ask(&mut driver, BlockVerb::Read { offset, buf }), Err(BlockFault::Range)));
        }
    }

    #[test]
    fn media_move_to_another_driver_and_can_rot() {
        let pool = pool();
        let mut driver = MemDriver::new("d0", MemMedia::new(1 << 20));
        let bufs = smallvec![{
            let mut buf = pool.alloc(512).expect("slot");
            buf.fill(0x55);
            buf.freeze()
        }];
        assert!(ask(&mut driver, BlockVerb::Write { offset: 512, bufs, fua: false }).is_ok());
        let mut media = driver.into_media();
        media.flip(512, 0x0f);
        let mut driver = MemDriver::new("d1", media);
        let buf = pool.alloc(512).expect("slot");
        let Ok(BlockOk::Read(buf)) = ask(&mut driver, BlockVerb::Read { offset: 512, buf }) else {
            panic!("read")
        };
        assert_eq!((buf[0], buf[1]), (0x5a, 0x55));
        assert_eq!(MemMedia::from_image(&[1, 2, 3]).bytes(), 512);
    }
}
