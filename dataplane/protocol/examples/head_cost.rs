//! CPU cost of the head machine alone: 4 KiB writes and hot reads on a primary whose disk and peer answer
//! at once. Prints nanoseconds per request; no I/O, no threads.

use palisade_dma::{Pool, PoolConfig};
use palisade_protocol::head::*;
use palisade_protocol::wire::*;
use std::time::Instant;

const PART: PartitionId = PartitionId(1);
const DEPTH: u64 = 32;

struct Bench {
    head: Head,
    out: Out,
    now: Time,
    stamp: Stamp,
    durable: Op,
    disk: Vec<u8>,
    answered: u64,
}

impl Bench {
    fn turn(&mut self) {
        self.now = Time(self.now.0 + 2_000);
        self.head.turn(self.now, &mut self.out);
        let mut out = std::mem::take(&mut self.out);
        for cmd in out.block.drain(..) {
            let result = match cmd.op {
                BlockOp::Read { offset, mut buf } => {
                    let (at, len) = (offset as usize, buf.len());
                    buf.copy_from_slice(&self.disk[at..at + len]);
                    Ok(BlockOk::Read(buf))
                }
                // The bytes need not be kept: only recovery would read them.
                BlockOp::Write { .. } | BlockOp::Flush => Ok(BlockOk::Done),
            };
            self.head.handle_block(self.now, BlockDone { key: cmd.key, result }, &mut self.out);
        }
        for (_, msg) in out.net.drain(..) {
            let answer = match msg {
                Msg::Announce { adopt, .. } => {
                    self.durable = adopt.tail;
                    let (log, durable, credit, covered) = (LogId(2), adopt.tail, u64::MAX / 2, Op(0));
                    Msg::Announced { stamp: self.stamp, log, durable, credit, covered, damaged: false }
                }
                Msg::Replicate { stamp, entries, .. } if !entries.is_empty() => {
                    self.durable = entries.last().map_or(self.durable, |entry| entry.op);
                    Msg::Replicated { stamp, durable: self.durable, credit: u64::MAX / 2, covered: Op(0) }
                }
                Msg::Confirm { nonce, stamps } => Msg::Confirmed { nonce, stamps },
                _ => continue,
            };
            self.head.handle_msg(self.now, NodeId(2), BootId(2), answer, &mut self.out);
        }
        self.answered += out.done.len() as u64;
        out.done.clear();
        out.events.clear();
        std::mem::swap(&mut out.block, &mut self.out.block);
        std::mem::swap(&mut out.net, &mut self.out.net);
        self.out.block.append(&mut out.block);
        self.out.net.append(&mut out.net);
    }

    fn drive(&mut self, count: u64, mut verb: impl FnMut(u64) -> ClientVerb) -> f64 {
        let (start, first) = (Instant::now(), self.answered);
        let mut sent = 0;
        while self.answered - first < count {
            while sent < count && sent - (self.answered - first) < DEPTH {
                let cmd = ClientCmd { tag: ClientTag(sent), partition: PART, verb: verb(sent) };
                self.head.handle_client(self.now, cmd, &mut self.out);
                sent += 1;
            }
            self.turn();
        }
        start.elapsed().as_nanos() as f64 / count as f64
    }
}

fn main() {
    let pool = Pool::new(PoolConfig { slots: [120_000, 256, 64], huge: false }).expect("memory");
    let blocks = 16_384u64;
    let bytes = 1 << 30;
    let log = HeadLog {
        volume_bytes: blocks << 12,
        ..HeadLog::new(DeviceIx(0), bytes, LogStart::Format(LogId(1)))
    };
    let mut config = HeadConfig::new(NodeId(1), BootId(1), RackId(1), log);
    let geometry = Geometry { k: 4, m: 2, unit_blocks: 16, stripes: 128 };
    config.partitions.push(PartitionConfig {
        partition: PART,
        blocks,
        geometry,
        columns_min: 0,
        devices: vec![],
        solo: Solo::Local,
        heads: 2,
    });
    config.hot_bytes = 256 << 20;
    let member = |n: u32| Member { head: NodeId(n), log: LogId(n.into()), boot: BootId(n.into()) };
    let stamp = Stamp { partition: PART, number: Number { epoch: 1, counter: 1 }, grant: GrantId(1) };
    let head = Head::new(config, pool.clone());
    let (out, now, disk) = (Out::default(), Time(1), vec![0; bytes as usize]);
    let mut bench = Bench { head, out, now, stamp, durable: Op(0), disk, answered: 0 };
    for _ in 0..100 {
        bench.turn();
    }
    let members: Vec<Member> = [member(1), member(2)].into();
    bench.head.assign(bench.now, Assignment::plain(stamp, members), &mut bench.out);
    for _ in 0..100 {
        bench.turn();
    }
    let verb_write = |at: u64| {
        let mut buf = pool.alloc(4096).expect("a slot");
        buf[..8].copy_from_slice(&at.to_le_bytes());
        ClientVerb::Write { offset: (at * 7919 % blocks) << 12, data: buf.freeze() }
    };
    let write = bench.drive(60_000, verb_write);
    let read = bench.drive(200_000, |at| ClientVerb::Read { offset: (at * 7919 % blocks) << 12, len: 4096 });
    let alloc = {
        let start = Instant::now();
        for at in 0..60_000 {
            drop(verb_write(at));
        }
        start.elapsed().as_nanos() as f64 / 60_000.0
    };
    println!("4 KiB write {write:.0} ns (of which the client's buffer {alloc:.0}), hot read {read:.0} ns");
}
