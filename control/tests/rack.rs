//! Control as a whole, over its socket: nodes join by agents, people ask, bad input is answered, everything
//! survives a restart. The nodes here are agents without a data plane: what they would do is said by hand.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use palisade_control::agent::{Agent, AgentConfig, AgentError, Command, Decision, Medium, NodeHello, Report};
use palisade_control::config::Rack;
use palisade_control::report::{NodeReport, PartitionReport};
use palisade_control::{Control, ControlError};
use palisade_protocol::wire::{BootId, PartitionId};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use support::{FakeHead, PATIENCE, call, rack, status, text, wait_for};

#[test]
fn a_rack_starts_serves_flushes_and_goes_on_after_a_restart_of_everything() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    assert_eq!(control.applied().created.len(), 10, "three heads, six sleds, one volume");
    let first = FakeHead::start(&socket, "head-1", 1);
    let second = FakeHead::start(&socket, "head-2", 2);
    let assignment = first.assignment();
    assert_eq!(assignment, second.assignment(), "both members hear the same pair");
    assert_eq!(assignment.stamp.number.counter, 1);
    first.say_serving(&assignment, "serving");
    second.say_serving(&assignment, "following");
    wait_for("ready", || status(&socket).ready.then_some(()));
    let lines = control.status().ready_lines();
    assert_eq!(lines, ["volume vol0 4.0 GiB nbd://127.0.0.1:10809/vol0 primary head-1 secondary head-2"]);
    let ready = dir.path().join("ready");
    control.write_ready_file(&ready).expect("written");
    assert_eq!(std::fs::read_to_string(&ready).expect("there").trim_end(), lines[0]);
    let shown: Value = call(&socket, "rack.status", json!({})).expect("answered");
    assert_eq!(shown["volumes"][0]["sequence"], json!(1));
    assert_eq!(shown["nodes"][0]["pid"], json!(std::process::id()));

    let flushing = std::thread::spawn({
        let socket = socket.clone();
        move || call(&socket, "volume.flush", json!({ "name": "vol0", "wait": true }))
    });
    let tag = loop {
        if let Command::Flush { tag, .. } = first.next() {
            break tag;
        }
    };
    assert!(first.agent.reporter().send(Report::Flushed { tag, error: None }));
    assert_eq!(flushing.join().expect("no panic"), Ok(json!({ "flushed": true })));

    drop(first);
    let left =
        |event: &palisade_control::api::status::EventEntry| event.what == "head-1 stopped" && !event.warning;
    wait_for("the leave", || status(&socket).events.iter().any(left).then_some(()));
    drop((second, control));
    let control = Control::start(&rack).expect("started again");
    assert_eq!(control.applied().created, Vec::<String>::new(), "applying again is idempotent");
    assert_eq!(control.applied().unchanged.len(), 10);
    let first = FakeHead::start(&socket, "head-1", 3);
    let second = FakeHead::start(&socket, "head-2", 4);
    let counters: Vec<u64> =
        [first.assignment(), second.assignment()].iter().map(|a| a.stamp.number.counter).collect();
    assert!(counters.iter().all(|counter| *counter > 1), "P-01: every boot gets a new number, {counters:?}");
}

#[test]
fn control_dies_and_comes_back_under_running_nodes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let first = FakeHead::start(&socket, "head-1", 1);
    let second = FakeHead::start(&socket, "head-2", 2);
    let before = first.assignment();
    assert_eq!(before, second.assignment());
    drop(control);
    wait_for("the loss", || (!first.agent.connected()).then_some(()));
    assert!(first.agent.admission().is_ok(), "EF-02: a node goes on without control");
    let _control = Control::start(&rack).expect("started again");
    assert_eq!(first.assignment(), before, "the same boot hears the same pair again, no new number");
    assert_eq!(second.assignment(), before);
}

#[test]
fn volumes_come_and_go_at_run_time_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let control = Control::start(&rack).expect("started");
    let first = FakeHead::start(&socket, "head-1", 1);
    let _second = FakeHead::start(&socket, "head-2", 2);
    first.assignment();
    let create = |name: &str, bytes: u64| {
        call(
            &socket,
            "volume.create",
            json!({ "name": name, "bytes": bytes, "primary": "head-1", "secondary": "head-2" }),
        )
    };
    create("scratch", 1 << 30).expect("made");
    let assignment = first.assignment();
    assert_eq!(assignment.stamp.partition, PartitionId(2));
    assert!(create("scratch", 2 << 30).expect_err("differs").contains("exists already"));
    assert!(create("huge", 1 << 50).expect_err("no room").contains("do not fit"));
    assert!(create("odd", 4097).expect_err("odd").contains("4096"));
    let delete = call(&socket, "volume.delete", json!({ "name": "scratch" }));
    assert_eq!(delete, Ok(json!({ "deleting": "scratch" })));
    loop {
        if let Command::DeletePartition { partition, .. } = first.next() {
            assert_eq!(partition, PartitionId(2));
            break;
        }
    }
    let (node, partition) = (first.node, PartitionId(2));
    assert!(first.agent.reporter().send(Report::Deleted { node, partition }));
    wait_for("the end of scratch", || {
        status(&socket).volumes.iter().all(|volume| volume.name != "scratch").then_some(())
    });
    create("kept", 1 << 30).expect("made");
    drop(first);
    drop(control);
    let control = Control::start(&rack).expect("started again");
    let names: Vec<String> = control.status().volumes.into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["vol0", "kept"], "what is made at run time survives a restart");
    assert!(
        control
            .applied()
            .parted
            .iter()
            .any(|what| what.contains("volume kept is in the rack but not in the file"))
    );
}

#[test]
fn prune_removes_what_the_file_does_not_name_and_nothing_else_does() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let less: String = text().replace("name = \"vol0\"", "name = \"vol1\"").replace("head-3", "head-4");
    let applied = call(&socket, "rack.apply", json!({ "text": less })).expect("applied");
    assert_eq!(applied["created"], json!(["node head-4", "volume vol1"]));
    assert_eq!(applied["needs_start"], json!(["node head-4"]));
    assert_eq!(applied["pruned"], json!([]), "without prune nothing is removed");
    assert_eq!(applied["parted"].as_array().map(Vec::len), Some(2), "{applied}");
    let applied = call(&socket, "rack.apply", json!({ "text": less, "prune": true })).expect("applied");
    assert_eq!(applied["pruned"], json!(["volume vol0", "node head-3"]));
    let again = call(&socket, "rack.apply", json!({ "text": less, "prune": true })).expect("applied");
    assert_eq!((&again["created"], &again["pruned"]), (&json!([]), &json!([])), "idempotent");
    let broken = text().replace("k = 4 ", "k = 0 ");
    assert!(call(&socket, "rack.apply", json!({ "text": broken })).expect_err("refused").contains("k is 0"));
    let other = text().replace("name = \"one-box\"", "name = \"other\"");
    assert!(
        call(&socket, "rack.apply", json!({ "text": other })).expect_err("refused").contains("this is rack")
    );
}

#[test]
fn a_replaced_device_is_formatted_once_and_only_after_replace() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let join = |boot| {
        let nodes = vec![NodeHello { name: "sled-1".to_owned(), boot: BootId(boot) }];
        Agent::join(AgentConfig { socket: socket.clone(), nodes }, PATIENCE).expect("admitted").0
    };
    let agent = join(1);
    let Decision::Format { id } = agent.decide("sled-1/0", &Medium::Blank).expect("decided") else {
        panic!()
    };
    agent.formatted("sled-1/0", id).expect("confirmed");
    assert_eq!(agent.decide("sled-1/0", &Medium::Ours { id }), Ok(Decision::Open { id }));
    assert!(matches!(agent.decide("sled-1/0", &Medium::Blank), Ok(Decision::Missing { .. })));
    assert!(matches!(agent.decide("sled-1/0", &Medium::OtherRack), Ok(Decision::Refuse { .. })));
    assert!(
        agent.decide("sled-2/0", &Medium::Blank).is_err(),
        "another node's device is not ours to ask about"
    );
    let device =
        status(&socket).devices.into_iter().find(|device| device.name == "sled-1/0").expect("listed");
    assert_eq!(device.state, "missing");
    let volume = status(&socket).volumes.remove(0);
    assert_eq!((volume.degraded, volume.devices_away), (true, 1), "also while no head has noticed");
    assert!(call(&socket, "device.replace", json!({ "name": "sled-9/0" })).is_err());
    call(&socket, "device.replace", json!({ "name": "sled-1/0" })).expect("given up");
    let Decision::Format { id: fresh } = agent.decide("sled-1/0", &Medium::Blank).expect("decided") else {
        panic!()
    };
    assert_ne!(fresh, id);
    agent.formatted("sled-1/0", fresh).expect("confirmed");
    assert!(!status(&socket).volumes[0].degraded);
}

#[test]
fn a_second_up_is_told_who_has_the_data_directory() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let _control = Control::start(&rack).expect("started");
    let error = Control::start(&rack).err().expect("refused");
    assert!(matches!(error, ControlError::Lock(_)));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}

#[test]
fn another_rack_in_the_data_directory_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(Control::start(&rack(dir.path())).expect("started"));
    let other = Rack { name: "other".to_owned(), ..rack(dir.path()) };
    let error = Control::start(&other).err().expect("refused").to_string();
    assert!(error.contains("belongs to rack `one-box`"), "{error}");
}

#[test]
fn a_store_restored_from_an_older_copy_goes_on_in_a_higher_epoch() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let (store, copy) = (dir.path().join("control.redb"), dir.path().join("copy"));
    for boot in 0..3u128 {
        let control = Control::start(&rack).expect("started");
        let first = FakeHead::start(&socket, "head-1", 10 + boot);
        let second = FakeHead::start(&socket, "head-2", 20 + boot);
        assert_eq!(second.assignment().stamp.number.epoch, 1);
        drop((first, second, control));
        if boot == 0 {
            std::fs::copy(&store, &copy).expect("copied");
        }
    }
    std::fs::copy(&copy, &store).expect("restored");
    let _control = Control::start(&rack).expect("started");
    let heads = [("head-1", 31), ("head-2", 32), ("head-3", 33)];
    let heads = heads.map(|(name, boot)| FakeHead::start(&socket, name, boot));
    heads.iter().for_each(|head| head.tell(&[]));
    wait_for("a number", || (heads[0].assignment().stamp.number.epoch == 2).then_some(()));
}

#[test]
fn a_node_that_runs_already_and_one_that_is_unknown_are_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let join = |name: &str, boot, patience| {
        let nodes = vec![NodeHello { name: name.to_owned(), boot: BootId(boot) }];
        Agent::join(AgentConfig { socket: socket.clone(), nodes }, patience)
    };
    let _first = join("head-1", 1, PATIENCE).expect("admitted");
    // Refused for as long as one is willing to wait; the first answer may be slow to come.
    let second = wait_for("an answer", || {
        let error = join("head-1", 2, Duration::from_millis(300)).err().expect("refused");
        matches!(&error, AgentError::Refused(_)).then(|| error.to_string())
    });
    assert!(second.contains("head-1 runs already, as process"), "{second}");
    let unknown = join("head-77", 3, PATIENCE).err().expect("refused");
    assert!(matches!(&unknown, AgentError::Refused(_)), "at once, without waiting: {unknown}");
    drop(_first);
    join("head-1", 4, PATIENCE).expect("free again once the first is gone");
}

#[test]
fn random_bytes_and_hostile_requests_end_at_worst_their_own_connection() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
    let seeds: [&[u8]; 5] = [
        br#"{"jsonrpc":"2.0","id":1,"method":"rack.status","params":{}}"#,
        br#"{"jsonrpc":"2.0","id":2,"method":"volume.create","params":{"name":"x","bytes":18446744073709551615}}"#,
        br#"{"jsonrpc":"2.0","id":3,"method":"node.report","params":{"report":"head_ready","node":1,"boot":"x"}}"#,
        br#"{"jsonrpc":"2.0","id":4,"method":"node.register","params":{"pid":1,"nodes":[{"name":"head-1","boot":"00000000-0000-0000-0000-000000000001"}]}}"#,
        br#"{"jsonrpc":"2.0","id":5,"method":"device.decide","params":{"device":"sled-1/0","medium":{"verdict":"blank"}}}"#,
    ];
    for round in 0..400 {
        let mut stream = UnixStream::connect(&socket).expect("accepted");
        let mut line = seeds[round % seeds.len()].to_vec();
        for _ in 0..random.next_u64() % 5 {
            let at = (random.next_u64() % line.len() as u64) as usize;
            line[at] = (random.next_u64() % 256) as u8;
        }
        if round % 7 == 0 {
            line = (0..random.next_u64() % 4000).map(|_| (random.next_u64() % 256) as u8).collect();
        }
        line.push(b'\n');
        // The server may have closed already; what counts is that it lives.
        let _ = stream.write_all(&line);
    }
    let mut deep = UnixStream::connect(&socket).expect("accepted");
    let mut nested = vec![b'['; 100_000];
    nested.push(b'\n');
    deep.write_all(&nested).expect("sent");
    let mut answer = String::new();
    BufReader::new(&deep).read_line(&mut answer).expect("answered");
    assert!(answer.contains("-32700"), "{answer}");
    assert_eq!(status(&socket).name, "one-box", "it still serves");
    assert_eq!(status(&socket).volumes.len(), 1, "and nothing was made");
}

#[test]
fn a_message_without_end_is_cut_off() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let socket = rack.socket();
    let _control = Control::start(&rack).expect("started");
    let mut stream = UnixStream::connect(&socket).expect("accepted");
    let chunk = vec![b'x'; 1 << 20];
    let cut = (0..64).any(|_| stream.write_all(&chunk).is_err());
    assert!(cut, "Bounded: 64 MiB are not taken");
    assert_eq!(status(&socket).name, "one-box");
}

#[test]
fn errors_have_their_codes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let rack = rack(dir.path());
    let _control = Control::start(&rack).expect("started");
    let mut stream = UnixStream::connect(rack.socket()).expect("accepted");
    let mut answers = BufReader::new(stream.try_clone().expect("cloned"));
    for (request, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"no.such"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{"nam":"x"}}"#, -32602),
        (r#"{"jsonrpc":"2.0","api":9,"id":1,"method":"rack.status"}"#, -32010),
        (r#"{"jsonrpc":"2.0","id":1,"method":"volume.delete","params":{"name":"nothing"}}"#, -32001),
        (r#"{"jsonrpc":"2.0","id":1,"method":"volume.flush","params":{"name":"vol0"}}"#, -32000),
    ] {
        stream.write_all(format!("{request}\n").as_bytes()).expect("sent");
        let mut line = String::new();
        answers.read_line(&mut line).expect("answered");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["error"]["code"], json!(code), "{request} gave {line}");
        assert_eq!(answer["id"], json!(1));
    }
}

#[test]
fn metrics_are_served_as_text_and_as_protobuf() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut rack = rack(dir.path());
    rack.metrics = Some("127.0.0.1:0".parse().expect("an address"));
    let control = Control::start(&rack).expect("started");
    let first = FakeHead::start(&rack.socket(), "head-1", 1);
    let second = FakeHead::start(&rack.socket(), "head-2", 2);
    let assignment = second.assignment();
    let mut partition =
        PartitionReport { partition: assignment.stamp.partition.0, ..PartitionReport::default() };
    partition.role = "serving".to_owned();
    partition.counters.insert("writes".to_owned(), 42);
    let histogram =
        palisade_control::metrics::HistSnapshot { count: 3, sum: 30_000, buckets: vec![(10_000, 3)] };
    partition.stages.insert("log".to_owned(), histogram);
    let report =
        NodeReport { name: "head-1".to_owned(), partitions: vec![partition], ..NodeReport::default() };
    assert!(first.agent.reporter().send(Report::Status { nodes: vec![report] }));
    wait_for("the report", || control.status().volumes[0].counters.contains_key("writes").then_some(()));
    let address = control.metrics().expect("served");
    let get = |accept: &str| {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("answered");
        bytes
    };
    let text = String::from_utf8(get("text/plain")).expect("text");
    assert!(text.contains("palisade_volume_writes_total{volume=\"vol0\"} 42"), "{text}");
    assert!(
        text.contains("palisade_volume_stage_seconds_count{volume=\"vol0\",stage=\"log\",head=\"head-1\"} 3"),
        "{text}"
    );
    let protobuf =
        get("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited");
    let head = String::from_utf8_lossy(&protobuf[..protobuf.len().min(400)]).to_string();
    assert!(head.contains("application/vnd.google.protobuf"), "{head}");
    let needle = b"palisade_volume_stage_seconds";
    assert!(protobuf.windows(needle.len()).any(|window| window == needle));
}

#[test]
fn check_shows_where_the_stopped_and_the_running_rack_part_from_the_file() {
    use palisade_control::cli::{CheckArgs, Verb, run};
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    let file = dir.path().join("rack.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("written");
        let args = CheckArgs { file: file.clone(), data_dir: Some(data.clone()), json: true };
        run(&Verb::Check(args)).expect("ours")
    };
    let mut fits_this_host = text().replace("cores = [0, 1]", "cores = [0]").replace("core = 1", "core = 0");
    for port in ["10809", "10810", "10811"] {
        // Whatever else runs on the host holds no socket in our directory.
        fits_this_host = fits_this_host.replace(&format!("127.0.0.1:{port}"), &format!("unix:{port}.sock"));
    }
    assert_eq!(check(&fits_this_host), 0);
    assert!(!data.exists(), "check makes nothing");
    let rack = rack(&data);
    drop(Control::start(&rack).expect("started"));
    assert_eq!(check(&fits_this_host), 0, "the same file, nothing parts");
    let bigger = fits_this_host.replace("size = \"4 GiB\"", "size = \"5 GiB\"");
    assert_eq!(check(&bigger), 1, "a stopped rack is compared by its store");
    let _control = Control::start(&rack).expect("started");
    assert_eq!(check(&bigger), 1, "a running rack by its socket");
    let missing = PathBuf::from("/nonexistent/rack.toml");
    assert_eq!(run(&Verb::Check(CheckArgs { file: missing, data_dir: None, json: false })), Some(1));
}
