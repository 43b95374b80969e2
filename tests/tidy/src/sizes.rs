//! Sizes: files of at most 500 production lines (a reason on the first line lifts that to 800, where files of
//! tests end too), and functions of at most 60.

use crate::Finding;
use crate::source::{functions, production_code, production_lines};
use crate::tree::File;

/// Production lines that need no reason.
pub const LINES_FREE: usize = 500;
/// Production lines that no reason excuses.
pub const LINES_MAX: usize = 800;
/// Lines of a production function (the aim is 40). It may be lowered, never raised.
pub const FUNCTION_LINES: usize = 60;

/// Checks one file's length.
pub fn check(file: &File) -> Vec<Finding> {
    let lines = if file.is_test() { file.text.lines().count() } else { production_lines(&file.text) };
    let first = file.text.lines().next().unwrap_or_default();
    let reason = first.contains("SIZE:");
    if lines > LINES_MAX {
        return vec![Finding::new(
            &file.path,
            1,
            format!("{lines} production lines; never above {LINES_MAX}"),
        )];
    }
    if lines > LINES_FREE && !reason && !file.is_test() {
        let what =
            format!("{lines} production lines; above {LINES_FREE} the first line says why (`// SIZE: …`)");
        return vec![Finding::new(&file.path, 1, what)];
    }
    Vec::new()
}

/// The production functions of a file that are longer than [`FUNCTION_LINES`].
pub fn long_functions(file: &File) -> Vec<Finding> {
    if file.is_test() {
        return Vec::new();
    }
    functions(&production_code(&file.text))
        .into_iter()
        .filter(|f| f.lines > FUNCTION_LINES)
        .map(|f| {
            Finding::new(
                &file.path,
                f.line,
                format!("fn {} has {} lines; at most {FUNCTION_LINES}", f.name, f.lines),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_a_long_file_is_found_and_a_reason_lifts_the_first_limit_only() {
        let long = |first: &str, lines: usize| {
            File::sample("a/src/b.rs", &format!("{first}\n{}", "x;\n".repeat(lines)))
        };
        assert!(check(&long("//! b", 490)).is_empty());
        assert_eq!(check(&long("//! b", 510)).len(), 1);
        assert!(check(&long("// SIZE: one table", 510)).is_empty());
        assert_eq!(check(&long("// SIZE: one table", 810)).len(), 1);
    }

    #[test]
    fn canary_a_long_function_is_found() {
        let text = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(90));
        assert_eq!(long_functions(&File::sample("a/src/b.rs", &text)).len(), 1);
    }
}
