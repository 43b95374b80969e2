//! The authority against its rules: EF-13, EF-14, P-01, P-03, P-04, and media decisions.

mod alone;
mod doubt;
mod groups;
mod late;
mod propose;
mod replace;
mod roles;

use std::collections::BTreeSet;

use palisade_protocol::wire::{BootId, GrantId, LogId, NodeId, Number, PartitionId, RackId, Stamp};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::api::model::Role;
use crate::config::Code;
use crate::identity::{Decision, Identity, Known, Medium};
use crate::store::{Embedded, Memory, Store};

const CODE: Code = Code {
    data: 4,
    parity: 2,
    unit_bytes: 64 << 10,
    column_bytes: 8 << 20,
    min_columns: 5,
    shared_shelves: false,
};

/// An authority on a store, with the order that the contract asks for: durable, then applied.
struct Rack<S: Store> {
    store: S,
    authority: Authority,
}

impl Rack<Memory> {
    fn new() -> Self {
        Rack::on(Memory::default())
    }

    /// Two heads, six sleds of one device with 250 columns, volume `vol0`.
    fn full() -> Self {
        let mut rack = Self::new();
        rack.populate();
        rack
    }
}

impl<S: Store> Rack<S> {
    fn on(mut store: S) -> Self {
        if store.load().expect("readable").is_empty() {
            store.commit(&Authority::found(RackId(1), 99, "test").records).expect("written");
        }
        let authority = Authority::load(store.load().expect("readable")).expect("loaded");
        Self { store, authority }
    }

    fn carry_out(&mut self, changes: Changes) -> Changes {
        self.store.commit(&changes.records).expect("written");
        self.authority.apply(&changes);
        let mut reloaded = Authority::load(self.store.load().expect("readable")).expect("loaded");
        reloaded.break_rules(self.authority.faults);
        let reloaded = reloaded.opened(self.authority.opening());
        assert_eq!(reloaded, self.authority, "what is applied is what the store tells");
        changes
    }

    fn populate(&mut self) {
        for name in ["head-1", "head-2"] {
            self.declare(name, Role::Head, name, format!("{name}/log"), 0);
        }
        for index in 1..=6 {
            let name = format!("sled-{index}");
            self.declare(&name, Role::Sled, &name, format!("{name}/0"), 250);
        }
        let changes = self.authority.create_volume(&request("vol0")).expect("made");
        self.carry_out(changes);
    }

    fn declare(&mut self, name: &str, role: Role, shelf: &str, device: String, columns: u32) {
        let declared = NodeDeclaration {
            name: name.to_owned(),
            role,
            shelf: shelf.to_owned(),
            power: String::new(),
            devices: vec![DeviceDeclaration { name: device, columns }],
        };
        let changes = self.authority.declare_node(&declared).expect("declared");
        self.carry_out(changes);
        assert_eq!(self.authority.declare_node(&declared), Ok(Changes::default()), "again changes nothing");
    }

    fn head(&self, name: &str) -> NodeId {
        self.authority.node_by_name(name).expect("known").node
    }

    fn boot(&mut self, name: &str, boot: u128) -> Changes {
        let node = self.head(name);
        let changes = self.authority.boot(node, BootId(boot), log_of(node), &[]).expect("granted");
        self.carry_out(changes)
    }
}

fn log_of(node: NodeId) -> LogId {
    LogId(1000 + u128::from(node.0))
}

fn request(name: &str) -> VolumeRequest {
    VolumeRequest {
        name: name.to_owned(),
        bytes: 1 << 30,
        primary: "head-1".to_owned(),
        secondary: Some("head-2".to_owned()),
        reserves: Vec::new(),
        code: CODE,
        solo: Default::default(),
    }
}

#[test]
fn a_group_gets_its_first_number_when_both_heads_are_up_never_alone() {
    let mut rack = Rack::full();
    assert_eq!(rack.boot("head-1", 1).assignments, Vec::new(), "SoloByLeave: no group of one");
    let changes = rack.boot("head-2", 2);
    let [assignment] = changes.assignments.as_slice() else { panic!("one partition, one pair") };
    assert_eq!(assignment.stamp.number, Number { epoch: 1, counter: 1 });
    let heads: Vec<_> = assignment.members.iter().map(|member| (member.head, member.boot.0)).collect();
    assert_eq!(heads, [(rack.head("head-1"), 1), (rack.head("head-2"), 2)], "primary first");
}

#[test]
fn a_thousand_boots_get_strictly_rising_numbers_over_crashes_of_control() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("store");
    let mut rack = Rack::on(Embedded::open(&path).expect("opened"));
    rack.populate();
    rack.boot("head-1", 1);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(14);
    let (mut last, mut grants, mut granted) = (Number::ZERO, BTreeSet::new(), 0);
    for boot in 2..1002u128 {
        let name = if random.next_u64() % 2 == 0 { "head-1" } else { "head-2" };
        let node = rack.head(name);
        let changes = rack.authority.boot(node, BootId(boot), log_of(node), &[]).expect("granted");
        match random.next_u64() % 4 {
            // Control dies before the commit: the grant never was, nobody was told.
            0 => {}
            // Control dies after the commit, before anybody is told: the head asks again.
            1 => {
                rack.store.commit(&changes.records).expect("written");
            }
            _ => {
                rack.carry_out(changes);
            }
        }
        if random.next_u64() % 8 == 0 {
            drop(rack);
            rack = Rack::on(Embedded::open(&path).expect("opened"));
        } else {
            rack.authority = Authority::load(rack.store.load().expect("readable")).expect("loaded");
        }
        let again = rack.authority.boot(node, BootId(boot), log_of(node), &[]).expect("granted");
        for assignment in rack.carry_out(again).assignments {
            assert!(assignment.stamp.number > last, "NumbersRise at boot {boot}");
            assert!(grants.insert(assignment.stamp.grant), "grant ids differ");
            assert_eq!(assignment.member(node).map(|member| member.boot), Some(BootId(boot)), "P-01");
            last = assignment.stamp.number;
            granted += 1;
        }
    }
    assert!(granted > 990, "nearly every boot found both heads up: {granted}");
}

#[test]
fn the_same_boot_asks_twice_and_hears_the_same() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    let first = rack.boot("head-2", 2);
    let again = rack.boot("head-2", 2);
    assert_eq!(again.records, Vec::new());
    assert_eq!(again.assignments, first.assignments);
}

#[test]
fn a_late_word_of_an_earlier_boot_is_refused() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-1", 2);
    let node = rack.head("head-1");
    let late = rack.authority.boot(node, BootId(1), log_of(node), &[]);
    assert_eq!(late, Err(BootError::OldBoot("head-1".to_owned())), "P-01");
}

#[test]
fn another_log_is_another_member() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let node = rack.head("head-2");
    let other = rack.authority.boot(node, BootId(3), LogId(5), &[]);
    assert!(matches!(other, Err(BootError::OtherLog { .. })), "P-03: {other:?}");
}

#[test]
fn a_replaced_log_joins_but_does_not_stand_for_the_old_one() {
    let mut rack = Rack::full();
    let node = rack.head("head-2");
    let (log, fresh) = (Identity(log_of(node).0), Identity(5));
    let (_, changes) = rack.authority.decide_device("head-2/log", &Medium::Blank, log).expect("known");
    rack.carry_out(changes);
    let changes = rack.authority.device_formatted("head-2/log", log).expect("decided");
    rack.carry_out(changes);
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let changes = rack.authority.replace_device("head-2/log", false).expect("known");
    rack.carry_out(changes);
    let (decision, changes) =
        rack.authority.decide_device("head-2/log", &Medium::Blank, fresh).expect("known");
    assert_eq!(decision, Decision::Format { id: fresh });
    rack.carry_out(changes);
    let changes = rack.authority.boot(node, BootId(3), LogId(5), &[]).expect("it is a head again");
    let changes = rack.carry_out(changes);
    assert_eq!(changes.assignments, Vec::new(), "P-03: its emptiness serves nobody");
    let volume = rack.authority.volume_by_name("vol0").expect("there");
    let why = rack.authority.obstacle(volume).expect("an obstacle");
    assert!(why.contains("log of head-2 was replaced"), "{why}");
}

#[test]
fn a_restored_store_grants_only_above_what_heads_hold() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let copy = rack.store.clone();
    let newest = (3..10).map(|boot| rack.boot("head-2", boot).assignments[0].stamp).last().expect("some");
    // The copy is put back; the heads come with what they hold.
    let mut rack = Rack::on(copy);
    let node = rack.head("head-2");
    let changes = rack.authority.boot(node, BootId(20), log_of(node), &[newest]).expect("noticed");
    let changes = rack.carry_out(changes);
    assert!(!changes.notes.is_empty(), "it says so");
    let stamp = rack.all_heard(newest).stamp;
    assert!(stamp.number > newest.number, "P-04");
    assert_eq!(stamp.number.epoch, 2);
    // The same number under another grant shows it too.
    let forged = Stamp { grant: GrantId(stamp.grant.0 ^ 1), ..stamp };
    let changes = rack.authority.boot(node, BootId(21), log_of(node), &[forged]).expect("noticed");
    rack.carry_out(changes);
    assert_eq!(rack.all_heard(forged).stamp.number.epoch, 3);
}

#[test]
fn a_number_that_a_store_put_back_grants_again_has_another_grant_p_04() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let copy = rack.store.clone();
    let mut grant = |store, opening| {
        rack = Rack::on(store);
        rack.authority = rack.authority.clone().opened(opening);
        rack.boot("head-2", 3).assignments[0].stamp
    };
    let (first, again, same) = (grant(copy.clone(), 7), grant(copy.clone(), 8), grant(copy, 7));
    assert_eq!(first.number, again.number, "nothing in the copy tells of the first");
    assert_ne!(first.grant, again.grant);
    assert_eq!(first, same);
}

#[test]
fn a_raised_mark_raises_the_epoch() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    let changes = rack.authority.restored(4, 1000);
    rack.carry_out(changes);
    assert_eq!(rack.boot("head-2", 2).assignments, [], "nothing before every head was heard");
    let stamp = Stamp { partition: PartitionId(1), ..Stamp::default() };
    assert_eq!(rack.all_heard(stamp).stamp.number.epoch, 5, "P-04");
}

#[test]
fn a_deleted_volume_is_numbered_until_its_columns_are_free_and_never_comes_back() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let id = rack.authority.volume_by_name("vol0").expect("there").partition();
    let changes = rack.authority.delete_volume("vol0").expect("there");
    let changes = rack.carry_out(changes);
    assert_eq!(changes.deleting, [(rack.head("head-1"), id)]);
    assert_eq!(rack.boot("head-1", 3).assignments.len(), 1, "its head can still release columns");
    assert!(rack.authority.delete_volume("vol0").is_err());
    let forget = rack.authority.volume_deleted(rack.head("head-2"), id);
    assert_eq!(forget, Changes::default(), "only the primary's word counts");
    let changes = rack.authority.volume_deleted(rack.head("head-1"), id);
    let changes = rack.carry_out(changes);
    assert_eq!(changes.deleting, [(rack.head("head-2"), id)]);
    assert_eq!(rack.boot("head-1", 4).assignments, Vec::new());
    let changes = rack.authority.create_volume(&request("vol0")).expect("the name is free");
    let created = rack.carry_out(changes).created;
    assert_eq!(created, [PartitionId(id.0 + 1)], "ids are never reused (P-27)");
}

#[test]
fn making_a_volume_twice_changes_nothing_and_a_different_one_is_refused() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    assert_eq!(rack.authority.create_volume(&request("vol0")), Ok(Changes::default()));
    let bigger = VolumeRequest { bytes: 2 << 30, ..request("vol0") };
    assert_eq!(rack.authority.create_volume(&bigger), Err(VolumeError::Exists("vol0".to_owned())));
}

#[test]
fn volumes_that_cannot_be_are_refused_with_the_reason() {
    let rack = Rack::full();
    let base = request("v");
    let code = |data, parity| Code { data, parity, ..CODE };
    let refused =
        |request: VolumeRequest| rack.authority.create_volume(&request).expect_err("refused").to_string();
    let table = [
        (VolumeRequest { name: "a/b".to_owned(), ..base.clone() }, "no name"),
        (VolumeRequest { name: String::new(), ..base.clone() }, "no name"),
        (VolumeRequest { bytes: 0, ..base.clone() }, "multiple of 4096"),
        (VolumeRequest { bytes: 4097, ..base.clone() }, "multiple of 4096"),
        (VolumeRequest { primary: "head-9".to_owned(), ..base.clone() }, "no head"),
        (VolumeRequest { primary: "sled-1".to_owned(), ..base.clone() }, "no head"),
        (VolumeRequest { secondary: Some("head-1".to_owned()), ..base.clone() }, "cannot be primary and"),
        (VolumeRequest { code: code(8, 3), ..base.clone() }, "as many sleds"),
        (VolumeRequest { bytes: 1 << 40, ..base.clone() }, "do not fit the sleds"),
    ];
    for (request, text) in table {
        let why = refused(request);
        assert!(why.contains(text), "{why}");
    }
}

#[test]
fn sandboxes_of_volumes_do_not_overlap() {
    let mut rack = Rack::full();
    for name in ["vol1", "vol2"] {
        let changes = rack.authority.create_volume(&request(name)).expect("made");
        rack.carry_out(changes);
    }
    let mut held: BTreeSet<(String, u32)> = BTreeSet::new();
    for volume in rack.authority.living() {
        assert_eq!(volume.sandbox.len(), 6, "every device has room (EF-13)");
        for range in &volume.sandbox {
            for column in range.first..range.last {
                assert!(held.insert((range.device.clone(), column)), "{} {column}", range.device);
            }
        }
    }
}

#[test]
fn a_format_interrupted_by_a_crash_is_repeated_with_the_same_identity() {
    let mut rack = Rack::full();
    let (decision, changes) =
        rack.authority.decide_device("sled-1/0", &Medium::Blank, Identity(5)).expect("known");
    assert_eq!(decision, Decision::Format { id: Identity(5) });
    rack.carry_out(changes);
    let (decision, changes) =
        rack.authority.decide_device("sled-1/0", &Medium::Blank, Identity(6)).expect("known");
    assert_eq!(decision, Decision::Format { id: Identity(5) });
    rack.carry_out(changes);
    assert!(rack.authority.device_formatted("sled-1/0", Identity(6)).is_err());
    let changes = rack.authority.device_formatted("sled-1/0", Identity(5)).expect("decided");
    let changes = rack.carry_out(changes);
    assert_eq!(changes.devices.len(), 1, "heads hear of it");
    let (decision, changes) =
        rack.authority.decide_device("sled-1/0", &Medium::Blank, Identity(6)).expect("known");
    assert!(matches!(decision, Decision::Missing { .. }), "never reformatted silently");
    rack.carry_out(changes);
    let device = rack.authority.devices().find(|device| device.name == "sled-1/0").expect("there");
    assert!(device.trouble.contains("blank") && device.known == Known::Active { id: Identity(5) });
}

#[test]
fn a_moved_device_keeps_its_identity_and_a_moved_log_is_refused() {
    let mut rack = Rack::full();
    for (name, id) in [("sled-1/0", 51), ("head-1/log", 61)] {
        let (_, changes) = rack.authority.decide_device(name, &Medium::Blank, Identity(id)).expect("known");
        rack.carry_out(changes);
        let changes = rack.authority.device_formatted(name, Identity(id)).expect("decided");
        rack.carry_out(changes);
    }
    let found = Medium::Ours { id: Identity(51) };
    let (decision, changes) = rack.authority.decide_device("sled-2/0", &found, Identity(9)).expect("known");
    assert_eq!(decision, Decision::Open { id: Identity(51) });
    rack.carry_out(changes);
    let spec = rack.authority.partition(PartitionId(1)).expect("there");
    let sled = rack.head("sled-2");
    let serves: Vec<_> = spec.devices.iter().filter(|device| device.device.0 == 51).collect();
    assert_eq!(serves.len(), 1);
    assert_eq!(serves[0].sled, sled, "the device is served where it is now");
    let found = Medium::Ours { id: Identity(61) };
    let (decision, _) = rack.authority.decide_device("head-2/log", &found, Identity(9)).expect("known");
    assert!(matches!(decision, Decision::Refuse { .. }), "P-03");
}

#[test]
fn nodes_keep_their_role_and_leave_only_unused() {
    let mut rack = Rack::full();
    let wrong = NodeDeclaration {
        name: "head-1".to_owned(),
        role: Role::Sled,
        shelf: String::new(),
        power: String::new(),
        devices: Vec::new(),
    };
    assert!(matches!(rack.authority.declare_node(&wrong), Err(NodeError::Role(..))));
    assert!(matches!(rack.authority.remove_node("head-1"), Err(NodeError::InUse(..))));
    let changes = rack.authority.remove_node("sled-6").expect("never formatted");
    rack.carry_out(changes);
    assert!(rack.authority.node_by_name("sled-6").is_none());
    assert_eq!(rack.authority.remove_node("sled-6"), Ok(Changes::default()));
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let mut changes = Authority::found(RackId(1), 1, "test");
    if let Some(Record::Meta(meta)) = &mut changes.records[0].1 {
        meta.format = FORMAT + 1;
    }
    let records = changes.records.into_iter().filter_map(|(key, record)| Some((key, record?)));
    assert_eq!(Authority::load(records), Err(LoadError::Newer(FORMAT + 1)));
    assert_eq!(Authority::load([]), Err(LoadError::Empty));
}

/// Whether `run` violates what the tests above assert, with a rule broken and with all in force.
fn canary(faults: Faults, violated: impl Fn(&mut Rack<Memory>) -> bool) {
    for (faults, expected) in [(Faults::default(), false), (faults, true)] {
        let mut rack = Rack::full();
        rack.authority.break_rules(faults);
        assert_eq!(violated(&mut rack), expected, "{faults:?}");
    }
}

/// Boots without the reload comparison of [`Rack::carry_out`], which knows no faults.
fn boot_of(
    rack: &mut Rack<Memory>,
    name: &str,
    boot: u128,
    log: Option<LogId>,
    held: &[Stamp],
) -> Vec<Stamp> {
    let node = rack.head(name);
    let Ok(changes) = rack.authority.boot(node, BootId(boot), log.unwrap_or(log_of(node)), held) else {
        return Vec::new();
    };
    rack.store.commit(&changes.records).expect("written");
    rack.authority.apply(&changes);
    changes.assignments.iter().map(|assignment| assignment.stamp).collect()
}

#[test]
fn a_number_kept_over_a_restart_is_seen() {
    canary(Faults { number_kept: true, ..Faults::default() }, |rack| {
        boot_of(rack, "head-1", 1, None, &[]);
        let first = boot_of(rack, "head-2", 2, None, &[]);
        let second = boot_of(rack, "head-2", 3, None, &[]);
        second[0].number <= first[0].number
    });
}

#[test]
fn another_log_taken_for_the_old_one_is_seen() {
    canary(Faults { any_log: true, ..Faults::default() }, |rack| {
        boot_of(rack, "head-1", 1, None, &[]);
        boot_of(rack, "head-2", 2, None, &[]);
        !boot_of(rack, "head-2", 3, Some(LogId(5)), &[]).is_empty()
    });
}

#[test]
fn an_epoch_kept_by_a_restored_store_is_seen() {
    canary(Faults { epoch_kept: true, ..Faults::default() }, |rack| {
        boot_of(rack, "head-1", 1, None, &[]);
        let held = boot_of(rack, "head-2", 2, None, &[])[0];
        let newer = Stamp { number: Number { epoch: 1, counter: 9 }, ..held };
        let broken = boot_of(rack, "head-2", 3, None, &[newer]).first().copied();
        broken.unwrap_or_else(|| rack.all_heard(newer).stamp).number <= newer.number
    });
}

#[test]
fn a_group_granted_without_its_secondary_is_seen() {
    canary(Faults { lone_group: true, ..Faults::default() }, |rack| {
        !boot_of(rack, "head-1", 1, None, &[]).is_empty()
    });
}
