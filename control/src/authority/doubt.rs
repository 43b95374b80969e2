//! A store that was put back from an older copy must lose nothing (P-04).
//!
//! Such a store has forgotten groups. It knows neither who was left out since, nor who was taken in, and who it
//! takes for a full member may lack what others acknowledged without it. So from the moment on at which it is
//! known that the store was put back, every volume is *in doubt*: nothing is granted for it, nobody is told to
//! forget a copy, and it goes on as it was, under the numbers that its heads have. Evidence that the store was put
//! back is the mark beside it, a head or a sled that holds a pair which the store never granted, or the word of
//! people.
//!
//! Every group that acknowledged anything was adopted durably by its primary first. So whoever asks *every* head
//! of the rack what its log holds hears of the newest group that matters, and that group's primary has everything
//! (or had to read it from copies before it took its number: a pair that is adopted was salvaged). Less is not
//! enough: a head that the copy does not connect with the volume may have been filled, and have gone on alone. Then
//! the volume goes on from that group, under the next number of a new epoch, and members that follow are taken for
//! such as have to be refilled. What a head has not adopted yet but was granted counts as well, as it may be adopted
//! the next moment; what older control planes said must have been heard before a head answers (see `Command::Tell`).
//!
//! A head that never answers keeps its volumes in doubt, for nobody else knows what it acknowledged. People may go
//! on without it; what may be lost is named.

use palisade_protocol::wire::{Assignment, BootId, LogId, NodeId, Number, PartitionId, Stamp};
use serde::{Deserialize, Serialize};

use super::alone::AloneRecord;
use super::grant::Grant;
use super::record::{FORMAT, LogJson, MemberRecord, Meta, NodeRecord, Record, VolumeRecord, VolumeState};
use super::{Authority, Changes};
use crate::api::json;
use crate::api::model::Role;
use crate::config::Solo;

/// A volume of a store that was put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DoubtRecord {
    /// How it came out.
    pub why: String,
    /// Heads that said what their logs hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<HeardRecord>,
    /// Heads that people go on without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<u32>,
}

/// What a head said of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeardRecord {
    /// The head.
    #[serde(with = "json::node")]
    pub head: NodeId,
    /// The newest pair that its log holds; none when it was never a member.
    #[serde(with = "json::maybe_assignment", default)]
    pub newest: Option<Assignment>,
}

/// Why nobody is gone on without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoubtError {
    /// No such volume.
    #[error("there is no replicated volume `{0}`; `palisade volume list` shows them")]
    NoVolume(String),
    /// No such head.
    #[error("there is no head `{0}`; `palisade status` shows them")]
    NoHead(String),
    /// It is not in doubt.
    #[error("volume `{0}` is not in doubt: nothing has to be settled")]
    NoDoubt(String),
    /// The head answered.
    #[error("`{1}` has said what it holds of volume `{0}`: nothing is given up for it")]
    Heard(String, String),
    /// Nobody who could go on has answered.
    #[error("no head that stays has said what it holds of volume `{0}`: start one first")]
    Nobody(String),
    /// It was not said that writes may be lost.
    #[error(
        "writes of volume `{0}` that were acknowledged after the copy of the store was made may be in the log of {1} only: bring it back, or say --accept-loss to go on without them"
    )]
    Loss(String, String),
}

impl DoubtRecord {
    fn newest_of(&self, head: NodeId) -> Option<&Assignment> {
        self.heard.iter().find(|heard| heard.head == head)?.newest.as_ref()
    }

    fn has_heard(&self, head: NodeId) -> bool {
        self.heard.iter().any(|heard| heard.head == head)
    }

    /// The newest pair that a head holds.
    fn newest(&self) -> Option<&Assignment> {
        self.heard.iter().filter_map(|heard| heard.newest.as_ref()).max_by_key(|pair| pair.stamp.number)
    }

    /// Heads that hold the newest number under different grants: two stores granted it, and only people know
    /// which of the two is to count.
    fn rivals(&self) -> Vec<NodeId> {
        let Some(newest) = self.newest().map(|pair| pair.stamp) else { return Vec::new() };
        let same = |heard: &&HeardRecord| {
            heard.newest.as_ref().is_some_and(|pair| pair.stamp.number == newest.number)
        };
        let other =
            |heard: &HeardRecord| heard.newest.as_ref().is_some_and(|pair| pair.stamp.grant != newest.grant);
        let holders: Vec<&HeardRecord> = self.heard.iter().filter(same).collect();
        if !holders.iter().any(|heard| other(heard)) {
            return Vec::new();
        }
        holders.into_iter().map(|heard| heard.head).collect()
    }
}

impl VolumeRecord {
    /// Whether its groups since the copy are not known: nothing is decided about it.
    pub fn in_doubt(&self) -> bool {
        self.doubt.is_some()
    }
}

impl Authority {
    /// The store was put back, or may have been: every living volume is in doubt from now on, and numbers go on in
    /// a new epoch.
    pub fn put_back(&self, why: &str) -> Changes {
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        if !self.faults.epoch_kept {
            meta.epoch = meta.epoch.saturating_add(1);
        }
        self.doubt_all(&mut meta, why, &mut changes);
        changes.put(Record::Meta(meta));
        changes
    }

    pub(super) fn doubt_all(&self, meta: &mut Meta, why: &str, changes: &mut Changes) {
        changes.notes.push(format!("the store is an older copy: numbers go on in epoch {}", meta.epoch));
        if self.faults.doubt_skipped {
            return;
        }
        meta.format = meta.format.max(FORMAT);
        for volume in self.living() {
            let doubt = DoubtRecord { why: why.to_owned(), ..DoubtRecord::default() };
            let doubt = Some(Box::new(doubt));
            changes.put(Record::Volume(VolumeRecord { doubt, ..volume.clone() }));
            changes.notes.push(format!(
                "volume {} is in doubt until every head has said what it holds: {why}",
                volume.name
            ));
        }
    }

    /// P-04: a head that holds more than was granted proves that grants were forgotten. Says so if that is news.
    pub(super) fn notice_restore(&self, meta: &mut Meta, head: NodeId, held: &[Stamp]) -> Option<String> {
        let mut why = None;
        for stamp in held.iter().filter(|stamp| stamp.number != Number::ZERO) {
            let ours = self.volumes.get(&stamp.partition.0);
            let number = ours.map_or(Number::ZERO, VolumeRecord::number);
            let twice = ours.is_some_and(|ours| stamp.number == number && stamp.grant.0 != ours.grant);
            if stamp.number < number || (stamp.number == number && !twice) || self.faults.epoch_kept {
                continue;
            }
            let living = ours.filter(|volume| volume.state != VolumeState::Deleted);
            // What a head said is over when it holds more: the store was put back once more since.
            let news = living.is_some_and(|volume| match &volume.doubt {
                None => true,
                Some(doubt) if doubt.has_heard(head) => {
                    doubt.newest_of(head).is_none_or(|pair| pair.stamp.number < stamp.number)
                }
                Some(_) => false,
            });
            if !news && stamp.number.epoch < meta.epoch {
                continue;
            }
            meta.epoch = meta.epoch.max(stamp.number.epoch.saturating_add(1));
            meta.next_volume = meta.next_volume.max(stamp.partition.0.saturating_add(1));
            let name = ours.map_or_else(|| stamp.partition.to_string(), |volume| volume.name.clone());
            let head = self.name_of(head);
            why.get_or_insert(format!(
                "{head} holds number {} of volume {name}, which this store never granted",
                stamp.number
            ));
        }
        why
    }

    /// Heads whose word a volume in doubt waits for.
    pub fn awaited<'a>(&'a self, volume: &'a VolumeRecord) -> impl Iterator<Item = &'a NodeRecord> {
        let doubt = volume.doubt.as_deref();
        let enough = self.faults.members_heard_only;
        let open = move |node: &&NodeRecord| {
            let asked = !enough || volume.current().contains(&node.node);
            let open =
                |doubt: &DoubtRecord| !doubt.has_heard(node.node) && !doubt.without.contains(&node.node.0);
            node.role == Role::Head && asked && doubt.is_some_and(open)
        };
        self.nodes.values().filter(open)
    }

    /// Whether the word of a head is waited for.
    pub fn is_awaited(&self, head: NodeId) -> bool {
        self.living().any(|volume| self.awaited(volume).any(|node| node.node == head))
    }

    /// A head says which newest pair it holds of each partition.
    pub fn heard(&self, head: NodeId, boot: BootId, log: LogId, groups: &[Assignment]) -> Changes {
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let Some(node) = self.newest_boot(head, boot).filter(|node| node.log == Some(LogJson(log))) else {
            return changes;
        };
        for stamp in groups.iter().map(|pair| pair.stamp) {
            meta.epoch = meta.epoch.max(stamp.number.epoch.saturating_add(1));
            meta.next_volume = meta.next_volume.max(stamp.partition.0.saturating_add(1));
        }
        for volume in self.living() {
            let Some(mut doubt) = volume.doubt.clone() else { continue };
            let newest = groups.iter().find(|pair| pair.stamp.partition == volume.partition()).cloned();
            if newest.as_ref().is_some_and(|pair| pair.salvage.is_some()) {
                // It is about to take over from copies: before that somebody else has more. It is asked again.
                continue;
            }
            doubt.heard.retain(|known| known.head != head);
            doubt.heard.push(HeardRecord { head, newest });
            doubt.without.retain(|other| *other != node.node.0);
            let volume = VolumeRecord { doubt: Some(doubt), ..volume.clone() };
            self.settle(volume, &mut meta, &mut changes);
        }
        if !changes.records.is_empty() {
            changes.put(Record::Meta(meta));
        }
        changes
    }

    /// People go on without heads that do not answer. `accepted`: they know that writes may be lost.
    pub fn go_on_without(&self, name: &str, heads: &[String], accepted: bool) -> Result<Changes, DoubtError> {
        let volume = self.living().find(|volume| volume.name == name);
        let volume = volume.ok_or_else(|| DoubtError::NoVolume(name.to_owned()))?;
        let doubt = volume.doubt.as_ref().ok_or_else(|| DoubtError::NoDoubt(name.to_owned()))?;
        let (mut doubt, rivals) = (doubt.clone(), doubt.rivals());
        for head in heads {
            let node = self.node_by_name(head).filter(|node| node.role == Role::Head);
            let node = node.ok_or_else(|| DoubtError::NoHead(head.clone()))?;
            if doubt.has_heard(node.node) && !rivals.contains(&node.node) {
                return Err(DoubtError::Heard(name.to_owned(), head.clone()));
            }
            doubt.heard.retain(|heard| heard.head != node.node);
            doubt.without.retain(|other| *other != node.node.0);
            doubt.without.push(node.node.0);
        }
        if doubt.heard.is_empty() {
            return Err(DoubtError::Nobody(name.to_owned()));
        }
        if !accepted {
            return Err(DoubtError::Loss(name.to_owned(), heads.join(", ")));
        }
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        changes.notes.push(format!(
            "volume {name}: people go on without {}; what was acknowledged there only is given up",
            heads.join(", ")
        ));
        let volume = VolumeRecord { doubt: Some(doubt), ..volume.clone() };
        self.settle(volume, &mut meta, &mut changes);
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    /// Ends the doubt about a volume if everybody was heard: it goes on from the newest group that a head holds.
    fn settle(&self, volume: VolumeRecord, meta: &mut Meta, changes: &mut Changes) {
        let open = self.awaited(&volume).next().is_some();
        let Some(doubt) = volume.doubt.clone().filter(|doubt| !open && doubt.rivals().is_empty()) else {
            return changes.put(Record::Volume(volume));
        };
        let mut before = VolumeRecord { doubt: None, ..volume };
        let (number, grant) = (before.number(), before.grant);
        let newer = |pair: &&Assignment| {
            let stamp = pair.stamp;
            stamp.number > number || (stamp.number == number && stamp.grant.0 != grant)
        };
        if let Some(pair) = doubt.newest().filter(newer) {
            before.go_on_from(pair);
        }
        before.leave_to_those_who_stay(&doubt.without);
        let partition = before.partition();
        let why = format!("{}: every head said what it holds", doubt.why);
        let known = changes.records.len();
        let mut grant = Grant { authority: self, meta: &mut *meta, changes: &mut *changes };
        grant.renew(&before, &why, |id| self.nodes.get(&id.0));
        let heads: Vec<String> = before.current().into_iter().map(|head| self.name_of(head)).collect();
        changes.notes.push(format!("volume {} is not in doubt any more: {}", before.name, heads.join(", ")));
        changes.created.push(partition);
        if changes.records.len() == known {
            changes.put(Record::Volume(before));
        }
    }

    /// Why a volume is in doubt, and what ends that, for people; empty when it is not.
    pub fn doubt_of(&self, volume: &VolumeRecord) -> String {
        let Some(doubt) = &volume.doubt else { return String::new() };
        let names = |heads: Vec<String>| heads.join(", ");
        let awaited = names(self.awaited(volume).map(|node| node.name.clone()).collect());
        let name = &volume.name;
        if awaited.is_empty() {
            let rivals = names(doubt.rivals().into_iter().map(|head| self.name_of(head)).collect());
            return format!(
                "{}: {rivals} hold one number of two grants; `palisade volume settle {name} --without HEAD` gives one of them up",
                doubt.why
            );
        }
        format!(
            "{}: it waits for the word of {awaited}, who may hold writes that nobody else has; if one is gone for good, `palisade volume settle {name} --without HEAD` goes on without it",
            doubt.why
        )
    }

    /// Volumes that a head's log may hold the only copy of acknowledged writes of, because its word is waited for.
    pub(super) fn needs_word_of(&self, head: NodeId) -> Option<&VolumeRecord> {
        self.living().find(|volume| self.awaited(volume).any(|node| node.node == head))
    }

    /// Whether a partition is in doubt.
    pub fn doubts(&self, partition: PartitionId) -> bool {
        self.volumes.get(&partition.0).is_some_and(VolumeRecord::in_doubt)
    }
}

impl VolumeRecord {
    /// Takes a group over that the store has forgotten. Whether those who follow were refilled is not known.
    fn go_on_from(&mut self, pair: &Assignment) {
        let member = |(at, member): (usize, &palisade_protocol::wire::Member)| {
            let palisade_protocol::wire::Member { head, log, boot } = *member;
            MemberRecord { head, log, boot, joining: at > 0, lost: false }
        };
        self.replace_members(pair.members.iter().enumerate().map(member).collect());
        let Stamp { number, grant, .. } = pair.stamp;
        (self.epoch, self.counter, self.grant) = (number.epoch, number.counter, grant.0);
        self.replacement = None;
        self.alone = self.alone_with_copies();
    }

    /// Leaves out whom people go on without. One that is left leads, though it may lack what those had. Where
    /// nobody is left, the group stays: its copies on sleds may be salvaged.
    fn leave_to_those_who_stay(&mut self, without: &[u32]) {
        let stays = |member: &&MemberRecord| !without.contains(&member.head.0);
        let mut stay: Vec<MemberRecord> = self.members.iter().filter(stays).copied().collect();
        if stay.is_empty() || stay.len() == self.members.len() {
            return;
        }
        let first = stay.iter().position(|member| !member.joining).unwrap_or(0);
        stay[..=first].rotate_right(1);
        stay[0].joining = false;
        self.replace_members(stay);
        self.alone = self.alone_with_copies();
    }

    /// A lone head goes on to make copies where the policy wants them; nobody but itself can take over from those.
    fn alone_with_copies(&self) -> Option<AloneRecord> {
        let [lone] = self.members.as_slice() else { return None };
        let copies = self.solo == Solo::Sleds && self.declared().count() > 1;
        let (epoch, counter, lone) = (self.epoch, self.counter, *lone);
        copies.then(|| AloneRecord { epoch, counter, members: vec![lone], lone, copies, salvage: false })
    }
}
