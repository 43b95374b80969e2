//! The shipping authority under two and three heads, explored whole; then each of its rules broken, and found.

use palisade_control::authority::{Authority, Faults};
use palisade_model::explore::{Rule, must_break, must_hold};
use palisade_model::roles::{Bounds, Start};

#[test]
fn t1() {
    let bounds = Bounds { writes: 1, ..Bounds::default() };
    must_hold("a pair", bounds, 1000, &[]);
}
#[test]
fn t2() {
    let bounds = Bounds { writes: 1, reboots: 1, ..Bounds::default() };
    must_hold("a pair reboots", bounds, 1000, &[]);
}
#[test]
fn t3() {
    let bounds = Bounds { writes: 1, heads: 3, start: Start::Three, grants: 2, ..Bounds::default() };
    must_hold("three", bounds, 1000, &[]);
}
#[test]
fn t4() {
    let bounds = Bounds { writes: 1, reboots:1, start: Start::Fresh, grants: 3, proposals:1, ..Bounds::default() };
    must_hold("fresh", bounds, 1000, &[]);
}
#[test]
fn t5() {
    let bounds = Bounds { writes: 1, start: Start::Alone, heads: 3, joins:true, grants: 3, proposals:2, ..Bounds::default() };
    must_hold("join", bounds, 1000, &[]);
}
#[test]
fn t6() {
    let bounds = Bounds { writes: 1, switches:1,drains:1, crashes:1, grants: 3, proposals:1, ..Bounds::default() };
    must_hold("switch", bounds, 1000, &[]);
}
#[test]
fn t7() {
    let bounds = Bounds { writes: 1, replaced:1, grants: 3, proposals:1, ..Bounds::default() };
    must_hold("replaced", bounds, 100, &[]);
}
#[test]
fn t8() {
    let bounds = Bounds { writes: 1, restores:1, reboots:1, grants: 3, proposals:1, ..Bounds::default() };
    must_hold("restored", bounds, 1000, &[]);
}
#[test]
fn u2() {
    let bounds = Bounds { writes: 2, reboots: 1,  ..Bounds::default() };
    must_hold("a pair reboots", bounds, 1000, &[]);
}
#[test]
fn u3() {
    let bounds = Bounds { writes: 1, heads: 3, start: Start::Three, grants: 3, ..Bounds::default() };
    must_hold("three", bounds, 1000, &[]);
}
#[test]
fn u4() {
    let bounds = Bounds { writes: 1, reboots:2, start: Start::Fresh, grants: 3, proposals:2, ..Bounds::default() };
    must_hold("fresh", bounds, 1000, &[]);
}
#[test]
fn u5() {
    let bounds = Bounds { writes: 2, start: Start::Alone, heads: 3, joins:true, grants: 3, proposals:2, ..Bounds::default() };
    must_hold("join", bounds, 1000, &[]);
}
#[test]
fn u6() {
    let bounds = Bounds { writes: 1, switches:2,drains:2, crashes:1, grants: 4, proposals:1, reboots:1, ..Bounds::default() };
    must_hold("switch", bounds, 1000, &[]);
}
#[test]
fn u7() {
    let bounds = Bounds { writes: 1, replaced:1, reboots:1, grants: 3, proposals:2, ..Bounds::default() };
    must_hold("replaced", bounds, 1000, &[]);
}
#[test]
fn u8() {
    let bounds = Bounds { writes: 0, restores:1, reboots:1, grants: 3, proposals:1, mark_kept:true, ..Bounds::default() };
    must_hold("restored", bounds, 1000, &[]);
}
