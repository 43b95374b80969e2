//! Sleds that are drained, over the socket: heads are told, what is left is shown, and when one may be pulled
//! (EF-23); what heads think of devices shows (EF-22).

mod support;

use palisade_control::Control;
use palisade_control::agent::{Agent, AgentConfig, Command, Decision, Identity, Medium, NodeHello, Report};
use palisade_control::report::{DeviceReport, DeviceThought, NodeReport, NodeState, PartitionReport};
use palisade_protocol::wire::{Assignment, BootId, DeviceId};
use serde_json::json;
use std::path::Path;
use support::{FakeHead, PATIENCE, call, rack, status, wait_for};

/// A sled without a data plane.
struct FakeSled {
    agent: Agent,
    device: Identity,
}

impl FakeSled {
    fn start(socket: &Path) -> Self {
        let nodes = vec![NodeHello { name: "sled-1".to_owned(), boot: BootId(70) }];
        let config = AgentConfig { socket: socket.to_path_buf(), nodes };
        let (agent, _) = Agent::join(config, PATIENCE).expect("admitted");
        let decision = agent.decide("sled-1/0", &Medium::Blank).expect("decided");
        let Decision::Format { id: device } = decision else { panic!("{decision:?}") };
        agent.formatted("sled-1/0", device).expect("confirmed");
        Self { agent, device }
    }

    fn say(&self, free: u64) {
        let device = DeviceReport {
            name: "sled-1/0".to_owned(),
            device: DeviceId(self.device.0),
            columns: 100,
            free,
            state: "ok".to_owned(),
            counters: Default::default(),
        };
        let (name, state) = ("sled-1".to_owned(), NodeState::Ready);
        let report = NodeReport { name, state, devices: vec![device], ..NodeReport::default() };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }

    /// What the primary says of the device.
    fn thought(&self, head: &FakeHead, pair: &Assignment, thought: (&str, bool, u64)) {
        let (health, leave, held) = thought;
        let device = DeviceId(self.device.0);
        let partition = PartitionReport {
            partition: pair.stamp.partition.0,
            role: "serving".to_owned(),
            epoch: pair.stamp.number.epoch,
            counter: pair.stamp.number.counter,
            devices: vec![DeviceThought { device, health: health.to_owned(), leave, held }],
            ..PartitionReport::default()
        };
        let (name, state) = (head.name.clone(), NodeState::Ready);
        let report = NodeReport { name, state, partitions: vec![partition], ..NodeReport::default() };
        assert!(head.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }
}

/// The next word to a head about devices: whether the sled's is to be left.
fn told(head: &FakeHead, device: Identity) -> bool {
    loop {
        if let Command::SetDevices { devices, .. } = head.next()
            && let Some(spec) = devices.iter().find(|spec| spec.device.0 == device.0)
        {
            return spec.leave;
        }
    }
}

#[test]
fn ef23_a_sled_is_drained_once_it_is_empty_and_heads_know_and_stays_so_over_a_restart_of_control() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let (first, second) = (FakeHead::start(&socket, "head-1", 1), FakeHead::start(&socket, "head-2", 2));
    let pair = first.assignment();
    let sled = FakeSled::start(&socket);
    second.say_serving(&pair, "following");
    sled.say(90);
    sled.thought(&first, &pair, ("good", false, 10));
    let ask = |verb: &str, name: &str| call(&socket, verb, json!({ "name": name }));
    let node = || status(&socket).nodes.into_iter().find(|node| node.name == "sled-1").expect("there");
    assert!(ask("sled.drain", "head-1").expect_err("no sled").contains("no sled"));
    while told(&first, sled.device) {}
    ask("sled.drain", "sled-1").expect("drained");
    while !told(&first, sled.device) {}
    wait_for("progress", || (node().columns_left == 10).then_some(()));
    let shown = node();
    assert!(shown.state == "draining" && shown.why.contains("10 columns"), "{shown:?}");
    // Empty by its own word; but the primary may be placing a column still.
    sled.say(100);
    wait_for("the sled's word", || (status(&socket).devices.iter().any(|d| d.free == 100)).then_some(()));
    assert_eq!(node().state, "ready");
    sled.thought(&first, &pair, ("good", true, 0));
    wait_for("drained", || (node().state == "drained").then_some(()));
    assert!(node().why.contains("safe to pull"));
    let events = call(&socket, "events", json!({})).expect("events").to_string();
    assert!(events.contains("is being drained") && events.contains("safe to pull"), "{events}");

    drop(control);
    let _control = Control::start(&rack).expect("started again");
    wait_for("a connection", || sled.agent.connected().then_some(()));
    // Words are lost until a process is connected again.
    wait_for("drained still", || {
        sled.say(100);
        sled.thought(&first, &pair, ("good", true, 0));
        (node().state == "drained").then_some(())
    });
    ask("sled.resume", "sled-1").expect("resumed");
    while told(&first, sled.device) {}
    assert_eq!(node().state, "ready");
}

#[test]
fn ef22_what_the_primary_thinks_of_a_device_shows_and_is_told_by_its_name() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let (first, second) = (FakeHead::start(&socket, "head-1", 1), FakeHead::start(&socket, "head-2", 2));
    let pair = first.assignment();
    let sled = FakeSled::start(&socket);
    second.say_serving(&pair, "following");
    sled.say(90);
    let device =
        || status(&socket).devices.into_iter().find(|device| device.name == "sled-1/0").expect("there");
    for health in ["suspect", "failed"] {
        sled.thought(&first, &pair, (health, false, 7));
        wait_for(health, || (device().state == health).then_some(()));
    }
    assert_eq!(device().held, 7);
    sled.thought(&first, &pair, ("good", false, 7));
    wait_for("good", || (device().state == "active").then_some(()));
    let what = format!("device {} counts as failed", DeviceId(sled.device.0));
    let told = Report::Event { node: first.node, warning: true, what, partition: None };
    assert!(first.agent.reporter().send(told));
    wait_for("the event", || {
        let events = status(&socket).events;
        events.iter().any(|event| event.what == "device sled-1/0 counts as failed").then_some(())
    });
}
