//! What a head keeps of one partition, in either role. The verbs that change it live beside this file.

use super::config::{DeviceTarget, PartitionConfig};
use super::copy::Copies;
use super::failover::Decision;
use super::isolate::Isolation;
use super::journal::Journal;
use super::peers::Peers;
use super::salvage::Salvage;
use super::slab::Id;
use super::solo::Withheld;
use super::stats::Stats;
use super::vouch::Vouch;
use crate::log::{BadBlock, Index, Indexes, LogAddr, Lsn};
use crate::wire::*;
use palisade_dma::Buf;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Index as At, IndexMut as AtMut};

/// Where a partition stands on this head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No number under this boot (P-01).
    Idle,
    /// Primary: asks the secondary whether its log goes on where ours ends (P-06).
    Probing,
    /// Primary: the adoption is on its way into the own log.
    Adopting,
    /// Primary: the secondary has to adopt and to hold the tail (P-13).
    Announcing,
    /// Primary: reconciled.
    Serving,
    /// Secondary under the held pair.
    Following,
    /// Out of service until a new assignment.
    Stopped(&'static str),
}

/// A numbered operation that is not committed.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) entry: Entry,
    pub(super) addr: LogAddr,
    pub(super) lsn: Lsn,
    /// Client command that waits for it.
    pub(super) cmd: Id,
    /// Whether the body's bytes are in memory; recovered writes are read back before they are sent.
    pub(super) loaded: bool,
    pub(super) at: Time,
    pub(super) logged_at: Time,
    pub(super) replicated_at: Time,
}

/// The secondary's side.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// The primary's committed watermark.
    pub(super) committed: Op,
    /// Where the primary's log ended when it announced the pair: short of it this one lacks what may have been
    /// acknowledged before.
    pub(super) whole: Op,
    /// Operations that arrived ahead of a missing one.
    pub(super) early: BTreeMap<Op, Entry>,
    /// An answer is due.
    pub(super) reply: bool,
    pub(super) replied: Op,
    pub(super) replied_covered: Op,
    /// Payload blocks received and granted since the announce (P-31).
    pub(super) received: u64,
    pub(super) granted: u64,
    pub(super) replied_grant: u64,
}

/// A pair on its way into the log.
#[derive(Clone, Debug)]
pub(super) struct Adoption {
    pub(super) adopt: Adopt,
    pub(super) lsn: Lsn,
    /// Secondary: what the primary knew committed, and where its log ended.
    pub(super) committed: Op,
    pub(super) whole: Op,
}

/// A primary that asks where the log ends.
#[derive(Clone, Debug)]
pub(super) struct Probing {
    /// The pair to adopt, once the tail is known.
    pub(super) adopt: Adopt,
    /// The pair whose history the own log is a beginning of.
    pub(super) held: Stamp,
    /// The own tail that was asked from.
    pub(super) asked: Option<Op>,
    /// What a primary of a newer number than this one voided: operations above, of such numbers at most.
    pub(super) void: Option<(Op, Number)>,
    /// Operations up to here are readable here, or every secondary has them.
    pub(super) readable: Op,
}

/// A secondary that owes the answer to a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) to: NodeId,
    pub(super) stamp: Stamp,
    /// First operation that the primary lacks.
    pub(super) next: Op,
    /// Where the own log ends.
    pub(super) end: Op,
}

/// A device's claim (EF-15, P-26).
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) target: DeviceTarget,
    pub(super) secret: Option<GrantSecret>,
    /// Open reserve.
    pub(super) asking: Option<Id>,
    pub(super) ask_at: Time,
    /// Columns that can be had, as far as is known; `recount`: that is asked for again.
    pub(super) free: u32,
    pub(super) recount: bool,
    /// Not used for new extents until then.
    pub(super) suspect_until: Time,
    /// Orphan columns are listed from here on; `None`: done.
    pub(super) list_from: Option<u32>,
    pub(super) listing: Option<Id>,
    /// A list that the device could not give is not asked for again before.
    pub(super) list_at: Time,
    /// Columns that the last complete list under a deletion still showed.
    pub(super) owned: u32,
}

impl Claim {
    pub(super) fn new(target: DeviceTarget) -> Self {
        Self {
            target,
            secret: None,
            asking: None,
            ask_at: Time::ZERO,
            free: 0,
            recount: false,
            suspect_until: Time::ZERO,
            list_from: None,
            listing: None,
            list_at: Time::ZERO,
            owned: 0,
        }
    }
}

/// The extent that batches are appended to.
#[derive(Clone, Debug)]
pub(super) struct OpenExtent {
    pub(super) desc: ExtentDesc,
    /// Next stripe that no batch has.
    pub(super) next: u32,
    /// Takes no more stripes: a column rotted, or it was made with fewer than there are now.
    pub(super) leave: bool,
    /// Made from the reserve: only the collector may fill it (P-32).
    pub(super) reserve: bool,
}

/// Operations that are read back from the own log.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Up to here they are in memory or on their way there.
    pub(super) upto: Op,
    /// Nothing is read back before.
    pub(super) at: Time,
}

/// An extent in the making.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) id: ExtentId,
    /// The `Nothing` that gives its identity is committed.
    pub(super) named: bool,
    pub(super) reserve: bool,
    pub(super) columns: SmallVec<[MakeColumn; 8]>,
    /// Devices that refused.
    pub(super) refused: SmallVec<[DeviceId; 8]>,
    /// Its `ExtentCreate` is numbered.
    pub(super) numbered: bool,
}

/// A position of an extent in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MakeColumn {
    /// No device asked yet.
    Open,
    /// A device was asked.
    Asking(DeviceId),
    /// It has one.
    Got(ColumnRef),
    /// There is none for it.
    Absent,
}

impl MakeColumn {
    /// The device that it lies on, or is asked of.
    pub(super) fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Asking(device) => Some(*device),
            Self::Got(column) => Some(column.device),
            Self::Open | Self::Absent => None,
        }
    }
}

/// A column that nobody needs any more, once `after` is covered everywhere (P-28).
#[derive(Clone, Copy, Debug)]
pub(super) struct Dying {
    pub(super) column: ColumnRef,
    pub(super) extent: ExtentId,
    pub(super) after: Op,
    pub(super) asking: bool,
    pub(super) retry_at: Time,
}

/// Work that could not be numbered for lack of room.
#[derive(Clone, Debug)]
pub(super) enum Stalled {
    Merge(Id),
    Clear(Id),
    Write(Id, Lba, Buf),
}

/// A `flush_all` that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushWait {
    pub(super) tag: ClientTag,
    pub(super) upto: Op,
    pub(super) since: Time,
}

/// The number up to which nothing is taken from older primaries, and who probed under it (P-01).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promise {
    /// Nothing is taken under a lower number: a probe was answered under this one.
    pub(super) number: Number,
    pub(super) prober: Option<(NodeId, BootId, Stamp)>,
    /// It did not probe: this head asks it where to cut, and follows as a guest.
    pub(super) guest: bool,
}

/// What was committed when the age mark was set, and when that was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Age {
    pub(super) upto: Op,
    pub(super) since: Time,
}

/// Reads that wait for confirms, by their place in the order of all reads (P-12).
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    pub(super) queue: VecDeque<(u64, Id)>,
    /// Place of the last read that had to wait.
    pub(super) last: u64,
}

/// Service under the present number.
#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) since: Time,
    /// What was committed when it began.
    pub(super) from: Op,
    /// Commands whose operations only this head holds, alone where one copy is not enough (P-30).
    pub(super) withheld: Vec<Withheld>,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) cfg: PartitionConfig,
    pub(super) index: Index,
    /// The durable pair.
    pub(super) stamp: Stamp,
    pub(super) members: SmallVec<[Member; 2]>,
    pub(super) phase: Phase,
    pub(super) adoption: Option<Adoption>,
    pub(super) probing: Option<Probing>,
    pub(super) owed: Option<Owed>,
    /// What a probe was answered under.
    pub(super) promise: Promise,
    /// Up to where this log and that of the primary of a number are the same (P-30).
    pub(super) common: Option<(Number, Op)>,
    pub(super) decision: Decision,
    pub(super) isolation: Isolation,
    /// The pair as it was logged, for checkpoints.
    pub(super) adopted: Option<Adopt>,
    /// Recovery could not vouch for the index, or a copy of it is not whole.
    pub(super) damaged: bool,
    /// Recovery lost records behind the tail: a peer whose log is whole has to fill it.
    pub(super) short: bool,
    /// Recovery lost no record of the log: what it took for a torn end never was durable (P-06).
    pub(super) whole: bool,
    pub(super) committed: Op,
    /// Last operation numbered (primary) or appended (secondary).
    pub(super) tail: Op,
    /// Contiguous durable in the own log.
    pub(super) local: Op,
    pub(super) pending: VecDeque<Pending>,
    /// The last committed operations, up to `committed` without a gap.
    pub(super) recent: VecDeque<Pending>,
    pub(super) load: Load,
    /// The other members of the pair, while this head leads.
    pub(super) peers: Peers,
    /// Copies on sleds while it is alone, and whether sleds vouch for its reads then (P-30).
    pub(super) journal: Journal,
    pub(super) vouch: Vouch,
    /// What was acknowledged alone elsewhere is taken over from sleds first.
    pub(super) salvage: Option<Box<Salvage>>,
    pub(super) follow: Follow,
    pub(super) waiting: VecDeque<(ClientCmd, Time)>,
    pub(super) stalled: VecDeque<Stalled>,
    pub(super) active: u32,
    pub(super) reads: Unconfirmed,
    pub(super) claims: Vec<Claim>,
    pub(super) service: Service,
    pub(super) open: Option<OpenExtent>,
    /// The next one, made while batches fill the open one.
    pub(super) spare: Option<OpenExtent>,
    pub(super) making: Option<Making>,
    pub(super) make_at: Time,
    pub(super) no_columns_since: Option<Time>,
    pub(super) batches: VecDeque<Id>,
    pub(super) gathering: BTreeSet<u64>,
    /// Log blocks that neither member could read: how often, and when they are gathered again.
    pub(super) unreadable: BTreeMap<u64, (u8, Time)>,
    pub(super) flushes: Vec<FlushWait>,
    pub(super) age: Age,
    pub(super) collecting: BTreeSet<(ExtentId, u32)>,
    pub(super) collect_at: Time,
    /// Columns known to be rotten or lost, a bit each.
    pub(super) rot: BTreeMap<ExtentId, u16>,
    /// Extents with blocks that could not be read, and when the collector tries them again.
    pub(super) lost: BTreeMap<ExtentId, Time>,
    /// Extents whose seal or release is numbered but not committed.
    pub(super) closing: BTreeSet<ExtentId>,
    pub(super) dying: Vec<Dying>,
    pub(super) bad: Vec<BadBlock>,
    pub(super) copy: Copies,
    /// A checkpoint has to get past this, so that columns may be released (P-28).
    pub(super) released_op: Op,
    pub(super) deleting: bool,
    pub(super) deleted: bool,
    pub(super) deleted_told: bool,
    pub(super) stats: Stats,
}

impl Part {
    pub(super) fn new(cfg: PartitionConfig) -> Self {
        Self {
            stamp: Stamp { partition: cfg.partition, ..Stamp::default() },
            claims: cfg.devices.iter().copied().map(Claim::new).collect(),
            index: Index::new(cfg.blocks),
            cfg,
            members: SmallVec::new(),
            phase: Phase::Idle,
            adoption: None,
            probing: None,
            owed: None,
            promise: Promise::default(),
            common: None,
            decision: Decision::default(),
            isolation: Isolation::default(),
            adopted: None,
            damaged: false,
            short: false,
            whole: true,
            committed: Op(0),
            tail: Op(0),
            local: Op(0),
            pending: VecDeque::new(),
            recent: VecDeque::new(),
            load: Load::default(),
            peers: Peers::new(),
            journal: Journal::default(),
            vouch: Vouch::default(),
            salvage: None,
            follow: Follow::default(),
            waiting: VecDeque::new(),
            stalled: VecDeque::new(),
            active: 0,
            reads: Unconfirmed::default(),
            service: Service::default(),
            open: None,
            spare: None,
            making: None,
            make_at: Time::ZERO,
            no_columns_since: None,
            batches: VecDeque::new(),
            gathering: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            flushes: Vec::new(),
            age: Age::default(),
            collecting: BTreeSet::new(),
            collect_at: Time::ZERO,
            rot: BTreeMap::new(),
            lost: BTreeMap::new(),
            closing: BTreeSet::new(),
            dying: Vec::new(),
            bad: Vec::new(),
            copy: Copies::default(),
            released_op: Op(0),
            deleting: false,
            deleted: false,
            deleted_told: false,
            stats: Stats::default(),
        }
    }

    pub(super) fn id(&self) -> PartitionId {
        self.cfg.partition
    }

    pub(super) fn serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Highest number that this head has anything to do with: held, on its way, or promised to another.
    pub(super) fn newest(&self) -> Number {
        let adopting = self.adoption.as_ref().map_or(Number::ZERO, |adoption| adoption.adopt.number);
        let probing = self.probing.as_ref().map_or(Number::ZERO, |probing| probing.adopt.number);
        self.stamp.number.max(adopting).max(probing).max(self.promise.number)
    }

    /// A secondary that does not hold all that the primary announced yet: alone it would serve old data.
    pub(super) fn behind(&self) -> bool {
        self.phase == Phase::Following && self.tail < self.follow.whole
    }

    /// Whether it leads, or is about to.
    pub(super) fn leads(&self) -> bool {
        matches!(self.phase, Phase::Probing | Phase::Adopting | Phase::Announcing | Phase::Serving)
    }

    /// Claim of a device.
    pub(super) fn claim(&mut self, device: DeviceId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.target.device == device)
    }

    /// The sled that serves a device now: devices move, descriptors do not.
    pub(super) fn sled_of(&self, device: DeviceId) -> Option<NodeId> {
        self.claims.iter().find(|claim| claim.target.device == device).map(|claim| claim.target.sled)
    }
}

/// All partitions; a partition keeps its place for the life of the head.
#[derive(Debug, Default)]
pub(super) struct Parts {
    all: Vec<Part>,
    by_id: BTreeMap<PartitionId, usize>,
}

impl Parts {
    pub(super) fn find(&self, id: PartitionId) -> Option<usize> {
        // A head serves few partitions and asks about the same one again and again.
        if let [only] = self.all.as_slice() {
            return (only.cfg.partition == id).then_some(0);
        }
        self.by_id.get(&id).copied()
    }

    pub(super) fn add(&mut self, part: Part) -> usize {
        self.by_id.insert(part.id(), self.all.len());
        self.all.push(part);
        self.all.len() - 1
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.all.iter()
    }
}

impl At<usize> for Parts {
    type Output = Part;
    fn index(&self, at: usize) -> &Part {
        &self.all[at]
    }
}

impl AtMut<usize> for Parts {
    fn index_mut(&mut self, at: usize) -> &mut Part {
        &mut self.all[at]
    }
}

impl Indexes for Parts {
    fn index(&mut self, partition: PartitionId) -> Option<&mut Index> {
        let at = self.find(partition)?;
        let part = &mut self.all[at];
        (!part.deleted).then_some(&mut part.index)
    }
}
