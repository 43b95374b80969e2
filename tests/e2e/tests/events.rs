//! `palisade events`: what happened within a time, and what happens, told once each over a restart of control
//! (issue 3 item 13).

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(180);

/// `palisade events --follow`, and its lines.
struct Follow {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Follow {
    fn start(rack: &TestRack, more: &[&str]) -> Self {
        let mut command = Command::new(palisade());
        command.args(["events", "--follow", "--json"]).args(more).arg("--data-dir").arg(rack.data());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for an event that says this, from among those that were not waited for yet.
    #[track_caller]
    fn next(&mut self, what: &str) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line =
                line.unwrap_or_else(|_| panic!("nobody said `{what}` within {SOON:?}: {:#?}", self.seen));
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}"));
            self.seen.push(line);
            if event["what"].as_str().is_some_and(|said| said.contains(what)) {
                return event;
            }
        }
    }

    /// Everything that came, each once and in order.
    #[track_caller]
    fn end(mut self) -> Vec<Value> {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        self.seen.extend(self.lines.try_iter());
        let each: BTreeSet<&String> = self.seen.iter().collect();
        assert_eq!(each.len(), self.seen.len(), "an event was told twice: {:#?}", self.seen);
        let events: Vec<Value> =
            self.seen.iter().map(|line| serde_json::from_str(line).expect("it was read before")).collect();
        let times: Vec<u64> = events.iter().filter_map(|event| event["time_ms"].as_u64()).collect();
        assert!(times.is_sorted(), "{:#?}", self.seen);
        events
    }
}

/// The rack's volume is served by these heads.
#[track_caller]
fn served(rack: &TestRack, primary: &str) {
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = &status["volumes"][0];
        let well = volume["state"] == "serving" && volume["peer_away"] == false && volume["joining"] == false;
        well && volume["primary"] == primary
    });
}

#[test]
fn issue3_13_events_are_followed_over_a_restart_of_control_and_each_is_told_once() {
    let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
    rack.start(&["--processes"]);
    served(&rack, "head-1");
    let mut all = Follow::start(&rack, &["--since", "1h"]);
    let mut late = Follow::start(&rack, &["--since", "0s", "--volume", "vol0"]);
    all.next("heads head-1, head-2 (were none)");
    rack.cli(&["volume", "failover", "vol0"]).good();
    let told = late.next("heads head-2, head-1 (were head-1, head-2)");
    assert_eq!((&told["why"], &told["volume"]), (&"planned".into(), &"vol0".into()), "{told}");
    assert_eq!(all.next("heads head-2, head-1 (were head-1, head-2)"), told, "both are told the same");
    let pause = all.next("after a pause of");
    assert!(pause["pause_us"].as_u64() > Some(0), "{pause}");
    served(&rack, "head-2");
    // Control becomes itself anew: what nodes said is gone, what the store has is not told again.
    let (binary, data) = (palisade().display().to_string(), rack.data().display().to_string());
    let args = ["node", "upgrade", "control", "--binary", &binary, "--data-dir", &data];
    run(palisade(), &args, SOON).good();
    served(&rack, "head-2");
    rack.cli(&["volume", "failover", "vol0"]).good();
    let told = late.next("heads head-1, head-2 (were head-2, head-1)");
    assert_eq!(all.next("heads head-1, head-2 (were head-2, head-1)"), told);
    served(&rack, "head-1");
    // Once more, asked without following: only what is recent, and of the volume.
    std::thread::sleep(Duration::from_millis(2100));
    let recent = rack.cli(&["events", "--since", "1s", "--json"]).good().out;
    assert!(!recent.contains("were head-2, head-1"), "it was longer ago: {recent}");
    let kept = rack.cli(&["events", "--volume", "vol0", "--since", "15m"]).good().out;
    for what in ["(were none)", "(were head-1, head-2)", "(were head-2, head-1)"] {
        assert!(kept.contains(what), "the store keeps what moved: {kept}");
    }
    let wrong = rack.cli(&["events", "--since", "soon"]);
    assert!(wrong.code == Some(2) && wrong.err.contains("15m"), "{}", wrong.err);
    for follow in [all, late] {
        let events = follow.end();
        let moves = events.iter().filter(|event| event["number"] != "").count();
        assert!(moves >= 2, "{events:#?}");
    }
    assert!(rack.stop().success(), "{}", rack.log());
}
