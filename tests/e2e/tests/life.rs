//! Start, status, stop; what is refused and how it is said.

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);

#[test]
fn ready_file_status_and_exit_code_tell_one_story() {
    let mut rack = TestRack::up(&Shape::default());
    let words: Vec<String> = rack.ready().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[..4], ["volume", "vol0", "128.0", "MiB"], "{}", rack.ready());
    assert_eq!(words[5..], ["primary", "head-1", "secondary", "head-2"], "{}", rack.ready());
    let status = rack.status();
    let volume = &status["volumes"][0];
    assert_eq!(volume["name"], "vol0");
    assert_eq!(volume["bytes"], 128u64 << 20);
    assert_eq!(volume["primary"], "head-1");
    assert_eq!(volume["secondary"], "head-2");
    assert!(volume["sequence"].is_number() || volume["sequence"].is_string(), "{volume}");
    for node in status["nodes"].as_array().expect("nodes") {
        for field in ["name", "role", "pid", "state"] {
            assert!(!node[field].is_null(), "no {field} in {node}");
        }
    }
    assert!(rack.stop().success(), "a clean stop exits 0\n{}", rack.log());
}

#[test]
fn a_second_up_on_the_same_data_names_the_first_and_exits_1() {
    // Fabric addresses are held too: what is said is who holds the data, not each address.
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let second = run(palisade(), &["up", &rack.file().display().to_string()], SOON);
    assert_eq!(second.code, Some(1), "{}{}", second.out, second.err);
    assert!(second.err.contains(&rack.pid().to_string()), "no pid in: {}", second.err);
}

/// What people type wrong: each gets one message that says what, and what to do, and exit code 1.
#[test]
fn wrong_words_on_the_command_line_are_answered_with_a_remedy() {
    let rack = TestRack::up(&Shape::default());
    let file = rack.file().display().to_string();
    let missing = rack.path("missing.toml").display().to_string();
    let data = rack.data().display().to_string();
    let elsewhere = rack.path("").display().to_string();
    let file_of = |name: &str, bytes: &[u8]| {
        std::fs::write(rack.path(name), bytes).expect("room for a file");
        rack.path(name).display().to_string()
    };
    let (empty, bytes) = (file_of("empty", b""), file_of("bytes", &[0xff, 0xfe, 0, 0x80, 7]));
    let text = std::fs::read_to_string(rack.file()).expect("readable");
    let other = file_of("other.toml", text.replace("name = \"e2e\"", "name = \"other\"").as_bytes());
    let cases: [(&[&str], &[&str]); 22] = [
        (&["up", &missing], &["missing.toml: there is no such file; give a rack file"]),
        (&["up", &elsewhere], &["it is a directory; give a rack file"]),
        (&["up", &bytes], &["bytes: it is not a text file; give a rack file"]),
        (&["up", &empty], &["has no head", "add a [[head]]"]),
        (&["up", &other, "--data-dir", &data], &["is in use by process", "stop that one first"]),
        (&["up", &other, "--data-dir", &empty], &["data directory", "empty", "choose another one"]),
        (&["check", &missing], &["missing.toml", "give a rack file"]),
        (&["apply", &missing], &["missing.toml", "give a rack file"]),
        (&["node", &file, "--name", "head-9"], &["no such node", "head-1"]),
        (&["node", &file, "--name", "head-1"], &["runs already"]),
        (&["inspect", &missing], &["missing.toml"]),
        (&["inspect", &file], &["neither a head log nor a sled device"]),
        (
            &["status", "--data-dir", &elsewhere],
            &["no rack runs", "no control socket; start one", "palisade up"],
        ),
        (&["volume", "delete", "nope", "--data-dir", &data], &["no volume `nope`", "volume list"]),
        (&["volume", "delete", "vol0", "--data-dir", &elsewhere], &["no rack runs", "palisade up"]),
        (&["volume", "create", "a/b", "--size", "1 MiB", "--data-dir", &data], &["no name", "letters"]),
        (
            &["volume", "create", "vol0", "--size", "1 MiB", "--data-dir", &data],
            &["exists already", "another name"],
        ),
        (&["volume", "create", "v", "--size", "1 mile", "--data-dir", &data], &["no unit", "MiB"]),
        (&["volume", "create", "v", "--size", "9 TiB", "--data-dir", &data], &["has room for", "smaller"]),
        (
            &["volume", "create", "v", "--size", "1 MiB", "--primary", "x", "--data-dir", &data],
            &["no head", "status"],
        ),
        (&["volume", "flush", "v", "--wait", "--data-dir", &data], &["no replicated volume", "volume list"]),
        (&["device", "replace", "sled-9/0", "--data-dir", &data], &["no device", "device list"]),
    ];
    for (args, words) in cases {
        let ended = run(palisade(), args, SOON);
        assert_eq!(ended.code, Some(1), "{args:?}: {}{}", ended.out, ended.err);
        assert!(words.iter().all(|word| ended.err.contains(word)), "{args:?}: {}", ended.err);
        let beside = |line: &str| line.contains(": warning: ") || line.contains(": note: ");
        let said = ended.err.lines().filter(|line| line.starts_with("palisade: ") && !beside(line));
        assert_eq!(said.count(), 1, "{args:?}: {}", ended.err);
    }
    assert_eq!(rack.status()["ready"], true, "none of it did any harm");
}

/// A small file system in memory, for disks that are full or read-only; none where the user may not mount.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(at: std::path::PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&at).expect("room for a folder");
        let place = at.display().to_string();
        let made = run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &place], SOON);
        (made.code == Some(0)).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = run("umount", &["-l", &self.0.display().to_string()], SOON);
    }
}

/// What hosts are short of: each gets one message that says what, where, and what to do.
#[test]
fn a_host_that_cannot_carry_the_rack_is_told_what_is_lacking() {
    let rack = TestRack::new(&Shape::default());
    let text = std::fs::read_to_string(rack.file()).expect("readable");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = port.local_addr().expect("bound").to_string();
    let deep = rack.path(&"d".repeat(120)).join("data").display().to_string();
    let beside = rack.path("beside").display().to_string();
    let read_only = SmallDisk::new(rack.path("read-only"), "size=1M,ro");
    let full = SmallDisk::new(rack.path("full"), "size=8M");
    let at = |disk: &SmallDisk| disk.0.join("data").display().to_string();
    let mut cases = vec![
        (deep, text.clone(), ["cannot listen", "head-1.sock", "at most 107 bytes: choose a shorter one"]),
        (beside, text.replace("unix:head-1.sock", &taken), [&taken, "in use", "choose another address"]),
    ];
    if let (Some(read_only), Some(full)) = (&read_only, &full) {
        let full = (at(full), text.clone(), ["device sled-", "no space left", "free space there"]);
        cases.extend([
            (at(read_only), text.clone(), ["data directory", "Read-only", "choose another one"]),
            full,
        ]);
    }
    for (data, text, words) in cases {
        std::fs::write(rack.file(), text).expect("writable");
        let file = rack.file().display().to_string();
        let ended = run(palisade(), &["up", &file, "--data-dir", &data], SOON);
        assert_eq!(ended.code, Some(1), "{data}: {}{}", ended.out, ended.err);
        assert!(words.iter().all(|word| ended.err.contains(word)), "{words:?}: {}", ended.err);
        let own = ended.err.lines().filter(|line| line.starts_with("palisade: "));
        let said = own.filter(|line| !line.contains(": warning: ") && !line.contains(": note: "));
        assert_eq!(said.count(), 1, "{}", ended.err);
        assert!(!ended.err.contains("panicked") && !ended.err.contains("backtrace"), "{}", ended.err);
    }
}

#[test]
fn applying_twice_changes_nothing_and_pruning_removes_what_the_file_does_not_name() {
    let rack = TestRack::up(&Shape::default());
    let file = rack.file().display().to_string();
    let apply = |more: &[&str]| -> Value {
        let ended = rack.cli(&[&["apply", &file, "--json"], more].concat()).good();
        serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}", ended.out))
    };
    let nothing = |applied: &Value, key: &str| applied[key].as_array().is_some_and(Vec::is_empty);
    for _ in 0..2 {
        let applied = apply(&[]);
        assert!(
            ["created", "pruned", "parted", "needs_start"].iter().all(|k| nothing(&applied, k)),
            "{applied}"
        );
    }
    rack.cli(&["volume", "create", "extra", "--size", "8 MiB"]).good();
    assert!(nothing(&apply(&[]), "pruned"), "nothing is removed unasked");
    assert!(rack.cli(&["check", &file]).good().out.contains("extra"), "check shows where they part");
    assert_eq!(apply(&["--prune"])["pruned"].as_array().map(Vec::len), Some(1));
    rack.wait_for("the volume is gone", SOON, |status| status["volumes"].as_array().map(Vec::len) == Some(1));
}

/// Free columns of all sled devices, and all columns.
fn columns(rack: &TestRack) -> (u64, u64) {
    let text = rack.cli(&["device", "list", "--json"]).good().out;
    let list: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let devices = list.as_array().expect("a list of devices");
    let sum = |field: &str| devices.iter().filter_map(|d| d[field].as_u64()).sum();
    (sum("free"), sum("columns"))
}

#[test]
fn volumes_made_at_run_time_survive_and_the_space_of_deleted_ones_comes_back() {
    // The primary of the new volume is the secondary of another, whose promised share its log holds too (P-31).
    let mut rack = TestRack::up(&Shape::default());
    rack.cli(&[
        "volume",
        "create",
        "extra",
        "--size",
        "32 MiB",
        "--primary",
        "head-2",
        "--secondary",
        "head-3",
    ])
    .good();
    assert!(rack.stop().success());
    rack.start(&[]);
    let list = rack.cli(&["volume", "list", "--json"]).good().out;
    assert!(list.contains("\"extra\""), "{list}");
    rack.perf("extra", &["--verify", "--read", "20", "--size", "64k", "--seconds", "2"], SOON).good();
    rack.cli(&["volume", "flush", "extra", "--wait"]).good();
    // Sleds report about once a second.
    let flushed = Instant::now();
    while {
        let (free, all) = columns(&rack);
        free == all
    } {
        assert!(flushed.elapsed() < SOON, "flushed data lies in columns");
        std::thread::sleep(Duration::from_millis(200));
    }
    rack.cli(&["volume", "delete", "extra"]).good();
    let begin = Instant::now();
    loop {
        let list = rack.cli(&["volume", "list", "--json"]).good().out;
        let (free, all) = columns(&rack);
        if !list.contains("\"extra\"") && free == all {
            break;
        }
        assert!(begin.elapsed() < SOON, "{free} of {all} columns free; volumes: {list}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_broken_rack_file_is_refused_at_its_place() {
    let rack = TestRack::new(&Shape::default());
    let file = rack.file().display().to_string();
    run(palisade(), &["check", &file], SOON).good();
    let text = std::fs::read_to_string(rack.file()).expect("readable");
    std::fs::write(rack.file(), text.replace("secondary =", "secondry =")).expect("writable");
    let line = text.lines().position(|l| l.starts_with("secondary")).expect("there") + 1;
    let check = run(palisade(), &["check", &file], SOON);
    assert_eq!(check.code, Some(1), "{}{}", check.out, check.err);
    let said = format!("{}{}", check.out, check.err);
    assert!(said.contains(&format!(":{line}:")) && said.contains("secondary"), "{said}");
    let up = run(palisade(), &["up", &file], SOON);
    assert_eq!(up.code, Some(1), "{}{}", up.out, up.err);
}

#[test]
fn random_bytes_on_the_nbd_port_hurt_nobody() {
    let rack = TestRack::up(&Shape::default());
    let uri = rack.uri("vol0");
    let socket = uri.split("socket=").nth(1).expect("a unix address").to_owned();
    let mut x = 88_172_645_463_325_252u64;
    for round in 0..150 {
        let mut stream = UnixStream::connect(&socket).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let mut bytes = Vec::new();
        if round % 3 > 0 {
            bytes.extend([0, 0, 0, 3]); // client flags
        }
        if round % 3 == 2 {
            bytes.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04vol0\0\0"); // into transmission
        }
        for _ in 0..x % 700 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.push(x as u8);
        }
        let _closed = stream.write_all(&bytes);
        let _answer = stream.read(&mut [0; 4096]);
    }
    rack.perf("vol0", &["--verify", "--read", "50", "--seconds", "1", "--region", "16m"], SOON).good();
}
