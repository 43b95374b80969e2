//! Lives of nodes: starts, crashes, and what control does about them.

use super::*;

impl Rack {
    /// Starts a node's machine on its disk.
    pub fn start(&mut self, at: usize, fresh: bool) {
        self.boots += 1;
        let boot = BootId(self.boots);
        let id = self.nodes[at].id;
        let machine = if self.is_head(at) {
            let start =
                if fresh { LogStart::Format(self.nodes[at].log) } else { LogStart::Open(self.nodes[at].log) };
            let log = HeadLog {
                segment_bytes: self.shape.segment,
                volume_bytes: self.shape.blocks * BLOCK as u64,
                ..HeadLog::new(DeviceIx(0), self.nodes[at].disk.bytes.len() as u64, start)
            };
            let mut config = HeadConfig::new(id, boot, RACK, log);
            config.partitions = vec![self.partition()];
            config.hot_bytes = self.shape.hot_bytes;
            config.faults = self.shape.faults;
            config.log_faults = self.shape.log_faults;
            config.flush = self.shape.flush;
            config.stopwatch = self.shape.stopwatch;
            config.failover = self.shape.failover;
            config.retry.read_timeout = Duration::from_millis(400);
            config.retry.column_timeout = Duration::from_secs(1);
            Machine::Head(Box::new(Head::new(config, self.pool.clone())))
        } else {
            let spec = DeviceSpec { ix: DeviceIx(0), bytes: self.nodes[at].disk.bytes.len() as u64 };
            let mut config = SledConfig::new(id, RACK, self.boots ^ 0x5ec2e7 << 40, vec![spec]);
            config.scrub_gap = self.shape.scrub_gap;
            Machine::Sled(Box::new(Sled::new(config, self.pool.clone())))
        };
        let node = &mut self.nodes[at];
        node.boot = boot;
        node.machine = machine;
        node.out = Out::default();
        self.recovered.remove(&id);
    }

    /// Kills a node: what it had in flight to its disk lands or not, as the seed has it.
    pub fn crash(&mut self, at: usize) {
        let (id, boot) = (self.nodes[at].id, self.nodes[at].boot);
        self.nodes[at].machine = Machine::Down;
        let keys: Vec<(Time, u64)> = self.queue.keys().copied().collect();
        for key in keys {
            let mine = match &self.queue[&key] {
                Due::Block { node, boot: of, .. } => *node == at && *of == boot,
                // A connection dies with either end.
                Due::Msg { from, to, .. } => *from == id || *to == id,
            };
            if !mine {
                continue;
            }
            if let Some(Due::Block { cmd, .. }) = self.queue.remove(&key)
                && self.rand(2) == 0
            {
                let _ = self.nodes[at].disk.apply(cmd);
            }
        }
        if at == self.primary {
            self.forget_commands();
        }
    }

    /// The primary died: what was not answered may or may not have happened.
    fn forget_commands(&mut self) {
        self.writes.clear();
    }

    pub fn restart(&mut self, at: usize) {
        self.crash(at);
        self.start(at, false);
    }

    /// All heads die at once, and come back.
    pub fn restart_heads(&mut self) {
        self.heads().into_iter().for_each(|at| self.crash(at));
        self.heads().into_iter().for_each(|at| self.start(at, false));
    }

    pub fn head(&mut self, at: usize) -> &mut Head {
        match &mut self.nodes[at].machine {
            Machine::Head(head) => head,
            _ => panic!("node {at} is not a running head"),
        }
    }

    pub fn sled(&mut self, at: usize) -> &mut Sled {
        match &mut self.nodes[2 + at].machine {
            Machine::Sled(sled) => sled,
            _ => panic!("sled {at} is not running"),
        }
    }

    /// As control does at every boot of a member (P-01).
    pub fn grant(&mut self) {
        let heads = if self.shape.secondary { self.heads() } else { vec![0] };
        self.decide(&heads);
        self.assign();
    }

    /// The authority grants a group of these heads, the primary first, and tells nobody yet.
    pub fn decide(&mut self, heads: &[usize]) -> Assignment {
        self.number += 1;
        let member = |node: &Node| Member { head: node.id, log: node.log, boot: node.boot };
        let stamp = Stamp {
            partition: VOLUME,
            number: Number { epoch: 1, counter: self.number },
            grant: GrantId(self.number + 1000),
        };
        let members = heads.iter().map(|&at| member(&self.nodes[at])).collect();
        let copies = heads.len() == 1 && self.shape.solo == Solo::Sleds;
        let salvage = None;
        self.assigned.insert(Assignment { stamp, members, copies, salvage }).clone()
    }

    /// The authority lets a head take over what was acknowledged alone since the pair `base`, and tells it.
    pub fn decide_salvage(&mut self, at: usize, base: u64) {
        let mut assignment = self.decide(&[at]);
        assignment.salvage = Some(Number { epoch: 1, counter: base });
        self.assigned = Some(assignment);
        self.primary = at;
        self.tell(at);
    }

    /// As [`Rack::decide_salvage`], and waits for service.
    pub fn salvage_to(&mut self, at: usize, base: u64) {
        self.decide_salvage(at, base);
        let number = self.number;
        self.run_until("service after a salvage", move |rack| rack.serving(number));
    }

    /// The number that was granted last.
    pub fn newest(&self) -> u64 {
        self.number
    }

    /// Grants a group of these heads, tells all, and waits until the first one serves clients.
    pub fn move_to(&mut self, heads: &[usize]) {
        self.decide(heads);
        self.assign();
        self.primary = heads[0];
        let number = self.number;
        self.run_until("service", move |rack| rack.serving(number));
    }

    /// Tells one head what is newest.
    pub fn tell(&mut self, at: usize) {
        let (now, assignment) = (self.now, self.assigned.clone().expect("something was granted"));
        let node = &mut self.nodes[at];
        if let Machine::Head(head) = &mut node.machine {
            head.assign(now, assignment, &mut node.out);
        }
    }

    /// Answers a head's proposal.
    pub fn outcome(&mut self, at: usize, nonce: u64, outcome: ProposalOutcome) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Machine::Head(head) = &mut node.machine {
            head.outcome(now, VOLUME, nonce, outcome, &mut node.out);
        }
    }

    /// What a head proposed so far.
    pub fn proposals(&self, at: usize) -> Vec<Proposal> {
        let own = self.nodes[at].id;
        let of = |event: &Event| match event {
            Event::Propose(wish) if wish.members[0].head == own => Some(wish.clone()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    pub fn assign(&mut self) {
        let Some(assignment) = self.assigned.clone() else { return };
        for at in self.heads() {
            let now = self.now;
            let node = &mut self.nodes[at];
            if let Machine::Head(head) = &mut node.machine {
                head.assign(now, assignment.clone(), &mut node.out);
            }
        }
    }

    /// Waits until all heads recovered, grants, waits for service.
    pub fn serve(&mut self) {
        let heads = if self.shape.secondary { self.heads().len() } else { 1 };
        self.run_until("recovery", |rack| rack.recovered.len() >= heads);
        self.grant();
        let number = self.number;
        self.run_until("service", move |rack| rack.serving(number));
    }

    pub fn serving(&self, number: u64) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, Event::Serving { stamp } if stamp.number.counter == number))
    }

    pub fn delete(&mut self) {
        let now = self.now;
        let node = &mut self.nodes[0];
        if let Machine::Head(head) = &mut node.machine {
            head.delete_partition(now, VOLUME, &mut node.out);
        }
    }

    /// A stranger claims [`VOLUME`] on every sled under a higher number, as a new primary would.
    pub fn usurp(&mut self, counter: u64) {
        for at in 2..self.nodes.len() {
            let stamp =
                Stamp { partition: VOLUME, number: Number { epoch: 1, counter }, grant: GrantId(counter) };
            let (now, device) = (self.now, self.nodes[at].device);
            let node = &mut self.nodes[at];
            if let Machine::Sled(sled) = &mut node.machine {
                let msg = Msg::Reserve { req: ReqId(1), device, stamp };
                sled.handle_msg(now, NodeId(99), BootId(99), msg, &mut node.out);
            }
        }
        self.run_for(Duration::from_millis(5));
    }
}
