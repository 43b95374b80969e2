//! What only the etcd store must bear: two that want to write, answers lost and late, commits larger than a
//! transaction. Over a real etcd; what every store must bear is in `conformance`.

#[allow(dead_code, unreachable_pub, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../../../../tests/e2e/src/etcd.rs"]
mod cluster;
mod weather;

use std::time::{Duration, Instant};

pub(in crate::store) use cluster::Cluster;

use palisade_protocol::wire::RackId;
use weather::Weather;

use super::{Campaign, Candidate, Etcd, Tenure};
use crate::authority::{Authority, Change, Meta, Record};
use crate::store::{Store, StoreError};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// The shortest lease that etcd gives: for those that are to lose it.
const TTL: Duration = Duration::from_secs(2);
/// A lease that a busy machine does not take away.
const LONG_TTL: Duration = Duration::from_secs(20);

/// A store with its tenure, which it gives back when it is dropped.
pub(in crate::store) struct Seat {
    store: Etcd,
    tenure: Tenure,
}

impl Seat {
    /// Waits for the lease.
    pub(in crate::store) fn take(endpoints: &[String]) -> Self {
        let mut candidate = Candidate::new(endpoints, "test", LONG_TTL).expect("random");
        Self::of(win(&mut candidate))
    }

    fn of(tenure: Tenure) -> Self {
        Self { store: Etcd::of(tenure.view()), tenure }
    }
}

impl Store for Seat {
    fn load(&mut self) -> Result<Vec<(String, Record)>, StoreError> {
        self.store.load()
    }

    fn get(&mut self, key: &str) -> Result<Option<Record>, StoreError> {
        self.store.get(key)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.store.commit(changes)
    }
}

/// How long calls are tried here, where they are made to fail.
const SHORT: Duration = Duration::from_millis(1000);

fn candidate(endpoint: &str, patience: Duration, ttl: Duration) -> Candidate {
    let mut candidate = Candidate::new(&[endpoint.to_owned()], "test", ttl).expect("random");
    candidate.set_patience(patience);
    candidate
}

fn meta(grants: u64) -> Vec<Change> {
    let mut changes = Authority::found(RackId(7), 11, "test").records;
    if let Some(Record::Meta(meta)) = &mut changes[0].1 {
        meta.grants = grants;
    }
    changes
}

/// What the store says of grants; none when it is empty.
fn grants(store: &mut dyn Store) -> Option<u64> {
    match store.get("meta").expect("readable") {
        Some(Record::Meta(Meta { grants, .. })) => Some(grants),
        _ => None,
    }
}

/// A commit larger than a transaction: 250 records that all say the same.
fn large(grants: u64) -> Vec<Change> {
    let one = meta(grants)[0].1.clone();
    (0..250).map(|index| (format!("many/{index:03}"), one.clone())).collect()
}

/// What the many records say; none when they are not there. They must all say the same.
fn large_grants(records: &[(String, Record)]) -> Option<u64> {
    let said: Vec<u64> = records
        .iter()
        .filter(|(key, _)| key.starts_with("many/"))
        .map(|(_, record)| match record {
            Record::Meta(meta) => meta.grants,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(said.is_empty() || said.len() == 250, "all or nothing, not {}", said.len());
    assert!(said.iter().all(|grants| Some(grants) == said.first()), "all of one commit: {said:?}");
    said.first().copied()
}

#[test]
fn ef24_of_two_candidates_one_has_the_lease_until_it_gives_it_back() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoint = &cluster.endpoints()[0];
    let ttl = 2 * TTL;
    let (mut one, mut two) = (candidate(endpoint, LONG, ttl), candidate(endpoint, LONG, ttl));
    let first = win(&mut one);
    let Ok(Campaign::Held(holder)) = two.ask() else { panic!("one holder") };
    assert_eq!(holder.pid, std::process::id(), "it says who it is: {holder}");
    // Longer than a lease: it is renewed.
    std::thread::sleep(ttl + ttl / 2);
    assert!(first.view().lost().is_none());
    assert!(matches!(two.ask(), Ok(Campaign::Held(_))));
    let revision = first.view().revision();
    drop(first);
    let Ok(Campaign::Won(second)) = two.ask() else { panic!("given back, so it is free at once") };
    assert!(second.view().revision() > revision, "tenures are told apart");
}

#[test]
fn ef24_a_holder_that_does_not_know_that_it_lost_the_lease_writes_nothing() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoint = &cluster.endpoints()[0];
    let first = win(&mut candidate(endpoint, LONG, TTL));
    let mut old = Etcd::of(first.view());
    old.load().expect("readable");
    old.commit(&meta(1)).expect("it has the lease");
    // As after a pause: it says no longer that it lives, and its own clock saw nothing of it.
    first.sleep_walk();
    let mut two = candidate(endpoint, LONG, TTL);
    let second = win(&mut two);
    assert!(first.view().lost().is_none(), "it believes in its lease");
    let error = old.commit(&meta(2)).expect_err("fenced by the transaction itself").to_string();
    assert!(error.contains("another control plane has it"), "{error}");
    assert!(first.view().lost().is_some(), "and now it knows");
    let mut new = Etcd::of(second.view());
    assert_eq!(large_grants(&new.load().expect("readable")), None);
    assert_eq!(grants(&mut new), Some(1), "nothing of it came through");
    new.commit(&meta(3)).expect("the holder writes");
    assert!(old.commit(&meta(4)).is_err() && old.get("meta").is_err(), "for good");
    assert_eq!(grants(&mut new), Some(3));
}

#[test]
fn ef24_a_silent_holder_is_followed_and_knows_by_its_own_clock() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoint = &cluster.endpoints()[0];
    let weather = Weather::before(endpoint);
    let first = win(&mut candidate(&weather.endpoint(), SHORT, TTL));
    weather.cut();
    let second = win(&mut candidate(endpoint, LONG, TTL));
    let end = Instant::now() + LONG;
    while first.view().lost().is_none() {
        assert!(Instant::now() < end, "without etcd a lease ends by the holder's clock");
        std::thread::sleep(Duration::from_millis(20));
    }
    let why = first.view().lost().expect("lost");
    assert!(why.contains("not renewed") && why.contains(&weather.endpoint()), "{why}");
    assert!(second.view().lost().is_none());
}

#[test]
fn ba06_a_commit_whose_answer_was_lost_holds_once_and_is_known_to_hold() {
    let Some(cluster) = Cluster::start(1) else { return };
    let weather = Weather::before(&cluster.endpoints()[0]);
    let tenure = win(&mut candidate(&weather.endpoint(), LONG, LONG_TTL));
    let mut store = Etcd::of(tenure.view());
    store.load().expect("readable");
    for round in 1..=5 {
        weather.lose_answer_to("kv/txn");
        store.commit(&meta(round)).expect("sent again, and recognised");
        assert!(weather.lost(), "an answer was lost");
        assert_eq!(grants(&mut store), Some(round));
    }
}

#[test]
fn ba06_a_commit_that_was_given_up_and_arrives_late_changes_nothing() {
    let Some(cluster) = Cluster::start(1) else { return };
    let weather = Weather::before(&cluster.endpoints()[0]);
    let tenure = win(&mut candidate(&weather.endpoint(), 2 * SHORT, LONG_TTL));
    let mut store = Etcd::of(tenure.view());
    store.load().expect("readable");
    store.commit(&meta(1)).expect("written");
    weather.hold("kv/txn");
    let error = store.commit(&meta(2)).expect_err("nobody answers").to_string();
    assert!(error.contains("etcd does not answer"), "{error}");
    let held = weather.release_later();
    assert!(held > 0, "it is on its way still");
    let end = Instant::now() + LONG;
    while tenure.view().suspect().is_some() {
        assert!(Instant::now() < end, "a sign of life ends the doubt");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(large_grants(&store.load().expect("readable")), None);
    assert_eq!(grants(&mut store), Some(1), "it was not carried out");
    assert_eq!(weather.deliver(), held, "and now it is asked for");
    assert_eq!(grants(&mut store), Some(1), "too late");
    store.commit(&meta(3)).expect("written");
    assert_eq!(grants(&mut store), Some(3));
}

#[test]
fn ef14_a_commit_larger_than_a_transaction_holds_whole_or_not_at_all_wherever_it_is_cut_off() {
    let Some(cluster) = Cluster::start(1) else { return };
    let endpoint = &cluster.endpoints()[0];
    let weather = Weather::before(endpoint);
    let (mut held, mut lost) = (0, 0);
    let mut before = None;
    // Three parts, the mark, three times reading and writing a part, and the end.
    for writes in 0..=9 {
        let (tenure, mut store) = readable(&mut candidate(&weather.endpoint(), SHORT, TTL));
        weather.cut_after("kv/txn", writes);
        let committed = store.commit(&large(writes)).is_ok();
        weather.mend();
        drop(tenure);
        let (_tenure, mut store) = readable(&mut candidate(endpoint, LONG, LONG_TTL));
        let found = large_grants(&store.load().expect("readable"));
        match found {
            found if found == Some(writes) => held += 1,
            found => {
                assert!(!committed, "what was acknowledged holds");
                assert_eq!(found, before, "what does not hold left no trace");
                lost += 1;
            }
        }
        // The next holder finishes what is left.
        store.commit(&meta(writes)).expect("written");
        assert_eq!(large_grants(&store.load().expect("readable")), found);
        before = found;
    }
    assert!(held >= 3 && lost >= 3, "cut off on both sides of the mark: {held} held, {lost} did not");
}

#[test]
fn commits_of_any_size_are_read_back() {
    let Some(cluster) = Cluster::start(1) else { return };
    let mut seat = Seat::take(&cluster.endpoints());
    assert_eq!(seat.load().expect("readable"), []);
    let one = meta(5)[0].1.clone();
    let many: Vec<Change> = (0..1234).map(|index| (format!("k/{index:05}"), one.clone())).collect();
    seat.commit(&many).expect("written");
    let keys: Vec<String> = seat.load().expect("readable").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, many.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), "over several pages");
    // A key twice in one commit: the last word counts.
    let twice = vec![("k/00000".to_owned(), one.clone()), ("k/00000".to_owned(), None)];
    seat.commit(&twice).expect("written");
    assert_eq!(seat.get("k/00000").expect("readable"), None);
    let none: Vec<Change> = many.iter().map(|(key, _)| (key.clone(), None)).collect();
    seat.commit(&none).expect("removed");
    assert_eq!(seat.load().expect("readable"), []);
    assert!(seat.tenure.view().lost().is_none());
}

#[test]
fn an_etcd_that_is_away_is_an_error_in_time_and_names_its_endpoints() {
    let began = Instant::now();
    let mut candidate = candidate("http://127.0.0.1:1", SHORT, TTL);
    let Err(error) = candidate.ask() else { panic!("nobody is there") };
    let text = error.to_string();
    assert!(text.contains("etcd does not answer at http://127.0.0.1:1"), "{text}");
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

/// A store that could be read once.
fn readable(candidate: &mut Candidate) -> (Tenure, Etcd) {
    let end = Instant::now() + LONG;
    loop {
        let tenure = win(candidate);
        let mut store = Etcd::of(tenure.view());
        match store.load() {
            Ok(_) => return (tenure, store),
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

fn win(candidate: &mut Candidate) -> Tenure {
    let end = Instant::now() + LONG;
    loop {
        if let Ok(Campaign::Won(tenure)) = candidate.ask() {
            return tenure;
        }
        assert!(Instant::now() < end, "nobody else keeps the lease for so long");
        std::thread::sleep(Duration::from_millis(20));
    }
}
