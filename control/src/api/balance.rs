//! Roles spread by load (EF-28): where one head serves much more than others, a volume of it goes to its secondary.
//!
//! Work is what a primary answered: requests, and a further one for every 16 KiB. It is looked at a few times within
//! `balance_after_ms`; the busiest head gives a volume away when every look of that time found the same volume, whose
//! going to its secondary takes a good part off the busiest head and makes nobody as busy as that one was. Then all
//! rest, so that what a move did is seen before the next one, and the volume that moved rests for long: a load that
//! swings is not followed. The move itself is a planned switch-over: both heads are well, the pause is short.
//! Off unless `balance_after_ms` is set, and where only people move roles.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use palisade_protocol::wire::{BootId, NodeId, PartitionId};

use super::core::Core;
use super::events::now_ms;
use crate::authority::VolumeState;
use crate::config::Failover;
use crate::report::PartitionReport;

/// Looks within the time that a skew has to last.
const LOOKS: u32 = 3;
/// After a move, so many times that time pass before the next one, and before the same volume moves again.
const REST: u32 = 4;
const VOLUME_REST: u32 = 40;
/// Bytes that count as one request.
const BYTES: u64 = 16 << 10;
/// Work a second below which a head is not busy, whatever others do.
const LEAST: u64 = 200;
/// Least part of the busiest head's work that a move takes off it, in percent: below, it is not worth the pause.
const WORTH: u64 = 15;

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Balance {
    looked: Option<Instant>,
    /// What each volume's primary had answered then, and which boot said so.
    before: BTreeMap<u64, (BootId, u64)>,
    /// The volume that the last looks found, and how many they were.
    found: Option<(u64, u32)>,
    moved: Option<Instant>,
    volumes: BTreeMap<u64, Instant>,
}

/// A volume of which a share of the work could move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    volume: u64,
    primary: NodeId,
    /// Who would lead; none: nobody can at present.
    to: Option<NodeId>,
    /// Work since the last look.
    work: u64,
}

/// The volume whose move helps most, the one with less work of equals, if one is worth it; `least` is the work that a busy head has.
fn choose(shares: &[Share], least: u64) -> Option<u64> {
    let mut heads: BTreeMap<NodeId, u64> = BTreeMap::new();
    for share in shares {
        *heads.entry(share.primary).or_default() += share.work;
    }
    let of = |head: NodeId| heads.get(&head).copied().unwrap_or(0);
    let (&busiest, &most) = heads.iter().max_by_key(|(head, work)| (**work, std::cmp::Reverse(**head)))?;
    let after = |share: &Share| share.to.map(|to| (most - share.work).max(of(to) + share.work));
    let movable = shares.iter().filter(|share| share.primary == busiest && share.work > 0);
    let best = movable.filter_map(|share| Some((after(share)?, share.work, share.volume))).min()?;
    let worth = most >= least && (most.saturating_sub(best.0)) * 100 >= most * WORTH;
    worth.then_some(best.2)
}

fn answered(report: &PartitionReport) -> u64 {
    let count = |name: &str| report.counters.get(name).copied().unwrap_or(0);
    let requests = count("reads") + count("writes") + count("clears");
    requests + (count("read_bytes") + count("write_bytes")) / BYTES
}

impl Core {
    /// Looks at what heads do and moves a volume when that is due. Called with the nodes' reports.
    pub(super) fn look_at_loads(&mut self) {
        let by_itself = self.rack.control.failover == Failover::Auto;
        let Some(after) = self.rack.control.balance_after_ms.filter(|_| by_itself) else { return };
        let (now, after) = (Instant::now(), Duration::from_millis(after));
        let every = after / LOOKS;
        let since = self.balance.looked.map_or(Duration::ZERO, |looked| now - looked);
        if self.balance.looked.is_some() && since < every {
            return;
        }
        let shares = self.shares(now, after);
        self.balance.looked = Some(now);
        let least = LEAST * since.as_millis() as u64 / 1000;
        let chosen = choose(&shares, least.max(1));
        let rests = self.balance.moved.is_some_and(|moved| now < moved + after * REST);
        let times = match (chosen, self.balance.found) {
            (Some(volume), Some((before, times))) if volume == before => times + 1,
            _ => 1,
        };
        self.balance.found = chosen.filter(|_| !rests).map(|volume| (volume, times));
        if let (Some(volume), true) = (chosen.filter(|_| !rests), times >= LOOKS) {
            self.give_away(volume, now);
        }
    }

    /// What every volume's primary did since the last look.
    fn shares(&mut self, now: Instant, after: Duration) -> Vec<Share> {
        let mut shares = Vec::new();
        let mut seen = BTreeMap::new();
        for volume in self.authority.volumes().filter(|volume| volume.state == VolumeState::Active) {
            let heads = volume.current();
            let Some(&primary) = heads.first() else { continue };
            let Some(node) = self.nodes.get(&primary.0) else { continue };
            let report = node.report.partitions.iter().find(|report| report.partition == volume.id);
            let Some(report) = report.filter(|report| report.role == "serving") else { continue };
            let all = answered(report);
            seen.insert(volume.id, (node.boot, all));
            let before = self.balance.before.get(&volume.id).filter(|(boot, _)| *boot == node.boot);
            // Seen for the first time under this boot: how much of it is new is not known.
            let Some(work) = before.and_then(|(_, before)| all.checked_sub(*before)) else { continue };
            let well = |head: &NodeId| {
                let head = self.authority.node(*head);
                head.is_some_and(|head| !head.draining && head.isolating.is_empty())
            };
            let rests =
                self.balance.volumes.get(&volume.id).is_some_and(|at| now < *at + after * VOLUME_REST);
            let free = !rests && !report.peer_away && !volume.paused(now_ms());
            let to = heads.get(1).copied().filter(|head| free && well(head));
            shares.push(Share { volume: volume.id, primary, to, work });
        }
        self.balance.before = seen;
        shares
    }

    fn give_away(&mut self, volume: u64, now: Instant) {
        let Some(record) = self.authority.volume(PartitionId(volume)) else { return };
        let (name, primary) = (record.name.clone(), record.current_primary());
        (self.balance.found, self.balance.moved) = (None, Some(now));
        self.balance.volumes.insert(volume, now);
        let why = format!("{} serves more than others", self.authority.name_of(primary));
        if let Err(error) = self.failover(&name, &why) {
            let what = format!("volume `{name}` stays where it is, though {why}: {}", error.message);
            self.events.say("control", name, false, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(volume: u64, primary: u32, to: u32, work: u64) -> Share {
        Share { volume, primary: NodeId(primary), to: (to > 0).then_some(NodeId(to)), work }
    }

    /// What heads do once the chosen volumes moved, one after the other.
    fn settle(shares: &mut [Share]) -> (usize, BTreeMap<u32, u64>) {
        let mut moves = 0;
        while let Some(volume) = choose(shares, 1) {
            moves += 1;
            assert!(moves < 100, "it never settles: {shares:?}");
            let found = shares.iter_mut().find(|share| share.volume == volume).expect("of these");
            let old = found.primary;
            found.primary = found.to.expect("it can move");
            found.to = Some(old);
        }
        let mut heads = BTreeMap::new();
        shares.iter().for_each(|share| *heads.entry(share.primary.0).or_default() += share.work);
        (moves, heads)
    }

    #[test]
    fn ef28_a_skewed_load_is_spread_and_then_left_alone() {
        let mut shares: Vec<Share> =
            (1..=6).map(|volume| share(volume, 1, 2 + volume as u32 % 2, 1000)).collect();
        let (moves, heads) = settle(&mut shares);
        assert_eq!((moves, heads), (4, BTreeMap::from([(1, 2000), (2, 2000), (3, 2000)])));
    }

    #[test]
    fn ef28_moves_that_only_turn_the_skew_round_are_not_made() {
        assert_eq!(choose(&[share(1, 1, 2, 9000)], 1), None, "one volume makes any head as busy");
        assert_eq!(choose(&[share(1, 1, 2, 9000), share(2, 2, 1, 8000)], 1), None);
        assert_eq!(
            choose(&[share(1, 1, 2, 9000), share(2, 1, 2, 800)], 1),
            None,
            "too little to be worth it"
        );
        assert_eq!(
            choose(&[share(1, 1, 2, 9000), share(2, 1, 2, 3000)], 1),
            Some(2),
            "the small one, not the large"
        );
        assert_eq!(choose(&[share(1, 1, 0, 9000), share(2, 1, 0, 3000)], 1), None, "nobody to give them to");
        assert_eq!(choose(&[share(1, 1, 2, 9), share(2, 1, 2, 9)], 100), None, "an idle rack is left alone");
        assert_eq!(choose(&[], 1), None);
    }

    #[test]
    fn ef28_random_loads_settle_with_a_smaller_spread() {
        let mut state = 7u64;
        let mut rand = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let heads = 2 + rand(4) as u32;
            let mut shares: Vec<Share> = (0..rand(20))
                .map(|volume| {
                    let primary = 1 + rand(heads.into()) as u32;
                    let to = 1 + (primary + rand((heads - 1).into()) as u32) % heads;
                    share(volume, primary, if to == primary { 1 + primary % heads } else { to }, rand(5000))
                })
                .collect();
            let mut before = BTreeMap::new();
            shares.iter().for_each(|share| *before.entry(share.primary.0).or_default() += share.work);
            let (_, after) = settle(&mut shares);
            let most = |heads: &BTreeMap<u32, u64>| heads.values().copied().max().unwrap_or(0);
            assert!(most(&after) <= most(&before), "{before:?} {after:?}");
        }
    }
}
