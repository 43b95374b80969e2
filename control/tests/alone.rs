//! Heads that run alone with copies on sleds, over the socket: who follows one that is gone, by hand and by itself
//! (P-30, MA-20); and former members that come back to a group that goes on without them, as guests first (MA-20).

mod support;

use palisade_control::Control;
use palisade_control::agent::{Command, Report};
use palisade_control::api::status::VolumeStatus;
use palisade_control::check;
use palisade_control::config::{self, Rack, Severity};
use palisade_control::report::{NodeReport, NodeState, PartitionReport};
use palisade_protocol::wire::{Assignment, Member, NodeId, PartitionId, Proposal, Why};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use support::{FakeHead, call, status, text, wait_for};

const VOLUME: PartitionId = PartitionId(1);

/// The example rack, whose volume goes on with copies on sleds; `more` are further lines of the file.
fn rack(data: &Path, more: &str) -> Rack {
    let sleds = "secondary = \"head-2\"\nsolo = \"sleds\"";
    let text = format!("{}\n{more}", text().replacen("secondary = \"head-2\"", sleds, 1));
    let parsed = config::parse(&text, Some(data));
    let errors = check::file(&parsed).into_iter().find(|finding| finding.severity == Severity::Error);
    assert_eq!(errors, None, "a sound file");
    parsed.rack
}

const AUTO: &str =
    "[control]\nfailover = \"auto\"\nreplace_after_ms = 600000\n[timers]\nsalvage_after_ms = 300\n";
const BY_HAND: &str = "[control]\nfailover = \"planned\"\n";

fn newer(head: &FakeHead, than: &Assignment) -> Assignment {
    loop {
        let pair = head.assignment();
        if pair.stamp.number > than.stamp.number {
            return pair;
        }
    }
}

/// A head proposes a group; what comes of it.
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

fn heads(pair: &Assignment) -> Vec<NodeId> {
    pair.members.iter().map(|member| member.head).collect()
}

fn vol0(socket: &Path) -> VolumeStatus {
    status(socket).volumes.remove(0)
}

/// head-1 and head-2 serve vol0, head-2 dies, and head-1 goes on alone.
fn alone(socket: &Path) -> (FakeHead, Assignment) {
    let first = FakeHead::start(socket, "head-1", 1);
    let second = FakeHead::start(socket, "head-2", 2);
    let pair = first.assignment();
    first.say_serving(&pair, "serving");
    second.say_serving(&pair, "following");
    wait_for("service", || (vol0(socket).state == "serving").then_some(()));
    drop(second);
    let (granted, lone) = propose(&first, &pair, &pair.members[..1], 1);
    let lone = lone.expect("a pair");
    assert!(granted && lone.copies, "P-30: it acknowledges with copies on sleds");
    first.say_serving(&lone, "serving");
    wait_for("service", || (vol0(socket).state == "serving").then_some(()));
    (first, lone)
}

/// The next command of a kind.
fn told<T>(head: &FakeHead, wanted: impl Fn(&Command) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(&head.next()) {
            return found;
        }
    }
}

fn fill(command: &Command) -> Option<(Member, bool)> {
    match command {
        Command::Fill { member, follows, .. } => Some((*member, *follows)),
        _ => None,
    }
}

fn salvage(socket: &Path) -> Result<Value, String> {
    call(socket, "volume.salvage", json!({ "name": "vol0" }))
}

#[test]
fn p30_people_let_a_former_member_follow_a_lone_head_that_is_gone_and_no_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), BY_HAND);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let nobody = call(&socket, "volume.salvage", json!({ "name": "vol9" })).expect_err("unknown");
    assert!(nobody.contains("vol9"), "{nobody}");
    let (first, lone) = alone(&socket);
    let lives = salvage(&socket).expect_err("it lives");
    assert!(lives.contains("head-1, which has `vol0`, is there"), "the remedy: {lives}");
    drop(first);
    // A head that never was a member has nothing that the copies could be added to.
    let third = FakeHead::start(&socket, "head-3", 3);
    third.say_nothing_served(None);
    let nobody = salvage(&socket).expect_err("nobody is there");
    assert!(nobody.contains("no head that was a full member"), "{nobody}");
    // Where people move roles nothing happens by itself, however long it takes.
    let out = FakeHead::start(&socket, "head-2", 12);
    std::thread::sleep(Duration::from_millis(600));
    out.say_nothing_served(None);
    let now = vol0(&socket);
    assert_eq!((now.primary.as_str(), now.secondary.as_str()), ("head-1", ""), "nobody comes in behind it");
    let moved = salvage(&socket).expect("carried out");
    assert_eq!((&moved["primary"], &moved["secondary"]), (&json!("head-2"), &json!("")));
    // As the heir it reads the copies before it serves.
    let heir = told(&out, |command| match command {
        Command::Assign { assignment, .. } if assignment.salvage.is_some() => Some(assignment.clone()),
        _ => None,
    });
    assert_eq!(heads(&heir), [out.node]);
    assert!(heir.stamp.number > lone.stamp.number);
    let again = salvage(&socket).expect_err("it lives");
    assert!(again.contains("head-2, which has `vol0`, is there"), "{again}");
}

#[test]
fn ma20_a_lone_head_that_stays_away_is_followed_by_itself_and_one_that_comes_back_in_time_is_not() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, lone) = alone(&socket);
    drop(first);
    let first = FakeHead::start(&socket, "head-1", 11);
    let again = newer(&first, &lone);
    assert_eq!((heads(&again), again.salvage), (vec![first.node], None), "its own log has everything");
    first.say_serving(&again, "serving");
    let third = FakeHead::start(&socket, "head-3", 3);
    // Heads that report are what control looks again by.
    for _ in 0..40 {
        first.say_serving(&again, "serving");
        third.say_nothing_served(None);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(vol0(&socket).primary, "head-1", "nobody follows one that is there");
    drop(first);
    let second = FakeHead::start(&socket, "head-2", 12);
    let heir = wait_for("the take-over", || {
        third.say_nothing_served(None);
        second.agent.commands().try_iter().find_map(|command| match command {
            Command::Assign { assignment, .. } if assignment.salvage.is_some() => Some(assignment),
            _ => None,
        })
    });
    assert_eq!(heads(&heir), [second.node]);
    let events = call(&socket, "events", json!({ "volume": "vol0" })).expect("answered");
    let told =
        |event: &Value| event["what"].as_str().is_some_and(|what| what.contains("ran alone and is away"));
    assert!(events.as_array().expect("a list").iter().any(told), "people see why: {events}");
}

#[test]
fn p30_a_lone_head_that_lives_and_lost_its_log_is_followed_too() {
    for (state, role) in [(NodeState::Failed, ""), (NodeState::Ready, "stopped")] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let rack = rack(dir.path(), AUTO);
        let socket = rack.socket();
        let _control = Control::start(&rack).expect("started");
        let (first, lone) = alone(&socket);
        let second = FakeHead::start(&socket, "head-2", 12);
        let damaged = PartitionReport {
            partition: VOLUME.0,
            role: role.to_owned(),
            needs_copy: Some(first.node.0),
            ..PartitionReport::default()
        };
        let partitions = if role.is_empty() { Vec::new() } else { vec![damaged] };
        let report = NodeReport { name: "head-1".to_owned(), state, partitions, ..NodeReport::default() };
        let heir = wait_for("the take-over", || {
            assert!(first.agent.reporter().send(Report::Status { nodes: vec![report.clone()] }));
            second.agent.commands().try_iter().find_map(|command| match command {
                Command::Assign { assignment, .. } if assignment.salvage.is_some() => Some(assignment),
                _ => None,
            })
        });
        assert_eq!(heads(&heir), [second.node]);
        assert!(heir.stamp.number > lone.stamp.number);
    }
}

#[test]
fn ma20_a_member_that_comes_back_to_a_group_that_goes_on_is_its_guest_first() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, lone) = alone(&socket);
    let second = FakeHead::start(&socket, "head-2", 12);
    assert_eq!(told(&first, fill), (second.member(), true), "its log is what it had");
    second.say_nothing_served(None);
    let query = call(&socket, "volume.query", json!({ "name": "vol0" })).expect("answered");
    assert_eq!(query["heads"], json!(["head-1"]), "clients wait for nobody");
    let volume = vol0(&socket);
    assert_eq!(
        (volume.replacement.as_str(), volume.lacks.as_str()),
        ("head-2", "head-2 came back and is refilled")
    );
    let (granted, next) = propose(&first, &lone, &[lone.members[0], second.member()], 2);
    let next = next.expect("a pair");
    assert!(granted, "MA-21: it joins when its primary vouches for it");
    assert_eq!(newer(&second, &lone), next);
    first.say_serving(&next, "serving");
    second.say_serving(&next, "following");
    wait_for("the end of it", || (vol0(&socket).lacks.is_empty()).then_some(()));
    assert!(!vol0(&socket).joining, "it may take over at once");
}

#[test]
fn ma20_a_guest_that_goes_away_again_keeps_its_copy_and_is_the_guest_once_more() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let (first, lone) = alone(&socket);
    let second = FakeHead::start(&socket, "head-2", 12);
    let guest = second.member();
    assert_eq!(told(&first, fill), (guest, true));
    drop(second);
    let third = FakeHead::start(&socket, "head-3", 3);
    wait_for("the end of the search", || {
        first.say_serving(&lone, "serving");
        third.say_nothing_served(None);
        vol0(&socket).replacement.is_empty().then_some(())
    });
    let own = first.member();
    while told(&first, fill).0 != own {}
    let second = FakeHead::start(&socket, "head-2", 22);
    let again = wait_for("another try", || {
        first.say_serving(&lone, "serving");
        second.say_nothing_served(None);
        first.agent.commands().try_iter().find_map(|command| fill(&command))
    });
    assert_eq!(again, (second.member(), true), "nobody told it to forget what it has");
    assert!(!second.agent.commands().try_iter().any(|command| matches!(command, Command::Forget { .. })));
    drop((first, second, third, control));
    // The choice is in the store, and is said again.
    let _control = Control::start(&rack).expect("started again");
    assert_eq!(vol0(&socket).replacement, "head-2");
}

#[test]
fn ma20_who_comes_back_with_its_log_is_taken_before_a_head_that_is_being_filled() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), &AUTO.replace("600000", "200"));
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, lone) = alone(&socket);
    let third = FakeHead::start(&socket, "head-3", 3);
    wait_for("a choice", || {
        first.say_serving(&lone, "serving");
        third.say_nothing_served(None);
        (vol0(&socket).replacement == "head-3").then_some(())
    });
    assert_eq!(told(&first, fill), (third.member(), false));
    let second = FakeHead::start(&socket, "head-2", 12);
    while told(&first, fill) != (second.member(), true) {}
    let forget = told(&third, |command| match command {
        Command::Forget { partition, .. } => Some(*partition),
        _ => None,
    });
    assert_eq!(forget, VOLUME, "what it got so far is given up");
    assert_eq!(vol0(&socket).replacement, "head-2");
}

#[test]
fn p30_a_member_joins_at_once_where_writes_wait_for_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = support::rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let first = FakeHead::start(&socket, "head-1", 1);
    let second = FakeHead::start(&socket, "head-2", 2);
    let pair = first.assignment();
    first.say_serving(&pair, "serving");
    drop(second);
    let (granted, lone) = propose(&first, &pair, &pair.members[..1], 1);
    let lone = lone.expect("a pair");
    assert!(granted && !lone.copies);
    first.say_of(&lone, PartitionReport { role: "serving".to_owned(), ..PartitionReport::default() });
    wait_for("service", || (vol0(&socket).state == "serving").then_some(()));
    let second = FakeHead::start(&socket, "head-2", 12);
    assert_eq!(heads(&newer(&second, &lone)), [first.node, second.node]);
}

#[test]
fn p30_a_policy_that_the_rack_cannot_keep_is_an_error_at_its_line() {
    let judge = |text: &str| check::file(&config::parse(text, None));
    let with = |edit: &str| text().replacen("secondary = \"head-2\"", edit, 1);
    let good = with("secondary = \"head-2\"\nsolo = \"sleds\"");
    let finds = |text: &str, what: &str, severity: Severity| {
        let findings = judge(text);
        let found = findings.iter().find(|finding| finding.what.contains(what));
        let found = found.unwrap_or_else(|| panic!("no `{what}` in {findings:#?}"));
        let line = found.place.expect("a place").line as usize;
        assert!(text.lines().nth(line - 1).expect("a line").contains("solo"), "{found:?}");
        assert!(found.severity == severity && !found.remedy.is_empty(), "{found:?}");
    };
    assert!(judge(&good).iter().all(|finding| !finding.what.contains("solo")), "{:?}", judge(&good));
    finds(&with("solo = \"sleds\""), "the volume has one head", Severity::Error);
    let bare: Vec<&str> = good.split("\n[[").collect();
    let kept = |block: &&&str| {
        !block.starts_with("sled]]") || block.contains("\"sled-1\"") || block.contains("\"sled-2\"")
    };
    let few: Vec<&str> = bare.iter().filter(kept).copied().collect();
    finds(&few.join("\n[["), "needs 3 sleds, one more than may be lost; there are 2", Severity::Error);
    let small = good.replacen("unit = \"64 KiB\"", "unit = \"4 KiB\"", 1);
    finds(&small, "holds no copy beside its header", Severity::Error);
    finds(&with("secondary = \"head-2\"\nsolo = \"local\""), "stands on that one only", Severity::Note);
}
