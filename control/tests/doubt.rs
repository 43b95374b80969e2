//! A store that is put back from an older copy, over the socket: heads are asked, nothing is decided before they
//! answered, people see why, and may go on without one that is gone (P-04, P-30).

mod support;

use palisade_control::agent::{Agent, AgentConfig, Command, Decision, Medium, NodeHello, Report};
use palisade_control::config::{self, Rack};
use palisade_control::{Control, check};
use palisade_protocol::wire::{Assignment, BootId, LogId, Member, NodeId, PartitionId, Proposal, Stamp, Why};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{FakeHead, call, rack, status, text, wait_for};

const VOLUME: PartitionId = PartitionId(1);

fn heads(socket: &Path, boot: u128) -> [FakeHead; 3] {
    [1, 2, 3].map(|at| FakeHead::start(socket, &format!("head-{at}"), boot + at))
}

fn ask(head: &FakeHead, pair: &Assignment, members: &[Member], nonce: u64) {
    let (expected, members) = (pair.stamp, members.iter().copied().collect());
    let proposal =
        Proposal { partition: VOLUME, expected, members, nonce, why: Why::Silence, caught_up: false };
    assert!(head.agent.reporter().send(Report::Propose { node: head.node, proposal }));
}

/// A head proposes to lead alone and hears nothing: "declined" would send it back to a group that may be over.
fn hears_nothing(head: &FakeHead, pair: &Assignment) {
    ask(head, pair, &[head.member()], 1);
    let end = Instant::now() + Duration::from_secs(4);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if let Ok(Command::Outcome { granted, pair, .. }) = head.agent.commands().recv_timeout(left) {
            panic!("an answer in doubt: {granted}, {pair:?}");
        }
    }
}

fn propose(head: &FakeHead, pair: &Assignment, members: &[Member], nonce: u64) -> (bool, Option<Assignment>) {
    ask(head, pair, members, nonce);
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

fn doubt(socket: &Path) -> String {
    status(socket).volumes.remove(0).doubt
}

/// Everything that is in a directory, as a backup has it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for name in ["control.redb", "control.mark"] {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

/// Control is stopped while its store is copied, as for a backup; then head-1 goes on alone, and the copy is put
/// back. The pair of the copy, and that of head-1 alone.
fn put_back(rack: &Rack, backup: &Path, files: &[&str]) -> (Assignment, Assignment, Member) {
    let socket = rack.socket();
    let control = Control::start(rack).expect("started");
    let [first, second, third] = heads(&socket, 10);
    let pair = first.assignment();
    drop(control);
    wait_for("the loss", || (!first.agent.connected()).then_some(()));
    copy(&rack.data, backup);
    let control = Control::start(rack).expect("started");
    assert_eq!(doubt(&socket), "", "a store that nobody touched is in no doubt");
    wait_for("a connection", || first.agent.connected().then_some(()));
    let (granted, alone) = propose(&first, &pair, &[pair.members[0]], 1);
    let alone = alone.filter(|_| granted).expect("alone");
    let member = second.member();
    drop((first, second, third, control));
    for name in files {
        std::fs::copy(backup.join(name), rack.data.join(name)).expect("put back");
    }
    (pair, alone, member)
}

fn backup(dir: &Path) -> PathBuf {
    dir.join("backup")
}

/// The store alone comes back, or the whole directory with its mark.
#[test]
fn p04_p30_no_head_leads_after_a_store_was_put_back_before_every_head_was_asked() {
    for files in [&["control.redb"][..], &["control.redb", "control.mark"]] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let rack = rack(dir.path());
        let socket = rack.socket();
        let (pair, alone, _) = put_back(&rack, &backup(dir.path()), files);
        let mark = std::fs::read_to_string(dir.path().join("control.mark")).expect("text");
        if files.len() > 1 && !mark.contains("home") {
            // Files have no time of creation here: people have to say it.
            continue;
        }
        let _control = Control::start(&rack).expect("started");
        // Head-1 is gone; head-2 lacks what it acknowledged.
        let second = FakeHead::start(&socket, "head-2", 52);
        let third = FakeHead::start(&socket, "head-3", 53);
        second.tell(std::slice::from_ref(&pair));
        third.tell(&[]);
        wait_for("two words", || doubt(&socket).contains("the word of head-1,").then_some(()));
        // It would lead without what head-1 acknowledged.
        hears_nothing(&second, &pair);
        let volume = status(&socket).volumes.remove(0);
        assert!(volume.state == "waiting" && volume.why == volume.doubt, "{volume:?}");
        let parsed = config::parse(&text(), Some(dir.path()));
        let findings = check::compare(&parsed, &status(&socket), true);
        assert!(
            findings.iter().any(|finding| finding.what.contains("volume `vol0` is in doubt")),
            "{findings:?}"
        );
        for (method, params) in [
            ("volume.failover", json!({ "name": "vol0" })),
            ("volume.replace", json!({ "name": "vol0", "with": "head-3" })),
            ("device.replace", json!({ "name": "head-1/log" })),
        ] {
            let refused = call(&socket, method, params).expect_err("refused");
            assert!(refused.contains("in doubt") || refused.contains("is away"), "{method}: {refused}");
        }
        // It comes back after all, and has it.
        let first = FakeHead::start(&socket, "head-1", 51);
        first.tell(std::slice::from_ref(&alone));
        let next = newer(&first, &alone);
        assert_eq!(next.members.iter().map(|member| member.head).collect::<Vec<_>>(), [first.node]);
        assert!(next.stamp.number.epoch > alone.stamp.number.epoch);
        wait_for("no doubt", || doubt(&socket).is_empty().then_some(()));
    }
}

#[test]
fn p04_people_go_on_without_a_head_and_are_told_first_what_may_be_lost() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let (pair, _, _) = put_back(&rack, &backup(dir.path()), &["control.redb"]);
    let _control = Control::start(&rack).expect("started");
    let second = FakeHead::start(&socket, "head-2", 52);
    let third = FakeHead::start(&socket, "head-3", 53);
    second.tell(std::slice::from_ref(&pair));
    third.tell(&[]);
    wait_for("two words", || doubt(&socket).contains("the word of head-1,").then_some(()));
    let settle = |accept: bool| {
        call(
            &socket,
            "volume.settle",
            json!({ "name": "vol0", "without": ["head-1"], "accept_loss": accept }),
        )
    };
    let why = settle(false).expect_err("not accepted");
    assert!(why.contains("in the log of head-1 only") && why.contains("--accept-loss"), "{why}");
    let settled = settle(true).expect("accepted");
    assert_eq!(settled["primary"], json!("head-2"));
    assert_eq!(newer(&second, &pair).members.len(), 1);
    let events = call(&socket, "events", json!({})).expect("answered").to_string();
    assert!(events.contains("people go on without head-1"), "{events}");
}

#[test]
fn p04_people_say_that_a_store_was_put_back_and_an_answer_to_another_question_does_not_count() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let [first, second, third] = heads(&socket, 10);
    let pair = first.assignment();
    let said = call(&socket, "rack.restored", json!({})).expect("taken");
    assert_eq!(said, json!({ "in_doubt": 1 }));
    third.tell(&[]);
    second.tell(std::slice::from_ref(&pair));
    // What was asked by another opening of the store, or of another log, is no answer.
    let Command::Tell { node, ask } = (loop {
        let command = first.next();
        if matches!(command, Command::Tell { .. }) {
            break command;
        }
    }) else {
        unreachable!("it was looked for")
    };
    let (boot, log) = (first.boot, first.member().log);
    let say = |ask, log| {
        let groups = vec![pair.clone()];
        assert!(first.agent.reporter().send(Report::Groups { node, boot, log, ask, groups }));
    };
    say(ask ^ 1, log);
    say(ask, LogId(log.0 ^ 1));
    first.say_serving(&pair, "serving");
    wait_for("its report", || (status(&socket).volumes[0].state == "serving").then_some(()));
    assert!(doubt(&socket).contains("the word of head-1,"), "it serves on meanwhile: {}", doubt(&socket));
    say(ask, log);
    let next = newer(&second, &pair);
    assert_eq!(next.members, pair.members, "nothing was forgotten");
}

#[test]
fn p04_a_head_that_serves_under_a_number_that_the_store_never_granted_shows_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let [first, second, third] = heads(&socket, 10);
    let pair = first.assignment();
    let mut ahead = pair.clone();
    ahead.stamp.number.counter += 3;
    first.say_serving(&ahead, "serving");
    wait_for("doubt", || doubt(&socket).contains("which this store never granted").then_some(()));
    first.tell(std::slice::from_ref(&ahead));
    second.tell(std::slice::from_ref(&pair));
    third.tell(&[]);
    let next = newer(&first, &ahead);
    assert_eq!(next.members, pair.members);
    // What it said once more before it heard of that is no news.
    first.say_serving(&ahead, "serving");
    first.say_serving(&next, "serving");
    wait_for("its report", || (status(&socket).volumes[0].state == "serving").then_some(()));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(doubt(&socket), "");
}

/// The whole host of control was rolled back, mark and all: only sleds know of the number under which head-1 went
/// on alone.
#[test]
fn p04_a_sled_with_a_record_of_a_number_that_the_store_never_granted_shows_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let [_first, second, _third] = heads(&socket, 10);
    let pair = second.assignment();
    let sled = Sled::start(&socket, "sled-1");
    let mut stamp = pair.stamp;
    let known = vec![stamp];
    sled.shows(known);
    stamp.number.counter += 1;
    assert_eq!(doubt(&socket), "", "what it knows was granted");
    // Its device is known to hold data by now: after another start control listens to it before it decides.
    drop(control);
    wait_for("the loss", || (!second.agent.connected()).then_some(()));
    let _control = Control::start(&rack).expect("started again");
    wait_for("a connection", || second.agent.connected().then_some(()));
    sled.shows(vec![stamp]);
    let seen = format!("sled-1 has a record of number {}", stamp.number);
    wait_for("doubt", || doubt(&socket).contains(&seen).then_some(()));
    // Head-1 went on alone under that number.
    hears_nothing(&second, &pair);
}

/// A sled without a data plane, with its first device formatted.
struct Sled {
    agent: Agent,
    node: NodeId,
}

impl Sled {
    fn start(socket: &Path, name: &str) -> Self {
        let (boot, device) = (BootId(77), format!("{name}/0"));
        let nodes = vec![NodeHello { name: name.to_owned(), boot }];
        let config = AgentConfig { socket: socket.to_path_buf(), nodes };
        let (agent, admission) = Agent::join(config, support::PATIENCE).expect("admitted");
        let node = admission.nodes[0].node;
        let Decision::Format { id } = agent.decide(&device, &Medium::Blank).expect("decided") else {
            panic!("a new device")
        };
        agent.formatted(&device, id).expect("confirmed");
        assert!(agent.reporter().send(Report::SledReady { node, boot }));
        Self { agent, node }
    }

    /// Waits until it is asked for its records, and shows them.
    fn shows(&self, held: Vec<Stamp>) {
        loop {
            let command = self.agent.commands().recv_timeout(support::PATIENCE).expect("a command in time");
            if let Command::Tell { node, ask } = command {
                assert_eq!(node, self.node);
                assert!(self.agent.reporter().send(Report::Records { node, ask, held }));
                return;
            }
        }
    }
}
