//! The clients' part: what they ask, and what they may be told.

use super::{Happening, World};
use crate::clients::Answered;
use crate::faults::Load;
use crate::host::Input;
use crate::tally::Role;
use palisade_protocol::wire::*;
use std::time::Duration;

/// How long after the end of faults there may be no columns for new extents.
const SHORTAGE_MAX: Duration = Duration::from_secs(5);

/// How long clients of a head that does not serve look for another, if none says that it does.
const LOOK_AROUND: Duration = Duration::from_millis(30);

impl World {
    pub(super) fn think(&mut self, volume: usize, client: usize) {
        if !self.asking || self.volumes[volume].clients[client].left == 0 {
            return;
        }
        let (least, most) = match self.scenario.load {
            Load::Mixed => (20_000, 4_000_000),
            Load::Overwrite => (1_000, 40_000),
        };
        let mut pause = self.client_dice.range(least, most);
        self.choose_head(volume, client);
        let state = &self.volumes[volume].clients[client];
        let head = state.at;
        if state.open < state.depth && self.takes(volume, client) {
            let asked =
                self.volumes[volume].ask(client, &mut self.client_dice, &mut self.ids, &self.pool, self.now);
            if let Some(cmd) = asked {
                self.volumes[volume].clients[client].left -= 1;
                self.input(head, Input::Client(cmd));
            }
            if self.client_dice.chance(if self.scenario.load == Load::Mixed { 0.4 } else { 0.97 }) {
                pause = 0;
            }
        }
        self.after(pause, Happening::Think { volume, client });
    }

    /// Whether a client reaches its head, and that takes another command. Whether a head leads is not asked
    /// of one that is not the newest primary: it has to say so itself (MA-10).
    fn takes(&self, volume: usize, client: usize) -> bool {
        let state = &self.volumes[volume].clients[client];
        let primary = state.at == self.volumes[volume].primary;
        let lost = primary && self.volumes[volume].lost_until > self.now;
        let host = self.nodes[&state.at].host.as_ref();
        let ready = host.is_some_and(|host| host.ready(self.volumes[volume].partition));
        ready && !lost && self.reaches(volume, client)
    }

    /// Whether a client and its head reach one another.
    fn reaches(&self, volume: usize, client: usize) -> bool {
        let state = &self.volumes[volume].clients[client];
        self.links.open(state.place, state.at) && self.links.open(state.at, state.place)
    }

    /// A client whose head cannot be reached, or that was astray for long enough, goes to the newest primary;
    /// and now and then one asks a head that does not lead.
    fn choose_head(&mut self, volume: usize, client: usize) {
        let (primary, at) = (self.volumes[volume].primary, self.volumes[volume].clients[client].at);
        if !self.reaches(volume, client) {
            self.volumes[volume].hung_up(client);
            return self.go_to(volume, client, primary);
        }
        if at != primary {
            if !self.nodes[&at].up() || self.client_dice.chance(0.01) {
                self.go_to(volume, client, primary);
            }
        } else if self.scenario.strays > 0.0 && self.client_dice.chance(0.002) {
            let heads = self.ids_of(Role::Head);
            let wrong = *self.client_dice.pick(&heads);
            if self.serves_here(volume, wrong) {
                self.go_to(volume, client, wrong);
            }
        }
    }

    /// Whether a head is a member of a volume's first group, and so may be asked for it.
    fn serves_here(&self, volume: usize, head: NodeId) -> bool {
        let volume = &self.volumes[volume];
        head == volume.primary || head == volume.secondary || volume.reserves.contains(&head)
    }

    /// A client goes to another head, if there is a way.
    fn go_to(&mut self, volume: usize, client: usize, head: NodeId) {
        let place = self.volumes[volume].clients[client].place;
        if self.links.open(place, head) && self.links.open(head, place) {
            self.volumes[volume].clients[client].at = head;
        }
    }

    /// Another head leads: clients follow, but for those that know nothing of it yet.
    pub(super) fn clients_move(&mut self, volume: usize, before: NodeId) {
        let primary = self.volumes[volume].primary;
        for client in 0..self.volumes[volume].clients.len() {
            let stays = self.scenario.strays > 0.0 && self.client_dice.chance(self.scenario.strays);
            if !(stays && primary != before && self.nodes[&before].up()) {
                self.go_to(volume, client, primary);
            }
        }
    }

    /// Whether the primary of a volume lives and takes commands.
    pub(crate) fn ready(&self, volume: usize) -> bool {
        let volume = &self.volumes[volume];
        self.nodes[&volume.primary].host.as_ref().is_some_and(|host| host.ready(volume.partition))
    }

    /// Lets clients begin.
    pub(crate) fn start_clients(&mut self) {
        self.asking = true;
        for volume in 0..self.volumes.len() {
            for client in 0..self.volumes[volume].clients.len() {
                self.after(0, Happening::Think { volume, client });
            }
        }
    }

    pub(super) fn answer(&mut self, head: NodeId, done: &ClientDone) {
        if let Some(group) = &mut self.group {
            let verdict = group.answered(head, done.tag, done.result.is_ok());
            self.judge(verdict);
        }
        let verdict = done.result.as_ref().map(|_| ()).map_err(|error| *error);
        if let Some(slot) = self.flushing.get_mut(&done.tag) {
            *slot = Some(verdict);
            return;
        }
        let now = self.now;
        for index in 0..self.volumes.len() {
            match self.volumes[index].answer(done, now) {
                Ok(Answered::Stray) => {}
                Ok(Answered::Well(_, head)) => {
                    self.tally.answered += 1;
                    self.tally.answered_astray += u64::from(head != self.volumes[index].primary);
                    return;
                }
                Ok(Answered::Badly(client, head, error)) => {
                    if self.scenario.moves && error == ClientError::NotServed {
                        self.not_served(index, client, head);
                    }
                    return self.bad_answer(done.tag, error);
                }
                Err(what) => return self.violate(what),
            }
        }
    }

    /// A head told a client that it does not serve (MA-10): it is not asked for a while.
    fn not_served(&mut self, volume: usize, client: usize, head: NodeId) {
        let primary = self.volumes[volume].primary;
        if head == primary {
            self.volumes[volume].lost_until = self.now + LOOK_AROUND;
        } else {
            self.tally.redirected += 1;
            self.go_to(volume, client, primary);
        }
    }

    /// Whether something may have broken in this run.
    fn breaks(&self) -> bool {
        self.scenario.odds.breaks() || !self.struck.is_empty()
    }

    /// Which errors a client may see: while faults go on a read may meet more missing columns than the
    /// code bears, or a head that just stopped serving. Nothing else.
    pub(super) fn bad_answer(&mut self, tag: ClientTag, error: ClientError) {
        let allowed = match error {
            ClientError::Unreadable => self.troubled && self.breaks(),
            ClientError::NotServed => true,
            // Full logs and sleds away for long: waiting writes learn it (P-32). A head asks a device that
            // failed again every while only, so shortages outlast faults a little.
            ClientError::NoSpace => self.breaks() && self.now < self.calm_since + SHORTAGE_MAX,
            ClientError::Range | ClientError::Device => false,
        };
        self.tally.refused += 1;
        if !allowed {
            self.violate(format!("request {} was answered with an error: {error}", tag.0));
        }
    }
}
