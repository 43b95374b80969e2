//! Every Rust file opens with `//!`: what it is, why it exists, what it does not do. Every test asserts.

use crate::Finding;
use crate::source::{Function, blank, functions};
use crate::tree::File;

/// Checks the first line (after an optional `// SIZE:` reason).
pub fn check(file: &File) -> Vec<Finding> {
    let mut lines = file.text.lines().filter(|l| !l.starts_with("// SIZE:") && !l.trim().is_empty());
    match lines.next() {
        Some(line) if line.starts_with("//! ") && line.len() > 12 => Vec::new(),
        _ => vec![Finding::new(&file.path, 1, "a file opens with `//!`: what it is and why")],
    }
}

/// Words of which one shows that a function can fail.
const SAYS: [&str; 9] =
    ["assert", "expect", "panic!", "check", "unwrap", "should_panic", "verify", "must", "loom"];

/// Checks that each test function asserts something, itself or through a function of the same file.
pub fn check_tests_assert(file: &File) -> Vec<Finding> {
    let code = blank(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let all = functions(&code);
    let body = |function: &Function| lines[function.line - 1..function.line - 1 + function.lines].join("\n");
    let says = |text: &str| SAYS.iter().any(|word| text.contains(word));
    let asserting: Vec<String> =
        all.iter().filter(|f| says(&body(f))).map(|f| format!("{}(", f.name)).collect();
    let mut findings = Vec::new();
    for function in &all {
        let mut above =
            lines[..function.line - 1].iter().rev().take_while(|l| l.trim_start().starts_with("#["));
        if !above.any(|l| l.trim() == "#[test]") {
            continue;
        }
        let body = body(function);
        if !says(&body) && !asserting.iter().any(|call| body.contains(call.as_str())) {
            let what = format!("test {} asserts nothing", function.name);
            findings.push(Finding::new(&file.path, function.line, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_a_file_without_a_head_is_found() {
        assert_eq!(check(&File::sample("a.rs", "use std::fmt;\n")).len(), 1);
        assert!(check(&File::sample("a.rs", "// SIZE: one table.\n//! What it is and why.\n")).is_empty());
    }

    #[test]
    fn canary_a_test_without_an_assertion_is_found() {
        let text = "#[test]\nfn nothing() {\n    run();\n}\n#[test]\nfn something() {\n    assert!(x);\n}\n";
        let findings = check_tests_assert(&File::sample("a.rs", text));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("nothing"));
        let helped = "fn round() {\n    assert!(x);\n}\n#[test]\nfn many() {\n    round();\n}\n";
        assert!(check_tests_assert(&File::sample("a.rs", helped)).is_empty());
    }
}
