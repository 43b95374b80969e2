//! Ends of a head's life, and what the next one finds.

use super::*;

impl Rig {
    /// Crash, recovery, adoption of a new number; checks everything that was acknowledged.
    pub fn crash(&mut self) -> RecoveryReport {
        self.mem.crash(&mut self.rng);
        self.restart()
    }

    /// Restart of the process with the device as it is.
    pub fn restart(&mut self) -> RecoveryReport {
        self.mem.queue.clear();
        let durable = self.log.durable();
        let logged = self.waiting.iter().take_while(|(_, placed)| placed.lsn <= durable).last();
        let logged = logged.map_or(self.acked, |(op, _)| *op);
        let (log, partitions, report, _) =
            recover(&mut self.mem, &self.config, &self.pool, &mut self.rng).expect("recovers");
        self.log = log;
        self.waiting.clear();
        self.copies.clear();
        self.moves.clear();
        self.filling = None;
        for other in partitions.iter().filter(|p| p.partition != P) {
            self.forget_other(other);
        }
        let mut found = partitions.into_iter().find(|p| p.partition == P);
        if let Some(found) = &mut found {
            assert!(!found.damaged, "nothing durable is lost: {report:?}");
            assert!(found.bad.is_empty(), "nothing rotted: {:?}", found.bad);
            assert!(
                found.tail >= self.acked,
                "AckedIsDurable: {:?} acknowledged, {:?} held",
                self.acked,
                found.tail
            );
            assert!(found.tail >= logged, "{logged:?} was durable, {:?} is held", found.tail);
            let (true_to, said) = (self.acked, found.committed);
            assert!(said <= true_to, "{said:?} passes for committed, {true_to:?} is");
            found.pending.iter().for_each(|pending| self.check_payload(pending));
            let cut = if self.lag {
                self.acked.0 + self.rng.below(found.tail.0 - self.acked.0 + 1)
            } else {
                found.tail.0
            };
            self.history.retain(|op, _| *op <= found.committed.max(self.acked));
            for pending in std::mem::take(&mut found.pending) {
                if pending.op.0 > cut {
                    if let LoggedBody::Write { crcs, .. } = &pending.body {
                        self.log.dead(pending.addr, crcs.len() as u32);
                    }
                    continue;
                }
                if self.away {
                    self.waiting.push((pending.op, Placed { lsn: Lsn(0), addr: pending.addr }));
                    self.remember(pending);
                    continue;
                }
                self.log.apply_logged(&mut found.index, pending.op, &pending.body, pending.addr);
                self.remember(pending);
            }
            found.tail = Op(cut);
        }
        let tail = found.as_ref().map_or(Op(0), |f| f.tail);
        let committed = found.as_ref().map_or(Op(0), |f| f.committed);
        let acked = self.acked;
        assert!(tail >= acked, "AckedIsDurable: {acked:?} was acknowledged, {tail:?} is held");
        self.adopted = found.as_ref().and_then(|f| f.adopted.clone());
        self.indexes = BTreeMap::from([(P, found.map_or_else(|| Index::new(self.blocks), |f| f.index))]);
        (self.op, self.committed, self.acked) = (tail, tail, tail);
        if self.away {
            // What a checkpoint holds may be newer than what a log without commits tells.
            (self.committed, self.acked) = (committed, acked);
        } else {
            self.check();
        }
        self.adopt();
        report
    }

    /// An operation that was held but not acknowledged counts from now on; one that was, is unchanged.
    pub(super) fn remember(&mut self, pending: PendingOp) {
        let body = match pending.body {
            LoggedBody::Write { lba, crcs } => Body::Write { lba, crcs, data: Buf::from_static(&[]) },
            LoggedBody::Other(body) => body,
        };
        let held = format!("{body:?}");
        let known = self.history.entry(pending.op).or_insert(body);
        assert_eq!(format!("{known:?}"), held, "operation {:?} is the one acknowledged", pending.op);
    }

    /// Logs an adoption at the present tail.
    pub fn adopt(&mut self) {
        let counter = self.adopted.as_ref().map_or(1, |a| a.number.counter + 1);
        let number = Number { epoch: 1, counter };
        let members = vec![Member { head: NodeId(1), log: LOG, boot: BootId(u128::from(counter)) }].into();
        let adopt = Adopt { partition: P, number, grant: GrantId(counter), members, tail: self.op };
        self.log.push_adopt(&adopt, self.committed).expect("metadata has room");
        self.adopted = Some(adopt);
    }
}

/// Runs a recovery on the device to its end.
pub fn recover(
    mem: &mut Mem,
    config: &LogConfig,
    pool: &Pool,
    rng: &mut Rng,
) -> Result<(Log, Vec<RecoveredPartition>, RecoveryReport, Out), LogError> {
    let mut recovery = Recovery::new(config.clone(), pool.clone());
    let mut out = Out::default();
    recovery.start(&mut out);
    loop {
        match recovery.state() {
            RecoveryState::Done => break,
            RecoveryState::Failed(error) => return Err(error),
            RecoveryState::Working => {}
        }
        mem.submit(&mut out);
        assert!(!mem.queue.is_empty(), "a working recovery waits for something");
        let i = rng.below(mem.queue.len() as u64) as usize;
        let done = mem.finish(i);
        recovery.handle_block(done, &mut out);
    }
    let (log, partitions, report) = recovery.finish();
    Ok((log, partitions, report, out))
}
