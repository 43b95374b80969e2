//! Which volumes a head exports, and what it tells clients of those that another head leads (MA-10, MA-22).
//!
//! All of it comes from control's commands and the head's own events, and lies ready in the export list before a
//! client asks: nothing here is waited for by an I/O or by a handshake.

use super::{ControlReport, Kind, State};
use crate::bus::CLIENT_RING;
use crate::order::{HeadOrder, SledOrder};
use crate::service::export::{ExportOrder, VolumeRing};
use palisade_control::agent::{PartitionSpec, RosterEntry};
use palisade_protocol::export::nbd::{ExportInfo, Group};
use palisade_protocol::wire::{Assignment, LogId, NodeId, Number, PartitionId, Stamp};
use palisade_runtime::ring::channel;

/// What a head was told of a volume's roles.
#[derive(Debug)]
pub(super) struct Led {
    spec: PartitionSpec,
    pair: Option<Assignment>,
}

impl State {
    /// Asks a node what its media hold of groups. One whose ring is full is asked again by control.
    pub(super) fn tell(&mut self, node: NodeId, ask: u64) {
        match self.ports.get_mut(&node).map(|port| &mut port.kind) {
            Some(Kind::Sled { orders, .. }) => drop(orders.send(SledOrder::Records(ask))),
            _ => self.order(node, HeadOrder::Groups(ask)),
        }
    }

    /// Which pairs the devices of a sled have records of.
    pub(super) fn records_shown(&self, node: NodeId, ask: u64, held: Vec<Stamp>) {
        self.control.send(ControlReport::Records { node, ask, held });
    }

    /// What the log of a head holds of groups, for a control plane whose store was put back (P-04).
    pub(super) fn groups_held(&self, node: NodeId, log: LogId, ask: u64, groups: Vec<Assignment>) {
        if let Some(boot) = self.ports.get(&node).map(|port| port.boot) {
            // One that finds no room is asked for again.
            self.control.send(ControlReport::Groups { node, boot, log, ask, groups });
        }
    }

    /// A partition came into being, or its roles moved: the head learns of it. Its primary exports it, and
    /// whoever was that before sends its clients away, so that they look for the new one.
    pub(super) fn create(&mut self, node: NodeId, spec: &PartitionSpec) {
        self.order(node, HeadOrder::Create(spec.config()));
        if let Some(port) = self.ports.get_mut(&node) {
            let pair = port.led.remove(&spec.partition).and_then(|led| led.pair);
            port.led.insert(spec.partition, Led { spec: spec.clone(), pair });
        }
        self.tell_group(node, spec.partition);
        match spec.primary == node {
            true => self.export(node, spec.partition),
            false => self.withdraw(node, spec.partition),
        }
    }

    /// Clients may attach to the volume here.
    fn export(&mut self, node: NodeId, partition: PartitionId) {
        let Some(port) = self.ports.get_mut(&node) else { return };
        let (Some(Led { spec, .. }), Kind::Head(head)) = (port.led.get(&partition), &mut port.kind) else {
            return;
        };
        if spec.deleting || port.exported.contains_key(&partition) {
            return;
        }
        port.exported.insert(partition, spec.name.clone());
        let mut fresh = None;
        let way = port.ways.entry(partition).or_insert_with(|| {
            let (commands, commands_rx) = channel(CLIENT_RING, head.waker.clone());
            fresh = Some(commands_rx);
            commands
        });
        head.export.exports.put(ExportInfo {
            name: spec.name.clone(),
            description: String::new(),
            partition,
            bytes: spec.bytes,
            readonly: false,
        });
        let ring = VolumeRing { commands: way.clone(), orders: head.orders.clone() };
        if head.export.orders.send(ExportOrder::Volume(partition, ring)).is_err() {
            tracing::error!(volume = spec.name, "the export takes no orders");
        }
        if let Some(commands) = fresh {
            self.order(node, HeadOrder::Serve(partition, commands));
        }
    }

    /// The head is told a pair.
    pub(super) fn assigned(&mut self, node: NodeId, pair: &Assignment) {
        let partition = pair.stamp.partition;
        let led = self.ports.get_mut(&node).and_then(|port| port.led.get_mut(&partition));
        let Some(led) = led else { return };
        if led.pair.as_ref().is_none_or(|known| known.stamp.number <= pair.stamp.number) {
            led.pair = Some(pair.clone());
        }
        let leads = led.leads(node, pair.stamp.number);
        self.tell_group(node, partition);
        if leads {
            // It may have sent its clients away when it met another number meanwhile.
            self.export(node, partition);
        }
    }

    /// The head met a higher number than its own: its clients are sent away at once, not only when control says
    /// so; unless it was told since that it leads under that number or a higher one.
    pub(super) fn demoted(&mut self, node: NodeId, partition: PartitionId, number: Number) {
        let led = self.ports.get(&node).and_then(|port| port.led.get(&partition));
        if led.is_none_or(|led| !led.leads(node, number)) {
            self.withdraw(node, partition);
        }
    }

    /// Handshakes of the head hear of the newest group that it was told.
    fn tell_group(&mut self, node: NodeId, partition: PartitionId) {
        let Some(port) = self.ports.get(&node) else { return };
        let (Some(led), Kind::Head(head)) = (port.led.get(&partition), &port.kind) else { return };
        if let Some(group) = led.group(&self.roster) {
            head.export.exports.put_group(&led.spec.name, group);
        }
    }

    /// Addresses of heads changed.
    pub(super) fn tell_groups(&mut self) {
        let all: Vec<(NodeId, PartitionId)> = self
            .ports
            .iter()
            .flat_map(|(node, port)| port.led.keys().map(|partition| (*node, *partition)))
            .collect();
        all.into_iter().for_each(|(node, partition)| self.tell_group(node, partition));
    }

    /// The volume is not served here any more: its clients are sent away.
    pub(super) fn withdraw(&mut self, node: NodeId, partition: PartitionId) {
        let Some(port) = self.ports.get_mut(&node) else { return };
        let (Some(name), Kind::Head(head)) = (port.exported.remove(&partition), &mut port.kind) else {
            return;
        };
        head.export.exports.remove(&name);
        if head.export.orders.send(ExportOrder::Gone(partition)).is_err() {
            tracing::error!(volume = name, "the export takes no orders");
        }
    }

    /// The volume ends.
    pub(super) fn forget(&mut self, node: NodeId, partition: PartitionId) {
        self.withdraw(node, partition);
        let Some(port) = self.ports.get_mut(&node) else { return };
        port.ways.remove(&partition);
        if let (Some(led), Kind::Head(head)) = (port.led.remove(&partition), &port.kind) {
            head.export.exports.remove_group(&led.spec.name);
        }
    }
}

impl Led {
    /// Whether the head was told that it leads under `number` or a higher one.
    fn leads(&self, node: NodeId, number: Number) -> bool {
        let first = |pair: &Assignment| pair.members.first().is_some_and(|member| member.head == node);
        self.spec.primary == node
            && self.pair.as_ref().is_some_and(|pair| pair.stamp.number >= number && first(pair))
    }

    /// The group with its addresses, the leader's first; none before the first pair.
    fn group(&self, roster: &[RosterEntry]) -> Option<Group> {
        let pair = self.pair.as_ref()?;
        let entry = |head: NodeId| roster.iter().find(|entry| entry.node == head);
        let mut heads: Vec<NodeId> = pair.members.iter().map(|member| member.head).collect();
        // A role that moves is told before the pair of its number.
        heads.sort_by_key(|head| *head != self.spec.primary);
        let leader =
            heads.first().filter(|first| **first == self.spec.primary).and_then(|first| entry(*first));
        let places = heads.iter().filter_map(|head| entry(*head)).flat_map(|entry| &entry.nbd);
        Some(Group {
            partition: pair.stamp.partition,
            number: pair.stamp.number,
            leader: leader.map_or_else(String::new, |entry| entry.name.clone()),
            places: places.map(|place| place.uri(&self.spec.name)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_control::agent::Role;
    use palisade_control::config::NbdAddress;
    use palisade_protocol::wire::{BootId, GrantId, LogId, Member, Stamp};

    fn roster() -> Vec<RosterEntry> {
        let entry = |node: u32| RosterEntry {
            name: format!("head-{node}"),
            node: NodeId(node),
            role: Role::Head,
            fabric: None,
            second: None,
            nbd: vec![NbdAddress::Tcp(format!("10.0.0.{node}:10809").parse().expect("an address"))],
        };
        (1..=3).map(entry).collect()
    }

    fn led(primary: u32, members: &[u32]) -> Led {
        let number = Number { epoch: 1, counter: 5 };
        let stamp = Stamp { partition: PartitionId(4), number, grant: GrantId(9) };
        let member = |head: &u32| Member { head: NodeId(*head), log: LogId(1), boot: BootId(1) };
        let members = members.iter().map(member).collect();
        let spec = serde_json::json!({
            "partition": 4, "name": "v", "bytes": 1 << 20, "k": 4, "m": 2, "unit_bytes": 65_536,
            "column_bytes": 1 << 20, "columns_min": 5, "primary": primary, "secondary": null, "devices": [],
            "deleting": false,
        });
        let spec = serde_json::from_value(spec).expect("a spec");
        Led { spec, pair: Some(Assignment::plain(stamp, members)) }
    }

    #[test]
    fn ma10_a_head_that_met_a_higher_number_leads_again_only_under_that_or_a_higher_one() {
        let number = |counter| Number { epoch: 1, counter };
        let mine = led(1, &[1, 2]);
        assert!(mine.leads(NodeId(1), number(5)) && !mine.leads(NodeId(1), number(6)));
        assert!(!led(1, &[2, 1]).leads(NodeId(1), number(5)), "the pair has the last word");
        assert!(!led(2, &[1, 2]).leads(NodeId(1), number(5)), "the role moved already");
        assert!(!Led { pair: None, ..mine }.leads(NodeId(1), number(0)));
    }

    #[test]
    fn ma22_the_leader_comes_first_also_before_the_pair_of_its_number_is_told() {
        let group = led(1, &[1, 2]).group(&roster()).expect("a group");
        assert_eq!((group.leader.as_str(), group.places[0].as_str()), ("head-1", "nbd://10.0.0.1:10809/v"));
        let group = led(2, &[1, 2]).group(&roster()).expect("a group");
        assert_eq!(group.places, ["nbd://10.0.0.2:10809/v", "nbd://10.0.0.1:10809/v"]);
        assert_eq!((group.leader.as_str(), group.number.counter), ("head-2", 5));
        let group = led(3, &[1, 2]).group(&roster()).expect("a group");
        assert_eq!((group.leader.as_str(), group.places.len()), ("", 2), "a leader that is no member yet");
        assert_eq!(Led { pair: None, ..led(1, &[1]) }.group(&roster()), None);
    }
}
