//! A node of the simulated rack: its devices, its present life, its inbox, and the death planned for it.

use crate::disk::Disk;
use crate::host::{Host, Input};
use crate::tally::{Moment, Role};
use palisade_protocol::head::PartitionConfig;
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
    /// How far its clock is ahead of the world's, in nanoseconds; at `paced_at` if it does not keep pace.
    pub offset: u64,
    /// By how much its clock runs fast, in percent; below zero: slow.
    pub pace: i8,
    /// Since when.
    pub paced_at: Time,
    /// Logs that it had before its present one.
    pub logs_lost: u32,
    /// The boot under which it lost the last of those.
    pub lost_under: Option<BootId>,
    /// Partitions that it is told of at its start; those of its scenario, if control says nothing.
    pub told: Option<Vec<PartitionConfig>>,
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
            pace: 0,
            paced_at: Time::ZERO,
            logs_lost: 0,
            lost_under: None,
            told: None,
        }
    }

    /// Whether it lives.
    pub fn up(&self) -> bool {
        self.host.is_some()
    }

    /// What its clock says.
    pub fn clock(&self, now: Time) -> Time {
        let gained = now.since(self.paced_at).as_nanos() as i128 * i128::from(self.pace) / 100;
        Time((i128::from(now.0) + i128::from(self.offset) + gained).max(0) as u64)
    }

    /// When its clock will say so; not before `now`.
    pub fn until(&self, due: Time, now: Time) -> Time {
        let ahead = u128::from(due.0.saturating_sub(self.clock(now).0));
        let nanos = (ahead * 100).div_ceil((100 + i128::from(self.pace)) as u128);
        Time(now.0.saturating_add(nanos as u64))
    }

    /// Its clock runs at another pace from now on; it goes on from where it is.
    pub fn set_pace(&mut self, pace: i8, now: Time) {
        self.offset = self.clock(now).0.saturating_sub(now.0);
        (self.pace, self.paced_at) = (pace, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_jump_and_run_fast_or_slow_and_never_go_back() {
        let mut node = Node::new(NodeId(1), Role::Head, Vec::new());
        (node.offset, node.paced_at) = (1_000, Time(0));
        assert_eq!((node.clock(Time(500)), node.until(Time(2_000), Time(500))), (Time(1_500), Time(1_000)));
        node.set_pace(20, Time(500));
        assert_eq!(node.clock(Time(500)), Time(1_500), "it goes on from where it is");
        assert_eq!(
            (node.clock(Time(1_500)), node.until(Time(2_700), Time(1_500))),
            (Time(2_700), Time(1_500))
        );
        node.set_pace(-20, Time(1_500));
        assert_eq!(node.clock(Time(2_500)), Time(3_500));
        let due = node.until(Time(3_900), Time(2_500));
        assert!(node.clock(due) >= Time(3_900), "a deadline is not early by the clock that set it");
        node.offset += 5_000;
        assert_eq!(node.until(Time(3_900), Time(2_500)), Time(2_500), "it is due at once");
    }
}
