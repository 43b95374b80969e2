//! Members that are replaced, over the socket: who is chosen and when, what the primary is told, what people
//! see, and who leaves then (MA-20, MA-21, BA-02, BA-09, EF-19).

mod support;

use palisade_control::Control;
use palisade_control::agent::{Command, Report, Severity};
use palisade_control::api::status::{Status, VolumeStatus};
use palisade_control::config::Rack;
use palisade_control::report::{FillReport, NodeReport, NodeState, PartitionReport};
use palisade_protocol::wire::{Assignment, Member, NodeId, PartitionId, Proposal, Why};
use serde_json::json;
use std::path::Path;
use support::{FakeHead, call, rack, status, text, wait_for};

const VOLUME: PartitionId = PartitionId(1);

/// The example rack, with heads that are replaced after so many milliseconds.
fn auto(data: &Path, after: &str) -> Rack {
    let text = format!("{}\n[control]\nfailover = \"auto\"\nreplace_after_ms = {after}\n", text());
    let parsed = palisade_control::config::parse(&text, Some(data));
    assert_eq!(parsed.findings, [], "a sound file");
    parsed.rack
}

/// head-1 and head-2 serve vol0 and its pair; head-3 is up.
fn serving(socket: &Path) -> (FakeHead, FakeHead, FakeHead, Assignment) {
    let first = FakeHead::start(socket, "head-1", 1);
    let second = FakeHead::start(socket, "head-2", 2);
    let third = FakeHead::start(socket, "head-3", 3);
    let pair = first.assignment();
    assert_eq!(pair, second.assignment());
    first.say_serving(&pair, "serving");
    second.say_serving(&pair, "following");
    third.say_nothing_served(Some(1 << 40));
    wait_for("ready", || {
        let status = status(socket);
        (status.volumes[0].state == "serving" && status.nodes[2].state == "ready").then_some(())
    });
    (first, second, third, pair)
}

/// What the primary is told to fill next.
fn told_to_fill(head: &FakeHead) -> Member {
    loop {
        if let Command::Fill { node, partition, member, .. } = head.next() {
            assert_eq!((node, partition), (head.node, VOLUME));
            return member;
        }
    }
}

/// The primary vouches for a group; what comes of it.
fn propose(head: &FakeHead, pair: &Assignment, members: &[Member], nonce: u64) -> (bool, Option<Assignment>) {
    let (expected, members) = (pair.stamp, members.iter().copied().collect());
    let proposal =
        Proposal { partition: VOLUME, expected, members, nonce, why: Why::Silence, caught_up: true };
    assert!(head.agent.reporter().send(Report::Propose { node: head.node, proposal }));
    loop {
        if let Command::Outcome { granted, pair, .. } = head.next() {
            return (granted, pair);
        }
    }
}

fn newer(head: &FakeHead, than: &Assignment) -> Assignment {
    loop {
        let pair = head.assignment();
        if pair.stamp.number > than.stamp.number {
            return pair;
        }
    }
}

fn vol0(socket: &Path) -> VolumeStatus {
    status(socket).volumes.remove(0)
}

fn state(status: &Status, name: &str) -> String {
    status.nodes.iter().find(|node| node.name == name).map(|node| node.state.clone()).unwrap_or_default()
}

fn heads(pair: &Assignment) -> Vec<NodeId> {
    pair.members.iter().map(|member| member.head).collect()
}

#[test]
fn ma21_a_secondary_that_stays_away_is_replaced_and_its_leftovers_are_given_up() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = auto(dir.path(), "300");
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    let second_node = second.node;
    drop(second);
    let away = |head: &FakeHead, pair: &Assignment| {
        head.say_of(
            pair,
            PartitionReport { role: "serving".to_owned(), peer_away: true, ..Default::default() },
        );
    };
    let lacks = wait_for("a choice", || {
        away(&first, &pair);
        third.say_nothing_served(Some(1 << 40));
        let volume = vol0(&socket);
        (volume.replacement == "head-3").then_some(volume.lacks)
    });
    assert_eq!(lacks, "head-2 is away; head-3 is filled");
    let member = told_to_fill(&first);
    assert_eq!((member.head, member.boot), (third.node, third.boot));
    let fill = FillReport { head: third.node.0, blocks_done: 10, blocks_all: 40, rounds: 2 };
    first.say_of(
        &pair,
        PartitionReport {
            role: "serving".to_owned(),
            peer_away: true,
            fill: Some(fill),
            ..Default::default()
        },
    );
    wait_for("progress", || (vol0(&socket).filled_bytes == 40_960).then_some(()));
    let volume = vol0(&socket);
    assert_eq!((volume.fill_bytes, volume.fill_rounds), (163_840, 2));
    let (granted, next) = propose(&first, &pair, &[pair.members[0], member], 1);
    let next = next.expect("a pair");
    assert!(granted, "MA-21: it joins when its primary vouches for it");
    assert_eq!(newer(&third, &pair), next, "and hears of it");
    first.say_serving(&next, "serving");
    third.say_serving(&next, "following");
    let volume = wait_for("the end of the search", || Some(vol0(&socket)).filter(|it| it.lacks.is_empty()));
    assert_eq!((volume.primary.as_str(), volume.secondary.as_str()), ("head-1", "head-3"));
    assert_eq!(volume.replacement, "");
    // The old one comes back: it is not needed, and gives its space back.
    let second = FakeHead::start(&socket, "head-2", 12);
    let out = newer(&second, &pair);
    assert_eq!(heads(&out), [first.node, third.node]);
    let forget = wait_for("the leftovers", || {
        first.say_serving(&next, "serving");
        second.say_nothing_served(Some(1 << 40));
        second.agent.commands().try_iter().find(|command| matches!(command, Command::Forget { .. }))
    });
    assert_eq!(forget, Command::Forget { node: second_node, partition: VOLUME });
    let forgotten = Report::Forgotten { node: second_node, partition: VOLUME };
    assert!(second.agent.reporter().send(forgotten));
    wait_for("quiet", || {
        first.say_serving(&next, "serving");
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let again =
            second.agent.commands().try_iter().any(|command| matches!(command, Command::Forget { .. }));
        (!again).then_some(())
    });
}

#[test]
fn ma21_who_comes_back_first_ends_the_search() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = auto(dir.path(), "200");
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    drop(second);
    let away = PartitionReport { role: "serving".to_owned(), peer_away: true, ..Default::default() };
    wait_for("a choice", || {
        first.say_of(&pair, away.clone());
        third.say_nothing_served(None);
        (vol0(&socket).replacement == "head-3").then_some(())
    });
    assert_eq!(told_to_fill(&first).head, third.node);
    let second = FakeHead::start(&socket, "head-2", 12);
    let next = newer(&first, &pair);
    assert_eq!(heads(&next), [first.node, second.node], "the roles that they had");
    first.say_serving(&next, "serving");
    second.say_serving(&next, "following");
    wait_for("the end of the search", || {
        first.say_serving(&next, "serving");
        vol0(&socket).replacement.is_empty().then_some(())
    });
    while told_to_fill(&first).head != first.node {}
    let forget = wait_for("its leftovers", || {
        third.agent.commands().try_iter().find(|command| matches!(command, Command::Forget { .. }))
    });
    assert_eq!(forget, Command::Forget { node: third.node, partition: VOLUME });
    let (granted, _) = propose(&first, &next, &[next.members[0], next.members[1], third.member()], 9);
    assert!(!granted, "MA-21: a third member that nobody waits for does not come in late");
}

#[test]
fn ma21_where_people_move_roles_they_replace_members_too_and_a_head_without_room_is_not_chosen() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    drop(second);
    let away = PartitionReport { role: "serving".to_owned(), peer_away: true, ..Default::default() };
    let lacks = wait_for("the lack", || {
        first.say_of(&pair, away.clone());
        third.say_nothing_served(Some(1 << 40));
        Some(vol0(&socket).lacks).filter(|lacks| !lacks.is_empty())
    });
    assert_eq!(lacks, "head-2 is away; `palisade volume replace vol0` fills another head");
    let replace = |params| call(&socket, "volume.replace", params);
    let refused = replace(json!({ "name": "vol0", "with": "head-2" })).expect_err("away");
    assert!(refused.contains("head-2 is away"), "{refused}");
    assert!(replace(json!({ "name": "vol9" })).expect_err("unknown").contains("no replicated volume `vol9`"));
    assert!(replace(json!({ "name": "vol0", "with": "sled-1" })).expect_err("no head").contains("no head"));
    third.say_nothing_served(Some(1000));
    let full = wait_for("its word", || replace(json!({ "name": "vol0" })).err());
    assert!(full.contains("the log of head-3 has room for 1000 more blocks"), "P-32: {full}");
    let onto = json!({ "name": "more", "bytes": 1u64 << 30, "primary": "head-3", "secondary": "head-1" });
    let refused = call(&socket, "volume.create", onto).expect_err("no room");
    assert!(refused.contains("the log of head-3 has room for 1000 more blocks"), "{refused}");
    third.say_nothing_served(Some(1 << 40));
    let made = wait_for("its word", || replace(json!({ "name": "vol0" })).ok());
    assert_eq!(made, json!({ "volume": "vol0", "head": "head-3", "leaving": "head-2" }));
    assert_eq!(told_to_fill(&first), third.member());
    drop(first);
    let first = FakeHead::start(&socket, "head-1", 11);
    assert_eq!(told_to_fill(&first), third.member(), "said again to a new boot");
}

#[test]
fn ma21_a_chosen_head_that_dies_is_followed_by_another() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let text = format!(
        "{}\n[control]\nfailover = \"auto\"\nreplace_after_ms = 300\n[[head]]\nname = \"head-4\"\nnbd = [\"127.0.0.1:10812\"]\nfabric = \"127.0.0.1:7204\"\nlog = {{ kind = \"file\", size = \"512 MiB\" }}\n",
        text()
    );
    let rack = palisade_control::config::parse(&text, Some(dir.path())).rack;
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    let fourth = FakeHead::start(&socket, "head-4", 4);
    drop(second);
    let away = PartitionReport { role: "serving".to_owned(), peer_away: true, ..Default::default() };
    let say = || {
        first.say_of(&pair, away.clone());
        fourth.say_nothing_served(None);
    };
    wait_for("a choice", || {
        say();
        third.say_nothing_served(None);
        (vol0(&socket).replacement == "head-3").then_some(())
    });
    drop(third);
    wait_for("another choice", || {
        say();
        (vol0(&socket).replacement == "head-4").then_some(())
    });
    while told_to_fill(&first) != fourth.member() {}
}

#[test]
fn ef19_a_replaced_log_makes_its_head_a_new_member_that_is_filled() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    let lost = second.member();
    call(&socket, "device.replace", json!({ "name": "head-2/log" })).expect("given up");
    drop(second);
    let second = FakeHead::start(&socket, "head-2", 12);
    assert_ne!(second.member().log, lost.log, "a new log");
    wait_for("its leave", || {
        first.say_serving(&pair, "serving");
        let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
        (query["heads"] == json!(["head-1"])).then_some(())
    });
    let lone = newer(&first, &pair);
    let chosen = wait_for("a choice", || {
        first.say_serving(&lone, "serving");
        second.say_nothing_served(None);
        third.say_nothing_served(None);
        Some(vol0(&socket).replacement).filter(|head| !head.is_empty())
    });
    assert_eq!(chosen, "head-2", "declared heads come first; nobody waits where nobody can come back");
    assert_eq!(told_to_fill(&first), second.member());
    let (granted, _) = propose(&first, &lone, &[lone.members[0], second.member()], 1);
    assert!(granted);
}

/// The room in a log that was replaced is that of the volumes that it held: the head takes them back though there is
/// no room for one more.
#[test]
fn p32_a_head_whose_log_was_replaced_has_room_for_what_it_held() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    call(&socket, "device.replace", json!({ "name": "head-2/log" })).expect("given up");
    drop(second);
    let second = FakeHead::start(&socket, "head-2", 12);
    wait_for("its leave", || {
        first.say_serving(&pair, "serving");
        let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
        (query["heads"] == json!(["head-1"])).then_some(())
    });
    let lone = newer(&first, &pair);
    let knows = PartitionReport { partition: VOLUME.0, role: "idle".to_owned(), ..Default::default() };
    let chosen = wait_for("a choice", || {
        first.say_serving(&lone, "serving");
        third.say_nothing_served(Some(0));
        let report = NodeReport {
            name: second.name.clone(),
            state: NodeState::Ready,
            log_room: Some(0),
            partitions: vec![knows.clone()],
            ..NodeReport::default()
        };
        assert!(second.agent.reporter().send(Report::Status { nodes: vec![report] }));
        Some(vol0(&socket).replacement).filter(|head| !head.is_empty())
    });
    assert_eq!(chosen, "head-2", "and not head-3, whose log has no room for another volume");
}

/// Its process lives, and has nothing to go on with: what it acknowledged alone lies on sleds.
#[test]
fn p30_a_lone_head_whose_log_was_replaced_is_followed_though_its_process_lives() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sleds = text().replace("name = \"vol0\"", "name = \"vol0\"\nsolo = \"sleds\"");
    let text = format!("{sleds}\n[control]\nfailover = \"auto\"\n[timers]\nsalvage_after_ms = 200\n");
    let parsed = palisade_control::config::parse(&text, Some(dir.path()));
    assert_eq!(parsed.findings, [], "a sound file");
    let socket = parsed.rack.socket();
    let _control = Control::start(&parsed.rack).expect("started");
    let (first, second, _third, pair) = serving(&socket);
    let (granted, lone) = propose(&first, &pair, &[pair.members[0]], 1);
    let lone = lone.expect("a pair");
    assert!(granted && lone.copies, "{lone:?}");
    call(&socket, "device.replace", json!({ "name": "head-1/log" })).expect("given up");
    drop(first);
    let first = FakeHead::start(&socket, "head-1", 11);
    let heir = wait_for("an heir", || {
        first.say_nothing_served(None);
        second.say_serving(&lone, "idle");
        let next = second.agent.commands().try_iter().find_map(|command| match command {
            Command::Assign { assignment, .. } if assignment.salvage.is_some() => Some(assignment),
            _ => None,
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        next
    });
    assert_eq!((heir.members.len(), heir.members[0]), (1, second.member()));
    assert_eq!(heir.salvage, Some(pair.stamp.number), "it takes over what was acknowledged since");
}

#[test]
fn ef19_a_primary_whose_log_is_damaged_hands_its_volume_to_the_whole_secondary() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = auto(dir.path(), "\"off\"");
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, _third, pair) = serving(&socket);
    let damaged = PartitionReport {
        role: "stopped".to_owned(),
        needs_copy: Some(first.node.0),
        ..PartitionReport::default()
    };
    wait_for("the hand-over", || {
        second.say_serving(&pair, "following");
        first.say_of(&pair, damaged.clone());
        let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
        (query["heads"] == json!(["head-2"])).then_some(())
    });
    let lone = newer(&second, &pair);
    wait_for("a choice", || {
        second.say_serving(&lone, "serving");
        first.say_of(&pair, damaged.clone());
        (vol0(&socket).replacement == "head-1").then_some(())
    });
    assert_eq!(told_to_fill(&second), first.member(), "the damaged one learns anew");
    let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
    assert_eq!(query["heads"], json!(["head-2"]), "and is no member before it is filled");
}

#[test]
fn ef28_a_drained_head_loses_both_roles_where_there_is_a_third_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    let drain = || call(&socket, "head.drain", json!({ "name": "head-1" })).expect("asked");
    let asked = drain();
    assert_eq!((&asked["moved"], &asked["safe_to_stop"]), (&json!(["vol0"]), &json!(false)));
    let flipped = newer(&second, &pair);
    let told = wait_for("its word", || {
        second.say_serving(&flipped, "serving");
        first.say_serving(&flipped, "following");
        third.say_nothing_served(None);
        second.agent.commands().try_iter().find_map(|command| match command {
            Command::Fill { member, .. } => Some(member),
            _ => None,
        })
    });
    assert_eq!(told, third.member());
    let left = drain();
    assert_eq!((&left["safe_to_stop"], &left["hopeless"]), (&json!(false), &json!(false)));
    assert_eq!(left["follows"][0]["why"], json!("head-1 is drained; head-3 is filled"));
    assert_eq!(state(&status(&socket), "head-1"), "draining");
    let members = [flipped.members[0], flipped.members[1], third.member()];
    let (granted, three) = propose(&second, &flipped, &members, 1);
    assert!(granted, "a third member first, so that there are always two");
    let three = three.expect("a pair");
    let last = wait_for("its leave", || {
        second.say_serving(&three, "serving");
        third.agent.commands().try_iter().find_map(|command| match command {
            Command::Assign { assignment, .. } if assignment.stamp.number > three.stamp.number => {
                Some(assignment)
            }
            _ => None,
        })
    });
    assert_eq!(heads(&last), [second.node, third.node], "then it leaves");
    wait_for("safety", || (drain()["safe_to_stop"] == json!(true)).then_some(()));
    let now = status(&socket);
    assert_eq!(state(&now, "head-1"), "drained");
    assert!(now.nodes[0].why.contains("safe to stop"), "{}", now.nodes[0].why);
}

#[test]
fn ba02_an_isolating_head_gives_both_roles_away_and_gets_nothing_new() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second, third, pair) = serving(&socket);
    let head = |verb: &str| call(&socket, verb, json!({ "name": "head-1" })).expect("known");
    assert_eq!(head("head.isolate"), json!({ "head": "head-1", "isolating": true }));
    let told = wait_for("its word", || {
        first.agent.commands().try_iter().find(|command| matches!(command, Command::Isolate { .. }))
    });
    assert_eq!(told, Command::Isolate { node: first.node, severity: Some(Severity::Planned) });
    let flipped = newer(&second, &pair);
    assert_eq!(heads(&flipped), [second.node, first.node], "the healthy secondary leads");
    assert_eq!(state(&status(&socket), "head-1"), "isolating");
    let refused =
        call(&socket, "volume.create", json!({ "name": "more", "bytes": 1 << 30, "primary": "head-1" }));
    assert!(refused.expect_err("refused").contains("`head-1` is isolating"));
    wait_for("a choice", || {
        second.say_serving(&flipped, "serving");
        first.say_serving(&flipped, "following");
        third.say_nothing_served(None);
        (vol0(&socket).replacement == "head-3").then_some(())
    });
    assert_eq!(told_to_fill(&second), third.member());
    drop(first);
    let first = FakeHead::start(&socket, "head-1", 11);
    let told = wait_for("its word", || {
        first.agent.commands().try_iter().find(|command| matches!(command, Command::Isolate { .. }))
    });
    assert_eq!(
        told,
        Command::Isolate { node: first.node, severity: Some(Severity::Planned) },
        "said again to a new boot"
    );
    head("head.rejoin");
    assert_ne!(state(&status(&socket), "head-1"), "isolating");
}
