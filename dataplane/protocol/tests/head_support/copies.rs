//! Full copies: a head with a blank log, who fills it, and what the authority does about it.

use super::*;

impl Rack {
    /// A head's log is replaced by a blank one, and it starts.
    pub fn replace_log(&mut self, at: usize) {
        self.crash(at);
        let node = &mut self.nodes[at];
        node.log = LogId(node.log.0 + 0x100);
        node.disk.bytes.fill(0);
        self.start(at, true);
        let id = self.nodes[at].id;
        self.run_until("recovery", move |rack| rack.recovered.contains(&id));
    }

    /// A head as a member of today.
    pub fn member(&self, at: usize) -> Member {
        let node = &self.nodes[at];
        Member { head: node.id, log: node.log, boot: node.boot }
    }

    /// Control wishes that `giver` fills `taker`.
    pub fn fill(&mut self, giver: usize, taker: usize) {
        let (now, member) = (self.now, self.member(taker));
        let node = &mut self.nodes[giver];
        if let Machine::Head(head) = &mut node.machine {
            head.fill(now, VOLUME, member, &mut node.out);
        }
    }

    /// Control wishes that `giver` takes `taker` back, which was a member with the log that it has.
    pub fn take_back(&mut self, giver: usize, taker: usize) {
        let member = self.member(taker);
        if let Machine::Head(head) = &mut self.nodes[giver].machine {
            head.take_back(VOLUME, member);
        }
    }

    /// The wish of `giver` that is answered next, if it vouches for `taker`.
    pub fn joining(&self, giver: usize, taker: usize) -> Option<Proposal> {
        let wish = self.proposals(giver).pop()?;
        let now = self.assigned.as_ref().expect("a group");
        let fits = wish.expected == now.stamp && wish.members.contains(&self.member(taker));
        (fits && wish.caught_up).then_some(wish)
    }

    /// The authority declines what a head wishes, if it wishes anything.
    pub fn decline(&mut self, at: usize) {
        if self.head(at).status().partitions[0].proposing {
            let nonce = self.proposals(at).pop().expect("a wish").nonce;
            let newest = self.assigned.clone();
            self.outcome(at, nonce, ProposalOutcome::Declined { newest });
        }
    }

    /// Waits until `giver` vouches for `taker`; every other wish is declined.
    pub fn vouched(&mut self, giver: usize, taker: usize) -> Proposal {
        self.run_until("a group with the filled head", |rack| {
            let fits = rack.joining(giver, taker).is_some();
            if !fits {
                rack.decline(giver);
            }
            fits
        });
        self.joining(giver, taker).expect("it is there")
    }

    /// Waits until `giver` vouches for `taker`, grants the group, and waits for service.
    pub fn join(&mut self, giver: usize, taker: usize) {
        let wish = self.vouched(giver, taker);
        let granted = self.decide(&[giver, taker]);
        self.outcome(giver, wish.nonce, ProposalOutcome::Granted(granted));
        self.assign();
        let number = self.number;
        self.run_until("service", move |rack| rack.serving(number));
    }

    /// Both heads hold the same index. Waits until they have committed the same.
    pub fn same_index(&mut self) {
        self.run_until("the same operation", |rack| {
            let committed: Vec<Op> =
                (0..2).map(|at| rack.head(at).digest(VOLUME).expect("a head that is ready").0).collect();
            committed[0] == committed[1]
        });
        let (one, other) = (self.head(0).digest(VOLUME), self.head(1).digest(VOLUME));
        assert_eq!(one, other, "seed {}: the indexes differ", self.shape.seed);
    }

    pub fn sent(&self, name: &str) -> u64 {
        self.sent.get(name).copied().unwrap_or(0)
    }
}

/// Checkpoints of the index on sleds.
impl Rack {
    /// What the kept checkpoints cover, the newest first.
    pub fn checkpoints(&mut self) -> Vec<Op> {
        self.status().checkpoints
    }

    /// Flushes until the primary has named a checkpoint of everything that was written until now, and more: the
    /// first 64 blocks are written again and again for that.
    pub fn checkpointed(&mut self) {
        for _ in 0..400 {
            let tag = self.write(0, 512);
            self.wait_all(&[tag]);
            let written = self.status().committed;
            self.flush_all();
            self.run_for(Duration::from_millis(30));
            if self.checkpoints().first().is_some_and(|covers| *covers >= written) {
                return;
            }
        }
        let status = self.status();
        panic!("seed {}: no checkpoint: {status:?}", self.shape.seed);
    }

    /// Waits until the sleds hold the columns of extents and of kept checkpoints, and no other: `each` columns for
    /// each checkpoint.
    pub fn no_column_lost(&mut self, each: u32) {
        let mut last = String::new();
        let sleds = self.shape.sleds;
        let limit = self.now + Duration::from_secs(60);
        loop {
            let used: u32 = (0..sleds)
                .map(|at| {
                    let status = self.sled(at).status();
                    status.devices[0].columns - status.devices[0].free
                })
                .sum();
            let status = self.status();
            let columns = u32::from(self.shape.k + self.shape.m);
            let wanted = status.extents * columns + status.checkpoints.len() as u32 * each;
            if used == wanted {
                return;
            }
            assert!(self.now < limit, "seed {}: columns: {last}", self.shape.seed);
            last = format!("{used} held, {wanted} named, {:?}", status.checkpoints);
            self.run_for(Duration::from_millis(10));
        }
    }

    /// Flips a bit in copies of pages of checkpoints of that generation: of page `page`, the first `copies` met.
    pub fn rot_pages(&mut self, generation: u32, page: u32, copies: usize) -> usize {
        let mut hurt = 0;
        let unit = usize::from(self.shape.unit_blocks) * BLOCK;
        for at in 2..2 + self.shape.sleds {
            for block in self.nodes[at].disk.bytes.chunks_exact_mut(BLOCK) {
                let field = |from: usize| u32::from_le_bytes(block[from..from + 4].try_into().expect("four"));
                let ours = block.starts_with(b"PALCKPT\0") && (field(28), field(48)) == (generation, page);
                if ours && hurt < copies {
                    block[unit.min(BLOCK) - 900] ^= 4;
                    hurt += 1;
                }
            }
        }
        hurt
    }
}
