//! The control plane's lease (EF-24): who holds it serves, the others wait. A [`Candidate`] asks for it; while
//! it has it there is a [`Tenure`], which a thread keeps alive and whose end shows in it.
//!
//! The holder's key is tied to an etcd lease, so that it vanishes when its holder does not say in time that it
//! lives. What makes the lease a fence is not time, though: every write names the revision at which the
//! holder's key was created, and etcd compares it in the very transaction. The time only tells a holder early
//! that its writes would be refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::PATIENCE;
use super::gateway::{EtcdError, Gateway};
use super::keys::Keys;
use super::wire::{Ack, Found, Granted, Kept, Outcome, Txn, single};

/// How often a silent etcd is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long giving a lease back may take when a control plane stops.
const PARTING: Duration = Duration::from_millis(500);

/// Who holds the lease, as it wrote itself down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Random, of one life of a control process.
    pub id: String,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

impl Holder {
    /// This process, under a random id.
    fn here() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().to_owned();
        Ok(Self { id: format!("{:032x}", u128::from_le_bytes(bytes)), host, pid: std::process::id() })
    }
}

/// What asking for the lease gave.
pub enum Campaign {
    /// It is ours.
    Won(Tenure),
    /// Somebody else has it.
    Held(Holder),
}

/// Asks for the lease of one rack.
pub struct Candidate {
    gateway: Arc<Gateway>,
    keys: Keys,
    ttl_s: u64,
    me: Holder,
    /// The lease of the last attempt or tenure: given back before the next one.
    last: i64,
}

impl Candidate {
    /// For the rack of this name in the etcd at `endpoints`; a holder that is silent for `ttl` loses the lease.
    pub fn new(endpoints: &[String], rack: &str, ttl: Duration) -> std::io::Result<Self> {
        let ttl_s = ttl.as_millis().div_ceil(1000).max(1) as u64;
        let gateway = Arc::new(Gateway::new(endpoints, PATIENCE));
        Ok(Self { gateway, keys: Keys::of(rack), ttl_s, me: Holder::here()?, last: 0 })
    }

    /// How long calls are tried, for tests in which they fail.
    #[cfg(test)]
    pub(super) fn set_patience(&mut self, patience: Duration) {
        Arc::get_mut(&mut self.gateway).expect("nobody shares it yet").patience = patience;
    }

    /// Asks once.
    pub fn ask(&mut self) -> Result<Campaign, EtcdError> {
        let found: Found = self.gateway.call("kv/range", &single(&self.keys.holder))?;
        if let Some(pair) = found.kvs.first() {
            let holder = read_holder(&pair.value);
            if holder.id != self.me.id {
                return Ok(Campaign::Held(holder));
            }
        }
        // What is left of an earlier tenure of ours is no obstacle.
        self.revoke_last()?;
        let asked = Instant::now();
        let wish = json!({ "TTL": self.ttl_s.to_string() });
        let granted: Granted = self.gateway.call("lease/grant", &wish)?;
        self.last = granted.id;
        let me = serde_json::to_vec(&self.me).map_err(|error| EtcdError::Answer(error.to_string()))?;
        let txn = Txn::default().if_created(&self.keys.holder, 0).put(&self.keys.holder, &me, granted.id);
        let txn = txn.or_read(&self.keys.holder);
        let outcome: Outcome = self.gateway.call("kv/txn", &txn.request())?;
        let revision = if outcome.succeeded {
            outcome.header.revision
        } else {
            // An answer lost on its way: the first of two transactions of ours was carried out.
            let pair = outcome.pair(&self.keys.holder).cloned().unwrap_or_default();
            let holder = read_holder(&pair.value);
            if holder.id != self.me.id {
                self.revoke_last()?;
                return Ok(Campaign::Held(holder));
            }
            pair.create_revision
        };
        let ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0));
        let lease = Lease { id: granted.id, revision, ttl };
        Tenure::start(Arc::clone(&self.gateway), self.keys.clone(), lease, asked + ttl)
            .map(Campaign::Won)
            .map_err(|error| EtcdError::Answer(format!("no thread for the lease: {error}")))
    }

    fn revoke_last(&mut self) -> Result<(), EtcdError> {
        if self.last != 0 {
            let request = json!({ "ID": self.last.to_string() });
            match self.gateway.call::<Ack>("lease/revoke", &request) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => self.last = 0,
            }
        }
        Ok(())
    }
}

fn read_holder(value: &[u8]) -> Holder {
    serde_json::from_slice(value).unwrap_or_default()
}

/// A lease as etcd gave it.
#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    /// At which the holder's key was created: the fence.
    revision: i64,
    ttl: Duration,
}

/// How a tenure stands.
struct State {
    /// When etcd may have ended it, by our clock.
    until: Instant,
    /// Why it is over.
    lost: Option<String>,
    /// Why nothing should be asked at present: the last call found no answer.
    suspect: Option<String>,
}

struct Shared {
    gateway: Arc<Gateway>,
    keys: Keys,
    lease: Lease,
    stop: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, why: String) {
        let mut state = self.state();
        if state.lost.is_none() {
            state.lost = Some(why);
        }
    }
}

/// The time during which we hold the lease. Dropping it gives the lease back.
pub struct Tenure {
    view: TenureView,
    keeper: Option<JoinHandle<()>>,
}

/// A tenure as the store sees it.
#[derive(Clone)]
pub struct TenureView {
    shared: Arc<Shared>,
}

impl TenureView {
    pub(super) fn gateway(&self) -> &Gateway {
        &self.shared.gateway
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// The revision at which the holder's key was created: other tenures have others.
    pub fn revision(&self) -> i64 {
        self.shared.lease.revision
    }

    /// Why the tenure is over, if it is.
    pub fn lost(&self) -> Option<String> {
        let mut state = self.shared.state();
        if state.lost.is_none() && Instant::now() >= state.until {
            let why = state.suspect.clone().unwrap_or_else(|| "this process was not run in time".to_owned());
            state.lost = Some(format!("it was not renewed for {:?}: {why}", self.shared.lease.ttl));
        }
        state.lost.clone()
    }

    /// Why etcd should not be asked at present, if so.
    pub fn suspect(&self) -> Option<String> {
        self.shared.state().suspect.clone()
    }

    /// A call of the store found no answer: the next ones fail at once, until a sign of life finds one.
    pub(super) fn set_suspect(&self, why: &EtcdError) {
        self.shared.state().suspect = Some(why.to_string());
    }

    /// The store saw another holder, or none.
    pub(super) fn lose(&self, why: &str) {
        self.shared.lose(why.to_owned());
    }
}

impl Tenure {
    fn start(gateway: Arc<Gateway>, keys: Keys, lease: Lease, until: Instant) -> std::io::Result<Self> {
        let state = Mutex::new(State { until, lost: None, suspect: None });
        let shared = Arc::new(Shared { gateway, keys, lease, stop: AtomicBool::new(false), state });
        let view = TenureView { shared: Arc::clone(&shared) };
        let keeping = view.clone();
        let keeper =
            std::thread::Builder::new().name("control-lease".to_owned()).spawn(move || keep(&keeping))?;
        Ok(Self { view, keeper: Some(keeper) })
    }

    /// Says no longer that it lives, and believes in its lease for ever: what a pause does to a process.
    #[cfg(test)]
    pub(super) fn sleep_walk(&self) {
        self.view.shared.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = &self.keeper {
            keeper.thread().unpark();
            while !keeper.is_finished() {
                std::thread::yield_now();
            }
        }
        self.view.shared.state().until = Instant::now() + Duration::from_secs(3600);
    }

    /// For the store.
    pub fn view(&self) -> TenureView {
        self.view.clone()
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.view.shared.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // A panic there was already printed.
            let _ = keeper.join();
        }
        if self.view.lost().is_none() && self.view.suspect().is_none() {
            let request = json!({ "ID": self.view.shared.lease.id.to_string() });
            // Should this fail, the lease ends by itself.
            let _ = self.view.gateway().call_within::<Ack>("lease/revoke", &request, PARTING);
        }
    }
}

/// Says that the holder lives, three times in the life of a lease, until it is lost or given up.
fn keep(view: &TenureView) {
    let shared = &view.shared;
    let request = json!({ "ID": shared.lease.id.to_string() });
    // A silent etcd is known before the lease is over.
    let patience = shared.gateway.patience.min(shared.lease.ttl / 2);
    while !shared.stop.load(Ordering::Relaxed) && view.lost().is_none() {
        let asked = Instant::now();
        let kept = shared.gateway.call_within::<Kept>("lease/keepalive", &request, patience);
        let pause = match kept {
            Ok(kept) if kept.result.ttl > 0 => {
                let mut state = shared.state();
                if state.until > asked {
                    state.until = asked + shared.lease.ttl;
                }
                state.suspect = None;
                shared.lease.ttl / 3
            }
            Ok(_) => return shared.lose("it ended at etcd".to_owned()),
            Err(error) => {
                view.set_suspect(&error);
                RETRY
            }
        };
        if !shared.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(pause);
        }
    }
}
