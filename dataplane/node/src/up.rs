//! `palisade up`: control and the nodes of this host, in one process or one process each.
//!
//! With `--processes` every node is a child that runs `palisade node`, which `keeper` looks after. Readiness is what control sees: every volume served. SIGINT and SIGTERM stop
//! exports first, then the rest, and exit with 0.

use crate::host::{Host, Upgrade};
use crate::keeper::Keeper;
use crate::successor::{Heritage, succeed};
use palisade_control::agent::{Agent, AgentConfig, NodeHello};
use palisade_control::api::status::Status;
use palisade_control::config::Rack;
use palisade_control::release::{self, SUPERVISED};
use palisade_control::report::Report;
use palisade_control::{Control, ControlError, Standing};
use palisade_protocol::wire::BootId;
use palisade_runtime::entropy::{Entropy, OsEntropy};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long control may take to admit the nodes of a host.
const ADMISSION: Duration = Duration::from_secs(30);
/// How often the state of the rack is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often children are looked after, and a node looks whether it is to go: what waits for them, waits for this.
const WATCH: Duration = Duration::from_millis(20);
/// How often a rack that is not ready says what it waits for.
const NAG: Duration = Duration::from_secs(5);

/// What `up` was asked for.
pub struct UpOptions {
    /// The rack file, as given (children read it again).
    pub file: PathBuf,
    /// The data directory, when not the file's.
    pub data_dir: Option<PathBuf>,
    /// One process per node.
    pub processes: bool,
    /// Where to write the ready lines.
    pub ready_file: Option<PathBuf>,
}

/// Raised by SIGINT or SIGTERM.
pub fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once, for people who have waited long enough.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Runs until stopped.
pub fn up(rack: &Rack, options: &UpOptions) -> ExitCode {
    match run(rack, options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("palisade: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(rack: &Rack, options: &UpOptions) -> Result<bool, Box<dyn std::error::Error>> {
    let stop = stop_flag()?;
    let heritage = Heritage::read();
    remove_ready_file(options)?;
    let control = match (Control::start(rack), &heritage) {
        (Err(error), Some(heritage)) => {
            heritage.give_back(&error.to_string());
            return Err(error.into());
        }
        (control, _) => control?,
    };
    if !wait_for_control(&control, &stop)? {
        return Ok(true);
    }
    let mut nodes = Nodes::start(rack, options, heritage.as_ref())?;
    let mut screen = Screen::default();
    let (mut ready, mut next_nag, mut next_look) = (false, Instant::now() + NAG, Instant::now());
    let healthy = loop {
        if stop.load(Ordering::Acquire) {
            break true;
        }
        if !nodes.watch(options, &control) {
            eprintln!("\npalisade: a reactor ended unexpectedly; see the messages above");
            break false;
        }
        if let Some(binary) = control.take_upgrade() {
            screen.clear();
            drop(control);
            return Err(succeed(&binary, &nodes.handed_over()).into());
        }
        std::thread::sleep(WATCH);
        // Before it is ready its state is the question; afterwards only a terminal asks.
        if ready && !screen.wanted() || Instant::now() < next_look {
            continue;
        }
        next_look = Instant::now() + if ready { Duration::from_secs(1) } else { LOOK };
        let status = control.status();
        if !ready && status.ready {
            ready = true;
            for line in status.ready_lines() {
                println!("{line}");
            }
            write_ready_file(&control, options)?;
        }
        if !ready && Instant::now() >= next_nag {
            next_nag = Instant::now() + NAG;
            for volume in status.volumes.iter().filter(|volume| volume.state != "serving") {
                eprintln!("palisade: waiting for volume {}: {} {}", volume.name, volume.state, volume.why);
            }
        }
        if ready {
            screen.show(&status);
        }
    };
    screen.clear();
    Ok(nodes.stop() && healthy)
}

/// Waits until somebody serves control, in this process or another; false when it is told to stop.
fn wait_for_control(control: &Control, stop: &AtomicBool) -> Result<bool, ControlError> {
    let mut next_nag = Instant::now() + NAG;
    while !stop.load(Ordering::Acquire) {
        let Standing::Waiting(why) = control.standing()? else { return Ok(true) };
        if Instant::now() >= next_nag {
            next_nag = Instant::now() + NAG;
            eprintln!("palisade: waiting for control: {why}");
        }
        std::thread::sleep(LOOK);
    }
    Ok(false)
}

/// `palisade control`: a control plane and no nodes, until stopped.
pub fn control(rack: &Rack) -> ExitCode {
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        let stop = stop_flag()?;
        let control = Control::stand(rack)?;
        let mut said = None;
        while !stop.load(Ordering::Acquire) {
            if let Some(binary) = control.take_upgrade() {
                drop(control);
                return Err(succeed(&binary, &[]).into());
            }
            let standing = control.standing()?;
            if said.as_ref() != Some(&standing) {
                match &standing {
                    Standing::Serving => println!("control of rack {}: serving", rack.name),
                    Standing::Elsewhere => println!("control of rack {}: standing by", rack.name),
                    Standing::Waiting(why) => println!("control of rack {}: waiting: {why}", rack.name),
                }
                said = Some(standing);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("palisade: control: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One of a run before would say that the rack serves.
fn remove_ready_file(options: &UpOptions) -> Result<(), String> {
    let Some(path) = &options.ready_file else { return Ok(()) };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("ready file {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write_ready_file(control: &Control, options: &UpOptions) -> Result<(), String> {
    let Some(path) = &options.ready_file else { return Ok(()) };
    control.write_ready_file(path).map_err(|error| format!("ready file {}: {error}", path.display()))
}

/// Every node of a rack.
pub fn names(rack: &Rack) -> Vec<String> {
    let heads = rack.heads.iter().map(|head| head.name.clone());
    // Sleds first: heads find them when they look.
    rack.sleds.iter().map(|sled| sled.name.clone()).chain(heads).collect()
}

/// Runs nodes of the rack in this process.
pub fn host(rack: &Rack, names: &[String]) -> Result<Host, Box<dyn std::error::Error>> {
    let boots: BTreeMap<String, BootId> =
        names.iter().map(|name| (name.clone(), BootId(OsEntropy.next_u128()))).collect();
    let nodes = names.iter().map(|name| NodeHello { name: name.clone(), boot: boots[name] }).collect();
    let (agent, admission) = Agent::join(AgentConfig { socket: rack.socket(), nodes }, ADMISSION)?;
    Ok(Host::start(rack, agent, admission, &boots)?)
}

/// `palisade node`: one node, until stopped, or until it gives its place to another binary.
pub fn node(rack: &Rack, name: &str) -> ExitCode {
    match run_node(rack, name) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("palisade: node {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_node(rack: &Rack, name: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let all = names(rack);
    if !all.iter().any(|known| known == name) {
        return Err(format!("the rack file has no such node; it has {}", all.join(", ")).into());
    }
    let stop = stop_flag()?;
    if std::env::var_os(SUPERVISED).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    let host = host(rack, &[name.to_owned()])?;
    while !stop.load(Ordering::Acquire) {
        if host.failed() {
            return Err("a reactor ended unexpectedly; the messages above say why".into());
        }
        if let Some(Upgrade { binary, tag }) = host.take_upgrade() {
            let error = leave_for(rack, name, &binary).err();
            let goes = error.is_none();
            host.reporter().send(Report::Upgrading { tag, error });
            if goes {
                // Even when something did not end in order: what is acknowledged is durable, and the other binary
                // recovers as after any end.
                host.stop();
                return Ok(ExitCode::from(release::UPGRADE_CODE));
            }
        }
        std::thread::sleep(WATCH);
    }
    Ok(if host.stop() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at the binary that is to take the node's place, and leaves its path for the supervisor.
fn leave_for(rack: &Rack, name: &str, binary: &str) -> Result<(), String> {
    release::examine(Path::new(binary))?;
    let note = release::next_binary(&rack.data, name);
    std::fs::write(&note, binary).map_err(|error| format!("{}: {error}", note.display()))
}

enum Nodes {
    Here(Host),
    Children(Vec<Keeper>),
}

impl Nodes {
    /// Starts them, or takes them over.
    fn start(
        rack: &Rack,
        options: &UpOptions,
        heritage: Option<&Heritage>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let names: Vec<String> = names(rack);
        if !options.processes {
            return Ok(Self::Here(host(rack, &names)?));
        }
        let patience = Duration::from_millis(rack.timers.trial_ms);
        let keeper = |name: &String| Keeper::new(name, &rack.data, patience);
        let mut keepers: Vec<Keeper> = names.iter().map(keeper).collect();
        if let Some(heritage) = heritage {
            keepers.iter_mut().for_each(|keeper| keeper.take_over(&heritage.nodes));
        }
        Ok(Self::Children(keepers))
    }

    /// For the program that takes this one's place.
    fn handed_over(&self) -> Vec<serde_json::Value> {
        match self {
            Self::Here(_) => Vec::new(),
            Self::Children(keepers) => keepers.iter().map(Keeper::handed_over).collect(),
        }
    }

    /// Looks after the nodes; false when the host process is no good any more.
    fn watch(&mut self, options: &UpOptions, control: &Control) -> bool {
        match self {
            Self::Here(host) => !host.failed(),
            Self::Children(keepers) => {
                let status = keepers.iter().any(Keeper::tries).then(|| control.status());
                keepers.iter_mut().for_each(|keeper| keeper.watch(options, status.as_ref()));
                true
            }
        }
    }

    fn stop(self) -> bool {
        match self {
            Self::Here(host) => host.stop(),
            Self::Children(mut keepers) => {
                // Heads go before the sleds that they write to.
                keepers.reverse();
                keepers.iter_mut().map(Keeper::stop).fold(true, |clean, one| clean & one)
            }
        }
    }
}

/// The live line of a terminal.
#[derive(Default)]
struct Screen {
    last: Option<(Instant, u64, u64)>,
    shown: bool,
}

impl Screen {
    fn wanted(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    fn show(&mut self, status: &Status) {
        if !self.wanted() {
            return;
        }
        let sum = |name: &str| -> u64 {
            status.volumes.iter().filter_map(|volume| volume.counters.get(name)).sum()
        };
        let (now, reads, writes) = (Instant::now(), sum("reads"), sum("writes"));
        let Some((then, old_reads, old_writes)) = self.last else {
            self.last = Some((now, reads, writes));
            return;
        };
        let span = now.duration_since(then).as_secs_f64();
        if span < 1.0 {
            return;
        }
        self.last = Some((now, reads, writes));
        let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / span).round();
        let waiting: u64 = status.volumes.iter().map(|volume| volume.waiting).sum();
        let degraded = status.volumes.iter().filter(|volume| volume.degraded).count();
        let away = status.nodes.iter().filter(|node| node.state != "ready").count();
        print!(
            "\r\x1b[K{} read/s  {} write/s  {waiting} waiting  {degraded} degraded  {away} nodes not ready",
            rate(reads, old_reads),
            rate(writes, old_writes)
        );
        // A terminal that went away ends the show, not the rack.
        let _ = std::io::stdout().flush();
        self.shown = true;
    }

    fn clear(&self) {
        if self.shown {
            println!();
        }
    }
}
