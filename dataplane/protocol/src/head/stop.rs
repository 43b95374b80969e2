//! Taking a partition out of service: everything that it holds is answered, nothing waits for ever.

use super::core::Core;
use super::part::Phase;
use crate::wire::*;

impl Core {
    /// The own log can take nothing more: what is open fails, and the head goes out of service.
    pub(super) fn on_log_failed(&mut self, out: &mut Out) {
        for p in 0..self.parts.len() {
            self.stop(p, "log device failed", ClientError::Device, out);
        }
    }

    /// Takes a partition out of service and answers everything that it holds with `error`.
    pub(super) fn stop(&mut self, p: usize, why: &'static str, error: ClientError, out: &mut Out) {
        self.parts[p].phase = Phase::Stopped(why);
        self.parts[p].adoption = None;
        self.abort_background(p);
        let waiting = std::mem::take(&mut self.parts[p].waiting);
        out.done.extend(waiting.into_iter().map(|(cmd, _)| ClientDone { tag: cmd.tag, result: Err(error) }));
        let mut ids = std::mem::take(&mut self.ids);
        self.cmds.pick(&mut ids, |cmd| cmd.part == p);
        for id in ids.drain(..) {
            if let Some(cmd) = self.cmds.remove(id) {
                out.done.push(ClientDone { tag: cmd.tag, result: Err(error) });
            }
        }
        self.merges.pick(&mut ids, |merge| merge.part == p);
        for id in ids.drain(..) {
            self.merges.remove(id);
        }
        self.ids = ids;
        let part = &mut self.parts[p];
        part.active = 0;
        part.stalled.clear();
        let reads = std::mem::take(&mut part.unconfirmed);
        for wait in std::mem::take(&mut part.flushes) {
            out.done.push(ClientDone { tag: wait.tag, result: Err(ClientError::NotServed) });
        }
        for (_, read) in reads {
            // Nobody waits for it any more; it ends when its pieces do.
            self.confirmed(Time::ZERO, read, out);
        }
    }

    /// A connection is gone: its commands that have no number yet never get one (P-11). What is numbered
    /// runs on; its answers go nowhere.
    pub(super) fn abort(&mut self, partition: PartitionId, gone: &dyn Fn(ClientTag) -> bool) -> usize {
        let Some(p) = self.parts.find(partition) else { return 0 };
        let waiting = &mut self.parts[p].waiting;
        let before = waiting.len();
        waiting.retain(|(cmd, _)| !gone(cmd.tag));
        before - waiting.len()
    }
}
