//! What a device with a volatile write cache may hold after power is lost.
//!
//! Writes since the last point that is durable for sure are kept in order. A write counts as durable
//! when it was FUA and its completion was seen, or when it had completed before a flush was submitted
//! whose completion was seen; nothing else counts. A crash keeps, of the rest, any subset, sector by
//! sector, in order: a later write to a sector is never undone by an earlier one (P-09).

use super::{MemMedia, SECTOR};
use crate::entropy::{Entropy, SeededEntropy};

/// Which uncertain sectors survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// None of them.
    Nothing,
    /// All of them, as after `kill -9` of the process only.
    Everything,
    /// Per write, by this seed: lost, whole, a prefix of sectors, or scattered sectors.
    Seeded(u64),
}

/// A write that is not yet durable for sure, or stands behind one that is not.
#[derive(Clone, Debug)]
struct Pending {
    id: u64,
    offset: u64,
    bytes: Vec<u8>,
    fua: bool,
    completed: bool,
    durable: bool,
}

/// A flush that was submitted; it covers the writes listed.
#[derive(Clone, Debug)]
struct Flushing {
    id: u64,
    covers: Vec<u64>,
}

/// The durable image of a device and what lies above it.
#[derive(Clone, Debug)]
pub struct WriteCache {
    durable: MemMedia,
    pending: Vec<Pending>,
    flushing: Vec<Flushing>,
}

impl WriteCache {
    /// Starts from media whose whole contents are durable.
    pub fn new(durable: MemMedia) -> Self {
        Self { durable, pending: Vec::new(), flushing: Vec::new() }
    }

    /// A write was submitted under an id that no other open request has.
    pub fn write(&mut self, id: u64, offset: u64, bytes: Vec<u8>, fua: bool) {
        self.pending.push(Pending { id, offset, bytes, fua, completed: false, durable: false });
    }

    /// A flush was submitted.
    pub fn flush(&mut self, id: u64) {
        let covers = self.pending.iter().filter(|write| write.completed && !write.durable);
        self.flushing.push(Flushing { id, covers: covers.map(|write| write.id).collect() });
    }

    /// The completion of a request was seen.
    pub fn completed(&mut self, id: u64) {
        if let Some(write) = self.pending.iter_mut().find(|write| write.id == id && !write.completed) {
            write.completed = true;
            write.durable = write.fua;
        } else if let Some(at) = self.flushing.iter().position(|flush| flush.id == id) {
            let flush = self.flushing.swap_remove(at);
            // Both lists are in order of submission, and the covered ones stand near the front.
            for write in &mut self.pending {
                write.durable |= flush.covers.contains(&write.id);
            }
        }
        self.settle();
    }

    /// Bytes whose survival is uncertain.
    pub fn uncertain(&self) -> usize {
        self.pending.iter().filter(|write| !write.durable).map(|write| write.bytes.len()).sum()
    }

    /// The media after a loss of power.
    pub fn crash(&self, survival: Survival) -> MemMedia {
        let mut media = self.durable.clone();
        let mut entropy = match survival {
            Survival::Seeded(seed) => SeededEntropy::new(seed),
            Survival::Nothing | Survival::Everything => SeededEntropy::new(0),
        };
        for write in &self.pending {
            let kept = |_: usize| match survival {
                Survival::Nothing => write.durable,
                _ => true,
            };
            let sectors = write.bytes.len().div_ceil(SECTOR);
            match survival {
                Survival::Seeded(_) if !write.durable => {
                    let choose = tear(&mut entropy, sectors);
                    write.land(&mut media, |sector| choose[sector]);
                }
                _ => write.land(&mut media, kept),
            }
        }
        media
    }

    /// Moves the leading writes that are durable into the durable image.
    fn settle(&mut self) {
        let count = self.pending.iter().take_while(|write| write.durable).count();
        for write in self.pending.drain(..count) {
            self.durable.write(write.offset, &write.bytes);
        }
    }
}

impl Pending {
    fn land(&self, media: &mut MemMedia, keep: impl Fn(usize) -> bool) {
        for (index, sector) in self.bytes.chunks(SECTOR).enumerate() {
            if keep(index) {
                media.write(self.offset + (index * SECTOR) as u64, sector);
            }
        }
    }
}

/// Which sectors of one uncertain write land.
fn tear(entropy: &mut SeededEntropy, sectors: usize) -> Vec<bool> {
    match entropy.below(4) {
        0 => vec![false; sectors],
        1 => vec![true; sectors],
        2 => {
            let prefix = entropy.below(sectors as u64 + 1) as usize;
            (0..sectors).map(|sector| sector < prefix).collect()
        }
        _ => (0..sectors).map(|_| entropy.next_u64() & 1 == 1).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(media: &MemMedia, offset: u64) -> u8 {
        let mut byte = [0];
        media.read(offset, &mut byte);
        byte[0]
    }

    fn cache() -> WriteCache {
        WriteCache::new(MemMedia::new(1 << 20))
    }

    #[test]
    fn an_acknowledged_write_without_flush_or_fua_may_be_lost_p09() {
        let mut cache = cache();
        cache.write(1, 0, vec![1; 4096], false);
        cache.completed(1);
        assert_eq!(byte(&cache.crash(Survival::Nothing), 0), 0);
        assert_eq!(byte(&cache.crash(Survival::Everything), 0), 1);
        assert_eq!(cache.uncertain(), 4096);
    }

    #[test]
    fn fua_is_durable_only_once_its_completion_was_seen() {
        let mut cache = cache();
        cache.write(1, 0, vec![1; 512], true);
        assert_eq!(byte(&cache.crash(Survival::Nothing), 0), 0);
        cache.completed(1);
        assert_eq!(byte(&cache.crash(Survival::Nothing), 0), 1);
        assert_eq!(cache.uncertain(), 0);
    }

    #[test]
    fn a_flush_covers_what_had_completed_before_it_and_nothing_else() {
        let mut cache = cache();
        cache.write(1, 0, vec![1; 512], false);
        cache.write(2, 512, vec![2; 512], false);
        cache.completed(1);
        cache.flush(3);
        cache.completed(2);
        cache.write(4, 1024, vec![4; 512], false);
        cache.completed(4);
        assert_eq!(byte(&cache.crash(Survival::Nothing), 0), 0, "the flush has not ended");
        cache.completed(3);
        let media = cache.crash(Survival::Nothing);
        assert_eq!((byte(&media, 0), byte(&media, 512), byte(&media, 1024)), (1, 0, 0));
    }

    #[test]
    fn a_later_fua_write_is_never_undone_by_an_earlier_uncertain_one() {
        let mut cache = cache();
        cache.write(1, 0, vec![1; 512], false);
        cache.completed(1);
        cache.write(2, 0, vec![2; 512], true);
        cache.completed(2);
        for seed in 0..50 {
            assert_eq!(byte(&cache.crash(Survival::Seeded(seed)), 0), 2);
        }
    }

    #[test]
    fn seeds_reach_lost_whole_and_torn_writes_and_repeat_themselves() {
        let mut cache = cache();
        cache.write(1, 0, vec![9; 8192], false);
        cache.completed(1);
        let landed = |seed| {
            let media = cache.crash(Survival::Seeded(seed));
            (0..16).map(|sector| byte(&media, sector * 512) == 9).collect::<Vec<_>>()
        };
        let outcomes: Vec<_> = (0..200).map(landed).collect();
        let count = |some: &dyn Fn(usize) -> bool| {
            outcomes.iter().filter(|sectors| some(sectors.iter().filter(|s| **s).count())).count()
        };
        assert!(count(&|n| n == 0) > 20 && count(&|n| n == 16) > 20 && count(&|n| n > 0 && n < 16) > 50);
        assert_eq!(outcomes[7], landed(7));
    }
}
