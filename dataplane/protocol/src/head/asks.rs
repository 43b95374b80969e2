//! Open questions, and those of a rebuild that wait for their turn.
//!
//! A device gets few requests of a rebuild at once (EF-22): that keeps it busy, and a client's request finds a short
//! queue there. All batches of a rebuild together would send a device dozens at times, and none at others.

use super::core::Core;
use super::mend::Step;
use super::read::ReadOwner;
use super::slab::Id;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// An open question.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) part: usize,
    pub(super) to: NodeId,
    pub(super) device: DeviceId,
    pub(super) what: What,
    /// Sent again as it is.
    pub(super) msg: Msg,
    pub(super) since: Time,
    /// When it was sent first, or again after its sled asked for that.
    pub(super) sent: Time,
    pub(super) repeat_at: Time,
    pub(super) gap: Duration,
    /// A column read: when other columns are asked too.
    pub(super) hedge_at: Option<Time>,
    /// Waits for a new token before it is sent again (P-22).
    pub(super) held: bool,
    /// Waits until its device has answered others of the rebuild.
    pub(super) queued: bool,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Claim of a device.
    Reserve,
    /// Columns that a device holds of the partition (P-27).
    List,
    /// A column for position `at` of the extent in the making.
    MakeColumn { extent: ExtentId, at: usize },
    /// Column `column` of a batch.
    Write { batch: Id, column: usize },
    /// Column `column` for a piece.
    Read { piece: Id, column: usize },
    /// A column that nobody needs.
    Release { column: u32, generation: u32 },
    /// A block of the peer's log.
    Fetch { piece: Id, at: usize },
    /// A block of a column, to see how its device is.
    Try { column: ColumnRef },
    /// A column for copy `at` of a chapter of a checkpoint.
    PageColumn { generation: u32, chapter: u32, at: usize },
    /// A page of it for copy `at`.
    PageWrite { generation: u32, page: u32, at: usize },
    /// A page for a copy that this head takes.
    BasisRead { session: u64, generation: u32, page: u32 },
    /// A column for copy `at` of a chapter of the journal.
    JournalColumn { chapter: u32, at: usize },
    /// A unit of the journal for copy `at`.
    JournalWrite { chapter: u32, unit: u32, at: usize },
    /// Whether the number still holds, before reads of a lone head are answered.
    Vouch { round: u64 },
    /// Columns that a device holds, for a salvage.
    Survey,
    /// A rotten copy of what was acknowledged alone, which is made good.
    Mend(Step),
    /// A unit for a salvage: the copy `copy` of chapter `chapter`, by their places in its table.
    SalvageRead { chapter: usize, unit: u32, copy: usize },
}

impl What {
    /// Whether it is about a checkpoint on sleds.
    pub(super) fn of_checkpoint(&self) -> bool {
        matches!(self, Self::PageColumn { .. } | Self::PageWrite { .. } | Self::BasisRead { .. })
    }

    /// Whether it is about a journal: what a lone head copies, asks before it reads, or left behind.
    pub(super) fn lone(&self) -> bool {
        matches!(
            self,
            Self::JournalColumn { .. }
                | Self::JournalWrite { .. }
                | Self::Vouch { .. }
                | Self::Survey
                | Self::SalvageRead { .. }
                | Self::Mend(_)
        )
    }
}

impl Ask {
    pub(super) fn new(part: usize, to: NodeId, device: DeviceId, what: What, msg: Msg) -> Self {
        let (since, sent, repeat_at, gap) = (Time::ZERO, Time::ZERO, Time::ZERO, Duration::ZERO);
        Self {
            part,
            to,
            device,
            what,
            msg,
            since,
            sent,
            repeat_at,
            gap,
            hedge_at: None,
            held: false,
            queued: false,
        }
    }
}

impl Core {
    /// Whether a question that is about to be asked waits: it is of a rebuild, and its device has enough of these.
    pub(super) fn queues(&self, ask: &Ask) -> bool {
        self.of_rebuild(&ask.what) && self.at_device(ask.device) >= self.cfg.flush.rebuild_requests.max(1)
    }

    /// Whether a batch of a rebuild asks this.
    fn of_rebuild(&self, what: &What) -> bool {
        let batch = match *what {
            What::Write { batch, .. } => batch,
            What::Read { piece, .. } => {
                let read = self.pieces.get(piece).and_then(|piece| self.reads.get(piece.read));
                let Some(ReadOwner::Batch(batch)) = read.map(|read| read.owner) else { return false };
                batch
            }
            _ => return false,
        };
        self.batches.get(batch).is_some_and(|batch| batch.rebuild)
    }

    /// Requests of rebuilds that a device has.
    fn at_device(&self, device: DeviceId) -> u8 {
        let there = |ask: &Ask| ask.device == device && !ask.queued && self.of_rebuild(&ask.what);
        self.asks.iter().filter(|(_, ask)| there(ask)).count().min(usize::from(u8::MAX)) as u8
    }

    /// Sends questions of rebuilds whose turn it is. What nobody waits for any longer is forgotten.
    pub(super) fn send_queued(&mut self, now: Time, out: &mut Out) {
        if self.queue.is_empty() {
            return;
        }
        let most = self.cfg.flush.rebuild_requests.max(1);
        let mut there: SmallVec<[(DeviceId, u8); 16]> = SmallVec::new();
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|&id| {
            let Some(device) = self.asks.get(id).map(|ask| ask.device) else { return false };
            let at = there.iter().position(|(known, _)| *known == device).unwrap_or_else(|| {
                there.push((device, self.at_device(device)));
                there.len() - 1
            });
            if there[at].1 >= most {
                return true;
            }
            there[at].1 += 1;
            if let Some(ask) = self.asks.get_mut(id) {
                let wake = ask.start(now);
                if !ask.held {
                    out.net.push((ask.to, ask.msg.clone()));
                }
                self.arm(wake);
            }
            false
        });
        self.queue = queue;
    }
}

impl Ask {
    /// Its time begins now: what waited for its turn was not late. Says when it is looked at next.
    fn start(&mut self, now: Time) -> Time {
        let hedge = self.hedge_at.map(|at| now + at.since(self.since));
        (self.queued, self.hedge_at) = (false, hedge);
        (self.since, self.sent, self.repeat_at) = (now, now, now + self.gap);
        hedge.map_or(self.repeat_at, |hedge| hedge.min(self.repeat_at))
    }
}
