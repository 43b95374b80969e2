//! A node of the simulated rack: its devices, its present life, its inbox, and the death planned for it.

use crate::disk::Disk;
use crate::host::{Host, Input};
use crate::tally::{Moment, Role};
use palisade_protocol::wire::*;

/// A death to come: at the `left`-th next effect of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Doom {
    /// At which kind of effect.
    pub at: Moment,
    /// How many of that kind pass unharmed.
    pub left: u64,
    /// After the effect took place, rather than just before.
    pub after: bool,
    /// The device cache is lost too.
    pub power: bool,
    /// How long it stays away, in nanoseconds.
    pub away: u64,
}

/// A node.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// What it is.
    pub role: Role,
    /// Counts its lives; events of earlier ones are void.
    pub life: u64,
    /// Boot id of the present or last life.
    pub boot: BootId,
    /// Its machines, while it lives.
    pub host: Option<Box<dyn Host>>,
    /// What waits for its next turn.
    pub inbox: Vec<Input>,
    /// When its next turn is due.
    pub turn_at: Option<Time>,
    /// Its devices.
    pub disks: Vec<Disk>,
    /// A planned death.
    pub doom: Option<Doom>,
    /// A head's log identity, once recovered in this life.
    pub log: Option<LogId>,
    /// A head's log was found whole once, so control takes its format for done.
    pub formatted: bool,
    /// Does not come back for now.
    pub away: bool,
    /// Does nothing until then, whatever reaches it.
    pub asleep: Option<Time>,
    /// What its clock jumps by when it wakes, in nanoseconds.
    pub jump: u64,
    /// How far its clock is ahead of the world's, in nanoseconds.
    pub offset: u64,
}

impl Node {
    /// A node that has not been started.
    pub fn new(id: NodeId, role: Role, disks: Vec<Disk>) -> Self {
        Self {
            id,
            role,
            life: 0,
            boot: BootId(0),
            host: None,
            inbox: Vec::new(),
            turn_at: None,
            disks,
            doom: None,
            log: None,
            formatted: false,
            away: false,
            asleep: None,
            jump: 0,
            offset: 0,
        }
    }

    /// Whether it lives.
    pub fn up(&self) -> bool {
        self.host.is_some()
    }

    /// Passes one effect of a kind by the doom: `Some(after)` when this is the one to die at.
    pub fn passes(&mut self, moment: Option<Moment>) -> Option<Doom> {
        let doom = self.doom.as_mut()?;
        if Some(doom.at) != moment {
            return None;
        }
        if doom.left == 0 {
            return self.doom.take();
        }
        doom.left -= 1;
        None
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.host.as_ref().map_or_else(|| "down".to_owned(), |host| host.describe());
        let flights: Vec<usize> = self.disks.iter().map(Disk::in_flight).collect();
        write!(
            f,
            "{:?} {} life {} inbox {} in flight {flights:?}: {host}",
            self.role,
            self.id,
            self.life,
            self.inbox.len()
        )
    }
}
