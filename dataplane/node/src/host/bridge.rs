//! The thread between control and the reactors: commands become orders, events and pictures become
//! reports. It is never on an I/O path, and may stall or die without stopping one (EF-02).

mod exporting;

use self::exporting::Led;
use super::drills::Drills;
use super::telling::{Valve, describe, describe_path, device_report, partition_of};
use super::wiring::ExportPort;
use crate::bus::CLIENT_RING;
use crate::order::{HeadOrder, Report, SledOrder};
use crate::service::fabric::FabricOrder;
use palisade_control::agent::{
    Agent, Command, Identity, Report as ControlReport, Reporter as ControlReporter, RosterEntry, Severity,
};
use palisade_control::metrics::HistSnapshot;
use palisade_control::report::{NodeReport, NodeState, PathReport};
use palisade_protocol::head::HeadStatus;
use palisade_protocol::sled::{DeviceState, SledStatus};
use palisade_protocol::wire::{
    BootId, ClientCmd, ClientDone, Event, LogId, NodeId, PartitionId, ProposalOutcome,
};
use palisade_runtime::park::{Parker, WaitSet, Waker};
use palisade_runtime::reactor::ReactorStats;
use palisade_runtime::ring::{Receiver, Sender, channel};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often pictures of all services are taken.
const PICTURE_EVERY: Duration = Duration::from_secs(1);
/// How often the agent's channel is looked at; a command and a service's report wake the thread at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The rings towards a head.
pub(super) struct HeadPort {
    pub(super) orders: Sender<HeadOrder>,
    pub(super) export: ExportPort,
    /// Wakes the head's reactor; rings made at run time need it.
    pub(super) waker: Waker,
    /// A log that the head is making: confirmed to control once it was read.
    pub(super) made: Option<(String, LogId)>,
    /// The log is missing or refused: the head cannot serve.
    pub(super) missing: bool,
}

/// The ring towards a node's fabric.
pub(super) struct FabricPort {
    pub(super) orders: Sender<FabricOrder>,
    /// Everybody in the rack.
    pub(super) names: BTreeMap<NodeId, String>,
}

enum Kind {
    Head(Box<HeadPort>),
    Sled { orders: Sender<SledOrder>, devices: Vec<String> },
}

/// A node of this process as the bridge sees it.
pub(super) struct NodePort {
    name: String,
    boot: BootId,
    kind: Kind,
    /// Exported partitions of a head.
    exported: BTreeMap<PartitionId, String>,
    /// Where commands for a head's partitions go: made once each, however often their roles move.
    ways: BTreeMap<PartitionId, Sender<ClientCmd>>,
    /// What a head was told of its partitions' roles.
    led: BTreeMap<PartitionId, Led>,
    /// Said that the head read its log.
    ready: bool,
    /// Its door to other processes, if it has one, and what it said of its networks last.
    pub(super) fabric: Option<FabricPort>,
    paths: Vec<PathReport>,
    picture: Option<NodeReport>,
    /// The last picture that was sent.
    shown: Option<NodeReport>,
}

impl NodePort {
    pub(super) fn head(name: &str, boot: BootId, port: HeadPort) -> Self {
        Self::new(name, boot, Kind::Head(Box::new(port)))
    }

    pub(super) fn sled(name: &str, boot: BootId, orders: Sender<SledOrder>, devices: Vec<String>) -> Self {
        Self::new(name, boot, Kind::Sled { orders, devices })
    }

    fn new(name: &str, boot: BootId, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            boot,
            kind,
            exported: BTreeMap::new(),
            ways: BTreeMap::new(),
            led: BTreeMap::new(),
            ready: false,
            fabric: None,
            paths: Vec::new(),
            picture: None,
            shown: None,
        }
    }

    pub(super) fn export_mut(&mut self) -> Option<&mut ExportPort> {
        match &mut self.kind {
            Kind::Head(port) => Some(&mut port.export),
            Kind::Sled { .. } => None,
        }
    }

    fn ask_picture(&mut self) {
        // A full ring means that the service has enough to do; the next second asks again.
        let _ = match &mut self.kind {
            Kind::Head(port) => port.orders.send(HeadOrder::Status).is_ok(),
            Kind::Sled { orders, .. } => orders.send(SledOrder::Status).is_ok(),
        };
        let _ = self.fabric.as_mut().map(|fabric| fabric.orders.send(FabricOrder::Status).is_ok());
    }
}

/// What the process itself may ask of the bridge (the load generator does).
pub enum Ask {
    /// Another source of commands for a volume of which this process hosts the primary. Without an answer
    /// there is none.
    Attach {
        /// The volume.
        volume: String,
        /// Upper bits of its tags.
        asker: u8,
        /// Where answers go.
        answers: Sender<ClientDone>,
        /// Its partition, and where commands go.
        reply: mpsc::Sender<(PartitionId, Sender<ClientCmd>)>,
    },
    /// Stage histograms of a volume, as of the last second.
    Stages {
        /// The volume.
        volume: String,
        /// One per stage.
        reply: mpsc::Sender<Vec<(String, HistSnapshot)>>,
    },
}

/// The node is to give its place to another binary. Carried out by the process's main thread: looking at a binary
/// takes long.
#[derive(Debug)]
pub struct Upgrade {
    /// Path of the binary.
    pub binary: String,
    /// Names the order in the report.
    pub tag: u64,
}

/// The running bridge.
pub struct Bridge {
    upgrades: mpsc::Receiver<Upgrade>,
    control: ControlReporter,
    asks: mpsc::Sender<Ask>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Bridge {
    /// Starts the thread.
    pub(super) fn start(
        agent: Agent,
        ports: BTreeMap<NodeId, NodePort>,
        drills: Drills,
        reports: Receiver<Report>,
        parker: Parker,
        reactors: Vec<Arc<ReactorStats>>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let waker = parker.waker();
        let asked = Arc::clone(&stop);
        let woken = parker.waker();
        agent.wake_by(move || woken.wake());
        let (asks, asked_for) = mpsc::channel();
        let (upgrade, upgrades) = mpsc::channel();
        let control = agent.reporter();
        let roster = agent.admission().map(|admission| admission.roster).unwrap_or_default();
        let mut state = State {
            asks: asked_for,
            upgrade,
            roster,
            control: agent.reporter(),
            agent,
            ports,
            drills,
            reports,
            reactors,
            next_picture: Instant::now(),
            slow: Valve::default(),
        };
        let thread = std::thread::Builder::new().name("bridge".to_owned()).spawn(move || {
            while !asked.load(Ordering::Acquire) {
                if state.step() {
                    continue;
                }
                parker.announce();
                if state.reports.is_empty() {
                    parker.sleep(WaitSet::default(), Some(LOOK_EVERY));
                } else {
                    parker.retract();
                }
            }
            state.last_reports();
        })?;
        Ok(Self { upgrades, control, asks, stop, waker, thread })
    }

    /// Another binary that is to take the node's place, when control said so.
    pub(super) fn take_upgrade(&self) -> Option<Upgrade> {
        self.upgrades.try_recv().ok()
    }

    /// For what the main thread has to say to control.
    pub(super) fn reporter(&self) -> &ControlReporter {
        &self.control
    }

    /// Asks; the answer comes by the ask's own channel, or never when there is none.
    pub(super) fn ask(&self, ask: Ask) {
        // A bridge that has ended answers nobody.
        let _ = self.asks.send(ask);
        self.waker.wake();
    }

    /// Ends the thread after it passed on what the services said last.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if self.thread.join().is_err() {
            tracing::error!("the bridge thread panicked");
        }
    }
}

struct State {
    upgrade: mpsc::Sender<Upgrade>,
    asks: mpsc::Receiver<Ask>,
    /// Every node of the rack, as control said last.
    roster: Vec<RosterEntry>,
    agent: Agent,
    control: ControlReporter,
    ports: BTreeMap<NodeId, NodePort>,
    drills: Drills,
    reports: Receiver<Report>,
    reactors: Vec<Arc<ReactorStats>>,
    next_picture: Instant,
    slow: Valve,
}

impl State {
    /// One look at everything; whether there was something.
    fn step(&mut self) -> bool {
        let mut busy = false;
        while let Ok(command) = self.agent.commands().try_recv() {
            self.command(command);
            busy = true;
        }
        while let Some(report) = self.reports.pop() {
            self.report(report);
            busy = true;
        }
        while let Ok(ask) = self.asks.try_recv() {
            self.answer(ask);
        }
        if Instant::now() >= self.next_picture {
            self.next_picture = Instant::now() + PICTURE_EVERY;
            self.pictures();
        }
        busy
    }

    fn last_reports(&mut self) {
        while let Some(report) = self.reports.pop() {
            self.report(report);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Assign { node, assignment, paused } => {
                self.assigned(node, &assignment);
                self.order(node, HeadOrder::Pause(assignment.stamp.partition, paused));
                self.order(node, HeadOrder::Assign(assignment));
            }
            Command::Outcome { node, partition, nonce, granted, pair } => {
                let outcome = match (granted, pair) {
                    (true, Some(pair)) => ProposalOutcome::Granted(pair),
                    (_, newest) => ProposalOutcome::Declined { newest },
                };
                self.order(node, HeadOrder::Outcome(partition, nonce, outcome));
            }
            Command::Gone { node, gone, boot } => self.order(node, HeadOrder::Gone(gone, boot)),
            Command::CreatePartition { node, spec } => self.create(node, &spec),
            Command::DeletePartition { node, partition } => {
                self.forget(node, partition);
                self.order(node, HeadOrder::Delete(partition));
            }
            Command::Tell { node, ask } => self.tell(node, ask),
            Command::Forget { node, partition } => self.order(node, HeadOrder::Forget(partition)),
            Command::Isolate { node, severity } => {
                self.order(node, HeadOrder::Isolate(severity.map(Severity::wire)));
            }
            Command::Fill { node, partition, member, follows } => {
                self.order(node, HeadOrder::Fill(partition, member, follows))
            }
            Command::SetDevices { node, partition, devices } => {
                let targets = devices.iter().map(|device| device.target()).collect();
                self.order(node, HeadOrder::Devices(partition, targets));
            }
            Command::Flush { node, partition, tag } => {
                self.order(node, HeadOrder::Flush { partition, token: tag });
            }
            Command::Drill { device, drill, tag, .. } => {
                let error = self.drills.order(&device, drill).err();
                self.control.send(ControlReport::Drilled { tag, error });
            }
            Command::Upgrade { binary, tag, .. } => {
                // Without a main thread the process ends anyway.
                let _ = self.upgrade.send(Upgrade { binary, tag });
            }
            Command::Roster { roster } => {
                self.roster = roster;
                self.tell_groups();
                tracing::info!("the rack's roster changed; new nodes are reached after a restart");
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        let exports = |name: &str, port: &NodePort| {
            port.exported.iter().find(|(_, known)| *known == name).map(|(partition, _)| *partition)
        };
        match ask {
            Ask::Attach { volume, asker, answers, reply } => {
                let found = self.ports.iter().find_map(|(node, port)| {
                    let Kind::Head(head) = &port.kind else { return None };
                    Some((*node, exports(&volume, port)?, head.waker.clone()))
                });
                let Some((node, partition, waker)) = found else { return };
                let (commands, commands_rx) = channel(CLIENT_RING, waker);
                self.order(node, HeadOrder::Asker(asker, answers));
                self.order(node, HeadOrder::Serve(partition, commands_rx));
                // Whoever asked may have given up.
                let _ = reply.send((partition, commands));
            }
            Ask::Stages { volume, reply } => {
                let stages = self.ports.values().find_map(|port| {
                    let partition = exports(&volume, port)?;
                    let picture = port.shown.as_ref()?;
                    let report = picture.partitions.iter().find(|report| report.partition == partition.0)?;
                    Some(report.stages.clone().into_iter().collect())
                });
                let _ = reply.send(stages.unwrap_or_default());
            }
        }
    }

    /// Orders must arrive: a full ring empties within a turn of the reactor.
    fn order(&mut self, node: NodeId, mut order: HeadOrder) {
        let Some(NodePort { kind: Kind::Head(port), .. }) = self.ports.get_mut(&node) else { return };
        while let Err(full) = port.orders.send(order) {
            if port.orders.is_closed() {
                return;
            }
            order = full.0;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Event(node, event) => self.event(node, event),
            Report::Role { node, partition, step, at_us } => {
                self.control.send(ControlReport::Role { node, partition, step, at_us });
            }
            Report::Flushed { token, result } => {
                let error = result.err().map(|error| error.to_string());
                self.control.send(ControlReport::Flushed { tag: token, error });
            }
            Report::Head(status) => self.head_picture(*status),
            Report::Records { node, ask, held } => self.records_shown(node, ask, held),
            Report::Groups { node, log, ask, groups } => self.groups_held(node, log, ask, groups),
            Report::Sled(node, status) => self.sled_picture(node, &status),
            Report::Paths(node, paths) => {
                if let Some(port) = self.ports.get_mut(&node) {
                    port.paths = paths.iter().map(PathReport::from).collect();
                }
            }
            Report::Path { node, peer, path, state, others } => {
                let names = self.ports.get(&node).and_then(|port| port.fabric.as_ref());
                let peer = names.and_then(|fabric| fabric.names.get(&peer)).cloned().unwrap_or_default();
                let (warning, what) = describe_path(&peer, path, state, others);
                self.control.send(ControlReport::Event { node, warning, what, partition: None });
            }
        }
    }

    fn head_picture(&mut self, status: HeadStatus) {
        let Some(port) = self.ports.get_mut(&status.node) else { return };
        port.picture = Some(NodeReport::of_head(&port.name, &status));
        let (Some(log), true, false) = (status.log, status.recovered, port.ready) else { return };
        port.ready = true;
        if let Kind::Head(head) = &mut port.kind
            && let Some((device, id)) = head.made.take()
            && let Err(error) = self.agent.formatted(&device, Identity(id.0))
        {
            tracing::warn!(device, %error, "control was not told that the log was made; the next boot is");
        }
        let held = status.partitions.iter().map(|partition| partition.stamp).collect();
        self.control.send(ControlReport::HeadReady { node: status.node, boot: port.boot, log, held });
    }

    fn sled_picture(&mut self, node: NodeId, status: &SledStatus) {
        let Some(port) = self.ports.get_mut(&node) else { return };
        let Kind::Sled { devices, .. } = &port.kind else { return };
        let reading = status.devices.iter().any(|device| device.state == DeviceState::Recovering);
        let mut reports: Vec<_> = status.devices.iter().zip(devices).map(device_report).collect();
        for report in &mut reports {
            report.counters.extend(self.drills.hits(&report.name).map(|hits| ("drilled".to_owned(), hits)));
        }
        let state = if reading { NodeState::Starting } else { NodeState::Ready };
        let mut picture = NodeReport { name: port.name.clone(), state, ..NodeReport::default() };
        picture.devices = reports;
        picture.counters.insert("misaddressed".to_owned(), status.misaddressed);
        port.picture = Some(picture);
        if !reading && !std::mem::replace(&mut port.ready, true) {
            self.control.send(ControlReport::SledReady { node, boot: port.boot });
        }
    }

    fn event(&mut self, node: NodeId, event: Event) {
        if let Event::Demoted { partition, number } = event {
            self.demoted(node, partition, number);
        }
        let Some(port) = self.ports.get_mut(&node) else { return };
        if let Event::Recovered { .. } = event {
            // Numbers are asked for with the pairs that the log holds (P-04), which the picture shows.
            port.ask_picture();
        }
        if let Event::Deleted { partition } = event {
            self.control.send(ControlReport::Deleted { node, partition });
        }
        if let Event::Forgotten { partition } = event {
            self.control.send(ControlReport::Forgotten { node, partition });
        }
        if let Event::Propose(proposal) = &event {
            // One that finds no room is repeated by the head (P-02).
            self.control.send(ControlReport::Propose { node, proposal: proposal.clone() });
        }
        if matches!(event, Event::SlowIo { .. }) && !self.slow.admit() {
            return;
        }
        let (warning, what) = describe(&event);
        // Control logs it where people look; this is for a node that cannot reach control.
        tracing::debug!(node = port.name, "{what}");
        let partition = partition_of(&event).map(|partition| partition.0);
        self.control.send(ControlReport::Event { node, warning, what, partition });
    }

    /// Sends the pictures of the last second and asks for the next.
    fn pictures(&mut self) {
        for port in self.ports.values_mut() {
            if matches!(&port.kind, Kind::Head(head) if head.missing) {
                port.picture = Some(NodeReport {
                    name: port.name.clone(),
                    state: NodeState::Failed,
                    why: "its log is missing or refused; see the messages of its start".to_owned(),
                    ..NodeReport::default()
                });
            }
        }
        let mut nodes = Vec::new();
        for port in self.ports.values_mut() {
            if let Some(mut picture) = port.picture.take() {
                picture.paths = port.paths.clone();
                port.shown = Some(picture.clone());
                nodes.push(picture);
            }
        }
        if let Some(first) = nodes.first_mut() {
            for (index, stats) in self.reactors.iter().enumerate() {
                first.histograms.insert(format!("turn_{index}"), HistSnapshot::of(&stats.turn_times()));
            }
        }
        if !nodes.is_empty() {
            self.control.send(ControlReport::Status { nodes });
        }
        for port in self.ports.values_mut() {
            port.ask_picture();
        }
    }
}
