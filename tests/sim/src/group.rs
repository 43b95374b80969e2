//! Invariants of the group, judged at the heads' doors (direct mode: fabric mode shows only datagrams).
//!
//! `AckedIsDurable` (P-06, MA-08): the answer to a write leaves the primary only after every secondary reported,
//! under the number in force, a durable watermark that covers its operations. Operations are found by the
//! buffers of the client's own write, which are replicated by handle.
//! `ReleaseLast` for columns (P-28): a column of an extent that was announced to a secondary is released
//! only after every secondary's durable checkpoint covers the release operation.
//! `ReadConfirmed` (P-12, MA-07): the answer to a read leaves only after a confirm that was sent after the read
//! arrived came back under the same stamp, from every secondary.

use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// An open request at its primary.
#[derive(Clone, Copy, Debug)]
struct Asked {
    partition: PartitionId,
    when: Time,
    read: bool,
    /// Of a write: address of its buffer, its length, and where it goes.
    buf: Option<(usize, usize, u64)>,
    /// Its highest operation seen so far.
    op: Option<Op>,
    /// A read that was open while its head served alone: there was nobody to ask, and nobody who could have
    /// served anything newer.
    unasked: bool,
    /// A read that every secondary of the group of that time confirmed. The group may have changed since, under
    /// the same primary: that takes nothing back.
    sure: bool,
}

/// What is known of a primary in its present life.
#[derive(Debug, Default)]
struct Primary {
    asked: BTreeMap<ClientTag, Asked>,
    durable: BTreeMap<(PartitionId, NodeId), (Number, Op)>,
    /// Open questions by whom they went to and their nonce: nonces are a peer's own. When each was first sent.
    confirms: BTreeMap<(NodeId, u64), (Time, Vec<Stamp>)>,
    confirmed: BTreeMap<(PartitionId, NodeId), Time>,
    /// Who follows, of the partitions that it serves, and since which number; by leave to be alone: nobody.
    others: BTreeMap<PartitionId, Vec<NodeId>>,
    numbers: BTreeMap<PartitionId, Number>,
}

impl Primary {
    /// Serves by leave to be alone: there is nobody to ask.
    fn alone(&self, partition: PartitionId) -> bool {
        self.others.get(&partition).is_some_and(Vec::is_empty)
    }

    /// When the newest question that every secondary confirmed was sent.
    fn confirmed_by_all(&self, partition: PartitionId) -> Time {
        let others = self.others.get(&partition).into_iter().flatten();
        let told = |other: &NodeId| self.confirmed.get(&(partition, *other)).copied();
        others.map(|other| told(other).unwrap_or_default()).min().unwrap_or_default()
    }

    /// Notes the open reads that are confirmed.
    fn make_sure(&mut self, partition: PartitionId) {
        let upto = self.confirmed_by_all(partition);
        let open = self.asked.values_mut().filter(|asked| asked.partition == partition && asked.read);
        open.for_each(|asked| asked.sure |= asked.when <= upto);
    }
}

/// The state of the group checks.
#[derive(Debug, Default)]
pub struct GroupChecks {
    primaries: BTreeMap<NodeId, Primary>,
    /// Which extent a column generation belongs to, and the operation that created it.
    extents: BTreeMap<(DeviceId, u32, u32), (PartitionId, ExtentId, Op)>,
    /// The operation that released an extent.
    released: BTreeMap<(PartitionId, ExtentId), Op>,
    /// The newest number that anybody began to serve under.
    served: BTreeMap<PartitionId, Number>,
    /// What the secondaries' checkpoints cover.
    covered: BTreeMap<(PartitionId, NodeId), Op>,
    /// What a head that is alone holds is not enough to answer a write.
    two_copies: bool,
    /// Column releases that were held against a checkpoint.
    pub checked_releases: u64,
    /// Writes whose watermark was checked.
    pub checked_writes: u64,
    /// Reads whose confirm was checked.
    pub checked_reads: u64,
}

impl GroupChecks {
    /// Nothing was seen yet; `two_copies`: a head that is alone may answer no write.
    pub fn new(two_copies: bool) -> Self {
        Self { two_copies, ..Self::default() }
    }

    /// A head begins a new life.
    pub fn died(&mut self, head: NodeId) {
        self.primaries.remove(&head);
    }

    /// A head begins to serve under a number that was granted to it and `others`. Alone, what others had
    /// announced beyond its log never was (P-01), and nobody is told where that ends.
    pub fn serves(&mut self, head: NodeId, stamp: Stamp, others: Vec<NodeId>) {
        let partition = stamp.partition;
        let newest = self.served.entry(partition).or_default();
        *newest = (*newest).max(stamp.number);
        let primary = self.primaries.entry(head).or_default();
        let alone = others.is_empty();
        primary.others.insert(partition, others);
        primary.numbers.insert(partition, stamp.number);
        if alone {
            let open = primary.asked.values_mut().filter(|asked| asked.partition == partition);
            open.for_each(|asked| asked.unasked = asked.read);
            self.extents.retain(|_, (of, _, _)| *of != partition);
            self.released.retain(|(of, _), _| *of != partition);
        }
    }

    /// A client's request reaches a head's machine.
    pub fn asked(&mut self, head: NodeId, cmd: &ClientCmd, now: Time) {
        // Only whole blocks travel in the client's own buffer; others are merged into fresh ones, and a
        // freed buffer serves somebody else at once.
        let whole = |offset: u64, len: usize| {
            offset.is_multiple_of(limits::BLOCK as u64) && len.is_multiple_of(limits::BLOCK)
        };
        let buf = match &cmd.verb {
            ClientVerb::Write { offset, data } if whole(*offset, data.len()) => {
                Some((data.as_ptr() as usize, data.len(), *offset))
            }
            _ => None,
        };
        let read = matches!(cmd.verb, ClientVerb::Read { .. });
        let primary = self.primaries.entry(head).or_default();
        let unasked = read && primary.alone(cmd.partition);
        let asked = Asked { partition: cmd.partition, when: now, read, buf, op: None, unasked, sure: false };
        primary.asked.insert(cmd.tag, asked);
    }

    /// A message reaches a head's machine.
    pub fn message_in(&mut self, head: NodeId, from: NodeId, msg: &Msg) {
        if let Msg::Replicated { stamp, covered, .. } | Msg::Announced { stamp, covered, .. } = msg {
            let newest = self.covered.entry((stamp.partition, from)).or_default();
            *newest = (*newest).max(*covered);
        }
        let primary = self.primaries.entry(head).or_default();
        match msg {
            Msg::Replicated { stamp, durable, .. } | Msg::Announced { stamp, durable, .. } => {
                let newest = primary.durable.entry((stamp.partition, from)).or_default();
                *newest = (*newest).max((stamp.number, *durable));
            }
            Msg::Confirmed { nonce, stamps } => {
                let Some((sent, asked)) = primary.confirms.remove(&(from, *nonce)) else { return };
                for (stamp, _) in stamps.iter().zip(&asked).filter(|(held, asked)| held == asked) {
                    let newest = primary.confirmed.entry((stamp.partition, from)).or_default();
                    *newest = (*newest).max(sent);
                    primary.make_sure(stamp.partition);
                }
            }
            _ => {}
        }
    }

    /// A message leaves a head for another node.
    pub fn message_out(&mut self, head: NodeId, to: NodeId, msg: &Msg, now: Time) -> Result<(), String> {
        match msg {
            // What a superseded head still numbers never was: nobody takes it under that number any more.
            Msg::Replicate { stamp, .. } if self.served.get(&stamp.partition) > Some(&stamp.number) => {}
            // Alone it has at most a guest, which may go before it hears of a release.
            Msg::Replicate { stamp, .. } if self.is_alone(head, stamp.partition) => {}
            // What a secondary has beyond its new primary's end lives on, too.
            Msg::Replicate { stamp, entries, .. } | Msg::Probed { stamp, entries, .. } => {
                entries.iter().for_each(|entry| self.note_extent(stamp.partition, entry));
            }
            Msg::Announce { adopt, .. } => self.cut_back(adopt),
            Msg::ColumnRelease { column, .. } => self.check_release(head, column)?,
            _ => {}
        }
        let primary = self.primaries.entry(head).or_default();
        match msg {
            Msg::Confirm { nonce, stamps } => {
                primary.confirms.entry((to, *nonce)).or_insert_with(|| (now, stamps.to_vec()));
            }
            Msg::Replicate { stamp, entries, .. } => {
                for entry in entries {
                    let Body::Write { lba, data, .. } = &entry.body else { continue };
                    let at = data.as_ptr() as usize;
                    // The place must fit, too: a buffer that is done with serves another write at once, even
                    // before the answer to the first has left.
                    let owner = primary.asked.values_mut().find(|asked| {
                        asked.partition == stamp.partition
                            && asked.buf.is_some_and(|(start, len, offset)| {
                                (start..start + len).contains(&at)
                                    && lba.0 * limits::BLOCK as u64 == offset + (at - start) as u64
                            })
                    });
                    if let Some(owner) = owner {
                        owner.op = owner.op.max(Some(entry.op));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn is_alone(&self, head: NodeId, partition: PartitionId) -> bool {
        self.primaries.get(&head).is_some_and(|primary| primary.alone(partition))
    }

    fn note_extent(&mut self, partition: PartitionId, entry: &Entry) {
        match &entry.body {
            Body::ExtentCreate(desc) => {
                for column in desc.columns.iter().flatten() {
                    let key = (column.device, column.column, column.generation);
                    self.extents.insert(key, (partition, desc.id, entry.op));
                }
            }
            Body::Release { extent } => {
                self.released.insert((partition, *extent), entry.op);
            }
            _ => {}
        }
    }

    /// A takeover voids what lies above its tail (P-01): such extents never were.
    fn cut_back(&mut self, adopt: &Adopt) {
        let stands = |partition: PartitionId, op: Op| partition != adopt.partition || op <= adopt.tail;
        self.extents.retain(|_, (partition, _, op)| stands(*partition, *op));
        self.released.retain(|(partition, _), op| stands(*partition, *op));
    }

    fn check_release(&mut self, head: NodeId, column: &ColumnRef) -> Result<(), String> {
        let key = (column.device, column.column, column.generation);
        let Some((partition, extent, _)) = self.extents.get(&key).copied() else { return Ok(()) };
        self.checked_releases += 1;
        let others = self.primaries.get(&head).and_then(|primary| primary.others.get(&partition));
        // Alone there is nobody whose checkpoint could name it. A guest may have been told of the extent, and have
        // gone before its release: it empties its log before it is told of anything again.
        if others.is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let reach = |other: &NodeId| self.covered.get(&(partition, *other)).copied().unwrap_or_default();
        let covered = others.into_iter().flatten().map(reach).min().unwrap_or(Op(u64::MAX));
        match self.released.get(&(partition, extent)) {
            Some(op) if *op <= covered => Ok(()),
            found => Err(format!(
                "ReleaseLast: column {} of extent {} is released; its release op {found:?} is not covered, the \
                 least of the secondaries' checkpoints reaches {covered}",
                column.column, extent
            )),
        }
    }

    /// A client is answered well.
    pub fn answered(&mut self, head: NodeId, tag: ClientTag, ok: bool) -> Result<(), String> {
        let primary = self.primaries.entry(head).or_default();
        let Some(asked) = primary.asked.remove(&tag) else { return Ok(()) };
        if !ok {
            return Ok(());
        }
        if primary.alone(asked.partition) {
            return match asked.buf {
                Some(_) if self.two_copies => {
                    Err(format!("SoloByLeave: write {} was answered from one copy (P-30)", tag.0))
                }
                _ => Ok(()),
            };
        }
        if asked.read {
            self.checked_reads += 1;
            let confirmed = primary.confirmed_by_all(asked.partition);
            if confirmed < asked.when && !asked.unasked && !asked.sure {
                return Err(format!(
                    "ReadConfirmed: read {} of {} was answered, last confirmed question of {}",
                    tag.0, asked.when.0, confirmed.0
                ));
            }
        } else if let Some(op) = asked.op {
            self.checked_writes += 1;
            let others = primary.others.get(&asked.partition).into_iter().flatten();
            // What a log held under an older number may be gone with it. A blank log names no columns, though, so
            // that what its predecessor had covered stays so.
            let number = primary.numbers.get(&asked.partition).copied().unwrap_or_default();
            let told = |other: &NodeId| primary.durable.get(&(asked.partition, *other)).copied();
            let durable = |other: &NodeId| told(other).filter(|told| told.0 >= number).unwrap_or_default().1;
            let durable = others.map(durable).min().unwrap_or_default();
            if durable < op {
                return Err(format!(
                    "AckedIsDurable: write {} was answered at op {op}, the least of the secondaries told {durable}",
                    tag.0
                ));
            }
        }
        Ok(())
    }
}
