//! What can happen to the rack, as steps of the checker.

use super::control::Control;
use super::{Bounds, Head, Mark, Msg, Pair, Rack, Role, Seat, Start, Wish};
use crate::explore::rules;
use stateright::{Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client's write reaches a head that serves.
    Write(u8),
    /// A primary's log is copied to one that follows it.
    Copy(u8, u8),
    /// A lone head's log is copied to sleds.
    CopyOut(u8),
    /// A primary acknowledges what everybody holds.
    Acknowledge(u8),
    /// A new primary makes every member hold what it holds, and serves.
    Reconcile(u8),
    /// One that follows a lone head claims the sleds with its copies.
    Claim(u8),
    /// A primary fills a head that is no member.
    Fill(u8, u8),
    /// A message arrives.
    Arrive(Msg),
    /// A proposal arrives, and control dies before its decision is durable, though it answered.
    AnswerFirst(Msg),
    /// A head proposes.
    Propose(Wish),
    /// A head asks for its numbers, under this boot.
    Ask(u8, u8),
    /// A head's process ends and starts again.
    Reboot(u8),
    /// A head's log is replaced by an empty one; whether the operator said so.
    Replace(u8, bool),
    /// Somebody asks for a switch-over.
    SwitchOver,
    /// A head is to be drained, or used again.
    Drain(u8),
    /// Control dies and starts again.
    Crash,
    /// The store is copied.
    CopyStore,
    /// The copy takes the store's place.
    Restore,
    /// A head says what it holds (P-04).
    Tell(u8),
    /// Another head takes over from the copies of the lone one, which is not there.
    Salvage,
    /// Control leaves a member out.
    LeaveOut(u8),
    /// Control chooses a head to become a member.
    Choose(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(at) => write!(f, "a write reaches head {at}"),
            Self::Copy(at, to) => write!(f, "head {to} holds what head {at} wrote"),
            Self::CopyOut(at) => write!(f, "sleds hold what head {at} wrote alone"),
            Self::Claim(at) => write!(f, "head {at} claims the sleds"),
            Self::Acknowledge(at) => write!(f, "head {at} acknowledges"),
            Self::Reconcile(at) => write!(f, "head {at} reconciles and serves"),
            Self::Fill(at, to) => write!(f, "head {at} fills head {to}"),
            Self::Arrive(msg) => write!(f, "{msg}"),
            Self::AnswerFirst(msg) => write!(f, "{msg}, answers, and control dies before it is durable"),
            Self::Propose(wish) => {
                write!(f, "head {} proposes {} after {}", wish.by, Seats(&wish.seats), wish.expected)
            }
            Self::Ask(at, boot) => write!(f, "head {at} asks for numbers as boot {boot}"),
            Self::Reboot(at) => write!(f, "head {at} reboots"),
            Self::Replace(at, true) => write!(f, "the log of head {at} is given up and replaced"),
            Self::Replace(at, false) => write!(f, "head {at} starts with another log"),
            Self::SwitchOver => write!(f, "somebody asks for a switch-over"),
            Self::Drain(at) => write!(f, "head {at} is drained, or used again"),
            Self::Crash => write!(f, "control dies and starts again"),
            Self::CopyStore => write!(f, "the store is copied"),
            Self::Restore => write!(f, "the copy takes the store's place"),
            Self::Tell(at) => write!(f, "head {at} says what it holds"),
            Self::Salvage => write!(f, "the lone head is followed from its copies"),
            Self::LeaveOut(at) => write!(f, "control leaves head {at} out"),
            Self::Choose(at) => write!(f, "control chooses head {at}"),
        }
    }
}

struct Seats<'a>(&'a [Seat]);

impl fmt::Display for Seats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seats: Vec<String> = self.0.iter().map(|seat| format!("{}/{}", seat.head, seat.boot)).collect();
        write!(f, "[{}]", seats.join(" "))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.mark, Seats(&self.seats))
    }
}

impl fmt::Display for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(wish) => {
                write!(f, "the authority takes head {}'s proposal {}", wish.by, Seats(&wish.seats))
            }
            Self::Verdict { to, granted, pair, .. } => {
                let word = if *granted { "granted" } else { "declined" };
                write!(f, "head {to} hears: {word}, {pair}")
            }
            Self::Assign { to, pair } => write!(f, "head {to} is told of {pair}"),
            Self::Served { by, mark } => write!(f, "the authority hears that head {by} serves {mark}"),
        }
    }
}

impl Rack {
    fn new(bounds: &Bounds) -> Self {
        let mut rack = Self {
            control: Control::new(bounds),
            heads: vec![Head::default(); usize::from(bounds.heads)],
            net: BTreeSet::new(),
            spent: super::Spent::default(),
            acked: 0,
            copied: 0,
            claimed: (0, 0),
            salvaged: false,
            settled: false,
            answers: BTreeMap::new(),
            granted: BTreeSet::new(),
            refilled: false,
            base: 0,
            broken: None,
        };
        rack.begin(bounds);
        if bounds.start != Start::Fresh {
            let pair = rack.control.newest();
            for seat in pair.seats.clone() {
                rack.adopt(seat.head, &pair);
            }
            rack.reconcile(bounds, 0);
            rack.net.clear();
            // What the start was proposed under is used up.
            rack.head_mut(0).nonce = 1;
        }
        rack.base = rack.control.counter();
        rack.judge(bounds);
        rack
    }

    fn clients(&self, bounds: &Bounds, at: u8, steps: &mut Vec<Step>) {
        if self.head(at).role == Role::Serves && self.spent.writes < bounds.writes {
            steps.push(Step::Write(at));
        }
        steps.extend(self.behind(at).map(|to| Step::Copy(at, to)));
        if self.can_acknowledge(bounds, at) {
            steps.push(Step::Acknowledge(at));
        }
        if self.can_copy_out(at) {
            steps.push(Step::CopyOut(at));
        }
        if self.can_claim(at) {
            steps.push(Step::Claim(at));
        }
        if self.can_reconcile(bounds, at) {
            steps.push(Step::Reconcile(at));
        }
        if bounds.joins {
            let others = (0..bounds.heads).filter(|to| self.can_fill(at, *to));
            steps.extend(others.map(|to| Step::Fill(at, to)));
        }
    }

    fn troubles(&self, bounds: &Bounds, at: u8, steps: &mut Vec<Step>) {
        let boot = self.head(at).boot;
        steps.push(Step::Ask(at, boot));
        // A late word of the boot before. One that never asked in time does not get through to the authority:
        // a report counts on the connection only that its node opened last.
        if boot > 0 && self.control.heard_of(at, boot - 1) {
            steps.push(Step::Ask(at, boot - 1));
        }
        if self.spent.reboots < bounds.reboots {
            steps.push(Step::Reboot(at));
        }
        if self.spent.drains < bounds.drains {
            steps.push(Step::Drain(at));
        }
        if self.spent.leave_outs < bounds.leave_outs {
            steps.push(Step::LeaveOut(at));
        }
        if self.spent.choices < bounds.choices && self.control.newest().seat(at).is_none() {
            steps.push(Step::Choose(at));
        }
        if self.control.awaits(at) {
            steps.push(Step::Tell(at));
        }
        // Not the last log that holds everything: there is no rule against losing that.
        let spared = |seat: &Seat| seat.head != at && self.is_log_of(seat);
        let left = || self.control.eligible().iter().any(spared) || self.control.heirs().iter().any(spared);
        if self.spent.replaced < bounds.replaced && left() {
            steps.extend([Step::Replace(at, true), Step::Replace(at, false)]);
        }
    }

    fn of_control(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        if self.spent.switches < bounds.switches {
            steps.push(Step::SwitchOver);
        }
        if self.spent.crashes < bounds.crashes {
            steps.push(Step::Crash);
        }
        if self.spent.salvages < bounds.salvages {
            steps.push(Step::Salvage);
        }
        if self.spent.restores < bounds.restores {
            steps.push(if self.control.has_copy() { Step::Restore } else { Step::CopyStore });
        }
    }

    /// Does what a step says.
    pub(super) fn take(&mut self, bounds: &Bounds, step: Step) {
        match step {
            Step::Write(at) => self.write(at),
            Step::Copy(at, to) => self.copy(at, to),
            Step::CopyOut(at) => self.copy_out(at),
            Step::Claim(at) => self.claim(at),
            Step::Acknowledge(at) => self.acknowledge(at),
            Step::Reconcile(at) => self.reconcile(bounds, at),
            Step::Fill(at, to) => self.fill(bounds, at, to),
            Step::Arrive(msg) => self.deliver(bounds, &msg, false),
            Step::AnswerFirst(msg) => self.deliver(bounds, &msg, true),
            Step::Propose(wish) => self.propose(wish),
            Step::Ask(at, boot) => self.ask(bounds, at, boot),
            Step::Reboot(at) => self.reboot(at),
            Step::Replace(at, told) => self.replace(at, told),
            Step::SwitchOver => self.switch_over(bounds),
            Step::Drain(at) => self.drain(bounds, at),
            Step::Crash => self.crash(bounds),
            Step::CopyStore => self.copy_store(),
            Step::Restore => self.restore(bounds),
            Step::Tell(at) => self.tell(bounds, at),
            Step::Salvage => self.salvage(bounds),
            Step::LeaveOut(at) => self.leaves_out(bounds, at),
            Step::Choose(at) => self.choose(bounds, at),
        }
        self.judge(bounds);
        self.prune();
    }

    /// Forgets answers and assignments that their head can make nothing of any more, as what it knows only
    /// rises. What is for the authority stays: that it makes nothing of it is what is looked at.
    fn prune(&mut self) {
        let mut net = std::mem::take(&mut self.net);
        net.retain(|msg| match msg {
            Msg::Verdict { to, boot, nonce, .. } => {
                let head = self.head(*to);
                head.boot == *boot && head.wish.as_ref().is_some_and(|wish| wish.nonce == *nonce)
            }
            Msg::Assign { to, pair } => {
                let head = self.head(*to);
                let (new, old) = (pair.mark, head.pair.mark);
                let names = pair.seat(*to).is_none_or(|seat| (seat.boot, seat.log) == (head.boot, head.log));
                let stops = new.number() == old.number() && new.grant != old.grant && head.follows.is_some();
                names && (new.number() > old.number() || stops)
            }
            Msg::Propose(_) | Msg::Served { .. } => true,
        });
        self.net = net;
    }
}

impl Model for Bounds {
    type State = Rack;
    type Action = Step;

    fn init_states(&self) -> Vec<Rack> {
        vec![Rack::new(self)]
    }

    fn actions(&self, rack: &Rack, steps: &mut Vec<Step>) {
        if rack.broken.is_some() {
            return;
        }
        let away = |at: u8| self.away & 1 << at != 0;
        steps.extend((0..self.heads).filter(|at| away(*at) && rack.control.awaits(*at)).map(Step::Tell));
        for at in (0..self.heads).filter(|at| !away(*at)) {
            rack.clients(self, at, steps);
            rack.troubles(self, at, steps);
            if rack.spent.proposals < self.proposals {
                steps.extend(rack.wishes(self, at).into_iter().map(Step::Propose));
            }
        }
        rack.of_control(self, steps);
        let heard = |msg: &&Msg| !matches!(msg, Msg::Assign { to, .. } if away(*to));
        steps.extend(rack.net.iter().filter(heard).cloned().map(Step::Arrive));
        if self.answer_first {
            let asked = rack.net.iter().filter(|msg| matches!(msg, Msg::Propose(_)));
            steps.extend(asked.cloned().map(Step::AnswerFirst));
        }
    }

    fn next_state(&self, rack: &Rack, step: Step) -> Option<Rack> {
        let mut next = rack.clone();
        next.take(self, step);
        (next != *rack && next.control.counter() <= rack.base + self.grants).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = rules();
        all.push(Property::always("ServiceReturns", |bounds: &Self, rack: &Rack| {
            let mut living = 1..1_u8 << bounds.heads;
            !bounds.settles || living.all(|alive| rack.settles(bounds, alive))
        }));
        all.push(Property::sometimes("a write is acknowledged", |_, rack: &Rack| rack.acked != 0));
        all.push(Property::sometimes("another head serves what was acknowledged", |_, rack: &Rack| {
            let serves = |head: &Head| head.role == Role::Serves && head.holds & rack.acked != 0;
            rack.acked != 0 && rack.heads.iter().skip(1).any(serves)
        }));
        all.push(Property::sometimes("one that came back may lead again", |_, rack: &Rack| rack.refilled));
        all.push(Property::sometimes("a loser hears of the winner", |_, rack: &Rack| {
            let lost =
                |(by, ..): &(u8, u8, u8)| rack.head(*by).wish.is_none() && rack.head(*by).role == Role::Idle;
            rack.answers.iter().any(|(who, answer)| answer.is_none() && lost(who))
        }));
        all.push(Property::sometimes("an epoch begins", |_, rack: &Rack| {
            rack.control.newest().mark.epoch > 1
        }));
        all.push(Property::sometimes("a group of three", |_, rack: &Rack| {
            rack.control.newest().seats.len() > 2
        }));
        all.push(Property::sometimes("a lone head is salvaged", |_, rack: &Rack| rack.salvaged));
        all.push(Property::sometimes("a doubt is settled", |_, rack: &Rack| rack.settled));
        all.push(Property::sometimes("a chosen head joins", |bounds: &Self, rack: &Rack| {
            let declared = |seat: &Seat| seat.head < bounds.declared;
            rack.spent.choices > 0 && !rack.control.newest().seats.iter().all(declared)
        }));
        all.push(Property::sometimes("a head is drained", |bounds: &Self, rack: &Rack| {
            (0..bounds.heads).any(|head| rack.control.is_drained(head))
        }));
        all
    }
}
