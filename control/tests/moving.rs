//! Roles that move, over the socket: heads propose, people switch over and drain, and everybody is told where a
//! volume is now, when it came there and why.

mod support;

use palisade_control::Control;
use palisade_control::agent::{Command, NodeHello, Report};
use palisade_control::api::client::Client;
use palisade_control::api::events::EventEntry;
use palisade_control::check;
use palisade_control::config::{self, Severity};
use palisade_protocol::wire::{Assignment, BootId, NodeId, PartitionId, Proposal, Why};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use support::{FakeHead, call, rack, status, text, wait_for};

const VOLUME: PartitionId = PartitionId(1);

/// Two heads that serve vol0, and its pair.
fn serving(socket: &Path) -> (FakeHead, FakeHead, Assignment) {
    let first = FakeHead::start(socket, "head-1", 1);
    let second = FakeHead::start(socket, "head-2", 2);
    let pair = first.assignment();
    assert_eq!(pair, second.assignment());
    first.say_serving(&pair, "serving");
    second.say_serving(&pair, "following");
    wait_for("ready", || (status(socket).volumes[0].state == "serving").then_some(()));
    (first, second, pair)
}

fn turn(pair: &Assignment, nonce: u64) -> Proposal {
    let members = pair.members.iter().rev().copied().collect();
    let (expected, why) = (pair.stamp, Why::Unhealthy);
    Proposal { partition: expected.partition, expected, members, nonce, why, caught_up: false }
}

fn propose(head: &FakeHead, proposal: &Proposal) -> (bool, Option<Assignment>) {
    let report = Report::Propose { node: head.node, proposal: proposal.clone() };
    assert!(head.agent.reporter().send(report));
    outcome(head, proposal.nonce)
}

fn outcome(head: &FakeHead, wanted: u64) -> (bool, Option<Assignment>) {
    loop {
        if let Command::Outcome { node, partition, nonce, granted, pair } = head.next() {
            assert_eq!((node, partition, nonce), (head.node, VOLUME, wanted));
            return (granted, pair);
        }
    }
}

/// The next pair above one: what stands is told again whenever a head says that it is ready.
fn newer(head: &FakeHead, than: &Assignment) -> Assignment {
    loop {
        let pair = head.assignment();
        if pair.stamp.number > than.stamp.number {
            return pair;
        }
    }
}

/// The primary that a head is told of next: its clients are sent there.
fn told_primary(head: &FakeHead) -> NodeId {
    loop {
        if let Command::CreatePartition { spec, .. } = head.next() {
            return spec.primary;
        }
    }
}

fn events(socket: &Path, volume: &str) -> Vec<EventEntry> {
    let answer = call(socket, "events", json!({ "volume": volume })).expect("answered");
    serde_json::from_value(answer).expect("events")
}

#[test]
fn ma05_a_head_proposes_and_everybody_hears_of_the_group_also_after_a_restart_of_control() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let (first, second, pair) = serving(&socket);
    let wish = turn(&pair, 1);
    let (granted, next) = propose(&second, &wish);
    let next = next.expect("a pair");
    assert!(granted && next.members[0].head == second.node && next.stamp.number > pair.stamp.number);
    while told_primary(&first) != second.node {}
    assert_eq!(newer(&first, &pair), next, "and hears the pair");
    assert_eq!(
        propose(&first, &turn(&pair, 1)),
        (false, Some(next.clone())),
        "whoever lost hears the newest"
    );

    drop(control);
    wait_for("the loss", || (!second.agent.connected()).then_some(()));
    let control = Control::start(&rack).expect("started again");
    assert_eq!(control.applied().parted, Vec::<String>::new(), "the file still declares what it declared");
    assert_eq!(control.applied().changed, Vec::<String>::new());
    wait_for("a connection", || second.agent.connected().then_some(()));
    assert_eq!(propose(&second, &wish), (true, Some(next.clone())), "P-02: found again by repeating");
    let volume = status(&socket).volumes.remove(0);
    assert_eq!((volume.primary.as_str(), volume.secondary.as_str()), ("head-2", "head-1"));
    assert_eq!((volume.declared_primary.as_str(), volume.declared_secondary.as_str()), ("head-1", "head-2"));
    assert_eq!(
        volume.addresses,
        ["nbd://127.0.0.1:10810/vol0", "nbd://127.0.0.1:10809/vol0"],
        "the primary's first"
    );
    assert_eq!(volume.number, next.stamp.number.to_string());
    let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
    assert_eq!(query["heads"], json!(["head-2", "head-1"]));
    let moves: Vec<EventEntry> =
        events(&socket, "vol0").into_iter().filter(|e| !e.number.is_empty()).collect();
    assert_eq!(moves.len(), 2, "made, then moved; kept over the restart: {moves:?}");
    assert_eq!((moves[1].from.clone(), moves[1].to.clone()), (moves[0].to.clone(), volume_heads(&volume)));
    assert!(moves[1].why.contains("head-2 proposed it: unhealthy"), "{}", moves[1].why);
    assert_eq!(moves[1].number, volume.number);
    assert!(moves[1].time_ms >= moves[0].time_ms && moves[0].time_ms > 0);
    assert_eq!(events(&socket, "other"), []);
}

fn volume_heads(volume: &palisade_control::api::status::VolumeStatus) -> Vec<String> {
    vec![volume.primary.clone(), volume.secondary.clone()]
}

#[test]
fn ef17_a_head_that_was_dropped_hears_that_it_is_out_and_comes_in_behind_when_it_comes_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let (first, second, pair) = serving(&socket);
    let alone =
        Proposal { members: [pair.members[1]].into_iter().collect(), why: Why::Silence, ..turn(&pair, 1) };
    let (granted, next) = propose(&second, &alone);
    let next = next.expect("a pair");
    assert!(granted && next.members == [pair.members[1]]);
    assert_eq!(newer(&first, &pair), next, "at once when it is there");
    drop(control);
    wait_for("the loss", || (!first.agent.connected()).then_some(()));
    let _control = Control::start(&rack).expect("started again");
    let back = newer(&first, &next);
    let members = [pair.members[1], pair.members[0]];
    assert_eq!(
        back.members, members,
        "and when it comes back, under the boot that it had, it comes in behind"
    );
    let volume = status(&socket).volumes.remove(0);
    assert_eq!((volume.primary.as_str(), volume.secondary.as_str()), ("head-2", "head-1"));
    assert!(volume.joining, "and may not take over");
    drop(first);
    wait_for("the leave", || (status(&socket).nodes[0].state == "away").then_some(()));
    let first = FakeHead::start(&socket, "head-1", 3);
    let joined = newer(&first, &back);
    assert_eq!(joined.members.len(), 2, "a new boot stays behind");
    assert!(status(&socket).volumes[0].joining, "and may not take over");
    second.say_serving(&joined, "serving");
    wait_for("refilled", || (!status(&socket).volumes[0].joining).then_some(()));
}

#[test]
fn a_planned_switch_over_needs_both_heads_well_and_says_what_is_lacking() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let failover = |name: &str| call(&socket, "volume.failover", json!({ "name": name }));
    assert!(failover("vol9").expect_err("unknown").contains("no replicated volume"));
    assert!(failover("vol0").expect_err("nobody there").contains("head-1 is away"));
    let (first, second, before) = serving(&socket);
    let moved = failover("vol0").expect("moved");
    assert_eq!((&moved["primary"], &moved["secondary"]), (&json!("head-2"), &json!("head-1")));
    let pair = newer(&second, &before);
    assert_eq!(moved["number"], json!(pair.stamp.number.to_string()));
    assert_eq!(newer(&first, &before), pair, "both hear it");
    assert!(failover("vol0").expect_err("not served yet").contains("not served at present"));
    second.say_serving(&pair, "serving");
    wait_for("serving", || (status(&socket).volumes[0].state == "serving").then_some(()));
    drop(first);
    wait_for("the leave", || (status(&socket).nodes[0].state == "away").then_some(()));
    assert!(failover("vol0").expect_err("one is away").contains("head-1 is away"));
}

#[test]
fn ef28_a_drained_head_gives_its_volumes_away_and_gets_none_back_by_itself() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, before) = serving(&socket);
    let head = |verb: &str, name: &str| call(&socket, verb, json!({ "name": name }));
    assert!(head("head.drain", "sled-1").expect_err("no head").contains("no head"));
    let drained = head("head.drain", "head-1").expect("asked");
    assert_eq!((&drained["moved"], &drained["left"]), (&json!(["vol0"]), &json!([])));
    let alone = "head-1 is drained; the rack has no other head that could take the place";
    assert_eq!(drained["follows"], json!([{ "volume": "vol0", "why": alone }]), "head-3 is not up");
    assert_eq!(drained["safe_to_stop"], json!(false));
    let pair = newer(&second, &before);
    second.say_serving(&pair, "serving");
    first.say_serving(&pair, "following");
    wait_for("drained", || (status(&socket).nodes[0].state == "drained").then_some(()));
    let made = call(&socket, "volume.create", json!({ "name": "fresh", "bytes": 1 << 30 })).expect("made");
    assert_eq!((&made["primary"], &made["secondary"]), (&json!("head-3"), &json!("head-2")));
    let onto = json!({ "name": "more", "bytes": 1 << 30, "primary": "head-1" });
    assert!(call(&socket, "volume.create", onto).expect_err("refused").contains("is being drained"));
    let stays = head("head.drain", "head-2").expect("asked");
    assert_eq!(stays["moved"], json!([]));
    assert!(stays["left"][0]["why"].as_str().expect("why").contains("head-1` is being drained"), "{stays}");
    assert_eq!(head("head.resume", "head-1"), Ok(json!({ "resumed": "head-1" })));
    let now = status(&socket);
    assert_eq!((now.nodes[0].state.as_str(), now.volumes[0].primary.as_str()), ("ready", "head-2"));
    let why: Vec<String> = events(&socket, "vol0").into_iter().map(|event| event.why).collect();
    assert!(why.contains(&"head-1 is drained".to_owned()), "{why:?}");
}

#[test]
fn roles_that_moved_are_told_and_nothing_is_to_be_mended() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (_first, _second, _) = serving(&socket);
    call(&socket, "volume.failover", json!({ "name": "vol0" })).expect("moved");
    let parsed = config::parse(&text(), Some(dir.path()));
    let findings = check::compare(&parsed, &status(&socket), false);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.severity, Severity::Note);
    assert!(
        finding.what.contains("`head-2` serves volume `vol0` at present, with head-1"),
        "{}",
        finding.what
    );
    let applied = call(&socket, "rack.apply", json!({ "text": text() })).expect("applied");
    assert_eq!((&applied["parted"], &applied["changed"]), (&json!([]), &json!([])));
    assert_eq!(status(&socket).volumes[0].primary, "head-2", "applying the file moves nothing back");
    let local = text().replacen("secondary = \"head-2\"", "secondary = \"head-2\"\nsolo = \"local\"", 1);
    let applied: Value = call(&socket, "rack.apply", json!({ "text": local })).expect("applied");
    assert_eq!(applied["changed"], json!(["volume vol0"]), "P-30: a policy is changed by the file");
    assert_eq!(status(&socket).volumes[0].solo, "local");
}

#[test]
fn ma15_a_living_head_that_was_left_out_is_taken_back_when_it_reports() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, pair) = serving(&socket);
    let alone = Proposal { members: pair.members.iter().skip(1).copied().collect(), ..turn(&pair, 1) };
    let (granted, lone) = propose(&second, &alone);
    let lone = lone.expect("a pair");
    assert!(granted && lone.members.len() == 1, "the primary slept: {lone:?}");
    first.say_serving(&pair, "stopped");
    let both = newer(&second, &lone);
    let heads: Vec<NodeId> = both.members.iter().map(|member| member.head).collect();
    assert_eq!(heads, [second.node, first.node], "it comes in behind who went on");
    while newer(&first, &pair).stamp != both.stamp {}
    // Left out again at once, it has to wait: what cuts it off may go on.
    let again = Proposal {
        expected: both.stamp,
        members: both.members.iter().take(1).copied().collect(),
        ..turn(&pair, 2)
    };
    let (granted, lone) = propose(&second, &again);
    let lone = lone.expect("a pair");
    assert!(granted);
    first.say_serving(&pair, "stopped");
    let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
    assert_eq!(query["heads"], json!(["head-2"]), "not before its rest is over");
    let back = wait_for("the end of its rest", || {
        first.say_serving(&pair, "stopped");
        let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
        (query["heads"] == json!(["head-2", "head-1"])).then_some(query["number"].clone())
    });
    assert_ne!(back, json!(lone.stamp.number.to_string()));
}

#[test]
fn ma15_heads_hear_at_once_of_a_process_that_ended_without_a_word() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let second = FakeHead::start(&socket, "head-2", 2);
    let boot = BootId(77);
    let mut dying = Client::connect(&socket).expect("connected");
    let hello = NodeHello { name: "head-1".to_owned(), boot };
    let params = json!({ "pid": std::process::id(), "nodes": [hello] });
    let admission = dying.call("node.register", params, Duration::from_secs(30)).expect("admitted");
    assert_eq!(admission["nodes"][0]["name"], "head-1");
    let id = status(&socket).nodes.iter().find(|node| node.name == "head-1").expect("known").node;
    drop(dying); // as a process that is killed: its connection ends, and it did not take its leave
    let (gone, of) = loop {
        if let Command::Gone { node, gone, boot } = second.next() {
            assert_eq!(node, second.node);
            break (gone, boot);
        }
    };
    assert_eq!((gone, of), (NodeId(id), boot));
}

#[test]
fn ma15_a_living_head_that_its_primary_cannot_reach_is_not_taken_back_before_they_meet() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, pair) = serving(&socket);
    let alone = Proposal { members: pair.members.iter().skip(1).copied().collect(), ..turn(&pair, 1) };
    second.say_path(first.node, "down");
    let (granted, lone) = propose(&second, &alone);
    assert!(granted && lone.is_some_and(|lone| lone.members.len() == 1));
    let heads =
        || call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered")["heads"].clone();
    for _ in 0..20 {
        first.say_path(second.node, "up");
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(heads(), json!(["head-2"]), "reads go on at the one that leads");
    }
    wait_for("its return", || {
        second.say_path(first.node, "up");
        first.say_path(second.node, "up");
        (heads() == json!(["head-2", "head-1"])).then_some(())
    });
}
