//! The state behind the socket: authority, store, and the processes that are connected. Everything runs
//! under one lock, off every I/O path; what is told to nodes is told after it is durable (EF-14).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use palisade_protocol::wire::{Assignment, BootId, NodeId, PartitionId, RackId};
use serde_json::Value;

use super::events::{Events, now_ms};
use super::model::{Command, Role, RosterEntry};
use super::rpc::{self, RpcError};
use super::status::{ControlStatus, Live, Status};
use super::upgrade::{Pauses, Program};
use crate::authority::{Authority, Change, Changes, Record, Rests, VolumeState};
use crate::config::{Rack, StoreKind};
use crate::identity::Identity;
use crate::report::NodeReport;
use crate::store::{Mark, MarkWriter, Store, StoreError};

/// A node of a connected process.
pub(super) struct Connected {
    pub(super) link: u64,
    pub(super) pid: u32,
    pub(super) boot: BootId,
    pub(super) outbox: SyncSender<Vec<u8>>,
    pub(super) program: Program,
    pub(super) report: NodeReport,
    pub(super) heard: Instant,
}

/// State behind the socket.
pub struct Core {
    pub(super) authority: Authority,
    store: Box<dyn Store>,
    /// Where the mark is kept; none for a store that forgets.
    pub(super) mark_in: Option<PathBuf>,
    marks: Option<MarkWriter>,
    pub(super) rack: Rack,
    pub(super) nodes: BTreeMap<u32, Connected>,
    /// Who waits for the answer of a node, by tag.
    pub(super) promises: BTreeMap<u64, SyncSender<Option<String>>>,
    pub(super) next_tag: u64,
    pub(super) events: Events,
    /// Heads that were taken back into groups, and until when they are not again: counted from `began`.
    pub(super) rests: Rests,
    pub(super) began: Instant,
    /// Volumes whose requests wait at present.
    pub(super) pauses: Pauses,
    /// What is to take this process's place.
    pub(super) successor: Option<PathBuf>,
    /// Volumes whose lone head could be followed from sleds, with that head, and since when it is gone.
    pub(super) gone: BTreeMap<u64, (NodeId, Instant)>,
    /// What is watched of groups that lack a member.
    pub(super) replacing: super::replace::Watch,
    /// What is watched of loads.
    pub(super) balance: super::balance::Balance,
    /// What is watched of heads that may be ill.
    pub(super) ailing: super::ailing::Watch,
    /// What is asked of media after an opening of the store (P-04).
    pub(super) evidence: super::doubt::Evidence,
    /// Sleds that are drained, as was told last.
    pub(super) drained: Vec<String>,
    /// Set when a commit failed and the state could not be read again, and while the lease is another's:
    /// nothing is decided.
    broken: Option<String>,
    /// Somebody was refused because of the store, and may not ask again by itself.
    missed: bool,
    /// What `status` says of this control plane.
    control: ControlStatus,
}

/// Why control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its records.
    #[error("the store in {0}: {1}")]
    Load(String, crate::authority::LoadError),
    /// Another rack lives in the data directory.
    #[error(
        "{data} belongs to rack `{theirs}`, the file describes rack `{ours}`: give another [rack] data or --data-dir"
    )]
    OtherRack {
        /// The directory.
        data: String,
        /// Name in the store.
        theirs: String,
        /// Name in the file.
        ours: String,
    },
    /// No thread.
    #[error("the system gives no thread for the mark of grants: {0}")]
    Threads(String),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

fn store_name(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Embedded => "embedded",
        StoreKind::Memory => "memory",
        StoreKind::Etcd => "etcd",
    }
}

/// Random 128 bits of the operating system.
pub(super) fn random() -> Result<u128, CoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| CoreError::Random(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}

impl Core {
    /// Opens the state in a store, founding the rack if the store is empty.
    pub fn open(mut store: Box<dyn Store>, rack: Rack, mark_in: Option<PathBuf>) -> Result<Self, CoreError> {
        let data = rack.data.display().to_string();
        let mut records = store.load()?;
        if records.is_empty() {
            let founding = Authority::found(RackId(random()?), random()? as u64, &rack.name);
            store.commit(&founding.records)?;
            records = store.load()?;
        }
        let mut events = Events::default();
        events.load(records.iter().map(|(_, record)| record));
        let authority = Authority::load(records).map_err(|error| CoreError::Load(data.clone(), error))?;
        let authority = authority.opened(random()? as u64);
        if authority.meta().name != rack.name {
            let (theirs, ours) = (authority.meta().name.clone(), rack.name);
            return Err(CoreError::OtherRack { data, theirs, ours });
        }
        let writer = mark_in.clone().map(MarkWriter::start).transpose();
        let marks = writer.map_err(|error| CoreError::Threads(error.to_string()))?;
        let mut core = Self {
            authority,
            store,
            mark_in,
            marks,
            rack,
            nodes: BTreeMap::new(),
            promises: BTreeMap::new(),
            next_tag: 1,
            events,
            rests: Rests::default(),
            began: Instant::now(),
            pauses: Pauses::default(),
            successor: None,
            gone: BTreeMap::new(),
            replacing: super::replace::Watch::default(),
            balance: super::balance::Balance::default(),
            ailing: super::ailing::Watch::default(),
            evidence: super::doubt::Evidence::default(),
            drained: Vec::new(),
            broken: None,
            missed: false,
            control: ControlStatus { state: "serving".to_owned(), ..ControlStatus::default() },
        };
        core.control.store = store_name(core.rack.control.store).to_owned();
        core.heed_mark()?;
        core.write_mark();
        Ok(core)
    }

    /// Before anybody is connected: makes changes durable and takes them over.
    pub(super) fn commit_at_opening(&mut self, changes: &Changes) -> Result<(), CoreError> {
        self.store.commit(&changes.records)?;
        self.authority.apply(changes);
        for note in &changes.notes {
            self.event("control", true, note.clone());
        }
        Ok(())
    }

    /// Makes changes durable, takes them over, tells whom they concern.
    pub(super) fn carry_out(&mut self, changes: &Changes) -> Result<(), RpcError> {
        if let Some(why) = &self.broken {
            self.missed = true;
            return Err(RpcError::new(rpc::INTERNAL, why.clone()));
        }
        if !changes.records.is_empty() {
            let events = self.events.records(&self.authority, changes);
            let told = events.iter().cloned().map(|event| {
                let record = Record::Event(event);
                (record.key(), Some(record))
            });
            let records: Vec<Change> = changes.records.iter().cloned().chain(told).collect();
            if let Err(error) = self.store.commit(&records) {
                self.missed = true;
                self.reload();
                return Err(RpcError::new(rpc::INTERNAL, error.to_string()));
            }
            self.authority.apply(changes);
            self.events.keep(events);
            self.write_mark();
        }
        for note in &changes.notes {
            self.event("control", false, note.clone());
        }
        self.tell(changes);
        Ok(())
    }

    /// After a failed commit only the store knows what holds.
    fn reload(&mut self) {
        let loaded = self.store.load().map_err(|error| error.to_string());
        if let Ok(records) = &loaded {
            self.events.load(records.iter().map(|(_, record)| record));
        }
        match loaded.and_then(|records| Authority::load(records).map_err(|error| error.to_string())) {
            Ok(authority) => self.authority = authority.opened(self.authority.opening()),
            Err(why) if self.rack.control.store == StoreKind::Etcd => self.suspend(&why),
            Err(why) => self.broken = Some(format!("control lost its store, start the rack again: {why}")),
        }
    }

    /// Decides nothing until [`Core::take_up`].
    pub(crate) fn suspend(&mut self, why: &str) {
        self.broken = Some(format!("nothing is decided at present, ask again later: {why}"));
    }

    /// Whether somebody was refused because of the store since the state was taken up.
    pub(crate) fn missed(&self) -> bool {
        self.missed
    }

    /// Takes the state up from the store again, or from another one: after a time without it, only the store
    /// knows what holds. Grants of this opening have ids of their own (P-04).
    pub(crate) fn take_up(&mut self, store: Option<Box<dyn Store>>) -> Result<(), CoreError> {
        if let Some(store) = store {
            self.store = store;
        }
        let records = self.store.load()?;
        self.events.load(records.iter().map(|(_, record)| record));
        let data = self.rack.data.display().to_string();
        let authority = Authority::load(records).map_err(|error| CoreError::Load(data, error))?;
        self.authority = authority.opened(random()? as u64);
        self.evidence = super::doubt::Evidence::default();
        self.heed_mark()?;
        (self.broken, self.missed) = (None, false);
        Ok(())
    }

    /// What `status` says of this control plane from now on; a change of its state is an event.
    pub(crate) fn set_control(&mut self, control: ControlStatus) {
        if control.state != self.control.state {
            let warning = control.state != "serving";
            let why = if control.why.is_empty() { String::new() } else { format!(": {}", control.why) };
            self.event("control", warning, format!("the control plane is {}{why}", control.state));
        }
        self.control = control;
    }

    pub(super) fn write_mark(&mut self) {
        let Some(marks) = &mut self.marks else { return };
        let meta = self.authority.meta();
        let mark = Mark { rack: meta.rack, epoch: meta.epoch, grants: meta.grants, home: None };
        if let Some(error) = marks.put(mark) {
            let what =
                format!("the mark of grants cannot be written, a restored store may go unnoticed: {error}");
            self.event("control", true, what);
        }
    }

    fn tell(&mut self, changes: &Changes) {
        for partition in &changes.created {
            for head in self.heads_of(*partition) {
                self.tell_partition(head, *partition);
            }
        }
        for partition in changes.devices.iter().filter(|partition| !changes.created.contains(partition)) {
            let Some(spec) = self.authority.partition(*partition) else { continue };
            for node in self.heads_of(*partition) {
                let command =
                    Command::SetDevices { node, partition: *partition, devices: spec.devices.clone() };
                self.send(node, &command);
            }
        }
        for assignment in &changes.assignments {
            for head in self.heads_of(assignment.stamp.partition) {
                self.tell_assignment(head, assignment);
            }
        }
        for (node, partition) in &changes.deleting {
            self.send(*node, &Command::DeletePartition { node: *node, partition: *partition });
        }
        for (node, partition) in &changes.forgetting {
            self.send(*node, &Command::Forget { node: *node, partition: *partition });
        }
        for node in &changes.isolating {
            self.tell_isolating(*node);
        }
    }

    fn heads_of(&self, partition: PartitionId) -> Vec<NodeId> {
        self.authority.volume(partition).map_or_else(Vec::new, |volume| volume.heads())
    }

    fn tell_partition(&mut self, node: NodeId, partition: PartitionId) {
        if let Some(spec) = self.authority.partition(partition) {
            self.send(node, &Command::CreatePartition { node, spec });
        }
    }

    /// An assignment goes only to the boot that it names (P-01). A head that it does not name hears that it
    /// is out.
    fn tell_assignment(&mut self, node: NodeId, assignment: &Assignment) {
        let Some(boot) = self.nodes.get(&node.0).map(|connected| connected.boot) else { return };
        if assignment.member(node).is_none_or(|member| member.boot == boot) {
            let paused = self.authority.paused(assignment.stamp.partition, now_ms());
            self.send(node, &Command::Assign { node, assignment: assignment.clone(), paused });
        }
    }

    /// Everything a head must know, after it became ready or came back: partitions, numbers, deletions.
    pub(super) fn tell_all(&mut self, head: NodeId) {
        for spec in self.authority.partitions_of(head) {
            self.send(head, &Command::CreatePartition { node: head, spec });
        }
        for assignment in self.authority.assignments_of(head) {
            self.tell_assignment(head, &assignment);
        }
        for assignment in self.authority.without(head) {
            self.tell_assignment(head, &assignment);
        }
        if self.authority.node(head).is_some_and(|node| !node.isolating.is_empty()) {
            self.tell_isolating(head);
        }
        self.tell_fills(head);
        let deleting: Vec<PartitionId> = self
            .authority
            .living()
            .filter(|volume| volume.state == VolumeState::Deleting && volume.current_primary() == head)
            .map(|volume| volume.partition())
            .collect();
        for partition in deleting {
            self.send(head, &Command::DeletePartition { node: head, partition });
        }
    }

    /// Queues a command for the process that hosts a node. A process that does not take its commands is cut
    /// off: it comes back and hears everything again.
    pub(super) fn send(&mut self, node: NodeId, command: &Command) -> bool {
        let Some(connected) = self.nodes.get(&node.0) else { return false };
        let Ok(params) = serde_json::to_value(command) else { return false };
        let sent = connected.outbox.try_send(rpc::notification("node.command", params)).is_ok();
        if !sent {
            let link = connected.link;
            self.drop_link(link);
        }
        sent
    }

    /// A node answered what was asked of it under a tag.
    pub(super) fn keep_promise(&mut self, tag: u64, error: Option<String>) {
        if let Some(waiting) = self.promises.remove(&tag) {
            // Whoever waited may have given up.
            let _ = waiting.try_send(error);
        }
    }

    /// Tells every connected process.
    pub(super) fn broadcast(&mut self, command: &Command) {
        let mut told = Vec::new();
        for (node, link) in self.nodes.iter().map(|(node, c)| (*node, c.link)).collect::<Vec<_>>() {
            if !told.contains(&link) {
                told.push(link);
                self.send(NodeId(node), command);
            }
        }
    }

    /// A process takes its leave: its nodes are away, as they should be.
    pub(super) fn leave(&mut self, link: u64) {
        let gone = self.forget_link(link);
        let names: Vec<String> = gone.iter().map(|(id, _)| self.authority.name_of(*id)).collect();
        if !names.is_empty() {
            self.event("control", false, format!("{} stopped", names.join(", ")));
        }
    }

    /// A connection ended without a word: its nodes are away.
    pub(super) fn drop_link(&mut self, link: u64) {
        for (gone, boot) in self.forget_link(link) {
            self.event(&self.authority.name_of(gone), true, "its process is gone".to_owned());
            self.tell_gone(gone, boot);
        }
    }

    /// Heads need not wait for the silence of one whose process ended. Those that share nothing with it shrug.
    fn tell_gone(&mut self, gone: NodeId, boot: BootId) {
        let is_head = |id: &u32| self.authority.node(NodeId(*id)).is_some_and(|node| node.role == Role::Head);
        if !is_head(&gone.0) {
            return;
        }
        let heads: Vec<u32> = self.nodes.keys().copied().filter(is_head).collect();
        for node in heads.into_iter().map(NodeId) {
            self.send(node, &Command::Gone { node, gone, boot });
        }
    }

    fn forget_link(&mut self, link: u64) -> Vec<(NodeId, BootId)> {
        let of_link = self.nodes.iter().filter(|(_, node)| node.link == link);
        let gone: Vec<(NodeId, BootId)> = of_link.map(|(id, node)| (NodeId(*id), node.boot)).collect();
        for (id, _) in &gone {
            self.absent(*id);
            self.nodes.remove(&id.0);
        }
        gone
    }

    /// Keeps and logs an event.
    pub(super) fn event(&mut self, node: &str, warning: bool, what: String) {
        self.events.say(node, String::new(), warning, what);
    }

    /// Every node, for messages and status.
    pub(super) fn roster(&self) -> Vec<RosterEntry> {
        let entry = |node: &crate::authority::NodeRecord| RosterEntry {
            name: node.name.clone(),
            node: node.node,
            role: node.role,
            fabric: self.rack.fabric(&node.name).first().copied(),
            second: self.rack.fabric(&node.name).get(1).copied(),
            nbd: self.rack.head(&node.name).map(|head| head.nbd.clone()).unwrap_or_default(),
        };
        self.authority.nodes().map(entry).collect()
    }

    /// The last words of connected nodes.
    pub(crate) fn live(&self) -> BTreeMap<u32, Live<'_>> {
        let patience = Duration::from_millis(self.rack.timers.health_ms.max(1));
        let mut live = BTreeMap::new();
        for (id, node) in &self.nodes {
            let silent = node.heard.elapsed() > patience;
            let (version, binary) = (&node.program.version, &node.program.binary);
            live.insert(*id, Live { pid: node.pid, version, binary, report: &node.report, silent });
        }
        live
    }

    /// The picture of the rack.
    pub fn status(&self) -> Status {
        let mut status = Status::of(&self.authority, Some(&self.rack), &self.live());
        status.pid = std::process::id();
        status.events = self.events.said();
        status.control = self.control.clone();
        super::upgrade::show_program(&mut status.control);
        for volume in &mut status.volumes {
            volume.lacks = self.lacks(&volume.name);
        }
        self.show_ailing(&mut status);
        status
    }

    /// The rack's identity.
    pub fn rack_id(&self) -> RackId {
        self.authority.rack()
    }

    /// A fresh identity for a device.
    pub(super) fn fresh_identity(&self) -> Result<Identity, RpcError> {
        random().map(Identity).map_err(|error| RpcError::new(rpc::INTERNAL, error.to_string()))
    }

    /// A value as JSON; our own types always are.
    pub(super) fn json(value: &impl serde::Serialize) -> Result<Value, RpcError> {
        serde_json::to_value(value).map_err(|error| RpcError::new(rpc::INTERNAL, error.to_string()))
    }
}
