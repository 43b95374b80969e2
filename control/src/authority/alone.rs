//! Heads that run alone with copies on sleds, and who may take over from those copies (P-30, MA-20).
//!
//! When a group of several members shrinks to one, the record keeps which they were and under which number, as
//! long as nothing was acknowledged without a copy: the policy `solo = "sleds"` counts at the moment of the grant
//! and is told with it, so that authority and head mean the same. Whoever was a full member then holds everything
//! that is not in the copies, and may salvage them: it gets the next number alone, and has to read the copies
//! before it serves. That stays so over restarts until it serves. A group of several that serves holds everything
//! again, and the record ends.

use palisade_protocol::wire::{Number, PartitionId, Stamp};
use serde::{Deserialize, Serialize};

use super::grant::Grant;
use super::record::{BootJson, LogJson, MemberRecord, Record, VolumeRecord, VolumeState};
use super::roles::RoleError;
use super::{Authority, Changes, DeviceError};
use crate::config::Solo;

/// A volume of which one head runs alone, or did until the group that is coming up serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AloneRecord {
    /// Number of the last group of several full members.
    pub epoch: u32,
    /// As `epoch`.
    pub counter: u64,
    /// Its full members.
    pub members: Vec<MemberRecord>,
    /// Who runs alone, or did.
    pub lone: MemberRecord,
    /// Everything that was acknowledged since has copies on sleds.
    pub copies: bool,
    /// The primary has to take over from the copies before it serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub salvage: bool,
}

impl VolumeRecord {
    /// What is remembered with the group that follows `before`.
    pub(super) fn remember_alone(&mut self, before: &Self) {
        let [lone] = self.members.as_slice() else { return self.narrow_heirs() };
        let copies = self.solo == Solo::Sleds && self.declared().count() > 1;
        let full: Vec<MemberRecord> =
            before.members.iter().copied().filter(|member| !member.joining).collect();
        let since = before.alone.as_ref();
        self.alone = match since {
            _ if full.len() > 1 => {
                let Number { epoch, counter } = before.number();
                Some(AloneRecord { epoch, counter, members: full, lone: *lone, copies, salvage: false })
            }
            Some(since) => {
                // As long as it reads the copies of another one, that one's log would do as well.
                let lone = if since.salvage { since.lone } else { *lone };
                Some(AloneRecord { copies: copies && since.copies, lone, ..since.clone() })
            }
            None => None,
        };
    }

    /// Who comes back behind the lone head may serve with it, unheard of, before they part again: what those
    /// acknowledged is in no copy, so that nobody else can take over from then on.
    fn narrow_heirs(&mut self) {
        let members = &self.members;
        if let Some(alone) = &mut self.alone {
            let here = |heir: &MemberRecord| {
                members.iter().any(|member| (member.head, member.log) == (heir.head, heir.log))
            };
            alone.members.retain(here);
        }
    }

    /// Whether the lone head that another one is to follow came back behind that, with the log that it had.
    pub fn is_back(&self) -> bool {
        self.alone
            .as_ref()
            .filter(|alone| alone.salvage)
            .is_some_and(|alone| self.members.iter().skip(1).any(|member| alone.is_lone(member)))
    }

    /// Whether the newest group acknowledges writes as it is, without anybody coming back to it.
    pub fn goes_on(&self) -> bool {
        self.members.len() > 1 || self.solo == Solo::Local || self.copies()
    }

    /// Whether a group of one acknowledges with copies on sleds.
    pub fn copies(&self) -> bool {
        self.members.len() == 1 && self.alone.as_ref().is_some_and(|alone| alone.copies)
    }

    /// The number above which the primary has to take over from copies; none when a member's own log has it all.
    pub(super) fn salvage_above(&self) -> Option<Number> {
        let alone = self.alone.as_ref().filter(|alone| alone.salvage)?;
        let number = Number { epoch: alone.epoch, counter: alone.counter };
        (!self.members.iter().any(|member| alone.is_lone(member))).then_some(number)
    }
}

impl AloneRecord {
    /// Whether a member is the lone head with its log.
    fn is_lone(&self, member: &MemberRecord) -> bool {
        (member.head, member.log) == (self.lone.head, self.lone.log)
    }
}

impl Authority {
    /// The primary serves the newest pair. A group of several holds everything from now on; one that took over
    /// from copies has it in its log.
    pub(super) fn alone_served(&self, volume: &VolumeRecord, stamp: Stamp) -> Option<VolumeRecord> {
        let alone = volume.alone.as_ref().filter(|_| volume.stamp() == Some(stamp))?;
        let several = volume.members.len() > 1;
        let lone = volume.members.first().copied().filter(|_| alone.salvage);
        (several || lone.is_some()).then(|| VolumeRecord {
            alone: lone.filter(|_| !several).map(|lone| AloneRecord {
                lone,
                salvage: false,
                ..alone.clone()
            }),
            ..volume.clone()
        })
    }

    /// Volumes whose lone head could be followed, with that head: whether it is gone is for the caller.
    pub fn salvageable(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().filter(|volume| {
            let copies = |alone: &AloneRecord| alone.copies && !alone.salvage;
            let known = volume.state == VolumeState::Active && !volume.in_doubt();
            known && volume.alone.as_ref().is_some_and(copies)
        })
    }

    /// Whether a device may be given up as far as lone heads are concerned: not while one is away and only its
    /// copies on sleds, with the log of who could read them, have what it acknowledged. `there` says which lone
    /// heads are there, with the log that they had.
    pub fn spares(&self, name: &str, there: impl Fn(&MemberRecord) -> bool) -> Result<(), DeviceError> {
        let Some(device) = self.devices.get(name) else { return Ok(()) };
        for volume in self.living() {
            let Some(alone) = volume.alone.as_ref().filter(|alone| alone.copies) else { continue };
            // A group of several that serves has it all, and ends the record.
            if there(&alone.lone) {
                continue;
            }
            let told = (name.to_owned(), volume.name.clone(), self.name_of(alone.lone.head));
            if !device.log {
                return Err(DeviceError::Copies(told.0, told.1, told.2));
            }
            let heirs = || {
                let heir =
                    |member: &&MemberRecord| member.head != alone.lone.head && !self.lost_its_log(member);
                alone.members.iter().filter(heir)
            };
            if heirs().count() == 1 && heirs().all(|heir| heir.head == device.node) {
                return Err(DeviceError::Heir(told.0, told.1, told.2));
            }
        }
        Ok(())
    }

    /// Lets a former full member take over what the lone head of a volume acknowledged, from the copies on sleds.
    /// `well` says which heads are there.
    pub fn salvage(
        &self,
        name: &str,
        why: &str,
        well: impl Fn(&MemberRecord) -> bool,
    ) -> Result<Changes, RoleError> {
        let volume = self.volume_by_name(name).ok_or_else(|| RoleError::NoVolume(name.to_owned()))?;
        self.not_in_doubt(volume)?;
        let alone = volume.alone.as_ref().filter(|alone| alone.copies);
        let alone = alone.ok_or_else(|| RoleError::NoCopies(name.to_owned()))?;
        let primary = volume.current_primary();
        if volume.members.iter().any(|member| member.head != primary && !member.joining) {
            return Err(RoleError::NoCopies(name.to_owned()));
        }
        // Who came back behind the lone head may have served with it already, unheard of: then nobody else has
        // what those two acknowledged.
        let came_back = volume.members.len() > 1;
        let fits = |member: &&MemberRecord| {
            let node = self.nodes.get(&member.head.0);
            member.head != primary
                && member.head != alone.lone.head
                && (!came_back || volume.current().contains(&member.head))
                && node.is_some_and(|node| !node.draining && node.log == Some(LogJson(member.log)))
                && well(member)
        };
        let heir = alone.members.iter().find(fits);
        let heir = heir.ok_or_else(|| RoleError::NoHeir(name.to_owned()))?;
        let boot = self.nodes.get(&heir.head.0).and_then(|node| node.boot);
        let Some(BootJson(boot)) = boot else { return Err(RoleError::NoHeir(name.to_owned())) };
        let heir = MemberRecord { boot, joining: false, ..*heir };
        let mut before = volume.clone();
        before.alone = Some(AloneRecord { salvage: true, ..alone.clone() });
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        let volume = grant.prepare(&before, vec![heir], why.to_owned());
        changes.put(Record::Volume(volume));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    /// The head that was to take over from copies says that its log holds nothing of the volume, not even a number, so
    /// that it cannot and has served nothing; it had been emptied to be filled before anybody heard of it. The lone
    /// head, which came back behind it, has everything, and runs alone again (P-30).
    pub fn give_back(&self, partition: PartitionId, why: &str) -> Result<Changes, RoleError> {
        let none = || RoleError::NoCopies(partition.to_string());
        let volume = self.volumes.get(&partition.0).ok_or_else(none)?;
        self.not_in_doubt(volume)?;
        let volume = Some(volume).filter(|volume| volume.is_back()).ok_or_else(none)?;
        let no_heir = || RoleError::NoHeir(volume.name.clone());
        let (heir, alone) = (volume.current_primary(), volume.alone.as_ref().ok_or_else(no_heir)?);
        let lone = volume.members.iter().find(|member| alone.is_lone(member)).ok_or_else(no_heir)?;
        let boot = self.member(lone.head).ok_or_else(no_heir)?.boot;
        let mut before = volume.clone();
        let members = alone.members.iter().copied().filter(|member| member.head != heir).collect();
        before.alone = Some(AloneRecord { salvage: false, members, ..alone.clone() });
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        let lone = MemberRecord { boot, joining: false, ..*lone };
        let mut volume = grant.prepare(&before, vec![lone], why.to_owned());
        volume.left.iter_mut().filter(|left| left.head == heir).for_each(|left| left.lost = true);
        changes.put(Record::Volume(volume));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }
}
