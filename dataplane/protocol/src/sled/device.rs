//! State of one device: partitions, columns, pages, what is in flight. Verbs are in files of their own.

use super::column::ColumnRecord;
use super::config::DeviceSpec;
use super::format::Superblock;
use super::full::{self, Full};
use super::slab::Slab;
use super::status::{Counters, DeviceState, DeviceStatus};
use super::table::UnitTable;
use super::{Asker, Ctx, boot, scrub};
use crate::fence::record::PartitionRecord;
use crate::fence::{ColumnPermit, FenceEntry, Gate, ReservePermit};
use crate::sled::column::Hold;
use crate::wire::{
    BlockError, BootId, ColumnRef, DeviceId, Event, GrantId, GrantSecret, NodeId, Number, Out, PartitionId,
    Stamp, Status, Time,
};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// A grant that lives: its secret is known to one boot of one head. Lost at a restart (EF-18).
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) stamp: Stamp,
    pub(super) secret: GrantSecret,
}

/// A reservation on its way: drain, then record, then grant.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) record: PartitionRecord,
    pub(super) askers: SmallVec<[Asker; 2]>,
    /// When the device counts as suspect.
    pub(super) until: Time,
    /// Older writes have ended; the record is being written.
    pub(super) recording: bool,
    /// Page writes that must still hold the record before the grant.
    pub(super) copies: u8,
}

/// A partition that both slots of its page name.
pub(super) const BOTH_SLOTS: u8 = 3;

/// A partition on this device.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) gate: Gate,
    /// Counts grants of the partition in this boot; fence entries of older ones are void.
    pub(super) ordinal: u32,
    /// What lies on the medium.
    pub(super) record: Option<PartitionRecord>,
    /// Bit per slot of its page that names the partition, under whatever number.
    pub(super) slots: u8,
    /// What the next page write shall hold instead.
    pub(super) next: Option<PartitionRecord>,
    /// Who raised the floor in this boot; a claim that was given up may be repeated by its holder alone.
    pub(super) wanted: Option<PartitionRecord>,
    /// Highest number known, pending ones included (P-20).
    pub(super) floor: Number,
    /// Grant of that number.
    pub(super) floor_grant: GrantId,
    /// Only a number above the floor is granted (P-18).
    pub(super) doubtful: bool,
    /// Another grant showed up at the same number: both are stopped (P-04).
    pub(super) contested: Option<GrantId>,
    pub(super) live: Option<Live>,
    pub(super) claim: Option<Claim>,
    /// A drain did not end in time.
    pub(super) stuck: bool,
    /// It is in the device's list of partitions with a claim.
    pub(super) listed: bool,
}

impl Part {
    pub(super) fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            gate: Gate::closed(),
            ordinal: 0,
            record: None,
            slots: 0,
            next: None,
            wanted: None,
            floor: Number::ZERO,
            floor_grant: GrantId(0),
            doubtful: false,
            contested: None,
            live: None,
            claim: None,
            stuck: false,
            listed: false,
        }
    }

    /// Learns of a number, from a record or a reservation.
    pub(super) fn raise(&mut self, number: Number, grant: GrantId) {
        if number > self.floor {
            (self.floor, self.floor_grant) = (number, grant);
        }
    }
}

/// A partition record page in memory; it has one serial writer (P-18).
#[derive(Debug, Default)]
pub(super) struct RecordSlots {
    pub(super) newest: u8,
    pub(super) sequence: u64,
    pub(super) writing: bool,
    pub(super) since: Time,
    pub(super) dirty: bool,
    /// One slot was found rotten and has not been rewritten.
    pub(super) half: bool,
    /// Both slots were found rotten: the page's partitions are quarantined on this device.
    pub(super) lost: bool,
    /// Partitions of the page.
    pub(super) members: Vec<u32>,
    /// Records that the write in flight carries for the first time.
    pub(super) included: Vec<(u32, PartitionRecord)>,
}

/// A column page in memory; it has one serial writer.
#[derive(Debug, Default)]
pub(super) struct TableSlots {
    pub(super) newest: u8,
    pub(super) sequence: u64,
    pub(super) writing: bool,
    /// Jobs that the next write shall carry.
    pub(super) waiting: Vec<u64>,
    /// Jobs that the write in flight carries.
    pub(super) included: Vec<u64>,
}

/// A column.
#[derive(Debug, Default)]
pub(super) struct Column {
    pub(super) record: ColumnRecord,
    /// A reservation or release on its way to the medium.
    pub(super) change: Option<ColumnRecord>,
    /// Its record rotted in both slots.
    pub(super) quarantined: bool,
    pub(super) table: UnitTable,
    pub(super) pages: SmallVec<[TableSlots; 1]>,
    /// Jobs in flight on it.
    pub(super) active: SmallVec<[u64; 4]>,
    /// It is in the device's list of columns with pages to write.
    pub(super) dirty: bool,
}

impl Column {
    pub(super) fn owned(&self) -> bool {
        self.record.hold == Hold::Owned
    }

    pub(super) fn available(&self) -> bool {
        !self.owned() && !self.quarantined && self.change.is_none()
    }
}

/// A change of a column, from its admission to its answer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) asker: Option<Asker>,
    pub(super) part: u32,
    pub(super) column: u32,
    pub(super) kind: JobKind,
    /// Column pages that still have to be written.
    pub(super) pages_left: u8,
    pub(super) failed: bool,
}

/// What a job does; its permit lives as long as the job (P-16).
#[derive(Debug)]
pub(super) enum JobKind {
    /// Stripe units.
    Append { permit: Option<ColumnPermit>, stamp: Stamp, first: u32, crcs: SmallVec<[u32; 4]> },
    /// A unit that had rotted, as it was.
    Rewrite { permit: ColumnPermit, unit: u32 },
    /// A new owner.
    Reserve { permit: ReservePermit, next: ColumnRecord },
    /// No owner any more.
    Release { permit: ColumnPermit, next: ColumnRecord },
    /// Rewrites a rotten slot.
    Mend,
}

/// One device of the sled.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) place: u16,
    pub(super) spec: DeviceSpec,
    pub(super) id: Option<DeviceId>,
    pub(super) state: DeviceState,
    pub(super) boot: Option<Box<boot::Boot>>,
    pub(super) layout: Option<Superblock>,
    pub(super) fences: Vec<FenceEntry>,
    pub(super) columns: Vec<Column>,
    pub(super) parts: Vec<Part>,
    pub(super) by_partition: BTreeMap<PartitionId, u32>,
    pub(super) records: Vec<RecordSlots>,
    /// Some record page is dirty, so that a turn without any need not look.
    pub(super) records_dirty: bool,
    pub(super) jobs: Slab<Job>,
    pub(super) free: u32,
    pub(super) reads: usize,
    /// Partitions with a claim on its way.
    pub(super) claiming: Vec<u32>,
    pub(super) dirty_columns: Vec<u32>,
    /// Column reserves answered of late, oldest first (P-22).
    pub(super) remembered: VecDeque<(Asker, ColumnRef)>,
    /// Where the search for a free column goes on.
    pub(super) cursor: u32,
    pub(super) scrub: scrub::Scrub,
    pub(super) counters: Counters,
    /// Its file system has no room.
    pub(super) full: Option<Full>,
}

impl Device {
    pub(super) fn new(place: u16, spec: DeviceSpec) -> Self {
        Self {
            place,
            spec,
            id: None,
            state: DeviceState::Recovering,
            boot: Some(Box::default()),
            layout: None,
            fences: Vec::new(),
            columns: Vec::new(),
            parts: Vec::new(),
            by_partition: BTreeMap::new(),
            records: Vec::new(),
            records_dirty: false,
            jobs: Slab::new(),
            free: 0,
            reads: 0,
            claiming: Vec::new(),
            dirty_columns: Vec::new(),
            remembered: VecDeque::new(),
            cursor: 0,
            scrub: scrub::Scrub::default(),
            counters: Counters::default(),
            full: None,
        }
    }

    /// The layout of a device that was found to be ours.
    pub(super) fn layout(&self) -> &Superblock {
        self.layout.as_ref().expect("only recovered devices carry out requests")
    }

    /// The identity of a device that was found to be ours.
    pub(super) fn device_id(&self) -> DeviceId {
        self.layout().device
    }

    /// Whether the device takes reads at present; otherwise the refusal.
    pub(super) fn serves_reads(&self) -> Result<(), Status> {
        match self.state {
            DeviceState::Ready | DeviceState::Suspect | DeviceState::Full => Ok(()),
            DeviceState::Recovering => Err(Status::Retry),
            DeviceState::Refused(_) | DeviceState::Failed(_) => Err(Status::DeviceError),
        }
    }

    /// Whether the device takes changes at present that need no room; otherwise the refusal.
    pub(super) fn serves_records(&self) -> Result<(), Status> {
        if self.state == DeviceState::Suspect {
            return Err(Status::DeviceError);
        }
        self.serves_reads()
    }

    /// Whether the device takes new data at present; otherwise the refusal.
    pub(super) fn serves_changes(&self) -> Result<(), Status> {
        if self.full.is_some() {
            return Err(Status::DeviceError);
        }
        self.serves_records()
    }

    /// What a change is refused with that asks for room and got none, because a write failed: a device that is full
    /// has nothing to give, and is not ill for that (EF-22).
    pub(super) fn not_given(&self) -> Status {
        if self.full.is_some() { Status::NotFree } else { Status::DeviceError }
    }

    /// Columns that can be had at present.
    pub(super) fn free_now(&self) -> u32 {
        if self.full.is_some() { 0 } else { self.free }
    }

    /// Counts a refusal.
    pub(super) fn refuse(&mut self, status: Status) -> Status {
        self.counters.refused.count(&status);
        status
    }

    /// Reports a failed command; a device that is gone is failed for good.
    pub(super) fn note_error(&mut self, error: BlockError, out: &mut Out) {
        let why = match error {
            BlockError::Gone => "device gone",
            BlockError::Io => "I/O error",
            BlockError::NoSpace => full::WHY,
            BlockError::Range => "range outside the device",
        };
        if error == BlockError::Gone {
            if matches!(self.state, DeviceState::Failed(_)) {
                return;
            }
            self.state = DeviceState::Failed(why);
            self.boot = None;
        }
        out.events.push(Event::DeviceFailed { device: self.spec.ix, why });
    }

    /// When something must be looked at again.
    pub(super) fn deadlines(&self, ctx: &Ctx) -> [Option<Time>; 3] {
        let claims = self.claiming.iter().filter_map(|part| self.parts[*part as usize].claim.as_ref());
        [claims.map(|claim| claim.until).min(), self.scrub_due(ctx), self.room_due()]
    }

    /// Whether nothing is in flight or waiting.
    pub(super) fn idle(&self) -> bool {
        let quiet = self.jobs.len() == 0 && self.claiming.is_empty() && self.dirty_columns.is_empty();
        quiet && self.state != DeviceState::Recovering && !self.records_dirty
    }

    /// How the device is.
    pub(super) fn status(&self) -> DeviceStatus {
        DeviceStatus {
            ix: self.spec.ix,
            device: self.id,
            state: match &self.state {
                DeviceState::Ready if self.full.is_some() => DeviceState::Full,
                state => state.clone(),
            },
            columns: self.columns.len() as u32,
            free: self.free,
            quarantined: self.columns.iter().filter(|column| column.quarantined).count() as u32,
            column_bytes: self.layout.map_or(0, |layout| layout.column_bytes),
            partitions: self.parts.iter().filter(|part| part.record.is_some()).count() as u32,
            counters: self.counters,
        }
    }

    /// Holder of a number, for comparison at a reclaim (OP-01).
    pub(super) fn holder(record: &PartitionRecord) -> (NodeId, BootId) {
        (record.head, record.boot)
    }
}
