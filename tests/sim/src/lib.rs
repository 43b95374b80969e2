//! The whole rack from a seed: the shipping machines on false hardware, in one thread, under virtual time.
//!
//! Start at `faults` (what may go wrong), then `run` (what a run is), `world` (how it proceeds) and
//! `history` and `checks` (what must hold). `examples/sim.rs` runs fresh seeds or replays one; the tests
//! run a fixed set, and show with canaries that a broken rule is caught.

pub mod checks;
pub mod clients;
pub mod contents;
pub mod cut;
pub mod dense;
pub mod diary;
pub mod dice;
pub mod disk;
pub mod drill;
pub mod fault;
pub mod faults;
pub mod fences;
pub mod fold;
pub mod grants;
pub mod group;
pub mod history;
pub mod host;
pub mod hosts;
pub mod links;
pub mod lone;
pub mod minimise;
pub mod node;
pub mod rack;
pub mod replaced;
pub mod rogue;
pub mod run;
pub mod served;
pub mod story;
pub mod tally;
pub mod tape;
pub mod world;

pub use rack::Canaries;
pub use run::{Report, Setup, run};
