//! How a head begins: its log is read, and tried again where what is wrong may pass (EF-07, P-09).

use super::core::Core;
use super::{Head, HeadConfig, LogStart, PartitionConfig, State};
use crate::log::{FormatAs, LogConfig, LogError, Recovery, RecoveryState};
use crate::wire::{ClientCmd, ClientDone, ClientError, Event, Out, Time, limits};
use std::time::Duration;

/// Before a log that cannot be read or written is tried again: the first time, doubled up to the last.
const TRY_FIRST: Duration = Duration::from_millis(250);
const TRY_LAST: Duration = Duration::from_secs(8);

impl Head {
    pub(super) fn start_recovery(&mut self, now: Time, out: &mut Out) {
        self.tries += 1;
        let config = log_config(&self.config);
        let mut recovery = Box::new(Recovery::again(config, self.pool.clone(), self.tries));
        recovery.start(out);
        self.state = State::Recovering(recovery);
        self.poll_recovery(now, out);
    }

    /// The log cannot be used. What may pass is tried again (a full disk gets room, a device comes back); what
    /// else there is people have to see to, and are told.
    fn log_unusable(&mut self, now: Time, error: LogError, out: &mut Out) {
        let pause = TRY_LAST.min(TRY_FIRST * (1 << (self.tries - 1).min(5)));
        let (next, what) = match error.may_pass() {
            true => (State::Waiting(now + pause), "it is tried again"),
            false => (State::Failed, "the head does not run"),
        };
        if self.told.as_ref() != Some(&error) {
            let (node, help) = (self.config.node, error.help());
            out.events.push(Event::Attention(format!("head {node}: {error}; {what}; {help}")));
        }
        (self.state, self.told) = (next, Some(error));
        for (cmd, _) in std::mem::take(&mut self.early) {
            self.refuse_without_log(&cmd, out);
        }
    }

    /// A command comes while the log cannot be used.
    pub(super) fn refuse_without_log(&self, cmd: &ClientCmd, out: &mut Out) {
        let declared = self.config.partitions.iter().find(|config| config.partition == cmd.partition);
        let error = declared.map_or(ClientError::NotServed, PartitionConfig::without_log);
        out.done.push(ClientDone { tag: cmd.tag, result: Err(error) });
    }

    pub(super) fn poll_recovery(&mut self, now: Time, out: &mut Out) {
        let State::Recovering(recovery) = &self.state else { return };
        match recovery.state() {
            RecoveryState::Working => {}
            RecoveryState::Failed(error) => self.log_unusable(now, error, out),
            RecoveryState::Done => {
                let State::Recovering(recovery) = std::mem::replace(&mut self.state, State::New) else {
                    return;
                };
                let (log, found, report) = recovery.finish();
                self.told = None;
                let mut core = Box::new(Core::new(self.config.clone(), self.pool.clone(), log, found));
                core.recovered(report, out);
                for assignment in std::mem::take(&mut self.assignments).into_values() {
                    core.assign(now, assignment, out);
                }
                core.set_isolating(self.isolating);
                for (partition, (member, follows)) in std::mem::take(&mut self.fills) {
                    core.fill_head(partition, member, follows);
                }
                for (cmd, arrived) in self.early.drain(..) {
                    core.handle_client(arrived, cmd, out);
                }
                core.turn(now, out);
                self.state = State::Ready(core);
            }
        }
    }
}

fn log_config(config: &HeadConfig) -> LogConfig {
    let log = &config.log;
    let (LogStart::Open(id) | LogStart::Format(id)) = log.start;
    let made = Some(FormatAs {
        log: id,
        segment_bytes: u64::from(log.segment_bytes),
        volume_blocks: log.volume_bytes / limits::BLOCK as u64,
    });
    let (format, rescue) = match log.start {
        LogStart::Open(_) => (None, made),
        LogStart::Format(_) => (made, None),
    };
    LogConfig {
        device: log.device,
        device_bytes: log.bytes,
        rack: config.rack,
        expect: Some(id),
        format,
        rescue,
        hot_bytes: config.hot_bytes,
        faults: config.log_faults,
    }
}
