//! The methods of the socket, each with its parameters as a type: what does not fit is refused before
//! anything is touched.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use palisade_protocol::wire::{NodeId, Number, PartitionId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::core::{Connected, Core};
use super::model::{Admission, AdmittedDevice, AdmittedNode, Command, Drill, NodeHello};
use super::rpc::{self, RpcError};
use super::server::Link;
use super::upgrade::{CONTROL, Program};
use crate::authority::VolumeRecord;
use crate::config;
use crate::identity::{Identity, Medium};
use crate::report::{NodeReport, PartitionReport, Report};

/// Most nodes of one process.
const NODES_MAX: usize = 1024;
/// Longest wait for a node to take up a drill.
const DRILL_PATIENCE: Duration = Duration::from_secs(5);

/// An answer at once, or one that another process has to give first.
pub(super) enum Outcome {
    Now(Value),
    Later(Promise),
}

/// What a node will answer under a tag: nothing, or why not.
pub(super) struct Promise {
    pub(super) tag: u64,
    pub(super) answer: Receiver<Option<String>>,
    pub(super) patience: Duration,
    /// The result when all went well.
    pub(super) good: Value,
    /// What to say when no answer came in time.
    pub(super) late: &'static str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyParams {
    text: String,
    #[serde(default)]
    prune: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: String,
    bytes: u64,
    primary: Option<String>,
    secondary: Option<String>,
    #[serde(default)]
    reserves: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameParams {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberParams {
    name: String,
    with: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsParams {
    volume: Option<String>,
    /// Milliseconds since 1970: only what happened then or later.
    #[serde(default)]
    since_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlushParams {
    name: String,
    #[serde(default)]
    wait: bool,
    #[serde(default = "flush_patience_s")]
    timeout_s: u64,
}

fn flush_patience_s() -> u64 {
    600
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplaceParams {
    name: String,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrillParams {
    name: String,
    drill: Drill,
}

/// What a newer node says beyond that is not for us.
#[derive(Deserialize)]
struct RegisterParams {
    pid: u32,
    nodes: Vec<NodeHello>,
    #[serde(flatten)]
    program: Program,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpgradeParams {
    name: String,
    binary: String,
    /// Only say whether it could be.
    #[serde(default)]
    check: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecideParams {
    device: String,
    medium: Medium,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormattedParams {
    device: String,
    id: Identity,
}

fn parse<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    let params = if params.is_null() { json!({}) } else { params };
    serde_json::from_value(params).map_err(|error| RpcError::new(rpc::PARAMS, error.to_string()))
}

fn refused(error: impl std::fmt::Display) -> RpcError {
    RpcError::refused(error.to_string())
}

/// Carries out one request.
pub(super) fn call(core: &mut Core, link: &Link, method: &str, params: Value) -> Result<Outcome, RpcError> {
    if let Some(node) = core.nodes.values_mut().find(|node| node.link == link.id) {
        node.heard = Instant::now();
    }
    let value = match method {
        "rack.version" => Ok(json!({ "api": super::API_VERSION, "build": env!("CARGO_PKG_VERSION") })),
        "rack.status" => Core::json(&core.status()),
        "rack.apply" => apply(core, parse(params)?),
        "volume.list" => Core::json(&core.status().volumes),
        "volume.create" => create(core, parse(params)?),
        "volume.delete" => delete(core, &parse::<NameParams>(params)?.name),
        "volume.flush" => return flush(core, &parse(params)?),
        "volume.failover" => Core::json(&core.failover(&parse::<NameParams>(params)?.name, "planned")?),
        "volume.salvage" => Core::json(&core.salvage(&parse::<NameParams>(params)?.name)?),
        "volume.settle" => Core::json(&core.settle(&parse(params)?)?),
        "rack.restored" => core.restored(),
        "volume.replace" => {
            let MemberParams { name, with } = parse(params)?;
            Core::json(&core.replace_member(&name, with.as_deref())?)
        }
        "head.isolate" => core.isolate(&parse::<NameParams>(params)?.name, super::isolating::BY_HAND),
        "head.rejoin" => core.isolate(&parse::<NameParams>(params)?.name, ""),
        "volume.query" => core.query(&parse::<NameParams>(params)?.name),
        "head.drain" => Core::json(&core.drain(&parse::<NameParams>(params)?.name)?),
        "sled.drain" => Core::json(&core.drain_sled(&parse::<NameParams>(params)?.name)?),
        "sled.resume" => core.resume_sled(&parse::<NameParams>(params)?.name),
        "head.resume" => core.resume(&parse::<NameParams>(params)?.name),
        "events" => {
            let EventsParams { volume, since_ms } = parse(params)?;
            let mut events = core.events.all(volume.as_deref());
            events.retain(|event| event.time_ms >= since_ms);
            Core::json(&events)
        }
        "device.list" => Core::json(&core.status().devices),
        "device.replace" => replace(core, &parse(params)?),
        "device.drill" => return drill(core, parse(params)?),
        "device.decide" => decide(core, link, &parse(params)?),
        "device.formatted" => formatted(core, link, &parse(params)?),
        "node.upgrade" => return upgrade(core, parse(params)?),
        "node.register" => register(core, link, parse(params)?),
        "node.report" => report(core, link, parse(params)?).map(|()| Value::Null),
        "node.leave" => {
            core.leave(link.id);
            Ok(Value::Null)
        }
        "node.ping" => {
            heard(core, link);
            Ok(Value::Null)
        }
        _ => Err(RpcError::new(rpc::METHOD, format!("no method `{method}`"))),
    };
    value.map(Outcome::Now)
}

fn upgrade(core: &mut Core, params: UpgradeParams) -> Result<Outcome, RpcError> {
    let UpgradeParams { name, binary, check } = params;
    if name == CONTROL && core.authority.node_by_name(CONTROL).is_none() {
        core.can_succeed(&binary)?;
        let done = if check { Ok(json!({ "upgradable": name })) } else { core.succeed(&binary) };
        return done.map(Outcome::Now);
    }
    if check {
        core.upgradable(&name, &binary)?;
        return Ok(Outcome::Now(json!({ "upgradable": name })));
    }
    core.upgrade(&name, binary).map(Outcome::Later)
}

fn apply(core: &mut Core, params: ApplyParams) -> Result<Value, RpcError> {
    let parsed = config::parse(&params.text, Some(&core.rack.data));
    let findings = crate::check::file(&parsed);
    if let Some(finding) = findings.iter().find(|finding| finding.severity == config::Severity::Error) {
        let place =
            finding.place.map_or_else(String::new, |place| format!("{}:{}: ", place.line, place.column));
        return Err(refused(format!("{place}{} ({})", finding.what, finding.remedy)));
    }
    if parsed.rack.name != core.rack.name {
        return Err(refused(format!(
            "this is rack `{}`, the file describes `{}`",
            core.rack.name, parsed.rack.name
        )));
    }
    Core::json(&core.apply(parsed.rack, params.prune)?)
}

fn create(core: &mut Core, params: CreateParams) -> Result<Value, RpcError> {
    let CreateParams { name, bytes, primary, secondary, reserves } = params;
    let request = core.volume_request(name, bytes, primary, secondary, reserves)?;
    if core.rack.volume(&request.name).is_some_and(|volume| volume.members().is_empty()) {
        return Err(refused(format!("a bare volume `{}` exists already", request.name)));
    }
    core.check_logs(&request)?;
    let changes = core.authority.create_volume(&request).map_err(refused)?;
    core.carry_out(&changes)?;
    let volume = core.status().volumes.into_iter().find(|volume| volume.name == request.name);
    Core::json(&volume)
}

fn delete(core: &mut Core, name: &str) -> Result<Value, RpcError> {
    let changes =
        core.authority.delete_volume(name).map_err(|error| RpcError::not_found(error.to_string()))?;
    core.carry_out(&changes)?;
    Ok(json!({ "deleting": name }))
}

fn flush(core: &mut Core, params: &FlushParams) -> Result<Outcome, RpcError> {
    let volume = core.authority.volume_by_name(&params.name).ok_or_else(|| {
        RpcError::not_found(format!(
            "there is no replicated volume `{}`; `palisade volume list` shows them",
            params.name
        ))
    })?;
    let (node, partition) = (volume.current_primary(), volume.partition());
    let tag = core.next_tag;
    core.next_tag += 1;
    if !core.send(node, &Command::Flush { node, partition, tag }) {
        return Err(refused(format!("the primary of `{}` is away", params.name)));
    }
    if !params.wait {
        return Ok(Outcome::Now(json!({ "flushing": params.name })));
    }
    let (sender, answer) = sync_channel(1);
    core.promises.insert(tag, sender);
    Ok(Outcome::Later(Promise {
        tag,
        answer,
        patience: Duration::from_secs(params.timeout_s.min(86_400)),
        good: json!({ "flushed": true }),
        late: "the flush did not end in time; it goes on",
    }))
}

/// Makes a device of the running rack fail, or ends that. Only where the rack file allows it.
fn drill(core: &mut Core, params: DrillParams) -> Result<Outcome, RpcError> {
    if !core.rack.drills {
        return Err(refused(
            "drills are off in this rack: set `drills = true` under [rack] and start it again",
        ));
    }
    let DrillParams { name, drill } = params;
    let record = core.authority.devices().find(|record| record.name == name);
    let record = record.ok_or_else(|| {
        RpcError::not_found(format!("there is no device `{name}`; `palisade device list` shows them"))
    })?;
    let (node, tag) = (record.node, core.next_tag);
    core.next_tag += 1;
    let (sender, answer) = sync_channel(1);
    core.promises.insert(tag, sender);
    if !core.send(node, &Command::Drill { node, device: name.clone(), drill, tag }) {
        core.promises.remove(&tag);
        return Err(refused(format!("the node of device `{name}` is away")));
    }
    core.event("control", true, format!("drill of device {name}: {drill:?}"));
    Ok(Outcome::Later(Promise {
        tag,
        answer,
        patience: DRILL_PATIENCE,
        good: json!({ "device": name, "drill": drill }),
        late: "the node of the device did not answer in time",
    }))
}

fn replace(core: &mut Core, params: &ReplaceParams) -> Result<Value, RpcError> {
    core.spare_copies(&params.name)?;
    let changes = core.authority.replace_device(&params.name, params.force).map_err(refused)?;
    core.carry_out(&changes)?;
    core.event("control", true, format!("device {} was given up, its place may be formatted", params.name));
    Ok(json!({ "replacing": params.name, "takes_effect": "when its node starts again" }))
}

/// The node of a device, if it belongs to this connection.
fn own_device(core: &Core, link: &Link, device: &str) -> Result<NodeId, RpcError> {
    let record = core.authority.devices().find(|record| record.name == device);
    let record = record.ok_or_else(|| RpcError::not_found(format!("there is no device `{device}`")))?;
    let own = core.nodes.get(&record.node.0).is_some_and(|node| node.link == link.id);
    if own { Ok(record.node) } else { Err(refused(format!("`{device}` is not of a node of this process"))) }
}

fn decide(core: &mut Core, link: &Link, params: &DecideParams) -> Result<Value, RpcError> {
    own_device(core, link, &params.device)?;
    let fresh = core.fresh_identity()?;
    let (decision, changes) =
        core.authority.decide_device(&params.device, &params.medium, fresh).map_err(refused)?;
    core.carry_out(&changes)?;
    if let crate::identity::Decision::Missing { why } | crate::identity::Decision::Refuse { why } = &decision
    {
        core.event(&params.device, true, why.clone());
    }
    Core::json(&decision)
}

fn formatted(core: &mut Core, link: &Link, params: &FormattedParams) -> Result<Value, RpcError> {
    own_device(core, link, &params.device)?;
    let changes = core.authority.device_formatted(&params.device, params.id).map_err(refused)?;
    core.carry_out(&changes)?;
    Ok(Value::Null)
}

fn register(core: &mut Core, link: &Link, params: RegisterParams) -> Result<Value, RpcError> {
    if params.nodes.len() > NODES_MAX {
        return Err(refused("too many nodes for one process"));
    }
    for hello in &params.nodes {
        let node = core.authority.node_by_name(&hello.name);
        let node =
            node.ok_or_else(|| RpcError::not_found(format!("the rack has no node `{}`", hello.name)))?;
        let other = core.nodes.get(&node.node.0).filter(|other| other.link != link.id);
        if let Some(other) = other.filter(|other| other.boot != hello.boot) {
            return Err(refused(format!("{} runs already, as process {}", hello.name, other.pid)));
        }
    }
    let mut nodes = Vec::new();
    for hello in &params.nodes {
        let Some(record) = core.authority.node_by_name(&hello.name) else { continue };
        let (node, role) = (record.node, record.role);
        let own = core.authority.devices().filter(|device| device.node == node);
        let devices = own
            .map(|device| AdmittedDevice { name: device.name.clone(), known: device.known.clone() })
            .collect();
        let partitions = core.authority.partitions_of(node);
        nodes.push(AdmittedNode { name: hello.name.clone(), node, role, devices, partitions });
        let report = NodeReport { name: hello.name.clone(), ..NodeReport::default() };
        let connected = Connected {
            link: link.id,
            pid: params.pid,
            boot: hello.boot,
            outbox: link.outbox.clone(),
            program: params.program.clone(),
            report,
            heard: Instant::now(),
        };
        core.nodes.insert(node.0, connected);
        core.event(&hello.name, false, format!("process {} joined", params.pid));
    }
    Core::json(&Admission { rack: core.authority.rack(), nodes, roster: core.roster() })
}

fn heard(core: &mut Core, link: &Link) {
    for node in core.nodes.values_mut().filter(|node| node.link == link.id) {
        node.heard = Instant::now();
    }
}

fn report(core: &mut Core, link: &Link, report: Report) -> Result<(), RpcError> {
    heard(core, link);
    let own = |core: &Core, node: NodeId| {
        let found = core.nodes.get(&node.0).filter(|connected| connected.link == link.id);
        found
            .map(|connected| connected.boot)
            .ok_or_else(|| refused(format!("node {node} is not of this process")))
    };
    match report {
        Report::HeadReady { node, boot, log, held } => {
            if own(core, node)? != boot {
                return Err(refused("another boot than was registered"));
            }
            core.head_ready(node, boot, log, &held)?;
        }
        Report::SledReady { node, .. } | Report::Groups { node, .. } | Report::Records { node, .. } => {
            own(core, node)?;
            core.take_evidence(&report)?;
        }
        Report::Status { nodes } => {
            for report in nodes {
                take_report(core, link, report)?;
            }
            core.look_around()?;
        }
        Report::Event { node, warning, what, partition } => {
            own(core, node)?;
            let volume = partition.and_then(|partition| core.authority.volume(PartitionId(partition)));
            let volume = volume.map_or_else(String::new, |volume| volume.name.clone());
            let name = core.authority.name_of(node);
            let what: String = what.chars().take(1000).collect();
            core.events.say(&name, volume, warning, core.authority.name_devices(&what));
        }
        Report::Propose { node, proposal } => {
            own(core, node)?;
            core.propose(node, &proposal)?;
        }
        Report::Flushed { tag, error }
        | Report::Drilled { tag, error }
        | Report::Upgrading { tag, error } => core.keep_promise(tag, error),
        Report::Role { node, partition, step, at_us } => {
            own(core, node)?;
            core.role_step(node, partition, step, at_us);
        }
        Report::Deleted { node, partition } => {
            own(core, node)?;
            let changes = core.authority.volume_deleted(node, partition);
            core.carry_out(&changes)?;
        }
        Report::Forgotten { node, partition } => {
            own(core, node)?;
            let changes = core.authority.forgotten(node, partition);
            core.carry_out(&changes)?;
        }
    }
    Ok(())
}

fn take_report(core: &mut Core, link: &Link, mut report: NodeReport) -> Result<(), RpcError> {
    for partition in &mut report.partitions {
        partition.stages.retain(|_, histogram| histogram.is_sane());
    }
    report.histograms.retain(|_, histogram| histogram.is_sane());
    let Some(id) = core.authority.node_by_name(&report.name).map(|node| node.node) else { return Ok(()) };
    if core.nodes.get(&id.0).is_none_or(|node| node.link != link.id) {
        return Ok(());
    }
    core.notice_numbers(&report)?;
    let Some(node) = core.nodes.get_mut(&id.0) else { return Ok(()) };
    let serves = |partition: &&PartitionReport| partition.role == "serving" && !partition.peer_away;
    let served: Vec<(u64, Number)> = report
        .partitions
        .iter()
        .filter(serves)
        .map(|report| (report.partition, Number { epoch: report.epoch, counter: report.counter }))
        .collect();
    let own = |said: &&PartitionReport| said.needs_copy == Some(id.0);
    let damaged: Vec<u64> = report.partitions.iter().filter(own).map(|said| said.partition).collect();
    node.report = report;
    for partition in damaged {
        let changes = core.authority.cannot_follow(id, PartitionId(partition));
        core.carry_out(&changes)?;
    }
    for (partition, number) in served {
        let stamp = core.authority.volume(PartitionId(partition)).and_then(VolumeRecord::stamp);
        if let Some(stamp) = stamp.filter(|stamp| stamp.number == number) {
            let changes = core.authority.served(id, stamp);
            core.carry_out(&changes)?;
        }
    }
    core.take_back(id)
}
