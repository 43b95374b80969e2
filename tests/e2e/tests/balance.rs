//! Roles spread by load, with real processes under verified load (EF-28): a skew is seen, one volume moves, data is
//! intact, and the heads share the work.

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

fn load(rack: &TestRack, volume: usize) -> Child {
    let status = rack.status();
    let addresses = status["volumes"][volume]["addresses"].as_array().cloned().unwrap_or_default();
    let [first, second] = [0, 1].map(|at| addresses[at].as_str().expect("an address").to_owned());
    Command::new(palisade())
        .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
        .args(["--read", "50", "--depth", "8", "--region", "16m", "--reconnect", "60", "--seconds", "25"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts")
}

#[track_caller]
fn good_end(rack: &TestRack, load: Child) {
    let output = load.wait_with_output().expect("the generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}\n{}", output.status, rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
}

#[test]
fn ef28_a_skewed_load_is_spread_over_the_heads_and_every_block_is_right() {
    let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
    let text = std::fs::read_to_string(rack.file()).expect("the rack file");
    let text = text.replacen("failover = \"auto\"\n", "failover = \"auto\"\nbalance_after_ms = 3000\n", 1)
        + "\n[[volume]]\nname = \"vol1\"\nsize = \"64 MiB\"\nprimary = \"head-1\"\nsecondary = \"head-2\"\n";
    std::fs::write(rack.file(), text).expect("room for a rack file");
    rack.start(&["--processes"]);
    rack.wait_for("both volumes at one head", SOON, |status| {
        (0..2).all(|at| {
            status["volumes"][at]["primary"] == "head-1" && status["volumes"][at]["state"] == "serving"
        })
    });
    let loads = [load(&rack, 0), load(&rack, 1)];
    let mut leads = Vec::new();
    rack.wait_for("the heads share the volumes", SOON, |status| {
        let volumes = [&status["volumes"][0], &status["volumes"][1]];
        leads = volumes.iter().filter_map(|volume| volume["primary"].as_str().map(str::to_owned)).collect();
        leads.len() == 2 && leads[0] != leads[1] && volumes.iter().all(|volume| volume["state"] == "serving")
    });
    let events = rack.cli(&["events", "--json"]).good().out;
    assert!(events.contains("head-1 serves more than others"), "{events}");
    loads.into_iter().for_each(|load| good_end(&rack, load));
    let status = rack.status();
    let after: Vec<&str> = (0..2).filter_map(|at| status["volumes"][at]["primary"].as_str()).collect();
    assert_eq!(after, leads, "an even load moves nothing more");
}
