//! Encoding of every message: fixed fields as little-endian bytes, payload as separate buffers.
//!
//! A message is `kind: u8, version: u8, fields…`; a payload buffer stands in the fields as its length and
//! travels beside them, so that it is never copied to be sent and arrives in an aligned pool buffer. The
//! fields of each message are written in the order of the table below; `docs/FORMATS/fabric.md` lists
//! their encodings. Adding a field raises the message's version; a receiver refuses versions that it
//! does not know, and the sender repeats to a peer that was upgraded.

use super::fields::{Field, Sink, Source};
use crate::wire::Msg;
use crate::wire::checkpoint::CHECKPOINTS_KEPT;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::copy::{CopyPart, PART_BLOCKS, PART_EXTENTS, Place};
use crate::wire::limits::{BLOCK, GRANULES_TOLD_MAX, IO_BLOCKS_MAX, PARTITION_BLOCKS_MAX, WRITE_UNITS_MAX};
use crate::wire::ops::{Body, Entry};
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
    /// The kind, or this version of it, is not known here.
    #[error("unknown message kind {kind} version {version}")]
    Kind {
        /// Kind byte.
        kind: u8,
        /// Version byte.
        version: u8,
    },
}

/// One line a message: kind byte, version byte, name, fields in order.
macro_rules! messages {
    ($($kind:literal $version:literal $name:ident { $($field:ident),* })*) => {
        /// Appends the message's fields to `meta` and its payload handles to `pieces`.
        pub fn encode(msg: &Msg, meta: &mut Vec<u8>, pieces: &mut Pieces) {
            let mut to = Sink { out: Writer { bytes: std::mem::take(meta) }, pieces };
            match msg {
                $(Msg::$name { $($field),* } => {
                    to.out.u8($kind).u8($version);
                    $($field.put(&mut to);)*
                })*
            }
            *meta = to.out.bytes;
        }

        fn decode_fields(kind: u8, version: u8, from: &mut Source<'_>) -> Result<Msg, MessageError> {
            match (kind, version) {
                $(($kind, $version) => Ok(Msg::$name { $($field: Field::get(from)?),* }),)*
                _ => Err(MessageError::Kind { kind, version }),
            }
        }

        #[cfg(test)]
        pub(super) const KINDS: &[(u8, u8, &str)] = &[$(($kind, $version, stringify!($name))),*];
    };
}

messages! {
    1 1 Announce { adopt, committed }
    2 1 Announced { stamp, log, durable, credit, covered, damaged }
    3 1 Replicate { stamp, committed, entries }
    4 1 Replicated { stamp, durable, credit, covered }
    5 1 Confirm { nonce, stamps }
    6 1 Confirmed { nonce, stamps }
    7 1 Fetch { stamp, req, lba, op }
    8 1 Fetched { req, data }
    9 1 Refused { refused, held }
    16 1 Reserve { req, device, stamp }
    17 1 Reserved { req, device, stamp, status, secret, free }
    18 1 ColumnReserve { req, device, stamp, token, extent, position, prefer }
    19 1 ColumnReserved { req, status, column }
    20 1 ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs }
    21 1 ColumnWritten { req, status }
    22 1 ColumnRead { req, partition, column, block, count }
    23 1 ColumnData { req, status, data }
    24 1 ColumnRelease { req, stamp, column, token }
    25 1 ColumnReleased { req, status }
    26 1 ColumnList { req, device, partition, from }
    27 1 ColumnListed { req, status, columns, more }
    28 1 ColumnRotten { partition, column, extent, position }
    29 1 Probe { adopt, held }
    30 1 Probed { stamp, log, tail, damaged, whole, entries }
    31 1 Compare { stamp, held }
    32 2 Common { stamp, upto, number }
    33 1 Heartbeat { sent }
    34 1 HealthAsk { req, held }
    35 1 Health { req, held, serving, connected, associated, busiest, io, idle_ms, paused }
    36 1 Copy { adopt, session, to }
    37 2 CopyPart { stamp, session, seq, part, data }
    38 1 CopyOps { stamp, session, committed, parts, entries }
    39 2 Copied { stamp, session, log, parts, durable, covered, room, whole, broken }
    40 1 IsolationAsk { req, held }
    41 1 Isolation { req, held, isolating, score }
    42 1 CopyAsk { stamp, session, named, from }
    43 1 CopyHas { stamp, session, from, upto, found }
}

/// The message of `meta` and `pieces`, which must be used up exactly.
pub fn decode(meta: &[u8], pieces: Pieces) -> Result<Msg, MessageError> {
    let mut from = Source { input: Reader::new(meta), pieces: pieces.into_iter() };
    let (kind, version) = (from.input.u8()?, from.input.u8()?);
    let msg = decode_fields(kind, version, &mut from)?;
    if !from.input.rest().is_empty() || from.pieces.next().is_some() {
        return Err(DecodeError::Range("length").into());
    }
    check(&msg)?;
    Ok(msg)
}

/// What fields must say of one another, so that machines can rely on it.
fn check(msg: &Msg) -> Result<(), DecodeError> {
    match msg {
        Msg::Replicate { entries, .. } | Msg::Probed { entries, .. } | Msg::CopyOps { entries, .. } => {
            entries.iter().try_for_each(check_entry)
        }
        Msg::CopyPart { part, data, .. } => check_part(part, data.as_ref()),
        Msg::CopyAsk { named, .. } if named.len() > CHECKPOINTS_KEPT => {
            Err(DecodeError::Range("checkpoints"))
        }
        Msg::CopyHas { from, upto, found, .. } => {
            let end = upto.unwrap_or(*from);
            let inside = found.iter().all(|(granule, _)| (*from..end).contains(granule));
            let ordered = found.is_sorted_by(|a, b| a.0 < b.0);
            let few = found.len() <= GRANULES_TOLD_MAX;
            if inside && ordered && few { Ok(()) } else { Err(DecodeError::Range("granules")) }
        }
        Msg::ColumnWrite { units, crcs, .. } => {
            let whole = |unit: &Buf| !unit.is_empty() && unit.len().is_multiple_of(BLOCK);
            let sound = units.len() == crcs.len() && !units.is_empty() && units.iter().all(whole);
            let equal = units.iter().all(|unit| Some(unit.len()) == units.first().map(|first| first.len()));
            if sound && equal && units.len() <= WRITE_UNITS_MAX {
                Ok(())
            } else {
                Err(DecodeError::Range("units"))
            }
        }
        Msg::Fetched { data: Some(data), .. } if data.len() != BLOCK => Err(DecodeError::Range("data")),
        _ => Ok(()),
    }
}

/// A part of a copy: blocks in order and within its range, and bytes for those that say so.
fn check_part(part: &CopyPart, data: Option<&Buf>) -> Result<(), DecodeError> {
    let sent = part.blocks.iter().filter(|block| block.place == Place::Sent).count();
    let ordered = part.blocks.is_sorted_by(|a, b| a.at < b.at);
    let inside = part.blocks.last().is_none_or(|last| last.at < part.count);
    let end = part.lba.checked_add(u64::from(part.count)).is_some_and(|end| end <= PARTITION_BLOCKS_MAX);
    let few = part.blocks.len() <= PART_BLOCKS && part.extents.len() <= PART_EXTENTS && sent <= IO_BLOCKS_MAX;
    let bytes = data.map_or(0, |data| data.len());
    let mut free = 0;
    let runs = part.same.iter().all(|&(at, count)| {
        let begins = count > 0 && at >= free;
        free = at.saturating_add(count);
        begins && free <= part.count
    });
    if ordered && inside && end && runs && few && bytes == sent * BLOCK {
        Ok(())
    } else {
        Err(DecodeError::Range("part"))
    }
}

fn check_entry(entry: &Entry) -> Result<(), DecodeError> {
    match &entry.body {
        Body::Write { lba, crcs, data } => {
            let sound = (1..=IO_BLOCKS_MAX).contains(&crcs.len()) && data.len() == crcs.len() * BLOCK;
            let fits = lba.0.checked_add(crcs.len() as u64).is_some();
            if sound && fits { Ok(()) } else { Err(DecodeError::Range("data")) }
        }
        Body::Clear { lba, count } if lba.0.checked_add(u64::from(*count)).is_none() => {
            Err(DecodeError::Range("count"))
        }
        _ => Ok(()),
    }
}
