//! What a load generator drives: the one waist between load and the thing under test.
//!
//! A target owns one buffer per slot, so that an in-process rack can hand out its own pool memory and a
//! network client can send from where the bytes lie. The engine fills a slot's buffer before a write and
//! looks into it after a read. Targets never block: `submit` takes the request, `poll` moves bytes.
//!
//! A target does not measure; the engine does, from the intended start of a request.

pub mod device;
pub mod mem;

use hdrhistogram::Histogram;

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Fill the slot's buffer.
    Read,
    /// Write the slot's buffer.
    Write,
    /// Everything acknowledged before is durable.
    Flush,
}

/// One request; `offset` and `len` are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What to do.
    pub verb: Verb,
    /// Byte offset.
    pub offset: u64,
    /// Bytes, at most the length of a slot's buffer.
    pub len: u32,
}

/// The end of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The slot it was submitted in.
    pub slot: u32,
    /// Zero, or the error number that the target answered with.
    pub errno: u32,
}

/// Why a target cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The connection ended; requests in flight may or may not have been carried out.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The other side broke the protocol, or the request cannot be made at all.
    #[error("{0}")]
    Fatal(String),
}

/// Something that serves reads and writes.
pub trait Target {
    /// Bytes that may be addressed.
    fn bytes(&self) -> u64;
    /// The buffer of a slot.
    fn buffer(&mut self, slot: u32) -> &mut [u8];
    /// Starts a request. The slot is busy until `poll` reports it.
    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError>;
    /// Moves what can be moved without waiting, and pushes what ended.
    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError>;
    /// Connects again after [`TargetError::Lost`]; everything in flight is forgotten.
    fn reconnect(&mut self) -> Result<(), TargetError> {
        Err(TargetError::Fatal("this target cannot reconnect".into()))
    }
    /// Latencies in nanoseconds per stage, when the target can see its stages.
    fn stages(&mut self) -> Vec<(String, Histogram<u64>)> {
        Vec::new()
    }
}

/// Makes targets of addresses that this crate does not know (`rack:FILE`).
pub trait Factory {
    /// The target, `None` when the address is not of this factory's kind.
    fn open(&self, address: &str, want: Want) -> Option<Result<Box<dyn Target>, TargetError>>;
}

/// What the engine needs of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Requests in flight at most: slots are numbered below this.
    pub slots: u32,
    /// Largest request in bytes.
    pub slot_bytes: usize,
    /// Connections, where the target has such a thing.
    pub connections: u32,
    /// Whether the bytes of reads are looked at; a network target may leave them unread otherwise.
    pub look: bool,
}

/// The factory that knows no address.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFactory;

impl Factory for NoFactory {
    fn open(&self, _address: &str, _want: Want) -> Option<Result<Box<dyn Target>, TargetError>> {
        None
    }
}
