//! Services: a machine with its drivers, as a reactor polls it. The same services run in the simulator
//! on a simulator's devices and mailboxes.

pub mod bare;
mod client;
pub mod export;
pub mod fabric;
pub mod head;
pub mod late;
pub mod port;
mod registry;
pub mod sled;

pub use head::{HeadRings, HeadService};
pub use sled::{SledRings, SledService};
