//! Scripted runs: faults at moments of choice, and looks at who leads and who is answered. For what depends on
//! where things are cut, rather than on chance.

use crate::diary::Diary;
use crate::dice::Dice;
use crate::fault::Fault;
use crate::faults::Scenario;
use crate::links::client_place;
use crate::rack::{self, Canaries};
use crate::run::reckon;
use crate::tally::Tally;
use crate::world::World;
use palisade_protocol::wire::*;
use std::time::Duration;

/// A rack under load whose faults a test decides.
pub struct Drill {
    world: World,
}

impl Drill {
    /// Boots a rack, lets its clients begin, and waits until all groups are whole.
    ///
    /// # Panics
    /// When that takes more than two seconds of virtual time.
    pub fn new(seed: u64, scenario: Scenario, canaries: Canaries) -> Self {
        Self::begin(rack::build(seed, scenario, canaries), seed)
    }

    /// As `new`, but nobody looks into heads and messages: what clients saw has to tell all.
    ///
    /// # Panics
    /// As `new`.
    pub fn by_history(seed: u64, scenario: Scenario, canaries: Canaries) -> Self {
        let mut world = rack::build(seed, scenario, canaries);
        world.look_away();
        Self::begin(world, seed)
    }

    fn begin(mut world: World, seed: u64) -> Self {
        let scenario = world.scenario;
        world.start_all();
        world.start_clients();
        world.start_trouble(scenario.odds);
        world.trouble_dice = Dice::new(seed ^ 0x6472_696c);
        let mut drill = Self { world };
        assert!(drill.until(Duration::from_secs(2), Self::all_whole), "the rack comes up: {drill:?}");
        drill
    }

    /// Prints everything from now on.
    pub fn trace(&mut self) {
        self.world.diary = Some(Diary::Print);
    }

    /// Lets a fault happen now. How long it lasts is up to it.
    pub fn fault(&mut self, fault: Fault) {
        self.world.fault(fault);
    }

    /// Cuts both ways between all of one side and all of the other, for so long.
    pub fn part(&mut self, one: &[NodeId], other: &[NodeId], lasting: Duration) {
        let lasting = lasting.as_nanos() as u64;
        for from in one {
            for to in other {
                self.fault(Fault::Cut { from: *from, to: *to, both: true, lasting });
            }
        }
    }

    /// The place of a client, to be cut off.
    pub fn client(volume: usize, client: usize) -> NodeId {
        client_place(volume, client)
    }

    /// A client asks this head from now on, whoever leads.
    pub fn send_client_to(&mut self, volume: usize, client: usize, head: NodeId) {
        self.world.volumes[volume].clients[client].at = head;
    }

    /// The head that a client asks.
    pub fn client_is_at(&self, volume: usize, client: usize) -> NodeId {
        self.world.volumes[volume].clients[client].at
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        self.world.run_until(time, |_| false);
    }

    /// Lets time pass until something holds, looked at every millisecond; whether it came to hold in time.
    pub fn until(&mut self, limit: Duration, done: impl FnMut(&Self) -> bool) -> bool {
        let mut done = done;
        for _ in 0..limit.as_millis() {
            if done(self) {
                return true;
            }
            self.run(Duration::from_millis(1));
        }
        done(self)
    }

    /// Whether all volumes have their whole groups.
    pub fn all_whole(&self) -> bool {
        (0..self.world.volumes.len()).all(|volume| self.world.whole(volume))
    }

    /// The head that serves a volume under the newest number that any served under.
    pub fn primary(&self, volume: usize) -> NodeId {
        self.world.volumes[volume].primary
    }

    /// The newest pair that the authority granted.
    pub fn newest(&self, volume: usize) -> Assignment {
        let partition = self.world.volumes[volume].partition;
        self.world.grants.newest(partition).expect("granted at boot")
    }

    /// Requests of a client that were answered well, and with an error.
    pub fn answers(&self, volume: usize, client: usize) -> (u64, u64) {
        let client = &self.world.volumes[volume].clients[client];
        (client.answered, client.refused)
    }

    /// Requests that a client has open.
    pub fn open(&self, volume: usize, client: usize) -> u64 {
        self.world.volumes[volume].clients[client].open
    }

    /// What has happened so far.
    pub fn tally(&self) -> &Tally {
        &self.world.tally
    }

    /// Ends all faults, goes through the whole reckoning of a run, and gives what must not be.
    pub fn finish(mut self) -> (Vec<String>, Tally) {
        self.world.calm();
        let clients = self.world.volumes.iter_mut().flat_map(|volume| &mut volume.clients);
        clients.for_each(|client| client.left = 0);
        reckon(&mut self.world);
        self.world.settle();
        let mut violations = std::mem::take(&mut self.world.violations);
        violations.extend(self.world.leaks());
        (violations, self.world.tally.clone())
    }
}

impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.world.nodes.values()).entries(&self.world.violations).finish()
    }
}
