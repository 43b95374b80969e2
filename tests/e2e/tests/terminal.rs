//! What a person at a terminal sees of a running rack.

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_terminal_gets_a_live_status_line_and_an_interrupt_ends_cleanly() {
    let rack = TestRack::new(&Shape::default());
    let screen = rack.path("screen");
    let up = format!("{} up {}", palisade().display(), rack.file().display());
    let mut terminal = Command::new("script")
        .args(["-q", "-e", "-f", "-c", &up])
        .arg(&screen)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("script(1) is part of every Debian");
    let begin = Instant::now();
    let shown =
        |what: &str| String::from_utf8_lossy(&std::fs::read(&screen).unwrap_or_default()).contains(what);
    while !shown("nodes not ready") {
        if begin.elapsed() > Duration::from_secs(90) {
            let _gone = terminal.kill();
            panic!("no status line");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(shown("volume vol0 128.0 MiB nbd"), "the ready line comes first");
    signal(rack.node_pid("head-1"), Signal::INT);
    let status = terminal.wait().expect("script ends with its command");
    assert!(status.success(), "a clean stop exits 0: {status}");
}
