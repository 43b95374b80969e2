//! Room in the log of a head that is being filled (P-31).
//!
//! Its log may be smaller than what the giver has not flushed, and nobody promised anything of it. So the head says
//! with each answer how many blocks it takes beside what it has. When little of that is left the giver flushes, as
//! for a peer that is short of credit, whatever room its own log has: what lies in extents is only named, and what
//! the head has of it dies with the repoint. Parts with bytes wait meanwhile. A part under way holds up all operations
//! behind the one at which it was read, and so the repoints that make room for it; one that is not made holds up
//! nothing, and carries the fewer bytes the later it is made. One that found no room after all, since others took it,
//! ends the round.
//!
//! Operations go as they come, and what makes room stands behind them, too: a log that they fill never gets empty again.
//! So clients' changes wait while it is short and flushing helps, as they wait for a peer's credit; not where it is
//! short for the sake of other volumes.
//!
//! Where nothing can be flushed (alone, with one copy; before the group serves; without free columns) all is sent: it
//! may fit, since what a head says allows for records of one block each. If it does not, people are told.

use super::super::core::Core;
use super::super::part::{Part, Phase};
use super::super::peers::low;
use super::super::write::SLACK;
use super::Learner;
use crate::log::RECENT_OPS;
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use crate::wire::*;
use std::time::Duration;

/// A part that has found no room for so many times what makes a peer `away` finds none.
const STUCK: u32 = 4;
/// Room is told in steps of so many blocks.
const STEP: u64 = 16;
/// Before another round where nobody can make room.
const UNFIT_PAUSE: Duration = Duration::from_secs(10);

/// What a head that is being filled said of its log, and what was numbered since.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Blocks that it takes beside what it has taken; `None` before it said so. The most that it ever said.
    said: Option<u64>,
    most: u64,
    /// Blocks numbered since all operations were sent last.
    fresh: u64,
    /// A part waits for room.
    pub(super) waits: bool,
    /// It is short, and nothing is under way to it nor left here whose flush would help.
    helpless: bool,
    /// When it went on last.
    moved: Time,
}

impl Learner {
    /// Its log takes so many blocks.
    pub(super) fn takes(&mut self, blocks: u64) {
        self.room.said = Some(blocks);
        self.room.most = self.room.most.max(blocks);
    }

    /// Operations are under way up to the newest.
    pub(super) fn sent_all(&mut self) {
        self.room.fresh = 0;
    }

    /// Blocks that its log takes beside what is under way to it.
    fn left(&self) -> Option<u64> {
        let bytes = |msg: &Msg| match msg {
            Msg::CopyPart { data: Some(data), .. } => (data.len() / BLOCK) as u64,
            _ => 0,
        };
        let parts: u64 = self.unacked.iter().map(|(_, msg, _)| bytes(msg)).sum();
        let taking = self.taking.as_ref().map_or(0, |taking| taking.sent);
        self.room.said.map(|said| said.saturating_sub(parts + taking + self.open_blocks + self.room.fresh))
    }

    /// Whether flushing has to make room in its log.
    fn short(&self) -> bool {
        // A log that could never take anything is short, too: nothing else makes room there.
        self.begun && self.left().is_some_and(|left| left < low(self.room.most).max(1))
    }

    /// Whether a part that is under way has found no room for long: what would make room stands behind it.
    pub(super) fn is_stuck(&self, now: Time, away: Duration) -> bool {
        !self.unacked.is_empty() && self.short() && now.since(self.room.moved) >= STUCK * away
    }

    /// It went on, or something new is under way.
    pub(super) fn moved(&mut self, now: Time) {
        self.room.moved = now;
    }
}

impl Part {
    /// An operation was numbered that takes so many blocks of the learner's log, too.
    #[inline]
    pub(in crate::head) fn learner_owes(&mut self, blocks: u64) {
        if let Some(learner) = &mut self.copy.learner {
            learner.room.fresh += blocks;
        }
    }

    /// Whether a head that is being filled needs flushing here.
    pub(in crate::head) fn learner_short(&self) -> bool {
        self.copy.learner.as_ref().is_some_and(|learner| learner.short())
    }

    /// Changes wait: the copy would never end.
    pub(in crate::head) fn copy_presses(&self) -> bool {
        let behind =
            |learner: &Learner| self.tail.0.saturating_sub(learner.durable.0) > RECENT_OPS as u64 / 2;
        let tight = |learner: &Learner| !learner.room.helpless && learner.short() && self.flushes();
        let presses = |learner: &Learner| (learner.rounds > 1 && behind(learner)) || tight(learner);
        self.copy.learner.as_ref().is_some_and(|learner| learner.begun && presses(learner))
    }

    /// Looks whether waiting helps: `flushing` says whether anything is being flushed at present.
    pub(in crate::head) fn learner_helped(&mut self, flushing: bool) {
        if let Some(learner) = &mut self.copy.learner {
            let under_way = learner.room.fresh > 0 || learner.open_blocks > 0;
            learner.room.helpless = !flushing && !under_way && learner.short();
        }
    }

    /// Whether flushing can make room at all.
    fn flushes(&self) -> bool {
        self.phase == Phase::Serving && !self.rests() && self.no_columns_since.is_none()
    }

    /// Most blocks whose bytes the next part may carry.
    pub(super) fn part_room(&self) -> usize {
        let learner = self.copy.learner.as_ref().filter(|_| self.flushes());
        match learner.and_then(|learner| learner.left()) {
            Some(_) if self.learner_short() => 0,
            Some(left) => IO_BLOCKS_MAX.min(left as usize),
            None => IO_BLOCKS_MAX,
        }
    }
}

impl Core {
    /// The own log, and blocks that it takes for the copy that is taken: with record headers for each, beside what is
    /// promised to primaries, and its share where several copies are taken.
    pub(in crate::head) fn copy_room(&self, p: usize) -> Option<(LogId, u64)> {
        self.parts[p].copy.join.as_ref()?;
        let copies = self.parts.iter().filter(|part| part.copy.join.is_some()).count() as u64;
        let blocks = self.log.user_blocks().saturating_sub(self.promised() + SLACK) / 3 / copies;
        Some((self.log.id(), blocks / STEP * STEP))
    }

    /// The next part waits for room. Word of it may be lost, so that it is asked for.
    pub(super) fn wait_for_room(&mut self, now: Time, p: usize) {
        let Some(learner) = &mut self.parts[p].copy.learner else { return };
        learner.room.waits = true;
        let at = learner.asked(now);
        self.arm(at);
    }

    /// A round ends because nothing goes on. If that is for want of room that nobody can make, people have to know:
    /// said once for each head that is filled. Says how long to wait for that.
    pub(super) fn end_unfit(&mut self, now: Time, p: usize, out: &mut Out) -> Duration {
        let part = &self.parts[p];
        let full = part.no_columns_since.is_some_and(|since| now.since(since) >= UNFIT_PAUSE);
        let rests = part.phase != Phase::Serving || part.rests();
        let short = |learner: &&Learner| learner.short() && (full || rests);
        let Some(learner) = part.copy.learner.as_deref().filter(short) else { return Duration::ZERO };
        if learner.rounds != 2 {
            return UNFIT_PAUSE;
        }
        let why = match part.phase {
            Phase::Serving if !rests => "the sleds have no free columns",
            Phase::Serving => "this head is alone, and one copy is not enough",
            _ => "the group is not whole yet",
        };
        out.events.push(Event::Attention(format!(
            "partition {}: head {} cannot be filled: its log has no room for what is not flushed here, and nothing is \
             flushed as long as {why}; give it a log as large as the others', or name another head",
            part.cfg.partition, learner.member.head
        )));
        UNFIT_PAUSE
    }
}
