//! Which crate may depend on which: the arrows of DESIGN section 4 as a table.

use crate::Finding;
use crate::tree::File;

/// Crate and the crates of this workspace that it may depend on, outermost last.
pub const ALLOWED: &[(&str, &[&str])] = &[
    ("palisade-dma", &[]),
    ("palisade-isal", &[]),
    ("palisade-udp", &[]),
    ("palisade-uring", &["palisade-dma"]),
    ("palisade-vfio", &["palisade-dma"]),
    ("palisade-protocol", &["palisade-dma", "palisade-isal"]),
    (
        "palisade-runtime",
        &["palisade-dma", "palisade-isal", "palisade-udp", "palisade-uring", "palisade-vfio"],
    ),
    ("palisade-control", &["palisade-protocol"]),
    ("palisade-perf", &["palisade-dma", "palisade-isal", "palisade-protocol", "palisade-runtime"]),
    (
        "palisade-node",
        &[
            "palisade-control",
            "palisade-dma",
            "palisade-isal",
            "palisade-perf",
            "palisade-protocol",
            "palisade-runtime",
        ],
    ),
    (
        "palisade-sim",
        &[
            "palisade-control",
            "palisade-dma",
            "palisade-isal",
            "palisade-node",
            "palisade-protocol",
            "palisade-runtime",
        ],
    ),
    ("palisade-model", &["palisade-control", "palisade-dma", "palisade-isal", "palisade-protocol"]),
    ("palisade-nvme-model", &["palisade-dma", "palisade-runtime"]),
    ("palisade-guest", &["palisade-dma", "palisade-runtime"]),
    ("palisade-tidy", &[]),
    ("palisade-e2e", &["palisade-perf"]),
];

/// Checks one crate's manifest against the table.
pub fn check(manifest: &File) -> Vec<Finding> {
    let Some(name) = field(&manifest.text, "name") else { return Vec::new() };
    let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
        return vec![Finding::new(&manifest.path, 1, format!("crate {name} is not in the import table"))];
    };
    let mut findings = Vec::new();
    for (line, dependency) in dependencies(&manifest.text, &["[dependencies]", "[build-dependencies]"]) {
        if dependency.starts_with("palisade-") && !allowed.contains(&dependency.as_str()) {
            findings.push(Finding::new(&manifest.path, line, format!("{name} must not import {dependency}")));
        }
    }
    findings
}

/// The value of a `key = "value"` line.
pub fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|l| l.split('=').next().is_some_and(|k| k.trim() == key))?;
    Some(line.split('"').nth(1)?.to_owned())
}

/// The dependencies of the given sections with their lines.
pub fn dependencies(text: &str, sections: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = sections.contains(&line);
        } else if inside && line.contains('=') && !line.starts_with('#') {
            let name = line.split(['=', '.']).next().unwrap_or_default().trim();
            found.push((i + 1, name.trim_matches('"').to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_an_import_against_the_arrows_is_found() {
        let text =
            "[package]\nname = \"palisade-protocol\"\n[dependencies]\npalisade-runtime.workspace = true\n";
        let findings = check(&File::sample("dataplane/protocol/Cargo.toml", text));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 4);
    }

    #[test]
    fn canary_an_unknown_crate_is_found() {
        let text = "[package]\nname = \"palisade-base\"\n";
        assert_eq!(check(&File::sample("base/Cargo.toml", text)).len(), 1);
    }
}
