//! Control as one thing that `up` starts and stops: lock, store, file applied, socket, metrics.

use std::path::Path;

use crate::api::apply::Applied;
use crate::api::rpc::RpcError;
use crate::api::status::Status;
use crate::api::{Core, CoreError, Server};
use crate::config::{Rack, StoreKind};
use crate::lock::{DataLock, LockError};
use crate::metrics::{Endpoint, EndpointError};
use crate::store::{Embedded, Memory, Store};

/// A running control plane. Dropping it stops it; nodes go on without it (EF-02).
pub struct Control {
    // In order of dropping: nobody scrapes or asks a rack that is gone, and the lock goes last.
    endpoint: Option<Endpoint>,
    server: Server,
    applied: Applied,
    _lock: DataLock,
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
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] EndpointError),
}

impl Control {
    /// Locks the data directory, opens the store, applies the file without pruning, and serves.
    pub fn start(rack: &Rack) -> Result<Self, ControlError> {
        let lock = DataLock::acquire(&rack.data)?;
        let embedded = rack.control.store == StoreKind::Embedded;
        let store: Box<dyn Store> = if embedded {
            Box::new(Embedded::open(&rack.data.join(Embedded::FILE)).map_err(CoreError::from)?)
        } else {
            Box::new(Memory::default())
        };
        let mark_in = embedded.then(|| rack.data.clone());
        let mut core = Core::open(store, rack.clone(), mark_in)?;
        let applied = core.apply(rack.clone(), false).map_err(ControlError::Apply)?;
        let socket = rack.socket();
        let server = Server::start(core, &socket)
            .map_err(|error| ControlError::Socket { path: socket.display().to_string(), error })?;
        let endpoint = rack.metrics.map(|address| Endpoint::start(address, server.reports())).transpose()?;
        Ok(Self { endpoint, server, applied, _lock: lock })
    }

    /// The rack as it is now.
    pub fn status(&self) -> Status {
        self.server.core().status()
    }

    /// What applying the file at the start did.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Where metrics are served.
    pub fn metrics(&self) -> Option<std::net::SocketAddr> {
        self.endpoint.as_ref().and_then(Endpoint::address)
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
