//! Column reads: partition and generation checked, before the medium is read and after (P-15).
//!
//! A delayed read must not return what a later owner of the column wrote, so the record is compared again
//! when the bytes are there. Units that are read whole are compared with their checksum; of parts of units
//! the sled cannot tell, and the head compares its block checksums. A unit that the table does not know is
//! answered `Corrupt`: whoever was told that it was written counts this column as missing.

use super::config::READS_MAX;
use super::device::Device;
use super::{Asker, Ctx, Io, corrupt};
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use crate::wire::{BlockError, BlockOp, ColumnRef, Msg, Out, PartitionId, Status};
use palisade_dma::{Buf, BufMut};
use palisade_isal::crc32c;

/// What the message says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) partition: PartitionId,
    pub(super) column: ColumnRef,
    pub(super) block: u32,
    pub(super) count: u32,
}

/// A read in flight.
#[derive(Debug)]
pub(super) struct Reading {
    asker: Asker,
    want: Want,
}

/// Answers a column read.
pub(super) fn answer(asker: Asker, status: Status, data: Option<Buf>, out: &mut Out) {
    out.net.push((asker.node, Msg::ColumnData { req: asker.req, status, data }));
}

impl Device {
    /// The verb.
    pub(super) fn column_read(&mut self, ctx: &mut Ctx, asker: Asker, want: Want, out: &mut Out) {
        if let Err(status) = self.try_read(ctx, asker, want, out) {
            answer(asker, self.refuse(status), None, out);
        }
    }

    fn try_read(&mut self, ctx: &mut Ctx, asker: Asker, want: Want, out: &mut Out) -> Result<(), Status> {
        self.serves_reads()?;
        let layout = self.layout();
        let end = u64::from(want.block) + u64::from(want.count);
        let fits =
            (1..=IO_BLOCKS_MAX as u32).contains(&want.count) && end <= u64::from(layout.column_blocks());
        if !fits || want.column.column >= layout.columns {
            return Err(Status::BadRequest);
        }
        let offset = layout.column_data(want.column.column) + u64::from(want.block) * BLOCK as u64;
        self.check_read(ctx, &want)?;
        if self.reads >= READS_MAX {
            return Err(Status::Retry);
        }
        let buf = ctx.pool.alloc_client(want.count as usize * BLOCK).ok_or(Status::Retry)?;
        self.reads += 1;
        let io = Io::Read { dev: self.place, read: Reading { asker, want } };
        ctx.submit(self.spec.ix, io, BlockOp::Read { offset, buf }, out);
        Ok(())
    }

    /// Owner, generation, and whether the units are there.
    fn check_read(&self, ctx: &Ctx, want: &Want) -> Result<(), Status> {
        if ctx.config.faults.read_unchecked() {
            return Ok(());
        }
        let held = &self.columns[want.column.column as usize];
        if held.quarantined {
            return Err(Status::Corrupt);
        }
        let record = &held.record;
        let same = record.partition == want.partition && record.generation == want.column.generation;
        if !held.owned() || !same {
            return Err(Status::NotOwner);
        }
        let blocks = self.layout().unit_bytes / BLOCK as u32;
        let (first, last) = (want.block / blocks, (want.block + want.count - 1) / blocks);
        if (first..=last).any(|unit| held.table.known(unit).is_none()) {
            return Err(Status::Corrupt);
        }
        Ok(())
    }

    /// The bytes are there.
    pub(super) fn read_done(
        &mut self,
        ctx: &Ctx,
        read: Reading,
        result: Result<BufMut, BlockError>,
        out: &mut Out,
    ) {
        self.reads -= 1;
        let Reading { asker, want } = read;
        let checked = result.map_err(|_| Status::DeviceError).and_then(|buf| {
            self.check_read(ctx, &want)?;
            self.check_units(ctx, &want, &buf, out)?;
            Ok(buf)
        });
        match checked {
            Ok(buf) => {
                self.counters.reads += 1;
                self.counters.bytes_read += buf.len() as u64;
                answer(asker, Status::Ok, Some(buf.freeze()), out);
            }
            Err(status) => answer(asker, self.refuse(status), None, out),
        }
    }

    /// Compares the units that were read whole (P-23).
    fn check_units(&mut self, ctx: &Ctx, want: &Want, bytes: &[u8], out: &mut Out) -> Result<(), Status> {
        let unit_bytes = self.layout().unit_bytes as usize;
        let blocks = (unit_bytes / BLOCK) as u32;
        let mut unit = want.block.div_ceil(blocks);
        let mut bad = false;
        while (unit + 1) * blocks <= want.block + want.count {
            let at = (unit * blocks - want.block) as usize * BLOCK;
            bad |= !self.unit_good(ctx, want.column.column, unit, &bytes[at..at + unit_bytes], out);
            unit += 1;
        }
        if bad { Err(Status::Corrupt) } else { Ok(()) }
    }

    /// Compares one unit with the table, counts and reports a mismatch.
    pub(super) fn unit_good(
        &mut self,
        ctx: &Ctx,
        column: u32,
        unit: u32,
        bytes: &[u8],
        out: &mut Out,
    ) -> bool {
        let held = &self.columns[column as usize];
        let good = held.table.known(unit).is_none_or(|crc| crc == crc32c(bytes));
        if good || ctx.config.faults.unit_crc_unchecked() {
            return true;
        }
        self.counters.corrupt += 1;
        let record = &held.record;
        let what = format!(
            "device {} column {column} generation {} partition {} extent {} stripe {unit}",
            self.device_id(),
            record.generation,
            record.partition,
            record.extent
        );
        corrupt("column", what, out);
        self.note_rot(column, unit);
        false
    }
}
