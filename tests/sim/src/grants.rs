//! The authority of the simulated rack: grants a new number for every boot of a member (P-01), durable
//! before it is released. Its own store is in memory and survives its crashes.

use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// One partition's roles and newest grant.
#[derive(Clone, Debug)]
struct Granted {
    heads: Vec<NodeId>,
    number: Number,
    grant: GrantId,
    members: Vec<Member>,
}

/// What the authority keeps durable.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    partitions: BTreeMap<PartitionId, Granted>,
    boots: BTreeMap<NodeId, (BootId, LogId)>,
    next_grant: u64,
    version: u64,
}

impl Grants {
    /// Declares a partition with its primary and secondary.
    pub fn declare(&mut self, partition: PartitionId, heads: Vec<NodeId>) {
        let number = Number { epoch: 1, counter: 0 };
        self.partitions.insert(partition, Granted { heads, number, grant: GrantId(0), members: Vec::new() });
    }

    /// Rises with every change; a change of an older version than the newest is void.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A head came up, or asks again. The state to make durable before the assignments leave.
    pub fn boot(&self, head: NodeId, boot: BootId, log: LogId) -> (Self, Vec<Assignment>) {
        let mut next = self.clone();
        next.version += 1;
        let fresh = next.boots.insert(head, (boot, log)) != Some((boot, log));
        let mut assignments = Vec::new();
        for (partition, granted) in &mut next.partitions {
            if !granted.heads.contains(&head) {
                continue;
            }
            if fresh || granted.members.is_empty() {
                let members: Option<Vec<Member>> = granted
                    .heads
                    .iter()
                    .map(|head| {
                        next.boots.get(head).map(|(boot, log)| Member { head: *head, log: *log, boot: *boot })
                    })
                    .collect();
                let Some(members) = members else { continue };
                next.next_grant += 1;
                granted.members = members;
                granted.number.counter += 1;
                granted.grant = GrantId(next.next_grant);
            }
            let stamp = Stamp { partition: *partition, number: granted.number, grant: granted.grant };
            assignments.push(Assignment { stamp, members: granted.members.clone() });
        }
        (next, assignments)
    }
}
