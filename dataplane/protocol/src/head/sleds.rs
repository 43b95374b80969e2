//! Questions to other nodes that must be answered: names, repeats, give-ups, and what is known of sleds.
//!
//! Every question has a generational request id, so that late and doubled answers find nothing.

pub(super) use super::asks::{Ask, What};
use super::core::Core;
use super::devices::Bad;
use super::mend::Step;
use super::slab::Id;
use super::stats::Stage;
use crate::wire::*;
use std::time::Duration;

/// What is known of a sled.
#[derive(Debug, Default)]
pub(super) struct Sled {
    boot: Option<BootId>,
    /// Estimate of a high quantile of its read latency, in nanoseconds.
    high_ns: u64,
    /// It left a read unanswered: not waited for until then.
    silent_until: Time,
}

impl Core {
    /// Sends a question and keeps it until it is answered or given up.
    pub(super) fn ask(&mut self, now: Time, mut ask: Ask, out: &mut Out) -> Id {
        (ask.since, ask.sent) = (now, now);
        ask.gap = self.cfg.retry.first;
        ask.repeat_at = now + ask.gap;
        let at = ask.hedge_at.map_or(ask.repeat_at, |hedge| hedge.min(ask.repeat_at));
        ask.queued = self.queues(&ask);
        let (to, queued) = (ask.to, ask.queued);
        let id = self.asks.insert(ask);
        if queued {
            self.queue.push_back(id);
        }
        if let Some(ask) = self.asks.get_mut(id) {
            name(&mut ask.msg, ReqId(id.0));
            if !ask.held && !queued {
                out.net.push((to, ask.msg.clone()));
            }
        }
        self.arm(at);
        id
    }

    /// Takes the question that an answer names, when it came from whom it was sent to.
    /// An answer "ask again later" leaves it open: the repeat asks again. A read does not time out meanwhile:
    /// its sled lives and lacks a buffer, or has yet to read its records (EF-06); other columns are asked by
    /// the hedge.
    fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        req: ReqId,
        status: Status,
        fits: impl Fn(&What) -> bool,
    ) -> Option<Ask> {
        let id = Id(req.0);
        if status == Status::Retry {
            let ask = self.asks.get_mut(id).filter(|ask| ask.to == from && fits(&ask.what))?;
            if matches!(ask.what, What::Read { .. } | What::Try { .. }) {
                (ask.since, ask.sent) = (now, now);
            }
            return None;
        }
        self.asks.get(id).filter(|ask| ask.to == from && fits(&ask.what))?;
        let ask = self.asks.remove(id)?;
        self.judge(now, &ask, status);
        Some(ask)
    }

    /// Answers of sleds.
    pub(super) fn on_sled(&mut self, now: Time, from: NodeId, boot: BootId, msg: Msg, out: &mut Out) {
        self.devices.tick(now);
        self.heard(now, from, boot);
        if self.asked_for(&msg, What::of_checkpoint) {
            return self.on_checkpoint_answer(now, from, msg, out);
        }
        if self.asked_for(&msg, What::lone) {
            return self.on_lone_answer(now, from, msg, out);
        }
        match msg {
            Msg::Reserved { req, status, secret, free, .. } => {
                if let Some(ask) = self.answered(now, from, req, status, |what| *what == What::Reserve) {
                    self.on_reserved(now, &ask, status, secret, free, out);
                }
            }
            Msg::ColumnListed { req, status, columns, more } => {
                if let Some(ask) = self.answered(now, from, req, status, |what| *what == What::List) {
                    self.on_listed(now, &ask, status, &columns, more);
                }
            }
            Msg::ColumnReserved { req, status, column } => {
                if self.hold_for_claim(now, from, req, status) {
                    return;
                }
                if let Some(ask) =
                    self.answered(now, from, req, status, |what| matches!(what, What::MakeColumn { .. }))
                {
                    self.on_column_reserved(now, &ask, status, column, out);
                } else if status.is_ok() {
                    self.stray_column(now, from, &column);
                }
            }
            Msg::ColumnWritten { req, status } => self.on_written(now, from, req, status, out),
            Msg::ColumnData { req, status, data } => {
                if let Some(ask) =
                    self.answered(now, from, req, status, |what| matches!(what, What::Read { .. }))
                {
                    self.learn(&ask, now);
                    self.on_column_data(now, &ask, status, data, out);
                } else if let Some(ask) =
                    self.answered(now, from, req, status, |what| matches!(what, What::Try { .. }))
                {
                    self.tried(&ask, status);
                }
            }
            Msg::ColumnReleased { req, status } => {
                if let Some(ask) =
                    self.answered(now, from, req, status, |what| matches!(what, What::Release { .. }))
                {
                    self.on_column_released(now, &ask, status, out);
                }
            }
            Msg::ColumnRotten { partition, column, extent, position } if column.sled == from => {
                self.on_rotten(now, partition, &column, extent, position, out);
            }
            _ => {}
        }
    }

    /// Whether an answer is to a question of such a kind.
    fn asked_for(&self, msg: &Msg, such: impl Fn(&What) -> bool) -> bool {
        let req = match msg {
            Msg::Reserved { req, .. }
            | Msg::ColumnListed { req, .. }
            | Msg::ColumnReserved { req, .. }
            | Msg::ColumnWritten { req, .. }
            | Msg::ColumnData { req, .. } => *req,
            _ => return false,
        };
        self.asks.get(Id(req.0)).is_some_and(|ask| such(&ask.what))
    }

    /// Answers about checkpoints on sleds (P-29).
    fn on_checkpoint_answer(&mut self, now: Time, from: NodeId, msg: Msg, out: &mut Out) {
        match msg {
            Msg::ColumnReserved { req, status, column } if !self.hold_for_claim(now, from, req, status) => {
                let fits = |what: &What| matches!(what, What::PageColumn { .. });
                if let Some(ask) = self.answered(now, from, req, status, fits) {
                    self.on_page_column(now, &ask, status, column, out);
                }
            }
            Msg::ColumnWritten { req, status } => self.on_unit_written(now, from, req, status, out),
            Msg::ColumnData { req, status, data } => {
                let fits = |what: &What| matches!(what, What::BasisRead { .. });
                if let Some(ask) = self.answered(now, from, req, status, fits) {
                    self.on_basis_read(now, &ask, status, data, out);
                }
            }
            _ => {}
        }
    }

    /// Answers to those questions (P-30).
    fn on_lone_answer(&mut self, now: Time, from: NodeId, msg: Msg, out: &mut Out) {
        match msg {
            Msg::Reserved { req, status, .. } => {
                let fits = |what: &What| matches!(what, What::Vouch { .. });
                if let Some(ask) = self.answered(now, from, req, status, fits) {
                    self.on_vouched(now, &ask, status, out);
                }
            }
            Msg::ColumnListed { req, status, columns, more } => {
                let fits = |what: &What| matches!(what, What::Survey | What::Mend(_));
                match self.answered(now, from, req, status, fits) {
                    Some(ask) if ask.what == What::Survey => {
                        self.on_surveyed(now, &ask, status, &columns, more, out);
                    }
                    Some(ask) => self.on_mend_listed(&ask, &columns, more),
                    None => {}
                }
            }
            Msg::ColumnReserved { req, status, column } if !self.hold_for_claim(now, from, req, status) => {
                let fits = |what: &What| matches!(what, What::JournalColumn { .. });
                if let Some(ask) = self.answered(now, from, req, status, fits) {
                    self.on_journal_column(now, &ask, status, column, out);
                }
            }
            Msg::ColumnWritten { req, status } => self.on_unit_written(now, from, req, status, out),
            Msg::ColumnData { req, status, data } => {
                let fits = |what: &What| matches!(what, What::SalvageRead { .. } | What::Mend(_));
                match self.answered(now, from, req, status, fits) {
                    Some(ask) if matches!(ask.what, What::Mend(_)) => {
                        self.on_mend_read(now, &ask, status, data, out);
                    }
                    Some(ask) => self.on_salvaged(now, &ask, status, data, out),
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// A column reserve whose token is void at our own number waits for the new claim (P-22).
    fn hold_for_claim(&mut self, now: Time, from: NodeId, req: ReqId, status: Status) -> bool {
        let Some(ask) = self.asks.get_mut(Id(req.0)) else { return false };
        let number = self.parts[ask.part].stamp.number;
        let void = match status {
            Status::NoToken => true,
            Status::Fenced { number: held, .. } => held < number,
            _ => false,
        };
        if ask.to != from || !void || self.cfg.faults.stale_token_retry() {
            return false;
        }
        ask.held = true;
        let (p, device) = (ask.part, ask.device);
        self.reclaim(now, p, device);
        true
    }

    /// A sled of another boot knows no token any more (EF-18): its devices are claimed again.
    fn heard(&mut self, now: Time, from: NodeId, boot: BootId) {
        let sled = self.sleds.entry(from).or_default();
        sled.silent_until = Time::ZERO;
        if sled.boot == Some(boot) {
            return;
        }
        let restarted = sled.boot.replace(boot).is_some();
        if restarted && !self.cfg.faults.stale_token_retry() {
            for p in 0..self.parts.len() {
                for claim in &mut self.parts[p].claims {
                    if claim.target.sled == from {
                        self.devices.restarted(now, claim.target.device);
                        claim.secret = None;
                        claim.ask_at = now;
                        claim.suspect_until = Time::ZERO;
                    }
                }
            }
            self.background_at = now;
        }
    }

    /// What an answer tells of the device.
    pub(super) fn judge(&mut self, now: Time, ask: &Ask, status: Status) {
        match status {
            Status::Ok | Status::Corrupt => {
                let read = matches!(ask.what, What::Read { .. } | What::Try { .. });
                self.devices.good(now, ask.device, ask.sent, read);
                if let Msg::ColumnRead { partition, column, .. } = &ask.msg {
                    self.devices.holds(ask.device, *partition, *column);
                }
            }
            Status::DeviceError => {
                self.devices.bad(now, ask.device, ask.sent, Bad::Error, &self.cfg.watch);
            }
            // Of tokens, numbers and room: says nothing of the device.
            _ => {}
        }
    }

    pub(super) fn silent(&self, sled: NodeId, now: Time) -> bool {
        self.sleds.get(&sled).is_some_and(|sled| sled.silent_until > now)
    }

    fn learn(&mut self, ask: &Ask, now: Time) {
        let span = now.since(ask.since);
        self.parts[ask.part].stats.record(Stage::ColumnRead, span);
        let Some(sled) = self.sleds.get_mut(&ask.to) else { return };
        let ns = span.as_nanos() as u64;
        // Moves up fifty times as far as down: settles near the 98th percentile.
        let step = (sled.high_ns / 16).max(1000);
        if ns > sled.high_ns {
            sled.high_ns = (sled.high_ns + step).min(ns);
        } else {
            sled.high_ns -= (step / 50).min(sled.high_ns);
        }
    }

    /// How long a column read may take before other columns are asked too.
    pub(super) fn hedge_after(&self, sled: NodeId) -> Duration {
        let high = self.sleds.get(&sled).map_or(0, |sled| sled.high_ns);
        Duration::from_nanos(2 * high).clamp(self.cfg.retry.hedge_min, self.cfg.retry.read_timeout)
    }

    /// Repeats, hedges and give-ups of everything that is open. Runs when a timer is due.
    pub(super) fn repeat(&mut self, now: Time, out: &mut Out) {
        for p in 0..self.parts.len() {
            self.repeat_peers(now, p, out);
        }
        self.repeat_confirms(now, out);
        if !self.starved.is_empty() {
            self.feed_starved(now, out);
        }
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        self.asks.pick(&mut ids, |_| true);
        for id in ids.drain(..) {
            self.repeat_ask(now, id, out);
        }
        self.ids = ids;
    }

    fn repeat_ask(&mut self, now: Time, id: Id, out: &mut Out) {
        let retry = self.cfg.retry;
        let (_, awake) = self.devices.clock();
        let Some(ask) = self.asks.get_mut(id).filter(|ask| !ask.queued) else { return };
        if ask.since < awake {
            // This head slept: that nobody was heard meanwhile is no silence of theirs. Asked anew, or every read
            // under way would find all its columns silent at once and call the extent lost (EF-06).
            (ask.since, ask.repeat_at, ask.gap) = (awake, now, retry.first);
        }
        let timeout = match ask.what {
            What::Read { .. } | What::Fetch { .. } | What::Try { .. } => retry.read_timeout,
            What::SalvageRead { .. } | What::BasisRead { .. } => retry.read_timeout,
            _ => retry.column_timeout,
        };
        if now.since(ask.since) >= timeout {
            if let Some(ask) = self.asks.remove(id) {
                self.give_up(now, ask, out);
            }
            return;
        }
        if ask.repeat_at <= now {
            ask.gap = (ask.gap * 2).min(retry.last);
            ask.repeat_at = now + ask.gap;
            if !ask.held {
                out.net.push((ask.to, ask.msg.clone()));
            }
        }
        let mut wake = ask.repeat_at.min(ask.since + timeout);
        let hedge = match ask.hedge_at {
            Some(at) if at <= now => {
                ask.hedge_at = None;
                true
            }
            Some(at) => {
                wake = wake.min(at);
                false
            }
            None => false,
        };
        let what = ask.what;
        self.arm(wake);
        if let (true, What::Read { piece, .. }) = (hedge, what) {
            self.hedge(now, piece, out);
        }
    }

    /// Nobody answered in time.
    fn give_up(&mut self, now: Time, ask: Ask, out: &mut Out) {
        let quiet = now + self.cfg.retry.read_timeout;
        if !ask.held && !matches!(ask.what, What::Fetch { .. }) {
            self.devices.bad(now, ask.device, ask.sent, Bad::Silence, &self.cfg.watch);
        }
        match ask.what {
            What::Read { .. } => {
                self.sleds.entry(ask.to).or_default().silent_until = quiet;
                self.on_column_data(now, &ask, Status::DeviceError, None, out);
            }
            // The peer is away; it comes back, and requests wait for it, or another one has the block.
            What::Fetch { .. } => {
                let to = self.parts[ask.part].another(self.cfg.node, ask.to);
                self.ask(now, Ask { to, ..ask }, out);
            }
            What::Reserve => self.on_reserved(now, &ask, Status::DeviceError, GrantSecret(0), 0, out),
            What::List => self.on_listed(now, &ask, Status::Retry, &[], None),
            What::MakeColumn { .. } => {
                self.on_column_reserved(now, &ask, Status::DeviceError, ColumnRef::default(), out);
                // It may have one all the same, and its answer may be lost.
                self.list_again(now, ask.part, ask.device);
            }
            What::Write { batch, column } => {
                self.suspect(now, ask.part, ask.device);
                self.batch_refused(now, batch, column, out);
            }
            What::Release { .. } => self.on_column_released(now, &ask, Status::Retry, out),
            What::Try { .. } => self.tried(&ask, Status::DeviceError),
            What::PageColumn { .. } => {
                self.on_page_column(now, &ask, Status::DeviceError, ColumnRef::default(), out);
                self.list_again(now, ask.part, ask.device);
            }
            What::PageWrite { .. } | What::JournalWrite { .. } => self.unit_refused(now, &ask, out),
            What::BasisRead { .. } => {
                self.sleds.entry(ask.to).or_default().silent_until = quiet;
                self.on_basis_read(now, &ask, Status::DeviceError, None, out);
            }
            What::JournalColumn { .. } => {
                self.on_journal_column(now, &ask, Status::DeviceError, ColumnRef::default(), out);
            }
            What::Mend(Step::List { .. }) => self.on_mend_listed(&ask, &[], None),
            What::Mend(_) => self.on_mend_read(now, &ask, Status::DeviceError, None, out),
            What::Vouch { .. } => self.on_vouched(now, &ask, Status::DeviceError, out),
            What::Survey => self.on_surveyed(now, &ask, Status::Retry, &[], None, out),
            What::SalvageRead { .. } => self.on_salvaged(now, &ask, Status::DeviceError, None, out),
        }
    }
}

/// Puts the request id into a message.
fn name(msg: &mut Msg, id: ReqId) {
    match msg {
        Msg::Reserve { req, .. }
        | Msg::ColumnReserve { req, .. }
        | Msg::ColumnWrite { req, .. }
        | Msg::ColumnRead { req, .. }
        | Msg::ColumnRelease { req, .. }
        | Msg::ColumnList { req, .. }
        | Msg::Fetch { req, .. } => *req = id,
        _ => {}
    }
}
