//! Just enough of Rust's grammar: code without comments and strings, production code without tests,
//! functions with their lengths.

/// The code with comments, strings and character literals replaced by blanks; lines stay where they are.
pub fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        match end {
            Some(end) => {
                out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
                at = end;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment_end(bytes, at)),
        [b'"', ..] => Some(string_end(bytes, at + 1)),
        [b'r' | b'b' | b'c', ..] if !word_before => prefixed_string_end(bytes, at),
        [b'\'', ..] => char_end(bytes, at),
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < bytes.len() {
        match &bytes[i..] {
            [b'/', b'*', ..] => {
                depth += 1;
                i += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut i: usize) -> usize {
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `b'…'`, `c"…"`.
fn prefixed_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let letters = bytes[at..].iter().take(2).take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    let raw = bytes[at..at + letters].contains(&b'r');
    let mut i = at + letters;
    if !raw {
        return match bytes.get(i) {
            Some(b'"') => Some(string_end(bytes, i + 1)),
            Some(b'\'') if bytes[at] == b'b' => char_end(bytes, i),
            _ => None,
        };
    }
    let hashes = bytes[i..].iter().take_while(|&&b| b == b'#').count();
    i += hashes;
    if bytes.get(i) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let found = bytes[i + 1..].windows(close.len()).position(|w| w == close);
    Some(found.map_or(bytes.len(), |p| i + 1 + p + close.len()))
}

/// A character literal, or `None` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at + 1)? {
        b'\\' => {
            let close = bytes[at + 3..].iter().position(|&b| b == b'\'')?;
            Some(at + 3 + close + 1)
        }
        _ => {
            let text = std::str::from_utf8(&bytes[at + 1..(at + 6).min(bytes.len())]);
            let text = match text {
                Ok(text) => text,
                Err(e) => std::str::from_utf8(&bytes[at + 1..at + 1 + e.valid_up_to()]).ok()?,
            };
            let len = text.chars().next()?.len_utf8();
            (bytes.get(at + 1 + len) == Some(&b'\'')).then_some(at + 2 + len)
        }
    }
}

/// For each line whether it belongs to a module that only tests see (`#[cfg(test)] mod … { … }`).
pub fn test_lines(source: &str) -> Vec<bool> {
    let lines: Vec<&str> = source.lines().collect();
    let mut marks = vec![false; lines.len()];
    let mut i = 0;
    while i < lines.len() {
        if is_test_attribute(lines[i]) {
            let module = (i + 1..lines.len()).find(|&j| !lines[j].starts_with("#[")).unwrap_or(i);
            let text = lines[module].trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if text.starts_with("mod ") {
                let end = if text.contains('{') {
                    (module..lines.len()).find(|&j| lines[j] == "}").unwrap_or(lines.len() - 1)
                } else {
                    module
                };
                marks[i..=end].fill(true);
                i = end;
            }
        }
        i += 1;
    }
    marks
}

fn is_test_attribute(line: &str) -> bool {
    line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test")
}

/// How many lines of a file are production code (or its comments).
pub fn production_lines(source: &str) -> usize {
    test_lines(source).iter().filter(|&&test| !test).count()
}

/// The blanked production code: test modules are blank too.
pub fn production_code(source: &str) -> String {
    let tests = test_lines(source);
    let code = blank(source);
    let keep =
        |(i, line): (usize, &str)| if tests.get(i) == Some(&true) { String::new() } else { line.into() };
    code.lines().enumerate().map(keep).collect::<Vec<_>>().join("\n")
}

/// A function: its name, its first line (from 1) and how many lines it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The name.
    pub name: String,
    /// Line of the signature, from 1.
    pub line: usize,
    /// Lines from signature to closing brace.
    pub lines: usize,
}

/// Every function with a body in blanked code.
pub fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = body_start(&code[at..]).filter(|_| !name.is_empty()) else { continue };
        let end = at + open + matching_brace(&code[at + open..]);
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, lines: code[at..end].matches('\n').count() + 1 });
    }
    found
}

/// Offset of the `{` that opens a function's body; `None` for one without a body.
fn body_start(code: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (i, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(i),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(code: &str) -> usize {
    let mut depth = 0;
    for (i, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return i;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lifetimes_kept() {
        let code =
            blank("let a = \"unsafe\"; // unsafe\nfn f<'a>(x: &'a str) -> char { 'u' }\nr#\"unsafe\"#");
        assert!(!code.contains("unsafe"));
        assert!(code.contains("fn f<'a>(x: &'a str)"));
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn escaped_quotes_do_not_end_a_string() {
        let code = blank(r#"let q = '"'; let s = "a\"unsafe"; let e = '\''; done"#);
        assert!(!code.contains("unsafe"), "{code}");
        assert!(code.contains("done"), "{code}");
    }

    #[test]
    fn test_modules_do_not_count_as_production() {
        let source = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(production_lines(source), 2);
        assert!(!production_code(source).contains("fn b"));
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let found = functions("fn a(x: [u8; 3])\nwhere\n{\n if x {}\n}\ntrait T { fn none(); }\n");
        assert_eq!(found, [Function { name: "a".into(), line: 1, lines: 5 }]);
    }
}
