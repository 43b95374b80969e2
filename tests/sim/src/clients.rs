//! Clients of the rack: several requests open at once, overlapping, with 512-byte edges, each client
//! bound to one volume. Each asks a head of its own choice: the primary, mostly. They fill sectors with self-describing contents and record what they see.

use crate::contents::{self, Seen};
use crate::dice::Dice;
use crate::faults::Load;
use crate::history::History;
use palisade_dma::Pool;
use palisade_protocol::wire::limits::{BLOCK, SECTOR};
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, VecDeque};

/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = (BLOCK / SECTOR) as u64;

/// Acknowledged updates that are remembered by their place.
const RECENT: usize = 8;

/// What an open request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read { first: u64, count: u64 },
    Update { id: u64, first: u64, count: u64 },
    Status { first: u64, count: u64 },
    Flush,
}

impl Asked {
    /// The update that it is, if it is one.
    fn update(self) -> Option<u64> {
        match self {
            Self::Update { id, .. } => Some(id),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    client: usize,
    head: NodeId,
    asked: Asked,
    sent: Time,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Requests that it will still send.
    pub left: u64,
    /// Requests that it has open.
    pub open: u64,
    /// Most requests that it has open at once.
    pub depth: u64,
    /// The head that it asks.
    pub at: NodeId,
    /// Where it is, as links go.
    pub place: NodeId,
    /// Requests that were answered well.
    pub answered: u64,
    /// Requests that were answered with an error.
    pub refused: u64,
}

/// A volume with its clients and their history.
#[derive(Debug)]
pub struct Volume {
    /// The partition.
    pub partition: PartitionId,
    /// Its primary.
    pub primary: NodeId,
    /// Its secondary.
    pub secondary: NodeId,
    /// Its further members.
    pub reserves: Vec<NodeId>,
    /// What was seen.
    pub history: History,
    /// Its clients.
    pub clients: Vec<Client>,
    open: BTreeMap<ClientTag, Open>,
    /// Requests whose client hung up while their head lives: nobody hears the answer, but it may be carried out.
    hung: BTreeMap<ClientTag, Open>,
    /// Updates whose answer will never come, until their head serves again.
    orphans: Vec<u64>,
    hot: u64,
    load: Load,
    /// Where the newest acknowledged updates went.
    recent: VecDeque<(u64, u64)>,
    /// Its head said that it does not serve: clients look around until then.
    pub lost_until: Time,
}

/// How an answer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Well; the index of its client, and the head.
    Well(usize, NodeId),
    /// With an error; the index of its client, and the head.
    Badly(usize, NodeId, ClientError),
    /// Nobody waits for it (its client gave up).
    Stray,
}

impl Volume {
    /// A fresh volume of these heads, primary first.
    ///
    /// # Panics
    /// When there are fewer than two heads.
    pub fn new(
        partition: PartitionId,
        heads: &[NodeId],
        blocks: u64,
        clients: Vec<Client>,
        load: Load,
    ) -> Self {
        let history = History::new(blocks * BLOCK_SECTORS);
        let [primary, secondary, reserves @ ..] = heads else { panic!("a volume of fewer than two heads") };
        let (primary, secondary, reserves) = (*primary, *secondary, reserves.to_vec());
        let hot = (blocks * BLOCK_SECTORS / 8).max(16);
        Self {
            partition,
            primary,
            secondary,
            reserves,
            history,
            clients,
            open: BTreeMap::new(),
            hung: BTreeMap::new(),
            orphans: Vec::new(),
            hot,
            load,
            recent: VecDeque::new(),
            lost_until: Time::ZERO,
        }
    }

    /// The volume as a power cut at `moment` leaves it: its past is known, nothing is open.
    pub fn until(&self, moment: Time) -> Self {
        let history = self.history.until(moment);
        let orphans = history.unanswered();
        let idle = |client: &Client| Client { left: 0, open: 0, depth: 1, at: self.primary, ..*client };
        let clients = self.clients.iter().map(idle).collect();
        let Self { partition, primary, secondary, hot, load, .. } = *self;
        let (open, hung, recent) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        let lost_until = Time::ZERO;
        Self {
            partition,
            primary,
            secondary,
            reserves: self.reserves.clone(),
            history,
            clients,
            open,
            hung,
            orphans,
            hot,
            load,
            recent,
            lost_until,
        }
    }

    /// Open requests of all clients.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// When the oldest open request was sent.
    pub fn oldest_open(&self) -> Option<Time> {
        self.open.values().next().map(|open| open.sent)
    }

    /// Whether its clients have sent everything they wanted to, and nothing is open.
    pub fn done(&self) -> bool {
        self.open.is_empty() && self.clients.iter().all(|client| client.left == 0)
    }

    /// Draws the next request of a client. `None` when no buffer is free.
    pub fn ask(
        &mut self,
        client: usize,
        dice: &mut Dice,
        ids: &mut u64,
        pool: &Pool,
        now: Time,
    ) -> Option<ClientCmd> {
        let (first, count) = self.place(dice);
        let draw = match self.load {
            Load::Mixed => dice.below(100),
            Load::Overwrite if dice.chance(0.03) => 99,
            Load::Overwrite => 0,
        };
        let (asked, verb) = match draw {
            0..52 => self.write(first, count, ids, pool, now)?,
            52..60 => self.clear(first, count * dice.range(1, 3), draw < 56, ids, now),
            60..62 => (Asked::Flush, ClientVerb::Flush),
            62..65 => {
                let (offset, len) = (first * SECTOR as u64, count * SECTOR as u64);
                (Asked::Status { first, count }, ClientVerb::BlockStatus { offset, len })
            }
            _ => Self::read(first, count),
        };
        let head = self.clients[client].at;
        Some(self.register((client, head), asked, verb, ids, now))
    }

    /// A read of exactly these sectors by a client, of the primary.
    pub fn ask_read(&mut self, client: usize, first: u64, count: u64, ids: &mut u64, now: Time) -> ClientCmd {
        let (asked, verb) = Self::read(first, count);
        self.register((client, self.primary), asked, verb, ids, now)
    }

    fn read(first: u64, count: u64) -> (Asked, ClientVerb) {
        let (offset, len) = (first * SECTOR as u64, (count * SECTOR as u64) as u32);
        (Asked::Read { first, count }, ClientVerb::Read { offset, len })
    }

    fn register(
        &mut self,
        (client, head): (usize, NodeId),
        asked: Asked,
        verb: ClientVerb,
        ids: &mut u64,
        now: Time,
    ) -> ClientCmd {
        *ids += 1;
        let tag = ClientTag(*ids);
        self.open.insert(tag, Open { client, head, asked, sent: now });
        self.clients[client].open += 1;
        ClientCmd { tag, partition: self.partition, verb }
    }

    /// Where a request goes: half of them into a small hot range, most of whole blocks.
    fn place(&self, dice: &mut Dice) -> (u64, u64) {
        let sectors = self.history.sectors();
        if self.load == Load::Overwrite {
            return (dice.below(sectors / BLOCK_SECTORS) * BLOCK_SECTORS, BLOCK_SECTORS);
        }
        let range = if dice.chance(0.5) { self.hot } else { sectors };
        let blocks = match dice.below(20) {
            0 => dice.range(17, 64),
            1..4 => dice.range(3, 16),
            4..8 => 2,
            _ => 1,
        };
        let (mut first, mut count) =
            (dice.below(range / BLOCK_SECTORS) * BLOCK_SECTORS, blocks * BLOCK_SECTORS);
        if dice.chance(0.35) {
            first += dice.below(BLOCK_SECTORS);
            count = dice.range(1, count);
        }
        (first, count.min(sectors - first))
    }

    fn write(
        &mut self,
        first: u64,
        count: u64,
        ids: &mut u64,
        pool: &Pool,
        now: Time,
    ) -> Option<(Asked, ClientVerb)> {
        let mut buf = pool.alloc(count as usize * SECTOR)?;
        *ids += 1;
        let id = *ids;
        for (index, sector) in buf.chunks_exact_mut(SECTOR).enumerate() {
            contents::fill(sector, id, first + index as u64);
        }
        self.history.update_sent(id, false, first, count, now);
        let verb = ClientVerb::Write { offset: first * SECTOR as u64, data: buf.freeze() };
        Some((Asked::Update { id, first, count }, verb))
    }

    fn clear(&mut self, first: u64, count: u64, trim: bool, ids: &mut u64, now: Time) -> (Asked, ClientVerb) {
        let count = count.min(self.history.sectors() - first);
        *ids += 1;
        let id = *ids;
        self.history.update_sent(id, true, first, count, now);
        let (offset, len) = (first * SECTOR as u64, count * SECTOR as u64);
        let verb =
            if trim { ClientVerb::Trim { offset, len } } else { ClientVerb::WriteZeroes { offset, len } };
        (Asked::Update { id, first, count }, verb)
    }

    /// An answer arrived.
    pub fn answer(&mut self, done: &ClientDone, now: Time) -> Result<Answered, String> {
        let Some(open) = self.open.remove(&done.tag) else {
            self.answer_nobody(done, now);
            return Ok(Answered::Stray);
        };
        self.clients[open.client].open -= 1;
        let ok = match &done.result {
            Ok(ok) => ok,
            Err(error) => {
                self.orphans.extend(open.asked.update());
                self.clients[open.client].refused += 1;
                return Ok(Answered::Badly(open.client, open.head, *error));
            }
        };
        match (open.asked, ok) {
            (Asked::Read { first, count }, ClientOk::Data(pieces)) => {
                self.take_data(first, count, pieces, open.sent, now)?;
            }
            (Asked::Status { first, count }, ClientOk::Status(runs)) => {
                self.take_status(first, count, runs, open.sent, now)?;
            }
            (Asked::Update { id, first, count }, ClientOk::Done) => {
                self.history.update_acked(id, now);
                self.recent.push_back((first, count));
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
            }
            (Asked::Flush, ClientOk::Done) => {}
            (asked, ok) => return Err(format!("request {asked:?} was answered with {ok:?}")),
        }
        self.clients[open.client].answered += 1;
        Ok(Answered::Well(open.client, open.head))
    }

    fn take_data(
        &mut self,
        first: u64,
        count: u64,
        pieces: &Payload,
        sent: Time,
        now: Time,
    ) -> Result<(), String> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        if bytes.len() as u64 != count * SECTOR as u64 {
            return Err(format!("a read of {count} sectors came back with {} bytes", bytes.len()));
        }
        bytes.chunks_exact(SECTOR).enumerate().try_for_each(|(index, chunk)| {
            let sector = first + index as u64;
            self.history
                .read(sector, contents::decode(chunk, sector), sent, now)
                .map_err(|why| format!("{why} (read of {count} sectors from {first}, sent at {})", sent.0))
        })
    }

    /// Holes read as zeroes, so a hole is judged as a read of zeroes.
    fn take_status(
        &mut self,
        first: u64,
        count: u64,
        runs: &[StatusRun],
        sent: Time,
        now: Time,
    ) -> Result<(), String> {
        let mut sector = first;
        for run in runs {
            let end = sector + run.len / SECTOR as u64;
            if run.len == 0 || !run.len.is_multiple_of(SECTOR as u64) || end > self.history.sectors() {
                return Err(format!("block status run {run:?} at sector {sector}"));
            }
            for hole in (sector..end.min(first + count)).filter(|_| !run.data) {
                self.history.read(hole, Seen::Zero, sent, now)?;
            }
            sector = end;
        }
        if runs.is_empty() { Err("block status without runs".into()) } else { Ok(()) }
    }

    /// A head died: nothing open there will be answered.
    pub fn head_died(&mut self, head: NodeId) {
        let mut lost = self.take_open(|open| open.head == head);
        let (gone, hung) =
            std::mem::take(&mut self.hung).into_iter().partition(|(_, open)| open.head == head);
        let gone: BTreeMap<ClientTag, Open> = gone;
        self.hung = hung;
        lost.extend(gone);
        let updates = lost.values().filter_map(|open| open.asked.update());
        self.orphans.extend(updates);
    }

    /// A client's connection to its head broke: it will hear nothing of what it has open there.
    pub fn hung_up(&mut self, client: usize) {
        let head = self.clients[client].at;
        let lost = self.take_open(|open| open.client == client && open.head == head);
        self.hung.extend(lost);
    }

    /// Open requests that their clients do not wait for any more.
    fn take_open(&mut self, lost: impl Fn(&Open) -> bool) -> BTreeMap<ClientTag, Open> {
        let (gone, open): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.open).into_iter().partition(|(_, open)| lost(open));
        self.open = open;
        gone.values().for_each(|open| self.clients[open.client].open -= 1);
        gone
    }

    /// A head answers somebody who hung up: what it did had happened by now.
    fn answer_nobody(&mut self, done: &ClientDone, now: Time) {
        let asked = self.hung.remove(&done.tag).map(|open| open.asked);
        match (asked.and_then(|asked| asked.update()), &done.result) {
            (Some(id), Ok(_)) => self.history.update_bound(id, now),
            (Some(id), Err(_)) => self.orphans.push(id),
            (None, _) => {}
        }
    }

    /// Reads of what was acknowledged last: what a head that just began to serve is likeliest to lack.
    pub fn ask_recent(&mut self, ids: &mut u64, now: Time) -> Vec<ClientCmd> {
        let recent = std::mem::take(&mut self.recent);
        let read = |(first, count): (u64, u64)| self.ask_read(0, first, count.min(512), ids, now);
        recent.into_iter().map(read).collect()
    }

    /// The head serves again: what it did not answer has happened by now, or never will (P-13).
    pub fn head_serves(&mut self, now: Time) {
        self.lost_until = now;
        for id in std::mem::take(&mut self.orphans) {
            self.history.update_bound(id, now);
        }
    }
}
