//! Dependencies are declared once, in the root manifest, each with a line that says why; and there is
//! exactly one binary, so that `cargo run` needs no name.

use crate::Finding;
use crate::imports::dependencies;
use crate::tree::File;

/// At most this many dependencies share one comment line (a crate and its derive, say).
const SHARE_MAX: usize = 2;

/// Checks the root manifest: a reason above each outside dependency.
pub fn check_root(manifest: &File) -> Vec<Finding> {
    let lines: Vec<&str> = manifest.text.lines().collect();
    let mut findings = Vec::new();
    for (line, name) in dependencies(&manifest.text, &["[workspace.dependencies]"]) {
        if lines[line - 1].contains("path =") {
            continue;
        }
        let above = lines[..line - 1].iter().rev().take(SHARE_MAX);
        if !above.into_iter().any(|l| l.trim_start().starts_with("# ")) {
            findings.push(Finding::new(&manifest.path, line, format!("{name} has no line that says why")));
        }
    }
    findings
}

/// Checks a crate's manifest: versions come from the workspace (a crate may take itself for its tests).
pub fn check_member(manifest: &File) -> Vec<Finding> {
    let lines: Vec<&str> = manifest.text.lines().collect();
    let sections = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];
    dependencies(&manifest.text, &sections)
        .into_iter()
        .filter(|(line, _)| {
            !["workspace = true", "path = \".\""].iter().any(|ok| lines[line - 1].contains(ok))
        })
        .map(|(line, name)| {
            Finding::new(&manifest.path, line, format!("{name} must come from the workspace"))
        })
        .collect()
}

/// Checks that the sources make exactly one binary.
pub fn check_binaries(manifests: &[File], sources: &[File]) -> Vec<Finding> {
    let declared =
        manifests.iter().flat_map(|m| m.text.lines().filter(|l| l.trim() == "[[bin]]").map(|_| &m.path));
    let mut places: Vec<String> = declared.cloned().collect();
    for file in sources {
        let crate_dir = file.path.trim_end_matches("src/main.rs");
        let implied = file.path.ends_with("src/main.rs") && !places.iter().any(|p| p.starts_with(crate_dir));
        if implied || file.path.contains("/src/bin/") {
            places.push(file.path.clone());
        }
    }
    if places.len() == 1 {
        return Vec::new();
    }
    vec![Finding::new("Cargo.toml", 0, format!("{} binaries, wanted one: {places:?}", places.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_a_dependency_without_a_reason_is_found() {
        let text =
            "[workspace.dependencies]\n# Why.\na = \"1\"\nb = \"1\"\nc = \"1\"\np = { path = \"p\" }\n";
        let findings = check_root(&File::sample("Cargo.toml", text));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.starts_with("c "));
    }

    #[test]
    fn canary_a_version_outside_the_workspace_is_found() {
        let text = "[dependencies]\na.workspace = true\nb = \"1\"\n";
        assert_eq!(check_member(&File::sample("x/Cargo.toml", text)).len(), 1);
    }

    #[test]
    fn canary_a_second_binary_is_found() {
        let manifests = [File::sample("n/Cargo.toml", "[[bin]]\nname = \"palisade\"\n")];
        assert!(check_binaries(&manifests, &[File::sample("n/src/main.rs", "")]).is_empty());
        assert_eq!(check_binaries(&manifests, &[File::sample("m/src/main.rs", "")]).len(), 1);
    }
}
