//! `unsafe` lives in `ffi/` only, and every crate carries the workspace's lints that say so.

use crate::Finding;
use crate::source::blank;
use crate::tree::File;

/// Checks one Rust file outside `ffi/` for the keyword.
pub fn check(file: &File) -> Vec<Finding> {
    if file.path.starts_with("ffi/") {
        return Vec::new();
    }
    let code = blank(&file.text);
    let mut findings = Vec::new();
    for (i, line) in code.lines().enumerate() {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        if words.contains(&"unsafe") {
            findings.push(Finding::new(&file.path, i + 1, "unsafe outside ffi/"));
        }
        let allows = line.contains("allow(") || line.contains("expect(") || line.contains("warn(");
        if words.contains(&"unsafe_code") && allows {
            findings.push(Finding::new(&file.path, i + 1, "unsafe_code is denied outside ffi/"));
        }
    }
    findings
}

/// Checks that a crate's manifest takes the workspace's lints.
pub fn check_manifest(manifest: &File) -> Vec<Finding> {
    let is_crate = manifest.text.contains("[package]");
    let has_lints = manifest.text.contains("[lints]\nworkspace = true");
    if is_crate && !has_lints {
        return vec![Finding::new(
            &manifest.path,
            1,
            "no [lints] workspace = true: unsafe_code is not denied",
        )];
    }
    Vec::new()
}

/// Checks that the workspace denies `unsafe_code`.
pub fn check_root(manifest: &File) -> Vec<Finding> {
    if manifest.text.lines().any(|l| l.trim() == "unsafe_code = \"deny\"") {
        return Vec::new();
    }
    vec![Finding::new(&manifest.path, 1, "the workspace lints must hold: unsafe_code = \"deny\"")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_unsafe_outside_ffi_is_found() {
        let text = "#![allow(unsafe_code)]\nfn f() { unsafe { g() } }";
        assert_eq!(check(&File::sample("control/src/lib.rs", text)).len(), 2);
        assert!(check(&File::sample("ffi/dma/src/lib.rs", text)).is_empty());
    }

    #[test]
    fn canary_a_crate_without_lints_is_found() {
        assert_eq!(check_manifest(&File::sample("x/Cargo.toml", "[package]\nname = \"x\"\n")).len(), 1);
        assert_eq!(check_root(&File::sample("Cargo.toml", "[workspace]\n")).len(), 1);
    }
}
