//! Reading a device image for people: superblock, partition records, columns, each with its verdict.
//!
//! Works on any reader of (offset, length), changes nothing, and believes nothing that fails its checksum.

use super::column::{ColumnPage, ColumnRecord, Hold, PAGE_UNITS};
use super::format::{MAGIC, PROBE_BYTES, Superblock, Verdict, judge};
use crate::fence::record::{self, PageError, PartitionRecord, RecordPage, Slots};
use crate::wire::limits::BLOCK;
use crate::wire::{PartitionId, RackId};
use palisade_isal::crc32c;

/// Whether the bytes belong to a sled device, by the first block or the second.
pub fn is_sled(probe: &[u8]) -> bool {
    let signed = |at: usize| probe.get(at..at + 8).is_some_and(|bytes| bytes == MAGIC.to_le_bytes());
    signed(0) || signed(BLOCK)
}

/// A page as inspection saw its two slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotVerdicts {
    /// Sequence of a good slot, or what is wrong with it.
    pub slots: [Result<u64, PageError>; 2],
}

impl SlotVerdicts {
    /// Whether both slots are good.
    pub fn good(&self) -> bool {
        self.slots.iter().all(Result::is_ok)
    }
}

/// A partition record page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedPage {
    /// Which page.
    pub page: u32,
    /// Its slots.
    pub verdicts: SlotVerdicts,
    /// Records of the newest good slot.
    pub records: Vec<PartitionRecord>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedColumn {
    /// Its number.
    pub column: u32,
    /// Slots of page 0.
    pub verdicts: SlotVerdicts,
    /// Its record, from the newest good slot.
    pub record: Option<ColumnRecord>,
    /// Stripe units with a checksum.
    pub units: u32,
    /// Units whose bytes do not match it; empty unless data was asked for.
    pub corrupt: Vec<u32>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// One of its copies is damaged.
    pub copy_bad: bool,
    /// Partition record pages that hold something or are damaged.
    pub pages: Vec<InspectedPage>,
    /// Columns that were ever owned, or are damaged.
    pub columns: Vec<InspectedColumn>,
}

/// Looks through a device of `bytes` bytes. `read` fills exactly what it is asked for, or tells why not.
/// With `rack` unset any rack is accepted; with `data` every stripe unit is read and compared.
pub fn inspect<E: From<Verdict>>(
    bytes: u64,
    rack: Option<RackId>,
    data: bool,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Inspection, E> {
    let probe = read(0, PROBE_BYTES.min(bytes as usize))?;
    let first = |at: usize| probe.get(at..at + BLOCK).and_then(|copy| Superblock::decode(copy).ok());
    let rack = rack.or_else(|| first(0).or_else(|| first(BLOCK)).map(|found| found.rack));
    let (superblock, copy_bad) = match judge(&probe, bytes, rack.unwrap_or_default()) {
        Verdict::Ours { superblock, copy_bad } => (superblock, copy_bad),
        other => return Err(other.into()),
    };
    let mut found = Inspection { superblock, copy_bad, pages: Vec::new(), columns: Vec::new() };
    for page in 0..superblock.record_pages {
        let slots = read(superblock.record_slot(page, 0), 2 * BLOCK)?;
        let decode = |slot: usize| RecordPage::decode(slot_of(&slots, slot), superblock.device, page);
        let (verdicts, newest) = pair([decode(0), decode(1)], |page| page.sequence);
        let records = newest.map(|page| page.records).unwrap_or_default();
        if !records.is_empty() || !verdicts.good() {
            found.pages.push(InspectedPage { page, verdicts, records });
        }
    }
    for column in 0..superblock.columns {
        let seen = inspect_column(&superblock, column, data, &mut read)?;
        let touched = seen.record.is_some_and(|record| record.generation > 0);
        if touched || !seen.verdicts.good() {
            found.columns.push(seen);
        }
    }
    Ok(found)
}

/// The record of one partition as it lies on the medium, from the newest good slot of its page.
pub fn partition_record<E>(
    sb: &Superblock,
    partition: PartitionId,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Option<PartitionRecord>, E> {
    let page = record::page_of(partition, sb.record_pages);
    let slots = read(sb.record_slot(page, 0), 2 * BLOCK)?;
    let decode = |slot: usize| RecordPage::decode(slot_of(&slots, slot), sb.device, page);
    let (_, newest) = pair([decode(0), decode(1)], |page| page.sequence);
    Ok(newest.and_then(|page| page.records.into_iter().find(|record| record.partition == partition)))
}

fn inspect_column<E>(
    sb: &Superblock,
    column: u32,
    data: bool,
    read: &mut impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<InspectedColumn, E> {
    let mut seen: Option<InspectedColumn> = None;
    for page in 0..sb.table_pages() {
        let slots = read(sb.column_slot(column, page, 0), 2 * BLOCK)?;
        let decode = |slot: usize| ColumnPage::decode(slot_of(&slots, slot), sb.device, column, page);
        let (verdicts, newest) = pair([decode(0), decode(1)], |page| page.sequence);
        let record = newest.as_ref().map(|page| page.record);
        let entry = seen.get_or_insert_with(|| InspectedColumn {
            column,
            verdicts,
            record,
            units: 0,
            corrupt: Vec::new(),
        });
        let owned = entry.record.filter(|record| record.hold == Hold::Owned);
        let (Some(owner), Some(newest)) = (owned, newest) else {
            break;
        };
        if newest.record.generation != owner.generation {
            continue;
        }
        for (at, crc) in newest.units.iter().enumerate() {
            let Some(crc) = crc else {
                continue;
            };
            entry.units += 1;
            let unit = page as usize * PAGE_UNITS + at;
            let offset = sb.column_data(column) + unit as u64 * u64::from(sb.unit_bytes);
            if data && crc32c(&read(offset, sb.unit_bytes as usize)?) != *crc {
                entry.corrupt.push(unit as u32);
            }
        }
    }
    Ok(seen.expect("a column has at least one page"))
}

fn slot_of(slots: &[u8], slot: usize) -> &[u8] {
    slots.get(slot * BLOCK..(slot + 1) * BLOCK).unwrap_or(&[])
}

fn pair<P>(slots: [Result<P, PageError>; 2], sequence: impl Fn(&P) -> u64) -> (SlotVerdicts, Option<P>) {
    let told = |slot: &Result<P, PageError>| slot.as_ref().map(&sequence).map_err(Clone::clone);
    let verdicts = SlotVerdicts { slots: [told(&slots[0]), told(&slots[1])] };
    let newest = match record::judge(slots, &sequence) {
        Slots::Good { page, .. } | Slots::Half { page, .. } => Some(page),
        Slots::Lost => None,
    };
    (verdicts, newest)
}
