//! Taking a partition out of service: everything that it holds is answered, nothing waits for ever.

use super::core::Core;
use super::part::{Phase, Stalled};
use super::slab::Id;
use super::write::Kind;
use crate::wire::*;
use std::collections::VecDeque;

impl Core {
    /// The own log can take nothing more: the head goes out of service. What is open is acknowledged by nobody, and
    /// its clients ask the head that follows, as after a lost connection; what of it the others hold already is
    /// committed there before the first read (P-13).
    pub(super) fn on_log_failed(&mut self, out: &mut Out) {
        for p in 0..self.parts.len() {
            let error = self.parts[p].cfg.without_log();
            self.stop(p, "log device failed", error, out);
        }
    }

    /// Takes a partition out of service and answers everything that it holds with `error`.
    pub(super) fn stop(&mut self, p: usize, why: &'static str, error: ClientError, out: &mut Out) {
        self.parts[p].phase = Phase::Stopped(why);
        self.parts[p].adoption = None;
        self.parts[p].probing = None;
        self.parts[p].salvage = None;
        self.parts[p].owed = None;
        self.parts[p].copy.learner = None;
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
        part.service.withheld.clear();
        let reads = std::mem::take(&mut part.reads.queue);
        for wait in std::mem::take(&mut part.flushes) {
            out.done.push(ClientDone { tag: wait.tag, result: Err(ClientError::NotServed) });
        }
        for (_, read) in reads {
            // Nobody waits for it any more; it ends when its pieces do.
            self.confirmed(Time::ZERO, read, out);
        }
    }

    /// A connection is gone: its commands that have no number yet never get one (P-11). They are answered with
    /// an error, so that whoever made their tags may use them again; what is numbered runs on.
    pub(super) fn abort(
        &mut self,
        now: Time,
        partition: PartitionId,
        gone: &dyn Fn(ClientTag) -> bool,
        out: &mut Out,
    ) -> usize {
        let Some(p) = self.parts.find(partition).filter(|_| !self.cfg.faults.ghost_writes()) else {
            return 0;
        };
        self.busy = true;
        let before = out.done.len();
        drop_gone(&mut self.parts[p].waiting, |(cmd, _)| gone(cmd.tag).then_some(cmd.tag), out);
        let mut ids = Vec::new();
        self.cmds.pick(&mut ids, |cmd| cmd.part == p && cmd.kind != Kind::Read && gone(cmd.tag));
        let waiting = out.done.len() - before;
        waiting + ids.into_iter().filter(|&id| self.abort_cmd(now, p, id, out)).count()
    }

    /// Drops what of a command has no number; says whether there was any.
    fn abort_cmd(&mut self, now: Time, p: usize, id: Id, out: &mut Out) -> bool {
        let mut merges = Vec::new();
        self.merges.pick(&mut merges, |merge| merge.cmd == id);
        let stalled = &mut self.parts[p].stalled;
        let before = stalled.len();
        stalled.retain(|stalled| !matches!(stalled, Stalled::Write(cmd, ..) if *cmd == id));
        let writes = before - stalled.len();
        stalled.retain(|stalled| match stalled {
            Stalled::Clear(cmd) => *cmd != id,
            Stalled::Merge(merge) => !merges.contains(merge),
            Stalled::Write(..) => true,
        });
        merges.iter().for_each(|&merge| drop(self.merges.remove(merge)));
        let Some(cmd) = self.cmds.get_mut(id) else { return false };
        let dropped = writes + merges.len();
        if dropped == 0 && cmd.clear.is_empty() {
            return false;
        }
        cmd.open -= dropped as u32;
        let done = cmd.open == 0;
        self.fail_cmd(id, ClientError::NotServed);
        if done {
            self.answer(now, id, Ok(ClientOk::Done), out);
        }
        true
    }
}

/// Takes the commands of a lost connection out of a queue and answers them.
pub(super) fn drop_gone<T>(queue: &mut VecDeque<T>, gone: impl Fn(&T) -> Option<ClientTag>, out: &mut Out) {
    queue.retain(|item| match gone(item) {
        Some(tag) => {
            out.done.push(ClientDone { tag, result: Err(ClientError::NotServed) });
            false
        }
        None => true,
    });
}
