//! Rule and requirement ids in code and documents (P-07, EF-12, OP-30, …) must exist, so that a citation
//! leads somewhere.

use crate::Finding;
use crate::tree::File;

/// Each family with its highest number; numbers start at 1.
pub const FAMILIES: &[(&str, u32)] =
    &[("P", 33), ("EF", 34), ("OP", 30), ("BA", 9), ("CB", 44), ("MA", 28), ("DS", 49)];

/// Checks every id of a file.
pub fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for (family, number) in ids(line) {
            let highest = FAMILIES.iter().find(|(f, _)| *f == family).map_or(0, |(_, n)| *n);
            if number == 0 || number > highest {
                let what =
                    format!("{family}-{number:02} does not exist ({family}-01 to {family}-{highest:02})");
                findings.push(Finding::new(&file.path, i + 1, what));
            }
        }
    }
    findings
}

/// The ids of known families in a line: capital letters, a dash, two digits.
fn ids(line: &str) -> Vec<(&str, u32)> {
    let mut found = Vec::new();
    for (family, _) in FAMILIES {
        for (at, _) in line.match_indices(&format!("{family}-")) {
            let joined = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
            let rest = &line[at + family.len() + 1..];
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let ends = !rest[digits.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
            if !joined && ends && digits.len() == 2 {
                found.push((*family, digits.parse().unwrap_or(0)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_an_id_that_no_rule_has_is_found() {
        let text = "// P-07 and EF-12 hold\n// but P-34 and OP-31 do not, SP-99 and P-123 are none\n";
        let findings = check(&File::sample("a.rs", text));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings.iter().all(|f| f.line == 2));
    }
}
