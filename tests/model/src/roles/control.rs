//! The shipping authority over its records, and what is judged of its decisions.

use super::{Bounds, Mark, Msg, Pair, Rack, Seat, Start, Wish};
use crate::explore::Rule;
use palisade_control::api::model::Role;
use palisade_control::authority::{
    AloneRecord, Authority, Changes, DeviceDeclaration, DoubtRecord, NodeDeclaration, Record, VolumeRecord,
    VolumeRequest,
};
use palisade_control::config::Code;
use palisade_control::identity::{Decision, Identity, Medium};
use palisade_protocol::wire::{
    Assignment, BootId, GrantId, LogId, Member, NodeId, Number, PartitionId, Proposal, ProposalOutcome,
    RackId, Stamp, Why,
};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub(super) const VOLUME: PartitionId = PartitionId(1);
type Records = BTreeMap<String, Record>;

/// Control: the authority, its store, an older copy of that.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) authority: Arc<Authority>,
    pub(super) store: Arc<Records>,
    pub(super) copy: Option<Arc<Records>>,
    /// Openings of the store.
    opening: u64,
}

impl PartialEq for Control {
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.store, &other.store) || self.store == other.store;
        same && self.opening == other.opening && self.copy == other.copy
    }
}

/// What decides about the future, and no names.
impl Hash for Control {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.opening.hash(state);
        hash_records(&self.store, state);
        self.copy.is_some().hash(state);
        if let Some(copy) = &self.copy {
            hash_records(copy, state);
        }
    }
}

fn hash_records<H: Hasher>(records: &Records, state: &mut H) {
    for record in records.values() {
        match record {
            Record::Meta(meta) => (meta.epoch, meta.grants).hash(state),
            Record::Node(node) => {
                (node.node, node.boot.map(|boot| boot.0), node.log.map(|log| log.0)).hash(state);
                node.draining.hash(state);
                node.old_boots.iter().for_each(|boot| boot.0.hash(state));
            }
            Record::Volume(volume) => hash_volume(volume, state),
            Record::Device(device) => format!("{:?}", device.known).hash(state),
            Record::Event(_) => {}
        }
    }
}

fn hash_volume<H: Hasher>(volume: &VolumeRecord, state: &mut H) {
    (volume.epoch, volume.counter, volume.grant, volume.members.len(), volume.left.len()).hash(state);
    hash_alone(volume.alone.as_ref(), state);
    hash_doubt(volume.doubt.as_deref(), state);
    volume.replacement.as_ref().map(|chosen| (chosen.head, chosen.leaving)).hash(state);
    for member in volume.members.iter().chain(&volume.left) {
        (member.member(), member.joining, member.lost).hash(state);
    }
    let mut permissions: Vec<_> = volume.permissions.iter().collect();
    permissions.sort_by_key(|permission| permission.proposer);
    for known in permissions {
        let granted = known.granted.as_ref().map(|pair| pair.stamp);
        (known.proposer, known.boot, known.proposal.nonce, known.proposal.expected, granted).hash(state);
        known.proposal.members.hash(state);
    }
}

fn hash_alone<H: Hasher>(alone: Option<&AloneRecord>, state: &mut H) {
    alone.is_some().hash(state);
    if let Some(AloneRecord { epoch, counter, members, lone, copies, salvage }) = alone {
        (epoch, counter, lone.member(), copies, salvage, members.len()).hash(state);
        members.iter().for_each(|member| member.member().hash(state));
    }
}

fn hash_doubt<H: Hasher>(doubt: Option<&DoubtRecord>, state: &mut H) {
    doubt.is_some().hash(state);
    for heard in doubt.iter().flat_map(|doubt| &doubt.heard) {
        let pair = heard.newest.as_ref();
        (heard.head, pair.map(|pair| pair.stamp), pair.map(|pair| &pair.members)).hash(state);
    }
}

pub(super) fn node_of(head: u8) -> NodeId {
    NodeId(u32::from(head) + 1)
}

pub(super) fn boot_of(head: u8, boot: u8) -> BootId {
    BootId((u128::from(head) << 64) | (u128::from(boot) + 1))
}

pub(super) fn log_of(head: u8, log: u8) -> LogId {
    LogId((u128::from(head) << 64) | (u128::from(log) + 1))
}

pub(super) fn name_of(head: u8) -> String {
    format!("head-{head}")
}

fn mark_of(stamp: Stamp) -> Mark {
    Mark { epoch: stamp.number.epoch, counter: stamp.number.counter, grant: stamp.grant.0 }
}

pub(super) fn stamp_of(mark: Mark) -> Stamp {
    let number = Number { epoch: mark.epoch, counter: mark.counter };
    Stamp { partition: VOLUME, number, grant: GrantId(mark.grant) }
}

fn seat_of(member: &Member) -> Seat {
    let low = |id: u128| (id as u8).wrapping_sub(1);
    Seat { head: (member.head.0 - 1) as u8, boot: low(member.boot.0), log: low(member.log.0) }
}

pub(super) fn member_of(seat: &Seat) -> Member {
    Member { head: node_of(seat.head), log: log_of(seat.head, seat.log), boot: boot_of(seat.head, seat.boot) }
}

fn pair_of(assignment: &Assignment) -> Pair {
    Pair {
        mark: mark_of(assignment.stamp),
        seats: assignment.members.iter().map(seat_of).collect(),
        copies: assignment.copies,
        salvage: assignment.salvage.is_some(),
    }
}

impl Control {
    /// A rack of heads without sleds, which places by itself, and one volume.
    pub(super) fn new(bounds: &Bounds) -> Self {
        let founded = Authority::found(RackId(1), 1, "model").records;
        let store: Records = founded.into_iter().filter_map(|(key, record)| Some((key, record?))).collect();
        let authority = Arc::new(Authority::load(store.clone()).expect("a founded store is an authority"));
        let mut control = Self { authority, store: Arc::new(store), copy: None, opening: 0 };
        control.open(bounds);
        for head in 0..bounds.heads {
            let log = DeviceDeclaration { name: format!("{}/log", name_of(head)), columns: 0 };
            let declared = NodeDeclaration {
                name: name_of(head),
                role: Role::Head,
                shelf: name_of(head),
                power: String::new(),
                devices: vec![log],
            };
            let changes = control.authority.declare_node(&declared).expect("a new head");
            control.commit(&changes);
            control.format_log(head, 0);
        }
        let changes = control.authority.create_volume(&request(bounds)).expect("a new volume");
        control.commit(&changes);
        control
    }

    /// Loads what the store holds, under another opening (P-04).
    pub(super) fn open(&mut self, bounds: &Bounds) {
        self.opening += 1;
        let loaded = Authority::load((*self.store).clone()).expect("what was written is an authority");
        let mut loaded = loaded.opened(self.opening);
        (bounds.breaks)(&mut loaded);
        self.authority = Arc::new(loaded);
    }

    /// Durable, then applied; the records must tell what is applied.
    pub(super) fn commit(&mut self, changes: &Changes) {
        let store = Arc::make_mut(&mut self.store);
        for (key, record) in &changes.records {
            match record {
                Some(record) => drop(store.insert(key.clone(), record.clone())),
                None => drop(store.remove(key)),
            }
        }
        Arc::make_mut(&mut self.authority).apply(changes);
        let told = Authority::load((*self.store).clone()).expect("what was written is an authority");
        let same = told.volumes().eq(self.authority.volumes())
            && told.nodes().eq(self.authority.nodes())
            && told.devices().eq(self.authority.devices())
            && told.meta() == self.authority.meta();
        assert!(same, "what is applied is not what the store tells: {:?}", self.authority);
    }

    /// A log device that the store is to know comes with this identity.
    fn format_log(&mut self, head: u8, log: u8) {
        let (device, id) = (format!("{}/log", name_of(head)), Identity(log_of(head, log).0));
        let decided = self.authority.decide_device(&device, &Medium::Blank, id);
        let (decision, changes) = decided.expect("a known device");
        assert_eq!(decision, Decision::Format { id }, "a blank log is formatted once");
        self.commit(&changes);
        let changes = self.authority.device_formatted(&device, id).expect("as decided");
        self.commit(&changes);
    }

    fn volume(&self) -> &VolumeRecord {
        self.authority.volume(VOLUME).expect("the volume stays")
    }

    /// The newest pair; an empty one before the first.
    pub(super) fn newest(&self) -> Pair {
        self.authority.query(VOLUME).as_ref().map_or_else(Pair::default, pair_of)
    }

    /// Grants since the beginning, whatever the store remembers.
    pub(super) fn counter(&self) -> u64 {
        self.volume().counter
    }

    /// Members of the newest group that the authority lets lead.
    pub(super) fn eligible(&self) -> Vec<Seat> {
        let may = self.volume().members.iter().filter(|member| !member.joining);
        may.map(|member| seat_of(&member.member())).collect()
    }

    /// Whether a boot of a head ever asked.
    pub(super) fn heard_of(&self, head: u8, boot: u8) -> bool {
        let node = self.authority.node(node_of(head));
        let boots = node.into_iter().flat_map(|node| node.boot.iter().chain(&node.old_boots));
        boots.into_iter().any(|known| known.0 == boot_of(head, boot))
    }

    /// Whether the volume is in doubt.
    pub(super) fn doubts(&self) -> bool {
        self.authority.doubts(VOLUME)
    }

    /// Whether the word of a head is waited for.
    pub(super) fn awaits(&self, head: u8) -> bool {
        self.authority.is_awaited(node_of(head))
    }

    /// Whether the lone head came back behind the one that was to follow it.
    pub(super) fn is_back(&self) -> bool {
        self.volume().is_back()
    }

    /// Heads that can take over from the copies of a lone one.
    pub(super) fn heirs(&self) -> Vec<Seat> {
        let alone = self.volume().alone.iter().filter(|alone| alone.copies);
        let heirs = alone.flat_map(|alone| alone.members.iter().filter(|heir| heir.head != alone.lone.head));
        heirs.map(|heir| seat_of(&heir.member())).collect()
    }

    pub(super) fn has_copy(&self) -> bool {
        self.copy.is_some()
    }

    pub(super) fn is_drained(&self, head: u8) -> bool {
        self.authority.node(node_of(head)).is_some_and(|node| node.draining)
    }
}

fn request(bounds: &Bounds) -> VolumeRequest {
    VolumeRequest {
        name: "vol".to_owned(),
        bytes: 1 << 20,
        primary: name_of(0),
        secondary: Some(name_of(1)),
        reserves: (2..bounds.declared).map(name_of).collect(),
        code: Code {
            data: 4,
            parity: 2,
            unit_bytes: 64 << 10,
            column_bytes: 8 << 20,
            min_columns: 5,
            shared_shelves: true,
        },
        solo: bounds.solo,
    }
}

/// Why a group may become another one.
#[derive(Clone, Copy)]
pub(super) enum Asked<'w> {
    /// A head proposed it.
    Wish(&'w Wish),
    /// Control, or the word of people through it, and the authority let it.
    Control,
    /// Nobody: then no member is left out.
    Nobody,
}

impl Rack {
    /// Carries a decision out, judges it, and tells whom it concerns.
    pub(super) fn decided(&mut self, bounds: &Bounds, changes: &Changes, asked: Asked<'_>) {
        let before = self.control.newest();
        let declared: Vec<u8> = (0..bounds.declared).collect();
        self.control.commit(changes);
        let after = self.control.newest();
        for pair in changes.assignments.iter().map(pair_of) {
            for seat in &pair.seats {
                self.net.insert(Msg::Assign { to: seat.head, pair: pair.clone() });
            }
        }
        // That copies were taken over is told without a new number.
        if (before.mark, &before.seats) == (after.mark, &after.seats) {
            return;
        }
        let twice = !self.granted.is_empty() && self.granted.contains(&after.mark);
        if twice || (after.mark.number() <= before.mark.number()) {
            self.breaks(Rule::NumbersRise);
        }
        if bounds.restores > 0 {
            self.granted.insert(after.mark);
        }
        match asked {
            Asked::Wish(wish) if wish.expected != before.mark => self.breaks(Rule::OneWinner),
            Asked::Wish(_) | Asked::Control => {}
            Asked::Nobody => {
                let stays = |head: &u8| after.seat(*head).is_some();
                let had: Vec<u8> = before.seats.iter().map(|seat| seat.head).collect();
                let had = if had.is_empty() { declared } else { had };
                if !had.iter().all(stays) {
                    self.breaks(Rule::SoloByLeave);
                }
            }
        }
    }

    /// The authority takes a proposal.
    pub(super) fn judge_wish(&mut self, bounds: &Bounds, wish: &Wish, dies: bool) {
        let proposal = Proposal {
            partition: VOLUME,
            expected: stamp_of(wish.expected),
            members: wish.seats.iter().map(member_of).collect(),
            nonce: u64::from(wish.nonce),
            why: Why::Silence,
            caught_up: wish.caught_up,
        };
        let (by, boot) = (node_of(wish.by), boot_of(wish.by, wish.boot));
        let verdict = self.control.authority.propose(by, boot, &proposal, 0);
        if verdict.withheld {
            return;
        }
        if dies {
            self.control.open(bounds);
        } else {
            self.decided(bounds, &verdict.changes, Asked::Wish(wish));
        }
        let (granted, pair) = match verdict.outcome {
            ProposalOutcome::Granted(pair) => (true, pair_of(&pair)),
            ProposalOutcome::Declined { newest } => {
                (false, newest.as_ref().map_or_else(Pair::default, pair_of))
            }
        };
        let answer = granted.then_some(pair.mark);
        let known = self.answers.insert((wish.by, wish.boot, wish.nonce), answer);
        // Who waits no longer hears nothing of it, and a store that was put back may have forgotten it.
        let waits = self.head(wish.by).wish.as_ref() == Some(wish) && self.spent.restores == 0;
        if waits && known.is_some_and(|known| known != answer) {
            self.breaks(Rule::OneWinner);
        }
        let (to, boot, nonce) = (wish.by, wish.boot, wish.nonce);
        self.net.insert(Msg::Verdict { to, boot, nonce, granted, pair });
    }

    /// A head asks for its numbers: under this boot, or by a late word of the one before.
    pub(super) fn ask(&mut self, bounds: &Bounds, head: u8, boot: u8) {
        let asks = self.head(head).clone();
        let held = [stamp_of(asks.pair.mark)];
        let held = if asks.pair.seats.is_empty() || boot != asks.boot { &[][..] } else { &held[..] };
        let (node, known) = (node_of(head), self.control.newest());
        let (boot_id, log) = (boot_of(head, boot), log_of(head, asks.log));
        let Ok(changes) = self.control.authority.boot(node, boot_id, log, held) else { return };
        self.decided(bounds, &changes, Asked::Nobody);
        let newest = self.control.newest();
        let mine = newest.seat(head).is_some_and(|seat| seat.boot == boot && boot == asks.boot);
        if newest != known && mine && newest.mark.number() <= asks.pair.mark.number() {
            // It holds more than the store granted, and the store grants that again (P-04).
            self.breaks(Rule::NumbersRise);
        }
        for pair in self.control.authority.without(node).iter().map(pair_of) {
            self.net.insert(Msg::Assign { to: head, pair });
        }
    }

    pub(super) fn served(&mut self, bounds: &Bounds, by: u8, mark: Mark) {
        let changes = self.control.authority.served(node_of(by), stamp_of(mark));
        self.refilled |= !changes.records.is_empty();
        self.decided(bounds, &changes, Asked::Nobody);
    }

    /// The operator gives a log up; an empty one takes its place.
    pub(super) fn replace_log(&mut self, head: u8) {
        let device = format!("{}/log", name_of(head));
        let changes = self.control.authority.replace_device(&device, false).expect("a known log");
        self.control.commit(&changes);
        let log = self.head(head).log;
        self.control.format_log(head, log);
    }

    /// The group that a run begins with, by the authority's own hand.
    pub(super) fn begin(&mut self, bounds: &Bounds) {
        if bounds.start == Start::Fresh {
            return;
        }
        (0..bounds.heads).for_each(|head| self.ask(bounds, head, 0));
        if bounds.start == Start::Alone {
            let (expected, seats) = (self.control.newest().mark, vec![Seat { head: 0, boot: 0, log: 0 }]);
            let wish = Wish { by: 0, boot: 0, nonce: 1, expected, seats, caught_up: false };
            self.judge_wish(bounds, &wish, false);
        }
        self.net.clear();
        self.answers.clear();
    }
}
