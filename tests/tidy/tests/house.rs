//! The house rules over the whole repository. A failure lists every place, one a line.

use palisade_tidy::tree::{File, files, root};
use palisade_tidy::{
    Finding, deps, expect_none, heads, ids, imports, proof, purity, ranks, refs, sizes, unsafety, words,
};

fn over<T>(files: &[File], check: impl Fn(&File) -> Vec<T>) -> Vec<T> {
    files.iter().flat_map(check).collect()
}

fn root_manifest() -> File {
    let all = files(&["Cargo.toml"]);
    all.into_iter().find(|f| f.path == "Cargo.toml").expect("a root manifest")
}

fn member_manifests() -> Vec<File> {
    files(&["Cargo.toml"]).into_iter().filter(|f| f.text.contains("[package]")).collect()
}

#[test]
fn crates_import_only_along_the_arrows() {
    expect_none(&over(&member_manifests(), imports::check));
}

#[test]
fn protocol_modules_use_only_lower_ranks() {
    expect_none(&over(&files(&["rs"]), ranks::check));
}

#[test]
fn protocol_is_pure() {
    expect_none(&over(&files(&["rs"]), purity::check));
}

#[test]
fn unsafe_lives_in_ffi_only() {
    let mut findings = over(&files(&["rs"]), unsafety::check);
    findings.extend(over(&member_manifests(), unsafety::check_manifest));
    findings.extend(unsafety::check_root(&root_manifest()));
    expect_none(&findings);
}

#[test]
fn files_are_short_enough_to_read() {
    expect_none(&over(&files(&["rs"]), sizes::check));
}

#[test]
fn functions_are_short_enough_to_read() {
    expect_none(&over(&files(&["rs"]), sizes::long_functions));
}

#[test]
fn every_test_named_in_proof_exists() {
    let documents = files(&["PROOF.md"]);
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let sources = files(&["rs"]);
    let mut findings = Vec::new();
    for document in &documents {
        findings.extend(proof::check(document, &sources, &makefile));
        let open = proof::open(&document.text);
        println!("{}: {} rows, {} open", document.path, proof::rows(&document.text).len(), open.len());
        assert!(!proof::rows(&document.text).is_empty(), "{} has no rows that parse", document.path);
    }
    expect_none(&findings);
}

#[test]
fn no_word_that_does_not_belong_here() {
    let texts = files(&["rs", "md", "toml", "sh", "Makefile", "yml"]);
    expect_none(&over(&texts, words::check));
}

#[test]
fn every_dependency_has_its_reason_and_there_is_one_binary() {
    let members = member_manifests();
    let mut findings = deps::check_root(&root_manifest());
    findings.extend(over(&members, deps::check_member));
    findings.extend(deps::check_binaries(&members, &files(&["rs"])));
    expect_none(&findings);
}

#[test]
fn every_file_says_what_it_is_and_every_test_asserts() {
    let sources = files(&["rs"]);
    let mut findings: Vec<Finding> = over(&sources, heads::check);
    findings.extend(over(&sources, heads::check_tests_assert));
    expect_none(&findings);
}

/// Files with these endings, without the checkers' own samples of what is wrong.
fn without_samples(endings: &[&str]) -> Vec<File> {
    files(endings).into_iter().filter(|f| !f.path.starts_with("tests/tidy/src/")).collect()
}

#[test]
fn every_cited_rule_exists() {
    expect_none(&over(&without_samples(&["rs", "md", "toml"]), ids::check));
}

#[test]
fn what_documents_point_at_exists() {
    expect_none(&over(&without_samples(&["md", "sh", "Makefile", "rs"]), |file| refs::check(file, &root())));
}
