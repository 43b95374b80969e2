//! The head machine: serves volumes as primary, follows as secondary (EF-05..11, EF-13, EF-17).
//!
//! One file per verb. The path of a write: `write` numbers it; the log and the secondary get it in the
//! same turn (`replicate`); `commit` changes the index when both are durable and answers the client. The
//! path of a read: `read` looks it up, `piece` and `degraded` bring the bytes, `confirm` asks the peers
//! whether the pair still holds. Behind them: `claims`, `extent`, `flush`, `batch`, `stripe`, `collect`, `release`;
//! `devices` judges the sleds' devices, `rebuild` says what has to leave them.
//! The side that follows is `secondary`; how a pair is taken over is `assign`, after `probe` has found where
//! the log ends; `peers` are the other members; `held` keeps what they may lack; `solo` is a group of one,
//! `journal` its copies on sleds (`unit` is their format), `vouch` how it knows that it was not superseded, and
//! `salvage` and `take` how another head takes over from those copies, `mend` how rotten ones are made good.
//! `failover` notices silent peers and proposes another group, `wish` says which, and `health` is what it judges by;
//! `medium` watches the own log's device.
//! A head that cannot follow from its log, or is no member yet, is filled: `copy` gives, `join` takes, and
//! `guest` is the way from there to a member. So that it need not be told the whole index, the primary writes
//! checkpoints of it to sleds: `checkpoint` says when, `pages` writes them, `page` is their format, and `basis` is what
//! the taker makes of them.
//!
//! What it does not do: decide who is primary (control), check tokens (sleds), lay out the log (`log`).

mod asks;
mod assign;
mod basis;
mod batch;
mod begin;
mod borrow;
mod checkpoint;
mod claims;
mod collect;
mod commit;
mod config;
mod confirm;
mod copy;
mod core;
mod degraded;
mod delete;
mod devices;
mod extent;
mod failover;
mod faults;
mod flush;
mod forget;
mod gathered;
mod groups;
mod guest;
mod health;
mod held;
mod isolate;
mod join;
mod journal;
mod medium;
mod mend;
mod merge;
mod page;
mod pages;
mod part;
mod peers;
mod piece;
mod probe;
mod read;
mod rebuild;
mod release;
mod repair;
mod replicate;
mod salvage;
mod secondary;
mod shown;
mod slab;
mod sleds;
mod solo;
mod stats;
mod stop;
mod stripe;
mod take;
mod told;
mod unit;
mod upkeep;
mod vouch;
mod wish;
mod write;
mod written;

pub use config::{
    DeviceTarget, FlushConfig, HeadConfig, HeadLog, LogStart, PartitionConfig, RetryConfig, Solo,
};
pub use devices::DeviceWatch;
pub use failover::FailoverConfig;
pub use faults::Faults;
pub use health::{Clients, Health, Policy, keeps};
pub use stats::{
    Counters, DeviceStatus, FillStatus, HeadStatus, Left, MediumStatus, PartitionStatus, RoleState, STAGES,
    Stage, Stats,
};

use self::core::Core;
use crate::log::{LogError, Recovery};
use crate::wire::{
    Assignment, BlockDone, BootId, ClientCmd, ClientDone, ClientError, ClientTag, LogId, Member, Msg, NodeId,
    Op, Out, PartitionId, ProposalOutcome, Severity, Time, limits,
};
use palisade_dma::Pool;
use std::collections::{BTreeMap, VecDeque};

/// A head. It reads its log first; until then it holds commands and assignments, and drops messages,
/// which their senders repeat.
pub struct Head {
    config: HeadConfig,
    pool: Pool,
    state: State,
    early: VecDeque<(ClientCmd, Time)>,
    assignments: BTreeMap<PartitionId, Assignment>,
    fills: BTreeMap<PartitionId, (Member, bool)>,
    isolating: Option<Severity>,
    wake: bool,
    /// How often its log was tried, and what was told of that last.
    tries: u32,
    told: Option<LogError>,
}

/// How far a head has come.
enum State {
    New,
    Recovering(Box<Recovery>),
    /// The log's device failed (no space left, say): it is tried again then.
    Waiting(Time),
    Ready(Box<Core>),
    /// The log is refused: only people can help.
    Failed,
}

impl Head {
    /// A head that will read its log at the first [`Head::turn`], and then wait for numbers.
    pub fn new(config: HeadConfig, pool: Pool) -> Self {
        Self {
            config,
            pool,
            state: State::New,
            early: VecDeque::new(),
            assignments: BTreeMap::new(),
            fills: BTreeMap::new(),
            isolating: None,
            wake: true,
            tries: 0,
            told: None,
        }
    }

    /// A message from another node.
    pub fn handle_msg(&mut self, now: Time, from: NodeId, from_boot: BootId, msg: Msg, out: &mut Out) {
        if let State::Ready(core) = &mut self.state {
            core.handle_msg(now, from, from_boot, msg, out);
        }
    }

    /// As [`Head::handle_msg`], for a message that was handed over within the process ([`crate::wire::Envelope::near`]):
    /// the checksums of its payload were taken from this memory, and are not compared with it once more.
    pub fn handle_near(&mut self, now: Time, from: NodeId, from_boot: BootId, msg: Msg, out: &mut Out) {
        if let State::Ready(core) = &mut self.state {
            core.near = true;
            core.handle_msg(now, from, from_boot, msg, out);
            core.near = false;
        }
    }

    /// A completion of an own device.
    pub fn handle_block(&mut self, now: Time, done: BlockDone, out: &mut Out) {
        match &mut self.state {
            State::Recovering(recovery) => {
                recovery.handle_block(done, out);
                self.wake = true;
            }
            State::Ready(core) => core.handle_block(now, done, out),
            State::New | State::Waiting(_) | State::Failed => {}
        }
    }

    /// A client's command. Call only while [`Head::ready`] says so; the head holds what it cannot do yet.
    pub fn handle_client(&mut self, now: Time, cmd: ClientCmd, out: &mut Out) {
        match &mut self.state {
            State::Ready(core) => core.handle_client(now, cmd, out),
            State::Waiting(_) | State::Failed => self.refuse_without_log(&cmd, out),
            State::New | State::Recovering(_) if self.early.len() < limits::COMMANDS_MAX => {
                self.early.push_back((cmd, now));
            }
            State::New | State::Recovering(_) => {
                out.done.push(ClientDone { tag: cmd.tag, result: Err(ClientError::NotServed) });
            }
        }
    }

    /// Ends a reactor turn: group commit, replication, confirms, timers, background work.
    pub fn turn(&mut self, now: Time, out: &mut Out) {
        self.wake = false;
        match &mut self.state {
            State::New => self.start_recovery(now, out),
            State::Waiting(at) if *at <= now => self.start_recovery(now, out),
            State::Recovering(_) => self.poll_recovery(now, out),
            State::Ready(core) => core.turn(now, out),
            State::Waiting(_) | State::Failed => {}
        }
    }

    /// When [`Head::turn`] must run again even without input.
    pub fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::New => Some(Time::ZERO),
            State::Waiting(at) => Some(*at),
            State::Recovering(_) | State::Failed => self.wake.then_some(Time::ZERO),
            State::Ready(core) => core.deadline(),
        }
    }

    /// Whether nothing is in progress.
    pub fn idle(&self) -> bool {
        match &self.state {
            State::New | State::Recovering(_) => false,
            State::Ready(core) => core.idle(),
            State::Waiting(_) | State::Failed => true,
        }
    }

    /// The authority granted a number (EF-14, P-01).
    pub fn assign(&mut self, now: Time, assignment: Assignment, out: &mut Out) {
        match &mut self.state {
            State::Ready(core) => core.assign(now, assignment, out),
            State::New | State::Recovering(_) | State::Waiting(_) => {
                self.assignments.insert(assignment.stamp.partition, assignment);
            }
            State::Failed => {}
        }
    }

    /// Control wishes `member` for a further member of the partition's group: the primary gives it a full copy
    /// (BA-01), vouches for it and proposes the group with it. May be repeated; another member replaces the
    /// wish, this head itself ends it. It stands until a group includes that head, or the head starts anew; a
    /// head that is not primary keeps it for when it becomes that.
    pub fn fill(&mut self, _now: Time, partition: PartitionId, member: Member, _out: &mut Out) {
        self.wish(partition, member, false);
    }

    /// As [`Head::fill`], for a head that was a member with the log that it has: it is refilled from the latest
    /// operations, if they go far enough back, and filled anew only if they do not (MA-20).
    pub fn take_back(&mut self, partition: PartitionId, member: Member) {
        self.wish(partition, member, true);
    }

    fn wish(&mut self, partition: PartitionId, member: Member, follows: bool) {
        match &mut self.state {
            State::Ready(core) => core.fill_head(partition, member, follows),
            State::New | State::Recovering(_) | State::Waiting(_) => {
                self.fills.insert(partition, (member, follows));
            }
            State::Failed => {}
        }
    }

    /// Control says that this head is no member of the partition's group any more, and will not be one from what
    /// it holds: its copy goes, and with it the room in its log. Columns stay as they are. Ends with
    /// [`Event::Forgotten`]; nothing happens while the head leads or follows.
    pub fn forget(&mut self, partition: PartitionId, out: &mut Out) {
        if let State::Ready(core) = &mut self.state {
            core.forget(partition, out);
        }
    }

    /// Another head's process, of that boot, is said to have ended. Only a hint: a head that lives is left in place.
    pub fn peer_gone(&mut self, now: Time, head: NodeId, boot: BootId) {
        if let State::Ready(core) = &mut self.state {
            core.gone(now, head, boot);
        }
    }

    /// What became of a proposal of this boot (`Event::Propose`, P-02). Late and doubled answers are harmless.
    pub fn outcome(
        &mut self,
        now: Time,
        partition: PartitionId,
        nonce: u64,
        outcome: ProposalOutcome,
        out: &mut Out,
    ) {
        if let State::Ready(core) = &mut self.state {
            core.outcome(now, partition, nonce, outcome, out);
        }
    }

    /// A client that did `io` I/O lately asks for the volume at this head, which is not its primary (MA-14).
    pub fn client_asks(&mut self, partition: PartitionId, io: u64) {
        if let State::Ready(core) = &mut self.state {
            core.client_asks(partition, io);
        }
    }

    /// Whether volumes have to leave this head, and why (BA-02). Kept from before the log was read on.
    pub fn set_isolating(&mut self, severity: Option<Severity>) {
        self.isolating = severity;
        if let State::Ready(core) = &mut self.state {
            core.set_isolating(severity);
        }
    }

    /// What the node knows of the volume's clients, for health checks (MA-13).
    pub fn set_clients(&mut self, now: Time, partition: PartitionId, clients: Clients) {
        if let State::Ready(core) = &mut self.state
            && let Some(p) = core.parts.find(partition)
        {
            core.parts[p].set_clients(now, clients);
        }
    }

    /// Whether roles of the partition moved too often lately: while they did, a primary that answers is left
    /// in place (MA-17).
    pub fn set_rate_pause(&mut self, partition: PartitionId, paused: bool) {
        if let State::Ready(core) = &mut self.state
            && let Some(p) = core.parts.find(partition)
        {
            core.parts[p].set_paused(paused);
        }
    }

    /// A partition came into being (or its declaration changed). Known partitions keep their contents.
    pub fn create_partition(&mut self, now: Time, config: PartitionConfig) {
        self.config.partitions.retain(|known| known.partition != config.partition);
        self.config.partitions.push(config.clone());
        if let State::Ready(core) = &mut self.state {
            core.create_partition(now, config);
        }
    }

    /// Deletes a partition: on its primary a `Delete` operation, then its columns are released; ends
    /// with `Event::Deleted`. May be repeated after a restart.
    pub fn delete_partition(&mut self, now: Time, partition: PartitionId, out: &mut Out) {
        if let State::Ready(core) = &mut self.state {
            core.delete_partition(now, partition, out);
        }
    }

    /// Control changed which devices may hold columns.
    pub fn set_devices(&mut self, now: Time, partition: PartitionId, devices: Vec<DeviceTarget>) {
        if let Some(known) = self.config.partitions.iter_mut().find(|known| known.partition == partition) {
            known.devices.clone_from(&devices);
        }
        if let State::Ready(core) = &mut self.state {
            core.set_devices(now, partition, devices);
        }
    }

    /// Flushes everything acknowledged before this call to extents, then answers `tag` with a
    /// `ClientDone`: `Ok(Done)`, or `NoSpace`, `NotServed`.
    pub fn flush_all(&mut self, now: Time, partition: PartitionId, tag: ClientTag, out: &mut Out) {
        match &mut self.state {
            State::Ready(core) => core.flush_all(now, partition, tag, out),
            _ => out.done.push(ClientDone { tag, result: Err(ClientError::NotServed) }),
        }
    }

    /// A client's connection is gone: its commands that have no number yet are dropped (P-11), each with an
    /// answer, [`ClientError::NotServed`]. Says how many.
    pub fn abort(
        &mut self,
        now: Time,
        partition: PartitionId,
        gone: &dyn Fn(ClientTag) -> bool,
        out: &mut Out,
    ) -> usize {
        let before = out.done.len();
        let mine = |cmd: &ClientCmd| cmd.partition == partition && gone(cmd.tag);
        stop::drop_gone(&mut self.early, |(cmd, _)| mine(cmd).then_some(cmd.tag), out);
        let dropped = out.done.len() - before;
        match &mut self.state {
            State::Ready(core) => dropped + core.abort(now, partition, gone, out),
            _ => dropped,
        }
    }

    /// Whether checkpoints of partitions with `blocks` blocks in all fit the log device (P-32). Control
    /// asks before it creates a volume; `true` until the log is read.
    pub fn capacity_ok(&self, blocks: u64) -> bool {
        match &self.state {
            State::Ready(core) => core.log.capacity_ok(blocks),
            _ => true,
        }
    }

    /// Whether exports may hand in another command of the partition (back-pressure).
    pub fn ready(&self, partition: PartitionId) -> bool {
        match &self.state {
            State::Ready(core) => core.ready(partition),
            State::Waiting(_) | State::Failed => true,
            State::New | State::Recovering(_) => self.early.len() < limits::COMMANDS_MAX,
        }
    }

    /// Why the head does not run: its log was refused, or is tried again.
    pub fn failure(&self) -> Option<&LogError> {
        self.told.as_ref()
    }

    /// A hash of a partition's index, with the operation up to which it is applied: equal on two heads that hold
    /// the same blocks, wherever in their logs. Reads all of it: for tests and drills.
    pub fn digest(&self, partition: PartitionId) -> Option<(Op, u128)> {
        let State::Ready(core) = &self.state else { return None };
        let part = &core.parts[core.parts.find(partition)?];
        Some((part.committed, part.index.digest()))
    }

    /// A picture for `status` and metrics.
    pub fn status(&self) -> HeadStatus {
        match &self.state {
            State::Ready(core) => core.status(),
            _ => HeadStatus {
                node: self.config.node,
                log: None,
                recovered: false,
                log_failed: self.told.is_some(),
                log_why: self.told.as_ref().map_or_else(String::new, LogError::to_string),
                log_blocks: 0,
                log_free: 0,
                log_room: 0,
                medium: MediumStatus::default(),
                partitions: Vec::new(),
            },
        }
    }

    /// The newest pair of each partition that its log holds, or is about to, with the log; none before that was
    /// read (P-04).
    pub fn groups(&self) -> Option<(LogId, Vec<Assignment>)> {
        let State::Ready(core) = &self.state else { return None };
        Some((core.log.id(), core.groups()))
    }
}
