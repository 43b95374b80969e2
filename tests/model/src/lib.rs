//! The protocol on racks so small that every run can be looked at: each model is explored whole, to a
//! stated bound, with crashes, restarts, pauses and messages lost, doubled and reordered.
//!
//! | model | what it is about | what in it is the shipping code |
//! |---|---|---|
//! | [`fence`] | reservation of one device: drain, record, grant, rot, restart | the sled, whole |
//! | [`authority`] | numbers over crashes and a restored store, sleds that compare grants | nothing |
//! | [`group`] | replication, proposals, take-over, reconcile, confirmed reads | nothing |
//! | [`claims`] | claims of six devices, late, returning and without record, against a stale primary | nothing |
//! | [`extents`] | claims against flush acknowledgements, sealing | nothing |
//! | [`roles`] | numbers, groups and roles that move over boots, proposals, switch-overs, returns | the authority, whole |
//! | [`solo`] | running alone by leave, the copy on sleds | nothing |
//!
//! A model breaks one rule at a time by a switch; the checker must then find a run that breaks the named
//! invariant (DESIGN section 3). Not here: time, sizes, payload, and racks larger than the bounds; the
//! simulator looks at those, one seed at a time.

pub mod authority;
pub mod claims;
pub mod explore;
pub mod extents;
pub mod fence;
pub mod group;
pub mod roles;
pub mod solo;

pub use explore::{Explored, Judged, Rule, explore};
