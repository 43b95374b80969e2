//! The load generator: what to ask (`spec`, `address`), how to ask and time it (`engine`), whether the
//! answers are right (`model`, `state`).

pub mod address;
pub mod check;
pub mod engine;
pub mod model;
pub mod spec;
pub mod state;
#[cfg(test)]
mod tests;
