//! Scenarios dense in failovers: heads that lead are killed or cut off again and again, as soon as their
//! groups are whole; heartbeats are short and volumes small, so that most of a run's time is failover.

use crate::faults::{BASE, NetMode, Odds, Scenario};
use palisade_protocol::head::{FailoverConfig, Policy};
use std::time::Duration;

/// Heads that take one another for dead within some fifteen milliseconds.
const QUICK: FailoverConfig = FailoverConfig {
    heartbeat: Duration::from_millis(2),
    silence: Duration::from_millis(9),
    confirm: Duration::from_millis(4),
    policy: Policy::Any,
};

/// Heads that lead are lost as fast as others take over. Messages are late by less than the heads' patience.
const HUNTED: Odds = Odds {
    doubled: 0.02,
    held: 0.02,
    held_ms_max: 4,
    slow: 0.01,
    take_overs_per_s: 40.0,
    raced: 0.02,
    ..Odds::CALM
};

const PAIR: Scenario = Scenario {
    name: "failovers, dense",
    sleds: 3,
    code: (2, 1),
    volumes: 4,
    volume_blocks: 64,
    requests: 150,
    clients: 2,
    depth: (1, 4),
    scrub_ms: 50,
    moves: true,
    timers: QUICK,
    odds: HUNTED,
    ..BASE
};

/// Kinds of run that are dense in failovers, apart from the others so that those keep their seeds.
pub const DENSE: [Scenario; 4] = [
    PAIR,
    Scenario {
        name: "failovers, dense, three heads",
        heads: 3,
        sleds: 4,
        volumes: 3,
        odds: Odds { crashes_per_s: 2.0, flips_per_s: 2.0, ..HUNTED },
        ..PAIR
    },
    Scenario {
        name: "failovers, dense, clients astray",
        volumes: 2,
        clients: 4,
        strays: 0.5,
        odds: Odds {
            sleeps_per_s: 8.0,
            jumps: 0.3,
            cuts_per_s: 2.0,
            authority_losses_per_s: 0.5,
            take_overs_per_s: 25.0,
            ..HUNTED
        },
        ..PAIR
    },
    Scenario {
        name: "failovers, dense, over the fabric",
        net: NetMode::Fabric,
        volumes: 3,
        odds: Odds { paths_per_s: 20.0, lost: 0.01, take_overs_per_s: 25.0, ..HUNTED },
        ..PAIR
    },
];
