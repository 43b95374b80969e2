//! A rack under load, and the rounds of one fault on it.

use super::load::{Both, Load};
use super::rack::{DrillRack, Shape};
use super::{FaultArgs, Trouble};
use serde::Serialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most events of a round that are kept.
const EVENTS_MAX: usize = 24;
/// Of these, so many about paths between nodes.
const PATHS_MAX: usize = 4;

/// One fault, from its begin until the rack is whole again.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// When it began, since the origin of the load.
    pub(super) from: Duration,
    /// When the rack was whole again.
    pub(super) to: Duration,
    /// What the rack told: milliseconds after the begin, and words.
    pub(super) events: Vec<(u64, String)>,
}

/// A rack, its clients, and what happened so far.
pub(super) struct Scene {
    /// The rack.
    pub(super) rack: DrillRack,
    /// Its clients.
    pub(super) load: Load,
    /// Rounds that ended.
    pub(super) rounds: Vec<Round>,
    /// What a drill has to say beside its figures.
    pub(super) notes: Vec<String>,
    origin: Instant,
    open: Option<(Duration, u64)>,
    calm: Duration,
}

/// One span of a report: the pause of one round, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Pause {
    /// Longest gap between two reads that ended.
    pub read_ms: f64,
    /// Longest gap between two writes that ended.
    pub write_ms: f64,
    /// From the begin until the next group came into force; zero when none did.
    pub group_ms: f64,
    /// From the begin until the rack was whole again.
    pub whole_ms: f64,
}

impl Scene {
    /// A rack of a shape, under load.
    pub(super) fn set(shape: Shape, args: &FaultArgs) -> Result<Self, Trouble> {
        let rack = DrillRack::start(args, shape)?;
        let origin = Instant::now();
        let load = Load::start(&rack.addresses()?, args.depth, args.pace(), origin)?;
        let scene =
            Self { rack, load, rounds: Vec::new(), notes: Vec::new(), origin, open: None, calm: args.calm };
        scene.rest();
        Ok(scene)
    }

    /// Lets the load run undisturbed for a while.
    pub(super) fn rest(&self) {
        std::thread::sleep(self.calm);
    }

    /// The next thing done is the fault.
    pub(super) fn begin(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.open = Some((self.origin.elapsed(), now.as_millis() as u64));
    }

    /// The rack is whole again; the load must still be there.
    pub(super) fn end(&mut self) -> Result<(), Trouble> {
        let (from, since_ms) = self.open.take().ok_or("a round ends that never began")?;
        let to = self.origin.elapsed();
        if self.load.over() {
            return Err(Trouble::Failed("a client of the load ended by itself".to_owned()));
        }
        let mut events = self.rack.events(since_ms)?;
        // Every node tells of every path: the first few stand for all.
        let mut paths = 0;
        events.retain(|(_, what)| {
            paths += usize::from(what.contains(": network "));
            !what.contains(": network ") || paths <= PATHS_MAX
        });
        events.truncate(EVENTS_MAX);
        let events = events.into_iter().map(|(at, what)| (at.saturating_sub(since_ms), what)).collect();
        self.rounds.push(Round { from, to, events });
        self.rest();
        Ok(())
    }

    /// Ends the load: everything is read back, and the rounds are put into numbers.
    pub(super) fn finish(self) -> Result<(Both, Vec<Round>, Vec<String>), Trouble> {
        let both = self.load.stop()?;
        Ok((both, self.rounds, self.notes))
    }
}

/// The pauses of rounds; an error where a kind of request never came back.
pub(super) fn pauses(both: &Both, rounds: &[Round]) -> Result<Vec<Pause>, Trouble> {
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let gap = |line: &super::timeline::Timeline, round: &Round, what: &str| {
        let pause = line.pause(round.from, round.to);
        pause.map(ms).ok_or_else(|| Trouble::Failed(format!("no {what} ended after the fault")))
    };
    let pause = |round: &Round| {
        let group =
            round.events.iter().find(|(_, what)| what.contains("under number") && what.contains("(were"));
        Ok(Pause {
            read_ms: gap(&both.reads.timeline, round, "read")?,
            write_ms: gap(&both.writes.timeline, round, "write")?,
            group_ms: group.map_or(0.0, |(after, _)| *after as f64),
            whole_ms: ms(round.to - round.from),
        })
    };
    rounds.iter().map(pause).collect()
}
