//! Words that do not belong into the tree: notes to self, debug prints, paths of one machine, and talk
//! about how the text came to be.

use crate::Finding;
use crate::tree::File;

/// Found anywhere in a text file.
const BANNED: &[&str] = &[
    "TODO",
    "FIXME",
    "XXX",
    "dbg!(",
    "todo!(",
    "unimplemented!(",
    "/home/",
    "/root/",
    "/tmp/wt",
    "/work/main",
    "/work/shared",
    "as an AI",
    "AI assistant",
    "language model",
    "Claude",
    "ChatGPT",
    "Anthropic",
    "OpenAI",
    "this session",
    "this conversation",
    "system prompt",
    "the brief",
];

/// This file names the words in order to ban them.
const SELF: &str = "tests/tidy/src/words.rs";

/// Checks one text file.
pub fn check(file: &File) -> Vec<Finding> {
    if file.path == SELF {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for word in BANNED {
            let letters = word.ends_with(char::is_alphabetic);
            let hit = line.match_indices(word).any(|(at, _)| {
                let runs_on = letters && line[at + word.len()..].starts_with(char::is_alphabetic);
                !line[..at].ends_with(char::is_alphanumeric) && !runs_on
            });
            if hit {
                findings.push(Finding::new(&file.path, i + 1, format!("`{word}` does not belong here")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_a_note_to_self_and_a_machine_path_are_found() {
        let text = "// TODO later\nlet p = \"/home/me/x\";\nlet x = dbg!(y);\n// METHODOLOGY XXXL\n";
        let lines: Vec<usize> = check(&File::sample("a.rs", text)).iter().map(|f| f.line).collect();
        assert_eq!(lines, [1, 2, 3]);
    }
}
