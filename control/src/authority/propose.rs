//! A head proposes another group (MA-04, MA-05, BA-06): compare-and-set of (number, group), decided by what
//! the store knows, durable before it is answered, and answered alike when it is asked again (P-02).
//!
//! Whether a change is wise (who is silent, what the policy of MA-14 says) is for the heads to decide; here
//! only what could lose data is refused: another pair than the newest, a proposer or primary that is not of
//! the old group, a member that may lack acknowledged writes. A group of one is leave to be alone; what a head
//! may acknowledge then is the volume's policy (`solo`, P-30), which its heads know.

use palisade_protocol::wire::limits::MEMBERS_MAX;
use palisade_protocol::wire::{
    Assignment, BootId, GrantId, Member, NodeId, PartitionId, Proposal, ProposalOutcome, Stamp, Why,
};

use super::grant::Grant;
use super::record::{
    BootJson, LogJson, MemberRecord, NodeRecord, PermissionRecord, Record, VolumeRecord, VolumeState,
};
use super::{Authority, Changes};
use crate::api::model::Role;

/// Moves of one volume within [`PAUSE_WINDOW_MS`] from which on a primary that answers is left in place.
pub const PAUSE_MOVES: usize = 3;
/// How long a move counts (MA-17), in milliseconds.
pub const PAUSE_WINDOW_MS: u64 = 600_000;
/// Heads whose newest decided proposal is kept, per volume; more than ever are members at a time.
const PERMISSIONS_MAX: usize = 4 * MEMBERS_MAX;

/// What was decided about a proposal. `outcome` may be told once `changes` are durable and applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// For the proposer.
    pub outcome: ProposalOutcome,
    /// Why it was declined; empty when it was granted.
    pub why: String,
    /// To be carried out; empty when the answer was given before.
    pub changes: Changes,
    /// No answer goes out: the volume is in doubt, and what is asked may have been granted (P-04). Who asked asks again.
    pub withheld: bool,
}

impl VolumeRecord {
    /// The newest pair as a stamp; none before the first grant.
    pub fn stamp(&self) -> Option<Stamp> {
        let granted = !self.members.is_empty();
        granted.then(|| Stamp {
            partition: self.partition(),
            number: self.number(),
            grant: GrantId(self.grant),
        })
    }

    /// Whether so many moves were made lately that a primary that answers stays in place (MA-17). A silent
    /// one may still be replaced.
    pub fn paused(&self, now_ms: u64) -> bool {
        let recent = |moved: &&u64| now_ms.checked_sub(**moved).is_some_and(|age| age < PAUSE_WINDOW_MS);
        self.moved_ms.iter().filter(recent).count() >= PAUSE_MOVES
    }
}

impl Authority {
    /// The newest pair of a partition (MA-05).
    pub fn query(&self, partition: PartitionId) -> Option<Assignment> {
        self.assignment(partition)
    }

    /// Decides a proposal of a head's boot. `now_ms` (since 1970) is kept with moves for MA-17 and decides
    /// nothing here.
    pub fn propose(&self, proposer: NodeId, boot: BootId, proposal: &Proposal, now_ms: u64) -> Verdict {
        let living = |volume: &&VolumeRecord| volume.state != VolumeState::Deleted;
        let Some(volume) = self.volumes.get(&proposal.partition.0).filter(living) else {
            return declined(None, "there is no such volume");
        };
        if volume.in_doubt() && !self.faults.doubt_answered {
            // A head that hears "declined" goes on with the group of before, where one that was granted and
            // forgotten may stand: it hears nothing before the newest group is known.
            let why = "the volume is in doubt: its store was put back, and not every head was heard (P-04)";
            return Verdict { withheld: true, ..declined(None, why) };
        }
        let newest = volume.assignment();
        // Before anything else: whatever came since, also a late word of another boot, the answer stands.
        match self.decided_before(volume, proposer, boot, proposal) {
            Some(Ok(granted)) => {
                let outcome = ProposalOutcome::Granted(granted);
                return Verdict { outcome, ..declined(None, "") };
            }
            Some(Err(why)) => return declined(newest, why),
            None => {}
        }
        let Some(node) = self.newest_boot(proposer, boot) else {
            return declined(newest, "it comes from a boot that is over");
        };
        let newest_stamp = volume.stamp();
        if newest_stamp != Some(proposal.expected) && !self.faults.compare_skipped {
            // Numbers rise: what is not the newest pair now never will be, so nothing need be remembered.
            return declined(newest, "another pair is the newest");
        }
        match self.judge(volume, node, proposal) {
            Ok(()) => self.grant_wish(volume, node, boot, proposal, now_ms),
            Err(why) => {
                let permission = permission(node, boot, proposal, None);
                let (mut changes, mut volume) = (Changes::default(), volume.clone());
                remember(&mut volume, permission);
                changes.put(Record::Volume(volume));
                Verdict { changes, ..declined(newest, &why) }
            }
        }
    }

    fn grant_wish(
        &self,
        before: &VolumeRecord,
        proposer: &NodeRecord,
        boot: BootId,
        proposal: &Proposal,
        now_ms: u64,
    ) -> Verdict {
        let vouched = proposal.caught_up && proposer.node == before.current_primary();
        let taken = |member| before.taken_over(member, vouched);
        let members = proposal.members.iter().map(taken).collect();
        let why = format!("{} proposed it: {}", proposer.name, proposal.why);
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        let mut volume = grant.prepare(before, members, why);
        if counts(proposal.why) && volume.current_primary() != before.current_primary() {
            volume.moved_ms.push(now_ms);
            let excess = volume.moved_ms.len().saturating_sub(PAUSE_MOVES);
            volume.moved_ms.drain(..excess);
        }
        let granted = volume.assignment();
        remember(&mut volume, permission(proposer, boot, proposal, granted.clone()));
        changes.put(Record::Volume(volume));
        changes.put(Record::Meta(meta));
        let outcome = granted.map_or(ProposalOutcome::Declined { newest: None }, ProposalOutcome::Granted);
        Verdict { outcome, why: String::new(), changes, withheld: false }
    }

    /// The primary serves the newest pair: every member holds what was acknowledged (P-13), so that those who
    /// came back may take over from now on.
    pub fn served(&self, head: NodeId, stamp: Stamp) -> Changes {
        let mut changes = Changes::default();
        // In doubt nobody knows whether that pair still is the newest.
        let volume = self.volumes.get(&stamp.partition.0).filter(|volume| !volume.in_doubt());
        let Some(volume) = volume else { return changes };
        let serves = volume.stamp() == Some(stamp) && volume.current_primary() == head;
        let alone = self.alone_served(volume, stamp);
        if serves && (alone.is_some() || volume.members.iter().any(|member| member.joining)) {
            let mut volume = alone.unwrap_or_else(|| volume.clone());
            volume.members.iter_mut().for_each(|member| member.joining = false);
            changes.put(Record::Volume(volume));
        }
        changes
    }

    pub(super) fn newest_boot(&self, head: NodeId, boot: BootId) -> Option<&NodeRecord> {
        self.nodes.get(&head.0).filter(|node| node.role == Role::Head && node.boot == Some(BootJson(boot)))
    }

    /// The answer that this very proposal got, or why it is not this very proposal.
    fn decided_before(
        &self,
        volume: &VolumeRecord,
        proposer: NodeId,
        boot: BootId,
        proposal: &Proposal,
    ) -> Option<Result<Assignment, &'static str>> {
        if self.faults.permission_forgotten {
            return None;
        }
        let of = |known: &&PermissionRecord| known.proposer == proposer && known.boot == boot;
        let known = volume.permissions.iter().find(of)?;
        if proposal.nonce > known.proposal.nonce {
            return None;
        }
        if proposal.nonce < known.proposal.nonce {
            return Some(Err("it was followed by another proposal"));
        }
        if *proposal != known.proposal {
            return Some(Err("its nonce named another proposal"));
        }
        Some(known.granted.clone().ok_or("it was declined before"))
    }

    /// Whether the wanted group can follow the newest one.
    fn judge(&self, volume: &VolumeRecord, proposer: &NodeRecord, proposal: &Proposal) -> Result<(), String> {
        let wanted = &proposal.members;
        if volume.in_doubt() {
            return Err(
                "the volume is in doubt: its store was put back, and not every head was heard (P-04)"
                    .to_owned(),
            );
        }
        if proposal.partition != proposal.expected.partition {
            return Err("it names two partitions".to_owned());
        }
        if wanted.is_empty() || wanted.len() > MEMBERS_MAX {
            return Err(format!("a group has 1 to {MEMBERS_MAX} members"));
        }
        for (index, member) in wanted.iter().enumerate() {
            if wanted[..index].iter().any(|other| other.head == member.head) {
                return Err(format!("head {} stands in it twice", member.head));
            }
            let vouched = proposal.caught_up && proposer.node == volume.current_primary();
            self.judge_member(volume, member, (vouched, wanted.len()))?;
        }
        let of_old = |member: &MemberRecord| {
            member.head == proposer.node
                && Some(BootJson(member.boot)) == proposer.boot
                && Some(LogJson(member.log)) == proposer.log
        };
        if proposal.why == Why::Isolation
            && let Some(well) = volume.members.iter().find(|member| !self.isolates(member.head))
        {
            return Err(format!(
                "{} does not isolate: the ordinary way is open (BA-02)",
                self.name_of(well.head)
            ));
        }
        if !volume.members.iter().any(of_old) {
            return Err("its proposer is not of the newest group (MA-05)".to_owned());
        }
        let first = wanted.first().map(|member| member.head);
        let primary = volume.members.iter().find(|member| Some(member.head) == first);
        let primary = primary.ok_or("its primary is not of the newest group (MA-04)")?;
        let may_lack = primary.joining && volume.current_primary() != primary.head;
        if may_lack && !self.faults.joiner_trusted {
            return Err("its primary came back and is not refilled yet (MA-21)".to_owned());
        }
        Ok(())
    }

    /// P-01, P-03: a member is a head under its newest boot with the log that it always had.
    fn judge_member(
        &self,
        volume: &VolumeRecord,
        member: &Member,
        (vouched, wanted): (bool, usize),
    ) -> Result<(), String> {
        let head = member.head;
        let node = self.newest_boot(head, member.boot);
        let node = node.ok_or_else(|| format!("head {head} is not under that boot (P-01)"))?;
        if node.log != Some(LogJson(member.log)) {
            return Err(format!("{} has another log (P-03)", node.name));
        }
        match volume.members.iter().find(|known| known.head == head) {
            Some(known) if known.log != member.log => {
                Err(format!("{} was a member with another log (P-03)", node.name))
            }
            None if !vouched => {
                Err(format!("{} is not of the newest group and nobody vouches for it (MA-21)", node.name))
            }
            None if !self.faults.anybody_joins && !volume.awaits(head, wanted) => {
                Err(format!("{} is not a head that this volume waits for (MA-21)", node.name))
            }
            _ => Ok(()),
        }
    }
}

impl VolumeRecord {
    /// A wanted member as it is recorded: what it lacks it still lacks, unless the primary vouches for it.
    fn taken_over(&self, member: &Member, vouched: bool) -> MemberRecord {
        let known = self.members.iter().find(|known| known.head == member.head);
        let joining = known.is_some_and(|known| known.joining) && !vouched;
        MemberRecord { head: member.head, log: member.log, boot: member.boot, joining, lost: false }
    }
}

/// Keeps the newest decided proposal of a head.
fn remember(volume: &mut VolumeRecord, permission: PermissionRecord) {
    volume.permissions.retain(|known| known.proposer != permission.proposer);
    volume.permissions.push(permission);
    let excess = volume.permissions.len().saturating_sub(PERMISSIONS_MAX);
    volume.permissions.drain(..excess);
}

/// Moves that MA-17 counts: those that a policy decided while the primary answered.
fn counts(why: Why) -> bool {
    matches!(why, Why::Unhealthy | Why::ClientAsked)
}

fn permission(
    proposer: &NodeRecord,
    boot: BootId,
    proposal: &Proposal,
    granted: Option<Assignment>,
) -> PermissionRecord {
    PermissionRecord { boot, proposal: proposal.clone(), proposer: proposer.node, granted }
}

fn declined(newest: Option<Assignment>, why: &str) -> Verdict {
    let outcome = ProposalOutcome::Declined { newest };
    Verdict { outcome, why: why.to_owned(), changes: Changes::default(), withheld: false }
}
