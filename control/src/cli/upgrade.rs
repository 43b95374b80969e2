//! `palisade node upgrade` and `palisade rack upgrade`: another binary takes a node's place while the rack serves
//! (EF-28, issue 3 item 13).
//!
//! The binary is looked at and the node is asked whether it can go before anything moves. A head gives its volumes
//! to their other heads; then it ends in good order and its supervisor starts the new binary; it comes back behind
//! the others and is refilled. A sled only goes and comes back: heads bear its absence. What went wrong is undone
//! as far as it was done: a head that was taken out of use for this is taken into use again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::ask::{PATIENCE, call, data_dir};
use super::show::say;
use super::watch::now_ms;
use super::{NodeVerb, RackVerb, UpgradeArgs};
use crate::api::events::EventEntry;
use crate::api::moving::Drained;
use crate::api::status::{NodeStatus, Status, VolumeStatus};
use crate::release;

/// How often the rack is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Control planes that may stand for one rack's lease.
const CONTROLS_MAX: usize = 8;

/// What became of a node.
#[derive(Debug, Serialize)]
struct Upgraded {
    node: String,
    binary: String,
    version: String,
    pid_before: u32,
    pid: u32,
    pauses: Vec<Pause>,
}

/// For how long requests of a volume waited, as its heads saw it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pause {
    volume: String,
    pause_us: u64,
    why: String,
}

/// `palisade node …`.
pub(super) fn node(verb: &NodeVerb) -> Result<(), String> {
    let NodeVerb::Upgrade { name, how } = verb;
    let upgrade = Upgrade::new(how)?;
    let done = if name == "control" { upgrade.control()? } else { upgrade.node(name)? };
    show(how, &[done]);
    Ok(())
}

/// `palisade rack …`.
pub(super) fn rack(verb: &RackVerb) -> Result<(), String> {
    let how = match verb {
        RackVerb::Upgrade { how } => how,
        RackVerb::Restored { ask } => return super::ask::restored(ask),
    };
    let upgrade = Upgrade::new(how)?;
    let mut nodes = upgrade.status()?.nodes;
    // Sleds keep to their formats longest, and heads find them in place.
    nodes.sort_by_key(|node| node.role != "sled");
    // Whoever cannot be upgraded is said before any is.
    for name in nodes.iter().map(|node| node.name.as_str()).chain(["control"]) {
        upgrade.ask("node.upgrade", upgrade.order(name, true), PATIENCE)?;
    }
    let mut done = Vec::new();
    for node in &nodes {
        match upgrade.node(&node.name) {
            Ok(upgraded) => {
                upgrade.say(&line(&upgraded));
                done.push(upgraded);
            }
            Err(error) => {
                return Err(format!("{} of {} nodes are upgraded; {error}", done.len(), nodes.len()));
            }
        }
    }
    let control = upgrade.control().map_err(|error| format!("all nodes are upgraded; {error}"))?;
    upgrade.say(&line(&control));
    done.push(control);
    if how.ask.json {
        show(how, &done);
    }
    Ok(())
}

fn show(how: &UpgradeArgs, done: &[Upgraded]) {
    if how.ask.json {
        return say(&format!("{:#}", json!(done)));
    }
    done.iter().for_each(|upgraded| say(&line(upgraded)));
}

fn line(done: &Upgraded) -> String {
    let Upgraded { node, binary, version, pid_before, pid, pauses } = done;
    let mut text = format!("{node} runs {binary} ({version}) as process {pid}, before {pid_before}");
    for Pause { volume, pause_us, why } in pauses {
        let ms = *pause_us as f64 / 1000.0;
        text.push_str(&format!("\nvolume {volume}: paused for {ms:.1} ms: {why}"));
    }
    if pauses.is_empty() {
        text.push_str("\nno volume paused");
    }
    text
}

/// An upgrade under way.
struct Upgrade<'a> {
    how: &'a UpgradeArgs,
    data: PathBuf,
    binary: PathBuf,
    patience: Duration,
}

impl<'a> Upgrade<'a> {
    /// Looks at the binary.
    fn new(how: &'a UpgradeArgs) -> Result<Self, String> {
        let named = match &how.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe().map_err(|error| format!("this program has no path: {error}"))?,
        };
        let binary = std::fs::canonicalize(&named)
            .map_err(|error| format!("{}: {error}; name the new binary with --binary", named.display()))?;
        release::examine(&binary)?;
        let patience = Duration::from_secs(how.timeout.clamp(1, 86_400));
        Ok(Self { how, data: data_dir(how.ask.data_dir.as_deref()), binary, patience })
    }

    fn ask(&self, method: &str, params: Value, patience: Duration) -> Result<Value, String> {
        call(&self.data, method, params, patience)
    }

    fn order(&self, name: &str, check: bool) -> Value {
        json!({ "name": name, "binary": self.binary, "check": check })
    }

    fn status(&self) -> Result<Status, String> {
        let answer = self.ask("rack.status", json!({}), PATIENCE)?;
        serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))
    }

    /// A step for people; with --json only the result is said.
    fn say(&self, text: &str) {
        if !self.how.ask.json {
            say(text);
        }
    }

    /// Upgrades one node.
    fn node(&self, name: &str) -> Result<Upgraded, String> {
        self.ask("node.upgrade", self.order(name, true), PATIENCE)?;
        let before = of(&self.status()?, name)?;
        let begin_ms = now_ms();
        let head = before.role == "head";
        let in_use = head && !matches!(before.state.as_str(), "draining" | "drained" | "leaving");
        let done = if head { self.empty(name).and_then(|()| self.swap(&before)) } else { self.swap(&before) };
        let settled = done.and_then(|now| self.settle(&before).map(|()| now));
        if in_use {
            let resumed = self.ask("head.resume", json!({ "name": name }), PATIENCE);
            if let Err(error) = resumed {
                return Err(match settled {
                    Ok(_) => format!("{name} is upgraded, and still drained: {error}"),
                    Err(first) => format!("{first}; besides, {name} is still drained: {error}"),
                });
            }
        }
        let now = settled?;
        let (pid_before, pid, version) = (before.pid, now.pid, now.version);
        let (node, binary) = (name.to_owned(), self.binary.display().to_string());
        Ok(Upgraded { node, binary, version, pid_before, pid, pauses: self.pauses(begin_ms)? })
    }

    /// Upgrades the control plane: another program in the same process, with the same children. No I/O waits for it.
    /// Under a lease one that stood by may follow meanwhile (EF-24): then it is its turn.
    fn control(&self) -> Result<Upgraded, String> {
        let before = self.status()?;
        let begin_ms = now_ms();
        let mut now = self.succeed(&before)?;
        for _ in 1..CONTROLS_MAX {
            if Path::new(&now.control.binary) == self.binary || now.pid == before.pid {
                break;
            }
            self.say(&format!("control moved to process {}, which is next", now.pid));
            now = self.succeed(&now)?;
        }
        if Path::new(&now.control.binary) != self.binary {
            let runs = &now.control.binary;
            return Err(format!(
                "control did not come up as {}: {runs} runs again; its messages say why",
                self.binary.display()
            ));
        }
        self.until("the nodes to be back at control", || {
            let status = self.status()?;
            let back = |node: &NodeStatus| {
                let known = before.nodes.iter().find(|old| old.name == node.name);
                known.is_none_or(|old| old.pid == node.pid && node.state != "starting" || old.pid == 0)
            };
            Ok(status.nodes.iter().all(back))
        })?;
        let (node, binary) = ("control".to_owned(), now.control.binary.clone());
        let (pid_before, pid, version) = (before.pid, now.pid, now.control.version.clone());
        let pauses = self.pauses(begin_ms)?;
        Ok(Upgraded { node, binary, version, pid_before, pid, pauses })
    }

    /// Has the control plane that serves give its place to the binary, and waits until one serves again.
    fn succeed(&self, before: &Status) -> Result<Status, String> {
        self.ask("node.upgrade", self.order("control", false), PATIENCE + Duration::from_secs(60))?;
        let mut now = Status::default();
        self.until("control to come back", || {
            // Nobody answers while it changes.
            let Ok(found) = self.status() else { return Ok(false) };
            now = found;
            Ok(now.control.began_ms != before.control.began_ms && now.control.state == "serving")
        })?;
        Ok(now)
    }

    /// Moves everything that a head serves to its other heads, and waits until they serve it.
    fn empty(&self, name: &str) -> Result<(), String> {
        let mut why = String::new();
        self.until(&format!("{name} to serve nothing"), || {
            let answer = self.ask("head.drain", json!({ "name": name }), PATIENCE)?;
            let drained: Drained =
                serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
            for volume in &drained.moved {
                self.say(&format!("volume {volume} moves away from {name}"));
            }
            let left = drained.left.first();
            why = left.map_or_else(String::new, |left| format!("volume {}: {}", left.volume, left.why));
            let status = self.status()?;
            let served = status.volumes.iter().filter(|volume| volume.kind != "bare");
            let waits = |volume: &VolumeStatus| volume.primary == name || volume.state == "reconciling";
            Ok(drained.left.is_empty() && !served.into_iter().any(waits))
        })
        .map_err(|error| if why.is_empty() { error } else { format!("{error}: {why}") })
    }

    /// Has the node end and waits until it is back, as whatever.
    fn swap(&self, before: &NodeStatus) -> Result<NodeStatus, String> {
        let name = &before.name;
        self.ask("node.upgrade", self.order(name, false), PATIENCE + Duration::from_secs(60))?;
        self.say(&format!("{name} goes"));
        let mut now = NodeStatus::default();
        self.until(&format!("{name} to come back"), || {
            now = of(&self.status()?, name)?;
            let works = matches!(now.state.as_str(), "ready" | "draining" | "drained" | "leaving");
            Ok(now.pid != 0 && now.pid != before.pid && works)
        })?;
        if Path::new(&now.binary) != self.binary {
            return Err(format!(
                "{name} did not come up as {}: it was rolled back and runs {} ({}) again as process {}; the messages \
                 of `palisade up` say why",
                self.binary.display(),
                now.binary,
                now.version,
                now.pid
            ));
        }
        Ok(now)
    }

    /// Waits until what the node's absence cost is made good: its volumes are whole again.
    fn settle(&self, before: &NodeStatus) -> Result<(), String> {
        let name = &before.name;
        self.until(&format!("the volumes to be whole after {name} came back"), || {
            let status = self.status()?;
            let whole = |volume: &VolumeStatus| {
                let member = volume.primary == *name || volume.secondary == *name;
                let pair = !member || !(volume.joining || volume.peer_away);
                // Claims of a sled that was away are made again; what is being rebuilt for other reasons is not ours.
                let claimed = before.role == "head" || volume.devices_away == 0;
                volume.state == "serving" && pair && claimed
            };
            Ok(status.volumes.iter().filter(|volume| volume.kind != "bare").all(whole))
        })
    }

    /// The pauses since then.
    fn pauses(&self, since_ms: u64) -> Result<Vec<Pause>, String> {
        let answer = self.ask("events", json!({ "volume": null, "since_ms": since_ms }), PATIENCE)?;
        let events: Vec<EventEntry> =
            serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
        Ok(pauses(&events))
    }

    /// Looks again and again until it is so.
    fn until(&self, what: &str, mut so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
        let begin = Instant::now();
        while !so()? {
            if begin.elapsed() >= self.patience {
                return Err(format!("waited {} s in vain for {what}", self.patience.as_secs()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// The pauses among events, volume by volume, longest first.
fn pauses(events: &[EventEntry]) -> Vec<Pause> {
    let pause = |event: &EventEntry| {
        let (volume, why) = (event.volume.clone(), event.why.clone());
        Some(Pause { volume, pause_us: event.pause_us?, why })
    };
    let mut pauses: Vec<Pause> = events.iter().filter_map(pause).collect();
    pauses.sort_by(|a, b| (&a.volume, b.pause_us).cmp(&(&b.volume, a.pause_us)));
    pauses
}

fn of(status: &Status, name: &str) -> Result<NodeStatus, String> {
    let found = status.nodes.iter().find(|node| node.name == name).cloned();
    found.ok_or_else(|| format!("there is no node `{name}`; `palisade status` shows them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_of_each_volume_are_shown_longest_first() {
        let event = |volume: &str, pause_us, why: &str| EventEntry {
            volume: volume.to_owned(),
            pause_us,
            why: why.to_owned(),
            ..EventEntry::default()
        };
        let events = [
            event("b", Some(1500), "it moved"),
            event("b", None, "silence"),
            event("a", Some(7), "it moved"),
            event("b", Some(42_000), "head-1 was away"),
        ];
        let pauses = pauses(&events);
        let pause = |volume: &str, pause_us, why: &str| Pause {
            volume: volume.to_owned(),
            pause_us,
            why: why.to_owned(),
        };
        let expect =
            [pause("a", 7, "it moved"), pause("b", 42_000, "head-1 was away"), pause("b", 1500, "it moved")];
        assert_eq!(pauses, expect);
        let done = Upgraded {
            node: "head-1".to_owned(),
            binary: "/x/palisade".to_owned(),
            version: "1.2.3".to_owned(),
            pid_before: 7,
            pid: 9,
            pauses,
        };
        let text = line(&done);
        assert!(text.starts_with("head-1 runs /x/palisade (1.2.3) as process 9, before 7\n"), "{text}");
        assert!(text.contains("volume b: paused for 42.0 ms: head-1 was away"), "{text}");
    }
}
