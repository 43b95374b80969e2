//! How each type of field stands on the wire. Total: no input makes a decode panic or allocate more than
//! a small multiple of its own length.

use crate::wire::checkpoint::{CHECKPOINTS_KEPT, KeptCheckpoints, SledCheckpoint};
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::copy::{CopiedBlock, CopiedExtent, CopyPart, Place};
use crate::wire::ids::*;
use crate::wire::isolation::{Score, Severity};
use crate::wire::limits::{COLUMNS_MAX, IO_BYTES_MAX, MEMBERS_MAX};
use crate::wire::msg::OwnedColumn;
use crate::wire::ops::{Adopt, Body, Entry, ExtentDesc, GatheredFrom, Geometry, Repoint, RepointEntry};
use crate::wire::status::Status;
use palisade_dma::Buf;
use smallvec::SmallVec;

use super::message::Pieces;

/// Where fields go.
pub(super) struct Sink<'a> {
    pub(super) out: Writer,
    pub(super) pieces: &'a mut Pieces,
}

/// Where fields come from.
pub(super) struct Source<'a> {
    pub(super) input: Reader<'a>,
    pub(super) pieces: smallvec::IntoIter<[Buf; 4]>,
}

/// A type with an encoding.
pub(super) trait Field: Sized {
    fn put(&self, to: &mut Sink<'_>);
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError>;
}

macro_rules! integers {
    ($($kind:ident)*) => {$(
        impl Field for $kind {
            fn put(&self, to: &mut Sink<'_>) {
                to.out.$kind(*self);
            }
            fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
                from.input.$kind()
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 u128);

macro_rules! newtypes {
    ($($name:ident)*) => {$(
        impl Field for $name {
            fn put(&self, to: &mut Sink<'_>) {
                self.0.put(to);
            }
            fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
                Field::get(from).map(Self)
            }
        }
    )*};
}
newtypes!(NodeId PartitionId Op Lba ExtentId GrantId ReqId DeviceId LogId BootId Token GrantSecret);

/// Structs as the sequence of their fields.
macro_rules! structs {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Field for $name {
            fn put(&self, to: &mut Sink<'_>) {
                $(self.$field.put(to);)*
            }
            fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
                let value = Self { $($field: Field::get(from)?),* };
                value.check()?;
                Ok(value)
            }
        }
    )*};
}
structs! {
    Number { epoch, counter }
    Stamp { partition, number, grant }
    Member { head, log, boot }
    ColumnRef { sled, device, column, generation }
    Adopt { partition, number, grant, members, tail }
    Entry { partition, number, op, body }
    Geometry { k, m, unit_blocks, stripes }
    ExtentDesc { id, number, geometry, columns }
    Repoint { extent, first_stripe, stripes, absent, entries }
    RepointEntry { lba, op, from, block, crc }
    OwnedColumn { column, generation, extent, position, number, stripes }
    CopiedBlock { at, op, crc, place }
    CopiedExtent { desc, sealed, absent }
    CopyPart { at, extents, lba, count, blocks, same, last, kept }
    SledCheckpoint { number, generation, covers, pages, unit_blocks, stripes, copies, hash, columns }
    KeptCheckpoints { op, found }
    Score { whole, severity, success, spare }
}

/// What the fields of a struct must say of one another.
trait Check {
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}
impl Check for Number {}
impl Check for Stamp {}
impl Check for Member {}
impl Check for ColumnRef {}
impl Check for Entry {}
impl Check for Repoint {}
impl Check for RepointEntry {}
impl Check for OwnedColumn {}
impl Check for CopiedBlock {}
impl Check for CopyPart {}
impl Check for SledCheckpoint {
    fn check(&self) -> Result<(), DecodeError> {
        if self.sound() { Ok(()) } else { Err(DecodeError::Range("checkpoint")) }
    }
}
impl Check for KeptCheckpoints {
    fn check(&self) -> Result<(), DecodeError> {
        if self.found.len() <= CHECKPOINTS_KEPT { Ok(()) } else { Err(DecodeError::Range("checkpoints")) }
    }
}
impl Check for Score {
    fn check(&self) -> Result<(), DecodeError> {
        let sound = self.severity <= Severity::Planned.rank() && self.success <= 1000 && self.spare <= 10;
        if sound { Ok(()) } else { Err(DecodeError::Range("score")) }
    }
}
impl Check for CopiedExtent {
    fn check(&self) -> Result<(), DecodeError> {
        let stripes = self.desc.geometry.stripes;
        let sound =
            self.absent.len() <= stripes as usize && self.sealed.is_none_or(|sealed| sealed <= stripes);
        if sound { Ok(()) } else { Err(DecodeError::Range("stripes")) }
    }
}
impl Check for Adopt {
    fn check(&self) -> Result<(), DecodeError> {
        let count = self.members.len();
        if (1..=MEMBERS_MAX).contains(&count) { Ok(()) } else { Err(DecodeError::Range("members")) }
    }
}
impl Check for Geometry {
    fn check(&self) -> Result<(), DecodeError> {
        let blocks = u64::from(self.stripe_blocks()) * u64::from(self.stripes);
        let sound = self.k > 0 && self.unit_blocks > 0 && self.stripes > 0;
        if sound && self.columns() <= COLUMNS_MAX && blocks <= u64::from(u32::MAX) {
            Ok(())
        } else {
            Err(DecodeError::Range("geometry"))
        }
    }
}
impl Check for ExtentDesc {
    fn check(&self) -> Result<(), DecodeError> {
        if self.columns.len() == self.geometry.columns() {
            Ok(())
        } else {
            Err(DecodeError::Range("columns"))
        }
    }
}

impl Field for bool {
    fn put(&self, to: &mut Sink<'_>) {
        u8::from(*self).put(to);
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        match from.input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Range("flag")),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Sink<'_>) {
        self.is_some().put(to);
        self.iter().for_each(|value| value.put(to));
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        bool::get(from)?.then(|| T::get(from)).transpose()
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, to: &mut Sink<'_>) {
        self.0.put(to);
        self.1.put(to);
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        Ok((Field::get(from)?, Field::get(from)?))
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, to: &mut Sink<'_>) {
        (**self).put(to);
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        T::get(from).map(Box::new)
    }
}

fn put_list<T: Field>(list: &[T], to: &mut Sink<'_>) {
    (list.len() as u32).put(to);
    list.iter().for_each(|value| value.put(to));
}

/// Every element takes a byte or more, so a count beyond the rest of the input is a lie.
fn get_count(from: &mut Source<'_>) -> Result<u32, DecodeError> {
    let count = u32::get(from)?;
    if count as usize <= from.input.rest().len() { Ok(count) } else { Err(DecodeError::Range("count")) }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, to: &mut Sink<'_>) {
        put_list(self, to);
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        (0..get_count(from)?).map(|_| T::get(from)).collect()
    }
}

impl<T: Field, const N: usize> Field for SmallVec<[T; N]> {
    fn put(&self, to: &mut Sink<'_>) {
        put_list(self, to);
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        (0..get_count(from)?).map(|_| T::get(from)).collect()
    }
}

impl Field for Buf {
    fn put(&self, to: &mut Sink<'_>) {
        assert!((1..=IO_BYTES_MAX).contains(&self.len()), "payload of {} bytes", self.len());
        (self.len() as u32).put(to);
        to.pieces.push(self.clone());
    }
    fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
        let len = u32::get(from)? as usize;
        match from.pieces.next() {
            Some(piece) if piece.len() == len => Ok(piece),
            _ => Err(DecodeError::Range("payload")),
        }
    }
}

/// Enums as a byte and the fields of the variant.
macro_rules! enums {
    ($name:ident $label:literal { $($tag:literal $variant:ident $({ $($field:ident),* })? $(($inner:ident))?;)* }) => {
        impl Field for $name {
            fn put(&self, to: &mut Sink<'_>) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        u8::put(&$tag, to);
                        $($($field.put(to);)*)?
                        $($inner.put(to);)?
                    })*
                }
            }
            fn get(from: &mut Source<'_>) -> Result<Self, DecodeError> {
                match u8::get(from)? {
                    $($tag => {
                        $(let $inner = Field::get(from)?;)?
                        Ok(Self::$variant $({ $($field: Field::get(from)?),* })? $(($inner))?)
                    })*
                    _ => Err(DecodeError::Range($label)),
                }
            }
        }
    };
}
enums!(Status "status" {
    0 Ok;
    1 Fenced { partition, number, grant };
    2 NoToken;
    3 NotOwner;
    4 StaleNumber { number, grant };
    5 NotFree;
    6 DeviceError;
    7 Corrupt;
    8 Retry;
    9 BadRequest;
});
enums!(Body "operation" {
    1 Write { lba, crcs, data };
    2 Clear { lba, count };
    3 ExtentCreate(desc);
    4 Repoint(repoint);
    5 Seal { extent, stripes };
    6 Release { extent };
    7 Delete;
    8 Nothing;
    9 Checkpoint { found, keep };
});
enums!(Place "place" {
    0 Cleared;
    1 Lost;
    2 Known;
    3 Sent;
    4 Extent { id, block };
});
enums!(GatheredFrom "gathered" {
    0 Log;
    1 Extent { id, block };
});
