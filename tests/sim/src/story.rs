//! A readable trace: from the diary of a failing run the faults and roles, the requests that touched what was
//! violated, and the last messages and device commands before.

use crate::diary::Diary;
use palisade_protocol::wire::Time;
use palisade_protocol::wire::limits::SECTOR;
use std::collections::BTreeSet;

/// Lines of the last part.
const LAST: usize = 80;
/// Most lines of each other part.
const PART_MAX: usize = 200;
/// Longest line.
const WIDTH: usize = 170;

type Line = (Time, String);

/// Tells a diary that ended in a violation.
pub fn tell(diary: &Diary, violation: &str) -> String {
    let Diary::Keep(lines) = diary else { return String::new() };
    let mut text = format!("violation: {violation}\n");
    // Heads and the authority repeat themselves; once is enough.
    let mut seen = BTreeSet::new();
    let repeats = |text: &str| text.starts_with("authority grants") || text.contains("<- Assign(");
    let lines: Vec<&Line> =
        lines.iter().filter(|line| !repeats(&line.1) || seen.insert(line.1.as_str())).collect();
    let roles: Vec<&Line> = lines.iter().copied().filter(|line| is_role(&line.1)).collect();
    part(&mut text, "faults and roles", &tail(&roles, PART_MAX));
    let touching = requests(lines.iter().copied(), violation);
    part(&mut text, "requests that touch what is violated", &tail(&touching, PART_MAX));
    let before = lines.iter().position(|line| line.1.starts_with("VIOLATION")).unwrap_or(lines.len());
    let last: Vec<&Line> = lines.iter().copied().take(before).filter(|line| !is_noise(&line.1)).collect();
    part(&mut text, "the last messages and device commands", &tail(&last, LAST));
    text
}

fn tail<'a>(lines: &[&'a Line], most: usize) -> Vec<&'a Line> {
    lines[lines.len().saturating_sub(most)..].to_vec()
}

fn part(text: &mut String, title: &str, lines: &[&Line]) {
    *text += &format!("-- {title} ({} lines)\n", lines.len());
    for (now, line) in lines {
        let ms = now.0.saturating_sub(1_000_000_000) as f64 / 1e6;
        *text += &format!("{ms:>12.6} ms  {}\n", short(line));
    }
}

fn is_role(line: &str) -> bool {
    let events = ["Event(Serving", "Event(Propose", "Event(Demoted", "Event(Recovered", "Event(PeerAway"];
    let marks = ["FAULT", "VIOLATION", "authority ", " DIES", " starts life"];
    events.iter().chain(&marks).any(|mark| line.contains(mark))
}

fn is_noise(line: &str) -> bool {
    ["Heartbeat", "Datagram", "Note("].iter().any(|mark| line.contains(mark))
}

/// The number after the first appearance of a word.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let digits = text.split_once(word)?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Client requests to the sector, or under the tag, that the violation names, with their answers.
fn requests<'a>(lines: impl Iterator<Item = &'a Line>, violation: &str) -> Vec<&'a Line> {
    let sector = number_after(violation, "sector ");
    let partition = number_after(violation, "partition ");
    let tag = number_after(violation, "request ");
    let tag = tag.or_else(|| number_after(violation, "read ")).or_else(|| number_after(violation, "write "));
    let mut tags: Vec<u64> = tag.into_iter().filter(|_| sector.is_none()).collect();
    let mut found = Vec::new();
    for line in lines {
        let Some(own) = number_after(&line.1, "ClientTag(") else { continue };
        if line.1.contains("<- Client(") && sector.is_some_and(|sector| touches(&line.1, sector, partition)) {
            tags.push(own);
        }
        if tags.contains(&own) {
            found.push(line);
        }
    }
    found
}

/// Whether a request covers a sector of a partition.
fn touches(line: &str, sector: u64, partition: Option<u64>) -> bool {
    let Some(offset) = number_after(line, "offset: ") else { return false };
    let len = number_after(line, "len: ").or_else(|| number_after(line, "Buf(")).unwrap_or(0);
    let at = sector * SECTOR as u64;
    let here = partition.is_none_or(|wanted| number_after(line, "PartitionId(") == Some(wanted));
    here && (offset..offset + len).contains(&at)
}

/// A line without what nobody reads: wrappers of numbers, boots, grants, secrets.
fn short(line: &str) -> String {
    let line = drop_fields(&unwrapped(line));
    let line = line
        .replace("Stamp { partition: ", "{ partition: ")
        .replace("Number { epoch: ", "{")
        .replace(", counter: ", ".")
        .replace(" bytes", "B")
        .replace("-> Send(", "sends to ")
        .replace("<- Msg { from: ", "gets from ")
        .replace(", msg: ", ": ")
        .replace("-> Block(BlockCmd ", "device <- ")
        .replace("<- Block(BlockDone ", "device -> ")
        .replace("<- Client(ClientCmd ", "is asked by a client ")
        .replace("-> Answer(ClientDone ", "answers a client ")
        .replace("-> Event", "says ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// `Name(123)` becomes `123`.
fn unwrapped(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find('(') {
        let name = rest[..open].rfind(|c: char| !c.is_alphanumeric()).map_or(0, |at| at + 1);
        let inner = &rest[open + 1..];
        let digits = inner.find(|c: char| !c.is_ascii_digit()).unwrap_or(inner.len());
        if digits > 0 && inner[digits..].starts_with(')') && name < open {
            out += &rest[..name];
            out += &inner[..digits];
            rest = &inner[digits + 1..];
        } else {
            out += &rest[..=open];
            rest = inner;
        }
    }
    out + rest
}

/// Without `boot`, `grant`, `log`, `token` and `key`.
fn drop_fields(line: &str) -> String {
    let mut out = line.to_owned();
    for field in ["boot: ", "grant: ", "log: ", "token: ", "key: "] {
        while let Some(at) = out.find(field) {
            let end = out[at..].find([',', ' ', '}']).map_or(out.len(), |space| at + space);
            let end = out[end + 1..].find([',', '}']).map_or(out.len(), |stop| end + 1 + stop);
            let end = if out[end..].starts_with(", ") { end + 2 } else { end };
            out.replace_range(at..end, "");
        }
    }
    out.replace(", }", " }")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_what_nobody_reads() {
        let line = "2 <- Msg { from: NodeId(1), boot: BootId(3287787243), msg: Replicated { stamp: Stamp { \
                    partition: PartitionId(1), number: Number { epoch: 1, counter: 11 }, grant: GrantId(614) }, \
                    durable: Op(675), credit: 356 } }";
        assert_eq!(
            short(line),
            "2 gets from 1: Replicated { stamp: { partition: 1, number: {1.11 } }, durable: 675, credit: 356 } }"
        );
    }

    #[test]
    fn requests_to_the_sector_of_the_partition_and_their_answers_are_found() {
        let lines: Vec<Line> = [
            "1 <- Client(ClientCmd { tag: ClientTag(4), partition: PartitionId(2), verb: Read { offset: 512, len: 1024 } })",
            "1 <- Client(ClientCmd { tag: ClientTag(5), partition: PartitionId(1), verb: Read { offset: 512, len: 1024 } })",
            "1 -> Answer(ClientDone { tag: ClientTag(5), result: Ok(Done) })",
            "1 -> Answer(ClientDone { tag: ClientTag(4), result: Ok(Done) })",
        ]
        .into_iter()
        .map(|line| (Time(1), line.to_owned()))
        .collect();
        let found = requests(lines.iter(), "at 3: partition 2: NewestWins: sector 2 holds write 7");
        assert_eq!(found.len(), 2);
        assert!(found[1].1.contains("Answer") && found[1].1.contains("ClientTag(4)"));
    }
}
