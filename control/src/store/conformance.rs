//! The conformance suite of stores: what every one must bear, over the authority that decides on it. A store is
//! plugged in as a [`Venue`]: something that opens the same store again after control died.

use std::collections::{BTreeMap, BTreeSet};

use palisade_protocol::wire::{
    Assignment, BootId, LogId, Member, NodeId, PartitionId, Proposal, ProposalOutcome, RackId, Why,
};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::etcd::tests::{Cluster, Seat};
use super::{Embedded, Memory, Store};
use crate::api::model::Role;
use crate::authority::{
    Authority, Change, Changes, MemberRecord, Meta, NodeDeclaration, Record, Verdict, VolumeRequest,
};
use crate::config::{Code, Solo};

/// Opens a store; handed what was open before, as control left it when it died.
type Venue<'v> = &'v mut dyn FnMut(Option<Box<dyn Store>>) -> Box<dyn Store>;

/// Runs a check over every store.
fn over_every_store(check: fn(Venue<'_>)) {
    check(&mut |old| old.unwrap_or_else(|| Box::new(Memory::default())));
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("store");
    check(&mut |old| {
        drop(old);
        Box::new(Embedded::open(&path).expect("opened"))
    });
}

/// Runs a check over an etcd of one member, unless the host has none.
fn over_etcd(check: fn(Venue<'_>)) {
    let Some(cluster) = Cluster::start(1) else { return };
    check(&mut |old| {
        drop(old);
        Box::new(Seat::take(&cluster.endpoints()))
    });
}

fn founding() -> Vec<Change> {
    Authority::found(RackId(7), 11, "test").records
}

fn meta(store: &mut dyn Store) -> Option<Meta> {
    match store.get("meta").expect("readable") {
        Some(Record::Meta(meta)) => Some(meta),
        _ => None,
    }
}

fn keeps_records(open: Venue<'_>) {
    let mut store = open(None);
    assert_eq!(store.load().expect("readable"), Vec::new());
    assert_eq!(store.get("meta").expect("readable"), None);
    store.commit(&founding()).expect("written");
    let first = meta(&mut *store).expect("there");
    assert_eq!((first.rack, first.epoch), (RackId(7), 1));
    let changed = Record::Meta(Meta { epoch: 9, ..first.clone() });
    store.commit(&[("meta".to_owned(), Some(changed.clone()))]).expect("written");
    let mut store = open(Some(store));
    assert_eq!(store.load().expect("readable"), vec![("meta".to_owned(), changed)]);
    store.commit(&[("none".to_owned(), None)]).expect("removing nothing is fine");
    store.commit(&[("meta".to_owned(), None)]).expect("removed");
    assert_eq!(store.load().expect("readable"), Vec::new());
}

fn member(host: u32) -> Member {
    Member { head: NodeId(host), log: LogId(host.into()), boot: BootId(9000 + u128::from(host)) }
}

fn authority(store: &mut dyn Store) -> Authority {
    Authority::load(store.load().expect("readable")).expect("loaded")
}

const CODE: Code = Code {
    data: 4,
    parity: 2,
    unit_bytes: 64 << 10,
    column_bytes: 8 << 20,
    min_columns: 5,
    shared_shelves: true,
};

/// Heads that started, and volumes whose group they all are.
fn populate(store: &mut dyn Store, hosts: u32, volumes: u64) {
    store.commit(&founding()).expect("written");
    let mut authority = authority(store);
    let mut records = BTreeMap::new();
    let mut take = |authority: &mut Authority, changes: Changes| {
        authority.apply(&changes);
        records.extend(changes.records);
    };
    for host in 1..=hosts {
        let name = format!("head-{host}");
        let (shelf, power) = (name.clone(), String::new());
        let declared = NodeDeclaration { name, role: Role::Head, shelf, power, devices: Vec::new() };
        let changes = authority.declare_node(&declared).expect("declared");
        take(&mut authority, changes);
        let Member { head, log, boot } = member(host);
        let changes = authority.boot(head, boot, log, &[]).expect("started");
        take(&mut authority, changes);
    }
    for volume in 1..=volumes {
        let (primary, secondary) = ("head-1".to_owned(), Some("head-2".to_owned()));
        let (name, solo) = (format!("vol{volume}"), Solo::Wait);
        let reserves = Vec::new();
        let request = VolumeRequest { name, bytes: 1 << 30, primary, secondary, reserves, code: CODE, solo };
        let changes = authority.create_volume(&request).expect("made");
        take(&mut authority, changes);
    }
    let all = (1..=hosts).map(member);
    let all =
        all.map(|Member { head, log, boot }| MemberRecord { head, log, boot, joining: false, lost: false });
    let all: Vec<MemberRecord> = all.collect();
    for record in records.values_mut() {
        if let Some(Record::Volume(volume)) = record {
            volume.members.clone_from(&all);
        }
    }
    store.commit(&records.into_iter().collect::<Vec<Change>>()).expect("written");
}

/// Control with the accidents that it may have at each step.
struct Accidents<'v> {
    open: Venue<'v>,
    store: Option<Box<dyn Store>>,
    authority: Authority,
    random: Xoshiro256PlusPlus,
}

impl<'v> Accidents<'v> {
    fn start(open: Venue<'v>, seed: u64, hosts: u32, volumes: u64) -> Self {
        let mut store = open(None);
        populate(&mut *store, hosts, volumes);
        let authority = authority(&mut *store);
        Self { open, store: Some(store), authority, random: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.next_u64().is_multiple_of(n)
    }

    fn die(&mut self) {
        let mut store = (self.open)(self.store.take());
        self.authority = authority(&mut *store);
        self.store = Some(store);
    }

    /// One attempt; none when control died or the answer was lost on its way.
    fn ask(&mut self, wish: &Proposal, host: u32) -> Option<ProposalOutcome> {
        let verdict = self.propose(wish, host);
        // Steps that write are few; most of them meet an accident.
        let writes = !verdict.changes.records.is_empty();
        if (writes && self.one_in(2)) || self.one_in(400) {
            self.die();
            return None;
        }
        if writes {
            self.store.as_mut().expect("open").commit(&verdict.changes.records).expect("written");
            if self.one_in(2) {
                self.die();
                return None;
            }
            self.authority.apply(&verdict.changes);
        }
        (!self.one_in(2)).then_some(verdict.outcome)
    }

    fn propose(&self, wish: &Proposal, host: u32) -> Verdict {
        self.authority.propose(member(host).head, member(host).boot, wish, 0)
    }
}

/// A group wanted after a pair.
fn wish(pair: &Assignment, heads: [u32; 2], nonce: u64) -> Proposal {
    let (expected, why) = (pair.stamp, Why::Silence);
    let members = heads.map(member).into_iter().collect();
    Proposal { partition: expected.partition, expected, members, nonce, why, caught_up: false }
}

/// Hosts of the check of BA-06.
const HOSTS: u32 = 1000;
/// Keys that they propose, one volume each.
const KEYS: u64 = 2;

/// What a host wants: itself first, the next one behind it.
fn own_wish(pair: &Assignment, host: u32) -> Proposal {
    wish(pair, [host, host % HOSTS + 1], 1)
}

/// BA-06: a thousand concurrent hosts, lost answers, deaths of control at every step: one identity is granted
/// per key, and for ever.
fn grants_one_identity_per_key(open: Venue<'_>) {
    let mut control = Accidents::start(open, 6, HOSTS, KEYS);
    let mut won: Vec<(Assignment, u32, Assignment)> = Vec::new();
    for key in 1..=KEYS {
        let pair = control.authority.query(PartitionId(key)).expect("a pair");
        let mut waiting: Vec<u32> = (1..=HOSTS).collect();
        let mut granted = Vec::new();
        while !waiting.is_empty() {
            let at = (control.random.next_u64() % waiting.len() as u64) as usize;
            let host = waiting[at];
            let Some(outcome) = control.ask(&own_wish(&pair, host), host) else { continue };
            waiting.swap_remove(at);
            if let ProposalOutcome::Granted(assignment) = outcome {
                granted.push((pair.clone(), host, assignment));
            }
        }
        let [(_, host, assignment)] = granted.as_slice() else { panic!("key {key}: {granted:?}") };
        assert_eq!(assignment.primary(), Some(&member(*host)), "it got what it asked for");
        won.append(&mut granted);
    }
    // Somebody takes the next number of the first key. The old answers stand, whoever asks again.
    let (_, _, first) = won[0].clone();
    let [winner, follower] = [first.members[0].head.0, first.members[1].head.0];
    let next = wish(&first, [follower, winner], 2);
    while !matches!(control.ask(&next, follower), Some(ProposalOutcome::Granted(_))) {}
    control.die();
    for (pair, winner, assignment) in &won {
        for host in 1..=HOSTS {
            let verdict = control.propose(&own_wish(pair, host), host);
            let granted = verdict.outcome == ProposalOutcome::Granted(assignment.clone());
            assert_eq!(granted, host == *winner, "host {host}: {:?}", verdict.outcome);
            assert_eq!(verdict.changes.records, [], "nothing is decided anew");
        }
    }
}

/// EF-14: assignments over deaths of control never repeat a number, and each stands on the one before.
fn never_repeats_a_number(open: Venue<'_>) {
    let mut control = Accidents::start(open, 14, 2, 1);
    let mut pair = control.authority.query(PartitionId(1)).expect("a pair");
    let mut grants = BTreeSet::from([pair.stamp.grant]);
    for nonce in 1..=250 {
        let (by, wish) = match nonce % 2 {
            1 => (2, wish(&pair, [2, 1], nonce)),
            _ => (1, wish(&pair, [1, 2], nonce)),
        };
        let granted = loop {
            match control.ask(&wish, by) {
                Some(ProposalOutcome::Granted(granted)) => break granted,
                Some(declined) => panic!("nobody else asks: {declined:?}"),
                None => {}
            }
        };
        assert!(granted.stamp.number > pair.stamp.number, "NumbersRise");
        assert!(grants.insert(granted.stamp.grant), "grant ids differ");
        pair = granted;
    }
}

#[test]
fn every_store_conforms() {
    over_every_store(keeps_records);
}

#[test]
fn etcd_conforms() {
    over_etcd(keeps_records);
}

#[test]
fn ba06_a_thousand_hosts_get_one_granted_identity_per_key_for_ever_from_etcd() {
    over_etcd(grants_one_identity_per_key);
}

#[test]
fn ef14_assignments_over_deaths_of_control_never_repeat_a_number_from_etcd() {
    over_etcd(never_repeats_a_number);
}

#[test]
fn ba06_a_thousand_hosts_get_one_granted_identity_per_key_for_ever_from_every_store() {
    over_every_store(grants_one_identity_per_key);
}

#[test]
fn ef14_assignments_over_deaths_of_control_never_repeat_a_number_from_any_store() {
    over_every_store(never_repeats_a_number);
}
