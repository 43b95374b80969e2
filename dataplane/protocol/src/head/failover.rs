//! Who is silent, and what is proposed about it (MA-13, MA-14, MA-17..19, P-02).
//!
//! Members of a pair send each other one heartbeat for all their partitions; every other message counts as
//! well, so that load raises no alarm. A secondary whose primary is silent asks it how it is, and proposes to
//! go on without it when nothing comes back in time; so it does when a client asks it and the primary's answer
//! does not satisfy the policy. A primary proposes to go on without a silent secondary (`wish` says with whom).
//! A proposal is a wish: until its outcome is known it is repeated word for word, nothing else is
//! proposed, and the head goes on under the old pair, asking its members and the wished ones (P-02). Only who
//! does not lead gives one up, when the primary that it goes without is heard again: a fault that is over moves
//! nothing (MA-19), however late its wish would come through.
//! Of several secondaries that propose one wins; the others follow it, and rest before they try again (MA-18).
//!
//! A head that was paused itself takes nobody for silent: it begins to listen anew.

use super::core::Core;
use super::health::{Clients, Health, Policy, keeps};
use super::part::{Part, Phase};
use super::told::Told;
use crate::wire::*;
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeMap;
use std::time::Duration;

/// After a decline, no further wish under the same pair before.
const REST: Duration = Duration::from_secs(1);

/// How fast a head takes another for dead (DESIGN, "Failover"), and how it judges one that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    /// Between two heartbeats to a peer, and between two looks at who is silent.
    pub heartbeat: Duration,
    /// Without a message for so long a peer is silent.
    pub silence: Duration,
    /// How long a health check may take.
    pub confirm: Duration,
    /// When a primary that answers keeps its role (MA-14).
    pub policy: Policy,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(25),
            silence: Duration::from_millis(100),
            confirm: Duration::from_millis(50),
            policy: Policy::Any,
        }
    }
}

impl FailoverConfig {
    /// `timers = "slow"`: everything ten times as slow, for hosts that are short of CPU.
    pub fn slow(self) -> Self {
        let Self { heartbeat, silence, confirm, policy } = self;
        Self { heartbeat: heartbeat * 10, silence: silence * 10, confirm: confirm * 10, policy }
    }
}

/// What was heard of a peer.
#[derive(Clone, Copy, Debug)]
struct Life {
    boot: BootId,
    heard: Time,
    beats: u64,
}

/// The head's ear.
#[derive(Debug, Default)]
pub(super) struct Watch {
    lives: BTreeMap<NodeId, Life>,
    at: Time,
    looked: Time,
    /// Names questions and proposals of this boot.
    nonce: u64,
}

/// What is under way about a partition's group.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// The open health check, and when it was sent first.
    asked: Option<(ReqId, Time)>,
    /// A client asks here for a volume that is served elsewhere; its I/O.
    requester: Option<u64>,
    /// The wish whose outcome is not known, and when it is repeated.
    wish: Option<(Proposal, Time)>,
    wished_at: Time,
    rest: Time,
    /// A grant of which only control spoke so far.
    pub(super) told: Option<Told>,
    paused: bool,
    clients: Clients,
    io_at: Time,
}

impl Decision {
    /// The wish whose outcome is not known.
    pub(super) fn wished(&self) -> Option<&Proposal> {
        self.wish.as_ref().map(|(wish, _)| wish)
    }
}

impl Part {
    /// Whether a wish is open that names a member beyond the pair which is not counted yet: it may be granted
    /// already, so that what the pair alone confirms is not enough (P-02).
    pub(super) fn widened(&self) -> bool {
        self.decision.wish.as_ref().is_some_and(|(wish, _)| {
            let new = |wished: &&Member| self.members.iter().all(|held| held.head != wished.head);
            wish.members.iter().filter(new).any(|wished| !self.counts_for(wished))
        })
    }

    /// A pair was granted: was it the wish?
    pub(super) fn granted(&mut self, members: usize) {
        let wish = self.decision.wish.as_ref().map(|(wish, _)| wish.clone());
        self.bless(wish.as_ref(), members);
    }

    /// Whether the outcome of a wish is awaited.
    pub(super) fn proposing(&self) -> bool {
        self.decision.wish.is_some()
    }

    /// A newer pair than the wish was made against: it cannot be granted any more, or was just that.
    pub(super) fn moved_on(&mut self, number: Number) {
        let decision = &mut self.decision;
        decision.wish = decision.wish.take().filter(|(wish, _)| number <= wish.expected.number);
        (decision.asked, decision.requester) = (None, None);
    }

    /// Whether nothing is proposed now, because something was declined lately.
    pub(super) fn resting(&self, now: Time) -> bool {
        self.decision.rest > now
    }

    /// After a decline nothing is proposed before.
    pub(super) fn rest_until(&self) -> Time {
        self.decision.rest
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.decision.paused = paused;
    }

    pub(super) fn set_clients(&mut self, now: Time, clients: Clients) {
        // A count over a window falls by itself.
        if clients.io > self.decision.clients.io {
            self.decision.io_at = now;
        }
        self.decision.clients = clients;
    }
}

impl Core {
    /// Any message is a sign of life.
    pub(super) fn hear(&mut self, now: Time, from: NodeId, boot: BootId) {
        if self.cfg.failover.is_some()
            && let Some(life) = self.watch.lives.get_mut(&from)
        {
            (life.boot, life.heard) = (boot, now);
        }
    }

    /// The process of that boot is said to be gone: it counts as silent from now on, so that it is asked at once. One
    /// that lives after all speaks before the check is over, and nothing comes of it.
    pub(super) fn gone(&mut self, now: Time, head: NodeId, boot: BootId) {
        let Some(cfg) = self.cfg.failover else { return };
        let Some(life) = self.watch.lives.get_mut(&head).filter(|life| life.boot == boot) else { return };
        life.heard = life.heard.min(Time(now.0.saturating_sub(cfg.silence.as_nanos() as u64)));
        (self.busy, self.watch.at) = (true, Time::ZERO);
    }

    /// Sends heartbeats and looks who is silent, every while. Runs each turn, after the turn's messages.
    pub(super) fn watch(&mut self, now: Time, out: &mut Out) {
        let Some(cfg) = self.cfg.failover else { return };
        let at = self.watch.at;
        if now < at {
            return self.arm(at);
        }
        // Who was not there himself cannot tell who was silent.
        let slept = now.since(self.watch.looked) >= cfg.silence;
        (self.watch.looked, self.watch.at) = (now, now + cfg.heartbeat);
        self.arm(now + cfg.heartbeat);
        if slept {
            self.watch.lives.values_mut().for_each(|life| life.heard = now);
            (0..self.parts.len()).for_each(|p| self.parts[p].decision.asked = None);
        }
        self.beat(now, out);
        for p in 0..self.parts.len() {
            self.look(now, p, &cfg, out);
        }
    }

    /// One heartbeat to every head that this one shares a pair with.
    fn beat(&mut self, now: Time, out: &mut Out) {
        let mut peers: SmallVec<[Member; 8]> = SmallVec::new();
        for part in self.parts.iter() {
            let has_role = !matches!(part.phase, Phase::Idle | Phase::Stopped(_));
            let own = part.members.iter().chain(part.peers.iter().map(|peer| &peer.member));
            let awaited = part.awaited().map(|told| &told.members);
            for member in own.filter(|_| has_role).chain(awaited.into_iter().flatten()) {
                if member.head != self.cfg.node && peers.iter().all(|known| known.head != member.head) {
                    peers.push(*member);
                }
            }
        }
        self.watch.lives.retain(|head, _| peers.iter().any(|peer| peer.head == *head));
        for peer in peers {
            let fresh = Life { boot: peer.boot, heard: now, beats: 0 };
            let life = self.watch.lives.entry(peer.head).or_insert(fresh);
            life.beats += 1;
            out.net.push((peer.head, Msg::Heartbeat { sent: life.beats }));
        }
    }

    /// When the member's boot was heard last; now, if it is not listened to yet.
    pub(super) fn heard_of(&self, now: Time, member: &Member) -> Time {
        let life = self.watch.lives.get(&member.head);
        life.map_or(now, |life| if life.boot == member.boot { life.heard } else { Time::ZERO })
    }

    fn look(&mut self, now: Time, p: usize, cfg: &FailoverConfig, out: &mut Out) {
        self.relent(now, p);
        if self.repeat_wish(now, p, out) || self.parts[p].decision.rest > now {
            return;
        }
        if self.look_at_awaited(now, p, cfg, out) {
            return;
        }
        let part = &self.parts[p];
        match (part.phase, part.members.first()) {
            (Phase::Following, Some(&primary)) => self.look_at_primary(now, p, primary, cfg, out),
            (Phase::Probing | Phase::Announcing | Phase::Serving, _) => self.look_at_peers(now, p, cfg, out),
            _ => {}
        }
    }

    /// Gives up the wish to go on without a primary that has been heard since. It may be granted all the same:
    /// who does not lead has nothing to answer by it until then, and the grant comes as any other (P-02).
    fn relent(&mut self, now: Time, p: usize) {
        let part = &self.parts[p];
        let silence = |wish: &&Proposal| wish.why == Why::Silence && !part.leads();
        let Some(wish) = part.decision.wished().filter(silence) else { return };
        let held = part.members.first().filter(|_| part.stamp == wish.expected);
        let told = part.awaited().filter(|told| told.stamp == wish.expected);
        let heard = held.or(told.and_then(Assignment::primary)).map(|primary| self.heard_of(now, primary));
        if heard.is_some_and(|heard| heard > part.decision.wished_at) {
            self.parts[p].decision.wish = None;
        }
    }

    /// Says an open wish again when it is time (P-02); whether there is one.
    pub(super) fn repeat_wish(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let Some((wish, again)) = &mut self.parts[p].decision.wish else { return false };
        if *again <= now {
            *again = now + self.cfg.retry.last;
            out.events.push(Event::Propose(wish.clone()));
        }
        let at = *again;
        self.arm(at);
        true
    }

    fn look_at_primary(&mut self, now: Time, p: usize, primary: Member, cfg: &FailoverConfig, out: &mut Out) {
        let heard = self.heard_of(now, &primary);
        let decision = &self.parts[p].decision;
        let wanted = decision.requester.is_some() || now.since(heard) >= cfg.silence;
        let asks = decision.requester.is_some();
        match decision.asked {
            _ if !wanted => self.parts[p].decision.asked = None,
            None => self.ask_health(now, p, primary.head, out),
            // A client waits: what counts then is the answer, not that there are other messages.
            Some((_, at)) if now.since(at) >= cfg.confirm && (heard <= at || asks) => {
                // A move away from a primary that said nothing since is none that MA-17 counts.
                let why = if heard <= at { Why::Silence } else { Why::ClientAsked };
                let others = self.heard_others(now, p, primary.head, cfg);
                let isolated = others.is_empty() && self.parts[p].members.len() > 2;
                if !isolated || now.since(at) >= 2 * (cfg.confirm + cfg.silence) {
                    self.propose(now, p, &others, why, out);
                }
            }
            Some(_) => {}
        }
    }

    fn ask_health(&mut self, now: Time, p: usize, to: NodeId, out: &mut Out) {
        self.watch.nonce += 1;
        let req = ReqId(self.watch.nonce);
        let part = &mut self.parts[p];
        part.decision.asked = Some((req, now));
        out.net.push((to, Msg::HealthAsk { req, held: part.stamp }));
    }

    /// How the partition is here, said at once (MA-13). Who asks under another pair learns that.
    pub(super) fn on_health_ask(&self, now: Time, from: NodeId, req: ReqId, held: Stamp, out: &mut Out) {
        let Some(p) = self.parts.find(held.partition) else { return };
        let part = &self.parts[p];
        let Clients { connected, associated, busiest, io } = part.decision.clients;
        let serving = self.is_primary(p) && !matches!(part.phase, Phase::Stopped(_)) && !self.log.failed();
        let idle_ms = now.since(part.decision.io_at).as_millis() as u64;
        let (held, paused) = (part.stamp, part.decision.paused);
        let msg = Msg::Health { req, held, serving, connected, associated, busiest, io, idle_ms, paused };
        out.net.push((from, msg));
    }

    /// The primary answered: the policy has the word (MA-14).
    pub(super) fn on_health(
        &mut self,
        now: Time,
        from: NodeId,
        req: ReqId,
        held: Stamp,
        health: &Health,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(held.partition) else { return };
        let cfg = self.cfg.failover.unwrap_or_default();
        let part = &mut self.parts[p];
        let primary = part.members.first().copied().filter(|first| first.head == from);
        let open = part.decision.asked.is_some_and(|(asked, _)| asked == req);
        let (Some(primary), true, Phase::Following) = (primary, open, part.phase) else { return };
        part.decision.asked = None;
        let requester = part.decision.requester.take();
        if held != part.stamp {
            // One of the two is behind: not the time to propose.
            return;
        }
        let mut others = self.heard_others(now, p, primary.head, &cfg);
        match requester {
            _ if !health.serving && !health.paused => self.propose(now, p, &others, Why::Unhealthy, out),
            Some(io) if !keeps(cfg.policy, health, io) => {
                others.insert(0, primary);
                self.propose(now, p, &others, Why::ClientAsked, out);
            }
            _ => {}
        }
    }

    /// Wishes this head for primary, with `others` or alone.
    pub(super) fn propose(&mut self, now: Time, p: usize, others: &[Member], why: Why, out: &mut Out) {
        if others.is_empty() && self.parts[p].behind() {
            return;
        }
        let me = Member { head: self.cfg.node, log: self.log.id(), boot: self.cfg.boot };
        let mut members: SmallVec<[Member; 3]> = smallvec![me];
        members.extend_from_slice(others);
        self.propose_group(now, p, members, why, false, out);
    }

    /// A name for a question of this boot.
    pub(super) fn name_question(&mut self) -> u64 {
        self.watch.nonce += 1;
        self.watch.nonce
    }

    /// Wishes a group; `caught_up` vouches for all of it (MA-21).
    pub(super) fn propose_group(
        &mut self,
        now: Time,
        p: usize,
        members: SmallVec<[Member; 3]>,
        why: Why,
        caught_up: bool,
        out: &mut Out,
    ) {
        let nonce = self.name_question();
        let again = now + self.cfg.retry.last;
        let part = &mut self.parts[p];
        let (partition, expected) = (part.cfg.partition, part.pair());
        let wish = Proposal { partition, expected, members, nonce, why, caught_up };
        (part.decision.wish, part.decision.wished_at) = (Some((wish.clone(), again)), now);
        (part.decision.asked, part.decision.requester) = (None, None);
        part.stats.counters.proposals += 1;
        out.events.push(Event::Propose(wish));
    }

    /// What became of a wish. A grant is taken as any other; a decline ends the wish, and only tells what is
    /// newest (MA-18).
    pub(super) fn outcome(
        &mut self,
        now: Time,
        partition: PartitionId,
        nonce: u64,
        outcome: ProposalOutcome,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(partition) else { return };
        self.busy = true;
        let decision = &mut self.parts[p].decision;
        let Some((wish, _)) = decision.wish.take_if(|(wish, _)| wish.nonce == nonce) else { return };
        if let ProposalOutcome::Granted(granted) = &outcome {
            self.parts[p].bless(Some(&wish), granted.members.len());
        }
        let decision = &mut self.parts[p].decision;
        match outcome {
            ProposalOutcome::Granted(assignment) => self.assign(now, assignment, out),
            ProposalOutcome::Declined { newest } => {
                decision.rest = now + REST;
                if let Some(newest) = newest
                    && self.is_primary(p)
                {
                    self.met(p, newest.stamp, out);
                }
            }
        }
    }

    /// A client wants the volume here, where it is not primary (MA-14). Requests while one is judged are one.
    pub(super) fn client_asks(&mut self, partition: PartitionId, io: u64) {
        let Some(p) = self.parts.find(partition) else { return };
        let part = &mut self.parts[p];
        if self.cfg.failover.is_some() && part.phase == Phase::Following && part.decision.wish.is_none() {
            let most = part.decision.requester.map_or(io, |other| other.max(io));
            part.decision.requester = Some(most);
            (self.busy, self.watch.at) = (true, Time::ZERO);
        }
    }
}
