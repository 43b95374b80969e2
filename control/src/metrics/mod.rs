//! Histograms as nodes report them, and the Prometheus endpoint that shows them.

pub mod snapshot;

pub use snapshot::HistSnapshot;
