//! The table of canaries in docs/PROOF.md against the code: a switch that no test sets, and a rule of the
//! issue without a switch, are defects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rules of the protocol: P-01 to this one.
const RULES: u32 = 33;

/// Where the switches of a machine are declared.
const MACHINES: [(&str, &str); 4] = [
    ("head", "dataplane/protocol/src/head/faults.rs"),
    ("log", "dataplane/protocol/src/log/faults.rs"),
    ("sled", "dataplane/protocol/src/sled/faults.rs"),
    ("control", "control/src/authority/faults.rs"),
];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// `machine.field` of every switch: the line after a doc comment, in either way of declaring one.
fn declared() -> BTreeSet<String> {
    let mut switches = BTreeSet::new();
    for (machine, path) in MACHINES {
        let text = read(path);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0].starts_with("///")) {
            let name = pair[1].trim_start_matches("pub ").trim_end_matches(": bool,").trim_end_matches(',');
            let plain =
                |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if pair[1].ends_with(',') && plain(name) {
                switches.insert(format!("{machine}.{name}"));
            }
        }
    }
    switches
}

/// Switch to (rule, proof cell), from the section on canaries.
fn table() -> BTreeMap<String, (String, String)> {
    let text = read("docs/PROOF.md");
    let section = text.split("\n## Canaries").nth(1).expect("a section on canaries");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|') && line.contains("::"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        (cells[1].to_owned(), (cells[0].to_owned(), cells[2].to_owned()))
    })
    .collect()
}

#[test]
fn every_switch_is_in_the_table_of_canaries_and_set_by_the_tests_it_names() {
    let (declared, table) = (declared(), table());
    assert!(declared.len() > 45, "switches are found in the code: {declared:?}");
    let listed: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(declared, listed, "the code's switches and the table's");
    for (switch, (_, proof)) in table {
        let field = switch.split('.').nth(1).expect("machine.field");
        let named: Vec<&str> = proof.split('`').filter(|name| name.contains("::")).collect();
        assert!(!named.is_empty(), "{switch} names no test");
        for name in named {
            let (path, test) = name.split_once("::").expect("path::test");
            // What follows the test's name, up to where the next test begins, sets the switch.
            let text = read(path);
            let at = text.find(&format!("fn {test}(")).or_else(|| text.find(&format!("{test},")));
            let at = at.or_else(|| text.find(test)).unwrap_or_else(|| panic!("no {test} in {path}"));
            let body = text[at..].split("#[test]").next().unwrap_or_default();
            assert!(body.contains(field), "{name} does not set {switch}");
        }
    }
}

/// Files below a folder that end in `.rs`, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    found
}

/// Rule to what must not occur where, from the table of rules without a switch.
fn reasons() -> BTreeMap<String, (String, String)> {
    let text = read("docs/PROOF.md");
    let section = text.split("\nRules that have no switch").nth(1).expect("the rules without a switch");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| P-"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(cells[1].len() > 40, "a reason is more than a word: {row}");
        let named: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert_eq!(named.len(), 2, "a word and a folder: {row}");
        (cells[0].to_owned(), (named[0].to_owned(), named[1].to_owned()))
    })
    .collect()
}

#[test]
fn every_rule_has_a_switch_or_a_reason_that_holds() {
    let switched: BTreeSet<String> = table().into_values().map(|(rule, _)| rule).collect();
    let reasons = reasons();
    for rule in (1..=RULES).map(|rule| format!("P-{rule:02}")) {
        match (switched.contains(&rule), reasons.contains_key(&rule)) {
            (true, false) | (false, true) => {}
            (false, false) => panic!("{rule} has neither a switch nor a reason why it has none"),
            (true, true) => panic!("{rule} has a switch: its reason for having none is out of date"),
        }
    }
    for (rule, (word, folder)) in reasons {
        let sources = sources(&folder);
        assert!(sources.len() > 20, "{rule}: {folder} is where the code is");
        for (path, text) in sources {
            let found =
                text.split(|c: char| !c.is_alphanumeric()).any(|found| found.eq_ignore_ascii_case(&word));
            assert!(!found, "{rule} has no switch because there is no {word}; see {}", path.display());
        }
    }
}

#[test]
fn every_fault_of_a_model_is_set_by_one_of_its_tests() {
    let tests: String = sources("tests/model/tests").into_iter().map(|(_, text)| text).collect();
    let mut faults = 0;
    for (path, text) in sources("tests/model/src") {
        let Some(declared) = text.split("pub struct Faults {").nth(1) else { continue };
        let declared = declared.split("\n}").next().unwrap_or_default();
        let fields =
            declared.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(": bool,"));
        for field in fields {
            faults += 1;
            let set = [format!(".{field} = true"), format!(".{field})"), format!(".{field}, ")];
            let set = set.iter().any(|set| tests.contains(set));
            assert!(set, "no test of the models sets {field} of {}", path.display());
        }
    }
    assert!(faults > 25, "the models' faults are found: {faults}");
}
