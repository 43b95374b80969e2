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
    let mark = Mark { rack: RackId(3), epoch: 2, grants: 40, home: None };
    mark.write(dir.path()).expect("written");
    let (found, at_home) = Mark::read(dir.path()).expect("written");
    assert_eq!((Mark { home: None, ..found }, at_home), (mark, true));
    std::fs::write(dir.path().join(Mark::FILE), b"{").expect("written");
    assert_eq!(Mark::read(dir.path()), None);
}

#[test]
fn p04_a_mark_that_was_put_back_or_copied_is_told_from_the_one_that_was_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, backup) = (dir.path().join(Mark::FILE), dir.path().join("backup"));
    let mark = |grants| Mark { rack: RackId(3), epoch: 1, grants, home: None };
    let found = || Mark::read(dir.path()).map(|(mark, at_home)| (mark.grants, at_home));
    mark(1).write(dir.path()).expect("written");
    if Mark::read(dir.path()).is_some_and(|(mark, _)| mark.home.is_none()) {
        // Files have no time of creation here: nothing can be told.
        return;
    }
    std::fs::copy(&path, &backup).expect("copied");
    mark(2).write(dir.path()).expect("written");
    assert_eq!(found(), Some((2, true)));
    // Over the file that is there, as `cp` does it, and in its place, as `tar` does it.
    std::fs::copy(&backup, &path).expect("put back");
    assert_eq!(found(), Some((1, false)));
    mark(3).write(dir.path()).expect("written");
    assert_eq!(found(), Some((3, true)), "whoever writes next is at home again");
    std::fs::rename(&backup, &path).expect("put back");
    assert_eq!(found(), Some((1, false)));
    // One of an older program says nothing of where it was.
    std::fs::write(&path, br#"{"rack":"00000000-0000-0000-0000-000000000003","epoch":1,"grants":4}"#)
        .expect("written");
    assert_eq!(found(), Some((4, true)));
}
