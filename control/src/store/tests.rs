//! What only the embedded store must bear, and the mark; what every store must is in `conformance`.

use palisade_protocol::wire::RackId;

use super::{Embedded, Mark, Store};
use crate::authority::{Authority, Change, Meta, Record};

fn founding() -> Vec<Change> {
    Authority::found(RackId(7), 11, "test").records
}

fn meta(store: &mut dyn Store) -> Option<Meta> {
    match store.get("meta").expect("readable") {
        Some(Record::Meta(meta)) => Some(meta),
        _ => None,
    }
}

#[test]
fn a_commit_survives_being_abandoned_without_a_clean_close() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("store");
    let copy = dir.path().join("copy");
    let mut store = Embedded::open(&path).expect("opened");
    for round in 0..20 {
        let mut changes = founding();
        if let Some(Record::Meta(meta)) = &mut changes[0].1 {
            meta.grants = round;
        }
        store.commit(&changes).expect("written");
        // What a kill leaves behind: the file as it is now, never closed.
        std::fs::copy(&path, &copy).expect("copied");
        let mut after = Embedded::open(&copy).expect("opened after a kill");
        assert_eq!(meta(&mut after).expect("there").grants, round, "EF-14: durable before it is released");
    }
}

#[test]
fn a_truncated_or_foreign_store_is_refused_without_a_panic() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("store");
    std::fs::write(&path, b"this is no store at all, but it is long enough to look at").expect("written");
    let error = Embedded::open(&path).err().expect("refused").to_string();
    assert!(error.contains("store"), "{error}");
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("store");
    let _first = Embedded::open(&path).expect("opened");
    assert!(Embedded::open(&path).is_err());
}

#[test]
fn the_mark_is_read_back_and_a_damaged_one_is_none() {
    let dir = tempfile::tempdir().expect("temporary directory");
    assert_eq!(Mark::read(dir.path()), None);
    let mark = Mark { rack: RackId(3), epoch: 2, grants: 40 };
    mark.write(dir.path()).expect("written");
    assert_eq!(Mark::read(dir.path()), Some(mark));
    std::fs::write(dir.path().join(Mark::FILE), b"{").expect("written");
    assert_eq!(Mark::read(dir.path()), None);
}
