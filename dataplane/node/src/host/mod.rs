//! A host process: the nodes that it runs, on their reactors, and the bridge to control.
//!
//! `wiring` makes rings, reactors and services out of the rack file and control's admission; `media` opens
//! devices by the rule that nothing is ever reformatted silently; `bridge` is the thread between the
//! agent's channels and the services' rings. Stopping is in reverse: exports first, then the rest.

mod bridge;
mod drills;
mod media;
mod running;
mod telling;
mod wiring;

pub use bridge::{Ask, Bridge, Upgrade};
pub use media::MediaError;
pub use running::Host;
pub use wiring::HostError;
