//! Members, as people see them and ask for them: what a group lacks, another member by hand, heads that are
//! drained (MA-21, EF-28).

use palisade_protocol::wire::NodeId;
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::events::now_ms;
use super::isolating::BY_HAND;
use super::model::Role;
use super::moving::{Drained, Left};
use super::replace::refused;
use super::rpc::RpcError;
use super::status::NodeStatus;
use crate::authority::{Authority, Chosen, NodeRecord, ReplaceError, VolumeRecord, VolumeState};
use crate::config::Failover;

/// What asking for another member did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replacing {
    /// The volume.
    pub volume: String,
    /// The head that is filled.
    pub head: String,
    /// The member that leaves then; empty when the group was short.
    pub leaving: String,
}

impl Core {
    /// What a volume's group lacks, for people.
    pub(super) fn lacks(&self, name: &str) -> String {
        let Some(volume) = self.authority.volume_by_name(name).filter(|volume| !volume.members.is_empty())
        else {
            return String::new();
        };
        let Some(lack) = self.lack(volume).filter(|_| volume.wanted() > 1) else { return String::new() };
        if let Some(chosen) = volume.replacement.as_ref().filter(|chosen| chosen.follows) {
            return format!("{} came back and is refilled", self.authority.name_of(chosen.head));
        }
        if let Some(chosen) = &volume.replacement {
            return format!("{}; {} is filled", lack.why, self.authority.name_of(chosen.head));
        }
        if let Err(none) = self.best(volume, lack.leaving, None) {
            return format!("{}; {none}", lack.why);
        }
        let by_itself = self.rack.control.failover == Failover::Auto;
        match self.rack.control.replace_after_ms.filter(|_| by_itself) {
            _ if lack.at_once => lack.why,
            Some(ms) => format!("{}; it is replaced when it was away for {} s", lack.why, ms / 1000),
            None => format!("{}; `palisade volume replace {name}` fills another head", lack.why),
        }
    }

    /// What of a head that is drained is left: volumes that it follows, and what becomes of them.
    pub(super) fn tell_follows(&self, head: NodeId, drained: &mut Drained) {
        let mut moving = false;
        for volume in followed_by(&self.authority, head) {
            moving |= volume.replacement.is_some();
            drained.follows.push(Left { volume: volume.name.clone(), why: self.lacks(&volume.name) });
        }
        let serves = self.authority.served_by(head).count();
        drained.safe_to_stop = serves == 0 && drained.follows.is_empty();
        drained.hopeless = !drained.safe_to_stop && !moving && drained.moved.is_empty();
    }

    /// People want another member: a named head, or the best one.
    pub(super) fn replace_member(&mut self, name: &str, with: Option<&str>) -> Result<Replacing, RpcError> {
        let unknown = || refused(ReplaceError::NoVolume(name.to_owned()));
        let volume = self.authority.volume_by_name(name).ok_or_else(unknown)?;
        if volume.wanted() < 2 {
            return Err(RpcError::refused(format!(
                "volume `{name}` was made with one head: it has no second member to replace"
            )));
        }
        let whole = volume.members.len() >= volume.wanted();
        let lacking = self.lack(volume).and_then(|lack| lack.leaving);
        let last = volume.members.iter().skip(1).next_back().map(|member| member.head);
        let leaving = lacking.or(last.filter(|_| whole));
        let head = match with {
            None => self.best(volume, leaving, None).map_err(RpcError::refused)?,
            Some(with) => {
                let node = self.authority.node_by_name(with).filter(|node| node.role == Role::Head);
                let node = node.ok_or_else(|| refused(ReplaceError::NoHead(with.to_owned())))?;
                if let Some(why) = self.unfit(node.node, volume) {
                    return Err(RpcError::refused(why));
                }
                node.node
            }
        };
        let (partition, why) = (volume.partition(), BY_HAND.to_owned());
        let chosen = Chosen { head, leaving, why, by_hand: true };
        let changes = self.authority.replace(partition, chosen, now_ms()).map_err(refused)?;
        self.carry_out(&changes)?;
        self.fill(partition);
        let leaving = leaving.map_or_else(String::new, |head| self.authority.name_of(head));
        Ok(Replacing { volume: name.to_owned(), head: self.authority.name_of(head), leaving })
    }
}

/// Volumes of which a head is a member, the ones that it serves aside.
pub(super) fn followed_by(authority: &Authority, head: NodeId) -> impl Iterator<Item = &VolumeRecord> {
    let follows = move |volume: &&VolumeRecord| {
        volume.state == VolumeState::Active
            && volume.current_primary() != head
            && volume.current().contains(&head)
    };
    authority.living().filter(follows)
}

/// How far the draining of a head is.
pub(super) fn show_drained(status: &mut NodeStatus, authority: &Authority, node: &NodeRecord) {
    let serves = authority.served_by(node.node).count();
    let follows = followed_by(authority, node.node).count();
    let moving = followed_by(authority, node.node).filter(|volume| volume.replacement.is_some()).count();
    let resume = format!("`palisade head resume {}` takes it into use again", node.name);
    status.state = if serves > 0 || moving > 0 { "draining" } else { "drained" }.to_owned();
    status.why = match (serves, moving, follows) {
        (0, 0, 0) => format!("safe to stop; {resume}"),
        (0, 0, _) => format!("follows {follows} volumes, no other head takes its place; {resume}"),
        _ => format!("serves {serves} volumes and follows {follows}, {moving} are being filled elsewhere"),
    };
}
