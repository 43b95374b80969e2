//! The drills of `palisade perf faults`, short: real processes hurt in every way under verified load, and the report of
//! it. The long run (`make faults`) is the same with more rounds; `PALISADE_E2E_FAILOVERS`, `PALISADE_E2E_SLEEP` and
//! `PALISADE_E2E_DRILLS` (1: every drill) lengthen this one. What a host does not allow is skipped, aloud.

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::setting;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(540);

/// Runs some drills; their results, with the report in a folder.
#[track_caller]
fn drill(only: &[&str], out: &Path) -> Value {
    let kills = setting("PALISADE_E2E_FAILOVERS", 2).to_string();
    let stop = setting("PALISADE_E2E_SLEEP", 1).to_string();
    let out = out.display().to_string();
    let mut args = vec!["perf", "faults", "--json", "--calm", "0.5", "--depth", "16", "--out", &out];
    args.extend(["--kills", &kills, "--stops", &stop]);
    if setting("PALISADE_E2E_DRILLS", 0) == 0 {
        only.iter().for_each(|name| args.extend(["--only", name]));
    }
    let ended = run(palisade(), &args, LIMIT).good();
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("no JSON: {e}\n{}", ended.out))
}

/// Every drill that this host allows had its fault, and its clients saw nothing wrong.
#[track_caller]
fn all_well(found: &Value, drills: usize) {
    let rows = found["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), drills, "{found:#}");
    for row in rows {
        let trouble = row["trouble"].as_str().expect("words");
        if trouble.starts_with("skipped") {
            eprintln!("{}: {trouble}", row["name"]);
            continue;
        }
        assert_eq!((trouble, &row["errors"], &row["wrong"]), ("", &0.into(), &0.into()), "{row:#}");
        assert!(row["compared"].as_u64() > Some(100), "{row:#}");
    }
}

fn row<'f>(found: &'f Value, name: &str) -> &'f Value {
    let mut rows = found["rows"].as_array().expect("rows").iter();
    rows.find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {found:#}"))
}

/// What was told of the first time, one line each.
fn told(row: &Value) -> Vec<&str> {
    row["events"].as_array().into_iter().flatten().filter_map(|event| event[1].as_str()).collect()
}

#[test]
fn issue3_12_killed_processes_are_survived_under_verified_load_and_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let drills = ["kill-primary", "kill-secondary", "kill-sled", "kill-control"];
    let found = drill(&drills, dir.path());
    all_well(&found, drills.len());
    let killed = row(&found, "kill-primary");
    assert!(
        told(killed)
            .iter()
            .any(|what| what.contains("(were head-1, head-2)") && what.contains("head-2 proposed it")),
        "{killed:#}"
    );
    let report = std::fs::read_to_string(dir.path().join("FAULTS.md")).expect("a report");
    for name in drills {
        assert!(report.contains(&format!("({name}) | ")), "{report}");
        let image = std::fs::read_to_string(dir.path().join("faults").join(format!("{name}.svg")));
        assert!(image.expect("an image").contains("class=\"fault\""), "{name}");
    }
}

#[test]
fn ef17_a_stopped_primary_is_followed_demotes_itself_and_events_tell_the_story() {
    let dir = tempfile::tempdir().expect("a directory");
    let found = drill(&["stop-primary"], dir.path());
    all_well(&found, 1);
    let row = row(&found, "stop-primary");
    let story = told(row);
    let moved = story.iter().position(|what| what.contains("heads head-2 (were head-1, head-2)"));
    let back = story.iter().position(|what| what.contains("heads head-2, head-1 (were head-2)"));
    assert!(moved.is_some() && moved < back, "it was followed, then taken back: {row:#}");
    let notes = row["notes"].to_string();
    assert!(
        notes.contains("late writes refused at the sleds") && notes.contains("the same process follows"),
        "{notes}"
    );
}

/// Column writes of the stopped primary are on their way; sleds refuse what arrives after the take-over, and both
/// clients compare every block.
#[test]
fn ef17_late_column_writes_of_a_stopped_primary_are_refused_and_no_block_differs() {
    let dir = tempfile::tempdir().expect("a directory");
    let found = drill(&["late-writes"], dir.path());
    all_well(&found, 1);
    let row = row(&found, "late-writes");
    let compared = row["compared"].as_u64().unwrap_or(0);
    assert!(row["wrong"] == 0 && compared > 0, "{row:#}");
    let notes = row["notes"].to_string();
    assert!(notes.contains("late writes of the old primary refused at the sleds"), "{notes}");
}

#[test]
fn issue3_12_cut_links_rot_and_full_disks_are_survived_under_verified_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let drills = ["cut-network", "cut-to-primary", "corrupt-sled", "full-sled"];
    all_well(&drill(&drills, dir.path()), drills.len());
}

#[test]
fn issue3_12_fio_and_qemu_io_are_started_again_at_the_next_address_and_find_nothing_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let found = drill(&["fio", "qemu-io"], dir.path());
    all_well(&found, 2);
}
