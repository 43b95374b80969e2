//! `palisade events`: what happened, and what happens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::EventsArgs;
use super::ask::{PATIENCE, call, data_dir};
use super::show::{self, complain, say};
use crate::api::events::EventEntry;

/// How often a followed rack is asked.
const LOOK: Duration = Duration::from_millis(500);

/// `90s`, `15m`, `2h`, `3d`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time such as 90s, 15m, 2h or 3d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: Option<u64> = plain.then(|| digits.parse().ok()).flatten();
    count.and_then(|count| count.checked_mul(seconds)).map(Duration::from_secs).ok_or_else(wrong)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Shows what happened; with `--follow` until the process is ended.
pub(super) fn events(args: &EventsArgs) -> Result<(), String> {
    let ago = args.since.map_or(u64::MAX, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let first = ask(args, now_ms().saturating_sub(ago))?;
    if !args.follow {
        match args.ask.json {
            true => say(&format!("{:#}", json!(first))),
            false => say(show::events(&first).trim_end()),
        }
        return Ok(());
    }
    let mut shown = Seen::default();
    shown.fresh(first).iter().for_each(|event| line(args, event));
    let mut away = false;
    loop {
        std::thread::sleep(LOOK);
        match ask(args, shown.last_ms) {
            Ok(events) => {
                away = false;
                shown.fresh(events).iter().for_each(|event| line(args, event));
            }
            // Control may start again; it is said once.
            Err(error) if !std::mem::replace(&mut away, true) => complain(&error),
            Err(_) => {}
        }
    }
}

fn line(args: &EventsArgs, event: &EventEntry) {
    match args.ask.json {
        true => say(&json!(event).to_string()),
        false => say(&show::event(event)),
    }
}

fn ask(args: &EventsArgs, since_ms: u64) -> Result<Vec<EventEntry>, String> {
    let params = json!({ "volume": args.volume, "since_ms": since_ms });
    let answer = call(&data_dir(args.ask.data_dir.as_deref()), "events", params, PATIENCE)?;
    serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))
}

/// What was shown: several events may have the same millisecond.
#[derive(Default)]
struct Seen {
    last_ms: u64,
    of_last: Vec<EventEntry>,
}

impl Seen {
    /// Those that were not shown yet, oldest first.
    fn fresh(&mut self, events: Vec<EventEntry>) -> Vec<EventEntry> {
        let mut fresh = Vec::new();
        for event in events {
            if event.time_ms < self.last_ms || self.of_last.contains(&event) {
                continue;
            }
            if event.time_ms > self.last_ms {
                self.last_ms = event.time_ms;
                self.of_last.clear();
            }
            self.of_last.push(event.clone());
            fresh.push(event);
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_nonsense_is_named() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("0s", 0)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "s", "5", "5x", "-5s", "1.5h", "99999999999999999999s", "18446744073709551615d", "5ß"]
        {
            assert!(span(text).is_err_and(|why| why.contains(text)), "{text}");
        }
    }

    #[test]
    fn followed_events_are_shown_once_each_also_those_of_one_millisecond() {
        let event =
            |time_ms, what: &str| EventEntry { time_ms, what: what.to_owned(), ..EventEntry::default() };
        let whats = |events: Vec<EventEntry>| events.into_iter().map(|event| event.what).collect::<Vec<_>>();
        let mut seen = Seen::default();
        assert_eq!(whats(seen.fresh(vec![event(5, "a"), event(7, "b")])), ["a", "b"]);
        assert_eq!(seen.last_ms, 7);
        let again = vec![event(7, "b"), event(7, "c"), event(9, "d")];
        assert_eq!(whats(seen.fresh(again.clone())), ["c", "d"]);
        assert_eq!(whats(seen.fresh(again)), Vec::<String>::new());
    }
}
