//! Virtual time: one turn of everything, then on to the next thing that is due. The network doubles and
//! reorders.

use super::*;

impl Rack {
    /// One turn of everything, then on to the next thing that is due.
    pub fn step(&mut self) {
        for at in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[at];
            match &mut node.machine {
                Machine::Head(head) => head.turn(now, &mut node.out),
                Machine::Sled(sled) => sled.turn(now, &mut node.out),
                Machine::Down => {}
            }
            self.drain(at);
        }
        let mut next =
            self.queue.keys().next().map(|key| key.0).unwrap_or(self.now + Duration::from_millis(10));
        for node in &self.nodes {
            let deadline = match &node.machine {
                Machine::Head(head) => head.deadline(),
                Machine::Sled(sled) => sled.deadline(),
                Machine::Down => None,
            };
            next = next.min(deadline.unwrap_or(next));
        }
        self.now = next.max(self.now + Duration::from_nanos(500));
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let due = entry.remove();
            self.deliver(due);
        }
    }

    fn drain(&mut self, at: usize) {
        let mut out = std::mem::take(&mut self.nodes[at].out);
        let (from, boot) = (self.nodes[at].id, self.nodes[at].boot);
        if self.nodes[at].stall {
            out.block.clear();
        }
        for cmd in out.block.drain(..) {
            let delay = 20_000 + self.rand(80_000);
            self.order += 1;
            let due = Due::Block { node: at, boot, cmd };
            let delay = Duration::from_nanos(delay) + self.nodes[at].slow;
            self.queue.insert((self.now + delay, self.order), due);
        }
        for (to, msg) in out.net.drain(..) {
            let name = name(&msg);
            *self.sent.entry(name).or_insert(0) += 1;
            if self.drop_msg.is_some_and(|drop| drop(&msg, from, to)) {
                continue;
            }
            if self.hold_msg.is_some_and(|hold| hold(&msg, from, to)) {
                self.held.push(Due::Msg { from, boot, to, msg });
                continue;
            }
            let copies = if self.rand(12) == 0 { 2 } else { 1 };
            for _ in 0..copies {
                let late = if self.rand(10) == 0 { 400_000 } else { 30_000 };
                let delay = 5_000 + self.rand(late);
                self.order += 1;
                let due = Due::Msg { from, boot, to, msg: msg.clone() };
                self.queue.insert((self.now + Duration::from_nanos(delay), self.order), due);
            }
        }
        for done in out.done.drain(..) {
            self.answered(done);
        }
        for event in out.events.drain(..) {
            if matches!(event, Event::Recovered { .. }) {
                self.recovered.insert(from);
            }
            self.events.push(event);
        }
        self.nodes[at].out = out;
    }

    fn answered(&mut self, done: ClientDone) {
        if let Some((first, count, value)) = self.writes.remove(&done.tag.0)
            && done.result.is_ok()
        {
            for at in first..first + count {
                self.model[at] = vec![value];
            }
        }
        let earlier = self.done.insert(done.tag.0, done.result);
        assert!(earlier.is_none(), "a command is answered once");
    }

    fn deliver(&mut self, due: Due) {
        let now = self.now;
        match due {
            Due::Msg { from, boot, to, msg } => {
                let cut = self.nodes.iter().any(|node| node.cut && (node.id == from || node.id == to));
                let Some(node) = self.nodes.iter_mut().find(|node| node.id == to) else { return };
                if cut {
                    return;
                }
                match &mut node.machine {
                    Machine::Head(head) => head.handle_msg(now, from, boot, msg, &mut node.out),
                    Machine::Sled(sled) => sled.handle_msg(now, from, boot, msg, &mut node.out),
                    Machine::Down => {}
                }
            }
            Due::Block { node: at, boot, cmd } => {
                let node = &mut self.nodes[at];
                if node.boot != boot {
                    return;
                }
                let key = cmd.key;
                let result = node.disk.apply(cmd);
                let done = BlockDone { key, result };
                match &mut node.machine {
                    Machine::Head(head) => head.handle_block(now, done, &mut node.out),
                    Machine::Sled(sled) => sled.handle_block(now, done, &mut node.out),
                    Machine::Down => {}
                }
            }
        }
    }

    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = self.now + Duration::from_secs(60);
        while !done(self) {
            assert!(self.now < limit, "seed {}: {what} did not happen in a minute", self.shape.seed);
            self.step();
        }
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.step();
        }
    }

    /// Messages that were held arrive now; says how many.
    pub fn let_go(&mut self) -> usize {
        self.hold_msg = None;
        let held = std::mem::take(&mut self.held);
        let count = held.len();
        for due in held {
            self.deliver(due);
        }
        count
    }
}

fn name(msg: &Msg) -> &'static str {
    match msg {
        Msg::Announce { .. } => "announce",
        Msg::Replicate { .. } => "replicate",
        Msg::Confirm { .. } => "confirm",
        Msg::Fetch { .. } => "fetch",
        Msg::Reserve { .. } => "reserve",
        Msg::ColumnWrite { .. } => "column_write",
        Msg::ColumnReserve { .. } => "column_reserve",
        Msg::ColumnRead { .. } => "column_read",
        Msg::ColumnRelease { .. } => "column_release",
        Msg::ColumnList { .. } => "column_list",
        Msg::Heartbeat { .. } => "heartbeat",
        Msg::HealthAsk { .. } => "health_ask",
        Msg::Copy { .. } => "copy",
        Msg::CopyPart { .. } => "copy_part",
        Msg::CopyOps { .. } => "copy_ops",
        Msg::Copied { .. } => "copied",
        _ => "other",
    }
}
