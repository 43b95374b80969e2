//! `docs/PROOF.md`: every line of the issue and every rule in scope with what shows it. Here: the named
//! tests and make targets exist.
//!
//! Rows have the form `| id | what | proof |`. In the proof cell, things in back-ticks are checked:
//! `path/to/file.rs::test_name` and `path/to/dir::test_name` (a test of that name in that file or
//! directory), `crate::module::test_name` (a test of that name anywhere), `make target`. A cell that says
//! `open` has no proof yet.

use crate::Finding;
use crate::tree::File;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line, from 1.
    pub line: usize,
    /// The first cell.
    pub id: String,
    /// The last cell.
    pub proof: String,
}

/// Rows of all tables, without heads and rulers.
pub fn rows(text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let ruler = line.contains("---");
        if !line.starts_with('|') || ruler || cells.len() < 3 || cells[0] == "id" {
            continue;
        }
        let proof = cells[cells.len() - 1].to_owned();
        rows.push(Row { line: i + 1, id: cells[0].to_owned(), proof });
    }
    rows
}

/// The rows without a proof.
pub fn open(text: &str) -> Vec<Row> {
    rows(text).into_iter().filter(|row| row.proof == "open" || row.proof.starts_with("open:")).collect()
}

/// Checks every name in the proof cells against the sources and the Makefile.
pub fn check(proof: &File, sources: &[File], makefile: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for row in rows(&proof.text) {
        if row.proof.is_empty() {
            findings.push(Finding::new(&proof.path, row.line, format!("{}: no proof; say open", row.id)));
        }
        for name in row.proof.split('`').skip(1).step_by(2) {
            if let Some(what) = missing(name, sources, makefile) {
                findings.push(Finding::new(&proof.path, row.line, format!("{}: {what}", row.id)));
            }
        }
    }
    findings
}

/// What does not exist of a name in back-ticks.
fn missing(name: &str, sources: &[File], makefile: &str) -> Option<String> {
    if let Some(target) = name.strip_prefix("make ") {
        let target = target.split_whitespace().next().unwrap_or_default();
        let there = makefile.lines().any(|l| l.starts_with(&format!("{target}:")));
        return (!there).then(|| format!("the Makefile has no target {target}"));
    }
    let (place, test) = name.rsplit_once("::").filter(|_| !name.contains(' '))?;
    let in_place = |file: &&File| {
        !place.contains('/')
            || file.path == place
            || file.path.starts_with(&format!("{}/", place.trim_end_matches('/')))
    };
    let there = sources.iter().filter(in_place).any(|file| has_test(&file.text, test));
    (!there).then(|| format!("no test `{test}` in {place}"))
}

/// Whether a file defines a test function of that name, or makes it by a macro of its own: the file has a
/// macro that expands to `#[test] fn $test()`, and calls one with the name as its first argument.
pub fn has_test(text: &str, name: &str) -> bool {
    if text.contains("fn $test()") {
        let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if packed.contains("#[test]fn$test()") && packed.contains(&format!("!({name},")) {
            return true;
        }
    }
    let signature = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_attribute = |line: &str| line.starts_with("#[") || line.starts_with("//");
    (0..lines.len()).any(|i| {
        lines[i].starts_with(&signature)
            && lines[..i].iter().rev().take_while(|l| is_attribute(l)).any(|l| l.contains("test]"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| id | what | proof |\n|---|---|---|\n| P-01 | numbers | `a/src/x.rs::numbers_rise` |\n\
        | P-02 | later | open |\n| 1.4 | build | `make nothing` |\n";

    #[test]
    fn canary_a_test_or_target_that_does_not_exist_is_found() {
        let proof = File::sample("docs/PROOF.md", TABLE);
        let sources = [File::sample("a/src/x.rs", "#[test]\nfn numbers_fall() {}\nfn numbers_rise() {}\n")];
        let findings = check(&proof, &sources, "test:\n");
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(open(TABLE).len(), 1);
    }

    #[test]
    fn a_test_that_a_macro_makes_is_found_by_its_first_argument() {
        let text = "macro_rules! one {\n ($test:ident, $x:expr) => {\n #[test]\n fn $test() {}\n };\n}\n\
            one!(\n    numbers_rise,\n    1\n);\n";
        assert!(has_test(text, "numbers_rise"));
        assert!(!has_test(text, "numbers"));
        assert!(!has_test("one!(numbers_rise, 1);", "numbers_rise"));
    }

    #[test]
    fn a_test_in_its_place_is_accepted() {
        let proof = File::sample("docs/PROOF.md", TABLE);
        let sources = [File::sample("a/src/x.rs", "    #[test]\n    // why\n    fn numbers_rise() {\n")];
        assert!(check(&proof, &sources, "nothing: x\n").is_empty());
    }
}
