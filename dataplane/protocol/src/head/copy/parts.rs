//! What a copy is made of: parts of the index, and the bytes of what lies in the own log only.

use super::super::core::Core;
use super::super::page::GRANULE;
use super::super::part::Part;
use super::super::read::ReadOwner;
use crate::log::{Loc, Mapping};
use crate::wire::copy::{PART_BLOCKS, PART_EXTENTS};
use crate::wire::limits::IO_BLOCKS_MAX;
use crate::wire::*;
use palisade_dma::Buf;
use std::time::Duration;

/// Parts under way at once.
const PARTS_OPEN: usize = 4;
/// Pause after a part while clients are at work.
const SHARE: Duration = Duration::from_micros(500);
/// Before bytes that could not be read are read again, how often together with others, and how often alone.
const REREAD: Duration = Duration::from_millis(20);
const REREADS: u32 = 2;
const REREADS_ALONE: u32 = 10;
/// Bytes of the descriptions of extents in one part, about.
const EXTENT_BYTES: usize = 256 << 10;

/// What the next part speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Extents behind this one.
    Extents(ExtentId),
    /// Blocks from this one on.
    Blocks(Lba),
    /// Nothing: all parts were made.
    Done,
}

/// A part whose bytes are being read.
#[derive(Debug)]
pub(super) struct Taking {
    part: CopyPart,
    next: Next,
    /// Blocks in the log or in extents that it stands for, and those whose bytes go along.
    mapped: u64,
    pub(super) sent: u64,
}

impl Core {
    /// Makes parts as far as the window and the clients' share allow.
    pub(super) fn make_parts(&mut self, now: Time, p: usize, out: &mut Out) {
        while let Some(learner) = &self.parts[p].copy.learner {
            let busy = learner.taking.is_some() || learner.unacked.len() >= PARTS_OPEN;
            if !learner.begun || busy || learner.next == Next::Done {
                return;
            }
            let (at, answered) = (learner.part_at, self.parts[p].stats.counters.answered());
            if now < at {
                return self.arm(at);
            }
            let pause = if answered == learner.done_then { Duration::ZERO } else { SHARE };
            if let Some(learner) = &mut self.parts[p].copy.learner {
                (learner.part_at, learner.done_then) = (now + pause, answered);
            }
            if !self.ready_for_part(now, p, out) {
                return;
            }
            match self.next_part(p) {
                None => return self.wait_for_room(now, p),
                Some((taking, wants)) if wants.is_empty() => self.send_part(now, p, taking, None, out),
                Some((taking, wants)) => {
                    let Some(learner) = &mut self.parts[p].copy.learner else { return };
                    learner.taking = Some(taking);
                    let owner = ReadOwner::Part(p, learner.session);
                    self.read_blocks(now, p, owner, &wants, out);
                }
            }
        }
    }

    /// Whether what the learner has from checkpoints is known as far as the next part needs it. Extents come first,
    /// and are sent whole: there are few.
    fn ready_for_part(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let part = &mut self.parts[p];
        let Some(learner) = &mut part.copy.learner else { return false };
        if let Next::Extents(after) = learner.next {
            if part.index.extents_after(after).next().is_some() {
                return true;
            }
            learner.next = Next::Blocks(Lba(0));
        }
        let Next::Blocks(from) = learner.next else { return true };
        match part.index.next_range(from) {
            Some((first, _)) => self.knows_basis(now, p, first, out),
            None => true,
        }
    }

    /// What the index holds next, and which blocks have to be read for it; `None` while its first block lies in the
    /// log, and the learner's log has no room for the bytes.
    fn next_part(&self, p: usize) -> Option<(Taking, Vec<(Lba, Mapping)>)> {
        let part = &self.parts[p];
        let next = part.copy.learner.as_ref().map_or(Next::Done, |learner| learner.next);
        let mut made = CopyPart { at: part.committed, ..CopyPart::default() };
        let mut from = Lba(0);
        match next {
            Next::Extents(after) => {
                if let Some(last) = copy_extents(part, after, &mut made) {
                    let next = Next::Extents(last);
                    return Some((Taking { part: made, next, mapped: 0, sent: 0 }, Vec::new()));
                }
            }
            Next::Blocks(lba) => from = lba,
            Next::Done => {}
        }
        let Some((first, count)) = part.index.next_range(from) else {
            made.last = true;
            made.kept = part.index.kept().clone();
            return Some((Taking { part: made, next: Next::Done, mapped: 0, sent: 0 }, Vec::new()));
        };
        let mut mapped = 0;
        let trusted = self.cfg.faults.basis_trusted();
        let wants = copy_blocks(part, (first, count), trusted, &mut made, &mut mapped);
        let next = Next::Blocks(Lba(first.0 + u64::from(made.count)));
        let sent = wants.len() as u64;
        (made.count > 0).then_some((Taking { part: made, next, mapped, sent }, wants))
    }

    /// The bytes of a part were read, or cannot be. Blocks that nobody can read are told as lost: the volume has
    /// them no more.
    pub(in crate::head) fn part_read(
        &mut self,
        now: Time,
        p: usize,
        session: u64,
        result: Result<Buf, ClientError>,
        out: &mut Out,
    ) {
        self.busy = true;
        let part = &mut self.parts[p];
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.session == session) else {
            return;
        };
        let Some(mut taking) = learner.taking.take() else { return };
        match result {
            Ok(data) => {
                learner.rereads = 0;
                return self.send_part(now, p, taking, Some(data), out);
            }
            // No buffer, and no fault of the bytes.
            Err(ClientError::Device) => {}
            Err(_) => learner.rereads += 1,
        }
        if learner.rereads > REREADS_ALONE {
            learner.rereads = 0;
            let mut lost = taking.part.blocks.iter_mut().filter(|block| block.place == Place::Sent);
            if let Some(block) = lost.next() {
                block.place = Place::Lost;
                let lba = taking.part.lba + u64::from(block.at);
                out.events.push(Event::Note(format!(
                    "partition {}: block {lba} cannot be read, and is copied as lost",
                    part.cfg.partition
                )));
            }
            return self.send_part(now, p, taking, None, out);
        }
        // It may have moved meanwhile, or is being mended: it is looked up again.
        learner.part_at = now + REREAD;
        self.arm(now + REREAD);
    }

    fn send_part(&mut self, now: Time, p: usize, taking: Taking, data: Option<Buf>, out: &mut Out) {
        let part = &mut self.parts[p];
        let stamp = part.stamp;
        let Some(learner) = &mut part.copy.learner else { return };
        let Taking { part: made, next, mapped, .. } = taking;
        learner.next = next;
        learner.room.waits = false;
        if learner.unacked.is_empty() {
            learner.moved(now);
        }
        let (session, seq) = (learner.session, learner.made);
        learner.made += 1;
        let spared: u64 = made.same.iter().map(|(_, count)| u64::from(*count)).sum();
        part.stats.counters.copied_blocks += made.blocks.len() as u64;
        part.stats.counters.spared_blocks += spared;
        part.stats.counters.copied_bytes += data.as_ref().map_or(0, |data| data.len() as u64);
        let msg = Msg::CopyPart { stamp, session, seq, part: made, data };
        out.net.push((learner.member.head, msg.clone()));
        learner.unacked.push_back((seq, msg, mapped));
        let at = learner.asked(now);
        self.arm(at);
    }
}

/// Extents behind `after`; says the last one, if there is any.
fn copy_extents(part: &Part, after: ExtentId, made: &mut CopyPart) -> Option<ExtentId> {
    let mut bytes = 0;
    for extent in part.index.extents_after(after).take(PART_EXTENTS) {
        let absent = extent.absent[..extent.stripes as usize].to_vec();
        bytes += 64 * (1 + extent.desc.columns.len()) + 2 * absent.len();
        made.extents.push(CopiedExtent { desc: extent.desc.clone(), sealed: extent.sealed, absent });
        if bytes > EXTENT_BYTES {
            break;
        }
    }
    made.extents.last().map(|last| last.desc.id)
}

/// Up to `count` blocks from `first`, and those of them whose bytes must be read. One whose bytes could not be
/// read goes alone. Of a granule that the learner has, only what lies in the log is named.
fn copy_blocks(
    part: &Part,
    (first, count): (Lba, u32),
    trusted: bool,
    made: &mut CopyPart,
    mapped: &mut u64,
) -> Vec<(Lba, Mapping)> {
    let Some(learner) = &part.copy.learner else { return Vec::new() };
    let most = if learner.rereads > REREADS { 1 } else { IO_BLOCKS_MAX };
    let most = most.min(part.part_room());
    let count = u64::from(count).min(learner.basis.limit().saturating_sub(first.0)) as u32;
    let mut wants = Vec::new();
    let mut had = (u64::MAX, false);
    made.lba = first.0;
    for at in 0..count {
        let lba = Lba(first.0 + u64::from(at));
        if had.0 != lba.0 / GRANULE {
            had = (lba.0 / GRANULE, part.is_had(lba.0 / GRANULE, trusted));
        }
        let mapping = part.index.get(lba);
        let logged = matches!(mapping.loc, Loc::Log(_));
        let sent = logged && mapping.op <= learner.base;
        if made.blocks.len() == PART_BLOCKS || (sent && wants.len() == most) {
            break;
        }
        made.count = at + 1;
        *mapped += u64::from(matches!(mapping.loc, Loc::Log(_) | Loc::Extent { .. }));
        if had.1 && !logged {
            spare(&mut made.same, at);
            continue;
        }
        let place = match mapping.loc {
            Loc::Hole => continue,
            Loc::Cleared => Place::Cleared,
            Loc::Lost => Place::Lost,
            Loc::Log(_) if sent => Place::Sent,
            Loc::Log(_) => Place::Known,
            Loc::Extent { slot, block } => match part.index.extent(slot) {
                Some(extent) => Place::Extent { id: extent.desc.id, block },
                None => Place::Lost,
            },
        };
        if sent {
            wants.push((lba, mapping));
        }
        made.blocks.push(CopiedBlock { at, op: mapping.op, crc: mapping.crc, place });
    }
    wants
}

/// Adds a block to runs of them.
fn spare(runs: &mut Vec<(u32, u32)>, at: u32) {
    match runs.last_mut() {
        Some((first, count)) if *first + *count == at => *count += 1,
        _ => runs.push((at, 1)),
    }
}
