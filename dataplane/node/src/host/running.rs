//! A host that runs: what its process may ask of it, and how it ends.

use super::bridge::{Ask, Bridge, Upgrade};
use palisade_control::agent::Reporter as ControlReporter;
use palisade_runtime::reactor::ReactorHandle;

/// A running host.
pub struct Host {
    pub(super) reactors: Vec<ReactorHandle>,
    pub(super) bridge: Bridge,
}

impl Host {
    /// Whether a reactor ended by itself (a service panicked).
    pub fn failed(&self) -> bool {
        self.reactors.iter().any(ReactorHandle::is_finished)
    }

    /// Asks the bridge something; see [`Ask`].
    pub fn ask(&self, ask: Ask) {
        self.bridge.ask(ask);
    }

    /// Another binary that is to take the place of this process's node, when control said so.
    pub fn take_upgrade(&self) -> Option<Upgrade> {
        self.bridge.take_upgrade()
    }

    /// For what the process has to say to control.
    pub fn reporter(&self) -> &ControlReporter {
        self.bridge.reporter()
    }

    /// Stops everything in good order; false when a service did not finish or had panicked.
    pub fn stop(self) -> bool {
        for reactor in &self.reactors {
            reactor.stop_handle().stop();
        }
        let mut clean = true;
        for reactor in self.reactors {
            match reactor.join() {
                Ok(report) => clean &= report.unfinished.is_empty(),
                Err(_) => clean = false,
            }
        }
        self.bridge.stop();
        clean
    }
}
