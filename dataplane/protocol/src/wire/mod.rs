//! Rank 0: the words of the rack. Ids, limits, statuses, operations, messages and effects.

pub mod checkpoint;
pub mod codec;
pub mod copy;
pub mod effect;
pub mod ids;
pub mod isolation;
pub mod limits;
pub mod msg;
pub mod ops;
pub mod status;
pub(crate) mod switches;
pub mod volume;

pub use checkpoint::{KeptCheckpoints, SledCheckpoint};
pub use copy::{CopiedBlock, CopiedExtent, CopyPart, Place};
pub use effect::{BlockCmd, BlockDone, BlockError, BlockOk, BlockOp, DeviceIx, Event, Key, Out, Time};
pub use ids::*;
pub use isolation::{Score, Severity};
pub use msg::{Envelope, Msg};
pub use ops::*;
pub use status::{DeviceHealth, Status};
pub use volume::{ClientCmd, ClientDone, ClientError, ClientOk, ClientTag, ClientVerb, Payload, StatusRun};
