//! Scenarios of heads that are left alone.

use crate::faults::{BASE, Odds, Scenario};
use palisade_protocol::head::Solo;

/// Heads that are left alone and go on with copies on sleds; those that are then lost or asleep are followed
/// (P-30).
pub const LONE: [Scenario; 3] = [
    Scenario {
        name: "lone heads",
        moves: true,
        solo: Solo::Sleds,
        odds: Odds { crashes_per_s: 8.0, sleeps_per_s: 4.0, ..Odds::UNRULY },
        ..BASE
    },
    Scenario {
        name: "lone heads, sick devices",
        moves: true,
        solo: Solo::Sleds,
        hurt: 1,
        odds: Odds {
            crashes_per_s: 6.0,
            sleeps_per_s: 4.0,
            sick_per_s: 4.0,
            cuts_per_s: 2.0,
            ..Odds::UNRULY
        },
        ..BASE
    },
    Scenario {
        name: "lone heads, small code",
        moves: true,
        sleds: 3,
        code: (2, 1),
        solo: Solo::Sleds,
        strays: 0.3,
        odds: Odds {
            crashes_per_s: 8.0,
            sleeps_per_s: 6.0,
            cuts_of_power_per_s: 1.0,
            jumps: 0.2,
            ..Odds::UNRULY
        },
        ..BASE
    },
];
