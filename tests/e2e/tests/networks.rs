//! Two networks between the processes of a rack (EF-31), cut both ways and one way under verified load.
//!
//! The rack lives in a network namespace of its own, where routing rules make cuts: what is sent to a cut address
//! is refused by the kernel of the sender. A host that allows no namespaces cannot run these; they say so.

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
const HOSTS: [&str; 2] = ["10.77.1.1", "10.77.2.1"];
/// Makes room for rules before the local table, and gives the namespace the addresses in `$1`.
const NAMESPACE: &str = "ip link set lo up && ip rule add pref 10 lookup local && ip rule del pref 0 && \
                         for host in $1; do ip addr add $host/32 dev lo || exit 1; done; shift; exec \"$@\"";

/// A rack of processes on two networks; of the addresses some may be absent.
fn rack(present: &str) -> Option<TestRack> {
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("this host allows no network namespaces: not run");
        return None;
    }
    let mut rack = TestRack::new(&Shape { networks: Some(HOSTS), ..Shape::default() });
    rack.start_by(&["unshare", "-n", "sh", "-c", NAMESPACE, "sh", present], &["--processes"]);
    Some(rack)
}

/// Runs `ip` inside the rack's namespace.
#[track_caller]
fn ip(rack: &TestRack, args: &str) {
    let pid = rack.pid().to_string();
    let all: Vec<&str> = ["-t", &pid, "-n", "ip"].into_iter().chain(args.split(' ')).collect();
    run("nsenter", &all, SOON).good();
}

/// The fabric port of a node, by the rack file.
fn port(rack: &TestRack, node: &str) -> String {
    let text = std::fs::read_to_string(rack.file()).expect("a rack file");
    let after = text.split(&format!("name = \"{node}\"")).nth(1).expect("the node");
    let address = after.split(HOSTS[0]).nth(1).expect("its address");
    address.trim_start_matches(':').chars().take_while(char::is_ascii_digit).collect()
}

/// States of a network's paths, of all or of those to one peer.
fn states<'s>(status: &'s Value, network: u64, peer: Option<&'s str>) -> impl Iterator<Item = &'s str> {
    let paths = status["paths"].as_array().into_iter().flatten();
    let paths = paths.filter(move |path| path["network"] == network);
    paths
        .filter(move |path| peer.is_none_or(|peer| path["peer"] == peer))
        .filter_map(|path| path["state"].as_str())
}

/// Waits until a network is down, or carries, between all (or to one peer); where something was late for a moment
/// it is `suspect`, which carries.
#[track_caller]
fn wait_for_network(rack: &TestRack, network: u64, peer: Option<&str>, down: bool) {
    rack.wait_for(&format!("network {network}, down: {down}"), SOON, |status| {
        states(status, network, peer).count() > 0
            && states(status, network, peer).all(|state| (state == "down") == down)
    });
}

/// Verified load that allows no error: no reconnection, no retry.
fn load(rack: &TestRack, seconds: u64) -> Child {
    Command::new(palisade())
        .args(["perf", "run", &rack.uri("vol0"), "--verify", "--json", "--quiet"])
        .args(["--read", "40", "--depth", "16", "--region", "48m", "--seconds", &seconds.to_string()])
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
}

#[test]
fn ef31_cut_networks_change_neither_data_nor_numbers_and_show_down_and_up_again() {
    let Some(mut rack) = rack(&HOSTS.join(" ")) else { return };
    for network in [1, 2] {
        wait_for_network(&rack, network, None, false);
    }
    let number = |rack: &TestRack| rack.status()["volumes"][0]["number"].clone();
    let before = number(&rack);
    let begin = Instant::now();
    let mut load = load(&rack, 60);
    for (network, host) in [(1, HOSTS[0]), (2, HOSTS[1])] {
        ip(&rack, &format!("rule add pref 5 to {host} blackhole"));
        wait_for_network(&rack, network, None, true);
        wait_for_network(&rack, 3 - network, None, false);
        assert!(rack.told(&format!("network {network} to sled-1 is down; the other one carries")));
        assert!(
            rack.cli(&["status"])
                .good()
                .out
                .lines()
                .any(|line| line.starts_with(&format!("{network}  ")) && line.contains("down"))
        );
        ip(&rack, "rule del pref 5");
        wait_for_network(&rack, network, None, false);
    }
    // One way: nobody reaches the secondary on the first network, though it reaches everybody.
    let one_way =
        format!("rule add pref 5 to {} ipproto udp dport {} blackhole", HOSTS[0], port(&rack, "head-2"));
    ip(&rack, &one_way);
    wait_for_network(&rack, 1, Some("head-2"), true);
    rack.wait_for("others carry on", SOON, |status| {
        states(status, 1, Some("sled-1")).any(|state| state != "down")
    });
    ip(&rack, "rule del pref 5");
    wait_for_network(&rack, 1, None, false);
    let still = load.try_wait().expect("a child can be waited for").is_none();
    assert!(still, "the load ran through all of it, which took {:?}", begin.elapsed());
    good_end(&rack, load);
    assert_eq!(number(&rack), before, "no path change alters who holds a token");
    assert_eq!(rack.status()["volumes"][0]["peer_away"], false);
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ef31_a_rack_starts_on_one_network_and_takes_up_the_other_when_it_comes() {
    let Some(mut rack) = rack(HOSTS[1]) else { return };
    wait_for_network(&rack, 1, None, true);
    wait_for_network(&rack, 2, None, false);
    good_end(&rack, load(&rack, 3));
    ip(&rack, &format!("addr add {}/32 dev lo", HOSTS[0]));
    wait_for_network(&rack, 1, None, false);
    good_end(&rack, load(&rack, 3));
    assert!(rack.stop().success(), "{}", rack.log());
}
