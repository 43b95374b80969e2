//! Costs of the head log without a device: appends, index look-ups and recovery (DESIGN section 6: at
//! least 1 GiB/s of log, at most 24 bytes a block). `cargo run --release --example log_bench [MiB]`.
//!
//! Prints one line per figure; the benches of `perf` run it and read the lines.

use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_isal::crc32c;
use palisade_protocol::log::*;
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::*;
use std::time::Instant;

const P: PartitionId = PartitionId(1);
/// Blocks of the volume: few enough that the log overwrites each of them.
const BLOCKS: u64 = 1 << 17;

/// Carries out every waiting command on memory.
fn serve(device: &mut [u8], out: &mut Out, mut done: impl FnMut(BlockDone, &mut Out)) {
    while let Some(cmd) = out.block.pop() {
        let result = match cmd.op {
            BlockOp::Read { offset, mut buf } => {
                let from = offset as usize;
                let len = buf.len();
                buf.copy_from_slice(&device[from..from + len]);
                BlockOk::Read(buf)
            }
            BlockOp::Write { offset, bufs, .. } => {
                let mut at = offset as usize;
                for buf in &bufs {
                    device[at..at + buf.len()].copy_from_slice(buf);
                    at += buf.len();
                }
                BlockOk::Done
            }
            BlockOp::Flush => BlockOk::Done,
        };
        done(BlockDone { key: cmd.key, result: Ok(result) }, out);
    }
}

fn recover(
    device: &mut [u8],
    config: &LogConfig,
    pool: &Pool,
) -> (Log, Vec<RecoveredPartition>, RecoveryReport) {
    let mut recovery = Recovery::new(config.clone(), pool.clone());
    let mut out = Out::default();
    recovery.start(&mut out);
    while recovery.state() == RecoveryState::Working {
        serve(device, &mut out, |done, out| recovery.handle_block(done, out));
    }
    assert!(recovery.state() == RecoveryState::Done, "recovers: {:?}", recovery.state());
    recovery.finish()
}

fn main() {
    let mib: u64 = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1024);
    let device_bytes = (mib + 96) << 20;
    let mut device = vec![0u8; device_bytes as usize];
    let pool = Pool::new(PoolConfig { slots: [4096, 64, 64], huge: false }).expect("memory for a pool");
    let log = LogId(1);
    let config = LogConfig {
        device: DeviceIx(0),
        device_bytes,
        rack: RackId(1),
        expect: None,
        format: Some(FormatAs { log, segment_bytes: 8 << 20, volume_blocks: BLOCKS }),
        rescue: None,
        hot_bytes: 4 << 20,
        faults: Faults::default(),
    };
    let (mut log, ..) = recover(&mut device, &config, &pool);
    let mut index = Index::new(BLOCKS);
    let (mut op, mut out, mut busy) = (0u64, Out::default(), 0.0);
    let mut turn = Vec::with_capacity(32);
    while log.room_for(64, Room::User) {
        for _ in 0..32 {
            op += 1;
            let lba = op.wrapping_mul(0x9e37_79b9) % BLOCKS;
            let mut data = pool.alloc(BLOCK).expect("a slot");
            data[..8].copy_from_slice(&op.to_le_bytes());
            let data: Buf = data.freeze();
            let crcs = [crc32c(&data)].into_iter().collect();
            turn.push(Entry {
                partition: P,
                number: Number::ZERO,
                op: Op(op),
                body: Body::Write { lba: Lba(lba), crcs, data },
            });
        }
        let start = Instant::now();
        let placed: Vec<_> = turn.iter().map(|entry| log.push(entry, Op(op - 32)).expect("room")).collect();
        log.end_turn(Time::ZERO, &mut out);
        busy += start.elapsed().as_secs_f64();
        serve(&mut device, &mut out, |done, out| log.handle_block(done, out));
        let start = Instant::now();
        for (entry, placed) in turn.iter().zip(&placed) {
            log.apply(&mut index, entry.op, &entry.body, placed.addr);
        }
        busy += start.elapsed().as_secs_f64();
        turn.clear();
    }
    println!("append_and_apply_ns_per_4k {:.0}", busy * 1e9 / op as f64);
    let start = Instant::now();
    let mut found = 0u64;
    for i in 0..4_000_000u64 {
        found += index.get(Lba(i.wrapping_mul(0x9e37_79b9) % BLOCKS)).op.0 & 1;
    }
    println!("index_get_ns {:.1} ({found})", start.elapsed().as_secs_f64() * 1e9 / 4e6);
    println!("index_bytes_per_block {:.2}", index.heap_bytes() as f64 / index.mapped() as f64);
    drop(log);
    let start = Instant::now();
    let (_, partitions, report) = recover(&mut device, &config, &pool);
    let seconds = start.elapsed().as_secs_f64();
    assert!(partitions[0].tail == Op(op) && report.torn == 0, "everything is found again");
    println!(
        "recovery_gib_per_s {:.2} ({} MiB, {} records)",
        report.bytes as f64 / seconds / (1u64 << 30) as f64,
        report.bytes >> 20,
        report.records
    );
}
