//! What happened, for people: which roles moved, when, why and under which number, and what nodes said beside
//! that. Groups that came into force are kept in the store, the newest [`EVENTS_KEPT`] of them, written in
//! the transaction of their grant; what nodes say is kept in memory and ends with control.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::authority::{Authority, Changes, EVENTS_KEPT, EventRecord, Move, Record};

/// Words of nodes that are kept.
const SAID_MAX: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventEntry {
    /// Seconds since 1970.
    pub time: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Node, or `control`.
    pub node: String,
    /// Whether it needs attention.
    pub warning: bool,
    /// What.
    pub what: String,
    /// The volume that it is about; empty when it is about none.
    pub volume: String,
    /// Its number; empty when no group came into force.
    pub number: String,
    /// Heads before, primary first.
    pub from: Vec<String>,
    /// Heads now, primary first.
    pub to: Vec<String>,
    /// Why the group changed, or requests waited.
    pub why: String,
    /// For how long no request of the volume was answered, in microseconds, when that is what happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Everything that is kept.
#[derive(Default)]
pub(super) struct Events {
    /// Of the store, oldest first.
    kept: VecDeque<EventRecord>,
    /// Of this life of control, oldest first.
    said: VecDeque<EventEntry>,
}

impl Events {
    /// Takes up what a store kept.
    pub(super) fn load<'r>(&mut self, records: impl Iterator<Item = &'r Record>) {
        let events = records.filter_map(|record| match record {
            Record::Event(event) => Some(event.clone()),
            _ => None,
        });
        self.kept = events.collect();
        self.kept.make_contiguous().sort_by_key(|event| event.seq);
    }

    /// Records of the groups that changes bring into force, for the same transaction.
    pub(super) fn records(&self, authority: &Authority, changes: &Changes) -> Vec<EventRecord> {
        let first = self.kept.back().map_or(0, |event| event.seq + 1);
        let numbered = (first..).zip(&changes.moves);
        numbered.map(|(seq, moved)| EventRecord { seq, event: entry(authority, moved, now_ms()) }).collect()
    }

    /// They are durable.
    pub(super) fn keep(&mut self, records: Vec<EventRecord>) {
        for record in records {
            tracing::info!(volume = record.event.volume, "{}", record.event.what);
            self.kept.push_back(record);
        }
        let excess = self.kept.len().saturating_sub(EVENTS_KEPT as usize);
        self.kept.drain(..excess);
    }

    /// A node or control says something.
    pub(super) fn say(&mut self, node: &str, volume: String, warning: bool, what: String) {
        if warning {
            tracing::warn!(node, "{what}");
        } else {
            tracing::info!(node, "{what}");
        }
        if self.said.len() >= SAID_MAX {
            self.said.pop_front();
        }
        let time_ms = now_ms();
        let (time, node) = (time_ms / 1000, node.to_owned());
        self.said.push_back(EventEntry {
            time,
            time_ms,
            node,
            warning,
            what,
            volume,
            ..EventEntry::default()
        });
    }

    /// The requests of a volume waited while roles moved or a head was away.
    pub(super) fn paused(&mut self, node: &str, volume: String, pause: (u64, String), what: String) {
        self.say(node, volume, false, what);
        if let Some(event) = self.said.back_mut() {
            (event.pause_us, event.why) = (Some(pause.0), pause.1);
        }
    }

    /// What was said lately, oldest first.
    pub(super) fn said(&self) -> Vec<EventEntry> {
        self.said.iter().cloned().collect()
    }

    /// Everything, oldest first; of one volume if it is named.
    pub(super) fn all(&self, volume: Option<&str>) -> Vec<EventEntry> {
        let kept = self.kept.iter().map(|record| &record.event);
        let wanted = |event: &&EventEntry| volume.is_none_or(|volume| event.volume == volume);
        let mut all: Vec<EventEntry> = kept.chain(&self.said).filter(wanted).cloned().collect();
        all.sort_by_key(|event| event.time_ms);
        all
    }
}

fn entry(authority: &Authority, moved: &Move, time_ms: u64) -> EventEntry {
    let volume = authority.volume(moved.partition).map_or_else(String::new, |volume| volume.name.clone());
    let names = |heads: &[_]| -> Vec<String> { heads.iter().map(|head| authority.name_of(*head)).collect() };
    let (from, to) = (names(&moved.from), names(&moved.to));
    let group = |heads: &[String]| if heads.is_empty() { "none".to_owned() } else { heads.join(", ") };
    let what = format!(
        "volume {volume}: heads {} (were {}) under number {}: {}",
        group(&to),
        group(&from),
        moved.number,
        moved.why
    );
    EventEntry {
        time: time_ms / 1000,
        time_ms,
        node: "control".to_owned(),
        warning: false,
        what,
        volume,
        number: moved.number.to_string(),
        from,
        to,
        why: moved.why.clone(),
        pause_us: None,
    }
}
