//! The clients' part: what they ask, and what they may be told.

use super::{Happening, World};
use crate::clients::Answered;
use crate::faults::{Load, Odds};
use crate::host::Input;
use palisade_protocol::wire::*;
use std::time::Duration;

/// How long after the end of faults there may be no columns for new extents.
const SHORTAGE_MAX: Duration = Duration::from_secs(5);

/// How long clients of a head that does not serve look for another, if none says that it does.
const LOOK_AROUND: Duration = Duration::from_millis(30);

impl World {
    pub(super) fn think(&mut self, volume: usize, client: usize) {
        if !self.asking {
            return;
        }
        let head = self.volumes[volume].primary;
        let ready = self.ready(volume);
        let state = &self.volumes[volume].clients[client];
        if state.left == 0 {
            return;
        }
        let (least, most) = match self.scenario.load {
            Load::Mixed => (20_000, 4_000_000),
            Load::Overwrite => (1_000, 40_000),
        };
        let mut pause = self.client_dice.range(least, most);
        let lost = self.volumes[volume].lost_until > self.now;
        if ready && !lost && state.open < state.depth {
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
                Ok(Answered::Well(_)) => {
                    self.tally.answered += 1;
                    return;
                }
                Ok(Answered::Badly(_, error)) => {
                    if self.scenario.moves && error == ClientError::NotServed {
                        self.volumes[index].lost_until = now + LOOK_AROUND;
                    }
                    return self.bad_answer(done.tag, error);
                }
                Err(what) => return self.violate(what),
            }
        }
    }

    /// Which errors a client may see: while faults go on a read may meet more missing columns than the
    /// code bears, or a head that just stopped serving. Nothing else.
    pub(super) fn bad_answer(&mut self, tag: ClientTag, error: ClientError) {
        let allowed = match error {
            ClientError::Unreadable => self.odds != Odds::CALM && self.odds != Odds::UNRULY,
            ClientError::NotServed => true,
            // Full logs and sleds away for long: waiting writes learn it (P-32). A head asks a device that
            // failed again every while only, so shortages outlast faults a little.
            ClientError::NoSpace => {
                let troubled = self.scenario.odds != Odds::CALM && self.scenario.odds != Odds::UNRULY;
                troubled && self.now < self.calm_since + SHORTAGE_MAX
            }
            ClientError::Range | ClientError::Device => false,
        };
        self.tally.refused += 1;
        if !allowed {
            self.violate(format!("request {} was answered with an error: {error}", tag.0));
        }
    }
}
