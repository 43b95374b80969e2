//! Who may take how much of the ring (P-31, P-32).
//!
//! Clients stop first: the reserve they leave is what repoints, seals, releases and adoptions need, which
//! are what makes room again. Copies of live blocks come in between, because they free a tail segment at the
//! price of a new one. One segment is never taken at all: the ring's newest header always finds the place
//! behind it free, so that recovery can look there for a segment whose own header rotted, and the first write
//! of a segment never tears one that the newest whole header still counts (P-06).

use super::append::Log;
use super::types::Room;

impl Log {
    /// Free segments that an asker must leave untouched (P-31, P-32).
    fn kept_from(&self, room: Room) -> u64 {
        match room {
            Room::User if self.config.faults.no_reserve() => 0,
            Room::User => (self.ring.count() / 8).max(4),
            Room::Copy | Room::Replica => 2,
            Room::Metadata => 1,
        }
    }

    /// Whether an asker may write now, taking `segments` fresh segments.
    pub(super) fn may_use(&self, room: Room, segments: u64) -> bool {
        let spare = self.ring.free() >= self.kept_from(room) + segments;
        // What fits the segment being written costs no other; only user data must stay out of it.
        spare || (segments == 0 && room != Room::User)
    }

    /// Whether an entry with `blocks` payload blocks would be taken.
    pub fn room_for(&self, blocks: u64, room: Room) -> bool {
        let need = blocks + 2;
        let switch = u64::from(self.end_of_open()) + need > u64::from(self.ring.segment_blocks);
        !self.failed() && self.may_use(room, u64::from(switch))
    }

    /// Blocks of all segments.
    pub fn capacity_blocks(&self) -> u64 {
        self.ring.count() * u64::from(self.ring.segment_blocks)
    }

    /// Blocks that can still be written before segments are released, the reserve included.
    pub fn free_blocks(&self) -> u64 {
        let rest = self.ring.segment_blocks.saturating_sub(self.end_of_open());
        self.ring.free() * u64::from(self.ring.segment_blocks - 1) + u64::from(rest)
    }

    /// Blocks that clients' data can still take: as [`Log::free_blocks`] without the reserve.
    pub fn user_blocks(&self) -> u64 {
        let kept = self.kept_from(Room::User) * u64::from(self.ring.segment_blocks);
        self.free_blocks().saturating_sub(kept)
    }

    /// What [`Log::user_blocks`] comes to when nothing is left to flush: all but the reserve and the segment
    /// that is being written.
    pub fn user_capacity(&self) -> u64 {
        let usable = self.ring.count().saturating_sub(self.kept_from(Room::User) + 1);
        usable * u64::from(self.ring.segment_blocks - 1)
    }

    /// Payload blocks of the log that something refers to.
    pub fn live_blocks(&self) -> u64 {
        self.ring.live_blocks()
    }
}
