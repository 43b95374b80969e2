//! From declaration to running services: rings between everything, one reactor per core.

use super::bridge::{Bridge, FabricPort, HeadPort, NodePort};
use super::drills::Drills;
use super::media::{MediaError, Opened, Opener};
use super::running::Host;
use crate::bus::{CLIENT_RING, MAILBOX, Post};
use crate::exports::ExportList;
use crate::order::{HeadOrder, ORDERS, REPORTS, Report, Reporter};
use crate::service::bare::BareVolume;
use crate::service::export::{ExportOrder, ExportParts, ExportService};
use crate::service::fabric::{Addresses, FabricOrder, FabricService};
use crate::service::{HeadRings, HeadService, SledRings, SledService};
use palisade_control::agent::{Admission, AdmittedNode, Agent, RosterEntry};
use palisade_control::config::{self, Failover, HugePages, Idle, NbdAddress, Rack, VolumeKind};
use palisade_dma::Pool;
use palisade_protocol::export::nbd::ExportInfo;
use palisade_protocol::fabric::{self, Fabric};
use palisade_protocol::head::{FailoverConfig, Head, HeadConfig, HeadLog, LogStart};
use palisade_protocol::sled::{DeviceSpec, Sled, SledConfig};
use palisade_protocol::wire::{BootId, ClientDone, DeviceIx, Envelope, NodeId, PartitionId, RackId, Time};
use palisade_runtime::block::BlockPort;
use palisade_runtime::clock::{Clock, MonoClock};
use palisade_runtime::entropy::{Entropy, OsEntropy};
use palisade_runtime::net::datagram::{DatagramPort, UdpPort};
use palisade_runtime::net::stream::Listener;
use palisade_runtime::park::Parker;
use palisade_runtime::reactor::{IdlePolicy, Reactor, ReactorConfig, ReactorHandle};
use palisade_runtime::ring::{Receiver, Sender, channel};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bare volumes take partition numbers from the top, where control never grants any.
const BARE_PARTITIONS: u64 = u64::MAX / 2;

/// Why a host process could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Out of descriptors, or a thread could not be made.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// An address of clients.
    #[error("cannot listen for NBD on {address}: {source}; {}", another(address, source))]
    Listen {
        /// The address.
        address: NbdAddress,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Buffer memory.
    #[error(transparent)]
    Pool(#[from] palisade_dma::PoolError),
    /// A device.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Control did not admit a node.
    #[error("control admits no node `{0}`: is it in the rack file that control runs?")]
    NotAdmitted(String),
}

fn system(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> HostError {
    let doing = doing.into();
    move |source| HostError::System { doing, source }
}

/// What helps when an address cannot be listened at.
fn another(address: &NbdAddress, source: &std::io::Error) -> &'static str {
    match (address, source.kind()) {
        (_, ErrorKind::AddrInUse) => "stop what listens there, or choose another address",
        (NbdAddress::Unix(_), ErrorKind::InvalidInput) => {
            "the path of a socket has at most 107 bytes: choose a shorter one, or a shorter data directory"
        }
        _ => "choose another address",
    }
}

/// What the clients of one of `heads` heads of a process may have under way. A quarter of a pool is stripe
/// units; a read whose column is away takes k others besides its own, and all of its pieces at once.
fn client_bytes(rack: &Rack, heads: usize) -> usize {
    rack.reactors.pool_bytes as usize / 4 / (usize::from(rack.code.data) + 2) / heads.max(1)
}

/// A core's reactor while it is being filled.
struct Bench {
    reactor: Reactor,
    pool: Pool,
}

/// A node's place in the bus.
struct Place {
    core: usize,
    mailbox: Sender<Envelope>,
    inbox: Option<Receiver<Envelope>>,
    boot: BootId,
}

impl Host {
    /// Starts the admitted nodes. Volumes come up as control grants their numbers.
    pub fn start(
        rack: &Rack,
        agent: Agent,
        admission: Admission,
        boots: &BTreeMap<String, BootId>,
    ) -> Result<Self, HostError> {
        let mut wiring = Wiring::new(rack, admission, boots)?;
        wiring.places()?;
        wiring.nodes(&agent)?;
        if boots.keys().any(|name| rack.head(name).is_some()) {
            wiring.bare_volumes()?;
        }
        wiring.run(agent)
    }
}

/// Everything under construction.
struct Wiring<'a> {
    rack: &'a Rack,
    admission: Admission,
    boots: &'a BTreeMap<String, BootId>,
    benches: BTreeMap<usize, Bench>,
    places: BTreeMap<NodeId, Place>,
    ports: BTreeMap<NodeId, NodePort>,
    fabrics: BTreeMap<NodeId, Sender<FabricOrder>>,
    drills: Drills,
    reports: Sender<Report>,
    inbound: Receiver<Report>,
    parker: Parker,
    next_asker: u8,
}

impl<'a> Wiring<'a> {
    fn new(
        rack: &'a Rack,
        admission: Admission,
        boots: &'a BTreeMap<String, BootId>,
    ) -> Result<Self, HostError> {
        let parker = Parker::new().map_err(system("make an eventfd"))?;
        let (reports, inbound) = channel(REPORTS, parker.waker());
        Ok(Self {
            rack,
            admission,
            boots,
            benches: BTreeMap::new(),
            places: BTreeMap::new(),
            ports: BTreeMap::new(),
            fabrics: BTreeMap::new(),
            drills: Drills::new(rack.drills),
            reports,
            inbound,
            parker,
            next_asker: 0,
        })
    }

    /// The reactor of a core, made when first asked for.
    fn bench(&mut self, core: usize) -> Result<&mut Bench, HostError> {
        if !self.benches.contains_key(&core) {
            let name = format!("reactor-{core}");
            let reactor = Reactor::new(&name).map_err(system(format!("make {name}")))?;
            let huge = self.rack.reactors.huge_pages != HugePages::Never;
            let made = palisade_runtime::pool::create(self.rack.reactors.pool_bytes as usize, huge)?;
            if let (Some(note), true) = (&made.note, self.benches.is_empty()) {
                // `check` has said it already, with the remedy.
                tracing::info!("{note}");
            }
            self.benches.insert(core, Bench { reactor, pool: made.pool });
        }
        Ok(self.benches.get_mut(&core).expect("just made"))
    }

    fn core_of(&self, name: &str) -> usize {
        let head = self.rack.head(name).map(|head| head.core);
        head.or_else(|| self.rack.sled(name).map(|sled| sled.core)).unwrap_or(0)
    }

    /// Mailboxes first: every node must be able to route to every other.
    fn places(&mut self) -> Result<(), HostError> {
        for admitted in self.admission.nodes.clone() {
            let core = self.core_of(&admitted.name);
            let waker = self.bench(core)?.reactor.waker();
            let (mailbox, inbox) = channel(MAILBOX, waker);
            let boot = *self.boots.get(&admitted.name).ok_or(HostError::NotAdmitted(admitted.name))?;
            self.places.insert(admitted.node, Place { core, mailbox, inbox: Some(inbox), boot });
        }
        Ok(())
    }

    /// A node's routes: mailboxes of this process, its own fabric for the rest.
    fn post(&mut self, node: NodeId, name: &str) -> Result<Post, HostError> {
        let (boot, core) = (self.places[&node].boot, self.places[&node].core);
        let mut post = Post::new(node, boot);
        for (&to, place) in &self.places {
            post.route(to, place.mailbox.clone());
        }
        let remote: Vec<_> =
            self.admission.roster.iter().filter(|e| !self.places.contains_key(&e.node)).cloned().collect();
        if remote.is_empty() {
            return Ok(post);
        }
        let own = self.admission.roster.iter().find(|entry| entry.node == node);
        let own: Addresses = own.map(RosterEntry::addresses).unwrap_or_default().into();
        if own.is_empty() {
            tracing::warn!(node = name, "no fabric address: nodes of other processes are out of reach");
            return Ok(post);
        }
        let mailbox = self.places[&node].mailbox.clone();
        let reporter = Reporter::new(self.reports.clone());
        let bench = self.bench(core)?;
        let ports = fabric_ports(name, &own)?;
        let config = fabric::Config { paths: own.len() as u8, ..fabric::Config::default() };
        let fabric = Fabric::new(node, boot, config, bench.pool.clone());
        let (outgoing_tx, outgoing) = channel(MAILBOX, bench.reactor.waker());
        let (mut orders_tx, orders) = channel(ORDERS, bench.reactor.waker());
        for peer in &remote {
            post.route(peer.node, outgoing_tx.clone());
            let addresses: Addresses = peer.addresses().into();
            if !addresses.is_empty() {
                let full = orders_tx.send(FabricOrder::Peer(peer.node, addresses)).is_err();
                assert!(!full, "a fresh ring has room for the roster");
            }
        }
        let called = format!("{name} fabric");
        let service = FabricService::new((&called, node), fabric, ports, reporter, orders, outgoing, mailbox);
        bench.reactor.add(Box::new(service));
        self.fabrics.insert(node, orders_tx);
        Ok(post)
    }

    fn nodes(&mut self, agent: &Agent) -> Result<(), HostError> {
        for admitted in self.admission.nodes.clone() {
            let post = self.post(admitted.node, &admitted.name)?;
            if let Some(head) = self.rack.head(&admitted.name).cloned() {
                self.head(agent, &head, &admitted, post)?;
            } else if let Some(sled) = self.rack.sled(&admitted.name).cloned() {
                self.sled(agent, &sled, &admitted, post)?;
            } else {
                return Err(HostError::NotAdmitted(admitted.name));
            }
        }
        Ok(())
    }

    fn listeners(&self, addresses: &[NbdAddress]) -> Result<Vec<Listener>, HostError> {
        let open = |address: &NbdAddress| {
            match address {
                NbdAddress::Tcp(at) => Listener::tcp(*at),
                NbdAddress::Unix(path) => Listener::unix(path),
            }
            .map_err(|source| HostError::Listen { address: address.clone(), source })
        };
        addresses.iter().map(open).collect()
    }

    /// An export service on a core, with its asker number and the rings towards it.
    fn export(&mut self, name: &str, core: usize, addresses: &[NbdAddress]) -> Result<ExportPort, HostError> {
        let listeners = self.listeners(addresses)?;
        let asker = self.next_asker;
        self.next_asker += 1;
        let clients_max = self.rack.limits.connections as usize;
        let heads = self.boots.keys().filter(|name| self.rack.head(name).is_some()).count();
        let client_bytes = client_bytes(self.rack, heads);
        let bench = self.bench(core)?;
        let (orders_tx, orders) = channel(ORDERS, bench.reactor.waker());
        let (answers_tx, answers) = channel(CLIENT_RING, bench.reactor.waker());
        let exports = Arc::new(ExportList::default());
        let service = ExportService::new(ExportParts {
            name: format!("{name} nbd"),
            asker,
            listeners,
            exports: Arc::clone(&exports),
            pool: bench.pool.clone(),
            orders,
            answers,
            clients_max,
            client_bytes,
        });
        bench.reactor.add(Box::new(service));
        Ok(ExportPort { asker, exports, orders: orders_tx, answers: answers_tx })
    }
}

impl Wiring<'_> {
    fn head(
        &mut self,
        agent: &Agent,
        head: &config::Head,
        admitted: &AdmittedNode,
        post: Post,
    ) -> Result<(), HostError> {
        let (rack, id) = (self.rack, self.admission.rack);
        let pool = self.bench(head.core)?.pool.clone();
        let opened = Opener { agent, rack: id, pool: &pool }.log(head, rack.checkpoint_bytes())?;
        let opened = opened.map(|(driver, log)| (self.drills.wrap(&head.log.name, driver), log));
        let late = self.drills.late(&head.log.name);
        let mut export = self.export(&head.name, head.core, &head.nbd)?;
        let reporter = Reporter::new(self.reports.clone());
        let place = self.places.get_mut(&admitted.node).expect("every node has a place");
        let (boot, mailbox) = (place.boot, place.inbox.take().expect("taken once"));
        let bench = self.bench(head.core)?;
        let waker = bench.reactor.waker();
        let (mut orders, orders_rx) = channel(ORDERS, waker.clone());
        let full = orders.send(HeadOrder::Asker(export.asker, export.answers.clone())).is_err();
        assert!(!full, "a fresh ring has room");
        let full = export.orders.send(ExportOrder::Head(orders.clone())).is_err();
        assert!(!full, "a fresh ring has room");
        let mut made = None;
        let missing = opened.is_none();
        if let Some((driver, log)) = opened {
            if let LogStart::Format(log) = log.start {
                made = Some((head.log.name.clone(), log));
            }
            let machine = Head::new(head_config(rack, admitted, boot, log, id), pool);
            let rings = HeadRings { mailbox, orders: orders_rx };
            let service = HeadService::new(&head.name, admitted.node, machine, driver, rings, post, reporter)
                .steered_by(late);
            bench.reactor.add(Box::new(service));
        }
        let port = HeadPort { orders, export, waker, made, missing };
        self.ports.insert(admitted.node, NodePort::head(&head.name, boot, port));
        Ok(())
    }

    fn sled(
        &mut self,
        agent: &Agent,
        sled: &config::Sled,
        admitted: &AdmittedNode,
        post: Post,
    ) -> Result<(), HostError> {
        let id = self.admission.rack;
        let reporter = Reporter::new(self.reports.clone());
        let pool = self.bench(sled.core)?.pool.clone();
        let opened = Opener { agent, rack: id, pool: &pool }.sled(self.rack, sled)?;
        let place = self.places.get_mut(&admitted.node).expect("every node has a place");
        let (boot, mailbox) = (place.boot, place.inbox.take().expect("taken once"));
        let config = sled_config(self.rack, admitted.node, id, &opened);
        let names = opened.iter().map(|device| device.name.clone()).collect();
        let drills = &mut self.drills;
        let drivers = opened.into_iter().map(|device| drills.wrap(&device.name, device.driver)).collect();
        let bench = self.bench(sled.core)?;
        let (orders, orders_rx) = channel(ORDERS, bench.reactor.waker());
        let machine = Sled::new(config, pool);
        let rings = SledRings { mailbox, orders: orders_rx };
        let service = SledService::new(&sled.name, admitted.node, machine, drivers, rings, post, reporter);
        bench.reactor.add(Box::new(service));
        self.ports.insert(admitted.node, NodePort::sled(&sled.name, boot, orders, names));
        Ok(())
    }

    /// Memory exported without heads, in the list (and on the core) of the first head unless they name
    /// addresses of their own, which are served on their own core.
    fn bare_volumes(&mut self) -> Result<(), HostError> {
        for (index, volume) in self.rack.volumes.iter().enumerate() {
            let VolumeKind::Bare { core, nbd } = &volume.kind else { continue };
            let partition = PartitionId(BARE_PARTITIONS + index as u64);
            let own = !nbd.is_empty() && self.rack.heads.first().is_none_or(|head| head.nbd != *nbd);
            let mut fresh = None;
            if own {
                fresh = Some(self.export(&volume.name, *core, nbd)?);
            }
            let backing = self.bench(*core)?.pool.backing();
            let first = self.ports.values_mut().filter_map(NodePort::export_mut).next();
            let Some(export) = fresh.as_mut().or(first) else { continue };
            let bare = BareVolume::new(partition, volume.size_bytes, backing)?;
            let full = export.orders.send(ExportOrder::Bare(bare)).is_err();
            assert!(!full, "a fresh ring has room for the declared volumes");
            export.exports.put(ExportInfo {
                name: volume.name.clone(),
                description: "bare memory device".to_owned(),
                partition,
                bytes: volume.size_bytes,
                readonly: false,
            });
        }
        Ok(())
    }

    /// Reactors start to run, then the bridge.
    fn run(mut self, agent: Agent) -> Result<Host, HostError> {
        for (node, orders) in std::mem::take(&mut self.fabrics) {
            let names = self.admission.roster.iter().map(|entry| (entry.node, entry.name.clone())).collect();
            if let Some(port) = self.ports.get_mut(&node) {
                port.fabric = Some(FabricPort { orders, names });
            }
        }
        let idle = match self.rack.reactors.idle {
            Idle::Spin => IdlePolicy::Spin,
            Idle::Adaptive => IdlePolicy::Adaptive { spin_us: self.rack.reactors.spin_us },
        };
        let mut reactors = Vec::new();
        for (core, bench) in self.benches {
            let config = ReactorConfig { core: Some(core), idle, ..ReactorConfig::default() };
            reactors.push(bench.reactor.spawn(config).map_err(system("start a reactor thread"))?);
        }
        let stats = reactors.iter().map(ReactorHandle::stats).collect();
        let bridge = Bridge::start(agent, self.ports, self.drills, self.inbound, self.parker, stats)
            .map_err(system("start the bridge thread"))?;
        Ok(Host { reactors, bridge })
    }
}

/// A port on each network. When there are two, an address that this host does not have at present is no
/// reason not to start: the other network carries, and `status` shows this one as down.
fn fabric_ports(name: &str, own: &[SocketAddr]) -> Result<Vec<Box<dyn DatagramPort>>, HostError> {
    let mut ports: Vec<Box<dyn DatagramPort>> = Vec::new();
    for address in own {
        let mut port = UdpPort::bind(*address);
        if let (Err(error), true) = (&port, own.len() > 1)
            && error.kind() == ErrorKind::AddrNotAvailable
        {
            tracing::warn!(node = name, %address, "this host does not have the address; it may come later");
            port = UdpPort::bind_absent(*address);
        }
        let doing = || format!("bind the fabric of {name} to {address}");
        ports.push(Box::new(port.map_err(|source| HostError::System { doing: doing(), source })?));
    }
    Ok(ports)
}

/// What a head machine is told at its start; partitions come from the admission.
fn head_config(rack: &Rack, admitted: &AdmittedNode, boot: BootId, log: HeadLog, id: RackId) -> HeadConfig {
    let mut config = HeadConfig::new(admitted.node, boot, id, log);
    config.partitions = admitted.partitions.iter().map(|spec| spec.config()).collect();
    config.hot_bytes = rack.limits.hot_cache_bytes as usize;
    config.slow_io = Duration::from_millis(rack.timers.slow_io_ms);
    config.stopwatch = Some(|| Time(MonoClock.now().0));
    let (limits, flush) = (&rack.limits, &mut config.flush);
    (flush.fill_low, flush.fill_high) = (limits.log_low_percent, limits.log_high_percent);
    (flush.collect_below, flush.rebuild_share) = (limits.collect_percent, limits.rebuild_percent);
    flush.age = Duration::from_millis(rack.timers.flush_ms);
    (flush.checkpoint_bytes, flush.checkpoint_age) =
        (limits.checkpoint_bytes, Duration::from_millis(rack.timers.checkpoint_ms));
    config.watch.fail_after = Duration::from_millis(rack.timers.device_fail_ms);
    if rack.control.failover == Failover::Auto {
        config.failover = Some(FailoverConfig {
            heartbeat: Duration::from_millis(rack.timers.heartbeat_ms),
            silence: Duration::from_millis(rack.timers.silence_ms),
            confirm: Duration::from_millis(rack.timers.confirm_ms),
            ..FailoverConfig::default()
        });
    }
    config.retry.first = Duration::from_millis(rack.timers.resend_ms);
    config.retry.last = Duration::from_millis(rack.timers.resend_ms_max);
    config
}

/// What a sled machine is told at its start. Its secret is drawn anew at every boot (EF-18).
fn sled_config(rack: &Rack, node: NodeId, id: RackId, opened: &[Opened]) -> SledConfig {
    let spec = |(index, device): (usize, &Opened)| {
        let (ix, bytes) = (DeviceIx(index as u16), device.driver.info().bytes);
        DeviceSpec { ix, bytes }
    };
    let devices = opened.iter().enumerate().map(spec).collect();
    let mut config = SledConfig::new(node, id, OsEntropy.next_u128(), devices);
    config.drain_limit = Duration::from_millis(rack.timers.drain_ms);
    let gap = rack.code.unit_bytes.saturating_mul(1_000_000_000).checked_div(rack.limits.scrub_bytes);
    config.scrub_gap = Duration::from_nanos(gap.unwrap_or(0));
    config
}

/// The rings and the list of one export service.
pub(super) struct ExportPort {
    pub(super) asker: u8,
    pub(super) exports: Arc<ExportList>,
    pub(super) orders: Sender<ExportOrder>,
    pub(super) answers: Sender<ClientDone>,
}
