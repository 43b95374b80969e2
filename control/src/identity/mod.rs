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
    /// A head's log of which no copy of the superblock is whole: the head looks for it where it was made, and is
    /// filled by others if it finds it.
    Rotten {
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

/// The rule. `fresh` is the identity to format with, should it come to that.
pub fn decide(known: &Known, medium: &Medium, fresh: Identity) -> Decision {
    match known {
        Known::Unknown => decide_unknown(medium, fresh),
        // Nothing was ever acknowledged on it: the format is repeated with the identity that is durable.
        Known::Formatting { id } => match medium {
            Medium::Absent | Medium::Blank | Medium::Damaged { .. } | Medium::Rotten { .. } => {
                Decision::Format { id: *id }
            }
            Medium::Ours { id: found } if found == id => Decision::Format { id: *id },
            other => Decision::Refuse { why: refusal(other) },
        },
        Known::Active { id } => match medium {
            Medium::Ours { id: found } if found == id => Decision::Open { id: *id },
            // Segments of that very log must be on it, or the head refuses it.
            Medium::Rotten { .. } => Decision::Open { id: *id },
            Medium::Absent => Decision::Missing { why: format!("device {id} is not there") },
            Medium::Blank => Decision::Missing {
                why: format!(
                    "device {id} is blank though it held data: it is not formatted again; bring the right one back, or give it up with `palisade device replace`"
                ),
            },
            other => Decision::Refuse { why: refusal(other) },
        },
        Known::Replacing { old, force } => match medium {
            Medium::Absent | Medium::Blank | Medium::Damaged { .. } | Medium::Rotten { .. } => {
                Decision::Format { id: fresh }
            }
            Medium::Ours { id } if id == old => Decision::Format { id: fresh },
            _ if *force => Decision::Format { id: fresh },
            other => Decision::Refuse { why: format!("{}; add --force to overwrite it", refusal(other)) },
        },
    }
}

fn decide_unknown(medium: &Medium, fresh: Identity) -> Decision {
    match medium {
        Medium::Absent | Medium::Blank => Decision::Format { id: fresh },
        other => Decision::Refuse { why: refusal(other) },
    }
}

fn refusal(medium: &Medium) -> String {
    match medium {
        Medium::Absent => "it is not there".to_owned(),
        Medium::Blank => "it is blank".to_owned(),
        Medium::Foreign { what } => {
            format!("it holds something that is not Palisade's ({what}): it is not touched")
        }
        Medium::OtherRack => "it belongs to another rack: it is not touched".to_owned(),
        Medium::Newer => "a newer version of Palisade formatted it: use that version".to_owned(),
        Medium::Damaged { what } | Medium::Rotten { what } => {
            format!("its superblock is damaged ({what}): it is not touched")
        }
        Medium::Ours { id } => format!("it carries identity {id}, which does not belong here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Identity = Identity(1);
    const NEW: Identity = Identity(2);

    fn media() -> [Medium; 9] {
        [
            Medium::Absent,
            Medium::Blank,
            Medium::Foreign { what: "ext4".to_owned() },
            Medium::OtherRack,
            Medium::Newer,
            Medium::Damaged { what: "crc".to_owned() },
            Medium::Rotten { what: "crc".to_owned() },
            Medium::Ours { id: OLD },
            Medium::Ours { id: Identity(9) },
        ]
    }

    fn letters(known: &Known) -> String {
        let letter = |medium: &Medium| match decide(known, medium, NEW) {
            Decision::Format { id } if id == NEW => 'F',
            Decision::Format { .. } => 'f',
            Decision::Open { .. } => 'O',
            Decision::Missing { .. } => 'M',
            Decision::Refuse { .. } => 'R',
        };
        media().iter().map(letter).collect()
    }

    /// Columns: absent, blank, foreign, other rack, newer, damaged, rotten, ours, ours but another.
    /// F formats anew, f with the old identity, O opens, M missing, R refuses.
    #[test]
    fn every_state_against_every_medium() {
        assert_eq!(letters(&Known::Unknown), "FFRRRRRRR");
        assert_eq!(letters(&Known::Formatting { id: OLD }), "ffRRRfffR");
        assert_eq!(letters(&Known::Active { id: OLD }), "MMRRRROOR");
        assert_eq!(letters(&Known::Replacing { old: OLD, force: false }), "FFRRRFFFR");
        assert_eq!(letters(&Known::Replacing { old: OLD, force: true }), "FFFFFFFFF");
    }
}
