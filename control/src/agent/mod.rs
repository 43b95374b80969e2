//! The nodes' end of the control socket: one agent per process, whatever number of nodes it hosts.
//!
//! It registers the process's nodes, keeps the connection, says again after a reconnection what control
//! must know, and turns the socket into two bounded channels: [`Command`]s in, [`Report`]s out. No I/O
//! ever waits for it (EF-02): what does not fit the outgoing channel is dropped and counted, and control
//! asks again for what it needs, because it repeats its commands at every reconnection.

mod link;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use crate::api::model::{
    Admission, AdmittedDevice, AdmittedNode, Command, DeviceSpec, Drill, NodeHello, PartitionSpec, Report,
    Role, RosterEntry, Severity,
};
use crate::api::rpc::RpcError;
pub use crate::identity::{Decision, Identity, Known, Medium};

/// Messages that wait on either channel.
const QUEUE: usize = 4096;
/// Longest wait for one call.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// Who joins.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `DATA/control.sock`.
    pub socket: PathBuf,
    /// The nodes of this process.
    pub nodes: Vec<NodeHello>,
}

/// Why an agent could not do it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AgentError {
    /// Control could not be reached in time; `.0` is the last thing that went wrong.
    #[error("control does not answer: {0}")]
    Unreachable(String),
    /// Control said no.
    #[error("control refused: {0}")]
    Refused(#[from] RpcError),
    /// The agent was stopped.
    #[error("the agent was stopped")]
    Stopped,
}

/// What goes out.
enum Outgoing {
    Report(Report),
    Call { method: &'static str, params: Value, reply: SyncSender<Result<Value, RpcError>> },
}

/// What the agent's threads share.
struct Shared {
    config: AgentConfig,
    stop: AtomicBool,
    dropped: AtomicU64,
    connected: AtomicBool,
    /// `HeadReady` and `SledReady`: said again after each reconnection.
    standing: Mutex<Vec<Report>>,
    /// The answer to the last registration, or why there is none.
    admission: Mutex<Result<Admission, AgentError>>,
    /// Called when a command came.
    wake: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// The agent of a process.
pub struct Agent {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    outgoing: SyncSender<Outgoing>,
    thread: Option<JoinHandle<()>>,
}

/// The sending half for reports; one per thread that reports.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    outgoing: SyncSender<Outgoing>,
}

impl Reporter {
    /// Hands a report over without waiting. False: the channel is full (control is away or slow) and the
    /// report was dropped; readiness is never lost that way.
    pub fn send(&self, report: Report) -> bool {
        if matches!(report, Report::HeadReady { .. } | Report::SledReady { .. }) {
            let mut standing = self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
            standing.retain(|old| node_of(old) != node_of(&report));
            standing.push(report.clone());
        }
        let sent = self.outgoing.try_send(Outgoing::Report(report)).is_ok();
        if !sent {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }
}

fn node_of(report: &Report) -> Option<u32> {
    match report {
        Report::HeadReady { node, .. } | Report::SledReady { node, .. } => Some(node.0),
        _ => None,
    }
}

impl Agent {
    /// Registers with control and waits at most `patience` for its admission. Control that refuses for
    /// good (an unknown node) ends it at once; one that is away or still holds an older process of ours
    /// is asked again.
    pub fn join(config: AgentConfig, patience: Duration) -> Result<(Self, Admission), AgentError> {
        let (command_in, commands) = sync_channel(QUEUE);
        let (outgoing, outgoing_out) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            config,
            stop: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            standing: Mutex::new(Vec::new()),
            admission: Mutex::new(Err(AgentError::Unreachable("not asked yet".to_owned()))),
            wake: Mutex::new(None),
        });
        let links = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("control-agent".to_owned())
            .spawn(move || link::run(&links, &command_in, &outgoing_out))
            .map_err(|error| AgentError::Unreachable(error.to_string()))?;
        let agent = Self { shared, commands, outgoing, thread: Some(thread) };
        let deadline = Instant::now() + patience;
        loop {
            let admission = agent.admission();
            match admission {
                Ok(admission) => return Ok((agent, admission)),
                Err(AgentError::Refused(error)) if error.code == crate::api::rpc::NOT_FOUND => {
                    return Err(error.into());
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The answer to the newest registration.
    pub fn admission(&self) -> Result<Admission, AgentError> {
        self.shared.admission.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commands of control, in order.
    pub fn commands(&self) -> &Receiver<Command> {
        &self.commands
    }

    /// Whoever reads the commands is woken by this when one came, and need not look for it often.
    pub fn wake_by(&self, wake: impl Fn() + Send + 'static) {
        *self.shared.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
    }

    /// A sender of reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { shared: Arc::clone(&self.shared), outgoing: self.outgoing.clone() }
    }

    /// Whether control is there at present.
    pub fn connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Reports dropped because the channel was full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Asks what to do with a medium. `device` is the name in the admission (`sled-1/0`, `head-1/log`).
    pub fn decide(&self, device: &str, medium: &Medium) -> Result<Decision, AgentError> {
        self.call("device.decide", json!({ "device": device, "medium": medium }))
    }

    /// Confirms that a medium was formatted as decided.
    pub fn formatted(&self, device: &str, id: Identity) -> Result<(), AgentError> {
        self.call::<Value>("device.formatted", json!({ "device": device, "id": id })).map(|_| ())
    }

    /// One call, repeated while control is away, up to ten seconds. Only for idempotent methods.
    fn call<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, AgentError> {
        let deadline = Instant::now() + CALL_PATIENCE;
        while Instant::now() < deadline {
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(AgentError::Stopped);
            }
            let (reply, answer) = sync_channel(1);
            let call = Outgoing::Call { method, params: params.clone(), reply };
            let sent = self.outgoing.try_send(call).is_ok();
            match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Ok(value)) if sent => {
                    return serde_json::from_value(value)
                        .map_err(|error| AgentError::Unreachable(format!("unreadable answer: {error}")));
                }
                Ok(Err(error)) => return Err(error.into()),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(AgentError::Unreachable(format!("`{method}` was not answered in time")))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the link thread was already printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
