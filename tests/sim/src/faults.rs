//! What may go wrong in a run, and how likely: the fault model, its odds, and the table of scenarios.
//!
//! **Nodes** (heads, sleds, the authority) die at any effect: just before or just after a command is
//! submitted, completes, a message is sent or arrives, a client is answered; or while idle. A death is a
//! kill (the device caches survive) or a power loss. They come back after a while under a new boot id and
//! recover from their devices alone. Now and then the whole rack loses power at once.
//!
//! **Messages** between live nodes are doubled, reordered and delayed. In `Direct` mode they are lost
//! only while a link is cut or when an end restarts (the transport contract of `wire::msg`). In `Fabric`
//! mode the shipping fabric machines carry them over datagrams that are lost, doubled, reordered and
//! damaged. Links are cut for a while, in one direction or both.
//!
//! **Devices** never lie about durability (see `disk`), but are slow, hang for a while, fail, and rot.
//! The harm is bounded so that a right rack keeps all data: of the sleds at most as many are hurt for
//! good as the code bears beside what a degraded flush leaves out, and of two log copies one at most rots.
//!
//! **Clients** have several requests open, overlap, and use 512-byte edges. A client whose head dies
//! never hears of its open requests.
//!
//! **Networks.** In `Fabric` mode each pair of nodes has two (EF-31). One of them may be cut, both ways or
//! one way, lossy, slow or flapping, without any effect but on when things arrive.
//!
//! **Clocks.** Every boot of a node has a clock of its own, which starts anywhere and only rises; while a node
//! is stopped its clock may jump ahead. In the scenarios of `replaced` running clocks jump, too, whole hosts are
//! paused with all that is on them, and clocks run fast or slow.
//!
//! **Members** (`replaced`). Logs are lost with all that is in them, and blank ones take their place, as long as
//! some head holds, or can salvage, what was acknowledged. Heads are away for longer than operations are
//! remembered, people mark heads as isolating, and control replaces members as `palisade-control` does.
//!
//! Not modelled: reactors of more than one core (loom tests show those), a process whose I/O outlives it (the runtime's exclusive open).

use crate::dense::DENSE;
use crate::lone::LONE;
use crate::replaced::REPLACED;
use palisade_protocol::head::{FailoverConfig, Policy, Solo};
use std::time::Duration;

/// What may be wrong with one of the networks between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Nothing passes, either way.
    Cut,
    /// Nothing passes one way.
    OneWay,
    /// Of so many datagrams in a hundred each is lost.
    Lossy(u8),
    /// Everything takes so many milliseconds longer.
    Slow(u8),
    /// Cut for so many milliseconds, open for as many, and so on.
    Flapping(u8),
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetMode {
    /// Messages by handle, under the transport contract.
    Direct,
    /// Through the shipping fabric machine over a lossy datagram link.
    Fabric,
}

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Everything: reads, writes of all sizes, clears, flushes, half of them into a small hot range.
    Mixed,
    /// Whole blocks anywhere, one after the other as fast as they are answered; a few reads between.
    Overwrite,
}

/// How likely each fault is. All are per event, except those named per second of virtual time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Odds {
    /// A message arrives twice.
    pub doubled: f64,
    /// A message is held back for up to `held_ms_max`, so that later ones overtake it.
    pub held: f64,
    /// Longest hold.
    pub held_ms_max: u64,
    /// A datagram is lost (fabric mode).
    pub lost: f64,
    /// A datagram's byte is damaged (fabric mode).
    pub damaged: f64,
    /// Link cuts per second.
    pub cuts_per_s: f64,
    /// A command takes 4 to 40 times as long.
    pub slow: f64,
    /// Devices that turn slow or hang for a while, per second.
    pub sick_per_s: f64,
    /// Crashes of single nodes per second.
    pub crashes_per_s: f64,
    /// Power cuts of the whole rack per second.
    pub cuts_of_power_per_s: f64,
    /// Rotting sectors on hurt sleds and one log, per second.
    pub rot_per_s: f64,
    /// Flips that the authority grants, per second.
    pub flips_per_s: f64,
    /// Heads that stop for a while and wake with all that came meanwhile, per second.
    pub sleeps_per_s: f64,
    /// Of those, whose clock jumped ahead meanwhile.
    pub jumps: f64,
    /// Primaries of whole groups that are killed or cut off, per second.
    pub take_overs_per_s: f64,
    /// Times that the authority is away for long, per second.
    pub authority_losses_per_s: f64,
    /// Networks between two nodes that turn bad for a while, per second (fabric mode).
    pub paths_per_s: f64,
    /// A proposal that meets somebody's flip, which came first.
    pub raced: f64,
    /// Heads that lose their log for good, per second.
    pub lost_logs_per_s: f64,
    /// Heads that are away for longer than operations are remembered, per second.
    pub absences_per_s: f64,
    /// Heads that give or take a full copy and die amid it, per second while there is one.
    pub copy_deaths_per_s: f64,
    /// Heads, or all of them, that people mark as isolating for a while, per second (BA-02).
    pub marks_per_s: f64,
    /// Running clocks that jump ahead or change their pace, and pauses of everything, per second.
    pub clocks_per_s: f64,
}

impl Odds {
    /// Nothing goes wrong.
    pub const CALM: Self = Self {
        doubled: 0.0,
        held: 0.0,
        held_ms_max: 0,
        lost: 0.0,
        damaged: 0.0,
        cuts_per_s: 0.0,
        slow: 0.0,
        sick_per_s: 0.0,
        crashes_per_s: 0.0,
        cuts_of_power_per_s: 0.0,
        rot_per_s: 0.0,
        flips_per_s: 0.0,
        sleeps_per_s: 0.0,
        jumps: 0.0,
        take_overs_per_s: 0.0,
        authority_losses_per_s: 0.0,
        paths_per_s: 0.0,
        raced: 0.35,
        lost_logs_per_s: 0.0,
        absences_per_s: 0.0,
        copy_deaths_per_s: 0.0,
        marks_per_s: 0.0,
        clocks_per_s: 0.0,
    };
    /// Messages and device times are unruly; nothing breaks.
    pub const UNRULY: Self = Self {
        doubled: 0.05,
        held: 0.05,
        held_ms_max: 30,
        lost: 0.03,
        damaged: 0.002,
        slow: 0.02,
        ..Self::CALM
    };

    /// Whether something may break, rather than only be late, twice or out of order.
    pub fn breaks(&self) -> bool {
        let rates = [
            self.cuts_per_s,
            self.sick_per_s,
            self.crashes_per_s,
            self.cuts_of_power_per_s,
            self.rot_per_s,
            self.flips_per_s,
            self.sleeps_per_s,
            self.take_overs_per_s,
            self.authority_losses_per_s,
            self.paths_per_s,
            self.lost_logs_per_s,
            self.absences_per_s,
            self.copy_deaths_per_s,
            self.marks_per_s,
            self.clocks_per_s,
        ];
        rates.iter().any(|rate| *rate > 0.0)
    }
}

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// Its name, for people.
    pub name: &'static str,
    /// How messages travel.
    pub net: NetMode,
    /// Heads; with more than a group needs, each is primary of one volume and secondary of another.
    pub heads: u32,
    /// Members of a volume's group beside its primary and secondary (BA-09).
    pub reserves: u32,
    /// Volumes; 0 for as many as heads, or one where all heads are of its group.
    pub volumes: u32,
    /// Sleds, of one device each.
    pub sleds: u32,
    /// Code: data and parity columns.
    pub code: (u8, u8),
    /// Size of a volume in 4 KiB blocks.
    pub volume_blocks: u64,
    /// Bytes of a head's log device.
    pub log_bytes: u64,
    /// Requests that each client issues.
    pub requests: u64,
    /// Clients per volume.
    pub clients: u32,
    /// Least and most requests that a client has open at once.
    pub depth: (u64, u64),
    /// What they ask for.
    pub load: Load,
    /// How long devices take for a command, about, in microseconds.
    pub media_us: u64,
    /// The same for the log of the first head, so that the others' are durable long before it.
    pub slow_log_us: u64,
    /// Sleds that are away from shortly after the start until calm.
    pub away: u32,
    /// Sleds that are hurt for good (rot, errors, death).
    pub hurt: u32,
    /// Pause between two scrub reads of a sled, in milliseconds.
    pub scrub_ms: u64,
    /// Roles move: heads watch one another, and the authority flips and judges proposals.
    pub moves: bool,
    /// How fast heads take one another for dead, where roles move.
    pub timers: FailoverConfig,
    /// Clients that stay with a head which another replaced, until it tells them; and that ask a head which
    /// never led (MA-10, MA-19 f).
    pub strays: f64,
    /// What a head may do alone (P-30).
    pub solo: Solo,
    /// Control replaces members (MA-21), as told by heads; else groups have their first members only.
    pub replaces: bool,
    /// What goes wrong.
    pub odds: Odds,
}

/// How long devices take when nothing else is said.
const MEDIA_US: u64 = 40;

/// The heads' default times.
pub const TIMERS: FailoverConfig = FailoverConfig {
    heartbeat: Duration::from_millis(25),
    silence: Duration::from_millis(100),
    confirm: Duration::from_millis(50),
    policy: Policy::Any,
};

/// What scenarios are made of: a pair of heads, one volume, six sleds, no faults.
pub const BASE: Scenario = Scenario {
    name: "calm",
    net: NetMode::Direct,
    heads: 2,
    reserves: 0,
    volumes: 0,
    sleds: 6,
    code: (4, 2),
    volume_blocks: 256,
    log_bytes: 16 << 20,
    requests: 300,
    clients: 3,
    depth: (1, 12),
    load: Load::Mixed,
    media_us: MEDIA_US,
    slow_log_us: MEDIA_US,
    away: 0,
    hurt: 0,
    scrub_ms: 5,
    moves: false,
    timers: TIMERS,
    strays: 0.0,
    solo: Solo::Wait,
    replaces: false,
    odds: Odds::CALM,
};

/// A volume larger than the log's room for it, written over several times as fast as memory allows: log
/// space has to come back while writes wait for it (P-31).
const OVERWRITE: Scenario = Scenario {
    name: "steady overwrite",
    volume_blocks: 2048,
    log_bytes: 9 << 20,
    requests: 6_000,
    clients: 1,
    depth: (32, 128),
    load: Load::Overwrite,
    media_us: 2,
    slow_log_us: 2,
    ..BASE
};

/// Every kind of run; a seed picks one by its remainder, so consecutive seeds cover all of them.
pub const SCENARIOS: [Scenario; 17] = [
    BASE,
    Scenario { name: "unruly", odds: Odds::UNRULY, ..BASE },
    Scenario { name: "crashes", odds: Odds { crashes_per_s: 12.0, ..Odds::UNRULY }, ..BASE },
    Scenario {
        name: "power cuts",
        odds: Odds { crashes_per_s: 2.0, cuts_of_power_per_s: 4.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "small code",
        sleds: 3,
        code: (2, 1),
        odds: Odds { crashes_per_s: 6.0, cuts_of_power_per_s: 1.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "three heads",
        heads: 3,
        sleds: 7,
        volume_blocks: 128,
        clients: 2,
        odds: Odds { crashes_per_s: 8.0, cuts_of_power_per_s: 1.0, cuts_per_s: 2.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "rot",
        hurt: 1,
        odds: Odds { rot_per_s: 60.0, crashes_per_s: 3.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "sick devices",
        hurt: 2,
        odds: Odds { sick_per_s: 10.0, cuts_per_s: 4.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "fabric",
        net: NetMode::Fabric,
        requests: 200,
        odds: Odds { crashes_per_s: 4.0, cuts_per_s: 2.0, paths_per_s: 6.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "everything",
        net: NetMode::Fabric,
        sleds: 7,
        hurt: 1,
        requests: 200,
        odds: Odds {
            crashes_per_s: 8.0,
            cuts_of_power_per_s: 1.0,
            cuts_per_s: 2.0,
            sick_per_s: 2.0,
            rot_per_s: 20.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
    Scenario {
        name: "full log",
        log_bytes: 9 << 20,
        volume_blocks: 512,
        requests: 500,
        clients: 4,
        odds: Odds { crashes_per_s: 3.0, cuts_per_s: 3.0, slow: 0.1, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "storm",
        sleds: 7,
        requests: 500,
        odds: Odds { crashes_per_s: 40.0, cuts_of_power_per_s: 4.0, cuts_per_s: 4.0, ..Odds::UNRULY },
        ..BASE
    },
    OVERWRITE,
    Scenario {
        name: "steady overwrite, light faults",
        requests: 5_000,
        odds: Odds { crashes_per_s: 2.0, cuts_per_s: 2.0, ..Odds::UNRULY },
        ..OVERWRITE
    },
    Scenario {
        name: "steady overwrite, both ways",
        heads: 3,
        volume_blocks: 1024,
        requests: 5_000,
        odds: Odds { cuts_per_s: 1.0, ..Odds::CALM },
        ..OVERWRITE
    },
    Scenario {
        name: "no columns",
        away: 2,
        log_bytes: 9 << 20,
        requests: 800,
        media_us: 5,
        slow_log_us: 20,
        odds: Odds { crashes_per_s: 10.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "slow log",
        slow_log_us: 1500,
        odds: Odds { crashes_per_s: 12.0, cuts_of_power_per_s: 6.0, slow: 0.2, ..Odds::UNRULY },
        ..BASE
    },
];

/// Kinds of run in which roles move, apart from the others so that those keep their seeds.
pub const MOVING: [Scenario; 6] = [
    Scenario {
        name: "flips",
        moves: true,
        odds: Odds { flips_per_s: 12.0, crashes_per_s: 3.0, cuts_per_s: 1.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "failovers",
        moves: true,
        odds: Odds { flips_per_s: 2.0, crashes_per_s: 5.0, sleeps_per_s: 6.0, jumps: 0.2, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "moves of three heads",
        moves: true,
        heads: 3,
        sleds: 7,
        volume_blocks: 128,
        clients: 2,
        odds: Odds {
            flips_per_s: 8.0,
            crashes_per_s: 4.0,
            sleeps_per_s: 4.0,
            cuts_per_s: 2.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
    Scenario {
        name: "moves over the fabric",
        net: NetMode::Fabric,
        moves: true,
        requests: 200,
        odds: Odds {
            flips_per_s: 5.0,
            crashes_per_s: 3.0,
            sleeps_per_s: 3.0,
            paths_per_s: 6.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
    Scenario {
        name: "a group of three",
        moves: true,
        heads: 3,
        reserves: 1,
        odds: Odds {
            flips_per_s: 3.0,
            crashes_per_s: 5.0,
            sleeps_per_s: 4.0,
            cuts_per_s: 3.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
    Scenario {
        name: "groups of three among four",
        moves: true,
        heads: 4,
        reserves: 1,
        sleds: 7,
        volume_blocks: 96,
        clients: 2,
        requests: 200,
        odds: Odds {
            flips_per_s: 6.0,
            crashes_per_s: 4.0,
            sleeps_per_s: 3.0,
            cuts_per_s: 2.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
];

/// The scenario of that name.
///
/// # Panics
/// When the table has none.
pub fn named(name: &str) -> Scenario {
    *all().find(|scenario| scenario.name == name).expect("a scenario of the table")
}

/// All scenarios of all tables.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().chain(&MOVING).chain(&DENSE).chain(&LONE).chain(&REPLACED)
}

/// The scenario of a seed.
pub fn scenario(seed: u64) -> Scenario {
    SCENARIOS[(seed % SCENARIOS.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_sleds_for_its_code_and_harm_that_its_code_bears() {
        for scenario in all() {
            let (k, m) = scenario.code;
            assert!(scenario.sleds >= u32::from(k + m), "{}", scenario.name);
            assert!(scenario.hurt <= u32::from(m), "{}", scenario.name);
            assert!(scenario.heads >= 2 + scenario.reserves, "{}", scenario.name);
        }
    }
}
