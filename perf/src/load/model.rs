//! The model of a verified volume: per block, which generation was acknowledged (or seen by a reader) and
//! which was issued at last; and the self-describing contents that let every read be checked against it.
//!
//! A block holds (magic, place, seed, generation, CRC, filler). A read is right when it shows a generation
//! from what was acknowledged when the read *started* up to what was issued when it *ended*: never older
//! than an acknowledged write, never back in time once seen, never a mixture. Two writes to one block are
//! never in flight at once, so generations are issued in order; a write whose answer was lost stays open
//! (issued above acknowledged) and may have happened or not. A block that was never written by this model
//! may hold anything.
//!
//! The model is of one writer. Two generators on one region would refute each other.

use palisade_isal::{crc32c, crc32c_extend};

/// First bytes of each block: "PALIVRFY".
const MAGIC: u64 = u64::from_le_bytes(*b"PALIVRFY");
/// Bytes of the head of a block.
const HEAD: usize = 32;

/// Why a block's contents are wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The bytes do not match their own checksum.
    #[error("block {block}: contents do not match their checksum (torn or rotten)")]
    Checksum {
        /// Block of the region.
        block: u64,
    },
    /// Another block's bytes.
    #[error("block {block}: holds the bytes of block {found} (seed {seed:#x})")]
    Misplaced {
        /// Block of the region.
        block: u64,
        /// The block that the bytes name.
        found: u64,
        /// The seed that the bytes name.
        seed: u64,
    },
    /// Not a block of ours although one was acknowledged.
    #[error(
        "block {block}: generation {acknowledged} was acknowledged, the block holds something else (zeroes: {zeroes})"
    )]
    Lost {
        /// Block of the region.
        block: u64,
        /// The generation that should be there at least.
        acknowledged: u32,
        /// Whether the block reads as zeroes.
        zeroes: bool,
    },
    /// An older generation than acknowledged before the read started.
    #[error("block {block}: holds generation {found}, {acknowledged} was acknowledged or seen before")]
    Old {
        /// Block of the region.
        block: u64,
        /// The generation found.
        found: u32,
        /// The oldest one allowed.
        acknowledged: u32,
    },
    /// A generation that nobody issued.
    #[error("block {block}: holds generation {found}, only {issued} were ever issued")]
    Future {
        /// Block of the region.
        block: u64,
        /// The generation found.
        found: u32,
        /// The newest one allowed.
        issued: u32,
    },
}

/// The state of every block of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Bytes of a block.
    pub unit: u32,
    /// First byte of the region.
    pub offset: u64,
    /// Seed of the contents.
    pub seed: u64,
    /// Per block: the newest generation acknowledged to a writer or seen by a reader.
    pub acknowledged: Vec<u32>,
    /// Per block: the newest generation issued.
    pub issued: Vec<u32>,
    writing: Vec<bool>,
}

impl Model {
    /// A region of `blocks` untouched blocks.
    pub fn new(unit: u32, offset: u64, blocks: u64, seed: u64) -> Self {
        assert!(unit as usize >= 512, "a block holds its head and some filler");
        let zeroes = vec![0; blocks as usize];
        let writing = vec![false; blocks as usize];
        Self { unit, offset, seed, acknowledged: zeroes.clone(), issued: zeroes, writing }
    }

    /// The model with given generations, nothing in flight.
    pub fn restored(unit: u32, offset: u64, seed: u64, acknowledged: Vec<u32>, issued: Vec<u32>) -> Self {
        let writing = vec![false; acknowledged.len()];
        Self { unit, offset, seed, acknowledged, issued, writing }
    }

    /// Blocks of the region.
    pub fn blocks(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Blocks that were ever acknowledged or issued.
    pub fn touched(&self) -> u64 {
        self.issued.iter().filter(|&&g| g > 0).count() as u64
    }

    fn range(&self, offset: u64, len: u32) -> std::ops::Range<usize> {
        let first = ((offset - self.offset) / u64::from(self.unit)) as usize;
        first..first + (len / self.unit) as usize
    }

    /// Starts a write: fills `bytes` with the next generations. `false` when a block of the range is being
    /// written already; then nothing changed.
    pub fn start_write(&mut self, offset: u64, bytes: &mut [u8]) -> bool {
        let range = self.range(offset, bytes.len() as u32);
        if self.writing[range.clone()].contains(&true) {
            return false;
        }
        for (block, bytes) in range.zip(bytes.chunks_exact_mut(self.unit as usize)) {
            self.writing[block] = true;
            self.issued[block] += 1;
            fill(bytes, block as u64, self.seed, self.issued[block]);
        }
        true
    }

    /// Ends a write; `good` when the target acknowledged it.
    pub fn end_write(&mut self, offset: u64, len: u32, good: bool) {
        for block in self.range(offset, len) {
            self.writing[block] = false;
            if good {
                self.acknowledged[block] = self.issued[block];
            }
        }
    }

    /// Starts a read: remembers in `floor` what it must show at least.
    pub fn start_read(&self, offset: u64, len: u32, floor: &mut Vec<u32>) {
        floor.clear();
        floor.extend_from_slice(&self.acknowledged[self.range(offset, len)]);
    }

    /// Ends a read: checks what it showed. Returns how many blocks were compared.
    pub fn end_read(&mut self, offset: u64, bytes: &[u8], floor: &[u32]) -> Result<u64, Wrong> {
        let mut compared = 0;
        let range = self.range(offset, bytes.len() as u32);
        for ((block, bytes), &floor) in range.zip(bytes.chunks_exact(self.unit as usize)).zip(floor) {
            if let Some(generation) = self.look(block, bytes, floor)? {
                compared += 1;
                // Seen is as good as acknowledged: a later read must not go back behind it.
                self.acknowledged[block] = self.acknowledged[block].max(generation);
            }
        }
        Ok(compared)
    }

    /// The generation that a block shows; `None` when it holds something from before the model.
    fn look(&self, block: usize, bytes: &[u8], floor: u32) -> Result<Option<u32>, Wrong> {
        let issued = self.issued[block];
        let block = block as u64;
        if word(bytes, 0) != MAGIC {
            if floor == 0 {
                return Ok(None);
            }
            let zeroes = bytes.iter().all(|&b| b == 0);
            return Err(Wrong::Lost { block, acknowledged: floor, zeroes });
        }
        let (found, seed, tail) = (word(bytes, 8), word(bytes, 16), word(bytes, 24));
        let ours = seed == self.seed;
        if !ours && floor == 0 {
            return Ok(None); // an earlier run's block, perhaps of another size
        }
        if crc(bytes) != (tail >> 32) as u32 {
            return Err(Wrong::Checksum { block });
        }
        if found != block || !ours {
            return Err(Wrong::Misplaced { block, found, seed });
        }
        let found = tail as u32;
        if found < floor {
            return Err(Wrong::Old { block, found, acknowledged: floor });
        }
        if found > issued {
            return Err(Wrong::Future { block, found, issued });
        }
        Ok(Some(found))
    }

    /// Forgets what is in flight (a lost connection): those writes may have happened or not.
    pub fn abandon(&mut self) {
        self.writing.fill(false);
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Checksum over everything but its own place.
fn crc(bytes: &[u8]) -> u32 {
    crc32c_extend(crc32c(&bytes[..HEAD - 4]), &bytes[HEAD..])
}

/// Writes the contents of a generation of a block.
fn fill(bytes: &mut [u8], block: u64, seed: u64, generation: u32) {
    bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&block.to_le_bytes());
    bytes[16..24].copy_from_slice(&seed.to_le_bytes());
    bytes[24..28].copy_from_slice(&generation.to_le_bytes());
    let mut x = seed ^ block.rotate_left(32) ^ u64::from(generation);
    for word in bytes[HEAD..].chunks_exact_mut(8) {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(x ^ (x >> 29)).to_le_bytes());
    }
    let sum = crc(bytes);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 4096;

    fn written(model: &mut Model, offset: u64, good: bool) -> Vec<u8> {
        let mut bytes = vec![0; UNIT];
        assert!(model.start_write(offset, &mut bytes));
        model.end_write(offset, UNIT as u32, good);
        bytes
    }

    fn read(model: &mut Model, offset: u64, bytes: &[u8]) -> Result<u64, Wrong> {
        let mut floor = Vec::new();
        model.start_read(offset, bytes.len() as u32, &mut floor);
        model.end_read(offset, bytes, &floor)
    }

    #[test]
    fn an_acknowledged_block_must_come_back_and_an_older_one_must_not() {
        let mut model = Model::new(4096, 8192, 4, 1);
        let first = written(&mut model, 8192, true);
        assert_eq!(read(&mut model, 8192, &first), Ok(1));
        let second = written(&mut model, 8192, true);
        assert_eq!(read(&mut model, 8192, &second), Ok(1));
        assert_eq!(read(&mut model, 8192, &first), Err(Wrong::Old { block: 0, found: 1, acknowledged: 2 }));
        let zeroes = vec![0; UNIT];
        assert_eq!(
            read(&mut model, 8192, &zeroes),
            Err(Wrong::Lost { block: 0, acknowledged: 2, zeroes: true })
        );
    }

    #[test]
    fn an_unanswered_write_may_be_there_or_not_until_it_was_seen() {
        let mut model = Model::new(4096, 0, 4, 1);
        let first = written(&mut model, 0, true);
        let open = written(&mut model, 0, false);
        assert_eq!(read(&mut model, 0, &first), Ok(1));
        assert_eq!(read(&mut model, 0, &open), Ok(1));
        assert_eq!(read(&mut model, 0, &first), Err(Wrong::Old { block: 0, found: 1, acknowledged: 2 }));
    }

    #[test]
    fn torn_misplaced_and_invented_blocks_are_found() {
        let mut model = Model::new(4096, 0, 4, 1);
        let old = written(&mut model, 0, true);
        let mut torn = written(&mut model, 0, true);
        torn[2048..].copy_from_slice(&old[2048..]);
        assert_eq!(read(&mut model, 0, &torn), Err(Wrong::Checksum { block: 0 }));
        let other = written(&mut model, 4096, true);
        assert_eq!(read(&mut model, 0, &other), Err(Wrong::Misplaced { block: 0, found: 1, seed: 1 }));
        let mut invented = vec![0; UNIT];
        fill(&mut invented, 0, 1, 99);
        assert_eq!(read(&mut model, 0, &invented), Err(Wrong::Future { block: 0, found: 99, issued: 2 }));
    }

    #[test]
    fn blocks_of_an_earlier_run_are_nobodys_promise_until_they_are_overwritten() {
        let mut earlier = Model::new(4096, 0, 4, 1);
        let old = written(&mut earlier, 0, true);
        let mut model = Model::new(512, 0, 32, 2);
        assert_eq!(read(&mut model, 0, &old), Ok(0), "of another size and seed");
        let mut new = vec![0; UNIT];
        assert!(model.start_write(0, &mut new));
        model.end_write(0, UNIT as u32, true);
        assert_eq!(read(&mut model, 0, &new), Ok(8));
        assert!(read(&mut model, 0, &old).is_err());
    }

    #[test]
    fn two_writes_to_one_block_are_never_in_flight_at_once() {
        let mut model = Model::new(512, 0, 16, 1);
        assert!(model.start_write(0, &mut [0; 4096]));
        assert!(!model.start_write(3584, &mut [0; 1024]), "the range touches a busy block");
        assert!(model.start_write(4096, &mut [0; 512]));
        model.abandon();
        assert!(model.start_write(3584, &mut [0; 1024]));
    }
}
