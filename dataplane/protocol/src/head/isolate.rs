//! Members that all isolate (BA-02): the one that is best off goes on alone, until a healthy head takes over.
//!
//! Volumes have to leave a head that isolates. Control moves them to members that do not, or fills such ones;
//! nothing of that is here. When *every* member isolates, they ask each other directly, and the best of them
//! wishes to be alone, which costs one number. On the grant the mark is lifted for that volume: it is served there
//! until the head that control has filled takes over. The mark of the host stays.
//!
//! Scores are compared by the heads: clients of the standard protocols cannot carry them. So no client is refused
//! either: the group of before serves until the grant, and what it acknowledges meanwhile is held by all of
//! it (P-02). A member that gives no answer in time is for the ordinary decision (MA-14), and so is one that is well
//! again. A volume that waits for two copies when it has one (`solo`) is not taken apart for this: its writes would
//! stop for nothing; its members are replaced one by one.

use super::config::Solo;
use super::core::Core;
use super::part::{Part, Phase};
use crate::wire::*;
use smallvec::{SmallVec, smallvec};
use std::time::Duration;

/// Between two questions to the other members.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// An answer counts for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the other members' state.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    /// The mark was lifted for this volume by a grant.
    lifted: bool,
    /// The open question, and when it was sent.
    asked: Option<(ReqId, Time)>,
    /// Who answered that it isolates, too, and how well it is.
    told: SmallVec<[(NodeId, Score); 3]>,
    at: Time,
}

impl Part {
    /// A pair came into force, or is about to: the leave to be alone lifts the mark.
    pub(super) fn bless(&mut self, wish: Option<&Proposal>, members: usize) {
        self.isolation.lifted |= members == 1 && wish.is_some_and(|wish| wish.why == Why::Isolation);
    }
}

impl Core {
    /// Whether volumes have to leave this head, and why.
    pub(super) fn set_isolating(&mut self, severity: Option<Severity>) {
        if severity.is_some() != self.isolating.is_some() {
            for p in 0..self.parts.len() {
                self.parts[p].isolation = Isolation::default();
            }
        }
        (self.isolating, self.busy) = (severity, true);
    }

    /// Whether this volume has to leave.
    pub(super) fn isolates(&self, part: &Part) -> bool {
        self.isolating.is_some() && !part.isolation.lifted
    }

    /// Asks the other members, and wishes to be alone when all of them isolate and this head is the best. Runs
    /// each turn.
    pub(super) fn look_isolated(&mut self, now: Time, out: &mut Out) {
        if self.isolating.is_none() || self.cfg.failover.is_none() {
            return;
        }
        for p in 0..self.parts.len() {
            let part = &self.parts[p];
            let member = matches!(part.phase, Phase::Following | Phase::Announcing | Phase::Serving);
            let group = part.members.len() > 1 && part.cfg.solo != Solo::Wait;
            if !member || !group || !self.isolates(part) || part.proposing() || part.resting(now) {
                continue;
            }
            let due = part.isolation.at;
            if now < due {
                self.arm(due);
                continue;
            }
            if !self.stand_alone(now, p, out) {
                self.ask_isolated(now, p, out);
            }
        }
    }

    fn ask_isolated(&mut self, now: Time, p: usize, out: &mut Out) {
        let req = ReqId(self.name_question());
        let node = self.cfg.node;
        let part = &mut self.parts[p];
        part.isolation.asked = Some((req, now));
        part.isolation.told.clear();
        part.isolation.at = now + ASK_EVERY;
        for other in part.others(node) {
            out.net.push((other.head, Msg::IsolationAsk { req, held: part.stamp }));
        }
        self.arm(now + ASK_EVERY);
    }

    /// Whether this head may be, and is, the one that goes on: then it wishes that.
    fn stand_alone(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let (own, node) = (self.score(p), self.cfg.node);
        let part = &self.parts[p];
        let Some((_, asked)) = part.isolation.asked else { return false };
        let others = part.others(node);
        let beats = |other: &Member| {
            let told = part.isolation.told.iter().find(|(head, _)| *head == other.head);
            told.is_some_and(|(head, score)| own > *score || (own == *score && node < *head))
        };
        let all = others.iter().all(beats) || self.cfg.faults.isolation_assumed();
        if !all || !own.whole || now.since(asked) >= PATIENCE {
            return false;
        }
        let me = Member { head: node, log: self.log.id(), boot: self.cfg.boot };
        self.propose_group(now, p, smallvec![me], Why::Isolation, false, out);
        true
    }

    /// How well this head is for a partition. The last pair's members hold all that was acknowledged, but for one
    /// that is being refilled.
    fn score(&self, p: usize) -> Score {
        let part = &self.parts[p];
        let follows = part.phase == Phase::Following && !part.behind();
        let leads = matches!(part.phase, Phase::Announcing | Phase::Serving);
        let failed = self.log.failed();
        let whole = (follows || leads) && !failed && self.needs_copy(part) != Some(self.cfg.node);
        let severity = if failed { Severity::Errors } else { self.isolating.unwrap_or(Severity::Planned) };
        let bad = part.bad.len().min(1000) as u16;
        let success = self.medium.success().min(1000 - bad);
        let spare = self.log.free_blocks() * 10 / self.log.capacity_blocks().max(1);
        Score { whole, severity: severity.rank(), success, spare: spare.min(10) as u8 }
    }

    /// Another member asks; who asks under another pair learns that.
    pub(super) fn on_isolation_ask(&mut self, from: NodeId, req: ReqId, held: Stamp, out: &mut Out) {
        let Some(p) = self.parts.find(held.partition) else { return };
        let (isolating, score) = (self.isolates(&self.parts[p]), self.score(p));
        let held = self.parts[p].stamp;
        out.net.push((from, Msg::Isolation { req, held, isolating, score }));
    }

    pub(super) fn on_isolation(
        &mut self,
        now: Time,
        (from, boot): (NodeId, BootId),
        (req, held): (ReqId, Stamp),
        (isolating, score): (bool, Score),
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(held.partition) else { return };
        let part = &mut self.parts[p];
        let open = part.isolation.asked.is_some_and(|(asked, _)| asked == req);
        let member = part.members.iter().any(|member| member.head == from && member.boot == boot);
        let known = part.isolation.told.iter().any(|(head, _)| *head == from);
        if !open || !member || known || held != part.stamp || !isolating {
            return;
        }
        part.isolation.told.push((from, score));
        if !part.proposing() && !part.resting(now) && self.isolates(&self.parts[p]) {
            self.stand_alone(now, p, out);
        }
    }
}
