//! One network to one peer: round trips, loss, how much may be under way, and whether it carries at all.
//!
//! Round trips follow RFC 6298; the window grows and shrinks as in RFC 5681, with a gentler cut, so that
//! a full socket buffer of the receiver ends in a smaller window and not in a storm of resends.
//!
//! A network is believed only on a *round trip of its own*: a datagram sent on it whose acknowledgement
//! came back on it. So a network cut one way is down at both ends (EF-31). Data proves it while there is
//! data; keep-alives ask otherwise, few while nothing is said and ever fewer while it is down.

use super::packet::Range;
use super::port::{Config, PathState};
use crate::wire::Time;
use smallvec::SmallVec;
use std::time::Duration;

/// Answers in a row after which a network that was down carries data again.
const ANSWERS_TO_RISE: u8 = 3;
/// Keep-alives that are waited for; an older one is forgotten.
const PROBES_MAX: usize = 8;
/// The share of lost datagrams is smoothed over about so many of them.
const LOSS_SPAN: u32 = 64;
/// The whole of a share.
const MILLION: u32 = 1_000_000;

/// State of a path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// Smoothed round trip and its variation, once measured.
    smoothed: Option<(Duration, Duration)>,
    latest: Duration,
    window: usize,
    threshold: usize,
    /// Time-outs in a row.
    backoff: u32,
    state: PathState,
    /// The only one to its peer: nothing else could be taken instead.
    alone: bool,
    /// Since when it owes an answer.
    asked: Option<Time>,
    proved: Time,
    loss_ppm: u32,
    sent: u64,
    lost: u64,
    // ---- below: keep-alives ----
    probes: SmallVec<[(u64, Time); PROBES_MAX]>,
    probed: Time,
    probe_now: bool,
    /// Gap of keep-alives while down, and answers since.
    pause: Duration,
    answers: u8,
}

impl Path {
    /// A network that has proved nothing yet; `alone` if there is no other to this peer.
    pub(super) fn new(alone: bool, config: &Config) -> Self {
        let window = (10 * config.datagram_bytes).min(config.window_bytes);
        Self {
            smoothed: None,
            latest: Duration::ZERO,
            window,
            threshold: config.window_bytes,
            backoff: 0,
            state: if alone { PathState::Up } else { PathState::Suspect },
            alone,
            asked: None,
            proved: Time::ZERO,
            loss_ppm: 0,
            sent: 0,
            lost: 0,
            probes: SmallVec::new(),
            probed: Time::ZERO,
            probe_now: true,
            pause: config.probe_every,
            answers: 0,
        }
    }

    /// A round trip was measured.
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.latest = rtt;
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((mean, variation)) => {
                let off = mean.abs_diff(rtt);
                ((mean * 7 + rtt) / 8, (variation * 3 + off) / 4)
            }
        });
    }

    /// After this long without an acknowledgement a datagram counts as lost. Time-outs in a row double it
    /// when there is no `other` network to send again on: then haste would only add to what ails this one.
    pub(super) fn timeout(&self, config: &Config, other: bool) -> Duration {
        let base = match self.smoothed {
            None => config.rto_initial,
            Some((mean, variation)) => (mean + variation * 4).clamp(config.rto_min, config.rto_max),
        };
        let backoff = if other { 0 } else { self.backoff.min(10) };
        base.saturating_mul(1 << backoff).min(config.rto_max)
    }

    /// After this long a datagram is lost if a later one was acknowledged: reordering takes less.
    pub(super) fn overtaken(&self, config: &Config) -> Duration {
        let mean = self.smoothed.map_or(config.rto_initial, |(mean, _)| mean.max(self.latest));
        (mean * 9 / 8).clamp(config.rto_min / 4, config.rto_max)
    }

    /// Expected time until a datagram is acknowledged: a round trip, and for the share that is lost a
    /// time-out more.
    pub(super) fn cost(&self, config: &Config) -> Duration {
        let rtt = self.smoothed.map_or(config.rto_initial, |(mean, _)| mean);
        rtt + self.timeout(config, true) * (self.loss_ppm / 1000) / (MILLION / 1000)
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// `count` datagrams with `bytes` were acknowledged.
    pub(super) fn delivered(&mut self, count: u64, bytes: usize, config: &Config) {
        self.backoff = 0;
        (0..count.min(u64::from(LOSS_SPAN))).for_each(|_| self.loss_ppm -= self.loss_ppm.div_ceil(LOSS_SPAN));
        let step = if self.window < self.threshold {
            bytes
        } else {
            (bytes * config.datagram_bytes / self.window).max(1)
        };
        self.window = (self.window + step).min(config.window_bytes);
    }

    /// `count` datagrams were lost.
    pub(super) fn lose(&mut self, count: u64, config: &Config) {
        self.lost += count;
        (0..count.min(u64::from(LOSS_SPAN)))
            .for_each(|_| self.loss_ppm += (MILLION - self.loss_ppm) / LOSS_SPAN);
        self.window = (self.window * 7 / 10).max(4 * config.datagram_bytes);
        self.threshold = self.window;
    }

    /// A time-out: it must answer before it is trusted again.
    pub(super) fn doubt(&mut self) {
        self.backoff += 1;
        if self.state == PathState::Up && !self.alone {
            self.state = PathState::Suspect;
            self.probe_now = true;
        }
    }

    /// A datagram that must be acknowledged leaves on it.
    pub(super) fn depart(&mut self, now: Time) {
        self.sent += 1;
        self.asked.get_or_insert(now);
    }

    /// What was sent on it was acknowledged on it. Gives the state if it rose from below.
    pub(super) fn prove(&mut self, now: Time) -> Option<PathState> {
        (self.asked, self.proved) = (None, now);
        self.answers = self.answers.saturating_add(1);
        match self.state {
            PathState::Up => None,
            // The only one carries all the same: nobody waits for more than one answer, which might be all there is.
            PathState::Down if self.answers < ANSWERS_TO_RISE && !self.alone => None,
            PathState::Suspect | PathState::Down => self.rise(),
        }
    }

    /// It carries. Gives the state if it was down before.
    pub(super) fn rise(&mut self) -> Option<PathState> {
        let was = std::mem::replace(&mut self.state, PathState::Up);
        (was == PathState::Down).then(|| {
            // What it did while it was cut says nothing of the healed one: it is measured anew, and carries
            // again when that is done.
            (self.loss_ppm, self.smoothed, self.probe_now) = (0, None, true);
            PathState::Up
        })
    }

    /// A new session: what was asked in the old one is not answered any more.
    pub(super) fn restart(&mut self) {
        self.probes.clear();
        (self.asked, self.backoff, self.answers, self.probe_now) = (None, 0, 0, true);
    }

    /// Once per turn: too long without an answer is down. Gives the state if it fell.
    pub(super) fn look(&mut self, now: Time, config: &Config) -> Option<PathState> {
        self.asked.filter(|asked| now.since(*asked) >= config.down_after)?;
        self.answers = 0;
        if self.state == PathState::Down {
            return None;
        }
        (self.state, self.pause) = (PathState::Down, config.probe_every);
        Some(PathState::Down)
    }

    /// When the next keep-alive is due. `active`: something was said to the peer of late.
    pub(super) fn probe_at(&self, config: &Config, active: bool) -> Time {
        if self.probe_now {
            return Time::ZERO;
        }
        let gap = match self.state {
            PathState::Down if self.answers == 0 => self.pause,
            PathState::Up if self.asked.is_none() && !active => config.probe_idle,
            _ => config.probe_every,
        };
        self.probed.max(self.proved) + gap
    }

    /// A keep-alive leaves under a datagram number.
    pub(super) fn probe(&mut self, now: Time, number: u64, config: &Config) {
        if self.probes.len() == PROBES_MAX {
            self.probes.remove(0);
        }
        self.probes.push((number, now));
        (self.probed, self.probe_now) = (now, false);
        self.asked.get_or_insert(now);
        if self.state == PathState::Down {
            self.pause = (self.pause * 2).min(config.probe_idle);
        }
    }

    /// The newest keep-alive that these ranges acknowledge: its number, and its round trip. Older ones are
    /// done with.
    pub(super) fn answered(
        &mut self,
        now: Time,
        ranges: impl Iterator<Item = Range>,
    ) -> Option<(u64, Duration)> {
        let newest = self.probes.last()?.0;
        let mut ranges = ranges.skip_while(|range| range.0 > newest).peekable();
        ranges.peek()?;
        let covers: SmallVec<[Range; 32]> = ranges.collect();
        let got = |number| covers.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let at = self.probes.iter().rposition(|(number, _)| got(*number))?;
        let (number, left) = self.probes[at];
        self.probes.drain(..=at);
        Some((number, now.since(left)))
    }

    /// Whether it carries.
    pub(super) fn state(&self) -> PathState {
        self.state
    }

    /// Smoothed round trip.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.smoothed.map(|(mean, _)| mean)
    }

    /// Smoothed loss in millionths, datagrams sent, and lost.
    pub(super) fn figures(&self) -> (u32, u64, u64) {
        (self.loss_ppm, self.sent, self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_follow_the_round_trip_and_double_up_to_their_most() {
        let config = Config::default();
        let mut path = Path::new(false, &config);
        assert_eq!(path.timeout(&config, false), config.rto_initial);
        (0..50).for_each(|_| path.sample(Duration::from_millis(10)));
        let settled = path.timeout(&config, false);
        assert!((Duration::from_millis(10)..Duration::from_millis(12)).contains(&settled), "{settled:?}");
        path.doubt();
        assert_eq!(path.timeout(&config, false), settled * 2);
        assert_eq!(path.timeout(&config, true), settled, "the other network takes it at once");
        (0..30).for_each(|_| path.doubt());
        assert_eq!(path.timeout(&config, false), config.rto_max);
        path.delivered(1, 1, &config);
        (0..50).for_each(|_| path.sample(Duration::from_micros(20)));
        assert_eq!(path.timeout(&config, false), config.rto_min);
    }

    #[test]
    fn the_window_stays_between_its_limits() {
        let config = Config::default();
        let mut path = Path::new(false, &config);
        (0..1000).for_each(|_| path.delivered(1, 1 << 20, &config));
        assert_eq!(path.window(), config.window_bytes);
        (0..1000).for_each(|_| path.lose(1, &config));
        assert_eq!(path.window(), 4 * config.datagram_bytes);
    }

    #[test]
    fn loss_is_a_share_that_follows_what_happens_and_costs_time_outs() {
        let config = Config::default();
        let mut path = Path::new(false, &config);
        path.sample(Duration::from_micros(100));
        let clean = path.cost(&config);
        for round in 0..2000 {
            if round % 20 == 0 { path.lose(1, &config) } else { path.delivered(1, 1, &config) }
        }
        let (ppm, _, lost) = path.figures();
        assert!((25_000..80_000).contains(&ppm), "about 5 %: {ppm}");
        assert_eq!(lost, 100);
        assert!(path.cost(&config) > clean + config.rto_min / 50);
        path.lose(100_000, &config);
        assert!(path.figures().0 <= MILLION);
        (0..10_000).for_each(|_| path.delivered(1, 1, &config));
        assert_eq!((path.figures().0, path.cost(&config)), (0, clean));
    }

    #[test]
    fn a_path_falls_when_it_does_not_answer_and_rises_after_answers_in_a_row() {
        let config = Config::default();
        let mut path = Path::new(false, &config);
        assert_eq!(path.prove(Time(5)), None);
        assert_eq!(path.state(), PathState::Up);
        path.depart(Time(1_000_000));
        path.doubt();
        assert_eq!(path.state(), PathState::Suspect);
        assert_eq!(path.probe_at(&config, false), Time::ZERO, "a doubted network is asked at once");
        assert_eq!(path.prove(Time(2_000_000)), None);
        assert_eq!(path.state(), PathState::Up, "one answer lifts a doubt");
        path.depart(Time(3_000_000));
        assert_eq!(path.look(Time(4_000_000), &config), None);
        let late = Time(3_000_000) + config.down_after;
        assert_eq!(path.look(late, &config), Some(PathState::Down));
        assert_eq!(path.look(late, &config), None, "it is said once");
        assert_eq!(path.prove(late), None);
        assert_eq!(path.prove(late), None);
        assert_eq!(path.prove(late), Some(PathState::Up));
    }

    #[test]
    fn the_only_path_rises_with_its_first_answer() {
        let config = Config::default();
        let mut path = Path::new(true, &config);
        path.depart(Time(1_000_000));
        let late = Time(1_000_000) + config.down_after;
        assert_eq!(path.look(late, &config), Some(PathState::Down));
        assert_eq!(path.prove(late), Some(PathState::Up), "there may be nothing more to answer");
    }

    #[test]
    fn keep_alives_become_rare_while_a_path_is_down_or_nothing_is_said() {
        let config = Config::default();
        let mut path = Path::new(false, &config);
        let mut now = Time(1_000_000);
        path.probe(now, 1, &config);
        path.look(now + config.down_after, &config);
        let mut gaps = Vec::new();
        for number in 2..10 {
            let at = path.probe_at(&config, true);
            gaps.push(at.since(now));
            now = at;
            path.probe(now, number, &config);
        }
        assert_eq!(gaps[0], config.probe_every);
        assert_eq!(gaps.last(), Some(&config.probe_idle));
        assert!(path.answered(now + Duration::from_millis(3), [(1, 1)].into_iter()).is_none(), "forgotten");
        let rtt = path.answered(now + Duration::from_millis(3), [(9, 9), (2, 7)].into_iter());
        assert_eq!(rtt, Some((9, Duration::from_millis(3))));
        assert!((0..3).any(|_| path.prove(now).is_some()));
        assert_eq!(path.probe_at(&config, true), Time::ZERO, "what has come back is measured at once");
        path.probe(now, 10, &config);
        assert_eq!(path.prove(now), None);
        assert_eq!(path.probe_at(&config, true).since(now), config.probe_every);
        assert_eq!(path.probe_at(&config, false).since(now), config.probe_idle);
    }
}
