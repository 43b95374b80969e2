//! The racks of configs/: each is parsed, accepted by `check`, and explained by what is asserted here.

use std::path::{Path, PathBuf};

use palisade_control::check;
use palisade_control::config::{
    self, DeviceKind, Finding, HugePages, Idle, NbdAddress, Parsed, Severity, StoreKind, VolumeKind,
};

fn read(name: &str) -> Parsed {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    let text = std::fs::read_to_string(&path).expect("the config is there");
    config::parse(&text, None)
}

fn accepted(parsed: &Parsed) -> Vec<Finding> {
    let findings = check::file(parsed);
    let worse: Vec<_> = findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(worse.is_empty(), "{worse:#?}");
    findings
}

#[test]
fn one_box_is_a_durable_rack_of_three_heads_and_six_sleds() {
    let parsed = read("one-box.toml");
    accepted(&parsed);
    let rack = &parsed.rack;
    assert_eq!((rack.name.as_str(), rack.data.as_path()), ("one-box", Path::new("data")));
    assert_eq!((rack.heads.len(), rack.sleds.len()), (3, 6));
    let mut shelves: Vec<&str> = rack.sleds.iter().map(|sled| sled.shelf.as_str()).collect();
    shelves.sort_unstable();
    shelves.dedup();
    assert_eq!(shelves.len(), 6, "every column of a 4+2 extent on a shelf of its own (EF-11)");
    assert_eq!(rack.control.store, StoreKind::Embedded);
    assert_eq!((rack.reactors.cores.as_slice(), rack.reactors.idle), ([0, 1].as_slice(), Idle::Adaptive));
    assert_eq!((rack.code.data, rack.code.parity, rack.code.column_bytes), (4, 2, 8 << 20));
    assert_eq!(rack.metrics.map(|address| address.to_string()), Some("127.0.0.1:9464".to_owned()));
    for head in &rack.heads {
        assert_eq!(head.log.kind, DeviceKind::File(PathBuf::from(format!("data/{}/log", head.name))));
        assert_eq!(head.log.size_bytes, 512 << 20);
    }
    for sled in &rack.sleds {
        assert_eq!(sled.devices[0].kind, DeviceKind::File(PathBuf::from(format!("data/{}/0", sled.name))));
        assert_eq!(sled.devices[0].size_bytes, 2 << 30);
    }
    let volume = rack.volume("vol0").expect("declared");
    assert_eq!((volume.size_bytes, volume.members()), (4 << 30, vec!["head-1", "head-2"]));
    let address = &rack.head("head-1").expect("declared").nbd[0];
    assert_eq!(address.uri("vol0"), "nbd://127.0.0.1:10809/vol0");
}

#[test]
fn one_box_memory_forgets_everything_and_puts_the_full_path_before_the_baseline() {
    let parsed = read("one-box-memory.toml");
    accepted(&parsed);
    let rack = &parsed.rack;
    assert_eq!(rack.control.store, StoreKind::Memory);
    assert_eq!(rack.reactors.cores, [0], "one reactor, the other core is the client's");
    let logs = rack.heads.iter().map(|head| &head.log);
    let mut devices = logs.chain(rack.sleds.iter().flat_map(|sled| &sled.devices));
    assert!(devices.all(|device| device.kind == DeviceKind::Memory && device.populate));
    assert_eq!(rack.volumes[0].name, "vol0");
    assert_eq!(rack.volumes[0].members(), ["head-1", "head-2"]);
    assert_eq!(rack.volumes[1].name, "bare0");
    let VolumeKind::Bare { core, nbd } = &rack.volumes[1].kind else { panic!("bare0 is bare") };
    assert_eq!(*core, 0);
    assert_eq!(*nbd, rack.heads[0].nbd, "one list of exports");
    assert!(matches!(&nbd[1], NbdAddress::Unix(path) if path == Path::new("data/memory/nbd.sock")));
}

#[test]
fn the_example_rack_shows_every_key_and_is_accepted_without_a_note() {
    let parsed = read("rack-example.toml");
    assert_eq!(accepted(&parsed), []);
    let rack = &parsed.rack;
    assert_eq!(rack.reactors.huge_pages, HugePages::Auto);
    assert_eq!(rack.sleds.len(), 8);
    assert!(rack.sleds.iter().all(|sled| sled.devices.len() == 2 && !sled.power.is_empty()));
    assert_eq!(rack.volume("db").expect("declared").members(), ["head-1", "head-2", "head-3"]);
    let VolumeKind::Replicated { code, .. } = &rack.volume("archive").expect("declared").kind else {
        panic!("archive is replicated")
    };
    assert_eq!((code.data, code.parity, code.min_columns), (6, 2, 7), "a code of its own, k+1 to flush");
    let text = include_str!("../../configs/rack-example.toml");
    for key in [
        "drills",
        "spin_us",
        "min_columns",
        "shared_shelves",
        "profile",
        "drain_ms",
        "scrub",
        "power",
        "segment",
        "solo",
        "failover",
        "reserves",
        "silence_ms",
    ] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(key)), "{key} is shown");
    }
}

#[test]
fn a_data_directory_on_the_command_line_moves_everything() {
    let text = include_str!("../../configs/one-box.toml");
    let parsed = config::parse(text, Some(Path::new("/elsewhere")));
    assert_eq!(parsed.rack.socket(), Path::new("/elsewhere/control.sock"));
    let path = parsed.rack.sleds[0].devices[0].kind.path().cloned();
    assert_eq!(path, Some(PathBuf::from("/elsewhere/sled-1/0")));
}
