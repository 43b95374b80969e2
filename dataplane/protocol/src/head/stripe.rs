//! From gathered blocks to encoded stripes: a few stripes a turn, so that no client waits for more than those
//! (EF-09, P-23).
//!
//! A stripe's blocks are read and checked against the index, laid out in its data units, encoded; its units'
//! checksums go along to the sleds. What to gather is `flush` and `collect`, what becomes of it `batch`.

use super::batch::{Batch, State};
use super::core::Core;
use super::read::{Read, ReadOwner};
use super::slab::Id;
use super::stats::Stage;
use crate::log::{AHEAD, Loc};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut};
use palisade_isal::{Codec, Joiner, crc32c};
use smallvec::SmallVec;
use std::ops::Range;
use std::time::Duration;

/// An extent that could not be read is left alone by the collector for so long: its sleds may come back.
pub(super) const LOST_PAUSE: Duration = Duration::from_secs(30);
/// A log block that neither log can give is tried so often, with this pause, before it counts as lost.
const TRIES: u8 = 6;
const TRY_PAUSE: Duration = Duration::from_secs(5);

/// Stripes of the collector's batches whose reading begins in one turn. They come from sleds, and where columns are
/// files a turn takes a millisecond: with one stripe each the devices would be idle most of the time.
const STRIPES_A_TURN: usize = 8;

/// Puts the checksums of blocks together.
static BLOCKS: Joiner = Joiner::of_power(BLOCK.ilog2());
/// Checksum of a block of zeroes.
const ZEROES: u32 = 0x98f9_4189;

impl Core {
    /// Goes on with the partition's first batches that can: one of a flush, whose blocks are often in memory and then
    /// laid out and encoded at once, and some of the collector.
    pub(super) fn step_batches(&mut self, now: Time, p: usize, out: &mut Out) {
        let (mut flushes, mut collects) = (1, STRIPES_A_TURN);
        let mut at = 0;
        while let Some(&id) = self.parts[p].batches.get(at) {
            at += 1;
            let Some(batch) = self.batches.get(id) else { continue };
            let left = if batch.collect { &mut collects } else { &mut flushes };
            if *left > 0 && batch.state == State::Reading && !batch.asked {
                *left -= 1;
                self.read_stripe(now, p, id, out);
            }
        }
    }

    /// Reads the blocks of a batch's next stripe. Those that moved since they were gathered are left out: their
    /// place may be somebody else's by now.
    fn read_stripe(&mut self, now: Time, p: usize, id: Id, out: &mut Out) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        batch.asked = true;
        let index = &self.parts[p].index;
        let mut blocks = std::mem::take(&mut self.gathered);
        blocks.clear();
        let range = batch.stripe_items();
        for at in range.clone() {
            if let Some(soon) = batch.gathered.items[..range.end].get(at + AHEAD) {
                index.bring_near(soon.lba);
            }
            let item = &mut batch.gathered.items[at];
            item.good = index.get(item.lba) == item.mapping;
            if item.good {
                blocks.push((item.lba, item.mapping));
            }
        }
        self.read_blocks(now, p, ReadOwner::Batch(id), &blocks, out);
        self.gathered = blocks;
    }

    /// The bytes of a stripe are there: lay them out and encode; after the last one, write.
    pub(super) fn batch_read(&mut self, now: Time, id: Id, read: &Read, out: &mut Out) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        let p = batch.part;
        let unread = batch.lay_out(read);
        self.note_readable(now, p, id, &unread, out);
        if self.encode(p, id).is_none() {
            return self.fail_extent(now, p, out);
        }
        let Some(batch) = self.batches.get_mut(id) else { return };
        batch.asked = false;
        if batch.encoded == batch.stripes {
            batch.state = State::Writing;
            let units: Vec<Buf> = std::mem::take(&mut batch.room).into_iter().map(BufMut::freeze).collect();
            self.write_columns(now, id, &units, out);
        }
        // The next stripe is the next turn's.
        self.busy = true;
    }

    /// Remembers which blocks of a stripe could not be read, and that others could.
    fn note_readable(&mut self, now: Time, p: usize, id: Id, unread: &[usize], out: &mut Out) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        let part = &mut self.parts[p];
        if !part.unreadable.is_empty() {
            for item in batch.gathered.items[batch.stripe_items()].iter().filter(|item| item.good) {
                if let (GatheredFrom::Log, Loc::Log(addr)) = (item.from, item.mapping.loc) {
                    part.unreadable.remove(&addr.0);
                }
            }
        }
        for &at in unread {
            let item = &mut batch.gathered.items[at];
            match (item.from, item.mapping.loc) {
                // Released meanwhile, what was unreadable was not needed.
                (GatheredFrom::Extent { id, .. }, _) if part.index.slot_of(id).is_some() => {
                    part.lost.insert(id, now + LOST_PAUSE);
                }
                (GatheredFrom::Log, Loc::Log(addr)) => {
                    // A peer that is away may hold the good copy: that try does not count.
                    let there = u8::from(!part.peer_away());
                    let (tries, again) = part.unreadable.entry(addr.0).or_insert((0, now));
                    (*tries, *again) = (tries.saturating_add(there), now + TRY_PAUSE);
                    item.lost = *tries >= TRIES;
                    if item.lost {
                        part.unreadable.remove(&addr.0);
                        let (id, lba) = (part.cfg.partition, item.lba);
                        let what =
                            format!("partition {id} block {lba}: no copy of it is readable, it is lost");
                        out.events.push(Event::Corrupt { place: "log", what });
                    }
                }
                _ => {}
            }
        }
    }

    /// Encodes the stripe that was laid out last, and takes the checksums of its units.
    fn encode(&mut self, p: usize, id: Id) -> Option<()> {
        let begin = self.cfg.stopwatch.map(|stopwatch| stopwatch());
        let batch = self.batches.get_mut(id)?;
        let geometry = batch.desc.geometry;
        let (units, mut room) = (batch.units(), std::mem::take(&mut batch.room));
        let bytes: usize = room[units.clone()].iter().map(|buf| buf.len()).sum();
        fill_parity(self.codec(&geometry)?, &mut room[units])?;
        let batch = self.batches.get_mut(id)?;
        batch.room = room;
        batch.take_crcs();
        batch.encoded += 1;
        let stats = &mut self.parts[p].stats;
        stats.counters.column_bytes += bytes as u64;
        if let (Some(begin), Some(stopwatch)) = (begin, self.cfg.stopwatch) {
            stats.record(Stage::Encode, stopwatch().since(begin));
        }
        Some(())
    }
}

/// Encodes the units of one stripe, data first.
fn fill_parity(codec: &Codec, stripe: &mut [BufMut]) -> Option<()> {
    let (data, parity) = stripe.split_at_mut(codec.k());
    let data: SmallVec<[&[u8]; 16]> = data.iter().map(|buf| &**buf).collect();
    let mut parity: SmallVec<[&mut [u8]; 16]> = parity.iter_mut().map(|buf| &mut **buf).collect();
    codec.encode(&data, &mut parity).ok()
}

impl Batch {
    /// Items of the stripe in hand.
    fn stripe_items(&self) -> Range<usize> {
        self.gathered.stripe(self.encoded)
    }

    /// Its unit buffers.
    fn units(&self) -> Range<usize> {
        let columns = self.desc.geometry.columns();
        let first = self.encoded as usize * columns;
        first..first + columns
    }

    /// Copies what was read into the unit buffers of the stripe in hand; what is not filled is zero. Says which
    /// items could not be read.
    fn lay_out(&mut self, read: &Read) -> SmallVec<[usize; 8]> {
        let geometry = self.desc.geometry;
        let (items, units) = (self.stripe_items(), self.units());
        let mut unread = SmallVec::new();
        let mut found = read.bufs.iter().flat_map(|(blocks, bytes)| {
            let block = move |at| bytes.as_ref().map(|bytes| &bytes[at * BLOCK..(at + 1) * BLOCK]);
            (0..*blocks as usize).map(block)
        });
        for block in 0..geometry.stripe_blocks() as usize {
            let (_, column, inside) = geometry.locate(block as u32);
            let from = inside as usize * BLOCK;
            let place = &mut self.room[units.start + column][from..from + BLOCK];
            let at = items.start + block;
            match self.gathered.items[..items.end].get_mut(at).filter(|item| item.good) {
                None => place.fill(0),
                Some(item) => match found.next().flatten() {
                    Some(bytes) => place.copy_from_slice(bytes),
                    None => {
                        item.good = false;
                        unread.push(at);
                        place.fill(0);
                    }
                },
            }
        }
        unread
    }

    fn take_crcs(&mut self) {
        let units = self.units();
        for column in 0..units.len() {
            let crc = self.unit_crc(column, &self.room[units.start + column]);
            self.crcs.push(crc);
        }
    }

    /// Checksum of a unit of the stripe in hand. That of a data unit follows from those of its blocks, against
    /// which they were checked when they were read: a unit that was laid out wrongly does not match it, and a
    /// sled elsewhere refuses it. Parity is new.
    fn unit_crc(&self, column: usize, unit: &[u8]) -> u32 {
        let geometry = &self.desc.geometry;
        if column >= usize::from(geometry.k) {
            return crc32c(unit);
        }
        let blocks = usize::from(geometry.unit_blocks);
        let items = &self.gathered.items[self.stripe_items()];
        (column * blocks..(column + 1) * blocks).fold(0, |crc, block| {
            let item = items.get(block).filter(|item| item.good);
            BLOCKS.join(crc, item.map_or(ZEROES, |item| item.mapping.crc))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_zeroes_is_theirs() {
        assert_eq!(crc32c(&[0; BLOCK]), ZEROES);
    }
}
