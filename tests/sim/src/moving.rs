//! An authority that moves roles: groups by compare-and-set, as MA-05 and SoloByLeave have it, for runs in
//! which roles do not stay where control first put them. One decision at a time: decided, made durable, told.
//! A head that is no member joins as secondary when it asks; one that booted anew gets a new number (P-01).

use crate::clients::Volume;
use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// A partition's group.
#[derive(Clone, Debug)]
struct Group {
    home: [NodeId; 2],
    newest: Option<Assignment>,
    /// What became of proposals, by proposer's boot and nonce (P-02).
    judged: BTreeMap<(BootId, u64), ProposalOutcome>,
}

/// Everything that it knows; a decision is the whole of it.
#[derive(Clone, Debug)]
pub struct Groups {
    booted: BTreeMap<NodeId, Member>,
    groups: BTreeMap<PartitionId, Group>,
    counter: u64,
}

/// A decision, to be made durable before anyone hears of it.
#[derive(Clone, Debug)]
pub struct Move {
    /// The new state.
    pub after: Groups,
    /// Pairs to tell their members.
    pub told: Vec<Assignment>,
    /// What to tell the proposer.
    pub answer: Option<(NodeId, PartitionId, u64, ProposalOutcome)>,
}

impl Groups {
    /// Nobody has booted yet.
    pub fn found(volumes: &[Volume]) -> Self {
        let group = |volume: &Volume| {
            let home = [volume.primary, volume.secondary];
            (volume.partition, Group { home, newest: None, judged: BTreeMap::new() })
        };
        Self { booted: BTreeMap::new(), groups: volumes.iter().map(group).collect(), counter: 0 }
    }

    fn grant(&mut self, partition: PartitionId, members: Vec<Member>) -> Assignment {
        self.counter += 1;
        let number = Number { epoch: 1, counter: self.counter };
        let stamp = Stamp { partition, number, grant: GrantId(self.counter + 7000) };
        let granted = Assignment { stamp, members };
        if let Some(group) = self.groups.get_mut(&partition) {
            group.newest = Some(granted.clone());
        }
        granted
    }

    /// A head booted, or asks again.
    pub fn boot(&self, head: NodeId, boot: BootId, log: LogId) -> Move {
        let mut after = self.clone();
        after.booted.insert(head, Member { head, log, boot });
        let mut told = Vec::new();
        for (&partition, group) in self.groups.iter().filter(|(_, group)| group.home.contains(&head)) {
            let mut heads: Vec<NodeId> = match &group.newest {
                Some(newest) => newest.members.iter().map(|member| member.head).collect(),
                None => group.home.to_vec(),
            };
            if !heads.contains(&head) {
                heads.push(head);
            }
            let members: Option<Vec<Member>> =
                heads.iter().map(|head| after.booted.get(head).copied()).collect();
            match (members, &group.newest) {
                (Some(members), Some(newest)) if members == newest.members => told.push(newest.clone()),
                (Some(members), _) => told.push(after.grant(partition, members)),
                (None, _) => {}
            }
        }
        Move { after, told, answer: None }
    }

    /// Primary and secondary change places.
    pub fn flip(&self, partition: PartitionId) -> Option<Move> {
        let newest = self.groups.get(&partition)?.newest.as_ref()?;
        let mut members = newest.members.clone();
        if members.len() < 2 {
            return None;
        }
        members.reverse();
        let mut after = self.clone();
        let told = vec![after.grant(partition, members)];
        Some(Move { after, told, answer: None })
    }

    /// A head proposes: granted against the newest pair only, and answered alike when repeated.
    pub fn propose(&self, from: NodeId, wish: &Proposal) -> Option<Move> {
        let mut after = self.clone();
        let group = self.groups.get(&wish.partition)?;
        let key = (wish.members.first()?.boot, wish.nonce);
        let mut told = Vec::new();
        let outcome = group.judged.get(&key).cloned().unwrap_or_else(|| {
            let newest = group.newest.as_ref();
            let fits = newest.is_some_and(|newest| {
                newest.stamp == wish.expected && wish.members.iter().all(|m| newest.members.contains(m))
            });
            if fits {
                let granted = after.grant(wish.partition, wish.members.to_vec());
                told.push(granted.clone());
                ProposalOutcome::Granted(granted)
            } else {
                ProposalOutcome::Declined { newest: newest.cloned() }
            }
        });
        after.groups.get_mut(&wish.partition)?.judged.insert(key, outcome.clone());
        Some(Move { after, told, answer: Some((from, wish.partition, wish.nonce, outcome)) })
    }
}
