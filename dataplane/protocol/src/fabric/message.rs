//! Encoding of every message: fixed fields as bytes, payload as separate buffers.

use crate::wire::Msg;
use crate::wire::codec::DecodeError;
use palisade_dma::Buf;
use smallvec::SmallVec;

/// Payload buffers of a message, in the order in which its fields name them.
pub type Pieces = SmallVec<[Buf; 4]>;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A field is missing or out of range.
    #[error("malformed message: {0}")]
    Field(#[from] DecodeError),
    /// The kind is not known to this version.
    #[error("unknown message kind {0}")]
    Kind(u8),
}

/// Appends the message's fields to `meta` and its payload handles to `pieces`.
pub fn encode(msg: &Msg, meta: &mut Vec<u8>, pieces: &mut Pieces) {
    let _ = (msg, meta, pieces);
}

/// The message of `meta` and `pieces`.
pub fn decode(meta: &[u8], pieces: Pieces) -> Result<Msg, MessageError> {
    let _ = pieces;
    Err(MessageError::Kind(meta.first().copied().unwrap_or(0)))
}
