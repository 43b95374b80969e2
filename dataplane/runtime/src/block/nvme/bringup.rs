//! From whatever state a controller is in to ready: NVMe Base 2.0 section 3.5.1, step by step, each wait
//! bounded. Nothing here waits: it goes on when it is polled.

use super::command::{self, Command, Completion, cns, feature};
use super::driver::NvmeDriver;
use super::error::{NvmeError, NvmeEvent};
use super::identify::{self, IdentifyError};
use super::layout::{ADMIN_ENTRIES, ANSWER_BYTES, TRANSFER_MAX};
use super::queue::Shadow;
use super::registers::{ACQ, AQA, ASQ, CC, Csts, cc_enable};
use crate::block::BlockInfo;
use crate::clock::Nanos;
use std::time::Duration;

/// Most asynchronous event requests that are kept with the device.
const EVENT_REQUESTS_MAX: u32 = 4;
/// Events that are asked for (Base 5.27.1.8): all critical warnings of the health log, namespace changes.
const EVENTS_WANTED: u32 = 0x1ff;
/// The part of them that OAES has to offer: namespace attribute notices.
const NAMESPACE_NOTICES: u32 = 1 << 8;

/// Where a controller is.
///
/// ```text
///  start ──► Disabling ──RDY 0──► Enabling ──RDY 1──► Setup: Controller ► Queues ► (Doorbells) ► CompletionQueue
///            ▲   │                 │    │               ► SubmissionQueue ► Namespaces ► Namespace ► Events ──► Ready
///  reset ────┘   │ CAP.TO over     │    │ CAP.TO over, fatal, refused, silent                                   │
///                ▼                 ▼    ▼                                                                       │
///               Gone ◄── never well, or failed too often; else reset ◄── time-outs, fatal, bad completions ─────┘
/// ```
///
/// A device that is removed, asked back, or has become another one is `Gone` from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// CC.EN is cleared, CSTS.RDY has to follow.
    Disabling { until: Nanos },
    /// CC.EN is set, CSTS.RDY has to follow.
    Enabling { until: Nanos },
    /// Admin commands, one after another.
    Setup(Step),
    /// Requests are served.
    Ready,
    /// Lost; every request ends with an error.
    Gone,
}

/// Admin commands of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Controller,
    Queues,
    Doorbells,
    CompletionQueue,
    SubmissionQueue,
    Namespaces,
    Namespace,
    Events,
}

impl Step {
    /// For people: "refused to …".
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Controller => "identify itself",
            Self::Queues => "set the number of queues",
            Self::Doorbells => "take shadow doorbells",
            Self::CompletionQueue => "make a completion queue",
            Self::SubmissionQueue => "make a submission queue",
            Self::Namespaces => "list its namespaces",
            Self::Namespace => "identify the namespace",
            Self::Events => "send events",
        }
    }

    /// Whether a device that refuses is good enough.
    fn is_optional(self) -> bool {
        matches!(self, Self::Doorbells | Self::Events)
    }
}

impl NvmeDriver {
    /// Begins with a reset (Base 3.7.2): clears CC.EN.
    pub(super) fn disable(&mut self, now: Nanos) {
        self.device.write32(CC, 0);
        self.stage = Stage::Disabling { until: now + self.time_out() };
    }

    fn time_out(&self) -> Duration {
        Duration::from_millis(self.cap.timeout_ms())
    }

    /// Goes on with the start.
    pub(super) fn advance(&mut self, now: Nanos, csts: Csts) {
        match self.stage {
            // A fatal error ends with the reset, too (Base 3.1.3.6); where RDY was 0 before, only that tells.
            Stage::Disabling { until } if !csts.is_ready() && (!csts.is_fatal() || now >= until) => {
                // CSTS.RDY 0: the device has stopped and reads and writes no memory any more (Base 3.1.3.6).
                self.recover();
                self.enable(now);
            }
            Stage::Enabling { .. } if csts.is_fatal() => {
                self.fail(now, NvmeError::Fatal { device: self.name() });
            }
            Stage::Enabling { .. } if csts.is_ready() => self.step(now, Step::Controller),
            Stage::Disabling { until } if now >= until => {
                let error = self.stuck("stop", csts);
                self.give_up(error);
            }
            Stage::Enabling { until } if now >= until => {
                let error = self.stuck("become ready", csts);
                self.fail(now, error);
            }
            Stage::Setup(step) if csts.is_fatal() || !csts.is_ready() => {
                self.fail(now, NvmeError::Silent { device: self.name(), what: step.what() });
            }
            Stage::Setup(step) => {
                self.reap_admin(now);
                if self.stage == Stage::Setup(step) && self.is_admin_overdue(now) {
                    self.fail(now, NvmeError::Silent { device: self.name(), what: step.what() });
                }
            }
            Stage::Disabling { .. } | Stage::Enabling { .. } | Stage::Ready | Stage::Gone => {}
        }
    }

    pub(super) fn name(&self) -> String {
        self.device.name().to_owned()
    }

    fn stuck(&self, what: &'static str, csts: Csts) -> NvmeError {
        NvmeError::Stuck { device: self.name(), what, limit_ms: self.cap.timeout_ms(), csts: csts.0 }
    }

    /// Base 3.5.1 steps 3 to 5: admin queues, CC, CC.EN.
    fn enable(&mut self, now: Nanos) {
        self.io.restart(None);
        self.admin.restart();
        let last = u32::from(ADMIN_ENTRIES - 1); // sizes are 0's based
        self.device.write32(AQA, last | last << 16);
        self.device.write64(ASQ, self.base + self.layout.admin_submissions as u64);
        self.device.write64(ACQ, self.base + self.layout.admin_completions as u64);
        self.device.write32(CC, cc_enable(self.cap.mps_min()));
        self.stage = Stage::Enabling { until: now + self.time_out() };
    }

    fn step(&mut self, now: Nanos, step: Step) {
        self.stage = Stage::Setup(step);
        let command = self.step_command(step);
        self.send_admin(super::admin::Use::Setup(step), command, now);
    }

    fn step_command(&self, step: Step) -> Command {
        let at = |offset: usize| self.base + offset as u64;
        let place = self.io.place();
        let identity = at(self.layout.identity);
        match step {
            Step::Controller => command::identify(cns::CONTROLLER, 0, identity),
            // One of each, 0's based (Base 5.27.1.5).
            Step::Queues => command::set_features(feature::QUEUES, 0),
            Step::Doorbells => command::doorbell_buffer(at(self.layout.shadow), at(self.layout.events)),
            Step::CompletionQueue => command::create_cq(place.id, place.entries, at(place.completions)),
            Step::SubmissionQueue => command::create_sq(place.id, place.entries, at(place.submissions)),
            Step::Namespaces => command::identify(cns::ACTIVE_NAMESPACES, 0, identity),
            Step::Namespace => command::identify(cns::NAMESPACE, self.namespace.nsid, identity),
            Step::Events => {
                let offered = self.facts.notices & NAMESPACE_NOTICES | 0xff;
                command::set_features(feature::ASYNC_EVENTS, EVENTS_WANTED & offered)
            }
        }
    }

    /// A step was answered.
    pub(super) fn stepped(&mut self, now: Nanos, step: Step, done: Completion) {
        if self.stage != Stage::Setup(step) {
            return; // the answer to a start that was given up
        }
        if !done.status.is_ok() && !step.is_optional() {
            let error = NvmeError::Refused { device: self.name(), what: step.what(), status: done.status };
            return self.fail(now, error);
        }
        let next = match step {
            Step::Controller => self.learn_controller().map(|()| Step::Queues),
            Step::Queues if self.facts.shadow_doorbells && self.options.extras => {
                self.memory.clear(self.layout.shadow, self.layout.lists - self.layout.shadow);
                Ok(Step::Doorbells)
            }
            Step::Queues => Ok(Step::CompletionQueue),
            Step::Doorbells => {
                let shadow = Shadow { doorbells: self.layout.shadow, events: self.layout.events };
                self.io.restart(done.status.is_ok().then_some(shadow));
                Ok(Step::CompletionQueue)
            }
            Step::CompletionQueue => Ok(Step::SubmissionQueue),
            Step::SubmissionQueue => Ok(Step::Namespaces),
            Step::Namespaces => self.pick_namespace().map(|()| Step::Namespace),
            Step::Namespace => match self.learn_namespace() {
                Ok(true) => Ok(Step::Events),
                Ok(false) => {
                    let (device, nsid) = (self.name(), self.namespace.nsid);
                    return self.give_up(NvmeError::Changed { device, nsid });
                }
                Err(error) => Err(error),
            },
            Step::Events => return self.ready(now),
        };
        match next {
            Ok(next) => self.step(now, next),
            // What it says of itself is not better the next time.
            Err(source) => self.give_up(NvmeError::Identify { device: self.name(), source }),
        }
    }

    /// What Identify answered.
    pub(super) fn answer(&self) -> [u8; ANSWER_BYTES] {
        let mut data = [0; ANSWER_BYTES];
        self.memory.copy_out(self.layout.identity, &mut data);
        data
    }

    fn learn_controller(&mut self) -> Result<(), IdentifyError> {
        let facts = identify::controller(&self.answer(), 4096 << self.cap.mps_min())?;
        self.rules.transfer_max = facts.transfer_max.unwrap_or(TRANSFER_MAX).min(TRANSFER_MAX);
        self.rules.sgl = facts.sgl && self.options.extras;
        self.facts = facts;
        Ok(())
    }

    /// Chooses the namespace, or finds the one that was chosen before.
    pub(super) fn pick_namespace(&mut self) -> Result<(), IdentifyError> {
        let wanted = if self.info.bytes > 0 { Some(self.namespace.nsid) } else { self.options.nsid };
        self.namespace.nsid = identify::pick(&self.answer(), wanted, self.facts.namespaces_max)?;
        Ok(())
    }

    /// Reads the namespace; false when it is not the one any more that requests are made for.
    pub(super) fn learn_namespace(&mut self) -> Result<bool, IdentifyError> {
        let old = self.namespace;
        let new = identify::namespace(&self.answer(), old.nsid)?;
        if self.info.bytes > 0 {
            // One that grew is served as it was: machines know its old size.
            return Ok(new.block_shift == old.block_shift && new.blocks >= old.blocks);
        }
        self.namespace = new;
        Ok(true)
    }

    fn ready(&mut self, now: Nanos) {
        let facts = &self.facts;
        let mut note = format!("{} {} (firmware {})", facts.model, facts.serial, facts.firmware);
        if !self.memory.note().is_empty() {
            note.push_str(&format!("; {}", self.memory.note()));
        }
        self.info = BlockInfo {
            path: std::mem::take(&mut self.info.path),
            bytes: self.namespace.bytes(),
            block: 1 << self.namespace.block_shift,
            volatile_cache: facts.volatile_cache,
            durable: true,
            direct: true,
            note,
        };
        for _ in 0..facts.events_max.min(EVENT_REQUESTS_MAX) {
            self.send_admin(super::admin::Use::Event, command::async_event(), now);
        }
        self.admin.ask_health(now);
        self.stage = Stage::Ready;
        self.next_watch = now;
        self.tell(NvmeEvent::Ready);
    }
}
