//! How the ids of the wire look in JSON: small ids as numbers, 128-bit ones as hyphenated hex, grants and
//! other full 64-bit values as decimal strings, because JSON readers elsewhere keep only 53 bits.
//! For use in `#[serde(with = …)]`.

use palisade_protocol::wire::{
    Assignment, BootId, DeviceId, GrantId, LogId, Member, NodeId, Number, PartitionId, RackId, Stamp,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reads `01234567-89ab-cdef-0123-456789abcdef`, with or without the hyphens.
pub fn parse_uuid(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok()
}

/// A 128-bit id.
pub trait Uuid: Copy + std::fmt::Display {
    /// From its bits.
    fn from_bits(bits: u128) -> Self;
}

macro_rules! uuids {
    ($($name:ident),*) => {$(impl Uuid for $name { fn from_bits(bits: u128) -> Self { Self(bits) } })*};
}
uuids!(RackId, DeviceId, LogId, BootId);

/// 128-bit ids as hyphenated hex.
pub mod uuid {
    use super::*;

    /// Writes one.
    pub fn serialize<T: Uuid, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    /// Reads one.
    pub fn deserialize<'de, T: Uuid, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        parse_uuid(&text).map(T::from_bits).ok_or_else(|| D::Error::custom(format!("`{text}` is no id")))
    }
}

/// Node ids as numbers.
pub mod node {
    use super::*;

    /// Writes one.
    pub fn serialize<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(id.0)
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        u32::deserialize(from).map(NodeId)
    }
}

/// 64-bit numbers as decimal text.
pub mod number {
    use super::*;

    /// Writes one.
    pub fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(|_| D::Error::custom("not a number"))
    }
}

/// Partition ids as numbers.
pub mod partition {
    use super::*;

    /// Writes one.
    pub fn serialize<S: Serializer>(id: &PartitionId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(id.0)
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PartitionId, D::Error> {
        u64::deserialize(from).map(PartitionId)
    }
}

#[derive(Serialize, Deserialize)]
struct StampJson {
    partition: u64,
    epoch: u32,
    counter: u64,
    grant: String,
}

impl From<&Stamp> for StampJson {
    fn from(stamp: &Stamp) -> Self {
        Self {
            partition: stamp.partition.0,
            epoch: stamp.number.epoch,
            counter: stamp.number.counter,
            grant: stamp.grant.to_string(),
        }
    }
}

impl StampJson {
    fn stamp(&self) -> Option<Stamp> {
        Some(Stamp {
            partition: PartitionId(self.partition),
            number: Number { epoch: self.epoch, counter: self.counter },
            grant: GrantId(self.grant.parse().ok()?),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct MemberJson {
    #[serde(with = "node")]
    head: NodeId,
    #[serde(with = "uuid")]
    log: LogId,
    #[serde(with = "uuid")]
    boot: BootId,
}

/// Most members and stamps that are accepted from a peer.
const LIST_MAX: usize = 65_536;

/// Members of a group.
pub mod member {
    use super::*;

    /// Writes one.
    pub fn serialize<S: Serializer>(member: &Member, to: S) -> Result<S::Ok, S::Error> {
        let Member { head, log, boot } = *member;
        MemberJson { head, log, boot }.serialize(to)
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Member, D::Error> {
        let MemberJson { head, log, boot } = MemberJson::deserialize(from)?;
        Ok(Member { head, log, boot })
    }
}

/// Lists of stamps.
pub mod stamps {
    use super::*;

    /// Writes them.
    pub fn serialize<S: Serializer>(stamps: &[Stamp], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(stamps.iter().map(StampJson::from))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Stamp>, D::Error> {
        let list = Vec::<StampJson>::deserialize(from)?;
        if list.len() > LIST_MAX {
            return Err(D::Error::custom("too many stamps"));
        }
        list.iter().map(|json| json.stamp().ok_or_else(|| D::Error::custom("a grant is no number"))).collect()
    }
}

/// Assignments.
pub mod assignment {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct AssignmentJson {
        stamp: StampJson,
        members: Vec<MemberJson>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        copies: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        salvage: Option<NumberJson>,
    }

    #[derive(Serialize, Deserialize)]
    struct NumberJson {
        epoch: u32,
        counter: u64,
    }

    /// Writes one.
    pub fn serialize<S: Serializer>(assignment: &Assignment, to: S) -> Result<S::Ok, S::Error> {
        let member = |member: &Member| MemberJson { head: member.head, log: member.log, boot: member.boot };
        AssignmentJson {
            stamp: StampJson::from(&assignment.stamp),
            members: assignment.members.iter().map(member).collect(),
            copies: assignment.copies,
            salvage: assignment.salvage.map(|Number { epoch, counter }| NumberJson { epoch, counter }),
        }
        .serialize(to)
    }

    /// Reads one; an empty group is refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Assignment, D::Error> {
        let json = AssignmentJson::deserialize(from)?;
        let stamp = json.stamp.stamp().ok_or_else(|| D::Error::custom("a grant is no number"))?;
        if json.members.is_empty() || json.members.len() > palisade_protocol::wire::limits::MEMBERS_MAX {
            return Err(D::Error::custom("a group has 1 to 4 members"));
        }
        let member = |json: MemberJson| Member { head: json.head, log: json.log, boot: json.boot };
        let members = json.members.into_iter().map(member).collect();
        let salvage = json.salvage.map(|NumberJson { epoch, counter }| Number { epoch, counter });
        Ok(Assignment { stamp, members, copies: json.copies, salvage })
    }
}

/// Lists of assignments.
pub mod assignments {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "assignment")] Assignment);

    /// Writes them.
    pub fn serialize<S: Serializer>(pairs: &[Assignment], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(pairs.iter().cloned().map(Wrapped))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Assignment>, D::Error> {
        let list = Vec::<Wrapped>::deserialize(from)?;
        if list.len() > LIST_MAX {
            return Err(D::Error::custom("too many pairs"));
        }
        Ok(list.into_iter().map(|wrapped| wrapped.0).collect())
    }
}

/// Assignments that may be absent.
pub mod maybe_assignment {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "assignment")] Assignment);

    /// Writes one, or null.
    pub fn serialize<S: Serializer>(assignment: &Option<Assignment>, to: S) -> Result<S::Ok, S::Error> {
        assignment.clone().map(Wrapped).serialize(to)
    }

    /// Reads one, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Assignment>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(from)?.map(|wrapped| wrapped.0))
    }
}

/// Proposals.
pub mod proposal {
    use palisade_protocol::wire::{Proposal, Why};

    use super::*;

    /// Reasons by their names.
    #[derive(Clone, Copy, Serialize, Deserialize)]
    #[serde(remote = "Why", rename_all = "snake_case")]
    enum WhyJson {
        Silence,
        Unhealthy,
        ClientAsked,
        Planned,
        Joined,
        Isolation,
    }

    #[derive(Serialize, Deserialize)]
    struct ProposalJson {
        expected: StampJson,
        members: Vec<MemberJson>,
        #[serde(with = "number")]
        nonce: u64,
        #[serde(with = "WhyJson")]
        why: Why,
        caught_up: bool,
    }

    /// Writes one.
    pub fn serialize<S: Serializer>(proposal: &Proposal, to: S) -> Result<S::Ok, S::Error> {
        let member = |member: &Member| MemberJson { head: member.head, log: member.log, boot: member.boot };
        ProposalJson {
            expected: StampJson::from(&proposal.expected),
            members: proposal.members.iter().map(member).collect(),
            nonce: proposal.nonce,
            why: proposal.why,
            caught_up: proposal.caught_up,
        }
        .serialize(to)
    }

    /// Reads one; whether its group can be is for the authority to say.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Proposal, D::Error> {
        let json = ProposalJson::deserialize(from)?;
        let expected = json.expected.stamp().ok_or_else(|| D::Error::custom("a grant is no number"))?;
        if json.members.len() > palisade_protocol::wire::limits::MEMBERS_MAX {
            return Err(D::Error::custom("a group has 1 to 4 members"));
        }
        let member = |json: MemberJson| Member { head: json.head, log: json.log, boot: json.boot };
        Ok(Proposal {
            partition: expected.partition,
            expected,
            members: json.members.into_iter().map(member).collect(),
            nonce: json.nonce,
            why: json.why,
            caught_up: json.caught_up,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_way_through_text() {
        let id = BootId(0x0123_4567_89ab_cdef_0fed_cba9_8765_4321);
        assert_eq!(parse_uuid(&id.to_string()), Some(id.0));
        assert_eq!(parse_uuid("no"), None);
        assert_eq!(parse_uuid("+1234567-89ab-cdef-0123-456789abcdef"), None);
        assert_eq!(parse_uuid(""), None);
    }
}
