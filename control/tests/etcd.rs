//! Control over an etcd cluster, over the socket: members of etcd die, a majority dies, control planes follow one
//! another (EF-24). Heads are without a data plane, so what I/O does meanwhile is seen in tests/e2e.

#[allow(dead_code, unreachable_pub, reason = "shared with the end-to-end tests, which use the rest")]
#[path = "../../tests/e2e/src/etcd.rs"]
mod cluster;
mod support;

use std::path::Path;
use std::time::Duration;

use cluster::Cluster;
use palisade_control::agent::{Command, Report};
use palisade_control::api::events::EventEntry;
use palisade_control::config::{self, Rack};
use palisade_control::{Control, Standing};
use palisade_protocol::wire::{Assignment, PartitionId, Proposal, Why};
use serde_json::json;
use support::{FakeHead, call, status, text, wait_for};

/// How long a head waits for an answer before it asks again.
const AGAIN: Duration = Duration::from_millis(500);

fn etcd_rack(data: &Path, cluster: &Cluster, lease_ms: u64) -> Rack {
    let endpoints = cluster.quoted();
    let keys = format!("store = \"etcd\"\nlease_ms = {lease_ms}\nendpoints = [{endpoints}]\n");
    config::parse(&format!("{}\n[control]\n{keys}", text()), Some(data)).rack
}

fn wait_serving(control: &Control) {
    wait_for("the lease", || (control.standing().expect("it can") == Standing::Serving).then_some(()));
}

/// Two heads and the pair that both have.
fn heads(socket: &Path) -> (FakeHead, FakeHead, Assignment) {
    let first = FakeHead::start(socket, "head-1", 1);
    let second = FakeHead::start(socket, "head-2", 2);
    let pair = wait_for("a pair of both", || {
        let pair = second.assignment();
        (pair.members.len() == 2).then_some(pair)
    });
    (first, second, pair)
}

/// The other head first.
fn turn(pair: &Assignment, nonce: u64) -> Proposal {
    let members = pair.members.iter().rev().copied().collect();
    let (expected, why) = (pair.stamp, Why::Silence);
    Proposal { partition: PartitionId(1), expected, members, nonce, why, caught_up: false }
}

/// Says a proposal once; the answer, should it come.
fn ask(head: &FakeHead, proposal: &Proposal) -> Option<(bool, Option<Assignment>)> {
    let report = Report::Propose { node: head.node, proposal: proposal.clone() };
    head.agent.reporter().send(report);
    while let Ok(command) = head.agent.commands().recv_timeout(AGAIN) {
        if let Command::Outcome { nonce, granted, pair, .. } = command
            && nonce == proposal.nonce
        {
            return Some((granted, pair));
        }
    }
    None
}

/// Says it until there is an answer, as heads do.
fn insist(head: &FakeHead, proposal: &Proposal) -> Assignment {
    let (granted, pair) = wait_for("an answer", || ask(head, proposal));
    assert!(granted, "nobody else asks");
    pair.expect("the pair that was granted")
}

fn said(socket: &Path, what: &str) -> bool {
    let answer = call(socket, "events", json!({})).expect("answered");
    let events: Vec<EventEntry> = serde_json::from_value(answer).expect("events");
    events.iter().any(|event| event.what.contains(what))
}

#[test]
fn ef24_grants_go_on_while_a_majority_of_etcd_lives_and_stop_and_go_on_with_it() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = etcd_rack(dir.path(), &cluster, 2000);
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    wait_serving(&control);
    let (first, second, pair) = heads(&socket);
    let one = insist(&second, &turn(&pair, 1));
    assert!(one.stamp.number > pair.stamp.number);

    let leader = cluster.wait_leader();
    cluster.kill(leader);
    let two = insist(&first, &turn(&one, 2));
    assert!(two.stamp.number > one.stamp.number, "the leader of etcd died, the numbers go on");

    let another = (leader + 1) % 3;
    cluster.kill(another);
    let wish = turn(&two, 3);
    assert_eq!(ask(&second, &wish), None, "without a majority nothing is granted");
    wait_for("the end of the lease", || {
        let control = status(&socket).control;
        (control.state == "waiting" && control.why.contains("etcd does not answer")).then_some(())
    });
    assert_eq!(ask(&second, &wish), None);
    let refusal = call(&socket, "head.drain", json!({ "name": "head-1" })).expect_err("refused");
    assert!(refusal.contains("nothing is decided at present"), "{refusal}");
    let picture = status(&socket);
    assert_eq!(picture.volumes[0].number, two.stamp.number.to_string(), "what was granted stands");
    assert!(first.agent.connected() && second.agent.connected(), "nodes stay connected");
    assert!(said(&socket, "the control plane is waiting"));

    cluster.restart(another);
    let three = insist(&second, &wish);
    assert!(three.stamp.number > two.stamp.number, "the majority is back, and so are grants");
    wait_serving(&control);
    assert!(said(&socket, "the control plane is serving"));
    cluster.restart(leader);
    assert_eq!(insist(&second, &wish), three, "P-02: found again by repeating");
}

#[test]
fn ef24_one_control_plane_serves_and_the_next_one_knows_everything_it_granted() {
    let Some(cluster) = Cluster::start(1) else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = etcd_rack(dir.path(), &cluster, 10_000);
    let socket = rack.socket();
    let one = Control::start(&rack).expect("started");
    wait_serving(&one);
    let two = Control::stand(&rack).expect("stands by, though the data directory has its lock");
    wait_for("the other one", || (two.standing().expect("it can") == Standing::Elsewhere).then_some(()));
    let (first, second, pair) = heads(&socket);
    let wish = turn(&pair, 1);
    let granted = insist(&second, &wish);
    let before = status(&socket).control;
    assert_eq!((before.store.as_str(), before.state.as_str()), ("etcd", "serving"));
    assert_eq!(two.status().control, before, "the one that stands by asks the one that serves");

    drop(one);
    wait_serving(&two);
    assert_eq!(insist(&second, &wish), granted, "P-02: the old answer stands");
    let next = insist(&first, &turn(&granted, 2));
    assert!(next.stamp.number > granted.stamp.number, "and numbers go on from there");
    assert!(status(&socket).control.tenure > before.tenure);
    let volume = status(&socket).volumes.remove(0);
    assert_eq!((volume.primary.as_str(), volume.number), ("head-1", next.stamp.number.to_string()));

    let three = Control::start(&rack).expect("started");
    wait_for("the other one", || (three.standing().expect("it can") == Standing::Elsewhere).then_some(()));
    assert_eq!(three.status().volumes[0].number, next.stamp.number.to_string());
}

#[test]
fn control_that_finds_no_etcd_waits_and_says_for_whom() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let keys = "[control]\nstore = \"etcd\"\nendpoints = [\"127.0.0.1:1\"]\n";
    let rack = config::parse(&format!("{}\n{keys}", text()), Some(dir.path())).rack;
    let control = Control::start(&rack).expect("it stands for the lease");
    wait_for("the reason", || match control.standing().expect("it may yet") {
        Standing::Waiting(why) => why.contains("etcd does not answer at http://127.0.0.1:1").then_some(()),
        other => panic!("{other:?}"),
    });
    let status = control.status();
    assert!(!status.ready && status.control.state == "waiting", "{:?}", status.control);
}
