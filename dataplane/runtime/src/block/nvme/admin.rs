//! Admin commands: the start's, aborts, events, health, and a second look at a namespace that changed.

use super::bringup::{Stage, Step};
use super::cids::Cids;
use super::command::{self, Command, Completion, cns};
use super::driver::NvmeDriver;
use super::error::{NvmeError, NvmeEvent, ResetReason};
use super::health::{AsyncEvent, HEALTH_BYTES, Health, log};
use super::layout::{ADMIN_ENTRIES, Layout};
use super::queue::{QueuePair, QueuePlace};
use crate::clock::Nanos;
use palisade_dma::DmaMemory;

/// What an admin command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Setup(Step),
    Abort,
    /// Waits in the device until there is something to tell.
    Event,
    Health,
    /// A log page that is read only so that the device may tell of it again (Base 5.2: RAE 0 clears).
    Log,
    Namespaces,
    Namespace,
}

impl Use {
    /// Whether it uses the pages of answers, of which there is one each.
    fn has_answer(self) -> bool {
        matches!(self, Self::Health | Self::Log | Self::Namespaces | Self::Namespace)
    }
}

struct Sent {
    what: Use,
    since: Nanos,
}

/// The admin queue and what is wanted of it.
pub(super) struct Admin {
    queue: QueuePair,
    cids: Cids<Sent>,
    asking: bool,
    health_due: Nanos,
    /// Log pages that events named and that were not read yet, a bit each: an event is told again only when
    /// its page was read.
    logs_wanted: [u64; 4],
    namespace_wanted: bool,
}

impl Admin {
    pub(super) fn new(memory: DmaMemory, layout: &Layout, stride: usize) -> Self {
        let place = QueuePlace {
            id: 0,
            entries: ADMIN_ENTRIES,
            submissions: layout.admin_submissions,
            completions: layout.admin_completions,
            stride,
        };
        Self {
            queue: QueuePair::new(memory, place),
            cids: Cids::new(usize::from(ADMIN_ENTRIES) - 1),
            asking: false,
            health_due: Nanos::ZERO,
            logs_wanted: [0; 4],
            namespace_wanted: false,
        }
    }

    /// After a reset nothing of before is answered.
    pub(super) fn restart(&mut self) {
        self.queue.restart(None);
        while self.cids.pop().is_some() {}
        (self.asking, self.logs_wanted, self.namespace_wanted) = (false, [0; 4], false);
    }

    pub(super) fn ask_health(&mut self, now: Nanos) {
        self.health_due = now;
    }

    fn want_log(&mut self, log: u8) {
        self.logs_wanted[usize::from(log / 64)] |= 1 << (log % 64);
    }

    /// Takes the lowest of the wanted log pages.
    fn next_log(&mut self) -> Option<u8> {
        let (at, word) = self.logs_wanted.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        Some((at as u32 * 64 + bit) as u8)
    }

    /// Aborts under way.
    pub(super) fn aborts(&mut self) -> usize {
        self.cids.iter_mut().filter(|(_, sent)| sent.what == Use::Abort).count()
    }
}

impl NvmeDriver {
    /// Sends an admin command; false when the queue is full.
    pub(super) fn send_admin(&mut self, what: Use, command: Command, now: Nanos) -> bool {
        let Some(cid) = self.admin.cids.insert(Sent { what, since: now }) else { return false };
        self.admin.asking |= what.has_answer();
        self.admin.queue.push(command, cid);
        self.admin.queue.ring(&*self.device);
        true
    }

    /// Takes admin completions, at most one lap.
    pub(super) fn reap_admin(&mut self, now: Nanos) {
        for _ in 0..ADMIN_ENTRIES {
            let Some(done) = self.admin.queue.pop() else { break };
            let sent = if done.queue == 0 { self.admin.cids.remove(done.cid) } else { None };
            let Some(sent) = sent else {
                self.stats.bad_completions += 1;
                return self.reset(now, ResetReason::BadCompletion);
            };
            let stage = self.stage;
            self.admin_done(now, sent.what, done);
            if self.stage != stage && !matches!(self.stage, Stage::Setup(_) | Stage::Ready) {
                return; // its queues are not to be looked at any more
            }
        }
        self.admin.queue.ring(&*self.device);
    }

    /// Whether a command other than an event request waits for too long.
    pub(super) fn is_admin_overdue(&mut self, now: Nanos) -> bool {
        let limit = self.options.admin_timeout;
        self.admin.cids.iter_mut().any(|(_, sent)| sent.what != Use::Event && now >= sent.since + limit)
    }

    fn admin_done(&mut self, now: Nanos, what: Use, done: Completion) {
        if what.has_answer() {
            self.admin.asking = false;
        }
        let ok = done.status.is_ok();
        match what {
            Use::Setup(step) => self.stepped(now, step, done),
            // The command itself ends with a completion of its own, aborted or not (Base 5.1).
            Use::Abort => {}
            // An error means that the device keeps fewer requests than it said.
            Use::Event if !ok => {}
            Use::Event => self.event(now, AsyncEvent::decode(done.dw0)),
            Use::Health if ok => {
                let mut data = [0; HEALTH_BYTES];
                self.memory.copy_out(self.layout.log, &mut data);
                self.health = Some(Health::decode(&data));
            }
            Use::Health | Use::Log => {}
            Use::Namespaces if ok => self.namespaces_listed(now),
            Use::Namespace if ok => self.namespace_seen(),
            Use::Namespaces | Use::Namespace => {}
        }
    }

    fn event(&mut self, now: Nanos, event: AsyncEvent) {
        if event.log == log::HEALTH {
            self.admin.health_due = now;
        } else {
            self.admin.want_log(event.log);
        }
        self.admin.namespace_wanted |= event.is_namespace_change();
        self.tell(NvmeEvent::Async(event));
        self.send_admin(Use::Event, command::async_event(), now);
    }

    /// Asks the next thing that is wanted.
    pub(super) fn ask(&mut self, now: Nanos) {
        if self.admin.asking {
            return;
        }
        let log_page = self.base + self.layout.log as u64;
        let get_log = |log| command::get_log(log, HEALTH_BYTES as u32, log_page);
        if std::mem::take(&mut self.admin.namespace_wanted) {
            let identity = self.base + self.layout.identity as u64;
            let command = command::identify(cns::ACTIVE_NAMESPACES, 0, identity);
            self.send_admin(Use::Namespaces, command, now);
        } else if now >= self.admin.health_due {
            self.admin.health_due = now + self.options.health_every;
            self.send_admin(Use::Health, get_log(log::HEALTH), now);
        } else if let Some(log) = self.admin.next_log() {
            self.send_admin(Use::Log, get_log(log), now);
        }
    }

    fn namespaces_listed(&mut self, now: Nanos) {
        match self.pick_namespace() {
            Ok(()) => {
                let identity = self.base + self.layout.identity as u64;
                let command = command::identify(cns::NAMESPACE, self.namespace.nsid, identity);
                self.send_admin(Use::Namespace, command, now);
            }
            Err(source) => self.give_up(NvmeError::Identify { device: self.name(), source }),
        }
    }

    fn namespace_seen(&mut self) {
        let error = match self.learn_namespace() {
            Ok(true) => return,
            Ok(false) => NvmeError::Changed { device: self.name(), nsid: self.namespace.nsid },
            Err(source) => NvmeError::Identify { device: self.name(), source },
        };
        self.give_up(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_page_that_was_named_is_read_once() {
        let memory = DmaMemory::new(64 << 10, false).expect("maps");
        let mut admin = Admin::new(memory, &Layout::new(2, 4096), 4);
        for log in [255, 0, 64, 63, 255, 2] {
            admin.want_log(log);
        }
        let taken: Vec<u8> = std::iter::from_fn(|| admin.next_log()).collect();
        assert_eq!(taken, [0, 2, 63, 64, 255]);
        admin.want_log(7);
        admin.restart();
        assert_eq!(admin.next_log(), None);
    }
}
