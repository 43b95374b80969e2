//! Recovery of a device: superblock, partition records, column pages; then it serves (EF-18, P-17, P-18).
//!
//! Until then everything is answered `Retry`. Blocks that cannot be read count as rotten slots. What rotten
//! slots mean:
//!
//! * partition record page, one slot: its records are doubtful, only higher numbers are granted on them;
//!   both slots are rewritten. Two slots: its partitions are quarantined on this device.
//! * column page 0, one slot: a free column skips a generation, since the lost slot may have given the
//!   next one out; an owned one may have lost its newest checksums, whose units then read as `Corrupt`.
//!   Two slots: the column is quarantined.
//! * further column pages: units that were lost read as `Corrupt`.

use super::column::{ColumnPage, ColumnRecord, Hold, PAGE_UNITS};
use super::device::{BOTH_SLOTS, Column, Device, Job, JobKind, RecordSlots, TableSlots};
use super::format::{self, PROBE_BYTES, Superblock, Verdict};
use super::status::DeviceState;
use super::table::UnitTable;
use super::{Ctx, Io, corrupt};
use crate::fence::FenceEntry;
use crate::fence::record::{self, PageError, RecordPage, Slots};
use crate::wire::limits::{BLOCK, IO_BYTES_MAX};
use crate::wire::{BlockError, BlockOp, Event, Out};
use palisade_dma::BufMut;

/// What a block that cannot be read is taken for: no format begins so.
const UNREADABLE: u8 = 0xa5;
/// Record pages of one recovery read.
const CHUNK_PAGES: u32 = (IO_BYTES_MAX / BLOCK / 2) as u32;

/// What is read next.
#[derive(Clone, Copy, Debug, Default)]
enum Step {
    #[default]
    Superblock,
    /// Record pages from this one on.
    Records(u32),
    /// Columns from this one on.
    Columns(u32),
}

/// Recovery on its way.
#[derive(Debug, Default)]
pub(super) struct Boot {
    step: Step,
    /// The chunk that is put together, its place, and how much of it is there.
    chunk: Vec<u8>,
    offset: u64,
    filled: usize,
    /// A read of several blocks failed: one block at a time, to find the bad ones.
    single: bool,
    reading: bool,
    /// Blocks that could not be read.
    unreadable: u32,
    /// Column pages with a slot to rewrite.
    mend: Vec<(u32, usize)>,
}

impl Device {
    /// Reads on, if recovery waits for nothing.
    pub(super) fn boot_turn(&mut self, ctx: &mut Ctx, out: &mut Out) {
        let Some(mut boot) = self.boot.take() else {
            return;
        };
        if !boot.reading {
            if boot.chunk.is_empty() {
                let (offset, len) = self.chunk_of(boot.step);
                boot.offset = offset;
                boot.chunk.resize(len, 0);
            }
            let rest = boot.chunk.len() - boot.filled;
            let len = if boot.single { BLOCK } else { rest };
            if len == 0 {
                self.state = DeviceState::Refused(Verdict::Damaged("too small to hold a superblock"));
                return;
            }
            match ctx.pool.alloc(len) {
                Some(buf) => {
                    boot.reading = true;
                    let offset = boot.offset + boot.filled as u64;
                    ctx.submit(
                        self.spec.ix,
                        Io::Boot { dev: self.place },
                        BlockOp::Read { offset, buf },
                        out,
                    );
                }
                None => ctx.starved = true,
            }
        }
        self.boot = Some(boot);
    }

    /// Place and size of what is read in one go.
    fn chunk_of(&self, step: Step) -> (u64, usize) {
        match step {
            Step::Superblock => (0, PROBE_BYTES.min((self.spec.bytes / BLOCK as u64) as usize * BLOCK)),
            Step::Records(page) => {
                let pages = CHUNK_PAGES.min(self.layout().record_pages - page);
                (self.layout().record_slot(page, 0), pages as usize * 2 * BLOCK)
            }
            Step::Columns(column) => {
                let columns = columns_of_chunk(self.layout()).min(self.layout().columns - column);
                let blocks = columns * self.layout().table_pages() * 2;
                (self.layout().column_slot(column, 0, 0), blocks as usize * BLOCK)
            }
        }
    }

    /// A read of recovery ended.
    pub(super) fn boot_read(&mut self, ctx: &mut Ctx, result: Result<BufMut, BlockError>, out: &mut Out) {
        let Some(mut boot) = self.boot.take() else {
            return;
        };
        boot.reading = false;
        let at = boot.filled;
        match result {
            Ok(buf) => {
                let len = buf.len().min(boot.chunk.len() - at);
                boot.chunk[at..at + len].copy_from_slice(&buf[..len]);
                boot.filled += len;
            }
            Err(_) if !boot.single => boot.single = true,
            Err(_) => {
                boot.chunk[at..at + BLOCK].fill(UNREADABLE);
                boot.filled += BLOCK;
                boot.unreadable += 1;
            }
        }
        if boot.filled < boot.chunk.len() {
            self.boot = Some(boot);
            return;
        }
        let chunk = std::mem::take(&mut boot.chunk);
        (boot.filled, boot.single) = (0, false);
        match boot.step {
            Step::Superblock => self.superblock_read(ctx, boot, &chunk, out),
            Step::Records(page) => self.records_read(ctx, boot, page, &chunk, out),
            Step::Columns(column) => self.columns_read(ctx, boot, column, &chunk, out),
        }
    }

    fn superblock_read(&mut self, ctx: &mut Ctx, mut boot: Box<Boot>, probe: &[u8], out: &mut Out) {
        let verdict = format::judge(probe, self.spec.bytes, ctx.config.rack);
        let Verdict::Ours { superblock, copy_bad } = verdict else {
            let why = "refused: not a device of this rack that this build can serve";
            self.state = match boot.unreadable {
                0 => DeviceState::Refused(verdict),
                _ => DeviceState::Failed("its superblock cannot be read"),
            };
            out.events.push(Event::DeviceFailed { device: self.spec.ix, why });
            return;
        };
        if copy_bad {
            self.counters.corrupt += 1;
            corrupt("superblock", format!("device {}, one copy", superblock.device), out);
            self.mend_superblock(ctx, &superblock, probe, out);
        }
        self.id = Some(superblock.device);
        self.layout = Some(superblock);
        self.records.resize_with(superblock.record_pages as usize, RecordSlots::default);
        boot.step = Step::Records(0);
        if ctx.config.faults.serve_before_recovery() {
            for column in 0..superblock.columns {
                let pages = (0..superblock.table_pages()).map(|_| TableSlots::default()).collect();
                assert_eq!(column as usize, self.columns.len(), "columns come in order");
                self.columns.push(Column { pages, ..Column::default() });
            }
            return self.recovered(ctx, *boot, out);
        }
        self.boot = Some(boot);
    }

    /// Writes the bad copy anew from the good one.
    fn mend_superblock(&self, ctx: &mut Ctx, superblock: &Superblock, probe: &[u8], out: &mut Out) {
        let copy = |slot: usize| probe.get(slot * BLOCK..(slot + 1) * BLOCK).map(Superblock::decode);
        for slot in (0..2).filter(|slot| copy(*slot) != Some(Ok(*superblock))) {
            ctx.scratch.bytes.clear();
            superblock.encode(&mut ctx.scratch);
            // Without a buffer it is mended at another start.
            self.write_page(ctx, Io::Superblock { dev: self.place }, (slot * BLOCK) as u64, true, out);
        }
    }

    /// The bad copy was written, or not.
    pub(super) fn superblock_written(&mut self, good: bool, out: &mut Out) {
        if good {
            let what = format!("device {}", self.device_id());
            out.events.push(Event::Repaired { place: "superblock", what });
        }
    }

    fn records_read(&mut self, ctx: &mut Ctx, mut boot: Box<Boot>, first: u32, chunk: &[u8], out: &mut Out) {
        let pages = (chunk.len() / BLOCK / 2) as u32;
        for page in first..first + pages {
            let at = (page - first) as usize * 2 * BLOCK;
            let decode = |at: usize| RecordPage::decode(&chunk[at..at + BLOCK], self.device_id(), page);
            let slots = record::judge([decode(at), decode(at + BLOCK)], |page| page.sequence);
            self.page_found(ctx, page, slots, out);
        }
        boot.step = match first + pages {
            next if next < self.layout().record_pages => Step::Records(next),
            _ => Step::Columns(0),
        };
        self.boot = Some(boot);
    }

    fn page_found(&mut self, ctx: &Ctx, page: u32, slots: Slots<RecordPage>, out: &mut Out) {
        let half = matches!(slots, Slots::Half { .. });
        if half || slots == Slots::Lost {
            self.counters.corrupt += 1;
            let which = if half { "one slot" } else { "both slots" };
            corrupt("partition record", format!("device {} page {page}, {which}", self.device_id()), out);
        }
        let (found, newest, older) = match slots {
            Slots::Good { page, newest, older } => (page, newest, older.records),
            Slots::Half { page, newest } => (page, newest, Vec::new()),
            Slots::Lost => {
                self.records[page as usize].lost = true;
                return;
            }
        };
        // The survivor of two slots may be the older one, by one write (P-18).
        let doubt = half && !ctx.config.faults.trust_rotten_slot();
        let kept = &mut self.records[page as usize];
        (kept.newest, kept.sequence) = (newest, found.sequence);
        kept.half = half;
        if half {
            self.mark_record_dirty(page);
        }
        for mut record in found.records {
            let place = self.part_of(record.partition);
            record.doubtful |= doubt;
            let part = &mut self.parts[place as usize];
            part.raise(record.number, record.grant);
            part.doubtful = record.doubtful;
            part.record = Some(record);
            let twice = older.iter().any(|other| other.partition == record.partition);
            part.slots = if twice { BOTH_SLOTS } else { 1 << newest };
        }
    }

    fn columns_read(&mut self, ctx: &mut Ctx, mut boot: Box<Boot>, first: u32, chunk: &[u8], out: &mut Out) {
        let each = self.layout().table_pages() as usize * 2 * BLOCK;
        for (at, pages) in chunk.chunks_exact(each).enumerate() {
            self.column_found(&mut boot, first + at as u32, pages, out);
        }
        let next = first + (chunk.len() / each) as u32;
        if next < self.layout().columns {
            boot.step = Step::Columns(next);
            self.boot = Some(boot);
            return;
        }
        self.recovered(ctx, *boot, out);
    }

    fn column_found(&mut self, boot: &mut Boot, number: u32, pages: &[u8], out: &mut Out) {
        let mut column = Column::default();
        for (page, slots) in pages.chunks_exact(2 * BLOCK).enumerate() {
            let decode = |slot: usize| {
                let bytes = &slots[slot * BLOCK..(slot + 1) * BLOCK];
                let found = ColumnPage::decode(bytes, self.device_id(), number, page as u32);
                match found {
                    // Further pages are not formatted: never written is as good as empty.
                    Err(PageError::Blank) if page > 0 => Ok(ColumnPage::blank(self.device_id(), number, 0)),
                    other => other,
                }
            };
            let slots = record::judge([decode(0), decode(1)], |page| page.sequence);
            let half = matches!(slots, Slots::Half { .. });
            if half || slots == Slots::Lost {
                self.counters.corrupt += 1;
                let which = if half { "one slot" } else { "both slots" };
                let what = format!("device {} column {number} page {page}, {which}", self.device_id());
                corrupt("column record", what, out);
            }
            self.column_page_found(&mut column, page, slots);
            if half && (page == 0 || column.owned()) {
                boot.mend.push((number, page));
            }
        }
        self.columns.push(column);
    }

    fn column_page_found(&self, column: &mut Column, page: usize, slots: Slots<ColumnPage>) {
        let half = matches!(slots, Slots::Half { .. });
        let (found, newest) = match slots {
            Slots::Good { page, newest, .. } | Slots::Half { page, newest } => (page, newest),
            Slots::Lost => {
                column.quarantined |= page == 0;
                column.pages.push(TableSlots::default());
                return;
            }
        };
        column.pages.push(TableSlots { newest, sequence: found.sequence, ..TableSlots::default() });
        if page == 0 {
            column.record = found.record;
            if column.owned() {
                column.table = UnitTable::empty(self.layout().units());
            } else if half {
                column.record.generation = column.record.generation.saturating_add(1);
            }
        }
        if !column.owned() || found.record.generation != column.record.generation {
            return;
        }
        for (at, crc) in found.units.iter().enumerate() {
            let unit = (page * PAGE_UNITS + at) as u32;
            if let Some(crc) = crc
                && unit < self.layout().units()
            {
                column.table.stage(unit, *crc);
                column.table.settle(unit, true);
            }
        }
    }

    /// Everything was read: effective numbers, fence entries, rotten slots; then the device serves.
    fn recovered(&mut self, ctx: &mut Ctx, boot: Boot, out: &mut Out) {
        // A column's effective number is the larger of the partition's and its own (EF-12, DESIGN section 2).
        let named: Vec<ColumnRecord> = self.column_numbers().copied().collect();
        for record in named {
            let place = self.part_of(record.partition);
            self.parts[place as usize].raise(record.number, record.grant);
        }
        self.fences = self
            .columns
            .iter()
            .map(|held| match self.by_partition.get(&held.record.partition) {
                Some(part) if held.record.hold == Hold::Owned => FenceEntry {
                    partition: held.record.partition,
                    extent: held.record.extent,
                    generation: held.record.generation,
                    part: *part,
                    ..FenceEntry::FREE
                },
                _ => FenceEntry::FREE,
            })
            .collect();
        self.free = self.columns.iter().filter(|held| held.available()).count() as u32;
        self.state = DeviceState::Ready;
        for (column, page) in boot.mend {
            let job = Job { asker: None, part: 0, column, kind: JobKind::Mend, pages_left: 0, failed: false };
            let key = self.start_job(job);
            self.await_page(column, page, key);
        }
        out.events.push(Event::Note(format!(
            "sled {}: device {} serves {} columns, {} free",
            ctx.config.node,
            self.device_id(),
            self.columns.len(),
            self.free
        )));
    }
}

/// Columns whose pages are read in one go; all slots of a column come together.
fn columns_of_chunk(layout: &Superblock) -> u32 {
    ((IO_BYTES_MAX / BLOCK) as u32 / (layout.table_pages() * 2)).max(1)
}
