//! The authority of the simulated rack: the shipping machine of `palisade_control` over its in-memory
//! store, which survives the authority's crashes. One decision is under way at a time: decided, made
//! durable, applied, and only then told; a crash loses or keeps the one under way.

use crate::clients::Volume;
use crate::moving::{Groups, Move};
use palisade_control::api::model::Role;
use palisade_control::authority::{Authority, Changes, NodeDeclaration, VolumeRequest};
use palisade_control::config::Code;
use palisade_control::store::{Memory, Store};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

/// The authority with its store, or the one that moves roles, with what of it is durable.
#[derive(Clone, Debug)]
pub struct Grants {
    store: Memory,
    authority: Authority,
    moving: Option<[Groups; 2]>,
}

/// A decision that is not durable yet.
#[allow(clippy::large_enum_variant)] // One at a time.
#[derive(Debug)]
pub enum Decision {
    /// Of the shipping authority.
    Shipping(Changes),
    /// Of the one that moves roles.
    Moving(Move),
}

impl Grants {
    /// The store of a new rack: `heads` heads, named 1 to `heads`, and the volumes in order.
    pub fn found(rack: RackId, heads: u32, volumes: &[Volume], code: (u8, u8), moves: bool) -> Self {
        let mut store = Memory::default();
        let first = Authority::found(rack, 1, "sim");
        store.commit(&first.records).expect("memory does not fail");
        let authority = Authority::load(store.load().expect("memory does not fail")).expect("just founded");
        let moving = moves.then(|| [Groups::found(volumes), Groups::found(volumes)]);
        let mut grants = Self { store, authority, moving };
        for head in 1..=heads {
            let declared = NodeDeclaration {
                name: head_name(NodeId(head)),
                role: Role::Head,
                shelf: String::new(),
                power: String::new(),
                devices: Vec::new(),
            };
            let changes = grants.authority.declare_node(&declared).expect("a fresh head");
            grants.keep(changes);
        }
        for volume in volumes {
            let changes = grants.authority.create_volume(&request(volume, code)).expect("a fresh volume");
            assert_eq!(changes.created, [volume.partition], "volumes are numbered in order");
            grants.keep(changes);
        }
        grants
    }

    fn keep(&mut self, changes: Changes) {
        let decision = Decision::Shipping(changes);
        self.commit(&decision);
        self.apply(&decision);
    }

    /// A head came up, or asks again: what to make durable, and whom to tell afterwards.
    pub fn boot(&self, head: NodeId, boot: BootId, log: LogId) -> Result<Decision, String> {
        match &self.moving {
            Some([now, _]) => Ok(Decision::Moving(now.boot(head, boot, log))),
            None => {
                let changes = self.authority.boot(head, boot, log, &[]);
                changes.map(Decision::Shipping).map_err(|error| error.to_string())
            }
        }
    }

    /// Primary and secondary change places, where roles move.
    pub fn flip(&self, partition: PartitionId) -> Option<Decision> {
        let [now, _] = self.moving.as_ref()?;
        now.flip(partition).map(Decision::Moving)
    }

    /// A head proposes a group, where roles move.
    pub fn propose(&self, from: NodeId, wish: &Proposal) -> Option<Decision> {
        let [now, _] = self.moving.as_ref()?;
        now.propose(from, wish).map(Decision::Moving)
    }

    /// Makes a decision durable.
    pub fn commit(&mut self, decision: &Decision) {
        match (decision, &mut self.moving) {
            (Decision::Moving(moved), Some([_, durable])) => durable.clone_from(&moved.after),
            (Decision::Shipping(changes), _) => {
                self.store.commit(&changes.records).expect("memory does not fail");
            }
            (Decision::Moving(_), None) => unreachable!("only the authority that moves roles decides so"),
        }
    }

    /// Takes a durable decision over.
    pub fn apply(&mut self, decision: &Decision) {
        match (decision, &mut self.moving) {
            (Decision::Moving(moved), Some([now, _])) => now.clone_from(&moved.after),
            (Decision::Shipping(changes), _) => self.authority.apply(changes),
            (Decision::Moving(_), None) => unreachable!("only the authority that moves roles decides so"),
        }
    }

    /// The authority restarts from its store.
    pub fn restart(&mut self) {
        let records = self.store.load().expect("memory does not fail");
        self.authority = Authority::load(records).expect("the store was written by the authority");
        if let Some([now, durable]) = &mut self.moving {
            now.clone_from(durable);
        }
    }
}

fn head_name(head: NodeId) -> String {
    format!("head-{head}")
}

fn request(volume: &Volume, (data, parity): (u8, u8)) -> VolumeRequest {
    VolumeRequest {
        name: format!("vol{}", volume.partition),
        bytes: volume.history.sectors() * limits::SECTOR as u64,
        primary: head_name(volume.primary),
        secondary: Some(head_name(volume.secondary)),
        code: Code {
            data,
            parity,
            unit_bytes: BLOCK as u64,
            column_bytes: 16 * BLOCK as u64,
            min_columns: data + 1,
            shared_shelves: true,
        },
        solo: Default::default(),
    }
}
