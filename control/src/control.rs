//! Control as one thing that `up` starts and stops: lock, store, file applied, socket, metrics.

use std::path::Path;

use crate::api::apply::Applied;
use crate::api::rpc::RpcError;
use crate::api::status::Status;
use crate::api::{Core, CoreError, Server};
use crate::config::{Rack, StoreKind};
use crate::leased::Leased;
use crate::lock::{DataLock, LockError};
use crate::metrics::{Endpoint, EndpointError};
use crate::store::{Embedded, Memory, Store};

/// A running control plane. Dropping it stops it; nodes go on without it (EF-02).
pub struct Control {
    // In order of dropping: nobody scrapes or asks a rack that is gone, and the lock goes last.
    plane: Plane,
    applied: Applied,
    _lock: Option<DataLock>,
}

/// How control is held.
enum Plane {
    /// By whoever has the data directory.
    Here {
        // In order of dropping.
        endpoint: Option<Endpoint>,
        server: Server,
    },
    /// By whoever has the lease (EF-24).
    Leased(Leased),
}

/// Whether control is there for this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This process serves it.
    Serving,
    /// Another process serves it on this host's control socket.
    Elsewhere,
    /// Nobody does, as far as is known; `.0` says why this one does not.
    Waiting(String),
}

/// Why control does not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process has the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state cannot be opened.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The file cannot be applied.
    #[error("the rack file cannot be applied: {0}")]
    Apply(RpcError),
    /// The socket cannot be served.
    #[error("control socket {path}: {error}")]
    Socket {
        /// Where.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Nothing can stand for the lease.
    #[error("control cannot stand for the lease: {0}")]
    Lease(std::io::Error),
    /// Control has the lease and cannot serve with what is in the store.
    #[error("{0}")]
    Refused(String),
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] EndpointError),
}

impl Control {
    /// Locks the data directory, opens the store, applies the file without pruning, and serves. With the etcd
    /// store all but the lock happens when this process gets the lease, and again whenever it does.
    pub fn start(rack: &Rack) -> Result<Self, ControlError> {
        Self::with_lock(rack, Some(DataLock::acquire(&rack.data)?))
    }

    /// A control plane without nodes. Under the etcd store several may stand by in one data directory, and
    /// beside an `up` that has its lock: the lease says who serves.
    pub fn stand(rack: &Rack) -> Result<Self, ControlError> {
        if rack.control.store == StoreKind::Etcd { Self::with_lock(rack, None) } else { Self::start(rack) }
    }

    fn with_lock(rack: &Rack, lock: Option<DataLock>) -> Result<Self, ControlError> {
        let store: Box<dyn Store> = match rack.control.store {
            StoreKind::Embedded => {
                Box::new(Embedded::open(&rack.data.join(Embedded::FILE)).map_err(CoreError::from)?)
            }
            StoreKind::Memory => Box::new(Memory::default()),
            StoreKind::Etcd => {
                let leased = Leased::start(rack).map_err(ControlError::Lease)?;
                return Ok(Self { plane: Plane::Leased(leased), applied: Applied::default(), _lock: lock });
            }
        };
        let mark_in = (rack.control.store == StoreKind::Embedded).then(|| rack.data.clone());
        let mut core = Core::open(store, rack.clone(), mark_in)?;
        let applied = core.apply(rack.clone(), false).map_err(ControlError::Apply)?;
        let socket = rack.socket();
        let server = Server::start(core, &socket)
            .map_err(|error| ControlError::Socket { path: socket.display().to_string(), error })?;
        let endpoint = rack.metrics.map(|address| Endpoint::start(address, server.reports())).transpose()?;
        Ok(Self { plane: Plane::Here { endpoint, server }, applied, _lock: lock })
    }

    /// Whether control is there for this host. An error: it will not be, by this process.
    pub fn standing(&self) -> Result<Standing, ControlError> {
        match &self.plane {
            Plane::Here { .. } => Ok(Standing::Serving),
            Plane::Leased(leased) => leased.standing(),
        }
    }

    /// Another binary that is to take this process's place, when people asked for that.
    pub fn take_upgrade(&self) -> Option<std::path::PathBuf> {
        match &self.plane {
            Plane::Here { server, .. } => server.core().take_successor(),
            Plane::Leased(leased) => leased.take_upgrade(),
        }
    }

    /// The rack as it is now, as whoever serves control sees it.
    pub fn status(&self) -> Status {
        match &self.plane {
            Plane::Here { server, .. } => server.core().status(),
            Plane::Leased(leased) => leased.status(),
        }
    }

    /// What applying the file at the start did; nothing yet with the etcd store, whose start may be another's.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Where metrics are served.
    pub fn metrics(&self) -> Option<std::net::SocketAddr> {
        match &self.plane {
            Plane::Here { endpoint, .. } => endpoint.as_ref().and_then(Endpoint::address),
            Plane::Leased(leased) => leased.metrics(),
        }
    }

    /// Replaces the ready file whole: one line a volume.
    pub fn write_ready_file(&self, path: &Path) -> std::io::Result<()> {
        let mut text = self.status().ready_lines().join("\n");
        text.push('\n');
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, path)
    }
}
