//! The table of canaries in docs/PROOF.md against the code: a switch that no test sets, and a rule of the
//! issue without a switch, are defects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rules that must have a switch.
const SCOPE: [u32; 25] =
    [1, 3, 4, 6, 7, 8, 9, 10, 12, 13, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 27, 28, 29, 31, 32];

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

#[test]
fn every_rule_in_scope_has_a_switch() {
    let rules: BTreeSet<String> = table().into_values().map(|(rule, _)| rule).collect();
    let lacking: Vec<u32> =
        SCOPE.into_iter().filter(|rule| !rules.contains(&format!("P-{rule:02}"))).collect();
    assert!(lacking.is_empty(), "rules without a switch: {lacking:?}");
}
