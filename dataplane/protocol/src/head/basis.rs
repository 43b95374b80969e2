//! What a head that is being filled takes from a checkpoint on sleds (BA-01, P-29).
//!
//! The giver names the checkpoints that operations left it with, each by its hash and with the places of its pages.
//! The taker reads the newest one from the sleds itself: any copy of a page that is whole will do. A page that no copy
//! gives, or pages that are not what the hash says, and the one before is read; after that there is none, and the
//! copy goes its long way. Then it tells the giver the hash of every granule that it found. The giver compares them
//! with its own index as it makes its parts, and what is the same is not sent (`copy::parts`). So however old or
//! strange a checkpoint is, nothing of it counts that the giver's index does not say at that very operation too. Marks
//! "in log, by operation n" are never taken from it: the giver names each such block, and sends its bytes.
//!
//! What was read is in memory until the parts that stand for it are in: at most the size of the index itself.

use super::core::Core;
use super::page::{self, GRANULE, Place};
use super::part::Part;
use super::sleds::{Ask, What};
use crate::log::page::root_hash;
use crate::wire::limits::GRANULES_TOLD_MAX;
use crate::wire::*;
use palisade_dma::Buf;
use std::collections::BTreeMap;

/// Pages that are read at once.
const WINDOW: usize = 8;

/// Pages of one checkpoint after another, until all of one are there.
#[derive(Debug)]
pub(super) struct Basis {
    named: Vec<SledCheckpoint>,
    /// Which one is read.
    at: usize,
    next: u32,
    /// Pages under way, and the copies that were asked for each, a bit each.
    open: BTreeMap<u32, u16>,
    /// Checksums of the pages that are in.
    crcs: Vec<Option<u32>>,
    found: BTreeMap<u64, (u128, Box<[u8]>)>,
    ready: bool,
    /// The giver asks for granules from this one on; whether it heard that they are being read.
    asked: Option<u64>,
    waits: bool,
}

impl Basis {
    fn new(named: Vec<SledCheckpoint>) -> Self {
        let mut basis = Self {
            named,
            at: 0,
            next: 0,
            open: BTreeMap::new(),
            crcs: Vec::new(),
            found: BTreeMap::new(),
            ready: false,
            asked: None,
            waits: false,
        };
        basis.turn_to(0);
        basis
    }

    /// Begins with another checkpoint; behind the last one there is nothing to begin with.
    fn turn_to(&mut self, at: usize) {
        (self.at, self.next) = (at, 0);
        self.open.clear();
        self.found.clear();
        let pages = self.named.get(at).map(|named| named.pages as usize);
        self.crcs = vec![None; pages.unwrap_or(0)];
        self.ready = pages.is_none();
    }

    /// A page that is what it should be.
    fn take(&mut self, partition: PartitionId, number: u32, bytes: &[u8]) -> bool {
        let Some(named) = self.named.get(self.at) else { return false };
        let Ok((place, granules, crc)) = page::decode(bytes) else { return false };
        let (generation, covers) = (named.generation, named.covers);
        if place != (Place { partition, number: named.number, generation, covers, page: number }) {
            return false;
        }
        for (granule, bytes) in granules {
            self.found.insert(granule, (page::hash(bytes), bytes.into()));
        }
        self.open.remove(&number);
        self.crcs[number as usize] = Some(crc);
        if self.crcs.iter().all(Option::is_some) && self.open.is_empty() {
            let crcs: Vec<u32> = self.crcs.iter().flatten().copied().collect();
            if root_hash(u64::from(generation), &crcs) == named.hash {
                self.ready = true;
            } else {
                self.turn_to(self.at + 1);
            }
        }
        true
    }

    /// What it says of a block; `Err` when it knows nothing of it.
    pub(super) fn said(&self, lba: Lba) -> Result<Option<CopiedBlock>, ()> {
        let (_, bytes) = self.found.get(&(lba.0 / GRANULE)).ok_or(())?;
        Ok(page::said(bytes, lba.0 % GRANULE))
    }

    /// Nothing before this block is needed any more.
    pub(super) fn forget_before(&mut self, lba: Lba) {
        while self.found.first_key_value().is_some_and(|(granule, _)| *granule < lba.0 / GRANULE) {
            self.found.pop_first();
        }
    }

    /// The answer for granules from `from` on.
    fn told(&self, from: u64) -> (Option<u64>, Vec<(u64, u128)>) {
        if !self.ready {
            return (None, Vec::new());
        }
        let mut rest = self.found.range(from..).map(|(granule, (hash, _))| (*granule, *hash));
        let found: Vec<(u64, u128)> = rest.by_ref().take(GRANULES_TOLD_MAX).collect();
        (Some(rest.next().map_or(u64::MAX, |next| next.0)), found)
    }
}

impl Part {
    fn basis(&mut self) -> Option<&mut Basis> {
        self.copy.join.as_mut().and_then(|join| join.basis.as_mut())
    }
}

impl Core {
    /// The giver names what to begin with, and asks what was found there.
    pub(super) fn on_copy_ask(
        &mut self,
        (from, boot): (NodeId, BootId),
        (stamp, session): (Stamp, u64),
        named: Vec<SledCheckpoint>,
        granule: u64,
    ) {
        let Some(p) = self.join_of(from, boot, stamp, session) else { return };
        let Some(join) = &mut self.parts[p].copy.join else { return };
        if let Some(basis) = join.basis_or(|| Basis::new(named)) {
            (basis.asked, basis.waits) = (Some(granule), false);
        }
    }

    /// Reads on, and answers what the giver asks. Runs each turn while a copy is taken.
    pub(super) fn read_basis(&mut self, now: Time, p: usize, out: &mut Out) {
        while let Some(basis) = self.parts[p].basis() {
            let more = (basis.next as usize) < basis.crcs.len();
            if basis.ready || !more || basis.open.len() >= WINDOW {
                break;
            }
            let page = basis.next;
            basis.next += 1;
            basis.open.insert(page, 0);
            self.read_page(now, p, page, out);
        }
        let Some((to, stamp, session)) = self.parts[p].copy.join.as_ref().map(|join| join.giver()) else {
            return;
        };
        let Some(basis) = self.parts[p].basis() else { return };
        let Some(from) = basis.asked.filter(|_| basis.ready || !basis.waits) else { return };
        let (upto, found) = basis.told(from);
        // Each question is answered at once, so that the giver hears that this head lives, and again when it can be.
        basis.waits = upto.is_none();
        if upto.is_some() {
            basis.asked = None;
        }
        out.net.push((to, Msg::CopyHas { stamp, session, from, upto, found }));
    }

    /// Asks the next copy for a page; when there is none, the checkpoint is not whole.
    fn read_page(&mut self, now: Time, p: usize, page: u32, out: &mut Out) {
        let part = &self.parts[p];
        let partition = part.cfg.partition;
        let Some(join) = &part.copy.join else { return };
        let session = join.giver().2;
        let Some(basis) = &join.basis else { return };
        let Some(named) = basis.named.get(basis.at) else { return };
        let tried = basis.open.get(&page).copied().unwrap_or(u16::MAX);
        // Each page begins with another copy; those on devices that are ill or silent come last.
        let copies = usize::from(named.copies);
        let order = (0..copies).map(|step| (step + page as usize) % copies);
        let open = order.filter(|at| tried & (1 << at) == 0);
        let places = open.filter_map(|at| {
            let (column, block) = named.place(page, at)?;
            Some((at, column, block, part.sled_of(column.device)?))
        });
        let best = places.min_by_key(|(_, column, _, sled)| {
            (self.silent(*sled, now), self.devices.health(column.device) != DeviceHealth::Good)
        });
        let (generation, count) = (named.generation, u32::from(named.unit_blocks));
        let Some((at, column, block, sled)) = best else {
            return self.basis_failed(p, generation, out);
        };
        if let Some(tried) = self.parts[p].basis().and_then(|basis| basis.open.get_mut(&page)) {
            *tried |= 1 << at;
        }
        let msg = Msg::ColumnRead { req: ReqId(0), partition, column, block, count };
        let what = What::BasisRead { session, generation, page };
        self.ask(now, Ask::new(p, sled, column.device, what, msg), out);
    }

    /// A page, or word that this copy of it cannot be read.
    pub(super) fn on_basis_read(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        data: Option<Buf>,
        out: &mut Out,
    ) {
        let What::BasisRead { session, generation, page } = ask.what else { return };
        let p = ask.part;
        let part = &mut self.parts[p];
        let partition = part.cfg.partition;
        if part.copy.join.as_ref().is_none_or(|join| join.giver().2 != session) {
            return;
        }
        let Some(basis) = part.basis() else { return };
        let same = basis.named.get(basis.at).is_some_and(|named| named.generation == generation);
        if !same || !basis.open.contains_key(&page) {
            return;
        }
        self.busy = true;
        if data.filter(|_| status.is_ok()).is_some_and(|data| basis.take(partition, page, &data)) {
            return;
        }
        if status.is_ok() || status == Status::Corrupt {
            part.stats.counters.corrupt += 1;
        }
        self.read_page(now, p, page, out);
    }

    /// No copy gives a page of that checkpoint: the one before may do.
    fn basis_failed(&mut self, p: usize, generation: u32, out: &mut Out) {
        self.busy = true;
        let part = &mut self.parts[p];
        out.events.push(Event::Note(format!(
            "partition {}: checkpoint {generation} on sleds is not whole, and is not used",
            part.cfg.partition
        )));
        if let Some(basis) = part.basis() {
            basis.turn_to(basis.at + 1);
        }
    }
}
