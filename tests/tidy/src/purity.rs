//! `protocol` has no clock, socket, thread, file or randomness (DESIGN section 4), so that the simulator
//! runs what ships and the same seed gives the same run.

use crate::Finding;
use crate::ranks::SOURCE;
use crate::source::production_code;
use crate::tree::File;

/// Names that reach the outside world, with what to use instead.
const BANNED: &[(&str, &str)] = &[
    ("std::time::Instant", "time is an argument (wire::effect::Time)"),
    ("Instant::now", "time is an argument (wire::effect::Time)"),
    ("SystemTime", "time is an argument (wire::effect::Time)"),
    ("std::net", "messages are effects (wire::effect::Out::net)"),
    ("std::os", "the operating system is a driver's business"),
    ("std::fs", "block commands are effects (wire::effect::Out::block)"),
    ("std::io::", "block commands and messages are effects"),
    ("std::env", "configuration is an argument"),
    ("std::process", "configuration is an argument"),
    ("std::thread", "machines have one owner and no threads"),
    ("std::sync::Mutex", "machines have one owner"),
    ("std::sync::RwLock", "machines have one owner"),
    ("thread_local!", "state belongs to its machine"),
    ("getrandom", "secrets are arguments"),
    ("RandomState", "maps iterate differently each run; use BTreeMap or a fixed hasher"),
    ("DefaultHasher", "use a fixed hasher"),
    ("HashMap::new(", "randomly seeded; use BTreeMap or a fixed hasher"),
    ("HashSet::new(", "randomly seeded; use BTreeSet or a fixed hasher"),
    ("HashMap::with_capacity(", "randomly seeded; use BTreeMap or a fixed hasher"),
    ("HashSet::with_capacity(", "randomly seeded; use BTreeSet or a fixed hasher"),
    ("println!", "what people want to know is an Event"),
    ("eprintln!", "what people want to know is an Event"),
];

/// Checks one file of the protocol crate.
pub fn check(file: &File) -> Vec<Finding> {
    if !file.path.starts_with(SOURCE) || file.is_test() {
        return Vec::new();
    }
    let code = production_code(&file.text);
    let mut findings = Vec::new();
    for (i, line) in code.lines().enumerate() {
        for (name, instead) in BANNED {
            let hit = line.match_indices(name).any(|(at, _)| !line[..at].ends_with(word));
            if hit {
                findings.push(Finding::new(&file.path, i + 1, format!("{name} is not pure: {instead}")));
            }
        }
        for (map, parameters) in [("HashMap<", 3), ("HashSet<", 2)] {
            if line.match_indices(map).any(|(at, _)| arguments(&line[at + map.len()..]) < parameters) {
                let what = format!("{map}…> without a fixed hasher iterates differently each run");
                findings.push(Finding::new(&file.path, i + 1, what));
            }
        }
    }
    findings
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Number of type arguments up to the closing `>`.
fn arguments(rest: &str) -> usize {
    let (mut depth, mut count) = (0i32, 1);
    for c in rest.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if depth == 0 => return count,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => count += 1,
            _ => {}
        }
    }
    usize::MAX // continues on the next line; the constructor is what gives it away then
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        check(&File::sample("dataplane/protocol/src/log/x.rs", text)).len()
    }

    #[test]
    fn canary_clocks_sockets_threads_and_random_maps_are_found() {
        assert_eq!(findings("let t = Instant::now();"), 1);
        assert_eq!(findings("use std::net::UdpSocket;"), 1);
        assert_eq!(findings("use std::thread;"), 1);
        assert_eq!(findings("struct S { m: HashMap<u8, Vec<u8>> }"), 1);
        assert_eq!(findings("let m = HashMap::new();"), 1);
    }

    #[test]
    fn fixed_hashers_comments_and_tests_are_free() {
        assert_eq!(findings("type M = HashMap<u8, (u8, u8), Fixed>; // not std::net"), 0);
        assert_eq!(findings("#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n"), 0);
    }
}
