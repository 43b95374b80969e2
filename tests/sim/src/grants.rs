//! The authority of the simulated rack: the shipping machine of `palisade_control` over its in-memory
//! store, which survives the authority's crashes. One decision is under way at a time: decided, made
//! durable, applied, and only then told; a crash loses or keeps the one under way.

use crate::clients::Volume;
use crate::rack::log_id;
use palisade_control::api::model::Role;
use palisade_control::authority::{
    Authority, Changes, DeviceDeclaration, NodeDeclaration, VolumeRecord, VolumeRequest,
};
use palisade_control::config::{Code, Solo};
use palisade_control::identity::{Identity, Medium};
use palisade_control::store::{Memory, Store};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

/// The authority with its store.
#[derive(Clone, Debug)]
pub struct Grants {
    store: Memory,
    authority: Authority,
    /// How often the store was opened (P-04).
    openings: u64,
}

/// A decision that is not durable yet, and what to tell a proposer once it is.
#[derive(Debug)]
pub struct Decision {
    /// Of the shipping authority.
    pub changes: Changes,
    /// Whom to answer, about which partition and nonce.
    pub answer: Option<(NodeId, PartitionId, u64, ProposalOutcome)>,
}

impl From<Changes> for Decision {
    fn from(changes: Changes) -> Self {
        Self { changes, answer: None }
    }
}

impl Grants {
    /// The store of a new rack: `heads` heads, named 1 to `heads`, and the volumes in order.
    pub fn found(rack: RackId, heads: u32, volumes: &[Volume], code: (u8, u8), solo: Solo) -> Self {
        let mut store = Memory::default();
        let first = Authority::found(rack, 1, "sim");
        store.commit(&first.records).expect("memory does not fail");
        let authority = Authority::load(store.load().expect("memory does not fail")).expect("just founded");
        let mut grants = Self { store, authority, openings: 0 };
        for head in 1..=heads {
            let declared = NodeDeclaration {
                name: head_name(NodeId(head)),
                role: Role::Head,
                shelf: String::new(),
                power: String::new(),
                devices: vec![DeviceDeclaration { name: log_name(NodeId(head)), columns: 0 }],
            };
            let changes = grants.authority.declare_node(&declared).expect("a fresh head");
            grants.keep(changes);
            let id = Identity(log_id(NodeId(head), 0).0);
            let decided = grants.authority.decide_device(&log_name(NodeId(head)), &Medium::Blank, id);
            grants.keep(decided.expect("a blank log").1);
        }
        for volume in volumes {
            let changes =
                grants.authority.create_volume(&request(volume, code, solo)).expect("a fresh volume");
            assert_eq!(changes.created, [volume.partition], "volumes are numbered in order");
            grants.keep(changes);
        }
        grants
    }

    fn keep(&mut self, changes: Changes) {
        let decision = Decision::from(changes);
        self.commit(&decision);
        self.apply(&decision);
    }

    /// A head came up, or asks again: what to make durable, and whom to tell afterwards. `out` says of which groups it
    /// stays out.
    pub fn boot(
        &self,
        head: NodeId,
        boot: BootId,
        log: LogId,
        out: impl Fn(&VolumeRecord) -> bool,
    ) -> Result<Decision, String> {
        let changes = self.authority.boot_beside(head, boot, log, &[], out);
        changes.map(Decision::from).map_err(|error| error.to_string())
    }

    /// Whether a boot of a head has its numbers.
    pub fn knows(&self, head: NodeId, boot: BootId) -> bool {
        self.authority.node(head).and_then(|node| node.boot).is_some_and(|known| known.0 == boot)
    }

    /// Primary and secondary change places, if they may (MA-16).
    pub fn flip(&self, partition: PartitionId) -> Option<Decision> {
        self.authority.switch_over(&volume_name(partition), "drill").ok().map(Decision::from)
    }

    /// A head that is gone ran alone with copies on sleds: another one that is there takes over from them (P-30).
    pub fn follow_lone(&self, gone: impl Fn(NodeId) -> bool) -> Option<Decision> {
        let lone = self.authority.salvageable().find(|volume| gone(volume.current_primary()))?;
        let changes = self.authority.salvage(&lone.name, "gone", |member| !gone(member.head)).ok()?;
        Some(Decision::from(changes))
    }

    /// The authority itself.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The newest pair of a partition.
    pub fn newest(&self, partition: PartitionId) -> Option<Assignment> {
        self.authority.query(partition)
    }

    /// A head serves a pair: its group is complete.
    pub fn served(&self, head: NodeId, stamp: Stamp) -> Option<Decision> {
        let changes = self.authority.served(head, stamp);
        (!changes.records.is_empty()).then(|| Decision::from(changes))
    }

    /// A boot of a head proposes a group.
    pub fn propose(&self, from: NodeId, boot: BootId, wish: &Proposal, now: Time) -> Decision {
        let verdict = self.authority.propose(from, boot, wish, now.0 / 1_000_000);
        Decision {
            changes: verdict.changes,
            answer: Some((from, wish.partition, wish.nonce, verdict.outcome)),
        }
    }

    /// Makes a decision durable.
    pub fn commit(&mut self, decision: &Decision) {
        self.store.commit(&decision.changes.records).expect("memory does not fail");
    }

    /// Takes a durable decision over.
    pub fn apply(&mut self, decision: &Decision) {
        self.authority.apply(&decision.changes);
    }

    /// The authority restarts from its store.
    pub fn restart(&mut self) {
        self.openings += 1;
        let records = self.store.load().expect("memory does not fail");
        let authority = Authority::load(records).expect("the store was written by the authority");
        self.authority = authority.opened(self.openings);
    }
}

pub(crate) fn volume_name(partition: PartitionId) -> String {
    format!("vol{partition}")
}

pub(crate) fn log_name(head: NodeId) -> String {
    format!("{}/log", head_name(head))
}

pub(crate) fn head_name(head: NodeId) -> String {
    format!("head-{head}")
}

fn request(volume: &Volume, (data, parity): (u8, u8), solo: Solo) -> VolumeRequest {
    VolumeRequest {
        name: volume_name(volume.partition),
        bytes: volume.history.sectors() * limits::SECTOR as u64,
        primary: head_name(volume.primary),
        secondary: Some(head_name(volume.secondary)),
        reserves: volume.reserves.iter().copied().map(head_name).collect(),
        code: Code {
            data,
            parity,
            unit_bytes: BLOCK as u64,
            column_bytes: 16 * BLOCK as u64,
            min_columns: data + 1,
            shared_shelves: true,
        },
        solo,
    }
}
