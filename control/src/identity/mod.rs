//! Which medium may be formatted, opened, or neither. The rule of DESIGN section 1: a device is formatted
//! once, when the store does not know it and it carries no foreign signature; later a blank or absent
//! one is *missing*, never reformatted, until `palisade device replace`.
//!
//! Pure: the node looks at the medium, control at the store, [`decide`] at both. Formatting is told to
//! the store first (`Formatting`) and confirmed after, so that a crash in between repeats the format of
//! the same identity instead of losing the device.

use serde::{Deserialize, Serialize};

use crate::api::json::parse_uuid;

/// What the store knows of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Known {
    /// Nothing: it may be formatted.
    #[default]
    Unknown,
    /// An identity was chosen for it, the format was not confirmed.
    Formatting {
        /// The identity.
        id: Identity,
    },
    /// It was formatted with this identity and may hold data.
    Active {
        /// The identity.
        id: Identity,
    },
    /// The operator gave it up: whatever comes in its place may be formatted.
    Replacing {
        /// The identity given up.
        old: Identity,
        /// Even over a foreign signature.
        force: bool,
    },
}

/// Identity of a device or log: its 128 bits as hyphenated hex in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(pub u128);

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        palisade_protocol::wire::DeviceId(self.0).fmt(f)
    }
}

impl Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bits = parse_uuid(&text);
        bits.map(Self).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no identity")))
    }
}

/// What a node saw on a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Medium {
    /// The file or device is not there.
    Absent,
    /// Nothing but zeroes where a superblock would be.
    Blank,
    /// Something that is not ours.
    Foreign {
        /// What it looks like, for people.
        what: String,
    },
    /// Ours, of another rack.
    OtherRack,
    /// Ours, of a newer major version.
    Newer,
    /// Ours, but no copy of its superblock is whole.
    Damaged {
        /// What is wrong, for people.
        what: String,
    },
    /// Ours.
    Ours {
        /// The identity it carries.
        id: Identity,
    },
}

/// What the node is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Format it with this identity, then confirm.
    Format {
        /// The identity.
        id: Identity,
    },
    /// Open it; it must carry this identity.
    Open {
        /// The identity.
        id: Identity,
    },
    /// It is not there; go on without it and say so.
    Missing {
        /// For people.
        why: String,
    },
    /// Do not touch it; go on without it and say so.
    Refuse {
        /// For people.
        why: String,
    },
}
