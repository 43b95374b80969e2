//! What brings trouble to a running world: draws faults from the odds of the scenario, or takes them from a
//! list, notes each, and ends all of it when calm is wanted. `strike` carries them out.

use crate::disk::Health;
use crate::fault::{Event, Fault};
use crate::faults::{NetMode, Odds, PathFault};
use crate::links::{AUTHORITY, NETWORKS};
use crate::tally::{Moment, Role};
use crate::world::{Happening, World};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::{NodeId, Time};

/// How often the odds are drawn.
const TICK_NS: u64 = 5_000_000;

impl World {
    /// Lets trouble begin.
    pub(crate) fn start_trouble(&mut self, odds: Odds) {
        self.odds = odds;
        self.troubled = true;
        self.calm_since = Time(u64::MAX);
        if odds.rot_per_s > 0.0 {
            let heads = self.ids_of(Role::Head);
            self.rotten_head = Some(*self.trouble_dice.pick(&heads));
        }
        self.send_away();
        self.after(TICK_NS, Happening::Trouble);
    }

    /// Stops the sleds that the scenario wants away; they come back with calm.
    fn send_away(&mut self) {
        let away: Vec<NodeId> =
            self.ids_of(Role::Sled).into_iter().take(self.scenario.away as usize).collect();
        for id in away {
            self.kill(id, true, Moment::Idle);
            self.node_mut(id).away = true;
        }
    }

    pub(crate) fn ids_of(&self, role: Role) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.role == role).map(|node| node.id).collect()
    }

    /// Ends all faults: links mend, devices heal, every node lives, fresh where its device was sick.
    pub(crate) fn calm(&mut self) {
        self.odds = Odds::CALM;
        self.troubled = false;
        self.calm_since = self.now;
        self.links.mend_all();
        self.unmark_all();
        self.set_authority(true);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let sick = self.nodes[&id].disks.iter().any(|disk| disk.health != Health::Good);
            self.node_mut(id).doom = None;
            self.awake(id);
            self.set_pace(id, 0);
            self.node_mut(id).away = false;
            if sick {
                self.kill(id, false, Moment::Idle);
            }
            self.start(id);
        }
    }

    pub(crate) fn trouble(&mut self) {
        if !self.troubled {
            return;
        }
        if self.script.is_some() {
            self.follow_script();
        } else {
            self.draw_all(TICK_NS as f64 / 1e9);
        }
        self.after(TICK_NS, Happening::Trouble);
    }

    /// Strikes with what the list says for the time up to now.
    fn follow_script(&mut self) {
        let elapsed = self.now.since(self.began).as_nanos() as u64;
        while let Some(script) = &mut self.script
            && script.front().is_some_and(|event| event.at <= elapsed)
        {
            let Some(event) = script.pop_front() else { return };
            self.fault(event.fault);
        }
    }

    /// Notes a fault and lets it happen.
    pub(crate) fn fault(&mut self, fault: Fault) {
        let at = self.now.since(self.began).as_nanos() as u64;
        self.struck.push(Event { at, fault });
        self.tell(|| format!("FAULT {fault}"));
        self.strike(fault);
    }

    fn draw_all(&mut self, tick: f64) {
        let odds = self.odds;
        type Draw = fn(&mut World) -> Option<Fault>;
        let draws: [(f64, Draw); 15] = [
            (odds.crashes_per_s, Self::draw_death),
            (odds.crashes_per_s * 0.2, Self::draw_short_loss),
            (odds.cuts_per_s, Self::draw_cut),
            (odds.sick_per_s, Self::draw_sick),
            (odds.rot_per_s, Self::draw_rot),
            (odds.cuts_of_power_per_s, |world| Some(Fault::Power { salt: world.trouble_dice.next() })),
            (odds.flips_per_s, Self::draw_flip),
            (odds.sleeps_per_s, Self::draw_sleep),
            (odds.authority_losses_per_s, Self::draw_long_loss),
            (odds.paths_per_s, Self::draw_path),
            (odds.lost_logs_per_s, Self::draw_lost_log),
            (odds.absences_per_s, Self::draw_absence),
            (odds.copy_deaths_per_s, Self::draw_copy_death),
            (odds.marks_per_s, Self::draw_mark),
            (odds.clocks_per_s, Self::draw_clock),
        ];
        for (rate, draw) in draws {
            if rate > 0.0 && self.trouble_dice.chance(rate * tick) {
                let fault = draw(self);
                fault.into_iter().for_each(|fault| self.fault(fault));
            }
        }
        self.hunt(odds.take_overs_per_s * tick);
    }

    fn draw_death(&mut self) -> Option<Fault> {
        let (ids, heads) = (self.nodes.keys().copied().collect::<Vec<_>>(), self.ids_of(Role::Head));
        let dice = &mut self.trouble_dice;
        let node = if dice.chance(0.5) { *dice.pick(&heads) } else { *dice.pick(&ids) };
        let at = *dice.pick(&Moment::ALL);
        let (left, after, power) = (dice.below(40), dice.chance(0.5), dice.chance(0.6));
        let away = dice.range(1_000_000, 150_000_000);
        Some(match at {
            Moment::Idle => Fault::Kill { node, power, away },
            _ => Fault::Doom { node, at, left, after, power, away },
        })
    }

    /// A restart of the authority.
    fn draw_short_loss(&mut self) -> Option<Fault> {
        Some(Fault::Authority { away: self.trouble_dice.range(5_000_000, 50_000_000) })
    }

    /// A loss of the authority that outlasts everything that waits for it.
    fn draw_long_loss(&mut self) -> Option<Fault> {
        self.tally.long_losses += 1;
        Some(Fault::Authority { away: self.trouble_dice.range(300_000_000, 1_500_000_000) })
    }

    /// A link is cut for a while, in one direction or both; where roles move also that to the authority.
    fn draw_cut(&mut self) -> Option<Fault> {
        let mut places: Vec<NodeId> = self.nodes.keys().copied().collect();
        if self.scenario.moves {
            places.push(AUTHORITY);
        }
        let dice = &mut self.trouble_dice;
        let (from, to) = (*dice.pick(&places), *dice.pick(&places));
        let (lasting, both) = (dice.range(2_000_000, 250_000_000), dice.chance(0.6));
        (from != to).then_some(Fault::Cut { from, to, both, lasting })
    }

    /// Sleds that may be hurt for good, by the scenario's number.
    fn hurt_sleds(&self) -> Vec<NodeId> {
        self.ids_of(Role::Sled).into_iter().take(self.scenario.hurt as usize).collect()
    }

    /// A device of a hurt sled is slow, hangs or fails for a while.
    fn draw_sick(&mut self) -> Option<Fault> {
        let hurt = self.hurt_sleds();
        if hurt.is_empty() {
            return None;
        }
        let dice = &mut self.trouble_dice;
        let node = *dice.pick(&hurt);
        let health = match dice.below(4) {
            0 => Health::Failing,
            1 => Health::Hung,
            _ => Health::Slow(dice.range(5, 200) as u32),
        };
        let lasting = dice.range(2_000_000, 400_000_000);
        Some(Fault::Sick { node, disk: 0, health, lasting })
    }

    /// A bit flips: on a hurt sled anywhere, or in client data in the log of the head that may rot.
    fn draw_rot(&mut self) -> Option<Fault> {
        let hurt = self.hurt_sleds();
        let dice = &mut self.trouble_dice;
        let (node, client_data) = match self.rotten_head {
            Some(head) if dice.chance(0.4) || hurt.is_empty() => (head, true),
            _ if hurt.is_empty() => return None,
            _ => (*dice.pick(&hurt), false),
        };
        let (draw, within, bit) = (dice.next(), dice.below(BLOCK as u64), dice.below(8) as u8);
        Some(Fault::Rot { node, draw, within, bit, client_data })
    }

    fn draw_flip(&mut self) -> Option<Fault> {
        let volume = self.trouble_dice.below(self.volumes.len() as u64) as usize;
        Some(Fault::Flip { partition: self.volumes[volume].partition })
    }

    /// A head stops, for long now and then.
    fn draw_sleep(&mut self) -> Option<Fault> {
        let heads = self.ids_of(Role::Head);
        let dice = &mut self.trouble_dice;
        let node = *dice.pick(&heads);
        let long = dice.chance(0.2);
        let lasting = dice.range(5_000_000, if long { 1_500_000_000 } else { 400_000_000 });
        let jumps = dice.chance(self.odds.jumps);
        let jump = if jumps { dice.range(1_000_000, 3_000_000_000) } else { 0 };
        Some(Fault::Sleep { node, lasting, jump })
    }

    fn draw_lost_log(&mut self) -> Option<Fault> {
        let heads = self.ids_of(Role::Head);
        let node = *self.trouble_dice.pick(&heads);
        let away = self.trouble_dice.range(5_000_000, 400_000_000);
        self.may_lose_log(node).then_some(Fault::LostLog { node, away })
    }

    /// A head is away for long.
    fn draw_absence(&mut self) -> Option<Fault> {
        let heads = self.ids_of(Role::Head);
        let dice = &mut self.trouble_dice;
        let (node, power) = (*dice.pick(&heads), dice.chance(0.5));
        Some(Fault::Kill { node, power, away: dice.range(400_000_000, 2_000_000_000) })
    }

    /// Who gives or takes a copy dies amid it, at any effect.
    fn draw_copy_death(&mut self) -> Option<Fault> {
        let ends: Vec<NodeId> = self.copies().into_iter().flat_map(|(giver, taker)| [giver, taker]).collect();
        if ends.is_empty() {
            return None;
        }
        self.tally.copy_deaths += 1;
        let dice = &mut self.trouble_dice;
        let node = *dice.pick(&ends);
        let (left, after, power) = (dice.below(12), dice.chance(0.5), dice.chance(0.6));
        let away = dice.range(5_000_000, 300_000_000);
        let at = *dice.pick(&[Moment::SubmitWrite, Moment::WriteDone, Moment::Send, Moment::Receive]);
        Some(Fault::Doom { node, at, left, after, power, away })
    }

    fn draw_mark(&mut self) -> Option<Fault> {
        let heads = self.ids_of(Role::Head);
        let dice = &mut self.trouble_dice;
        let (node, all) = (*dice.pick(&heads), dice.chance(0.4));
        Some(Fault::Mark { node, all, lasting: dice.range(50_000_000, 900_000_000) })
    }

    /// The clock of a running node jumps or runs wrong, or everything is paused at once.
    fn draw_clock(&mut self) -> Option<Fault> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let dice = &mut self.trouble_dice;
        let node = *dice.pick(&ids);
        let ahead = dice.range(1_000_000, 3_000_000_000);
        let lasting = dice.range(50_000_000, 2_000_000_000);
        Some(match dice.below(5) {
            0 | 1 => Fault::Jump { node, ahead },
            2 => Fault::Pause { lasting: lasting / 4, jump: if dice.chance(0.5) { ahead } else { 0 } },
            _ => Fault::Pace { node, percent: if dice.chance(0.7) { 20 } else { -20 }, lasting },
        })
    }

    /// One network of a pair of nodes is bad for a while.
    fn draw_path(&mut self) -> Option<Fault> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let dice = &mut self.trouble_dice;
        let (from, to) = (*dice.pick(&ids), *dice.pick(&ids));
        let path = dice.below(u64::from(NETWORKS)) as u8;
        let how = match dice.below(5) {
            0 => PathFault::Cut,
            1 => PathFault::OneWay,
            2 => PathFault::Lossy(dice.range(5, 60) as u8),
            3 => PathFault::Slow(dice.range(1, 30) as u8),
            _ => PathFault::Flapping(dice.range(2, 40) as u8),
        };
        let lasting = dice.range(20_000_000, 600_000_000);
        let fits = from != to && self.scenario.net == NetMode::Fabric;
        fits.then_some(Fault::Path { from, to, path, how, lasting })
    }

    /// Now and then the head that leads a whole group is lost, so that the other one has to take over.
    fn hunt(&mut self, odds: f64) {
        for volume in 0..self.volumes.len() {
            if odds <= 0.0 || !self.trouble_dice.chance(odds) || !self.whole(volume) {
                continue;
            }
            let node = self.volumes[volume].primary;
            let dice = &mut self.trouble_dice;
            let away = dice.range(15_000_000, 60_000_000);
            let (power, after, left) = (dice.chance(0.6), dice.chance(0.5), dice.below(12));
            let at = *dice.pick(&[Moment::SubmitWrite, Moment::WriteDone, Moment::Send, Moment::Receive]);
            let fault = match dice.below(4) {
                0 | 1 => Fault::Kill { node, power, away },
                2 => Fault::Doom { node, at, left, after, power, away },
                _ => Fault::Isolate { node, lasting: away },
            };
            self.fault(fault);
        }
    }
}
