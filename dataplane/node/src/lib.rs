//! Where machines meet drivers: services, the bus between them, and the life of a node.

pub mod binding;
pub mod bus;
pub mod exports;
pub mod host;
pub mod inspect;
mod keeper;
pub mod order;
pub mod rack_target;
pub mod service;
pub mod successor;
pub mod up;
