//! Judging a request before anything is done for it ("Request types", "Error values").

use super::open::Kind;
use super::words::{Errno, cmd, flag};
use crate::wire::PartitionId;
use crate::wire::limits::{BLOCK, EXPORT_BYTES_MAX, IO_BYTES_MAX, SECTOR};

/// Bytes of a request without its payload.
pub(super) const HEADER_BYTES: usize = 28;

/// A request as it stands on the wire, after its magic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Header {
    /// The fields, or `None` when the magic is wrong.
    #[inline]
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (command, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (len, _) = rest.split_first_chunk()?;
        (u32::from_be_bytes(*magic) == super::words::REQUEST_MAGIC).then_some(Self {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*len),
        })
    }

    /// Where the request at the start of these bytes goes, if so much of it is there: a hint, not checked.
    #[inline]
    pub(super) fn peek_offset(bytes: &[u8]) -> Option<u64> {
        bytes.get(16..24)?.first_chunk().map(|offset| u64::from_be_bytes(*offset))
    }

    /// Bytes that follow it.
    #[inline]
    pub(super) fn payload_bytes(&self) -> usize {
        if self.command == cmd::WRITE { self.len as usize } else { 0 }
    }
}

/// What the client attached to, and what was negotiated for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    pub(super) partition: PartitionId,
    pub(super) bytes: u64,
    pub(super) readonly: bool,
    /// Chunks instead of simple replies to reads.
    pub(super) structured: bool,
    /// base:allocation was selected for this export.
    pub(super) context: bool,
}

/// What to do for a request, or the error to answer.
#[inline]
pub(super) fn judge(header: &Header, attached: &Attached) -> Result<Kind, Errno> {
    let kind = kind_of(header, attached)?;
    if kind == Kind::Flush {
        return Ok(kind); // Offset and length are reserved; some clients leave old values there.
    }
    let changes = matches!(kind, Kind::Write | Kind::Trim | Kind::Zeroes | Kind::ZeroFill);
    if changes && attached.readonly {
        return Err(Errno::Perm);
    }
    if !header.offset.is_multiple_of(SECTOR as u64) || !header.len.is_multiple_of(SECTOR as u32) {
        return Err(Errno::Inval);
    }
    let end = header.offset.checked_add(u64::from(header.len));
    if end.is_none_or(|end| end > attached.bytes) {
        let grows = matches!(kind, Kind::Write | Kind::Zeroes | Kind::ZeroFill);
        return Err(if grows { Errno::NoSpc } else { Errno::Inval });
    }
    let carries_payload = matches!(kind, Kind::Read | Kind::Write);
    if carries_payload && header.len as usize > EXPORT_BYTES_MAX {
        return Err(Errno::Inval);
    }
    if header.flags & flag::DF != 0 && header.len as usize > IO_BYTES_MAX - BLOCK {
        return Err(Errno::Overflow); // One chunk is one command; the document promises 64 KiB only.
    }
    if header.flags & flag::FAST_ZERO != 0 && !has_whole_block(header) {
        return Err(Errno::NotSup); // Parts of blocks are read, merged and written: no faster than a write.
    }
    Ok(kind)
}

/// The kind by command and flags; flags that the command does not know are an error ("Command flags").
fn kind_of(header: &Header, attached: &Attached) -> Result<Kind, Errno> {
    let (kind, known) = match header.command {
        cmd::READ if attached.structured => (Kind::Read, flag::DF),
        cmd::READ => (Kind::Read, 0),
        cmd::WRITE => (Kind::Write, 0),
        cmd::FLUSH => (Kind::Flush, 0),
        cmd::TRIM => (Kind::Trim, 0),
        cmd::WRITE_ZEROES if header.flags & flag::NO_HOLE != 0 => {
            if header.flags & flag::FAST_ZERO != 0 {
                return Err(Errno::NotSup); // Allocated zeroes are written like data.
            }
            (Kind::ZeroFill, flag::NO_HOLE)
        }
        cmd::WRITE_ZEROES => (Kind::Zeroes, flag::FAST_ZERO),
        cmd::BLOCK_STATUS if attached.context && header.len > 0 => (Kind::Status, flag::REQ_ONE),
        _ => return Err(Errno::Inval), // Unknown, not negotiated, or refused (NBD_CMD_RESIZE).
    };
    if header.flags & !(known | flag::FUA) != 0 {
        return Err(Errno::Inval);
    }
    Ok(kind)
}

/// Whether the range contains a whole logical block.
fn has_whole_block(header: &Header) -> bool {
    let block = BLOCK as u64;
    header.offset.next_multiple_of(block) + block <= header.offset + u64::from(header.len)
}

/// Length of the next command of a request: at most the largest I/O, touching at most as many blocks as
/// an aligned one of that size, and ending at a block boundary unless the request ends.
pub(super) fn part_len(offset: u64, left: u32) -> u32 {
    let into_block = (offset % BLOCK as u64) as u32;
    left.min(IO_BYTES_MAX as u32 - into_block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_touch_no_more_blocks_than_a_largest_aligned_io() {
        for offset in (0..16384u64).step_by(512) {
            for left in [512u32, 4096, 262_144, 262_656, 1 << 20, 32 << 20] {
                let len = part_len(offset, left);
                let blocks = (offset + u64::from(len)).div_ceil(4096) - offset / 4096;
                assert!(len > 0 && len <= left && blocks <= 64, "{offset} {left}: {len} in {blocks}");
                assert!(len == left || (offset + u64::from(len)).is_multiple_of(4096));
            }
        }
    }
}
