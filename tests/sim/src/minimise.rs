//! Makes a failing run smaller: as long as it ends in a violation of the same kind, faults are dropped (kinds as
//! a whole, then by delta debugging of the list), messages behave, volumes, clients and requests get fewer, and
//! trouble gets shorter. Bounded by a number of runs and by wall time.

use crate::diary::Diary;
use crate::fault::{Event, KINDS};
use crate::faults::{Odds, Scenario};
use crate::rack::volume_count;
use crate::run::{Setup, run_with};
use crate::story;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long a search may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most runs.
    pub runs: u32,
    /// Longest wall time; a run that has begun is ended first.
    pub wall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { runs: 600, wall: Duration::from_secs(60) }
    }
}

/// How large a failing run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Faults that happened.
    pub faults: usize,
    /// Volumes.
    pub volumes: u32,
    /// Clients of each.
    pub clients: u32,
    /// Requests of each client.
    pub requests: u64,
    /// Virtual time to the end of the run.
    pub lasted: Duration,
}

/// A smaller run that fails alike.
#[derive(Clone, Debug)]
pub struct Small {
    /// Its seed, scenario and switches.
    pub setup: Setup,
    /// Its faults.
    pub script: Vec<Event>,
    /// What kind of violation it ends in, as the first run did.
    pub kind: String,
    /// The violation itself.
    pub violation: String,
    /// The first run.
    pub before: Size,
    /// This run.
    pub after: Size,
    /// Runs that it took.
    pub runs: u32,
    /// What happened, for people.
    pub trace: String,
}

/// What is violated, without times, numbers and names of places: the word before the first colon (an invariant,
/// or "liveness"), or else the text without its numbers.
pub fn kind_of(violation: &str) -> String {
    let text =
        violation.strip_prefix("at ").and_then(|rest| rest.split_once(": ")).map_or(violation, |cut| cut.1);
    let text = match text.strip_prefix("partition ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => rest,
        None => text,
    };
    match text.split_once(':') {
        Some((word, _)) if word.chars().all(char::is_alphanumeric) => word.to_owned(),
        _ => text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect(),
    }
}

/// A run that failed.
#[derive(Clone, Debug)]
struct Failed {
    setup: Setup,
    script: Vec<Event>,
    violation: String,
    lasted: Duration,
}

impl Failed {
    fn size(&self) -> Size {
        let Scenario { clients, requests, .. } = self.setup.scenario;
        let volumes = volume_count(&self.setup.scenario);
        Size { faults: self.script.len(), volumes, clients, requests, lasted: self.lasted }
    }
}

/// Looks for a smaller run than the given one that fails alike. `None` when the given one does not fail.
pub fn minimise(setup: &Setup, limits: Limits) -> Option<Small> {
    let mut search = Search { kind: None, runs: 0, limits, began: Instant::now() };
    let first = search.attempt(setup, None)?;
    let kind = kind_of(&first.violation);
    search.kind = Some(kind.clone());
    // The list must bring the same about; if it does not, the run as it is has to do.
    let mut best = search.attempt(setup, Some(&first.script)).unwrap_or_else(|| first.clone());
    let before = first.size();
    loop {
        let size = best.size();
        search.calmer(&mut best);
        search.fewer_faults(&mut best);
        search.less_load(&mut best);
        if best.size() == size || search.over() {
            break;
        }
    }
    let trace = tell(&best);
    let (after, runs) = (best.size(), search.runs);
    Some(Small {
        setup: best.setup,
        script: best.script,
        kind,
        violation: best.violation,
        before,
        after,
        runs,
        trace,
    })
}

/// The readable trace of a failing run.
fn tell(failed: &Failed) -> String {
    let told = catch_unwind(AssertUnwindSafe(|| {
        let diary = Diary::Keep(Default::default());
        let (_, (_, diary)) = run_with(&failed.setup, Some(&failed.script), Some(diary));
        diary.map(|diary| story::tell(&diary, &failed.violation))
    }));
    told.ok().flatten().unwrap_or_else(|| format!("a machine's own assertion: {}\n", failed.violation))
}

struct Search {
    /// What a run has to end in; anything until the first has.
    kind: Option<String>,
    runs: u32,
    limits: Limits,
    began: Instant,
}

impl Search {
    fn over(&self) -> bool {
        self.runs >= self.limits.runs || self.began.elapsed() >= self.limits.wall
    }

    /// Runs it; how it failed, if it did so in the wanted way.
    fn attempt(&mut self, setup: &Setup, script: Option<&[Event]>) -> Option<Failed> {
        if self.over() {
            return None;
        }
        self.runs += 1;
        let setup = Setup { trace: false, ..*setup };
        let ran = catch_unwind(AssertUnwindSafe(|| run_with(&setup, script, None)));
        let failed = match ran {
            Ok((report, (struck, _))) => {
                let violation = report.violations.into_iter().next()?;
                Failed { setup, script: struck, violation, lasted: report.lasted }
            }
            Err(why) => {
                let said = why.downcast_ref::<String>().cloned();
                let said = said.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let violation = format!("assertion: {}", said.unwrap_or_default());
                let script = script.map(<[Event]>::to_vec).unwrap_or_default();
                Failed { setup, script, violation, lasted: Duration::ZERO }
            }
        };
        let alike = self.kind.as_ref().is_none_or(|kind| *kind == kind_of(&failed.violation));
        alike.then_some(failed)
    }

    /// Takes a candidate for the best if it fails alike; whether it did.
    fn take(&mut self, best: &mut Failed, setup: &Setup, script: &[Event]) -> bool {
        match self.attempt(setup, Some(script)) {
            Some(failed) => {
                *best = failed;
                true
            }
            None => false,
        }
    }

    /// Messages and devices behave, one kind of misbehaviour after the other; trouble is as short as it can be.
    fn calmer(&mut self, best: &mut Failed) {
        let off: [fn(&mut Odds); 6] = [
            |odds| odds.doubled = 0.0,
            |odds| odds.held = 0.0,
            |odds| odds.lost = 0.0,
            |odds| odds.damaged = 0.0,
            |odds| odds.slow = 0.0,
            |odds| odds.raced = 0.0,
        ];
        for change in off {
            let mut setup = best.setup;
            change(&mut setup.scenario.odds);
            if setup != best.setup {
                let script = best.script.clone();
                self.take(best, &setup, &script);
            }
        }
        while best.setup.trouble > Duration::from_millis(20) {
            let setup = Setup { trouble: best.setup.trouble / 2, ..best.setup };
            let script = best.script.clone();
            if !self.take(best, &setup, &script) {
                break;
            }
        }
    }

    /// Whole kinds of faults first, then delta debugging of what is left.
    fn fewer_faults(&mut self, best: &mut Failed) {
        let setup = best.setup;
        for kind in KINDS {
            let rest: Vec<Event> =
                best.script.iter().filter(|event| event.fault.kind() != kind).copied().collect();
            if rest.len() < best.script.len() {
                self.take(best, &setup, &rest);
            }
        }
        let mut parts = 2;
        while !best.script.is_empty() && !self.over() {
            let len = best.script.len();
            let chunk = len.div_ceil(parts);
            let shrunk = (0..len.div_ceil(chunk)).any(|part| {
                let dropped = part * chunk..((part + 1) * chunk).min(len);
                let rest: Vec<Event> = best
                    .script
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| !dropped.contains(index))
                    .map(|(_, event)| *event)
                    .collect();
                self.take(best, &setup, &rest)
            });
            parts = match shrunk {
                true => (parts - 1).max(2),
                false if chunk == 1 => break,
                false => parts * 2,
            };
        }
    }

    /// Fewer volumes, clients and requests, one open at a time, smaller volumes.
    fn less_load(&mut self, best: &mut Failed) {
        let fewer: [fn(&mut Scenario); 6] = [
            |scenario| scenario.volumes = 1,
            |scenario| scenario.clients = (scenario.clients / 2).max(1),
            |scenario| scenario.requests = (scenario.requests / 2).max(1),
            |scenario| scenario.requests = (scenario.requests * 3 / 4).max(1),
            |scenario| scenario.depth = (1, (scenario.depth.1 / 2).max(1)),
            |scenario| scenario.volume_blocks = (scenario.volume_blocks / 2).max(64),
        ];
        for change in fewer {
            loop {
                let mut setup = best.setup;
                change(&mut setup.scenario);
                let script = best.script.clone();
                if setup == best.setup || self.over() || !self.take(best, &setup, &script) {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_words_of_invariants_and_never_hold_numbers() {
        assert_eq!(kind_of("at 12: partition 3: NewestWins: sector 62 holds write 4"), "NewestWins");
        assert_eq!(kind_of("at 12: SoloByLeave: write 7 was answered"), "SoloByLeave");
        assert_eq!(kind_of("at 9: liveness: clients did not"), "liveness");
        let error = kind_of("at 1: request 17 was answered with an error: unreadable");
        assert_eq!(error, kind_of("at 2: request 4 was answered with an error: unreadable"));
    }
}
