//! Scenarios in which members are replaced: logs are lost and blank ones take their place, heads are away for longer
//! than operations are remembered, control chooses who is filled, givers and takers of copies die amid them, and
//! people have heads isolate; with clocks that jump and run at paces of their own.

use crate::faults::{BASE, Load, NetMode, Odds, Scenario};
use palisade_protocol::head::Solo;

const CHANGING: Odds = Odds {
    flips_per_s: 1.0,
    crashes_per_s: 3.0,
    sleeps_per_s: 1.0,
    jumps: 0.3,
    lost_logs_per_s: 2.0,
    absences_per_s: 1.0,
    copy_deaths_per_s: 4.0,
    marks_per_s: 1.0,
    clocks_per_s: 1.0,
    raced: 0.05,
    ..Odds::UNRULY
};

/// Three heads, of which two hold each volume.
const THREE: Scenario = Scenario {
    name: "replaced",
    heads: 3,
    volumes: 2,
    sleds: 4,
    code: (2, 1),
    volume_blocks: 128,
    requests: 700,
    clients: 2,
    depth: (1, 8),
    moves: true,
    replaces: true,
    strays: 0.2,
    odds: CHANGING,
    ..BASE
};

/// Kinds of run in which members are replaced, apart from the others so that those keep their seeds.
pub const REPLACED: [Scenario; 8] = [
    THREE,
    Scenario { name: "replaced, lone heads with copies on sleds", solo: Solo::Sleds, ..THREE },
    // Who sleeps is left out again and again, and has to rest before it is taken back.
    Scenario {
        name: "replaced, one copy is enough",
        solo: Solo::Local,
        odds: Odds {
            sleeps_per_s: 8.0,
            crashes_per_s: 1.0,
            absences_per_s: 0.5,
            lost_logs_per_s: 1.0,
            ..CHANGING
        },
        ..THREE
    },
    Scenario {
        name: "replaced, groups of three among four",
        heads: 4,
        reserves: 1,
        volumes: 1,
        odds: Odds { cuts_per_s: 2.0, ..CHANGING },
        ..THREE
    },
    // So many operations that who is away for a while cannot be refilled from them.
    Scenario {
        name: "replaced, steady overwrite",
        volumes: 1,
        requests: 9_000,
        clients: 1,
        depth: (8, 32),
        load: Load::Overwrite,
        media_us: 2,
        slow_log_us: 2,
        solo: Solo::Local,
        odds: Odds { absences_per_s: 3.0, crashes_per_s: 2.0, sleeps_per_s: 3.0, ..CHANGING },
        ..THREE
    },
    Scenario {
        name: "replaced, a pair and nobody else",
        heads: 2,
        volumes: 1,
        solo: Solo::Sleds,
        odds: Odds { cuts_of_power_per_s: 0.5, ..CHANGING },
        ..THREE
    },
    Scenario {
        name: "replaced, isolating",
        solo: Solo::Local,
        odds: Odds { marks_per_s: 8.0, lost_logs_per_s: 0.5, crashes_per_s: 1.0, ..CHANGING },
        ..THREE
    },
    Scenario {
        name: "replaced, over the fabric",
        net: NetMode::Fabric,
        volumes: 1,
        requests: 300,
        solo: Solo::Sleds,
        odds: Odds { paths_per_s: 4.0, clocks_per_s: 4.0, ..CHANGING },
        ..THREE
    },
];
