//! What a head thinks of the devices it uses: good, suspect, failed, and good again (EF-22, EF-30, P-26).
//!
//! Judged by what they answer: errors without a good answer between, silence, and reads that take many times
//! as long as those of the others. A suspect device gets no new columns and is read only when the others do
//! not suffice; one that stays so counts as failed, and its extents are rebuilt elsewhere. Small reads try a
//! device that is not good, or that was not heard of for long; steady good answers bring it back.
//!
//! Not fooled by what befalls all alike: a device is slow only against the median of the others; while half
//! of the devices are not good none is given up, because then it is the way to them, or this head; and what
//! was asked before this head slept tells nothing.

use crate::wire::{ColumnRef, DeviceHealth, DeviceId, PartitionId, Time};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks at all devices, and between two tries of a suspect one.
const LOOK: Duration = Duration::from_millis(250);
/// A longer pause between two turns means that this head slept; a shorter one does, if reads are given up sooner.
const SLEPT: Duration = Duration::from_secs(1);
/// Times older than this are not compared.
const FRESH: Duration = Duration::from_secs(15);
/// Fewest others that a device is compared with.
const OTHERS_MIN: usize = 3;
/// Good answers in a row that bring a device back.
const GOODS: u32 = 4;

/// When a device is suspect, and when it counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWatch {
    /// Failures without a good answer between that make it suspect. Silence makes it suspect at once.
    pub strikes: u32,
    /// So many errors without a good answer between are persistent: it fails without a longer wait.
    pub fail_errors: u32,
    /// A device that was suspect for so long has failed.
    pub fail_after: Duration,
    /// It is slow when its reads take so many times as long as the median of the others...
    pub slow_factor: u32,
    /// ...and longer than this...
    pub slow_floor: Duration,
    /// ...for so long.
    pub slow_for: Duration,
    /// Good answers over so long make a suspect device good again; a failed one needs four times that.
    pub heal: Duration,
    /// A device that was not heard of for so long is tried.
    pub idle: Duration,
}

impl Default for DeviceWatch {
    fn default() -> Self {
        Self {
            strikes: 3,
            fail_errors: 12,
            fail_after: Duration::from_secs(30),
            slow_factor: 8,
            slow_floor: Duration::from_millis(20),
            slow_for: Duration::from_secs(2),
            heal: Duration::from_secs(2),
            idle: Duration::from_secs(5),
        }
    }
}

/// How an answer was bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The device said so.
    Error,
    /// Nobody answered in time.
    Silence,
}

/// A device that is thought of differently now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turned {
    pub(super) device: DeviceId,
    pub(super) health: DeviceHealth,
    pub(super) why: &'static str,
}

/// A device that is to be tried, and a column that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) device: DeviceId,
    pub(super) column: Option<(PartitionId, ColumnRef)>,
}

#[derive(Debug, Default)]
struct Device {
    health: DeviceHealth,
    since: Time,
    /// Failures since the last good answer, and how many of them were said by the device.
    strikes: u32,
    errors: u32,
    last_bad: Time,
    silent: bool,
    /// Good answers since the last failure, and when the first of them came.
    goods: u32,
    good_since: Time,
    heard: Time,
    /// Smoothed time of its reads, and when it was measured last.
    read_ns: u64,
    read_at: Time,
    slow_since: Option<Time>,
    /// A column to try it by.
    column: Option<(PartitionId, ColumnRef)>,
    tried: Time,
    trying: bool,
}

/// All devices of a head's partitions.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: BTreeMap<DeviceId, Device>,
    at: Time,
    turned: Time,
    /// What was asked before tells nothing: this head slept.
    awake: Time,
    /// A longer pause between two turns means that.
    slept: Duration,
}

impl Devices {
    /// `patience`: a read that is not answered for so long is given up. Whoever slept for that long would take all
    /// that was under way for silence.
    pub(super) fn new(patience: Duration) -> Self {
        Self { slept: SLEPT.min(patience), ..Self::default() }
    }

    pub(super) fn health(&self, device: DeviceId) -> DeviceHealth {
        self.known.get(&device).map_or(DeviceHealth::Good, |known| known.health)
    }

    /// Notices a sleep of this head. Called before anything of a turn is judged.
    #[inline]
    pub(super) fn tick(&mut self, now: Time) {
        let gap = now.since(self.turned);
        let first = self.turned == Time::ZERO;
        self.turned = now;
        if gap <= self.slept && !first {
            return;
        }
        self.awake = now;
        for device in self.known.values_mut() {
            device.since = device.since + gap;
            device.heard = now;
            device.goods = 0;
            device.slow_since = None;
        }
    }

    /// When the last turn was, and since when this head is awake.
    pub(super) fn clock(&self) -> (Time, Time) {
        (self.turned, self.awake)
    }

    /// Whether so much time since the last turn means that this head slept.
    pub(super) fn slept(&self, now: Time) -> bool {
        now.since(self.turned) > self.slept
    }

    /// A good answer to what was sent at `sent`; `read`: it was a read, whose time tells something.
    pub(super) fn good(&mut self, now: Time, device: DeviceId, sent: Time, read: bool) {
        let known = self.known.entry(device).or_default();
        known.heard = now;
        (known.strikes, known.errors, known.silent) = (0, 0, false);
        if known.goods == 0 {
            known.good_since = now;
        }
        known.goods = known.goods.saturating_add(1);
        if read && sent >= self.awake {
            let ns = now.since(sent).as_nanos() as u64;
            let fresh = now.since(known.read_at) < FRESH && known.read_ns > 0;
            known.read_ns = if fresh { known.read_ns - known.read_ns / 4 + ns / 4 } else { ns };
            known.read_at = now;
        }
    }

    /// A failure of what was sent at `sent`.
    pub(super) fn bad(&mut self, now: Time, device: DeviceId, sent: Time, how: Bad, watch: &DeviceWatch) {
        if sent < self.awake {
            return;
        }
        let known = self.known.entry(device).or_default();
        (known.goods, known.last_bad) = (0, now);
        match how {
            Bad::Error => {
                known.heard = now;
                known.errors = known.errors.saturating_add(1);
                known.strikes = known.strikes.saturating_add(1);
            }
            Bad::Silence => {
                known.silent = true;
                known.strikes = known.strikes.saturating_add(watch.strikes);
            }
        }
    }

    /// The sled of a device started again: a suspect one gets another chance.
    pub(super) fn restarted(&mut self, now: Time, device: DeviceId) {
        if let Some(known) = self.known.get_mut(&device) {
            (known.strikes, known.errors, known.silent, known.slow_since) = (0, 0, false, None);
            (known.goods, known.read_ns, known.heard) = (0, 0, now);
        }
    }

    /// A column that the device holds, to try it by.
    pub(super) fn holds(&mut self, device: DeviceId, partition: PartitionId, column: ColumnRef) {
        self.known.entry(device).or_default().column = Some((partition, column));
    }

    /// Looks at all `targets` when that is due: whatever is no target is forgotten.
    pub(super) fn look(
        &mut self,
        now: Time,
        watch: &DeviceWatch,
        targets: impl Fn() -> Vec<DeviceId>,
    ) -> SmallVec<[Turned; 4]> {
        if now < self.at {
            return SmallVec::new();
        }
        self.at = now + LOOK;
        let targets = targets();
        self.known.retain(|device, _| targets.binary_search(device).is_ok());
        for device in targets {
            self.known.entry(device).or_insert_with(|| Device { heard: now, ..Device::default() });
        }
        self.compare(now, watch);
        let ill = self.known.values().filter(|known| known.health != DeviceHealth::Good).count();
        // Half of all at once: it is the way to them.
        let common = ill * 2 >= self.known.len();
        let mut turned = SmallVec::new();
        for (&device, known) in &mut self.known {
            if let Some((health, why)) = known.judge(now, watch, common) {
                (known.health, known.since) = (health, now);
                turned.push(Turned { device, health, why });
            }
        }
        turned
    }

    /// Who is slow against the median of the others.
    fn compare(&mut self, now: Time, watch: &DeviceWatch) {
        let fresh = |known: &Device| known.read_ns > 0 && now.since(known.read_at) < FRESH;
        let times: Vec<(DeviceId, u64)> = self
            .known
            .iter()
            .filter(|(_, known)| fresh(known) && known.health != DeviceHealth::Failed)
            .map(|(device, known)| (*device, known.read_ns))
            .collect();
        for (&device, known) in &mut self.known {
            let mut others: SmallVec<[u64; 64]> =
                times.iter().filter(|(other, _)| *other != device).map(|(_, ns)| *ns).collect();
            if others.len() < OTHERS_MIN || !fresh(known) {
                known.slow_since = None;
                continue;
            }
            others.sort_unstable();
            let median = others[others.len() / 2];
            let limit = (median * u64::from(watch.slow_factor)).max(watch.slow_floor.as_nanos() as u64);
            if known.read_ns > limit {
                known.slow_since.get_or_insert(now);
            } else if known.read_ns < limit / 2 {
                known.slow_since = None;
            }
        }
    }

    /// Devices that are to be tried now, each with a column known to lie there.
    pub(super) fn due(&mut self, now: Time, watch: &DeviceWatch) -> SmallVec<[Due; 4]> {
        let mut due = SmallVec::new();
        for (&device, known) in &mut self.known {
            let (last, pause) = match known.health {
                DeviceHealth::Good => (known.heard.max(known.tried), watch.idle),
                DeviceHealth::Suspect => (known.tried, LOOK),
                DeviceHealth::Failed => (known.tried, watch.heal),
            };
            if !known.trying && now.since(last) >= pause {
                known.tried = now;
                due.push(Due { device, column: known.column });
            }
        }
        due
    }

    /// A try was sent, or is over.
    pub(super) fn trying(&mut self, device: DeviceId, on: bool) {
        if let Some(known) = self.known.get_mut(&device) {
            known.trying = on;
        }
    }

    /// What it was tried by is not there any more.
    pub(super) fn holds_nothing(&mut self, device: DeviceId) {
        if let Some(known) = self.known.get_mut(&device) {
            known.column = None;
        }
    }
}

impl Device {
    fn judge(&self, now: Time, watch: &DeviceWatch, common: bool) -> Option<(DeviceHealth, &'static str)> {
        let slow = self.slow_since.is_some_and(|since| now.since(since) >= watch.slow_for);
        let span = now.since(self.since);
        match self.health {
            DeviceHealth::Good => {
                let why = if self.silent { "it does not answer" } else { "it answers with errors" };
                let struck = self.strikes >= watch.strikes;
                let why = if struck { why } else { "it is many times as slow as the others" };
                (struck || slow).then_some((DeviceHealth::Suspect, why))
            }
            DeviceHealth::Suspect if self.well(now, watch.heal) => {
                Some((DeviceHealth::Good, "it answers well"))
            }
            DeviceHealth::Suspect => {
                let persistent = self.errors >= watch.fail_errors && span >= watch.heal;
                let ill = self.strikes > 0 || self.slow_since.is_some();
                let fails = persistent || (ill && span >= watch.fail_after);
                let why = match (persistent, self.strikes > 0) {
                    (true, _) => "its errors persist",
                    (_, true) => "it was suspect for too long",
                    _ => "it was slow for too long",
                };
                (fails && !common).then_some((DeviceHealth::Failed, why))
            }
            DeviceHealth::Failed if self.well(now, watch.heal * 4) => {
                Some((DeviceHealth::Good, "it answers well again"))
            }
            DeviceHealth::Failed => None,
        }
    }

    /// Steady good answers over a time. One that holds nothing cannot be tried: a suspect one gets another
    /// chance, and one that failed needs at least one good answer, such as a claim after its sled's restart.
    fn well(&self, now: Time, heal: Duration) -> bool {
        let calm = self.strikes == 0 && self.slow_since.is_none();
        let steady = self.goods >= GOODS && now.since(self.good_since) >= heal;
        let once = self.goods > 0 || self.health == DeviceHealth::Suspect;
        let untried = self.column.is_none() && once && now.since(self.last_bad) >= heal * 2;
        (calm && steady) || (untried && self.slow_since.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn device(at: usize) -> DeviceId {
        DeviceId(at as u128 + 1)
    }

    /// Eight devices; each step is a tenth of a second in which each is read as `took` says (`None`: an error).
    struct Rig {
        devices: Devices,
        watch: DeviceWatch,
        now: Time,
        seen: Vec<Turned>,
    }

    impl Rig {
        fn new() -> Self {
            let (devices, watch) = (Devices::new(SLEPT), DeviceWatch::default());
            Self { devices, watch, now: Time(1_000_000_000), seen: Vec::new() }
        }

        fn run(&mut self, span: Duration, took: impl Fn(usize) -> Option<Duration>) {
            let end = self.now + span;
            while self.now < end {
                self.now = self.now + 100 * MS;
                self.devices.tick(self.now);
                for at in 0..8 {
                    let column = ColumnRef { device: device(at), ..ColumnRef::default() };
                    self.devices.holds(device(at), PartitionId(1), column);
                    match took(at) {
                        Some(span) => {
                            let sent = Time(self.now.0 - span.as_nanos() as u64);
                            self.devices.good(self.now, device(at), sent, true);
                        }
                        None => self.devices.bad(self.now, device(at), self.now, Bad::Error, &self.watch),
                    }
                }
                let targets = || (0..8).map(device).collect();
                self.seen.extend(self.devices.look(self.now, &self.watch, targets));
            }
        }

        fn states(&self) -> Vec<(usize, DeviceHealth)> {
            self.seen.iter().map(|turned| (turned.device.0 as usize - 1, turned.health)).collect()
        }
    }

    #[test]
    fn ef22_errors_make_a_device_suspect_then_failed_and_good_answers_bring_it_back() {
        let mut rig = Rig::new();
        rig.run(Duration::from_secs(2), |_| Some(MS));
        rig.run(Duration::from_millis(600), |at| (at != 3).then_some(MS));
        assert_eq!(rig.states(), [(3, DeviceHealth::Suspect)]);
        rig.run(Duration::from_secs(3), |_| Some(MS));
        assert_eq!(rig.states()[1..], [(3, DeviceHealth::Good)]);
        rig.run(Duration::from_secs(5), |at| (at != 3).then_some(MS));
        assert_eq!(rig.states()[2..], [(3, DeviceHealth::Suspect), (3, DeviceHealth::Failed)]);
        rig.run(Duration::from_secs(5), |_| Some(MS));
        assert_eq!(rig.seen.len(), 4, "a failed device needs longer");
        rig.run(Duration::from_secs(5), |_| Some(MS));
        assert_eq!(rig.states()[4..], [(3, DeviceHealth::Good)]);
    }

    #[test]
    fn ef22_a_single_error_or_slow_read_is_nothing() {
        let mut rig = Rig::new();
        for round in 0..40 {
            rig.run(100 * MS, |at| (at != round % 8).then_some(MS));
            rig.run(300 * MS, |_| Some(MS));
            rig.run(100 * MS, |at| Some(if at == round % 8 { 60 * MS } else { MS }));
            rig.run(300 * MS, |_| Some(MS));
        }
        assert_eq!(rig.seen, []);
    }

    #[test]
    fn ef22_a_slow_device_is_an_outlier_and_a_slow_rack_is_none() {
        let mut rig = Rig::new();
        rig.run(Duration::from_secs(20), |_| Some(300 * MS));
        assert_eq!(rig.seen, [], "all alike");
        rig.run(Duration::from_secs(20), |_| Some(MS));
        rig.run(Duration::from_secs(10), |at| Some(if at == 5 { 100 * MS } else { MS }));
        assert_eq!(rig.states(), [(5, DeviceHealth::Suspect)]);
        // Between the two limits it stays what it is.
        rig.run(Duration::from_secs(5), |at| Some(if at == 5 { 12 * MS } else { MS }));
        assert_eq!(rig.seen.len(), 1);
        rig.run(Duration::from_secs(6), |_| Some(MS));
        assert_eq!(rig.states()[1..], [(5, DeviceHealth::Good)]);
        rig.run(Duration::from_secs(40), |at| Some(if at == 5 { 100 * MS } else { MS }));
        assert_eq!(rig.states()[2..], [(5, DeviceHealth::Suspect), (5, DeviceHealth::Failed)]);
    }

    #[test]
    fn ef22_half_of_all_devices_at_once_are_not_given_up_and_a_sleep_is_forgiven() {
        let mut rig = Rig::new();
        rig.run(Duration::from_secs(2), |_| Some(MS));
        rig.run(Duration::from_secs(100), |at| (at >= 4).then_some(MS));
        assert!(rig.states().iter().all(|(_, health)| *health == DeviceHealth::Suspect));
        assert_eq!(rig.seen.len(), 4);
        rig.run(Duration::from_secs(10), |_| Some(MS));
        assert_eq!(rig.seen.len(), 8, "all are good again");
        // A minute of sleep: what was asked before it timed out, and tells nothing.
        let asked = rig.now;
        rig.now = rig.now + Duration::from_secs(60);
        rig.devices.tick(rig.now);
        (0..8).for_each(|at| rig.devices.bad(rig.now, device(at), asked, Bad::Silence, &rig.watch));
        rig.run(Duration::from_secs(10), |_| Some(MS));
        assert_eq!(rig.seen.len(), 8);
    }
}
