//! What runs have exercised, summed over seeds. A set of runs that never flushed, collected, or crashed
//! at some kind of effect has shown nothing about it, so a zero fails.

use crate::host::{Counts, Effect, Input};
use palisade_protocol::wire::{BlockOk, BlockOp};
use std::collections::BTreeMap;
use std::fmt;

/// Kinds of effect at which a node can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// A read is submitted.
    SubmitRead,
    /// A write is submitted.
    SubmitWrite,
    /// A read has completed.
    ReadDone,
    /// A write or flush has completed.
    WriteDone,
    /// A message leaves.
    Send,
    /// A message arrives.
    Receive,
    /// A client is answered.
    Answer,
    /// A client asks.
    Ask,
    /// Nothing in particular happens.
    Idle,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SubmitRead,
        Self::SubmitWrite,
        Self::ReadDone,
        Self::WriteDone,
        Self::Send,
        Self::Receive,
        Self::Answer,
        Self::Ask,
        Self::Idle,
    ];

    /// The moment that an effect is, if one dies at it.
    pub fn of_effect(effect: &Effect) -> Option<Self> {
        match effect {
            Effect::Block(cmd) => Some(match cmd.op {
                BlockOp::Read { .. } => Self::SubmitRead,
                BlockOp::Write { .. } | BlockOp::Flush => Self::SubmitWrite,
            }),
            Effect::Send(..) | Effect::Datagram(..) => Some(Self::Send),
            Effect::Answer(_) => Some(Self::Answer),
            Effect::Event(_) => None,
        }
    }

    /// The moment that an input is, if one dies at it.
    pub fn of_input(input: &Input) -> Option<Self> {
        match input {
            Input::Block(done) => Some(match done.result {
                Ok(BlockOk::Read(_)) => Self::ReadDone,
                _ => Self::WriteDone,
            }),
            Input::Msg { .. } | Input::Datagram { .. } => Some(Self::Receive),
            Input::Client(_) => Some(Self::Ask),
            _ => None,
        }
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves volumes.
    Head,
    /// Holds columns.
    Sled,
    /// Grants numbers.
    Authority,
}

/// Sums over runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// What machines counted.
    pub counts: Counts,
    /// Deaths per role and moment.
    pub crashes: BTreeMap<(Role, Moment), u64>,
    /// Deaths of the authority (it has no effects of its own kinds).
    pub authority_crashes: u64,
    /// Power cuts of the whole rack.
    pub power_cuts: u64,
    /// Writes in flight that a crash tore.
    pub torn_writes: u64,
    /// Completed, unflushed sectors that a power loss dropped.
    pub lost_sectors: u64,
    /// Requests that clients had answered.
    pub answered: u64,
    /// Requests that clients had answered with an error.
    pub refused: u64,
    /// Column writes that the fence checks followed to the medium.
    pub followed_writes: u64,
    /// Writes whose acknowledgement was held against the secondary's watermark.
    pub checked_acks: u64,
    /// Reads whose answer was held against a confirm.
    pub checked_confirms: u64,
    /// Grants whose durable record was checked.
    pub checked_grants: u64,
    /// Largest number of commands in flight on one device.
    pub in_flight_max: u64,
    /// Events handled.
    pub steps: u64,
    /// Heads that served after they took over from the copies of a lone one.
    pub salvages: u64,
    /// Flips that the authority granted.
    pub flips: u64,
    /// Times that another head became primary and served without the old one's agreement.
    pub failovers: u64,
    /// Times that a head began to serve alone, by leave.
    pub alone: u64,
    /// Times that another head than before began to serve.
    pub moves: u64,
    /// Proposals granted, declined, and answers to them that were lost; repeats count.
    pub granted: u64,
    /// See `granted`.
    pub declined: u64,
    /// See `granted`.
    pub outcomes_lost: u64,
    /// Nodes that were put to sleep.
    pub sleeps: u64,
    /// Of those, whose clock jumped ahead.
    pub jumps: u64,
    /// Heads that were cut off from everybody.
    pub isolations: u64,
    /// Times that the authority was away for long.
    pub long_losses: u64,
    /// Networks between two nodes that turned bad by themselves (EF-31).
    pub bad_networks: u64,
    /// Datagrams that those swallowed.
    pub swallowed: u64,
    /// Times that the other network carried on for one that had swallowed something.
    pub carried_around: u64,
    /// Answers of heads that another had replaced already, or was about to.
    pub answered_astray: u64,
    /// Clients that a head which did not lead sent away (MA-10).
    pub redirected: u64,
    /// Logs that were lost, and blank ones in their place.
    pub lost_logs: u64,
    /// Heads that control chose to become members, and groups that it granted with a head that was filled.
    pub chosen: u64,
    /// See `chosen`.
    pub joined: u64,
    /// Heads that died while they gave or took a full copy.
    pub copy_deaths: u64,
    /// Heads that were to isolate, and groups of one that were granted for it.
    pub marks: u64,
    /// See `marks`.
    pub stood_alone: u64,
    /// Running clocks that jumped, changed their pace, and pauses of all nodes.
    pub clocks: u64,
    /// Heads that were taken back after they had been left out, and that had to rest before.
    pub taken_back: u64,
    /// See `taken_back`.
    pub rested: u64,
}

impl Tally {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.counts.add(&other.counts);
        for (at, count) in &other.crashes {
            *self.crashes.entry(*at).or_default() += count;
        }
        self.authority_crashes += other.authority_crashes;
        self.power_cuts += other.power_cuts;
        self.torn_writes += other.torn_writes;
        self.lost_sectors += other.lost_sectors;
        self.answered += other.answered;
        self.refused += other.refused;
        self.followed_writes += other.followed_writes;
        self.checked_acks += other.checked_acks;
        self.checked_confirms += other.checked_confirms;
        self.checked_grants += other.checked_grants;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
        self.steps += other.steps;
        self.flips += other.flips;
        self.failovers += other.failovers;
        self.salvages += other.salvages;
        self.moves += other.moves;
        self.granted += other.granted;
        self.declined += other.declined;
        self.outcomes_lost += other.outcomes_lost;
        self.alone += other.alone;
        self.sleeps += other.sleeps;
        self.jumps += other.jumps;
        self.isolations += other.isolations;
        self.long_losses += other.long_losses;
        self.bad_networks += other.bad_networks;
        self.swallowed += other.swallowed;
        self.carried_around += other.carried_around;
        self.answered_astray += other.answered_astray;
        self.redirected += other.redirected;
        self.lost_logs += other.lost_logs;
        self.chosen += other.chosen;
        self.joined += other.joined;
        self.copy_deaths += other.copy_deaths;
        self.marks += other.marks;
        self.stood_alone += other.stood_alone;
        self.clocks += other.clocks;
        self.taken_back += other.taken_back;
        self.rested += other.rested;
    }

    /// Names of what runs with moving roles never exercised.
    pub fn moving_zeroes(&self) -> Vec<&'static str> {
        let seen = [
            ("flips", self.flips),
            ("failovers", self.failovers),
            ("moves of the primary", self.moves),
            ("granted proposals", self.granted),
            ("declined proposals", self.declined),
            ("lost outcomes", self.outcomes_lost),
            ("sleeping heads", self.sleeps),
            ("checked acknowledgements", self.checked_acks),
            ("checked confirms", self.checked_confirms),
            ("flushes", self.counts.flushes),
            ("degraded reads", self.counts.degraded_reads),
        ];
        seen.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// Names of what runs dense in failovers never exercised.
    pub fn dense_zeroes(&self) -> Vec<&'static str> {
        let more = [
            ("jumping clocks", self.jumps),
            ("heads cut off", self.isolations),
            ("long losses of the authority", self.long_losses),
            ("bad networks", self.bad_networks),
            ("datagrams that a bad network swallowed", self.swallowed),
            ("datagrams that the other network carried", self.carried_around),
            ("clients sent away", self.redirected),
        ];
        let more = more.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name);
        self.moving_zeroes().into_iter().chain(more).collect()
    }

    /// Names of what runs in which members are replaced never exercised.
    pub fn replaced_zeroes(&self) -> Vec<&'static str> {
        let more = [
            ("lost logs", self.lost_logs),
            ("full copies", self.counts.fills),
            ("chosen heads", self.chosen),
            ("heads that joined", self.joined),
            ("deaths amid copies", self.copy_deaths),
            ("marks", self.marks),
            ("groups of one for isolation", self.stood_alone),
            ("clocks", self.clocks),
            ("heads taken back", self.taken_back),
            ("heads alone", self.alone),
            ("salvages", self.salvages),
        ];
        let more = more.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name);
        self.moving_zeroes().into_iter().chain(more).collect()
    }

    /// Names of what was never exercised.
    pub fn zeroes(&self) -> Vec<String> {
        let counts = &self.counts;
        let mut zeroes: Vec<String> = [
            ("flushes", counts.flushes),
            ("repoints", counts.repoints),
            ("restarts with reconcile", counts.reconciles),
            ("degraded reads", counts.degraded_reads),
            ("collections", counts.collections),
            ("torn records", counts.torn_records),
            ("log blocks copied forward", counts.copies),
            ("torn writes", self.torn_writes),
            ("power cuts", self.power_cuts),
            ("crashes of the authority", self.authority_crashes),
            ("answered requests", self.answered),
            ("followed column writes", self.followed_writes),
            ("checked acknowledgements", self.checked_acks),
            ("checked confirms", self.checked_confirms),
            ("checked grants", self.checked_grants),
        ]
        .into_iter()
        .filter(|(_, count)| *count == 0)
        .map(|(name, _)| name.to_owned())
        .collect();
        for role in [Role::Head, Role::Sled] {
            for moment in Moment::ALL {
                let clients_only = matches!(moment, Moment::Answer | Moment::Ask);
                let possible = role == Role::Head || !clients_only;
                if possible && !self.crashes.contains_key(&(role, moment)) {
                    zeroes.push(format!("crashes of a {role:?} at {moment:?}"));
                }
            }
        }
        zeroes
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(f, "runs {}, steps {}, answered requests {}", self.runs, self.steps, self.answered)?;
        writeln!(
            f,
            "flushes {}, repoints {}, collections {}, degraded reads {}, restarts with reconcile {}",
            counts.flushes, counts.repoints, counts.collections, counts.degraded_reads, counts.reconciles
        )?;
        writeln!(
            f,
            "torn records {}, torn writes {}, lost sectors {}, corrupt {}, repaired {}, copied forward {}",
            counts.torn_records,
            self.torn_writes,
            self.lost_sectors,
            counts.corrupt,
            counts.repaired,
            counts.copies
        )?;
        writeln!(
            f,
            "followed column writes {}, checked grants {}, acknowledgements {}, confirms {}, most commands in flight {}",
            self.followed_writes,
            self.checked_grants,
            self.checked_acks,
            self.checked_confirms,
            self.in_flight_max
        )?;
        writeln!(
            f,
            "flips {}, failovers {}, alone {}, moves {}, proposals granted {} and declined {}, answers lost {}, sleeps {}",
            self.flips,
            self.failovers,
            self.alone,
            self.moves,
            self.granted,
            self.declined,
            self.outcomes_lost,
            self.sleeps
        )?;
        writeln!(
            f,
            "clocks that jumped {}, heads cut off {}, long losses of the authority {}, clients sent away {}",
            self.jumps, self.isolations, self.long_losses, self.redirected
        )?;
        writeln!(
            f,
            "bad networks {}, swallowed datagrams {}, carried around {}, resent {}, networks down {}",
            self.bad_networks, self.swallowed, self.carried_around, counts.resends, counts.networks_down
        )?;
        writeln!(
            f,
            "lost logs {}, full copies {}, chosen {}, joined {}, deaths amid copies {}, salvages {}",
            self.lost_logs, counts.fills, self.chosen, self.joined, self.copy_deaths, self.salvages
        )?;
        writeln!(
            f,
            "marks {}, alone for them {}, running clocks {}, taken back {}, rests {}",
            self.marks, self.stood_alone, self.clocks, self.taken_back, self.rested
        )?;
        write!(f, "power cuts {}, crashes of the authority {}", self.power_cuts, self.authority_crashes)?;
        for ((role, moment), count) in &self.crashes {
            write!(f, ", {role:?} at {moment:?} {count}")?;
        }
        Ok(())
    }
}
