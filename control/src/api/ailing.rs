//! Which heads are ill, by what nodes say of themselves and of one another (BA-02). Pure: reports and time in,
//! findings out; what is done about them is for `isolating`.
//!
//! Three things are looked for, worst first. A log device that errs: it failed, or commands to it keep failing;
//! that needs no second look. Networks: a head that reaches half of its peers badly on a network on which the
//! others reach each other well is itself what is wrong. A slow log device: its appends take many times as long
//! as those of other heads. The last two must last, with some slack before they count as over.
//!
//! Not fooled by what befalls all alike (a slow rack has no outlier, a network that is bad for everybody no
//! culprit), nor by nodes that are away: they are not compared with, and a head that is away is for others to judge.
//! A head that writes nothing is not judged by its log: there is no evidence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use palisade_protocol::wire::{BootId, NodeId};

use super::model::Severity;
use crate::report::{MediumReport, NodeReport, NodeState};

/// A log is slow when its appends take so many times as long as those of the others, and longer than this. Over
/// when they take less than half of that.
const SLOW_FACTOR: u64 = 4;
const SLOW_FLOOR_US: u64 = 50_000;
/// So many failed commands within this time, though the log did not fail as a whole, are no single bad sectors.
const ERRORS_MAX: u64 = 8;
const ERRORS_WITHIN: Duration = Duration::from_secs(60);
/// A network to a peer is bad when it is down, or loses so many of a million datagrams.
const LOSS_PPM: u32 = 50_000;
/// So often the time doubles for which a head must be well before it is relied on again.
const RELIED_MAX: u32 = 6;
/// Fewest peers by which the own networks are judged: with one it may be that one.
const PEERS_MIN: usize = 2;

/// What is wrong with a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ill {
    pub(super) head: NodeId,
    pub(super) severity: Severity,
    /// What people read: begins with the words of the severity, by which it is known again.
    pub(super) why: String,
}

/// The first words of why a head isolates.
pub(super) const LOG_ERRS: &str = "its log device errs";
pub(super) const NETWORKS_BAD: &str = "its networks are bad";
const LOG_SLOW: &str = "its log device is slow";

/// The last words of a node that is heard.
pub(super) struct Seen<'r> {
    pub(super) boot: BootId,
    pub(super) head: bool,
    pub(super) report: &'r NodeReport,
}

/// What is remembered of the heads between two looks.
#[derive(Default)]
pub(super) struct Watch {
    known: BTreeMap<u32, Known>,
    /// What was found at the last look, worst first.
    pub(super) found: Vec<Ill>,
    /// Who shows something that has not lasted yet: nobody is to rely on such a head.
    doubtful: Vec<NodeId>,
    /// How often a head that isolated by itself was relied on again since people forgave it.
    relied: BTreeMap<u32, u32>,
    looked: Option<Instant>,
}

#[derive(Default)]
struct Known {
    boot: BootId,
    /// Errors at the beginning of a time in which they are counted.
    errors: Option<(Instant, u64)>,
    slow: Lasting,
    networks: Lasting,
    well: Lasting,
    /// People were told what is wrong and why nothing is done about it.
    told: Option<Severity>,
}

/// Whether something is found now; none: neither, so that it stays as it was.
type Finding = Option<bool>;

/// Something that counts once it lasts.
#[derive(Default)]
struct Lasting {
    since: Option<Instant>,
}

impl Lasting {
    fn for_long(&mut self, now: Instant, found: Finding, patience: Duration) -> bool {
        match found {
            Some(true) => drop(self.since.get_or_insert(now)),
            Some(false) => self.since = None,
            None => {}
        }
        self.since.is_some_and(|since| now.duration_since(since) >= patience)
    }
}

impl Watch {
    /// Whether the next look is due.
    pub(super) fn due(&mut self, now: Instant, every: Duration) -> bool {
        let due = self.looked.is_none_or(|looked| now >= looked + every);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Looks at everybody who is heard; what lasts must do so for `patience`.
    pub(super) fn look(&mut self, now: Instant, patience: Duration, seen: &BTreeMap<u32, Seen<'_>>) {
        self.known.retain(|node, _| seen.contains_key(node));
        self.found.clear();
        self.doubtful.clear();
        for (&node, of) in seen.iter().filter(|(_, of)| of.head) {
            let known = self.known.entry(node).or_default();
            if known.boot != of.boot {
                *known = Known { boot: of.boot, ..Known::default() };
            }
            let head = NodeId(node);
            let errs = known.errs(now, of.report);
            let (bad, others) = networks(node, seen);
            let bad_for_long = known.networks.for_long(now, bad, patience);
            let (slow, times) = log_time(node, seen);
            let slow_for_long = known.slow.for_long(now, slow, patience);
            let found = if let Some(count) = errs {
                Some((Severity::Errors, format!("{LOG_ERRS}: {count} commands failed")))
            } else if bad_for_long {
                Some((Severity::Network, format!("{NETWORKS_BAD}: {others}")))
            } else if slow_for_long {
                Some((Severity::Warning, format!("{LOG_SLOW}: {times}")))
            } else {
                None
            };
            let doubtful = known.slow.since.is_some() || known.networks.since.is_some();
            if doubtful {
                self.doubtful.push(head);
            }
            known.well.for_long(now, Some(found.is_none() && !doubtful), patience);
            match found {
                Some((severity, why)) => self.found.push(Ill { head, severity, why }),
                None => known.told = None,
            }
        }
        self.found.sort_by_key(|ill| (ill.severity as u8, ill.head));
    }

    /// Whether a head is ill.
    pub(super) fn is_ill(&self, head: NodeId) -> bool {
        self.found.iter().any(|ill| ill.head == head)
    }

    /// Whether nothing is known against a head.
    pub(super) fn is_well(&self, head: NodeId) -> bool {
        !self.is_ill(head) && !self.doubtful.contains(&head)
    }

    /// Whether nothing was known against a head for so long, twice as long with each time that it was relied on again.
    pub(super) fn proved_well(&self, head: NodeId, now: Instant, span: Duration) -> bool {
        let times = self.relied.get(&head.0).copied().unwrap_or(0).min(RELIED_MAX);
        let since = self.known.get(&head.0).and_then(|known| known.well.since);
        since.is_some_and(|since| now.duration_since(since) >= span * (1 << times))
    }

    /// A head that isolated by itself is relied on again.
    pub(super) fn relied_on(&mut self, head: NodeId) {
        *self.relied.entry(head.0).or_default() += 1;
    }

    /// Whether people are to be told of this; once for each kind of trouble.
    pub(super) fn tell(&mut self, ill: &Ill) -> bool {
        let known = self.known.entry(ill.head.0).or_default();
        known.told.replace(ill.severity) != Some(ill.severity)
    }

    /// People take a head into use again: what was seen before counts no more.
    pub(super) fn forgive(&mut self, head: NodeId) {
        self.known.remove(&head.0);
        self.relied.remove(&head.0);
        self.found.retain(|ill| ill.head != head);
    }
}

impl Known {
    /// Commands that failed, if they are too many.
    fn errs(&mut self, now: Instant, report: &NodeReport) -> Option<u64> {
        let errors = report.log_device.as_ref()?.errors;
        let fresh = self.errors.is_some_and(|(since, _)| now.duration_since(since) < ERRORS_WITHIN);
        if !fresh {
            self.errors = Some((now, errors));
        }
        let (_, base) = *self.errors.get_or_insert((now, errors));
        // What failed for want of room has no errors.
        let failed = report.state == NodeState::Failed && errors > 0;
        (failed || errors.saturating_sub(base) >= ERRORS_MAX).then_some(errors)
    }
}

/// How the appends of a head compare with those of the others.
fn log_time(node: u32, seen: &BTreeMap<u32, Seen<'_>>) -> (Finding, String) {
    let time = |of: &Seen<'_>| {
        let well = of.report.state != NodeState::Failed;
        of.report.log_device.as_ref().filter(|_| well).and_then(|medium: &MediumReport| medium.append_us)
    };
    let others = seen.iter().filter(|(other, of)| **other != node && of.head);
    let mut others: Vec<u64> = others.filter_map(|(_, of)| time(of)).collect();
    let Some(own) = seen.get(&node).and_then(time).filter(|_| !others.is_empty()) else {
        return (Some(false), String::new());
    };
    others.sort_unstable();
    // Of two the faster one: else two that are slow would hide behind each other.
    let usual = others[(others.len() - 1) / 2];
    let limit = usual.saturating_mul(SLOW_FACTOR).max(SLOW_FLOOR_US);
    let found = if own > limit { Some(true) } else { (own < limit / 2).then_some(false) };
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us / 100 % 10);
    (found, format!("an append takes {}, {} on other heads", ms(own), ms(usual)))
}

/// Whether one of a head's networks is bad while the others reach each other on it.
fn networks(node: u32, seen: &BTreeMap<u32, Seen<'_>>) -> (Finding, String) {
    let Some(own) = seen.get(&node) else { return (Some(false), String::new()) };
    let (mut found, mut what) = (Some(false), String::new());
    let most = own.report.paths.iter().map(|path| path.network).max().unwrap_or(0);
    for network in 1..=most {
        // (bad ones, all) from whom to whom; those who are away say nothing of a network.
        let count = |paths: &mut dyn Iterator<Item = (u32, &NodeReport)>| {
            let mut counted = (0usize, 0usize);
            for (from, report) in paths {
                let on = report.paths.iter().filter(|path| path.network == network);
                for path in on.filter(|path| seen.contains_key(&path.to)) {
                    if from != node && path.to == node {
                        continue;
                    }
                    counted.0 += usize::from(path.state == "down" || path.loss_ppm >= LOSS_PPM);
                    counted.1 += 1;
                }
            }
            counted
        };
        let (bad, all) = count(&mut std::iter::once((node, own.report)));
        let elsewhere = seen.iter().filter(|(other, _)| **other != node);
        let (theirs, between) = count(&mut elsewhere.map(|(other, of)| (*other, of.report)));
        let they_are_well = between > 0 && theirs * 4 <= between;
        if all >= PEERS_MIN && bad * 2 >= all && they_are_well {
            let where_ = if most > 1 { format!(" on network {network}") } else { String::new() };
            return (Some(true), format!("{bad} of {all} peers are reached badly{where_}"));
        }
        if all >= PEERS_MIN && bad * 4 > all && they_are_well {
            (found, what) = (None, format!("{bad} of {all} peers are reached badly"));
        }
    }
    (found, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PathReport;

    const PATIENCE: Duration = Duration::from_secs(10);
    const MS: u64 = 1000;

    /// Three heads and two sleds that each report once a tenth of a second.
    struct Rig {
        watch: Watch,
        now: Instant,
        boots: [u128; 5],
        reports: [NodeReport; 5],
        away: Vec<usize>,
    }

    impl Rig {
        fn new() -> Self {
            let reports = std::array::from_fn(|at| {
                let others = (0..5).filter(|to| *to != at && (at < 3 || *to < 3));
                let paths = others.flat_map(|to| [1, 2].map(|network| path(to, network))).collect();
                let medium = MediumReport { errors: 0, success: 1000, append_us: Some(MS) };
                let log_device = (at < 3).then_some(medium);
                NodeReport { state: NodeState::Ready, log_device, paths, ..NodeReport::default() }
            });
            Self { watch: Watch::default(), now: Instant::now(), boots: [1; 5], reports, away: Vec::new() }
        }

        fn log(&mut self, at: usize) -> &mut MediumReport {
            self.reports[at].log_device.as_mut().expect("a head")
        }

        /// Every path of a node on a network, seen from both sides.
        fn paths(&mut self, at: usize, network: u8, change: impl Fn(&mut PathReport)) {
            for (from, report) in self.reports.iter_mut().enumerate() {
                let with = |path: &&mut PathReport| from == at || path.to == at as u32 + 1;
                report.paths.iter_mut().filter(|path| path.network == network).filter(with).for_each(&change);
            }
        }

        /// Time passes; what is found then.
        fn run(&mut self, seconds: u64) -> Vec<(u32, Severity)> {
            for _ in 0..seconds * 10 {
                self.now += Duration::from_millis(100);
                let here = self.reports.iter().enumerate().filter(|(at, _)| !self.away.contains(at));
                let seen = here.map(|(at, report)| {
                    (at as u32 + 1, Seen { boot: BootId(self.boots[at]), head: at < 3, report })
                });
                self.watch.look(self.now, PATIENCE, &seen.collect());
            }
            self.watch.found.iter().map(|ill| (ill.head.0, ill.severity)).collect()
        }
    }

    fn path(to: usize, network: u8) -> PathReport {
        PathReport { to: to as u32 + 1, network, state: "up".to_owned(), ..PathReport::default() }
    }

    #[test]
    fn ba02_a_log_that_is_slow_for_long_is_a_warning_and_a_slow_rack_is_none() {
        let mut rig = Rig::new();
        assert_eq!(rig.run(20), []);
        rig.log(1).append_us = Some(120 * MS);
        assert_eq!(rig.run(9), [], "not for long yet");
        assert!(!rig.watch.is_well(NodeId(2)) && !rig.watch.is_ill(NodeId(2)), "nobody is to rely on it");
        assert!(rig.watch.is_well(NodeId(1)));
        assert_eq!(rig.run(2), [(2, Severity::Warning)]);
        assert_eq!(
            rig.watch.found[0].why,
            "its log device is slow: an append takes 120.0 ms, 1.0 ms on other heads"
        );
        rig.log(1).append_us = Some(30 * MS);
        assert_eq!(rig.run(5), [(2, Severity::Warning)], "between the limits it stays what it is");
        rig.log(1).append_us = Some(2 * MS);
        assert_eq!(rig.run(1), []);
        for at in 0..3 {
            rig.log(at).append_us = Some(300 * MS);
        }
        assert_eq!(rig.run(60), [], "all alike");
        rig.log(2).append_us = Some(2 * MS);
        assert_eq!(
            rig.run(11),
            [(1, Severity::Warning), (2, Severity::Warning)],
            "two do not hide each other"
        );
    }

    #[test]
    fn ba02_a_log_is_not_judged_by_bursts_without_others_or_without_appends() {
        let mut rig = Rig::new();
        for _ in 0..20 {
            rig.log(0).append_us = Some(200 * MS);
            assert_eq!(rig.run(8), []);
            rig.log(0).append_us = Some(MS);
            assert_eq!(rig.run(2), []);
        }
        rig.log(0).append_us = Some(200 * MS);
        (rig.log(1).append_us, rig.log(2).append_us) = (None, None);
        assert_eq!(rig.run(60), [], "nobody to compare it with");
        rig.log(1).append_us = Some(MS);
        assert_eq!(rig.run(5), []);
        rig.log(0).append_us = None;
        assert_eq!(rig.run(10), [], "an idle head gives no evidence");
        rig.log(0).append_us = Some(200 * MS);
        assert_eq!(rig.run(8), []);
        rig.away = vec![0];
        assert_eq!(rig.run(10), [], "it is away");
        rig.away.clear();
        assert_eq!(rig.run(8), [], "and is judged anew");
        assert_eq!(rig.run(3), [(1, Severity::Warning)]);
    }

    #[test]
    fn ba02_a_log_that_failed_or_keeps_failing_errs_at_once_and_single_errors_are_forgiven() {
        let mut rig = Rig::new();
        rig.run(1);
        for _ in 0..20 {
            rig.log(2).errors += 1;
            assert_eq!(rig.run(10), [], "a bad sector now and then");
        }
        rig.log(2).errors += 8;
        assert_eq!(rig.run(1), [(3, Severity::Errors)]);
        // Another process begins to count anew.
        (rig.boots[2], rig.log(2).errors) = (2, 0);
        assert_eq!(rig.run(1), []);
        rig.reports[2].state = NodeState::Failed;
        assert_eq!(rig.run(30), [], "a log without room is not ill");
        rig.log(2).errors = 1;
        assert_eq!(rig.run(1), [(3, Severity::Errors)]);
        assert_eq!(rig.watch.found[0].why, "its log device errs: 1 commands failed");
    }

    #[test]
    fn ba02_networks_that_are_bad_for_one_head_and_for_long_are_its_own() {
        for (network, change) in [
            (1, (|path| path.state = "down".to_owned()) as fn(&mut PathReport)),
            (2, |path| path.loss_ppm = 90_000),
        ] {
            let mut rig = Rig::new();
            rig.paths(1, network, change);
            assert_eq!(rig.run(9), []);
            assert_eq!(rig.run(2), [(2, Severity::Network)], "half dead is enough");
            let why = format!("its networks are bad: 4 of 4 peers are reached badly on network {network}");
            assert_eq!(rig.watch.found[0].why, why);
            rig.paths(1, network, |path| (path.state, path.loss_ppm) = ("up".to_owned(), 0));
            assert_eq!(rig.run(1), []);
        }
    }

    #[test]
    fn ba02_a_network_that_is_bad_for_all_a_sled_or_one_that_is_away_are_no_heads_fault() {
        let mut rig = Rig::new();
        for at in 0..5 {
            rig.paths(at, 1, |path| path.state = "down".to_owned());
        }
        assert_eq!(rig.run(60), [], "the network is down");
        let mut rig = Rig::new();
        rig.paths(4, 1, |path| path.loss_ppm = 500_000);
        assert_eq!(rig.run(60), [], "it is the sled: one of four peers of each head");
        let mut rig = Rig::new();
        for gone in [1, 3] {
            rig.paths(gone, 1, |path| path.state = "down".to_owned());
            rig.paths(gone, 2, |path| path.state = "down".to_owned());
        }
        rig.away = vec![1, 3];
        assert_eq!(rig.run(60), [], "half of the peers are away, and nobody is reached badly");
    }

    #[test]
    fn ba02_the_worst_is_said_first_is_told_once_and_people_forgive() {
        let mut rig = Rig::new();
        rig.run(1);
        rig.log(0).append_us = Some(200 * MS);
        rig.paths(1, 1, |path| path.state = "down".to_owned());
        rig.log(2).errors = 9;
        rig.log(2).append_us = Some(200 * MS);
        let all = [(3, Severity::Errors), (2, Severity::Network), (1, Severity::Warning)];
        assert_eq!(rig.run(11), all);
        let found = rig.watch.found.clone();
        assert!(found.iter().all(|ill| rig.watch.tell(ill)) && !found.iter().any(|ill| rig.watch.tell(ill)));
        let worse = Ill { severity: Severity::Errors, ..found[2].clone() };
        assert!(rig.watch.tell(&worse), "something else is news");
        for head in 1..=3 {
            rig.watch.forgive(NodeId(head));
        }
        assert_eq!(rig.run(9), [], "what was seen before counts no more");
        let again = [all[1], all[2], (3, Severity::Warning)];
        assert_eq!(rig.run(2), again, "what goes on does");
    }

    #[test]
    fn ba02_a_head_has_to_be_well_twice_as_long_each_time_that_it_is_relied_on_again() {
        let (mut rig, head, span) = (Rig::new(), NodeId(2), Duration::from_secs(100));
        let well = |rig: &Rig| rig.watch.proved_well(head, rig.now, span);
        rig.run(99);
        assert!(!well(&rig));
        rig.run(2);
        assert!(well(&rig));
        rig.watch.relied_on(head);
        rig.run(98);
        assert!(!well(&rig));
        rig.run(2);
        assert!(well(&rig));
        rig.log(1).append_us = Some(120 * MS);
        rig.run(1);
        assert!(!well(&rig), "a doubt is enough");
        rig.log(1).append_us = Some(MS);
        rig.run(190);
        assert!(!well(&rig), "it begins anew");
        rig.run(20);
        assert!(well(&rig));
        rig.boots[1] = 2;
        rig.run(1);
        assert!(!well(&rig), "so does another process");
        (0..40).for_each(|_| rig.watch.relied_on(head));
        rig.run(6401);
        assert!(well(&rig), "there is a longest time");
        rig.watch.forgive(head);
        rig.run(101);
        assert!(well(&rig), "people forgive");
    }
}
