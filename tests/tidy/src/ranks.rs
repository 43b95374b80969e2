//! Inside `protocol` a module may use only modules of lower rank (DESIGN section 4).

use crate::Finding;
use crate::source::production_code;
use crate::tree::File;

/// Modules of the protocol crate with their ranks.
pub const RANKS: &[(&str, u8)] =
    &[("wire", 0), ("fence", 1), ("log", 1), ("fabric", 1), ("export", 1), ("sled", 2), ("head", 2)];

/// Where the ranked modules live.
pub const SOURCE: &str = "dataplane/protocol/src/";

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// Checks one file of the protocol crate.
pub fn check(file: &File) -> Vec<Finding> {
    let Some(inner) = file.path.strip_prefix(SOURCE) else { return Vec::new() };
    if file.is_test() || inner == "lib.rs" {
        return Vec::new();
    }
    let own = inner.split(['/', '.']).next().unwrap_or_default();
    let Some(own_rank) = rank(own) else {
        return vec![Finding::new(&file.path, 0, format!("module {own} has no rank in tests/tidy"))];
    };
    let code = production_code(&file.text);
    let mut findings = Vec::new();
    for (line, module) in uses(&code, depth(inner)) {
        match rank(&module) {
            Some(other) if module != own && other >= own_rank => findings.push(Finding::new(
                &file.path,
                line,
                format!("{own} (rank {own_rank}) must not use {module} (rank {other})"),
            )),
            _ => {}
        }
    }
    findings
}

/// How many `super` lead from a file to the crate root.
fn depth(inner: &str) -> usize {
    let parts = inner.trim_end_matches(".rs").split('/').filter(|p| *p != "mod").count();
    parts.max(1)
}

/// Top-level modules named through `crate::…` or enough `super::`.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let supers = "super::".repeat(depth);
    let mut found = Vec::new();
    for root in ["crate::", supers.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + root.len()..];
            found.extend(first_segments(rest).into_iter().map(|module| (line, module)));
        }
    }
    found
}

/// The first path segments after `crate::`: one, or each of a `{…}` group.
fn first_segments(rest: &str) -> Vec<String> {
    let ident = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    if !rest.starts_with('{') {
        return vec![ident(rest)];
    }
    let mut parts = Vec::new();
    let mut depth = 0;
    let mut start = 1;
    for (i, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (depth == 1 && c == ',') || depth == 0 {
            parts.push(ident(&rest[start..i]));
            start = i + 1;
        }
        if depth == 0 {
            break;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&File::sample(&format!("{SOURCE}{path}"), text)).len()
    }

    #[test]
    fn canary_a_use_of_a_higher_or_equal_rank_is_found() {
        assert_eq!(findings("log/ring.rs", "use crate::head::Head;"), 1);
        assert_eq!(findings("log/ring.rs", "use crate::{wire::Op, fabric::Fabric};"), 1);
        assert_eq!(findings("head/write.rs", "fn f() { super::super::sled::x() }"), 1);
        assert_eq!(findings("wire/ids.rs", "use super::super::fence::Token;"), 1);
    }

    #[test]
    fn lower_ranks_and_test_modules_are_free() {
        assert_eq!(findings("head/write.rs", "use crate::log::Log;\nuse crate::wire::ids::Op;"), 0);
        assert_eq!(findings("log/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::head::Head;\n}\n"), 0);
    }
}
