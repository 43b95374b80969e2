//! What documents and scripts point at must exist: configs, relative links, scripts.

use crate::Finding;
use crate::tree::File;
use std::path::Path;

/// Folders whose files are named in running text.
const PREFIXES: &[&str] = &["configs/", "scripts/", "docs/"];

/// Checks every `configs/x.toml`, `scripts/x.sh`, `docs/x.md` and `](relative link)` of a file.
pub fn check(file: &File, root: &Path) -> Vec<Finding> {
    let folder = Path::new(&file.path).parent().unwrap_or_else(|| Path::new(""));
    let mut findings = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for name in named(line) {
            if !root.join(&name).exists() {
                findings.push(Finding::new(&file.path, i + 1, format!("{name} does not exist")));
            }
        }
        for link in links(line).filter(|_| file.path.ends_with(".md")) {
            if !root.join(folder).join(link).exists() {
                findings.push(Finding::new(&file.path, i + 1, format!("the link {link} leads nowhere")));
            }
        }
    }
    findings
}

/// Paths with a known prefix and an ending of a file.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in PREFIXES {
        for (at, _) in line.match_indices(prefix) {
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '}'))
            {
                continue;
            }
            let in_path = |c: &char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
            let path: String = line[at..].chars().take_while(in_path).collect();
            let path = path.trim_end_matches('.');
            if [".toml", ".sh", ".md"].iter().any(|ending| path.ends_with(ending)) {
                found.push(path.to_owned());
            }
        }
    }
    found
}

/// Relative links of a markdown line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter_map(|link| {
        let link = link.split('#').next().unwrap_or_default();
        (!link.is_empty() && !link.contains("://") && !link.starts_with("mailto:")).then_some(link)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::root;

    #[test]
    fn canary_a_config_or_link_that_does_not_exist_is_found() {
        let text =
            "Start `configs/nowhere.toml` and read [this](docs/NOTHING.md), see [the Makefile](Makefile).\n";
        let findings = check(&File::sample("README.md", text), &root());
        assert_eq!(findings.len(), 3, "{findings:?}"); // the document is found as a path and as a link
    }
}
