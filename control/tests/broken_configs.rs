//! Fifty ways to break a rack file, each with the finding that it must give: severity, line, words of the
//! finding and of its remedy. And what a broken file must never do: panic, or pass in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palisade_control::check::{self, HostFacts};
use palisade_control::config::{self, DeviceKind, Finding, Parsed, Severity};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

const GOOD: &str = include_str!("../../configs/one-box.toml");

/// Replaces the `nth` occurrence (from 0) of `from`; the change must be possible.
fn edit(nth: usize, from: &str, to: &str) -> String {
    let at = GOOD.match_indices(from).nth(nth).unwrap_or_else(|| panic!("`{from}` is in the config")).0;
    format!("{}{to}{}", &GOOD[..at], &GOOD[at + from.len()..])
}

fn judge(text: &str) -> (Parsed, Vec<Finding>) {
    let parsed = config::parse(text, None);
    let findings = check::file(&parsed);
    (parsed, findings)
}

/// (which occurrence, what to replace, with what, words of the finding, words of the remedy).
type Row = (usize, &'static str, &'static str, &'static str, &'static str);

const ERRORS: [Row; 51] = [
    (0, "[rack]", "[rack", "not TOML", "syntax"),
    (0, "spin_us = 20", "spin_us = ", "not TOML", "syntax"),
    (0, "spin_us = 20", "spn_us = 20", "unknown key `spn_us`", "did you mean `spin_us`?"),
    (0, "[code]", "[cod]", "unknown key `cod`", "did you mean `code`?"),
    (0, "primary =", "solo = \"always\"\nprimary =", "cannot be \"always\"", "local"),
    (0, "primary =", "primry =", "unknown key `primry`", "did you mean `primary`?"),
    (0, "name = \"sled-1\"", "nam = \"sled-1\"", "unknown key `nam`", "did you mean `name`?"),
    (0, "unit = \"64 KiB\"", "zebra = 1", "unknown key `zebra`", "known keys here"),
    (0, "name = \"sled-1\"", "shelve = \"x\"", "a sled has no name", "add name"),
    (0, "cores = [0, 1]", "cores = [0, 0]", "core 0 is listed twice", "once"),
    (0, "cores = [0, 1]", "cores = []", "no core is given", "cores = [0]"),
    (0, "cores = [0, 1]", "cores = [\"a\", 1]", "is no core number", "whole numbers"),
    (0, "cores = [0, 1]", "cores = 2", "is a number, not a list", "a list"),
    (0, "core = 1", "core = 7", "core 7 has no reactor", "cores = [0, 1]"),
    (0, "idle = \"adaptive\"", "idle = \"adaptve\"", "did you mean \"adaptive\"?", "spin"),
    (0, "huge_pages = \"auto\"", "huge_pages = \"maybe\"", "cannot be \"maybe\"", "require"),
    (0, "pool = \"256 MiB\"", "pool = \"1 MiB\"", "too small", "at least 32.0 MiB"),
    (0, "pool = \"256 MiB\"", "pool = \"50000001 B\"", "not a multiple of 2 MiB", "huge page"),
    (0, "pool = \"256 MiB\"", "pool = \"lots\"", "no size", "4 GiB"),
    (0, "k = 4 ", "k = 0 ", "k is 0", "k = 4"),
    (0, "m = 2", "m = 0", "m is 0", "m = 2"),
    (0, "k = 4 ", "k = 15 ", "k + m is 17", "fewer columns"),
    (0, "k = 4 ", "k = 400 ", "above 16", "at most 16"),
    (0, "k = 4 ", "k = 8 ", "as many sleds", "add sleds"),
    (0, "shelf = \"shelf-6\"", "shelf = \"shelf-5\"", "as many shelves", "shared_shelves"),
    (0, "unit = \"64 KiB\"", "unit = \"65 kB\"", "not a multiple of 4 KiB", "64 KiB"),
    (0, "unit = \"64 KiB\"", "unit = \"1 MiB\"", "up to 64 KiB", "64 KiB"),
    (0, "column = \"8 MiB\"", "column = \"100 KiB\"", "not a multiple of the stripe unit", "8 MiB"),
    (0, "column = \"8 MiB\"", "column = \"128 KiB\"", "only 2 stripe units", "at least 4"),
    (0, "column = \"8 MiB\"", "column = \"8 MiB\"\nmin_columns = 3", "outside k..=k+m", "k + 1 = 5"),
    (
        0,
        "name = \"head-2\"",
        "name = \"head-1\"",
        "node name `head-1` is used twice, first on line",
        "its own",
    ),
    (0, "name = \"head-2\"", "name = \"a/b\"", "`a/b` is no name", "letters"),
    (0, "127.0.0.1:10810", "127.0.0.1:10809", "address `127.0.0.1:10809` is used twice", "its own"),
    (0, "127.0.0.1:10810", "localhost", "no address to export at", "unix:PATH"),
    (0, "127.0.0.1:7202", "127.0.0.1:7201", "fabric address `127.0.0.1:7201` is used twice", "its own"),
    (
        0,
        "\"127.0.0.1:7202\"",
        "[\"127.0.0.1:7202\", \"127.0.0.2:7202\", \"127.0.0.3:7202\"]",
        "at most two networks",
        "one for each of two",
    ),
    (0, "\"127.0.0.1:7202\"", "[\"127.0.0.1:7202\", 5]", "no datagram address", "each of two networks"),
    (0, "\"127.0.0.1:7202\"", "\"localhost:7202\"", "no datagram address", "127.0.0.1:7201"),
    (0, "127.0.0.1:9464", "9464", "not an address", "127.0.0.1:9464"),
    (0, "size = \"512 MiB\"", "size = \"513 MiB\"", "not a multiple of its segment", "segment size"),
    (0, "size = \"512 MiB\"", "size = \"16 MiB\"", "fewer than 8 segments", "512 MiB"),
    (0, "size = \"512 MiB\"", "size = \"128 MiB\"", "too small: checkpoints", "at least"),
    (
        0,
        "kind = \"file\", size = \"512 MiB\"",
        "kind = \"memory\", size = \"512 MiB\"",
        "memory device is blank",
        "store",
    ),
    (0, "size = \"4 GiB\"", "size = \"40 GiB\"", "the sleds hold", "make it smaller"),
    (0, "secondary = \"head-2\"", "secondary = \"head-1\"", "primary and secondary", "another head"),
    (0, "secondary = \"head-2\"", "reserves = [\"head-3\"]", "reserves and no secondary", "first of them"),
    (
        0,
        "secondary = \"head-2\"",
        "secondary = \"head-2\"\nreserves = [\"head-3\", \"head-2\"]",
        "`head-2` stands twice",
        "another head",
    ),
    (
        0,
        "secondary = \"head-2\"",
        "secondary = \"head-2\"\nreserves = [\"head-7\"]",
        "there is no head `head-7`",
        "head-1, head-2, head-3",
    ),
    (
        0,
        "secondary = \"head-2\"",
        "secondary = \"head-2\"\nreserves = [3]",
        "reserves[0]",
        "name of a head in quotes",
    ),
    (
        0,
        "primary = \"head-1\"",
        "primary = \"head-9\"",
        "there is no head `head-9`",
        "head-1, head-2, head-3",
    ),
    (0, "size = \"4 GiB\"", "size = \"4000000001\"", "not a multiple of 4 KiB", "4 KiB"),
];

#[test]
fn each_broken_config_gives_its_finding_at_its_line_with_its_remedy() {
    for (nth, from, to, what, remedy) in &ERRORS {
        let text = edit(*nth, from, to);
        let (_, findings) = judge(&text);
        let found =
            findings.iter().find(|finding| finding.what.contains(what) && finding.remedy.contains(remedy));
        let found =
            found.unwrap_or_else(|| panic!("`{to}` must give `{what}` / `{remedy}`, gave {findings:#?}"));
        assert_eq!(found.severity, Severity::Error, "{to}");
        assert!(found.place.is_some(), "`{to}` has its place");
    }
}

/// One-box, every node with an address of its own on a second network, made of that on the first.
fn on_two_networks(second: impl Fn(&str) -> String) -> String {
    GOOD.lines()
        .map(|line| match line.strip_prefix("fabric = \"").and_then(|rest| rest.split_once('"')) {
            Some((first, _)) => format!("fabric = [\"{first}\", \"{}\"]\n", second(first)),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn ef31_two_networks_are_read_and_what_takes_their_redundancy_is_a_warning_at_its_line() {
    let sound = on_two_networks(|first| first.replace("127.0.0.1", "127.0.0.2"));
    let (parsed, findings) = judge(&sound);
    assert!(findings.iter().all(|finding| finding.severity < Severity::Warning), "{findings:#?}");
    let expect = ["127.0.0.1:7201", "127.0.0.2:7201"].map(|text| text.parse().expect("an address"));
    assert_eq!(parsed.rack.heads[0].fabric, expect);
    assert_eq!(parsed.rack.fabric("sled-1").len(), 2);

    let one_short = sound.replace("[\"127.0.0.1:7211\", \"127.0.0.2:7211\"]", "\"127.0.0.1:7211\"");
    let same_host = on_two_networks(|first| first.replace(":72", ":82"));
    let real = sound.replace("127.0.0.1", "10.0.0.1").replace("127.0.0.2", "10.0.0.2");
    for (text, what, line) in [
        (one_short, "`sled-1` is on the first network only", "\"127.0.0.1:7211\""),
        (same_host, "same subnet: one switch or cable may carry both", "127.0.0.1:8201"),
        (real, "same subnet: one switch or cable may carry both", "10.0.0.2:7201"),
    ] {
        let (_, findings) = judge(&text);
        let found = findings.iter().find(|finding| finding.what.contains(what));
        let found = found.unwrap_or_else(|| panic!("`{what}` in {findings:#?}"));
        assert_eq!(found.severity, Severity::Warning, "{found:?}");
        let at = found.place.expect("placed").line as usize;
        assert!(text.lines().nth(at - 1).is_some_and(|text| text.contains(line)), "{found:?}");
    }
    let apart = sound.replace("127.0.0.1", "10.0.1.1").replace("127.0.0.2", "10.0.2.1");
    assert!(judge(&apart).1.iter().all(|finding| !finding.what.contains("subnet")));
}

#[test]
fn findings_name_the_very_line_and_column() {
    for (from, to, what) in [
        ("spin_us = 20", "spn_us = 20", "unknown key"),
        ("k = 4 ", "k = 0 ", "k is 0"),
        ("primary = \"head-1\"", "primary = \"head-9\"", "no head"),
        ("cores = [0, 1]", "cores = [0, 0]", "listed twice"),
    ] {
        let text = edit(0, from, to);
        let line = text.lines().position(|line| line.contains(to.trim_end())).expect("it is there") + 1;
        let (_, findings) = judge(&text);
        let found = findings.iter().find(|finding| finding.what.contains(what)).expect("found");
        assert_eq!(found.place.expect("placed").line as usize, line, "{to}: {found:?}");
    }
    let (_, findings) = judge(&edit(0, "cores = [0, 1]", "cores = [0, 0]"));
    let found = findings.iter().find(|finding| finding.what.contains("listed twice")).expect("found");
    let rendered = found.render(std::path::Path::new("rack.toml"));
    assert!(
        rendered.starts_with("rack.toml:11:13: error: core 0 is listed twice\n    remedy: "),
        "{rendered}"
    );
}

#[test]
fn more_broken_configs_as_whole_files() {
    let rows = [
        ("", "no head", Severity::Error, true),
        ("[[volume]]\nname = \"v\"\nsize = \"1 GiB\"\n", "no primary", Severity::Error, true),
        (
            "[[volume]]\nname = \"v\"\nkind = \"bare\"\nsize = \"1 GiB\"\n",
            "exported nowhere",
            Severity::Error,
            true,
        ),
        ("[[head]]\nname = \"h\"\n", "has no log", Severity::Error, true),
        ("[[head]]\nname = \"h\"\nlog = { kind = \"block\" }\n", "has no path", Severity::Error, true),
        ("[[sled]]\nname = \"s\"\n", "has no device", Severity::Error, true),
        (
            "[[sled]]\nname = \"s\"\ndevice = [{ size = \"8 MiB\" }]\n",
            "fewer than 4 columns",
            Severity::Error,
            true,
        ),
        ("[timers]\nresend_ms = 500\n", "above resend_ms_max", Severity::Error, true),
        ("[limits]\nlog_low_percent = 70\n", "not below log_high_percent", Severity::Error, true),
        ("rack = 5\n", "is a number, not a table", Severity::Error, true),
        ("volume = [1]\n", "is a number, not a table", Severity::Error, true),
        ("[control]\nstore = \"etdc\"\n", "did you mean \"etcd\"?", Severity::Error, true),
        ("", "no volume", Severity::Warning, true),
    ];
    for (text, what, severity, wanted) in rows {
        let (_, findings) = judge(text);
        let found =
            findings.iter().any(|finding| finding.what.contains(what) && finding.severity == severity);
        assert_eq!(found, wanted, "{text:?} and `{what}`: {findings:#?}");
    }
    let (_, findings) = judge(&"a".repeat(2 << 20));
    assert!(findings[0].what.contains("larger than 1 MiB"));
}

#[test]
fn ef24_an_etcd_store_is_judged_at_the_line_of_its_keys() {
    let good = "[control]\nstore = \"etcd\"\nendpoints = [\"http://10.0.0.1:2379\", \"db-2:2379\"]\n";
    let (parsed, findings) = judge(good);
    let endpoints = ["http://10.0.0.1:2379", "http://db-2:2379"];
    assert_eq!(parsed.rack.control.endpoints, endpoints);
    assert_eq!(parsed.rack.control.lease_ms, 5000);
    let of_control = |finding: &&Finding| finding.what.contains("etcd") || finding.what.contains("lease");
    assert_eq!(findings.iter().filter(of_control).count(), 0, "{findings:#?}");
    let rows = [
        ("store = \"etcd\"", "has no endpoints", "add endpoints", 2),
        ("endpoints = [\"a:1\"]", "only with store = \"etcd\"", "leave the endpoints out", 2),
        ("store = \"etcd\"\nendpoints = [\"a:1\", \"http://a:1/\"]", "listed twice", "once", 3),
        ("store = \"etcd\"\nendpoints = [\"a\"]", "no address of an etcd", "http://10.0.0.1:2379", 3),
        ("store = \"etcd\"\nendpoints = [\"https://a:1\"]", "no address of an etcd", "http://", 3),
        ("store = \"etcd\"\nendpoints = [\"a:1/v3\"]", "no address of an etcd", "http://", 3),
        ("store = \"etcd\"\nendpoints = [7]", "no address of an etcd", "http://", 3),
        ("store = \"etcd\"\nendpoints = [\"a:1\"]\nlease_ms = 1000", "shorter than etcd", "2000", 4),
        ("store = \"etcd\"\nendpoints = [\"a:1\"]\nlease_ms = 2500", "whole number", "multiple", 4),
    ];
    for (keys, what, remedy, line) in rows {
        let (_, findings) = judge(&format!("[control]\n{keys}\n"));
        let found = findings.iter().find(|finding| finding.what.contains(what));
        let found = found.unwrap_or_else(|| panic!("{keys}: {findings:#?}"));
        assert_eq!(found.severity, Severity::Error);
        assert!(found.remedy.contains(remedy), "{found:?}");
        assert_eq!(found.place.expect("placed").line, line, "{found:?}");
    }
}

#[test]
fn a_host_that_lacks_something_is_told_what_and_how_to_mend_it() {
    let text = edit(1, "kind = \"file\", size = \"2 GiB\"", "kind = \"block\", path = \"/dev/nothing\"");
    // Files that are to be sparse are not warned of.
    let parsed = config::parse(&text.replace(", sparse = true", ""), None);
    let mut facts = HostFacts { cores: vec![0], memory_bytes: 100 << 20, ..HostFacts::default() };
    facts.paths.insert(PathBuf::from("/dev/nothing"), check::PathFacts::default());
    let other_size = check::PathFacts {
        exists: true,
        file: true,
        bytes: 1 << 30,
        free_bytes: 1 << 40,
        ..Default::default()
    };
    facts.paths.insert(PathBuf::from("data/sled-1/0"), other_size);
    let thin = check::PathFacts {
        bytes: 2 << 30,
        allocated: 1 << 20,
        ..facts.paths[Path::new("data/sled-1/0")].clone()
    };
    facts.paths.insert(PathBuf::from("data/sled-3/0"), thin);
    facts.busy = BTreeMap::from([("127.0.0.1:10809".to_owned(), "Address already in use".to_owned())]);
    let findings = check::host(&parsed, &facts, false);
    for (what, remedy, severity) in [
        ("core 1 does not exist here", "cores of this host", Severity::Error),
        ("this host has 100.0 MiB free", "smaller", Severity::Error),
        ("there is no device /dev/nothing", "plug it in", Severity::Error),
        ("has 1.0 GiB, the file says 2.0 GiB", "fixed when a device is formatted", Severity::Error),
        ("data/sled-3/0 is sparse: 1.0 MiB of 2.0 GiB", "fallocate --keep-size", Severity::Warning),
        ("127.0.0.1:10809 cannot be had", "another address", Severity::Error),
        ("of free huge pages", "vm.nr_hugepages=256", Severity::Note),
    ] {
        let found = findings.iter().find(|finding| finding.what.contains(what));
        let found = found.unwrap_or_else(|| panic!("`{what}` in {findings:#?}"));
        assert!(found.remedy.contains(remedy), "{found:?}");
        assert_eq!(found.severity, severity, "{found:?}");
    }
    let running = check::host(&parsed, &facts, true);
    assert!(running.iter().all(|finding| !finding.what.contains("10809")), "its own port is no finding");
}

#[test]
fn this_host_is_looked_at_without_touching_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let parsed = config::parse(GOOD, Some(dir.path()));
    let facts = HostFacts::look(&parsed.rack);
    assert!(!facts.cores.is_empty() && facts.memory_bytes > 0);
    for sled in &parsed.rack.sleds {
        let DeviceKind::File(path) = &sled.devices[0].kind else { panic!("files") };
        assert!(!facts.paths[path].exists && facts.paths[path].free_bytes > 0);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0, "nothing was made");
}

#[test]
fn ten_thousand_mutilated_configs_are_judged_without_a_panic() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(50);
    for _ in 0..10_000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..1 + random.next_u64() % 4 {
            if bytes.is_empty() {
                break;
            }
            let at = (random.next_u64() % bytes.len() as u64) as usize;
            match random.next_u64() % 4 {
                0 => bytes[at] = (random.next_u64() % 256) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"[]{}=\"\n#.,0-x"[(random.next_u64() % 13) as usize]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (parsed, findings) = judge(&text);
        for finding in &findings {
            assert!(!finding.what.is_empty() && !finding.remedy.is_empty());
        }
        assert!(parsed.rack.heads.len() <= 64);
    }
}

#[test]
fn a_file_that_declares_nothing_to_serve_is_refused() {
    let part = |from: &str| GOOD[GOOD.find(from).expect("there")..].to_owned();
    let sleds = part("[[sled]]").split("[[volume]]").next().expect("some").to_owned();
    for text in [String::new(), "[rack]\nname = \"r\"\n".to_owned(), sleds] {
        let (_, findings) = judge(&text);
        let found = findings.iter().find(|finding| finding.what.contains("has no head"));
        let found = found.unwrap_or_else(|| panic!("{text:?} gave {findings:#?}"));
        assert_eq!(found.severity, Severity::Error);
        assert!(found.remedy.contains("[[head]]") && found.remedy.contains("configs/one-box.toml"));
    }
}

#[test]
fn ba09_reserves_of_one_shelf_are_warned_of_and_more_than_four_heads_are_refused() {
    let text = edit(0, "secondary = \"head-2\"", "secondary = \"head-2\"\nreserves = [\"head-3\"]");
    let (parsed, findings) = judge(&text);
    assert_eq!(parsed.rack.volume("vol0").expect("declared").members(), ["head-1", "head-2", "head-3"]);
    let worse: Vec<&Finding> = findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(worse.is_empty(), "{worse:#?}");
    let shelf = parsed.rack.head("head-2").expect("declared").shelf.clone();
    let own = parsed.rack.head("head-3").expect("declared").shelf.clone();
    assert_ne!(shelf, own);
    let at = text.find("name = \"head-3\"").expect("a third head");
    let place = text[at..].find(&format!("\"{own}\"")).expect("its shelf") + at;
    let shared = format!("{}\"{shelf}\"{}", &text[..place], &text[place + own.len() + 2..]);
    let (_, findings) = judge(&shared);
    let found =
        findings.iter().find(|finding| finding.what.contains("`head-2` and `head-3` stand on one shelf"));
    assert_eq!(found.map(|finding| finding.severity), Some(Severity::Warning), "{findings:#?}");
    let five = text.replace("[\"head-3\"]", "[\"head-3\", \"head-4\", \"head-5\"]");
    let (_, findings) = judge(&five);
    let found = findings.iter().find(|finding| finding.what.contains("has 5 heads"));
    assert!(found.is_some_and(|finding| finding.remedy.contains("at most 4")), "{findings:#?}");
}

#[test]
fn a_rack_with_one_head_is_warned_and_one_whose_secondary_is_lacking_is_refused() {
    let mut blocks: Vec<&str> = GOOD.split("\n[[").collect();
    blocks.retain(|block| !block.contains("name = \"head-2\"") && !block.contains("name = \"head-3\""));
    let one = blocks.join("\n[[");
    let (_, findings) = judge(&one);
    let no_head = findings.iter().find(|finding| finding.what.contains("there is no head `head-2`"));
    assert_eq!(no_head.map(|finding| finding.severity), Some(Severity::Error), "{findings:#?}");
    let (_, findings) = judge(&one.replace("secondary = \"head-2\"", ""));
    assert!(findings.iter().all(|finding| finding.severity != Severity::Error), "{findings:#?}");
    let alone = findings.iter().find(|finding| finding.what.contains("has no secondary"));
    assert_eq!(alone.map(|finding| finding.severity), Some(Severity::Warning), "{findings:#?}");
}
