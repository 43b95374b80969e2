//! What exports ask of a volume and what they get back.

use super::ids::PartitionId;
use super::limits::IO_BYTES_MAX;
use palisade_dma::Buf;
use smallvec::SmallVec;

/// Chosen by the asker (service, connection, slot); comes back with the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTag(pub u64);

/// Pieces of data in address order; a read's pieces add up to the asked length.
pub type Payload = SmallVec<[Buf; 4]>;

/// Bytes of holes; every hole in an answer may point here.
static ZEROES: [u8; IO_BYTES_MAX] = [0; IO_BYTES_MAX];

/// `len` zero bytes (at most [`IO_BYTES_MAX`]) for the holes of a read's answer, without memory of their
/// own. Exports know them by their address and tell clients of a hole instead of sending zeroes.
pub fn zeroes(len: usize) -> Buf {
    Buf::from_static(&ZEROES[..len])
}

/// Whether `buf` is a slice of what [`zeroes`] gives.
pub fn is_zeroes(buf: &Buf) -> bool {
    ZEROES.as_ptr_range().contains(&buf.as_ptr())
}

/// A request of a client, in bytes; offsets and lengths are multiples of 512.
#[derive(Debug)]
pub enum ClientVerb {
    /// Read `len` bytes (at most `limits::IO_BYTES_MAX`).
    Read {
        /// Byte offset in the volume.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write the bytes of `data` (one contiguous buffer, at most `limits::IO_BYTES_MAX`). Every
    /// acknowledged write is durable, so FUA needs no flag.
    Write {
        /// Byte offset in the volume.
        offset: u64,
        /// The bytes, in a pool slot (4 KiB-aligned memory) owned by this command alone.
        data: Buf,
    },
    /// The range's contents may be forgotten; reads give zeroes afterwards.
    Trim {
        /// Byte offset in the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Byte offset in the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Everything acknowledged before is durable (which it is already); answered in order with them.
    Flush,
    /// Which parts of the range hold data.
    BlockStatus {
        /// Byte offset in the volume.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// A tagged request for one partition.
#[derive(Debug)]
pub struct ClientCmd {
    /// Comes back with the answer.
    pub tag: ClientTag,
    /// The partition (for now: the volume).
    pub partition: PartitionId,
    /// What to do.
    pub verb: ClientVerb,
}

/// Why a request failed. Away peers are no error: requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Outside the volume, or not a multiple of 512 bytes.
    #[error("range outside the volume or unaligned")]
    Range,
    /// Too few good copies or columns are left; the extent is named in the log and in `status`.
    #[error("data unreadable: too few good columns")]
    Unreadable,
    /// The sleds have no room for more data.
    #[error("no space left in the rack")]
    NoSpace,
    /// This head does not (or no longer) serve the volume.
    #[error("not served here")]
    NotServed,
    /// The head's own device failed.
    #[error("I/O error of the head's device")]
    Device,
}

/// One extent of a block status answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRun {
    /// Bytes.
    pub len: u64,
    /// Whether the run holds data; otherwise it is a hole and reads as zeroes.
    pub data: bool,
}

/// A good answer.
#[derive(Debug)]
pub enum ClientOk {
    /// Data of a read.
    Data(Payload),
    /// Runs of a block status, at least one.
    Status(Vec<StatusRun>),
    /// Anything else.
    Done,
}

/// The answer to a request.
#[derive(Debug)]
pub struct ClientDone {
    /// The request's tag.
    pub tag: ClientTag,
    /// How it ended.
    pub result: Result<ClientOk, ClientError>,
}
