//! A namespace in memory, with or without a volatile write cache in front of it.

use std::collections::BTreeMap;

/// What a namespace holds.
#[derive(Clone, Debug)]
pub struct Media {
    block: usize,
    durable: Vec<u8>,
    /// Blocks that are lost with power.
    cached: BTreeMap<u64, Vec<u8>>,
}

impl Media {
    /// Zeroed blocks.
    pub fn new(blocks: u64, block: usize) -> Self {
        Self { block, durable: vec![0; blocks as usize * block], cached: BTreeMap::new() }
    }

    /// Reads a block.
    pub fn read(&self, lba: u64) -> &[u8] {
        match self.cached.get(&lba) {
            Some(block) => block,
            None => &self.durable[lba as usize * self.block..][..self.block],
        }
    }

    /// Writes a block: into the cache, or to the medium.
    pub fn write(&mut self, lba: u64, bytes: &[u8], cache: bool) {
        if cache {
            self.cached.insert(lba, bytes.to_vec());
        } else {
            self.cached.remove(&lba);
            self.durable[lba as usize * self.block..][..self.block].copy_from_slice(bytes);
        }
    }

    /// Makes everything durable.
    pub fn flush(&mut self) {
        for (lba, bytes) in std::mem::take(&mut self.cached) {
            self.write(lba, &bytes, false);
        }
    }

    /// Loses the cache, but for those blocks that `kept` says had reached the medium by themselves.
    pub fn lose_power(&mut self, mut kept: impl FnMut(u64) -> bool) {
        for (lba, bytes) in std::mem::take(&mut self.cached) {
            if kept(lba) {
                self.write(lba, &bytes, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_flushed_is_lost_with_power() {
        let mut media = Media::new(4, 512);
        media.write(0, &[1; 512], true);
        media.flush();
        media.write(0, &[2; 512], true);
        media.write(1, &[3; 512], true);
        media.write(2, &[4; 512], false);
        assert_eq!(media.read(0)[0], 2);
        media.lose_power(|lba| lba == 1);
        assert_eq!([0, 1, 2, 3].map(|lba| media.read(lba)[0]), [1, 3, 4, 0]);
    }
}
