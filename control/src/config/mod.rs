//! The rack file: types, reader, sizes, places. It declares what a rack is to be; the store remembers
//! what it became. Reading never touches a device: that is the business of `check` and of the nodes.

pub mod finding;
mod parse;
pub mod rack;
mod reader;
pub mod size;

pub use finding::{Finding, Place, Places, Severity};
pub(crate) use parse::FILE_BYTES_MAX;
pub use parse::{Parsed, parse};
pub use rack::{
    Code, Control, Device, DeviceKind, Failover, Head, HugePages, Idle, Limits, NbdAddress, Rack, Reactors,
    Sled, Solo, StoreKind, Timers, Volume, VolumeKind,
};
