//! Roles spread by load, over the socket (EF-28): heads say what they did, control moves a volume.

mod support;

use palisade_control::Control;
use palisade_control::config;
use palisade_control::report::PartitionReport;
use palisade_protocol::wire::{Assignment, PartitionId};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{FakeHead, call, status, text, wait_for};

/// Two heads, both volumes led by the first one.
struct Pair {
    first: FakeHead,
    second: FakeHead,
    pairs: BTreeMap<u64, Assignment>,
    done: u64,
}

impl Pair {
    fn start(socket: &Path) -> Self {
        let first = FakeHead::start(socket, "head-1", 1);
        let second = FakeHead::start(socket, "head-2", 2);
        let more = json!({ "name": "vol1", "bytes": 1 << 30, "primary": "head-1", "secondary": "head-2" });
        call(socket, "volume.create", more).expect("made");
        let mut pair = Self { first, second, pairs: BTreeMap::new(), done: 0 };
        while pair.pairs.len() < 2 {
            let assignment = pair.first.assignment();
            pair.pairs.insert(assignment.stamp.partition.0, assignment);
        }
        pair
    }

    /// Both say what they do: each volume's primary answered so many more requests.
    fn say(&mut self, more: u64) {
        self.done += more;
        let said = |head: &FakeHead| -> Vec<(&Assignment, PartitionReport)> {
            let of = |pair: &'_ Assignment| {
                let leads = pair.members[0].head == head.node;
                let role = if leads { "serving" } else { "following" };
                let counters = BTreeMap::from([("reads".to_owned(), if leads { self.done } else { 0 })]);
                PartitionReport { role: role.to_owned(), counters, ..PartitionReport::default() }
            };
            self.pairs.values().map(|pair| (pair, of(pair))).collect()
        };
        self.first.say_all(&said(&self.first));
        self.second.say_all(&said(&self.second));
    }

    /// Hears of the newest pair of a volume.
    fn hear(&mut self, volume: u64) {
        while let Ok(command) = self.first.agent.commands().recv_timeout(Duration::from_secs(10)) {
            if let palisade_control::agent::Command::Assign { assignment, .. } = command
                && assignment.stamp.partition == PartitionId(volume)
                && assignment.stamp.number > self.pairs[&volume].stamp.number
            {
                self.pairs.insert(volume, assignment);
                return;
            }
        }
        panic!("no newer pair of volume {volume} in time");
    }
}

fn start(data: &Path, control: &str) -> (Control, std::path::PathBuf) {
    let parsed = config::parse(&format!("{}\n[control]\n{control}\n", text()), Some(data));
    assert!(parsed.findings.iter().all(|finding| !finding.what.contains("balance")), "{:?}", parsed.findings);
    let socket = parsed.rack.socket();
    (Control::start(&parsed.rack).expect("started"), socket)
}

fn primaries(socket: &Path) -> Vec<String> {
    status(socket).volumes.iter().map(|volume| volume.primary.clone()).collect()
}

#[test]
fn ef28_a_head_that_serves_more_than_others_gives_one_volume_away_and_keeps_the_rest() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_control, socket) = start(dir.path(), "failover = \"auto\"\nbalance_after_ms = 300");
    let mut heads = Pair::start(&socket);
    let moved = wait_for("a move", || {
        heads.say(100);
        primaries(&socket).iter().position(|primary| primary == "head-2")
    });
    heads.hear(moved as u64 + 1);
    let events = call(&socket, "events", json!({})).expect("answered").to_string();
    assert!(events.contains("head-1 serves more than others"), "{events}");
    // Both do the same now: nothing moves any more.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        heads.say(100);
        std::thread::sleep(Duration::from_millis(20));
    }
    let now = primaries(&socket);
    assert_eq!(now.iter().filter(|primary| *primary == "head-2").count(), 1, "{now:?}");
    assert_eq!(now[moved], "head-2", "and nothing came back");
}

#[test]
fn ef28_loads_move_nothing_unless_that_is_asked_for() {
    for control in [
        "failover = \"auto\"",
        "failover = \"planned\"\nbalance_after_ms = 100",
        "balance_after_ms = \"off\"",
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (_control, socket) = start(dir.path(), control);
        let mut heads = Pair::start(&socket);
        for _ in 0..60 {
            heads.say(100);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(primaries(&socket), ["head-1", "head-1"], "{control}");
    }
}
