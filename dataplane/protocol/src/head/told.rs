//! A group that was granted, and whose primary does not come forward (MA-15: "crash between grant and step 3").
//!
//! Control tells every member of a new group; its primary then probes and announces. When that one dies before
//! it could, nobody holds the pair that is the newest one, and nothing could be proposed against it. So a member
//! remembers what it was told, and when it has heard nothing of that primary for long it proposes to go on
//! without it, as it would under a pair that it holds. Whether it may lack what was acknowledged the authority
//! knows (MA-21), and compare-and-set decides between several.

use super::core::Core;
use super::failover::FailoverConfig;
use super::part::{Part, Phase};
use super::wish::Others;
use crate::wire::*;

/// Patience with a primary that was not heard yet, in times of what a silent one gets: control may have told
/// others first, and it may be starting.
const PATIENCE: u32 = 4;

/// A grant of which only control spoke so far.
#[derive(Clone, Debug)]
pub(super) struct Told {
    assignment: Assignment,
    since: Time,
}

impl Part {
    /// Remembers a grant in which another head leads.
    pub(super) fn tell(&mut self, now: Time, assignment: Assignment) {
        let known = self.decision.told.as_ref().is_some_and(|told| told.assignment.stamp == assignment.stamp);
        if !known {
            self.decision.told = Some(Told { assignment, since: now });
        }
    }

    /// The grant that this head was told of, if nothing newer came to it.
    pub(super) fn awaited(&self) -> Option<&Assignment> {
        self.told_of().map(|told| &told.assignment)
    }

    fn told_of(&self) -> Option<&Told> {
        let waits = !self.leads() && self.adoption.is_none();
        self.decision.told.as_ref().filter(|told| {
            let number = told.assignment.stamp.number;
            waits && number > self.stamp.number && number >= self.promise.number
        })
    }
}

impl Core {
    /// Looks at a primary that has not come forward. Says whether there is one.
    pub(super) fn look_at_awaited(
        &mut self,
        now: Time,
        p: usize,
        cfg: &FailoverConfig,
        out: &mut Out,
    ) -> bool {
        let part = &self.parts[p];
        let Some(told) = part.told_of() else { return false };
        let members = &told.assignment.members;
        let Some(primary) = members.first() else { return false };
        let heard = self.heard_of(now, primary).max(told.since);
        let able =
            !part.damaged && !matches!(part.phase, Phase::Stopped(why) if why != super::assign::SECONDARY);
        let others: Others = members
            .iter()
            .filter(|member| member.head != primary.head && member.head != self.cfg.node)
            .filter(|member| now.since(self.heard_of(now, member)) < cfg.silence)
            .copied()
            .collect();
        if able && now.since(heard) >= PATIENCE * (cfg.silence + cfg.confirm) {
            self.propose(now, p, &others, Why::Silence, out);
        }
        true
    }
}
