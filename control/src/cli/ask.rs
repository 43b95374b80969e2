//! The commands that ask a running rack through its socket.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::show::{self, say};
use super::{ApplyArgs, AskArgs, DeviceVerb, HeadVerb, SledVerb, VolumeVerb};
use crate::api::apply::Applied;
use crate::api::client::Client;
use crate::api::members::Replacing;
use crate::api::model::Drill;
use crate::api::moving::{Drained, Moved};
use crate::api::sleds::SledDrained;
use crate::api::status::{DeviceStatus, Status, VolumeStatus};
use crate::config;

/// Longest wait for an ordinary answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// A head for which no other takes the place for so long is not waited for.
const HOPELESS: Duration = Duration::from_secs(5);

/// The data directory that is meant: the one said, the environment's, `data`, or, when nothing runs there,
/// the only one below it in which a rack has its socket (`data/memory`).
pub(super) fn data_dir(said: Option<&Path>) -> PathBuf {
    if let Some(said) = said {
        return said.to_path_buf();
    }
    if let Some(from_environment) = std::env::var_os("PALISADE_DATA") {
        return PathBuf::from(from_environment);
    }
    let default = PathBuf::from("data");
    if default.join("control.sock").exists() {
        return default;
    }
    let entries = std::fs::read_dir(&default).into_iter().flatten().flatten();
    let mut below: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.join("control.sock").exists()).collect();
    if below.len() == 1 { below.remove(0) } else { default }
}

pub(super) fn call(data: &Path, method: &str, params: Value, patience: Duration) -> Result<Value, String> {
    let mut client = Client::connect(&data.join("control.sock")).map_err(|error| error.to_string())?;
    client.call(method, params, patience).map_err(|error| error.to_string())
}

/// Asks, and shows the answer as JSON or by `human`.
fn ask<T: DeserializeOwned>(
    args: &AskArgs,
    method: &str,
    params: Value,
    patience: Duration,
    human: impl FnOnce(&T) -> String,
) -> Result<(), String> {
    let answer = call(&data_dir(args.data_dir.as_deref()), method, params, patience)?;
    if args.json {
        say(&format!("{answer:#}"));
        return Ok(());
    }
    let answer: T = serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
    let text = human(&answer);
    say(text.trim_end());
    Ok(())
}

/// `palisade status`.
pub(super) fn status(args: &AskArgs) -> Result<(), String> {
    ask(args, "rack.status", json!({}), PATIENCE, |status: &Status| show::status(status))
}

/// `palisade volume …`.
pub(super) fn volume(verb: &VolumeVerb) -> Result<(), String> {
    match verb {
        VolumeVerb::Create { name, size, primary, secondary, reserves, ask: args } => {
            let bytes = config::size::parse_size(size).map_err(|error| error.to_string())?;
            let params = json!({
                "name": name, "bytes": bytes, "primary": primary, "secondary": secondary, "reserves": reserves
            });
            ask(args, "volume.create", params, PATIENCE, |volume: &VolumeStatus| volume.line())
        }
        VolumeVerb::List { ask: args } => {
            ask(args, "volume.list", json!({}), PATIENCE, |volumes: &Vec<VolumeStatus>| {
                show::volumes(volumes)
            })
        }
        VolumeVerb::Delete { name, ask: args } => {
            let human = |_: &Value| format!("volume {name} is being deleted; its space comes back by and by");
            ask(args, "volume.delete", json!({ "name": name }), PATIENCE, human)
        }
        VolumeVerb::Failover { name, ask: args } => {
            let human = |moved: &Moved| {
                let Moved { volume, primary, secondary, number } = moved;
                format!("volume {volume}: {primary} serves it under number {number}, {secondary} follows")
            };
            ask(args, "volume.failover", json!({ "name": name }), PATIENCE, human)
        }
        VolumeVerb::Salvage { name, ask: args } => {
            let human = |moved: &Moved| {
                let Moved { volume, primary, number, .. } = moved;
                format!(
                    "volume {volume}: {primary} takes it over under number {number}, from copies on sleds"
                )
            };
            ask(args, "volume.salvage", json!({ "name": name }), PATIENCE, human)
        }
        VolumeVerb::Settle { name, without, accept_loss, ask: args } => {
            settle(args, name, without, *accept_loss)
        }
        VolumeVerb::Replace { name, with, ask: args } => {
            let human = |replacing: &Replacing| show::replacing(replacing);
            ask(args, "volume.replace", json!({ "name": name, "with": with }), PATIENCE, human)
        }
        VolumeVerb::Flush { name, wait, timeout, ask: args } => {
            let params = json!({ "name": name, "wait": wait, "timeout_s": timeout });
            let patience = Duration::from_secs((*timeout).min(86_400)) + PATIENCE;
            let human = |_: &Value| {
                if *wait {
                    format!("volume {name}: everything acknowledged before is on the sleds")
                } else {
                    format!("volume {name} is being flushed")
                }
            };
            ask(args, "volume.flush", params, patience, human)
        }
    }
}

/// `palisade volume settle`.
fn settle(args: &AskArgs, name: &str, without: &[String], accept_loss: bool) -> Result<(), String> {
    let human = |moved: &Moved| {
        let Moved { volume, primary, number, .. } = moved;
        let others = without.join(", ");
        format!("volume {volume} goes on without {others}: {primary} has it, number {number} is its newest")
    };
    let params = json!({ "name": name, "without": without, "accept_loss": accept_loss });
    ask(args, "volume.settle", params, PATIENCE, human)
}

/// `palisade rack restored`.
pub(super) fn restored(args: &AskArgs) -> Result<(), String> {
    ask(args, "rack.restored", json!({}), PATIENCE, |answer: &Value| {
        let volumes = &answer["in_doubt"];
        format!(
            "{volumes} volumes are in doubt until every head has said what it holds; `palisade status` shows which"
        )
    })
}

/// `palisade head …`.
pub(super) fn head(verb: &HeadVerb) -> Result<(), String> {
    match verb {
        HeadVerb::Isolate { name, ask: args } => {
            let human =
                |_: &Value| format!("head {name} isolates: volumes leave it, nothing new is placed on it");
            ask(args, "head.isolate", json!({ "name": name }), PATIENCE, human)
        }
        HeadVerb::Rejoin { name, ask: args } => {
            let human = |_: &Value| format!("head {name} is in use again; volumes stay where they are");
            ask(args, "head.rejoin", json!({ "name": name }), PATIENCE, human)
        }
        HeadVerb::Drain { name, wait, timeout, ask: args } => {
            if *wait {
                wait_head(args, name, Duration::from_secs((*timeout).min(86_400 * 30)))?;
            }
            ask(args, "head.drain", json!({ "name": name }), PATIENCE, |drained: &Drained| {
                show::drained(drained)
            })
        }
        HeadVerb::Resume { name, ask: args } => {
            let human = |_: &Value| format!("head {name} is in use again; volumes stay where they are");
            ask(args, "head.resume", json!({ "name": name }), PATIENCE, human)
        }
    }
}

/// `palisade sled …`.
pub(super) fn sled(verb: &SledVerb) -> Result<(), String> {
    match verb {
        SledVerb::Drain { name, wait, timeout, ask: args } => {
            if *wait {
                wait_drained(args, name, Duration::from_secs((*timeout).min(86_400 * 30)))?;
            }
            let human = |drained: &SledDrained| format!("sled {}: {}", drained.sled, drained.why);
            ask(args, "sled.drain", json!({ "name": name }), PATIENCE, human)
        }
        SledVerb::Resume { name, ask: args } => {
            let human = |_: &Value| format!("sled {name} is in use again");
            ask(args, "sled.resume", json!({ "name": name }), PATIENCE, human)
        }
    }
}

/// Asks again and again until a head is safe to stop.
fn wait_head(args: &AskArgs, name: &str, patience: Duration) -> Result<(), String> {
    let begin = Instant::now();
    let mut hopeless = None;
    loop {
        let data = data_dir(args.data_dir.as_deref());
        let answer = call(&data, "head.drain", json!({ "name": name }), PATIENCE)?;
        let drained: Drained =
            serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
        if drained.safe_to_stop {
            return Ok(());
        }
        let since = *hopeless.get_or_insert_with(Instant::now);
        if !drained.hopeless {
            hopeless = None;
        }
        let why = show::drained(&drained);
        if drained.hopeless && since.elapsed() >= HOPELESS {
            return Err(format!("head {name} cannot be emptied: {}", why.trim_end()));
        }
        if begin.elapsed() >= patience {
            return Err(format!("head {name} is in use still, the draining goes on: {}", why.trim_end()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Asks again and again until a sled is safe to pull.
fn wait_drained(args: &AskArgs, name: &str, patience: Duration) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let data = data_dir(args.data_dir.as_deref());
        let answer = call(&data, "sled.drain", json!({ "name": name }), PATIENCE)?;
        let drained: SledDrained =
            serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
        if drained.safe_to_pull {
            return Ok(());
        }
        if begin.elapsed() >= patience {
            return Err(format!("sled {name} is not empty yet, the draining goes on: {}", drained.why));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// `palisade device …`.
pub(super) fn device(verb: &DeviceVerb) -> Result<(), String> {
    match verb {
        DeviceVerb::List { ask: args } => {
            ask(args, "device.list", json!({}), PATIENCE, |devices: &Vec<DeviceStatus>| {
                show::devices(devices)
            })
        }
        DeviceVerb::Replace { name, force, ask: args } => {
            let params = json!({ "name": name, "force": force });
            ask(args, "device.replace", params, PATIENCE, |_: &Value| {
                format!(
                    "device {name} is given up: what stands in its place is formatted when its node starts next"
                )
            })
        }
        DeviceVerb::Drill { name, drill, ask: args } => {
            let human = |_: &Value| match drill {
                Drill::Clear => format!("device {name}: the drill is over"),
                _ => format!("device {name}: the drill goes on until `palisade device drill {name} clear`"),
            };
            ask(args, "device.drill", json!({ "name": name, "drill": drill }), PATIENCE, human)
        }
    }
}

/// `palisade apply FILE`.
pub(super) fn apply(args: &ApplyArgs) -> Result<(), String> {
    let text = super::check::read(&args.file)?;
    let data = config::parse(&text, args.data_dir.as_deref()).rack.data;
    let answer = call(&data, "rack.apply", json!({ "text": text, "prune": args.prune }), PATIENCE)
        .map_err(|error| format!("{}: {error}", args.file.display()))?;
    if args.json {
        say(&format!("{answer:#}"));
        return Ok(());
    }
    let applied: Applied =
        serde_json::from_value(answer).map_err(|error| format!("unreadable answer: {error}"))?;
    say(show::applied(&applied).trim_end());
    Ok(())
}
