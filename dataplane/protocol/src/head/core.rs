//! The head once its log is read: what all verbs share, and the dispatch of inputs to verbs.

use super::batch::Batch;
use super::config::{HeadConfig, PartitionConfig, Solo};
use super::confirm::Link;
use super::devices::Devices;
use super::failover::Watch;
use super::health::{Clients, Health};
use super::merge::Merge;
use super::part::{Part, Parts, Pending};
use super::piece::Piece;
use super::read::Read;
use super::slab::{Id, Slab};
use super::sleds::{Ask, Sled};
use super::stats::HeadStatus;
use super::write::Cmd;
use crate::log::{Log, LoggedBody, Lsn, Mapping, PendingOp, RecoveredPartition, RecoveryReport, is_log_key};
use crate::wire::*;
use palisade_dma::{Buf, Pool};
use palisade_isal::Codec;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// Top byte of the keys of the head's own block commands.
const KEY_TAG: u64 = 0x48 << 56;
const KEY_READ: u64 = 1 << 52;
const KEY_REPAIR: u64 = 2 << 52;
const KEY_KIND: u64 = 0xf << 52;

/// Everything that the verbs of a head share.
pub(super) struct Core {
    pub(super) cfg: HeadConfig,
    pub(super) pool: Pool,
    pub(super) log: Log,
    pub(super) parts: Parts,
    pub(super) cmds: Slab<Cmd>,
    pub(super) merges: Slab<Merge>,
    pub(super) reads: Slab<Read>,
    pub(super) pieces: Slab<Piece>,
    pub(super) batches: Slab<Batch>,
    pub(super) asks: Slab<Ask>,
    /// Confirm state of each peer.
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) sleds: BTreeMap<NodeId, Sled>,
    pub(super) devices: Devices,
    /// Until when places of batches of a rebuild stay empty: clients keep their share.
    pub(super) rebuild_pauses: SmallVec<[Time; 8]>,
    /// What clients had done when a batch of a rebuild ended last.
    pub(super) done_then: u64,
    codecs: BTreeMap<(u8, u8), Codec>,
    /// Scratch of look-ups.
    pub(super) maps: Vec<Mapping>,
    pub(super) wants: Vec<(Lba, Mapping)>,
    pub(super) gathered: Vec<(Lba, Mapping)>,
    pub(super) ids: Vec<Id>,
    /// Pieces that wait for a buffer.
    pub(super) starved: Vec<Id>,
    /// Questions of rebuilds that wait for their turn at their device, in order.
    pub(super) queue: VecDeque<Id>,
    pub(super) copying: super::upkeep::Copying,
    /// Log watermark that the partitions have seen.
    pub(super) durable: Lsn,
    /// Something committed or was freed since the log was asked to release.
    pub(super) release_due: bool,
    pub(super) busy: bool,
    wake: Option<Time>,
    /// When the next pass of background work is due.
    pub(super) background_at: Time,
    /// A flush may go on in the next turn.
    pub(super) flush_again: bool,
    failed_told: bool,
    /// The message in hand came from within the process.
    pub(super) near: bool,
    pub(super) watch: Watch,
    /// Copies that this boot has begun to give: names them.
    pub(super) copies: u64,
    /// Volumes have to leave this head (BA-02).
    pub(super) isolating: Option<Severity>,
    /// The own log's device, as far as it was noticed.
    pub(super) medium: super::medium::Medium,
}

/// Hot bytes given up per turn while the pool is scarce.
const SHED: usize = 4 << 20;

impl Core {
    pub(super) fn new(cfg: HeadConfig, pool: Pool, log: Log, found: Vec<RecoveredPartition>) -> Self {
        let (declared, devices) = (cfg.partitions.clone(), Devices::new(cfg.retry.read_timeout));
        let mut core = Self {
            durable: log.durable(),
            cfg,
            pool,
            log,
            parts: Parts::default(),
            cmds: Slab::default(),
            merges: Slab::default(),
            reads: Slab::default(),
            pieces: Slab::default(),
            batches: Slab::default(),
            asks: Slab::default(),
            links: BTreeMap::new(),
            sleds: BTreeMap::new(),
            devices,
            rebuild_pauses: SmallVec::new(),
            done_then: 0,
            codecs: BTreeMap::new(),
            maps: Vec::new(),
            wants: Vec::new(),
            gathered: Vec::new(),
            ids: Vec::new(),
            starved: Vec::new(),
            queue: VecDeque::new(),
            copying: super::upkeep::Copying::default(),
            release_due: true,
            busy: true,
            wake: None,
            background_at: Time::ZERO,
            flush_again: false,
            failed_told: false,
            near: false,
            watch: Watch::default(),
            copies: 0,
            isolating: None,
            medium: Default::default(),
        };
        for recovered in found {
            let config = declared.iter().find(|config| config.partition == recovered.partition).cloned();
            let config = config.unwrap_or_else(|| undeclared(&recovered));
            core.add_recovered(config, recovered);
        }
        for config in declared {
            core.create_partition(Time::ZERO, config);
        }
        core
    }

    fn add_recovered(&mut self, config: PartitionConfig, found: RecoveredPartition) {
        self.need_codec(&config.geometry);
        let mut part = Part::new(config);
        part.index = found.index;
        part.committed = found.committed;
        part.tail = found.tail;
        part.local = found.tail;
        part.damaged = found.damaged;
        part.copy.origin = found.origin;
        part.short = found.short;
        part.deleted = found.deleted;
        part.bad = found.bad;
        part.released_op = found.committed;
        part.adopted.clone_from(&found.adopted);
        if let Some(adopt) = found.adopted {
            part.stamp = Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
            part.members = adopt.members;
        }
        let id = part.id();
        part.recent.extend(found.recent.into_iter().map(|op| recovered_op(id, op)));
        part.pending.extend(found.pending.into_iter().map(|op| recovered_op(id, op)));
        let at = self.parts.add(part);
        if self.cfg.faults.number_kept_over_restart() {
            self.keep_number(at);
        }
    }

    pub(super) fn create_partition(&mut self, _now: Time, config: PartitionConfig) {
        self.busy = true;
        self.need_codec(&config.geometry);
        match self.parts.find(config.partition) {
            Some(p) => {
                let devices = config.devices.clone();
                self.parts[p].cfg = config;
                self.replace_targets(p, devices);
            }
            None => {
                self.parts.add(Part::new(config));
            }
        }
    }

    /// Makes sure that a code of this geometry exists; an impossible one makes flushes wait for ever,
    /// which `check` refuses beforehand.
    pub(super) fn need_codec(&mut self, geometry: &Geometry) {
        let key = (geometry.k, geometry.m);
        if !self.codecs.contains_key(&key)
            && let Ok(codec) = Codec::new(usize::from(geometry.k), usize::from(geometry.m))
        {
            self.codecs.insert(key, codec);
        }
    }

    pub(super) fn codec(&self, geometry: &Geometry) -> Option<&Codec> {
        self.codecs.get(&(geometry.k, geometry.m))
    }

    pub(super) fn recovered(&mut self, report: RecoveryReport, out: &mut Out) {
        out.events.push(Event::Recovered { log: self.log.id() });
        if report.torn > 0 || report.lost > 0 || report.bad_payload > 0 || report.repaired > 0 {
            out.events.push(Event::Note(format!(
                "head {}: log recovered with {} torn and {} lost records, {} rotten payload blocks, {} repairs",
                self.cfg.node, report.torn, report.lost, report.bad_payload, report.repaired
            )));
        }
        if report.blind {
            self.doubt_all(out);
        }
        for p in 0..self.parts.len() {
            if self.cfg.faults.number_kept_over_restart() {
                let committed = self.parts[p].committed;
                self.load_after(Time::ZERO, p, committed, out);
            }
            let part = &mut self.parts[p];
            part.whole = report.lost == 0;
            if part.short {
                let what = format!(
                    "partition {}: records behind operation {} are lost",
                    part.cfg.partition, part.tail
                );
                out.events.push(Event::Corrupt { place: "log", what });
            }
            part.stats.counters.corrupt += part.bad.len() as u64;
            for bad in &part.bad {
                let what = format!("partition {} block {} op {}", part.cfg.partition, bad.lba, bad.op);
                out.events.push(Event::Corrupt { place: "log", what });
            }
            if part.damaged {
                let what = format!("partition {}: durable records are lost", part.cfg.partition);
                out.events.push(Event::Corrupt { place: "log", what });
            }
        }
    }

    pub(super) fn handle_msg(&mut self, now: Time, from: NodeId, boot: BootId, msg: Msg, out: &mut Out) {
        self.busy = true;
        self.hear(now, from, boot);
        match msg {
            Msg::Probe { adopt, held } => self.on_probe(now, from, boot, adopt, held, out),
            Msg::Probed { stamp, log, tail, damaged, whole, entries } => {
                self.on_probed(now, from, boot, stamp, log, tail, (damaged, whole), entries, out);
            }
            Msg::Announce { adopt, committed } => self.on_announce(from, boot, adopt, committed, out),
            Msg::Announced { stamp, log, durable, credit, covered, damaged } => {
                self.on_announced(now, from, boot, stamp, log, durable, (credit, covered, damaged), out);
            }
            Msg::Replicate { stamp, committed, entries } => {
                self.on_replicate(now, from, boot, stamp, committed, entries, out);
            }
            Msg::Replicated { stamp, durable, credit, covered } => {
                self.on_replicated(now, from, boot, stamp, durable, credit, covered);
            }
            Msg::Confirm { nonce, stamps } => self.on_confirm(from, boot, nonce, &stamps, out),
            Msg::Confirmed { nonce, stamps } => self.on_confirmed(now, from, boot, nonce, &stamps, out),
            Msg::Fetch { stamp, req, lba, op } => self.on_fetch(now, from, boot, stamp, req, lba, op, out),
            Msg::Fetched { req, data } => self.on_fetched(now, from, req, data, out),
            Msg::Refused { refused, held } => self.on_refused(now, refused, held, out),
            Msg::Compare { stamp, held } => self.on_compare(now, from, boot, stamp, held, out),
            Msg::Common { stamp, upto, number } => {
                self.on_common(now, from, boot, (stamp, upto, number), out)
            }
            Msg::Heartbeat { .. } => {}
            Msg::Copy { adopt, session, to } => self.on_copy(from, boot, adopt, session, to, out),
            Msg::CopyPart { stamp, session, seq, part, data } => {
                self.on_copy_part((from, boot), (stamp, session), seq, part, data);
            }
            Msg::CopyAsk { stamp, session, named, from: granule } => {
                self.on_copy_ask((from, boot), (stamp, session), named, granule);
            }
            Msg::CopyHas { stamp, session, from: granule, upto, found } => {
                self.on_copy_has(now, (from, boot), (stamp, session), granule, upto, found);
            }
            Msg::CopyOps { stamp, session, committed, parts, entries } => {
                self.on_copy_ops(now, (from, boot), (stamp, session), (committed, parts), entries);
            }
            Msg::Copied { stamp, session, log, parts, durable, covered, room, whole, broken } => {
                let (marks, ends) = ((durable, covered), (whole, broken));
                self.on_copied(now, (from, boot), (stamp, session), log, parts, marks, room, ends);
            }
            Msg::IsolationAsk { req, held } => self.on_isolation_ask(from, req, held, out),
            Msg::Isolation { req, held, isolating, score } => {
                self.on_isolation(now, (from, boot), (req, held), (isolating, score), out);
            }
            Msg::HealthAsk { req, held } => self.on_health_ask(now, from, req, held, out),
            Msg::Health { req, held, serving, connected, associated, busiest, io, idle_ms: _, paused } => {
                let clients = Clients { connected, associated, busiest, io };
                self.on_health(now, from, req, held, &Health { serving, clients, paused }, out);
            }
            answer => self.on_sled(now, from, boot, answer, out),
        }
    }

    pub(super) fn handle_block(&mut self, now: Time, done: BlockDone, out: &mut Out) {
        self.busy = true;
        self.note_medium(now, &done);
        if is_log_key(done.key) {
            self.log.handle_block(done, out);
            return;
        }
        if done.key.0 & (0xff << 56) != KEY_TAG {
            return;
        }
        let id = Id(done.key.0 & !(0xfff << 52));
        match done.key.0 & KEY_KIND {
            KEY_READ => self.on_log_read(now, id, done.result, out),
            KEY_REPAIR => self.on_repaired(now, id, done.result.is_ok(), out),
            _ => {}
        }
    }

    pub(super) fn read_key(piece: Id) -> Key {
        Key(KEY_TAG | KEY_READ | piece.0)
    }

    pub(super) fn repair_key(piece: Id) -> Key {
        Key(KEY_TAG | KEY_REPAIR | piece.0)
    }

    pub(super) fn turn(&mut self, now: Time, out: &mut Out) {
        self.devices.tick(now);
        if self.pool.scarce() {
            // Exports and flushes need buffers more than reads need hot blocks, and a pool that is out
            // tells nobody: without this, all could wait for one another for ever (`Bounded`).
            self.log.shed(SHED);
        }
        let timed = self.wake.is_some_and(|wake| wake <= now);
        if !self.busy && !timed {
            return;
        }
        self.busy = false;
        if timed {
            self.wake = None;
        }
        self.see_durable(now, out);
        for p in 0..self.parts.len() {
            self.commit(now, p, out);
            self.pump(now, p, out);
            self.reply(now, p, out);
            self.probe_on(now, p, out);
            self.answer_probe(now, p, out);
            self.replicate(now, p, out);
            if self.parts[p].copies() {
                self.join_on(now, p, out);
                self.teach(now, p, out);
            }
            self.step_journal(now, p, out);
            self.step_batches(now, p, out);
            self.step_pages(now, p, out);
        }
        self.send_queued(now, out);
        self.send_confirms(now, out);
        self.send_vouches(now, out);
        self.watch(now, out);
        self.look_isolated(now, out);
        if timed {
            self.repeat(now, out);
        }
        if now >= self.background_at {
            self.background(now, out);
        }
        self.step_checkpoint(now, out);
        self.release_log();
        self.log.end_turn(now, out);
        self.set_wake(now);
        if self.log.failed() && !self.failed_told {
            self.failed_told = true;
            self.on_log_failed(out);
        }
    }

    /// Asks for a turn at `at`.
    #[inline]
    pub(super) fn arm(&mut self, at: Time) {
        if self.wake.is_none_or(|wake| at < wake) {
            self.wake = Some(at);
        }
    }

    fn set_wake(&mut self, now: Time) {
        if let Some(at) = self.log.deadline() {
            self.arm(at);
        }
        let background = self.background_at.max(now);
        self.arm(background);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        if self.busy { Some(Time::ZERO) } else { self.wake }
    }

    pub(super) fn idle(&self) -> bool {
        !self.busy
            && self.log.idle()
            && self.cmds.is_empty()
            && self.reads.is_empty()
            && self.batches.is_empty()
            && self.parts.iter().all(|part| part.pending.is_empty() && part.waiting.is_empty())
    }

    pub(super) fn ready(&self, partition: PartitionId) -> bool {
        let Some(p) = self.parts.find(partition) else { return true };
        self.parts[p].waiting.len() + (self.parts[p].active as usize) < limits::COMMANDS_MAX
    }

    pub(super) fn status(&self) -> HeadStatus {
        HeadStatus {
            node: self.cfg.node,
            log: Some(self.log.id()),
            recovered: true,
            log_failed: self.log.failed(),
            log_why: String::new(),
            log_blocks: self.log.capacity_blocks(),
            log_free: self.log.free_blocks(),
            medium: self.medium_status(),
            log_room: self.log.room_beside(self.parts.iter().map(|part| part.cfg.blocks).sum()),
            partitions: self.parts.iter().map(|part| self.part_status(part)).collect(),
        }
    }
}

/// Stands for a declaration that control has not sent (again): contents are kept, nothing is flushed.
fn undeclared(found: &RecoveredPartition) -> PartitionConfig {
    PartitionConfig {
        partition: found.partition,
        blocks: found.index.blocks(),
        geometry: Geometry { k: 4, m: 2, unit_blocks: 16, stripes: 128 },
        columns_min: 0,
        devices: Vec::new(),
        solo: Solo::Wait,
        heads: limits::MEMBERS_MAX as u8,
    }
}

/// An operation that the log gave back: its bytes stay there.
fn recovered_op(partition: PartitionId, op: PendingOp) -> Pending {
    let (body, loaded) = match op.body {
        LoggedBody::Write { lba, crcs } => (Body::Write { lba, crcs, data: Buf::from_static(&[]) }, false),
        LoggedBody::Other(body) => (body, true),
    };
    Pending {
        entry: Entry { partition, number: op.number, op: op.op, body },
        addr: op.addr,
        lsn: Lsn(0),
        cmd: Id::NONE,
        loaded,
        at: Time::ZERO,
        logged_at: Time::ZERO,
        replicated_at: Time::ZERO,
    }
}
