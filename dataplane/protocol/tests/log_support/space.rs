//! How blocks leave the log: flushes, copies to its head, releases, checkpoints.

use super::*;

impl Rig {
    /// Gathers up to a stripe of the oldest live committed blocks and repoints them into an extent.
    pub fn flush(&mut self) {
        let room = GEOMETRY.stripe_blocks() as usize;
        let committed = self.committed;
        let mut gathered: Vec<(Lba, Op, Vec<u8>)> = Vec::new();
        let index = &self.indexes[&P];
        self.log.oldest_live(&mut |run| {
            for i in 0..u64::from(run.blocks) {
                let (lba, addr) = (Lba(run.lba.0 + i), run.addr.plus(i));
                let mapping = index.get(lba);
                if run.op <= committed
                    && mapping.op == run.op
                    && mapping.loc == Loc::Log(addr)
                    && gathered.len() < room
                {
                    let bytes = self.mem.bytes[addr.offset() as usize..][..BLOCK].to_vec();
                    assert_eq!(crc32c(&bytes), mapping.crc);
                    gathered.push((lba, run.op, bytes));
                }
            }
            gathered.len() < room
        });
        if gathered.is_empty() {
            return;
        }
        let (extent, stripe) = match self.filling {
            Some((extent, stripe)) if stripe < GEOMETRY.stripes => (extent, stripe),
            _ => {
                let id = ExtentId(self.op.0 + 1);
                let column = |n| ColumnRef {
                    sled: NodeId(n),
                    device: DeviceId(u128::from(n)),
                    column: 3,
                    generation: 9,
                };
                let columns = (0..3).map(|n| (n < 2).then(|| column(n))).collect();
                let number = Number { epoch: 1, counter: 1 };
                let desc = ExtentDesc { id, number, geometry: GEOMETRY, columns };
                if self.push(Body::ExtentCreate(Box::new(desc))).is_err() {
                    return;
                }
                (id, 0)
            }
        };
        self.filling = Some((extent, stripe + 1));
        let first = stripe * GEOMETRY.stripe_blocks();
        let mut entries = Vec::new();
        for ((lba, op, bytes), block) in gathered.into_iter().zip(first..) {
            entries.push(RepointEntry { lba, op, from: GatheredFrom::Log, block, crc: crc32c(&bytes) });
            self.extents.insert((extent, block), bytes);
        }
        let repoint = Repoint { extent, first_stripe: stripe, stripes: 1, absent: 4, entries };
        let _ = self.push(Body::Repoint(Box::new(repoint)));
    }

    /// Releases a wholly dead extent that is full.
    pub fn release_extent(&mut self) {
        let filling = self.filling.map(|(id, _)| id);
        let dead =
            self.index().extents().find(|(_, x)| x.live == 0 && x.stripes > 0 && Some(x.desc.id) != filling);
        let dead = dead.map(|(_, x)| x.desc.id);
        // Only one that no waiting operation names.
        if let Some(extent) = dead.filter(|_| self.waiting.is_empty()) {
            let _ = self.push(Body::Release { extent });
        }
    }

    pub fn release(&mut self) -> u32 {
        let committed = self.committed;
        self.log.try_release(&|_| Some(committed))
    }

    pub fn begin_checkpoint(&mut self) {
        let meta = PartitionMeta {
            partition: P,
            blocks: self.blocks,
            committed: self.committed,
            adopted: self.adopted.clone(),
            damaged: false,
            origin: Origin::default(),
        };
        self.log.checkpoint_begin(vec![meta]);
    }

    /// Moves the first live run of the tail segment forward.
    pub fn copy_forward(&mut self) {
        if !self.copies.is_empty() {
            return;
        }
        let mut runs = Vec::new();
        self.log.tail_live(&mut runs);
        let index = &self.indexes[&P];
        let committed = self.committed;
        let run =
            runs.into_iter().find(|run| run.op <= committed && index.get(run.lba).loc == Loc::Log(run.addr));
        let Some(run) = run else { return };
        let blocks = run.blocks.min(8) as usize;
        let mut data = self.pool.alloc(blocks * BLOCK).expect("a buffer");
        data.copy_from_slice(&self.mem.bytes[run.addr.offset() as usize..][..blocks * BLOCK]);
        let crcs = data.chunks_exact(BLOCK).map(crc32c).collect();
        let copy =
            CopyForward { partition: P, op: run.op, lba: run.lba, crcs, from: run.addr, data: data.freeze() };
        if let Ok(placed) = self.log.push_copy(&copy, self.committed) {
            self.copies.push((copy, placed));
        }
    }
}
