//! One peer: its session, and the choice of the network by which each datagram goes.
//!
//! The choice. Among networks that are up, the one with the least *cost*, which is the time until a datagram
//! is expected to be acknowledged: a smoothed round trip, plus a time-out for the share that is lost. Equal
//! networks cost about the same, so each pair of nodes has a home network, half of the pairs one and half
//! the other, and another must be clearly cheaper to draw traffic away; when it heals, a home network has its
//! traffic back. When the window of the chosen one is full, what is over goes by another *comparable* one,
//! and what one network lost goes first by such another: comparable is one that costs less than the time-out
//! that a second loss would. While none is up, each time-out tries the next.

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::packet::Packet;
use super::path::Path;
use super::port::{Config, PATHS_MAX, PathId, PathState, PathStatus};
use crate::wire::{BootId, NodeId, Time};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::time::Duration;

/// Most old boots of a peer that are remembered.
const RETIRED_MAX: usize = 16;
/// By how much another network must be cheaper than the home network, beside half of its own cost:
/// differences below are noise of the scheduler.
const DRAW: Duration = Duration::from_micros(200);
/// A peer to which nothing was said for so long gets idle keep-alives.
const ACTIVE: Duration = Duration::from_secs(1);

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Boot of the peer in the present session.
    pub(super) session: Option<BootId>,
    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
    pub(super) paths: SmallVec<[Path; PATHS_MAX]>,
    /// The network that is taken when all seem alike, and which is tried next while none is up.
    home: u8,
    turn: u8,
    /// Networks on which an acknowledgement is owed, a bit each.
    pub(super) owed: u8,
    /// When the peer was last heard, or else since when something waits for it.
    pub(super) heard: Time,
    /// When messages last moved.
    pub(super) used: Time,
    // ---- below: touched when sessions change ----
    pub(super) retired: VecDeque<BootId>,
    /// A boot that asked who we are, and on which networks.
    pub(super) answer_to: Option<(BootId, u8)>,
    /// When to ask again for the peer's boot, and how often that was in vain.
    pub(super) introduce_at: Time,
    pub(super) introduced: u32,
}

impl Peer {
    /// A peer that is reached over the first `paths` networks.
    pub(super) fn new(node: NodeId, peer: NodeId, paths: u8, config: &Config) -> Self {
        let home = (node.0.wrapping_add(peer.0) % u32::from(paths)) as u8;
        Self {
            session: None,
            outbox: Outbox::new(0),
            inbox: Inbox::new(config.window_bytes),
            paths: (0..paths).map(|_| Path::new(paths == 1, config)).collect(),
            home,
            turn: home,
            owed: 0,
            heard: Time::ZERO,
            used: Time::ZERO,
            retired: VecDeque::new(),
            answer_to: None,
            introduce_at: Time::ZERO,
            introduced: 0,
        }
    }

    /// A new session: what was open to the old boot is dropped; what waited for a first one is kept.
    /// `path` brought its first datagram, so it is trusted first.
    pub(super) fn begin(&mut self, boot: BootId, path: PathId, config: &Config) -> Option<PathState> {
        if let Some(old) = self.session.replace(boot) {
            self.retired.push_back(old);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
            self.outbox = Outbox::new(0);
        }
        self.inbox = Inbox::new(config.window_bytes);
        (self.answer_to, self.introduced) = (None, 0);
        self.paths.iter_mut().for_each(Path::restart);
        self.paths[usize::from(path.0)].rise()
    }

    /// Takes acknowledgements that came by `path`. Only what was also sent by it proves that it carries.
    pub(super) fn acknowledged(
        &mut self,
        now: Time,
        path: PathId,
        packet: &Packet<'_>,
        config: &Config,
    ) -> Option<PathState> {
        let acked = self.outbox.acknowledge(packet.ranges());
        let newest = packet.ranges().next().map_or(0, |range| range.1);
        for (by, news) in self.paths.iter_mut().zip(&acked).filter(|(_, news)| news.count > 0) {
            by.delivered(news.count, news.bytes, config);
        }
        let (by, news) = (&mut self.paths[usize::from(path.0)], acked[usize::from(path.0)]);
        let held = Duration::from_micros(packet.header.ack_delay_us.into());
        let mut changed = None;
        // For how long the peer held an acknowledgement back is known for the newest number only.
        let held = |number| if number == newest { held } else { Duration::ZERO };
        if news.count > 0 {
            by.sample(now.since(news.newest.1).saturating_sub(held(news.newest.0)));
            changed = by.prove(now);
        }
        if let Some((number, rtt)) = by.answered(now, packet.ranges()) {
            by.delivered(1, 0, config);
            by.sample(rtt.saturating_sub(held(number)));
            changed = by.prove(now).or(changed);
        }
        changed
    }

    /// An acknowledgement is owed where the datagram came from. A network that seems down, or a repeated
    /// datagram, means that it may not arrive there: then on all.
    pub(super) fn owe(&mut self, path: PathId, repeated: bool) {
        let sure = !repeated && self.paths[usize::from(path.0)].state() == PathState::Up;
        self.owed |= if sure { 1 << path.0 } else { self.all() };
    }

    /// The bits of all networks.
    pub(super) fn all(&self) -> u8 {
        (1 << self.paths.len()) - 1
    }

    fn cost(&self, path: u8, config: &Config) -> Duration {
        let cost = self.paths[usize::from(path)].cost(config);
        if path == self.home { cost } else { cost * 3 / 2 + DRAW }
    }

    fn up(&self) -> impl Iterator<Item = u8> {
        (0..self.paths.len() as u8).filter(|path| self.paths[usize::from(*path)].state() == PathState::Up)
    }

    /// The network for what comes next.
    pub(super) fn best(&self, config: &Config) -> u8 {
        self.up().min_by_key(|path| (self.cost(*path, config), *path)).unwrap_or(self.turn)
    }

    /// Another network that is up and comparable with this one.
    pub(super) fn other(&self, path: u8, config: &Config) -> Option<u8> {
        let this = &self.paths[usize::from(path)];
        let limit = if this.state() == PathState::Up {
            this.cost(config) + this.timeout(config, true)
        } else {
            Duration::MAX
        };
        let others = self.up().filter(|other| *other != path);
        let cost = |other: &u8| self.paths[usize::from(*other)].cost(config);
        others.filter(|other| cost(other) <= limit).min_by_key(cost)
    }

    /// How long datagrams on a path may take: overtaken ones, and any.
    pub(super) fn limits(&self, path: u8, config: &Config) -> (Duration, Duration) {
        let this = &self.paths[usize::from(path)];
        (this.overtaken(config), this.timeout(config, self.other(path, config).is_some()))
    }

    /// While none is up, each time-out tries the next.
    pub(super) fn rotate(&mut self) {
        self.turn = (self.turn + 1) % self.paths.len() as u8;
    }

    /// Whether a datagram of `room` bytes may leave on a path.
    fn has_window(&self, path: u8, room: usize, more: usize) -> bool {
        let under_way = self.outbox.under_way(path);
        under_way == 0 || under_way + room <= self.paths[usize::from(path)].window() + more
    }

    /// The network for the next datagram, and whether only small messages may go: they need not wait for
    /// the room that large ones have taken.
    pub(super) fn pick(&self, room: usize, config: &Config) -> Option<(u8, bool)> {
        let best = self.best(config);
        let lost_it = self.outbox.lost_by() == Some(best);
        let first = if lost_it { self.other(best, config).unwrap_or(best) } else { best };
        if self.has_window(first, room, 0) {
            return Some((first, false));
        }
        if let Some(other) = self.other(first, config).filter(|other| self.has_window(*other, room, 0)) {
            return Some((other, false));
        }
        let squeeze = self.outbox.small_waits() && self.has_window(best, room, 2 * config.datagram_bytes);
        squeeze.then_some((best, true))
    }

    fn active(&self, now: Time) -> bool {
        now.since(self.used) < ACTIVE
    }

    /// The next network that is due for a keep-alive.
    pub(super) fn probe_due(&self, now: Time, config: &Config) -> Option<u8> {
        self.session.filter(|_| self.paths.len() > 1)?;
        let due = |path: &Path| now >= path.probe_at(config, self.active(now));
        self.paths.iter().position(due).map(|path| path as u8)
    }

    /// When the peer needs a turn though nothing comes in.
    pub(super) fn deadline(&self, now: Time, config: &Config) -> Option<Time> {
        if self.session.is_none() {
            return (self.outbox.open() > 0).then_some(self.introduce_at);
        }
        let probes = self.paths.iter().filter(|_| self.paths.len() > 1);
        let probe = probes.map(|path| path.probe_at(config, self.active(now))).min();
        self.outbox.expires(|path| self.limits(path, config)).into_iter().chain(probe).min()
    }

    /// What is known of its networks.
    pub(super) fn status(&self, peer: NodeId) -> impl Iterator<Item = PathStatus> {
        self.paths.iter().enumerate().map(move |(index, path)| {
            let (loss_ppm, sent, resent) = path.figures();
            let (state, rtt, path) = (path.state(), path.rtt(), PathId(index as u8));
            PathStatus { peer, path, state, rtt, loss_ppm, sent, resent }
        })
    }
}
