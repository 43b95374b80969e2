//! Which metrics there are: the picture of a rack as families of samples, before any exposition format.

use std::collections::BTreeMap;

use super::snapshot::HistSnapshot;
use crate::api::Core;
use crate::api::status::{NodeStatus, Status};
use crate::report::NodeReport;

/// What is measured.
pub struct Picture {
    /// The rack.
    pub status: Status,
    /// Last words of the nodes by name.
    pub reports: BTreeMap<String, NodeReport>,
}

impl Core {
    /// The rack with its histograms.
    pub fn picture(&self) -> Picture {
        let reports =
            self.live().into_values().map(|live| (live.report.name.clone(), live.report.clone())).collect();
        Picture { status: self.status(), reports }
    }
}

/// What a sample holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(HistSnapshot),
}

/// One sample with its labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: Value,
}

/// Samples of one name and kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) samples: Vec<Sample>,
}

/// Collects families in order of first use.
#[derive(Default)]
struct Collector {
    families: Vec<Family>,
    by_name: BTreeMap<String, usize>,
}

impl Collector {
    fn add(&mut self, name: &str, help: &str, labels: &[(&'static str, &str)], value: Value) {
        let index = *self.by_name.entry(name.to_owned()).or_insert_with(|| {
            let family = Family { name: name.to_owned(), help: help.to_owned(), samples: Vec::new() };
            self.families.push(family);
            self.families.len() - 1
        });
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        self.families[index].samples.push(Sample { labels, value });
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&'static str, &str)], value: f64) {
        self.add(name, help, labels, Value::Gauge(value));
    }

    fn counters(&mut self, what: &str, labels: &[(&'static str, &str)], counters: &BTreeMap<String, u64>) {
        for (name, value) in counters {
            let name: String = name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
                .collect();
            let help = format!("{name} of a {what} since its process started");
            self.add(&format!("palisade_{what}_{name}_total"), &help, labels, Value::Counter(*value));
        }
    }
}

/// Every family of a picture.
pub(super) fn families(picture: &Picture) -> Vec<Family> {
    let mut collector = Collector::default();
    let status = &picture.status;
    collector.gauge(
        "palisade_ready",
        "1 when every volume is served",
        &[],
        f64::from(u8::from(status.ready)),
    );
    for node in &status.nodes {
        let labels = [("node", node.name.as_str()), ("role", node.role.as_str())];
        let up = f64::from(u8::from(node.state == "ready"));
        collector.gauge("palisade_node_up", "1 when the node works", &labels, up);
        if node.role == "head" {
            head(&mut collector, node, picture.reports.get(&node.name));
        }
        if node.role == "sled" {
            let drained = f64::from(u8::from(node.state == "drained"));
            let help = "1 when a drained sled is safe to pull";
            collector.gauge("palisade_sled_drained", help, &labels, drained);
            let left = node.columns_left as f64;
            collector.gauge(
                "palisade_sled_columns_left",
                "columns to move off a drained sled",
                &labels,
                left,
            );
        }
        if node.log_bytes > 0 {
            collector.gauge("palisade_log_bytes", "size of a head's log", &labels, node.log_bytes as f64);
            collector.gauge("palisade_log_free_bytes", "free log space", &labels, node.log_free_bytes as f64);
        }
        collector.counters("node", &labels, &node.counters);
    }
    volumes(&mut collector, status);
    paths(&mut collector, status);
    for device in &status.devices {
        let labels = [("device", device.name.as_str()), ("node", device.node.as_str())];
        let up = f64::from(u8::from(device.state == "active"));
        collector.gauge("palisade_device_up", "1 when the device is there and in order", &labels, up);
        if device.columns > 0 {
            collector.gauge("palisade_device_columns", "columns in all", &labels, device.columns as f64);
            collector.gauge("palisade_device_columns_free", "free columns", &labels, device.free as f64);
            let failed = f64::from(u8::from(device.state == "failed"));
            let help = "1 when heads gave the device up";
            collector.gauge("palisade_device_failed", help, &labels, failed);
        }
        collector.counters("device", &labels, &device.counters);
    }
    histograms(&mut collector, picture);
    collector.families
}

fn head(collector: &mut Collector, node: &NodeStatus, report: Option<&NodeReport>) {
    let labels = [("node", node.name.as_str()), ("role", node.role.as_str())];
    let isolating = f64::from(u8::from(!node.isolating.is_empty()));
    let help = "1 while volumes have to leave a head";
    collector.gauge("palisade_head_isolating", help, &labels, isolating);
    let ailing = f64::from(u8::from(!node.ailing.is_empty()));
    let help = "1 while control finds something wrong with a head";
    collector.gauge("palisade_head_ailing", help, &labels, ailing);
    let Some(medium) = report.and_then(|report| report.log_device.as_ref()) else { return };
    let success = f64::from(medium.success) / 1000.0;
    let help = "share of the latest commands to a head's log device that went well";
    collector.gauge("palisade_log_success_ratio", help, &labels, success);
    if let Some(us) = medium.append_us {
        let help = "smoothed time of appends to a head's log";
        collector.gauge("palisade_log_append_seconds", help, &labels, us as f64 / 1e6);
    }
}

fn paths(collector: &mut Collector, status: &Status) {
    for entry in &status.paths {
        let report = &entry.report;
        let network = report.network.to_string();
        let labels = [("node", entry.node.as_str()), ("peer", entry.peer.as_str()), ("network", &network)];
        let up = f64::from(u8::from(report.state != "down"));
        collector.gauge("palisade_path_up", "1 when the network carries to the peer and back", &labels, up);
        let rtt = report.rtt_us as f64 / 1e6;
        collector.gauge("palisade_path_rtt_seconds", "smoothed round trip to the peer", &labels, rtt);
        let loss = f64::from(report.loss_ppm) / 1e6;
        collector.gauge("palisade_path_loss_ratio", "share of datagrams lost of late", &labels, loss);
        let counters = [("sent".to_owned(), report.sent), ("resent".to_owned(), report.resent)];
        collector.counters("path", &labels, &counters.into());
    }
}

fn volumes(collector: &mut Collector, status: &Status) {
    for volume in &status.volumes {
        let labels = [("volume", volume.name.as_str())];
        let flag = |truth: bool| f64::from(u8::from(truth));
        let gauges = [
            ("bytes", "size", volume.bytes as f64),
            ("serving", "1 when it is served", flag(volume.state == "serving")),
            ("degraded", "1 when protection is not whole", flag(volume.degraded)),
            ("peer_away", "1 when the secondary is away and requests wait", flag(volume.peer_away)),
            (
                "lacks_member",
                "1 when its group lacks a member or one is to leave",
                flag(!volume.lacks.is_empty()),
            ),
            (
                "filling",
                "1 while a head is being filled to become a member",
                flag(!volume.replacement.is_empty()),
            ),
            ("filled_bytes", "bytes that the head being filled has", volume.filled_bytes as f64),
            ("fill_bytes", "bytes that the head being filled has to get", volume.fill_bytes as f64),
            ("sequence", "counter of the newest sequence number", volume.sequence as f64),
            ("waiting", "commands that wait", volume.waiting as f64),
            ("active", "commands in progress", volume.active as f64),
            ("log_bytes", "bytes that are in the log only", volume.log_bytes as f64),
            ("extents", "extents", volume.extents as f64),
            ("degraded_extents", "extents that lack good columns", volume.degraded_extents as f64),
            ("rebuild_bytes", "bytes that a rebuild has to move", volume.rebuild_bytes as f64),
            ("leaving_extents", "extents to move off drained sleds", volume.leaving_extents as f64),
            ("leaving_bytes", "bytes to move off drained sleds", volume.leaving_bytes as f64),
        ];
        for (name, help, value) in gauges {
            collector.gauge(&format!("palisade_volume_{name}"), help, &labels, value);
        }
        let members = [&volume.primary, &volume.secondary].into_iter().chain(&volume.reserves);
        for head in members.filter(|head| !head.is_empty()) {
            let labels = [("volume", volume.name.as_str()), ("head", head.as_str())];
            let help = "1 while a volume has to leave this member";
            collector.gauge(
                "palisade_volume_isolating",
                help,
                &labels,
                flag(volume.isolating.contains(head)),
            );
        }
        if let Some(redundancy) = volume.redundancy {
            let help = "columns that the most endangered extent can still lose";
            collector.gauge("palisade_volume_redundancy", help, &labels, redundancy.into());
        }
        collector.counters("volume", &labels, &volume.counters);
    }
}

fn histograms(collector: &mut Collector, picture: &Picture) {
    let names: BTreeMap<u64, &str> =
        picture.status.volumes.iter().map(|volume| (volume.id, volume.name.as_str())).collect();
    for (head, report) in &picture.reports {
        for partition in &report.partitions {
            let Some(volume) = names.get(&partition.partition).filter(|_| partition.partition > 0) else {
                continue;
            };
            for (stage, histogram) in &partition.stages {
                let labels = [("volume", *volume), ("stage", stage.as_str()), ("head", head.as_str())];
                let value = Value::Histogram(histogram.clone());
                collector.add("palisade_volume_stage_seconds", "time of an I/O's stages", &labels, value);
            }
        }
        for (name, histogram) in &report.histograms {
            let labels = [("node", head.as_str()), ("what", name.as_str())];
            let value = Value::Histogram(histogram.clone());
            collector.add("palisade_node_seconds", "times inside a node", &labels, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::VolumeStatus;
    use crate::report::MediumReport;

    #[test]
    fn ba02_heads_that_are_left_and_volumes_that_leave_them_are_measured() {
        let head = |name: &str, state: &str, isolating: &str, ailing: &str| NodeStatus {
            name: name.to_owned(),
            role: "head".to_owned(),
            state: state.to_owned(),
            isolating: isolating.to_owned(),
            ailing: ailing.to_owned(),
            ..NodeStatus::default()
        };
        let volume = VolumeStatus {
            name: "vol0".to_owned(),
            primary: "head-1".to_owned(),
            secondary: "head-2".to_owned(),
            isolating: vec!["head-2".to_owned()],
            ..VolumeStatus::default()
        };
        let nodes = vec![head("head-1", "ready", "", "slow"), head("head-2", "failed", "errs", "")];
        let medium = MediumReport { errors: 2, success: 750, append_us: Some(1500) };
        let report = NodeReport { log_device: Some(medium), ..NodeReport::default() };
        let picture = Picture {
            status: Status { nodes, volumes: vec![volume], ..Status::default() },
            reports: [("head-1".to_owned(), report)].into(),
        };
        let families = families(&picture);
        let values = |name: &str| -> Vec<(String, Value)> {
            let family = families.iter().find(|family| family.name == name);
            let samples = family.into_iter().flat_map(|family| &family.samples);
            let of = |sample: &Sample| {
                let label = sample.labels.iter().find(|(label, _)| matches!(*label, "node" | "head"));
                (label.expect("of a head").1.clone(), sample.value.clone())
            };
            samples.map(of).collect()
        };
        let gauges = |first: f64, second: f64| {
            vec![("head-1".to_owned(), Value::Gauge(first)), ("head-2".to_owned(), Value::Gauge(second))]
        };
        assert_eq!(values("palisade_head_isolating"), gauges(0.0, 1.0), "whatever else its state is");
        assert_eq!(values("palisade_head_ailing"), gauges(1.0, 0.0));
        assert_eq!(values("palisade_volume_isolating"), gauges(0.0, 1.0));
        assert_eq!(values("palisade_log_success_ratio"), gauges(0.75, 0.0)[..1]);
        assert_eq!(values("palisade_log_append_seconds"), gauges(0.0015, 0.0)[..1]);
    }
}
