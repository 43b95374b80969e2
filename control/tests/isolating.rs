//! Heads that isolate by themselves, over the socket: who is marked, who is only told of, and what becomes of the
//! volumes (BA-02).

mod support;

use palisade_control::Control;
use palisade_control::agent::{Command, Report, Severity};
use palisade_control::api::status::{NodeStatus, Status};
use palisade_control::config::Rack;
use palisade_control::report::{MediumReport, NodeReport, NodeState, PartitionReport, PathReport};
use palisade_protocol::wire::{Assignment, Member, NodeId, PartitionId, Proposal, Why};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{FakeHead, call, status, text, wait_for};

const VOLUME: PartitionId = PartitionId(1);
const SLOW: u64 = 150_000;

/// The example rack under `[control]` with these lines.
fn rack(data: &Path, control: &str) -> Rack {
    let text = format!("{}\n[control]\n{control}\n", text());
    let parsed = palisade_control::config::parse(&text, Some(data));
    assert_eq!(parsed.findings, [], "a sound file");
    parsed.rack
}

const AUTO: &str = "failover = \"auto\"\nisolate_after_ms = 300";

/// A head, what it says of its log's device, and what it does under which pair.
struct Talker {
    head: FakeHead,
    errors: u64,
    append_us: u64,
    failed: bool,
    paths: Vec<PathReport>,
    pair: Option<(Assignment, &'static str)>,
    isolating: bool,
}

impl Talker {
    fn start(socket: &Path, at: u32) -> Self {
        let head = FakeHead::start(socket, &format!("head-{at}"), u128::from(at));
        Self {
            head,
            errors: 0,
            append_us: 800,
            failed: false,
            paths: Vec::new(),
            pair: None,
            isolating: false,
        }
    }

    fn say(&self) {
        let partition = self.pair.as_ref().map(|(pair, role)| PartitionReport {
            partition: VOLUME.0,
            role: (*role).to_owned(),
            epoch: pair.stamp.number.epoch,
            counter: pair.stamp.number.counter,
            isolating: self.isolating,
            ..PartitionReport::default()
        });
        let append_us = Some(self.append_us);
        self.head.say(NodeReport {
            state: if self.failed { NodeState::Failed } else { NodeState::Ready },
            log_room: Some(1 << 40),
            log_device: Some(MediumReport { errors: self.errors, success: 1000, append_us }),
            partitions: partition.into_iter().collect(),
            paths: self.paths.clone(),
            ..NodeReport::default()
        });
    }

    /// What it is told of whether volumes have to leave it, since it was asked last.
    fn told(&self) -> Option<Option<Severity>> {
        let mut commands = self.head.agent.commands().try_iter();
        commands.find_map(|command| match command {
            Command::Isolate { node, severity } if node == self.head.node => Some(severity),
            _ => None,
        })
    }

    /// Wishes a group after a pair, which is granted.
    fn propose(&self, pair: &Assignment, members: &[Member], why: Why) -> Assignment {
        let (expected, members) = (pair.stamp, members.iter().copied().collect());
        let (nonce, caught_up) = (pair.stamp.number.counter, why == Why::Joined);
        let proposal = Proposal { partition: VOLUME, expected, members, nonce, why, caught_up };
        assert!(self.head.agent.reporter().send(Report::Propose { node: self.head.node, proposal }));
        loop {
            if let Command::Outcome { granted, pair, .. } = self.head.next() {
                return pair.filter(|_| granted).expect("it is granted");
            }
        }
    }

    fn newer(&self, than: &Assignment) -> Assignment {
        loop {
            let pair = self.head.assignment();
            if pair.stamp.number > than.stamp.number {
                return pair;
            }
        }
    }
}

/// head-1 and head-2 serve vol0, and all say that they are well.
fn serving(socket: &Path, heads: u32) -> (Vec<Talker>, Assignment) {
    let mut talkers: Vec<Talker> = (1..=heads).map(|at| Talker::start(socket, at)).collect();
    let pair = talkers[0].head.assignment();
    talkers[0].pair = Some((pair.clone(), "serving"));
    talkers[1].pair = Some((pair.clone(), "following"));
    wait_for("service", || {
        talkers.iter().for_each(Talker::say);
        (status(socket).volumes[0].state == "serving").then_some(())
    });
    (talkers, pair)
}

/// All go on speaking until something shows.
fn until<T>(talkers: &[Talker], what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_for(what, || {
        talkers.iter().for_each(Talker::say);
        look()
    })
}

/// All go on speaking for so long.
fn speak(talkers: &[Talker], span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        talkers.iter().for_each(Talker::say);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn node(status: &Status, at: u32) -> NodeStatus {
    status.nodes.iter().find(|node| node.name == format!("head-{at}")).cloned().expect("it is in the rack")
}

fn heads(pair: &Assignment) -> Vec<NodeId> {
    pair.members.iter().map(|member| member.head).collect()
}

/// How often an event was told.
fn events(socket: &Path, what: &str) -> usize {
    status(socket).events.iter().filter(|event| event.what.contains(what)).count()
}

#[test]
fn ba02_a_head_whose_log_is_slow_for_long_isolates_by_itself_and_its_volumes_leave_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    talkers[0].append_us = SLOW;
    let told = until(&talkers, "a mark", || talkers[0].told());
    assert_eq!(told, Some(Severity::Warning));
    let seen = node(&status(&socket), 1);
    assert_eq!(seen.state, "isolating");
    assert_eq!(seen.isolating, "its log device is slow: an append takes 150.0 ms, 0.8 ms on other heads");
    assert!(seen.why.contains("`palisade head rejoin head-1` takes it into use again"), "{}", seen.why);
    assert_eq!(seen.ailing, seen.isolating, "it is ill still");
    assert_eq!(events(&socket, "isolates: its log device is slow"), 1);
    let flipped = talkers[1].newer(&pair);
    assert_eq!(heads(&flipped), [talkers[1].head.node, talkers[0].head.node], "the healthy secondary leads");
    talkers[0].pair = Some((flipped.clone(), "following"));
    talkers[0].isolating = true;
    talkers[1].pair = Some((flipped, "serving"));
    let volume = until(&talkers, "a choice", || {
        let volume = status(&socket).volumes.remove(0);
        (volume.replacement == "head-3" && !volume.isolating.is_empty()).then_some(volume)
    });
    assert_eq!(volume.isolating, ["head-1"]);
    // Well again by its own words; people decide when it comes back.
    talkers[0].append_us = 800;
    speak(&talkers, Duration::from_secs(1));
    let seen = node(&status(&socket), 1);
    assert_eq!((seen.state.as_str(), seen.ailing.as_str()), ("isolating", ""));
    call(&socket, "head.rejoin", json!({ "name": "head-1" })).expect("known");
    assert_eq!(until(&talkers, "its word", || talkers[0].told()), None);
    assert_eq!(node(&status(&socket), 1).isolating, "");
}

#[test]
fn ba02_a_log_that_errs_isolates_its_head_at_once_and_one_without_room_does_not() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), "failover = \"auto\"\nisolate_after_ms = 3600000");
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, _) = serving(&socket, 3);
    talkers[1].failed = true;
    speak(&talkers, Duration::from_millis(500));
    assert_eq!((node(&status(&socket), 2).state.as_str(), talkers[1].told()), ("failed", None));
    talkers[1].errors = 1;
    let told = until(&talkers, "a mark", || talkers[1].told());
    assert_eq!(told, Some(Severity::Errors), "the log that failed is the worst");
    let seen = node(&status(&socket), 2);
    assert_eq!(
        (seen.state.as_str(), seen.isolating.as_str()),
        ("failed", "its log device errs: 1 commands failed")
    );
    until(&talkers, "a choice", || (status(&socket).volumes[0].replacement == "head-3").then_some(()));
}

#[test]
fn ba02_a_head_with_bad_networks_of_its_own_isolates() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, _) = serving(&socket, 3);
    let nodes: Vec<u32> = talkers.iter().map(|talker| talker.head.node.0).collect();
    let path = |to: u32, bad: bool| PathReport {
        to,
        network: 1,
        state: "up".to_owned(),
        loss_ppm: if bad { 80_000 } else { 0 },
        ..PathReport::default()
    };
    for (at, talker) in talkers.iter_mut().enumerate() {
        let others = nodes.iter().enumerate().filter(|(to, _)| *to != at);
        talker.paths = others.map(|(to, node)| path(*node, at == 1 || to == 1)).collect();
    }
    let told = until(&talkers, "a mark", || talkers[1].told());
    assert_eq!(told, Some(Severity::Network));
    assert!(node(&status(&socket), 2).isolating.starts_with("its networks are bad: 2 of 2 peers"));
    assert_eq!((talkers[0].told(), talkers[2].told()), (None, None), "whom it reaches badly is not to blame");
}

#[test]
fn ba02_an_ill_head_stays_where_no_other_can_take_its_place_and_people_are_told_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, _) = serving(&socket, 2);
    talkers[1].append_us = SLOW;
    let stays = "it stays: no other head can take its place in volume vol0";
    until(&talkers, "a word", || (events(&socket, stays) > 0).then_some(()));
    speak(&talkers, Duration::from_millis(500));
    let seen = node(&status(&socket), 2);
    assert_eq!((events(&socket, stays), seen.isolating.as_str(), talkers[1].told()), (1, "", None));
    assert!(seen.why.starts_with("its log device is slow"), "{}", seen.why);
    // A third head comes: now there is a point in it.
    talkers.push(Talker::start(&socket, 3));
    let told = until(&talkers, "a mark", || talkers[1].told());
    assert_eq!(told, Some(Severity::Warning));
}

#[test]
fn ba02_where_people_move_roles_they_are_told_what_is_wrong_and_nothing_is_marked() {
    for control in
        ["failover = \"planned\"\nisolate_after_ms = 300", "failover = \"auto\"\nisolate_after_ms = \"off\""]
    {
        let dir = tempfile::tempdir().expect("temporary directory");
        let rack = rack(dir.path(), control);
        let socket = rack.socket();
        let _control = Control::start(&rack).expect("started");
        let (mut talkers, _) = serving(&socket, 3);
        (talkers[0].failed, talkers[0].errors) = (true, 3);
        let what = "`palisade head isolate head-1` moves its volumes to other heads";
        until(&talkers, "a word", || (events(&socket, what) > 0).then_some(()));
        speak(&talkers, Duration::from_millis(300));
        let seen = node(&status(&socket), 1);
        assert_eq!((events(&socket, what), seen.isolating.as_str(), talkers[0].told()), (1, "", None));
    }
}

#[test]
fn ba02_two_ill_heads_of_three_leave_the_last_well_one_and_a_group_in_which_all_are_ill_is_marked() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    talkers[0].append_us = SLOW;
    talkers[1].append_us = SLOW;
    // Together: neither leaves the other one well, and both are ill.
    let told = until(&talkers, "both marks", || {
        let marked = [0, 1].map(|at: usize| node(&status(&socket), at as u32 + 1).isolating.is_empty());
        (marked == [false, false]).then(|| [talkers[0].told(), talkers[1].told()])
    });
    assert_eq!(told, [Some(Some(Severity::Warning)); 2], "the two settle it among themselves");
    let members = [talkers[1].head.member()];
    let alone = talkers[1].propose(&pair, &members, Why::Isolation);
    assert_eq!(heads(&alone), [talkers[1].head.node]);
    assert_eq!(alone.stamp.number.counter, pair.stamp.number.counter + 1, "one number");
    talkers[0].pair = None;
    talkers[1].pair = Some((alone, "serving"));
    // The healthy third one is filled, and both hosts keep their marks.
    until(&talkers, "a choice", || (status(&socket).volumes[0].replacement == "head-3").then_some(()));
    let told = |command: &Command| matches!(command, Command::Fill { member, .. } if *member == talkers[2].head.member());
    until(&talkers, "an order", || talkers[1].head.agent.commands().try_iter().find(told));
    let now = status(&socket);
    assert!((1..=2).all(|at| node(&now, at).state == "isolating") && node(&now, 3).isolating.is_empty());
}

#[test]
fn ba02_a_head_that_is_all_that_a_volume_has_is_not_marked() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    // The secondary is away: by the primary's own wish it is alone.
    let second = talkers.remove(1);
    drop(second);
    let members = [talkers[0].head.member()];
    let alone = talkers[0].propose(&pair, &members, Why::Silence);
    talkers[0].pair = Some((alone, "serving"));
    talkers[0].append_us = SLOW;
    let stays = "it stays, or volume vol0 had no member that is well";
    until(&talkers, "a word", || (events(&socket, stays) > 0).then_some(()));
    assert_eq!(node(&status(&socket), 1).isolating, "");
}

#[test]
fn ba02_the_one_that_went_on_alone_stays_a_member_until_another_healthy_head_is_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    let isolate =
        |at: u32| call(&socket, "head.isolate", json!({ "name": format!("head-{at}") })).expect("known");
    isolate(2);
    until(&talkers, "a choice", || (status(&socket).volumes[0].replacement == "head-3").then_some(()));
    isolate(1);
    let alone = talkers[1].propose(&pair, &[talkers[1].head.member()], Why::Isolation);
    talkers[0].pair = None;
    talkers[1].pair = Some((alone.clone(), "serving"));
    let third = talkers[2].head.member();
    let fills = |command: &Command| matches!(command, Command::Fill { member, .. } if *member == third);
    until(&talkers, "an order", || talkers[1].head.agent.commands().try_iter().find(fills));
    let two = talkers[1].propose(&alone, &[talkers[1].head.member(), third], Why::Joined);
    talkers[1].pair = Some((two.clone(), "serving"));
    talkers[2].pair = Some((two.clone(), "following"));
    let led = until(&talkers, "the healthy one leads", || {
        let mut commands = talkers[2].head.agent.commands().try_iter();
        commands.find_map(|command| match command {
            Command::Assign { assignment, .. } if assignment.stamp.number > two.stamp.number => {
                Some(assignment)
            }
            _ => None,
        })
    });
    assert_eq!(heads(&led), [talkers[2].head.node, talkers[1].head.node]);
    talkers[1].pair = Some((led.clone(), "following"));
    talkers[2].pair = Some((led.clone(), "serving"));
    speak(&talkers, Duration::from_millis(700));
    let volume = status(&socket).volumes.remove(0);
    assert_eq!((volume.primary.as_str(), volume.secondary.as_str()), ("head-3", "head-2"), "two copies stay");
    assert_eq!((volume.sequence, volume.replacement.as_str()), (led.stamp.number.counter, ""));
    assert!(volume.lacks.starts_with("head-2 isolates"), "{}", volume.lacks);
    // head-1 is in use again: it takes the place.
    call(&socket, "head.rejoin", json!({ "name": "head-1" })).expect("known");
    until(&talkers, "a choice", || (status(&socket).volumes[0].replacement == "head-1").then_some(()));
}

/// head-1 is alone: head-2 left its group, and head-3 is to take the place.
fn alone(socket: &Path, talkers: &mut [Talker], pair: &Assignment) {
    let alone = talkers[0].propose(pair, &[talkers[0].head.member()], Why::Silence);
    talkers[0].pair = Some((alone, "serving"));
    talkers[1].pair = None;
    chosen(socket, talkers, "head-3");
}

fn chosen(socket: &Path, talkers: &[Talker], head: &str) {
    until(talkers, "a choice", || (status(socket).volumes[0].replacement == head).then_some(()));
}

/// It is a member again, as where writes wait for it, or is filled to become one.
fn taken_back(socket: &Path, talkers: &[Talker], head: &str) {
    until(talkers, "its return", || {
        let volume = status(socket).volumes.remove(0);
        (volume.secondary == head || volume.replacement == head).then_some(())
    });
}

#[test]
fn ba02_a_head_that_isolated_by_itself_and_is_well_is_taken_back_where_a_volume_has_no_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    talkers[1].append_us = SLOW;
    assert_eq!(until(&talkers, "a mark", || talkers[1].told()), Some(Severity::Warning));
    alone(&socket, &mut talkers, &pair);
    talkers[1].append_us = 800;
    speak(&talkers, Duration::from_secs(4));
    let seen = node(&status(&socket), 2);
    assert_eq!((seen.state.as_str(), seen.ailing.as_str()), ("isolating", ""), "head-3 will do");
    talkers.truncate(2);
    assert_eq!(
        until(&talkers, "its word", || talkers[1].told()),
        None,
        "its volumes need not leave it any more"
    );
    taken_back(&socket, &talkers, "head-2");
    let why = "is well again, and volume vol0 has no other head to get whole with";
    assert_eq!((events(&socket, why), node(&status(&socket), 2).isolating.as_str()), (1, ""));
    // Ill again: it is all there is, and stays.
    talkers[1].append_us = SLOW;
    until(&talkers, "a word", || (events(&socket, "it stays") > 0).then_some(()));
    assert_eq!((talkers[1].told(), node(&status(&socket), 2).isolating.as_str()), (None, ""));
}

#[test]
fn ba02_heads_that_are_ill_or_were_marked_by_hand_wait_for_people_though_a_volume_is_alone() {
    for by_hand in [false, true] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let rack = rack(dir.path(), AUTO);
        let socket = rack.socket();
        let _control = Control::start(&rack).expect("started");
        let (mut talkers, pair) = serving(&socket, 3);
        if by_hand {
            call(&socket, "head.isolate", json!({ "name": "head-2" })).expect("known");
        } else {
            talkers[1].append_us = SLOW;
        }
        until(&talkers, "a mark", || talkers[1].told().filter(Option::is_some));
        alone(&socket, &mut talkers, &pair);
        talkers.truncate(2);
        speak(&talkers, Duration::from_secs(4));
        assert_eq!((node(&status(&socket), 2).state.as_str(), talkers[1].told()), ("isolating", None));
        call(&socket, "head.rejoin", json!({ "name": "head-2" })).expect("known");
        taken_back(&socket, &talkers, "head-2");
    }
}

#[test]
fn ba02_the_last_head_that_can_make_a_volume_whole_is_not_marked_while_it_is_filled() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path(), AUTO);
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (mut talkers, pair) = serving(&socket, 3);
    talkers[1].append_us = SLOW;
    until(&talkers, "a mark", || talkers[1].told());
    alone(&socket, &mut talkers, &pair);
    talkers[2].append_us = SLOW;
    let stays = "it stays, or volume vol0 had no other head to get whole with";
    until(&talkers, "a word", || (events(&socket, stays) > 0).then_some(()));
    speak(&talkers, Duration::from_secs(1));
    let now = status(&socket);
    assert_eq!((node(&now, 3).isolating.as_str(), talkers[2].told()), ("", None));
    assert_eq!(now.volumes[0].replacement, "head-3");
}
