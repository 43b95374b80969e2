//! What clients saw, and whether one order of events explains it (`AckedIsDurable`, `NewestWins`,
//! `NothingSilent`).
//!
//! Each 512-byte sector is a register whose non-zero values are unique, so linearizability can be judged
//! exactly and in near-linear time (Gibbons and Korach): a value with its write and all its reads forms
//! a cluster; with `s` its latest invocation and `f` its earliest response it is a *forward zone* (f, s)
//! if f < s, which means that the register held just this value throughout; otherwise it is a
//! *backward zone* (s, f) somewhere in which it may have held it. A history is linearizable exactly if no
//! value is read before its write began, no two forward zones overlap, and no backward zone lies inside
//! a forward zone. Zeroes are not unique: a clear takes part as a cluster without reads, and a read of
//! zeroes is held against the weaker rule that some clear may stand last at its time.
//!
//! A write whose answer never came may take effect late or never. When it was seen at all, it must have
//! taken effect before its head's next incarnation began to serve (P-13), which tightens its end.

use crate::contents::{Seen, WriteId};
use palisade_protocol::wire::Time;
use std::collections::BTreeMap;

/// No answer so far.
pub const OPEN: Time = Time(u64::MAX);

/// One write or clear as its client saw it.
#[derive(Clone, Copy, Debug)]
struct Update {
    /// Whether it gives zeroes.
    clear: bool,
    /// When it was sent.
    sent: Time,
    /// When it was acknowledged, or the latest moment at which it can have taken effect.
    ended: Time,
    /// Whether it was acknowledged; otherwise it may have had no effect.
    acked: bool,
}

/// One read of one sector.
#[derive(Clone, Copy, Debug)]
struct Look {
    value: WriteId,
    sent: Time,
    ended: Time,
}

/// The record of a volume.
#[derive(Debug)]
pub struct History {
    updates: BTreeMap<WriteId, Update>,
    writes: Vec<Vec<WriteId>>,
    looks: Vec<Vec<Look>>,
}

impl History {
    /// The history of a fresh volume of so many sectors.
    pub fn new(sectors: u64) -> Self {
        let sectors = sectors as usize;
        Self { updates: BTreeMap::new(), writes: vec![Vec::new(); sectors], looks: vec![Vec::new(); sectors] }
    }

    /// What was known at a moment: later requests are left out, later answers are not there yet.
    pub fn until(&self, moment: Time) -> Self {
        let updates = self.updates.iter().filter(|(_, update)| update.sent <= moment);
        let cut = |update: &Update| {
            if update.ended <= moment { *update } else { Update { ended: OPEN, acked: false, ..*update } }
        };
        let updates: BTreeMap<WriteId, Update> = updates.map(|(id, update)| (*id, cut(update))).collect();
        let kept = |ids: &Vec<WriteId>| ids.iter().copied().filter(|id| updates.contains_key(id)).collect();
        let writes = self.writes.iter().map(kept).collect();
        let before = |looks: &Vec<Look>| looks.iter().copied().filter(|look| look.ended <= moment).collect();
        let looks = self.looks.iter().map(before).collect();
        Self { updates, writes, looks }
    }

    /// Updates without an answer.
    pub fn unanswered(&self) -> Vec<WriteId> {
        self.updates.iter().filter(|(_, update)| update.ended == OPEN).map(|(id, _)| *id).collect()
    }

    /// Sectors of the volume.
    pub fn sectors(&self) -> u64 {
        self.writes.len() as u64
    }

    /// A client sends a write or clear of `count` sectors.
    pub fn update_sent(&mut self, id: WriteId, clear: bool, first: u64, count: u64, now: Time) {
        let fresh = self.updates.insert(id, Update { clear, sent: now, ended: OPEN, acked: false });
        assert!(fresh.is_none(), "write ids are unique");
        for sector in first..first + count {
            self.writes[sector as usize].push(id);
        }
    }

    /// It was acknowledged.
    pub fn update_acked(&mut self, id: WriteId, now: Time) {
        if let Some(update) = self.updates.get_mut(&id) {
            update.acked = true;
            update.ended = now;
        }
    }

    /// It was not acknowledged, and can no longer take effect after `now` (P-13).
    pub fn update_bound(&mut self, id: WriteId, now: Time) {
        if let Some(update) = self.updates.get_mut(&id) {
            update.ended = update.ended.min(now);
        }
    }

    /// A read of one sector ended. Bytes that nobody wrote there are reported at once.
    pub fn read(&mut self, sector: u64, seen: Seen, sent: Time, ended: Time) -> Result<(), String> {
        let value = match seen {
            Seen::Zero => 0,
            Seen::Write(id) if self.writes[sector as usize].contains(&id) => id,
            Seen::Write(id) => {
                return Err(format!(
                    "NothingSilent: sector {sector} reads contents of write {id}, which did not write there"
                ));
            }
            Seen::Foreign => {
                return Err(format!("NothingSilent: sector {sector} reads bytes that no client wrote"));
            }
        };
        self.looks[sector as usize].push(Look { value, sent, ended });
        Ok(())
    }

    /// Whether one order of all reads and writes explains every sector.
    pub fn judge(&self) -> Result<(), String> {
        (0..self.writes.len()).try_for_each(|sector| self.judge_sector(sector))
    }

    fn judge_sector(&self, sector: usize) -> Result<(), String> {
        let mut zones = Vec::with_capacity(self.writes[sector].len());
        let mut by_id: BTreeMap<WriteId, usize> = BTreeMap::new();
        for id in &self.writes[sector] {
            let update = self.updates[id];
            by_id.insert(*id, zones.len());
            let Update { sent, ended, acked, clear } = update;
            zones.push(Zone { id: *id, clear, sent, latest: sent, earliest: ended, happened: acked });
        }
        for look in self.looks[sector].iter().filter(|look| look.value != 0) {
            let zone = &mut zones[by_id[&look.value]];
            if look.ended < zone.sent {
                return Err(format!("sector {sector}: write {} was read before it was sent", look.value));
            }
            zone.latest = zone.latest.max(look.sent);
            zone.earliest = zone.earliest.min(look.ended);
            zone.happened = true;
        }
        zones.retain(|zone| zone.happened);
        let (mut forward, backward): (Vec<_>, Vec<_>) =
            zones.iter().copied().partition(|zone| zone.earliest < zone.latest);
        forward.sort_by_key(|zone| (zone.earliest, zone.id));
        judge_zones(sector, &forward, &backward)?;
        self.judge_zeroes(sector, &zones, &forward)
    }

    /// A read of zeroes must not lie inside a forward zone, and needs a clear (or the fresh volume) that
    /// no later write certainly covers at its time.
    fn judge_zeroes(&self, sector: usize, zones: &[Zone], forward: &[Zone]) -> Result<(), String> {
        let clears = || self.writes[sector].iter().map(|id| self.updates[id]).filter(|update| update.clear);
        for look in self.looks[sector].iter().filter(|look| look.value == 0) {
            if let Some(zone) = forward.iter().find(|z| z.earliest < look.sent && look.ended < z.latest) {
                return Err(format!(
                    "NewestWins: sector {sector} reads zeroes at {}..{} amid write {}",
                    look.sent.0, look.ended.0, zone.id
                ));
            }
            let cover = zones.iter().filter(|zone| !zone.clear && zone.earliest < look.sent);
            let Some(cover) = cover.max_by_key(|zone| zone.sent) else { continue };
            if !clears().any(|clear| clear.sent < look.ended && clear.ended >= cover.sent) {
                return Err(format!(
                    "AckedIsDurable: sector {sector} reads zeroes at {}..{} though write {} of {} stands",
                    look.sent.0, look.ended.0, cover.id, cover.sent.0
                ));
            }
        }
        Ok(())
    }
}

/// A value of a sector with everything that was seen of it.
#[derive(Clone, Copy, Debug)]
struct Zone {
    id: WriteId,
    clear: bool,
    /// When its write was sent.
    sent: Time,
    /// Latest invocation of its write and reads (`s`).
    latest: Time,
    /// Earliest response of its write and reads (`f`).
    earliest: Time,
    /// Acknowledged, or seen by a read.
    happened: bool,
}

fn judge_zones(sector: usize, forward: &[Zone], backward: &[Zone]) -> Result<(), String> {
    for pair in forward.windows(2) {
        if pair[1].earliest < pair[0].latest {
            return Err(format!(
                "NewestWins: sector {sector} holds write {} during {}..{} and write {} during {}..{}",
                pair[0].id,
                pair[0].earliest.0,
                pair[0].latest.0,
                pair[1].id,
                pair[1].earliest.0,
                pair[1].latest.0
            ));
        }
    }
    for zone in backward {
        let after = forward.partition_point(|other| other.earliest < zone.latest);
        let Some(around) = after.checked_sub(1).map(|index| forward[index]) else { continue };
        if zone.earliest < around.latest {
            return Err(format!(
                "AckedIsDurable: sector {sector}: write {} ({}..{}) is not seen amid write {} ({}..{})",
                zone.id, zone.latest.0, zone.earliest.0, around.id, around.earliest.0, around.latest.0
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(t: u64) -> Time {
        Time(t)
    }

    /// Two writes of sector 0, acknowledged one after the other.
    fn two_writes() -> History {
        let mut history = History::new(1);
        history.update_sent(1, false, 0, 1, at(10));
        history.update_acked(1, at(20));
        history.update_sent(2, false, 0, 1, at(30));
        history.update_acked(2, at(40));
        history
    }

    fn read(history: &mut History, value: WriteId, sent: u64, ended: u64) {
        let seen = if value == 0 { Seen::Zero } else { Seen::Write(value) };
        history.read(0, seen, at(sent), at(ended)).expect("written by someone");
    }

    #[test]
    fn a_read_of_the_newest_or_of_a_concurrent_write_is_accepted() {
        let mut history = two_writes();
        read(&mut history, 0, 5, 12);
        read(&mut history, 1, 35, 50);
        read(&mut history, 2, 45, 50);
        assert_eq!(history.judge(), Ok(()));
    }

    #[test]
    fn a_read_of_an_overwritten_value_is_refused() {
        let mut history = two_writes();
        read(&mut history, 1, 41, 50);
        assert!(history.judge().is_err());
    }

    #[test]
    fn a_lost_acknowledged_write_is_refused_even_when_zeroes_come_back() {
        let mut history = two_writes();
        read(&mut history, 0, 45, 50);
        assert!(history.judge().expect_err("lost").contains("AckedIsDurable"));
    }

    #[test]
    fn reads_that_go_back_in_time_between_concurrent_writes_are_refused() {
        let mut history = History::new(1);
        history.update_sent(1, false, 0, 1, at(10));
        history.update_sent(2, false, 0, 1, at(10));
        history.update_acked(1, at(100));
        history.update_acked(2, at(100));
        read(&mut history, 1, 20, 30);
        read(&mut history, 2, 40, 50);
        assert_eq!(history.judge(), Ok(()));
        read(&mut history, 1, 60, 70);
        assert!(history.judge().is_err());
    }

    #[test]
    fn an_unanswered_write_may_be_lost_or_stay_but_not_appear_after_its_bound() {
        let mut history = two_writes();
        history.update_sent(3, false, 0, 1, at(50));
        history.update_bound(3, at(60));
        read(&mut history, 2, 70, 80);
        assert_eq!(history.judge(), Ok(()), "it may have had no effect");
        read(&mut history, 3, 90, 95);
        assert!(history.judge().is_err(), "it cannot appear after reads went without it");
    }

    #[test]
    fn a_clear_explains_zeroes_and_a_later_write_forbids_them() {
        let mut history = two_writes();
        history.update_sent(3, true, 0, 1, at(50));
        history.update_acked(3, at(60));
        read(&mut history, 0, 70, 80);
        assert_eq!(history.judge(), Ok(()));
        history.update_sent(4, false, 0, 1, at(90));
        history.update_acked(4, at(100));
        read(&mut history, 0, 110, 120);
        assert!(history.judge().is_err());
    }

    #[test]
    fn a_clear_that_brought_nothing_back_amid_a_value_is_refused() {
        let mut history = two_writes();
        read(&mut history, 2, 42, 45);
        history.update_sent(3, true, 0, 1, at(50));
        history.update_acked(3, at(60));
        read(&mut history, 2, 70, 80);
        assert!(history.judge().is_err());
    }

    #[test]
    fn foreign_bytes_and_values_of_other_sectors_are_reported_at_once() {
        let mut history = two_writes();
        assert!(history.read(0, Seen::Foreign, at(1), at(2)).is_err());
        assert!(history.read(0, Seen::Write(9), at(1), at(2)).is_err());
    }
}
