//! What control tells heads, where members are replaced: partitions, pairs, whom to fill, what to forget.

use super::{Happening, World};
use crate::host::Input;
use crate::links::AUTHORITY;
use palisade_control::authority::{Authority, Changes, VolumeRecord};
use palisade_protocol::head::PartitionConfig;
use palisade_protocol::wire::*;

impl World {
    /// Tells a head, in order; what does not arrive is said again when it registers next.
    pub(super) fn tell_head(&mut self, to: NodeId, inputs: Vec<Input>) {
        let life = self.nodes[&to].life;
        let travel = self.net_dice.range(50_000, 3_000_000);
        for input in inputs {
            self.after(travel, Happening::Arrive { to, life, from: AUTHORITY, input });
        }
    }

    /// Tells the primary of a volume whom to fill; itself: nobody.
    pub(super) fn tell_fill(&mut self, volume: &VolumeRecord) {
        let node = volume.current_primary();
        let chosen = volume.replacement.as_ref().filter(|chosen| !volume.has_member(chosen.head));
        let member = self.grants.authority().member(chosen.map_or(node, |chosen| chosen.head));
        if let Some(member) = member {
            self.tell_head(node, vec![Input::Fill(volume.partition(), member)]);
        }
    }

    /// A partition as a head is told of it now.
    fn spec(&self, partition: PartitionId) -> Option<PartitionConfig> {
        let heads = self.grants.authority().partition(partition)?.heads;
        let declared = self.declared.iter().find(|declared| declared.partition == partition)?;
        Some(PartitionConfig { heads, ..declared.clone() })
    }

    /// The partitions that a head is told of as it starts.
    pub(super) fn admitted(&self, head: NodeId) -> Vec<PartitionConfig> {
        let specs = self.grants.authority().partitions_of(head);
        specs.iter().filter_map(|spec| self.spec(spec.partition)).collect()
    }

    /// Everything that a head must know.
    pub(super) fn tell_all(&mut self, head: NodeId) {
        let authority = self.grants.authority();
        let mut inputs: Vec<Input> = self.admitted(head).into_iter().map(Input::Create).collect();
        let mut pairs = authority.assignments_of(head);
        pairs.extend(authority.without(head));
        inputs.extend(pairs.iter().cloned().map(Input::Assign));
        inputs.push(Input::Isolate(severity(authority, head)));
        let leads = |volume: &&VolumeRecord| volume.current_primary() == head && volume.replacement.is_some();
        let led: Vec<VolumeRecord> = authority.living().filter(leads).cloned().collect();
        pairs.iter().for_each(|pair| self.note_assigned(pair));
        self.tell_head(head, inputs);
        led.iter().for_each(|volume| self.tell_fill(volume));
    }

    /// Tells what came of a decision beside its assignments.
    pub(super) fn tell_changes(&mut self, changes: &Changes) {
        let authority = self.grants.authority();
        let heads_of = |partition| authority.volume(partition).map_or_else(Vec::new, VolumeRecord::heads);
        let mut told: Vec<(NodeId, Input)> = Vec::new();
        for partition in &changes.created {
            let spec = self.spec(*partition);
            let heads = heads_of(*partition).into_iter().zip(std::iter::repeat(spec));
            told.extend(heads.filter_map(|(head, spec)| Some((head, Input::Create(spec?)))));
        }
        for assignment in &changes.assignments {
            let out = |head: &NodeId| assignment.member(*head).is_none();
            let heads = heads_of(assignment.stamp.partition).into_iter().filter(out);
            told.extend(heads.map(|head| (head, Input::Assign(assignment.clone()))));
        }
        told.extend(changes.forgetting.iter().map(|(head, of)| (*head, Input::Forget(*of))));
        told.extend(changes.isolating.iter().map(|head| (*head, Input::Isolate(severity(authority, *head)))));
        let led = changes.created.iter().filter_map(|partition| authority.volume(*partition)).cloned();
        let led: Vec<VolumeRecord> = led.filter(|volume| volume.replacement.is_some()).collect();
        told.into_iter().for_each(|(head, input)| self.tell_head(head, vec![input]));
        led.iter().for_each(|volume| self.tell_fill(volume));
    }
}

/// How a head hears that it is to isolate.
fn severity(authority: &Authority, head: NodeId) -> Option<Severity> {
    authority.isolates(head).then_some(Severity::Planned)
}
