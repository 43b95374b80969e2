//! The authority of the simulated rack: the shipping machine of `palisade_control` over its in-memory
//! store, which survives the authority's crashes. One decision is under way at a time: decided, made
//! durable, applied, and only then told; a crash loses or keeps the one under way.

use crate::clients::Volume;
use palisade_control::api::model::Role;
use palisade_control::authority::{Authority, Changes, NodeDeclaration, VolumeRequest};
use palisade_control::config::Code;
use palisade_control::store::{Memory, Store};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;

/// The authority with its store.
#[derive(Clone, Debug)]
pub struct Grants {
    store: Memory,
    authority: Authority,
}

impl Grants {
    /// The store of a new rack: `heads` heads, named 1 to `heads`, and the volumes in order.
    pub fn found(rack: RackId, heads: u32, volumes: &[Volume], code: (u8, u8)) -> Self {
        let mut store = Memory::default();
        let first = Authority::found(rack, 1, "sim");
        store.commit(&first.records).expect("memory does not fail");
        let authority = Authority::load(store.load().expect("memory does not fail")).expect("just founded");
        let mut grants = Self { store, authority };
        for head in 1..=heads {
            let declared = NodeDeclaration {
                name: head_name(NodeId(head)),
                role: Role::Head,
                shelf: String::new(),
                power: String::new(),
                devices: Vec::new(),
            };
            let changes = grants.authority.declare_node(&declared).expect("a fresh head");
            grants.commit(&changes);
            grants.apply(&changes);
        }
        for volume in volumes {
            let changes = grants.authority.create_volume(&request(volume, code)).expect("a fresh volume");
            assert_eq!(changes.created, [volume.partition], "volumes are numbered in order");
            grants.commit(&changes);
            grants.apply(&changes);
        }
        grants
    }

    /// A head came up, or asks again: what to make durable, and whom to tell afterwards.
    pub fn boot(&self, head: NodeId, boot: BootId, log: LogId) -> Result<Changes, String> {
        self.authority.boot(head, boot, log, &[]).map_err(|error| error.to_string())
    }

    /// Makes changes durable.
    pub fn commit(&mut self, changes: &Changes) {
        self.store.commit(&changes.records).expect("memory does not fail");
    }

    /// Takes durable changes over.
    pub fn apply(&mut self, changes: &Changes) {
        self.authority.apply(changes);
    }

    /// The authority restarts from its store.
    pub fn restart(&mut self) {
        let records = self.store.load().expect("memory does not fail");
        self.authority = Authority::load(records).expect("the store was written by the authority");
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
