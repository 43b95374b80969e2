//! Faults as a list: every decision that something breaks is one numbered event with all that it needs, so
//! that a run can be played again from the list, and again without some of it (`minimise`).

use crate::disk::Health;
use crate::faults::PathFault;
use crate::tally::Moment;
use palisade_protocol::wire::*;
use std::fmt;

/// Something that breaks. Durations are nanoseconds of virtual time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A node dies at the `left`-th next effect of a kind, and comes back.
    Doom {
        /// Who.
        node: NodeId,
        /// At which kind of effect.
        at: Moment,
        /// How many of that kind pass unharmed.
        left: u64,
        /// After the effect took place, rather than just before.
        after: bool,
        /// Its device caches are lost, too.
        power: bool,
        /// How long it stays away.
        away: u64,
    },
    /// A node dies now, and comes back.
    Kill {
        /// Who.
        node: NodeId,
        /// Its device caches are lost, too.
        power: bool,
        /// How long it stays away.
        away: u64,
    },
    /// The authority cannot be asked.
    Authority {
        /// For so long.
        away: u64,
    },
    /// Nothing goes from one place to another.
    Cut {
        /// From here.
        from: NodeId,
        /// To there.
        to: NodeId,
        /// Nor back.
        both: bool,
        /// For so long.
        lasting: u64,
    },
    /// A node reaches nobody, and nobody reaches it: neither other nodes nor the authority.
    Isolate {
        /// Who.
        node: NodeId,
        /// For so long.
        lasting: u64,
    },
    /// One of the networks between two nodes is bad (EF-31).
    Path {
        /// From here to `to`; both ways unless it is cut one way.
        from: NodeId,
        /// See `from`.
        to: NodeId,
        /// Which network.
        path: u8,
        /// In which way.
        how: PathFault,
        /// For so long.
        lasting: u64,
    },
    /// A device is slow, hangs or fails.
    Sick {
        /// Whose.
        node: NodeId,
        /// Which.
        disk: usize,
        /// In which way.
        health: Health,
        /// For so long.
        lasting: u64,
    },
    /// A bit flips on a medium.
    Rot {
        /// Whose.
        node: NodeId,
        /// Picks the block among those that were written.
        draw: u64,
        /// Byte within it.
        within: u64,
        /// Bit of that byte.
        bit: u8,
        /// Only in client data.
        client_data: bool,
    },
    /// The whole rack loses power, and comes back.
    Power {
        /// Decides how long each node takes.
        salt: u64,
    },
    /// Somebody wants the primary elsewhere (MA-16).
    Flip {
        /// Of this partition.
        partition: PartitionId,
    },
    /// A head's log is lost with all that is in it, and a blank one takes its place (P-03).
    LostLog {
        /// Whose.
        node: NodeId,
        /// How long the head stays away.
        away: u64,
    },
    /// People mark a head, or all of them, as isolating, and take the mark back later (BA-02).
    Mark {
        /// Whom.
        node: NodeId,
        /// All heads, too.
        all: bool,
        /// For so long.
        lasting: u64,
    },
    /// The clock of a running node jumps ahead.
    Jump {
        /// Whose.
        node: NodeId,
        /// By so much.
        ahead: u64,
    },
    /// The clock of a running node runs fast or slow.
    Pace {
        /// Whose.
        node: NodeId,
        /// By so many percent.
        percent: i8,
        /// For so long.
        lasting: u64,
    },
    /// All nodes stop and go on together: a paused host of virtual machines. Their clocks jump alike.
    Pause {
        /// For so long.
        lasting: u64,
        /// By so much further than what passed meanwhile.
        jump: u64,
    },
    /// A node stops (SIGSTOP, a paused guest), and goes on with everything that reached it meanwhile.
    Sleep {
        /// Who.
        node: NodeId,
        /// For so long.
        lasting: u64,
        /// Its clock is so much further than others' when it goes on.
        jump: u64,
    },
}

/// Kinds of faults, to switch each off as a whole.
pub const KINDS: [&str; 13] = [
    "death",
    "authority",
    "cut",
    "isolation",
    "network",
    "sick device",
    "rot",
    "power cut",
    "flip",
    "sleep",
    "lost log",
    "mark",
    "clock",
];

impl Fault {
    /// Its kind, one of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Doom { .. } | Self::Kill { .. } => "death",
            Self::Authority { .. } => "authority",
            Self::Cut { .. } => "cut",
            Self::Isolate { .. } => "isolation",
            Self::Path { .. } => "network",
            Self::Sick { .. } => "sick device",
            Self::Rot { .. } => "rot",
            Self::Power { .. } => "power cut",
            Self::Flip { .. } => "flip",
            Self::Sleep { .. } | Self::Pause { .. } => "sleep",
            Self::LostLog { .. } => "lost log",
            Self::Mark { .. } => "mark",
            Self::Jump { .. } | Self::Pace { .. } => "clock",
        }
    }
}

/// A fault and when it happens: nanoseconds of virtual time since the run began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: u64,
    /// What.
    pub fault: Fault,
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power_of = |power: bool| if power { ", power lost" } else { "" };
        match self {
            Self::Doom { node, at, left, after, power, away } => {
                let side = if *after { "after" } else { "before" };
                let power = power_of(*power);
                write!(
                    f,
                    "node {node} dies {side} its {at:?} number {left}{power}, back {} ms later",
                    ms(*away)
                )
            }
            Self::Kill { node, power, away } => {
                write!(f, "node {node} dies{}, back {} ms later", power_of(*power), ms(*away))
            }
            Self::Authority { away } => write!(f, "the authority is away for {} ms", ms(*away)),
            Self::Cut { from, to, both, lasting } => {
                let arrow = if *both { "<->" } else { "->" };
                write!(f, "{from} {arrow} {to} is cut for {} ms", ms(*lasting))
            }
            Self::Isolate { node, lasting } => write!(f, "node {node} is cut off for {} ms", ms(*lasting)),
            Self::Path { from, to, path, how, lasting } => {
                write!(f, "network {path} between {from} and {to}: {how:?} for {} ms", ms(*lasting))
            }
            Self::Sick { node, disk, health, lasting } => {
                write!(f, "device {disk} of node {node}: {health:?} for {} ms", ms(*lasting))
            }
            Self::Rot { node, bit, .. } => write!(f, "bit {bit} of a byte rots at node {node}"),
            Self::Power { .. } => write!(f, "the whole rack loses power"),
            Self::Flip { partition } => write!(f, "somebody flips partition {partition}"),
            Self::LostLog { node, away } => {
                write!(f, "node {node} loses its log, back with a blank one {} ms later", ms(*away))
            }
            Self::Mark { node, all, lasting } => {
                let whom = if *all { " and all others are" } else { " is" };
                write!(f, "node {node}{whom} to isolate for {} ms", ms(*lasting))
            }
            Self::Jump { node, ahead } => write!(f, "the clock of node {node} jumps by {} ms", ms(*ahead)),
            Self::Pace { node, percent, lasting } => {
                write!(f, "the clock of node {node} runs {percent:+} % fast for {} ms", ms(*lasting))
            }
            Self::Pause { lasting, jump } => {
                write!(f, "all nodes stop for {} ms, their clocks jump by {} ms", ms(*lasting), ms(*jump))
            }
            Self::Sleep { node, lasting, jump } => {
                write!(f, "node {node} stops for {} ms, its clock jumps by {} ms", ms(*lasting), ms(*jump))
            }
        }
    }
}
