//! Control under a lease (EF-24): several processes may stand for it, the one that has the lease in etcd serves
//! the control socket, and when it dies or falls silent another one follows.
//!
//! One thread asks for the lease, serves while it lasts, and steps down when it is lost: from then on nothing is
//! decided, while nodes stay connected and `status` says why. When the same process gets the lease again it
//! reads everything anew; when another one has it, this one leaves the socket to it. No I/O waits for any of
//! this (EF-02), and no time decides who may write: every transaction proves the lease (see `store::etcd`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::client::Client;
use crate::api::status::{ControlStatus, Status};
use crate::api::{Core, CoreError, Server};
use crate::config::Rack;
use crate::control::{ControlError, Standing};
use crate::metrics::Endpoint;
use crate::store::{Campaign, Candidate, Etcd, Tenure};

/// How often the lease is asked for.
const ASK: Duration = Duration::from_millis(500);
/// How often the holder looks at its lease and at stop flags.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before the next attempt of one that has the lease and cannot serve.
const FAILED: Duration = Duration::from_secs(2);
/// How often an address for metrics is tried again.
const METRICS: Duration = Duration::from_secs(5);
/// How long whoever serves the socket may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A control process that stands for the lease. Dropping it stops it and gives the lease back.
pub(crate) struct Leased {
    plane: Arc<Plane>,
    thread: Option<JoinHandle<()>>,
}

/// What the threads share.
struct Plane {
    rack: Rack,
    stop: AtomicBool,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    // In order of dropping: nobody scrapes a server that is gone.
    endpoint: Option<Endpoint>,
    server: Option<Arc<Server>>,
    state: ControlStatus,
    /// Why this process will never serve.
    refused: Option<String>,
}

impl Leased {
    /// Stands for the lease from now on; whether it is there is seen later.
    pub(crate) fn start(rack: &Rack) -> std::io::Result<Self> {
        std::fs::create_dir_all(&rack.data)?;
        let ttl = Duration::from_millis(rack.control.lease_ms);
        let mut candidate = Candidate::new(&rack.control.endpoints, &rack.name, ttl)?;
        let live = Live { state: state("waiting", "the lease is asked for"), ..Live::default() };
        let plane = Plane { rack: rack.clone(), stop: AtomicBool::new(false), live: Mutex::new(live) };
        let plane = Arc::new(plane);
        let running = Arc::clone(&plane);
        let thread = std::thread::Builder::new()
            .name("control-plane".to_owned())
            .spawn(move || running.run(&mut candidate))?;
        Ok(Self { plane, thread: Some(thread) })
    }

    pub(crate) fn standing(&self) -> Result<Standing, ControlError> {
        {
            let live = self.plane.live();
            if let Some(why) = &live.refused {
                return Err(ControlError::Refused(why.clone()));
            }
            if live.server.is_some() && live.state.state == "serving" {
                return Ok(Standing::Serving);
            }
        }
        if self.plane.server().is_none() && self.plane.ask_socket().is_some() {
            return Ok(Standing::Elsewhere);
        }
        Ok(Standing::Waiting(self.plane.live().state.why.clone()))
    }

    /// By this process, or by whoever serves the socket.
    pub(crate) fn status(&self) -> Status {
        if let Some(server) = self.plane.server() {
            return server.core().status();
        }
        self.plane.ask_socket().unwrap_or_else(|| Status {
            api: crate::api::API_VERSION,
            name: self.plane.rack.name.clone(),
            data: self.plane.rack.data.display().to_string(),
            control: self.plane.live().state.clone(),
            ..Status::default()
        })
    }

    pub(crate) fn take_upgrade(&self) -> Option<std::path::PathBuf> {
        self.plane.server()?.core().take_successor()
    }

    pub(crate) fn metrics(&self) -> Option<std::net::SocketAddr> {
        self.plane.live().endpoint.as_ref().and_then(Endpoint::address)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.plane.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed.
            let _ = thread.join();
        }
        self.plane.close();
    }
}

fn state(state: &str, why: &str) -> ControlStatus {
    let store = "etcd".to_owned();
    ControlStatus { store, state: state.to_owned(), why: why.to_owned(), ..ControlStatus::default() }
}

impl Plane {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.live().server.clone()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sleep(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end && !self.stopping() {
            std::thread::sleep(LOOK.min(span));
        }
    }

    fn ask_socket(&self) -> Option<Status> {
        let mut client = Client::connect(&self.rack.socket()).ok()?;
        let answer = client.call("rack.status", json!({}), PATIENCE).ok()?;
        serde_json::from_value(answer).ok()
    }

    /// Ends what is served. The endpoint and the server are dropped outside of the lock.
    fn close(&self) {
        let mut live = self.live();
        let (endpoint, server) = (live.endpoint.take(), live.server.take());
        drop(live);
        drop(endpoint);
        drop(server);
    }

    /// Says how this control plane stands, to whoever asks it.
    fn say(&self, state: ControlStatus) {
        let mut live = self.live();
        if live.state == state {
            return;
        }
        if live.state.state != state.state {
            tracing::info!(state = state.state, why = state.why, "control");
        }
        live.state = state.clone();
        let server = live.server.clone();
        drop(live);
        if let Some(server) = server {
            server.core().set_control(state);
        }
    }

    fn run(&self, candidate: &mut Candidate) {
        while !self.stopping() {
            match candidate.ask() {
                Ok(Campaign::Won(tenure)) => self.serve(&tenure),
                Ok(Campaign::Held(holder)) => {
                    // Whoever asks is to find the one that decides.
                    self.close();
                    let holder = holder.to_string();
                    let waiting = state("waiting", &format!("{holder} has the lease"));
                    self.say(ControlStatus { holder, ..waiting });
                }
                Err(error) => self.say(state("waiting", &error.to_string())),
            }
            self.sleep(ASK);
        }
    }

    /// Serves for as long as a tenure lasts.
    fn serve(&self, tenure: &Tenure) {
        let view = tenure.view();
        if let Err(error) = self.open(tenure) {
            let why = error.to_string();
            let passing = view.lost().is_some() || view.suspect().is_some();
            if !passing && self.server().is_none() && is_final(&error) {
                self.live().refused = Some(why.clone());
            }
            self.say(state("waiting", &why));
            return self.sleep(FAILED);
        }
        let serving = ControlStatus {
            holder: format!("process {}", std::process::id()),
            tenure: u64::try_from(view.revision()).unwrap_or(0),
            ..state("serving", "")
        };
        let mut metrics_tried = None;
        while !self.stopping() {
            if let Some(why) = view.lost() {
                return self.step_down(&format!("the control plane's lease is lost: {why}"));
            }
            match view.suspect() {
                Some(why) => self.say(ControlStatus { why, ..with(&serving, "unsure") }),
                None if self.make_up() => self.say(serving.clone()),
                None => {}
            }
            self.measure(&mut metrics_tried);
            self.sleep(LOOK);
        }
        // Whoever follows finds the socket free.
        self.close();
    }

    /// Takes the rack up, in the server that is still there or in a new one.
    fn open(&self, tenure: &Tenure) -> Result<(), ControlError> {
        let store = Box::new(Etcd::of(tenure.view()));
        if let Some(server) = self.server() {
            server.core().take_up(Some(store))?;
            server.cut();
            return Ok(());
        }
        let mut core = Core::open(store, self.rack.clone(), Some(self.rack.data.clone()))?;
        core.apply(self.rack.clone(), false).map_err(ControlError::Apply)?;
        let socket = self.rack.socket();
        let server = Server::start(core, &socket)
            .map_err(|error| ControlError::Socket { path: socket.display().to_string(), error })?;
        self.live().server = Some(Arc::new(server));
        Ok(())
    }

    /// Nothing is decided any more. What is connected stays, and `status` says why.
    fn step_down(&self, why: &str) {
        if let Some(server) = self.server() {
            server.core().suspend(why);
        }
        self.say(state("waiting", why));
    }

    /// After a time without the store, whoever was refused is made to ask again. False when it is too early.
    fn make_up(&self) -> bool {
        let Some(server) = self.server() else { return false };
        let mut core = server.core();
        if !core.missed() {
            return true;
        }
        let taken = core.take_up(None);
        drop(core);
        if let Err(error) = &taken {
            tracing::warn!(%error, "the state cannot be read yet");
            return false;
        }
        server.cut();
        true
    }

    /// Serves metrics as soon as their address is free: a holder that stopped may have it still.
    fn measure(&self, tried: &mut Option<Instant>) {
        let Some(address) = self.rack.metrics else { return };
        if tried.is_some_and(|tried| tried.elapsed() < METRICS) || self.live().endpoint.is_some() {
            return;
        }
        *tried = Some(Instant::now());
        let Some(server) = self.server() else { return };
        match Endpoint::start(address, server.reports()) {
            Ok(endpoint) => self.live().endpoint = Some(endpoint),
            Err(error) => tracing::warn!(%error, "metrics wait"),
        }
    }
}

fn with(status: &ControlStatus, state: &str) -> ControlStatus {
    ControlStatus { state: state.to_owned(), ..status.clone() }
}

/// Whether trying again is of no use.
fn is_final(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Apply(_) | ControlError::Core(CoreError::Load(..) | CoreError::OtherRack { .. })
    )
}
