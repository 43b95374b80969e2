//! Histograms as nodes report them, and the Prometheus endpoint that shows them: text for everybody,
//! protobuf with native histograms for scrapers that ask for it.

mod endpoint;
mod families;
mod native;
pub mod snapshot;
mod text;

pub use endpoint::{Endpoint, EndpointError};
pub use families::Picture;
pub use snapshot::HistSnapshot;
