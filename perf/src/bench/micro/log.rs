//! The head log on memory: cost of an append, speed of recovery (both in CPU time of one core), and memory
//! of the index.

use super::cpu_nanos;
use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_isal::crc32c;
use palisade_protocol::log::{Faults, FormatAs, Index, Log, LogConfig, Recovery, RecoveryState, Room};
use palisade_protocol::wire::{
    BlockCmd, BlockDone, BlockOk, BlockOp, Body, DeviceIx, Entry, Lba, LogId, Number, Op, Out, PartitionId,
    RackId, Time,
};

static BLOCK: [u8; 4096] = [5; 4096];
/// The device.
const DEVICE_BYTES: usize = 320 << 20;
/// Blocks of the volume; as many random writes go to it.
const VOLUME_BLOCKS: u64 = 48 << 10;
/// Entries of a turn, which share a record.
const BATCH: u64 = 32;
/// The partition.
const PARTITION: PartitionId = PartitionId(1);

/// What was measured.
pub(super) struct LogFigures {
    /// Heap bytes of the index per mapped block.
    pub(super) index_bytes: f64,
    /// GiB of log a second.
    pub(super) recovery_gib: f64,
    /// Nanoseconds of an append with its apply, device copy included.
    pub(super) append_nanos: f64,
}

/// Memory that carries out commands at once.
struct Disk(Vec<u8>);

impl Disk {
    fn carry_out(&mut self, command: BlockCmd) -> BlockDone {
        let ok = match command.op {
            BlockOp::Read { offset, mut buf } => {
                let (from, len) = (offset as usize, buf.len());
                buf.copy_from_slice(&self.0[from..from + len]);
                BlockOk::Read(buf)
            }
            BlockOp::Write { offset, bufs, .. } => {
                let mut at = offset as usize;
                for buf in bufs {
                    self.0[at..at + buf.len()].copy_from_slice(&buf);
                    at += buf.len();
                }
                BlockOk::Done
            }
            BlockOp::Flush => BlockOk::Done,
        };
        BlockDone { key: command.key, result: Ok(ok) }
    }
}

fn config(blank: bool) -> LogConfig {
    let format = FormatAs { log: LogId(1), segment_bytes: 8 << 20, volume_blocks: VOLUME_BLOCKS };
    LogConfig {
        device: DeviceIx(0),
        device_bytes: DEVICE_BYTES as u64,
        rack: RackId(1),
        expect: None,
        format: blank.then_some(format),
        rescue: None,
        hot_bytes: 1 << 20,
        faults: Faults::default(),
    }
}

fn recover(disk: &mut Disk, pool: &Pool, config: LogConfig) -> Result<Recovery, String> {
    let mut recovery = Recovery::new(config, pool.clone());
    let mut out = Out::default();
    recovery.start(&mut out);
    while recovery.state() == RecoveryState::Working {
        let commands: Vec<BlockCmd> = out.block.drain(..).collect();
        if commands.is_empty() {
            return Err("recovery waits for nothing".into());
        }
        for command in commands {
            let done = disk.carry_out(command);
            recovery.handle_block(done, &mut out);
        }
    }
    match recovery.state() {
        RecoveryState::Done => Ok(recovery),
        other => Err(format!("{other:?}")),
    }
}

/// Fills a log with single-block writes at random places.
fn fill(log: &mut Log, disk: &mut Disk, index: &mut Index) -> Result<u64, String> {
    let crc = crc32c(&BLOCK);
    let mut out = Out::default();
    let mut bodies = Vec::new();
    let mut op = 0;
    while op < VOLUME_BLOCKS && log.room_for(BATCH * 2, Room::User) {
        for _ in 0..BATCH {
            op += 1;
            let random = u128::from(op.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let lba = Lba(((random * u128::from(VOLUME_BLOCKS)) >> 64) as u64);
            let data = Buf::from_static(&BLOCK);
            let body = Body::Write { lba, crcs: std::iter::once(crc).collect(), data };
            let entry = Entry { partition: PARTITION, number: Number::default(), op: Op(op), body };
            let placed = log.push(&entry, Op(op.saturating_sub(BATCH))).map_err(|e| e.to_string())?;
            bodies.push((entry, placed.addr));
        }
        log.end_turn(Time(op), &mut out);
        while !out.block.is_empty() {
            let commands: Vec<BlockCmd> = out.block.drain(..).collect();
            for command in commands {
                let done = disk.carry_out(command);
                log.handle_block(done, &mut out);
            }
        }
        for (entry, addr) in bodies.drain(..) {
            log.apply(index, entry.op, &entry.body, addr);
        }
    }
    Ok(op)
}

/// Measures all three.
pub(super) fn measure() -> Result<LogFigures, String> {
    let pool = Pool::new(PoolConfig::sized(64 << 20, false)).map_err(|e| e.to_string())?;
    let mut disk = Disk(vec![1; DEVICE_BYTES]);
    disk.0.fill(0); // the pages are there before anything is timed
    let (mut log, _, _) = recover(&mut disk, &pool, config(true))?.finish();
    let mut index = Index::new(VOLUME_BLOCKS);
    let begin = cpu_nanos();
    let writes = fill(&mut log, &mut disk, &mut index)?;
    let append_nanos = (cpu_nanos() - begin) / writes as f64;
    let index_bytes = index.heap_bytes() as f64 / index.mapped() as f64;
    let begin = cpu_nanos();
    let (_, partitions, report) = recover(&mut disk, &pool, config(false))?.finish();
    let seconds = (cpu_nanos() - begin) / 1e9;
    let found = partitions.iter().map(|p| p.tail.0).max().unwrap_or(0);
    if found != writes {
        return Err(format!("recovery found {found} of {writes} writes"));
    }
    let recovery_gib = report.bytes as f64 / seconds / f64::from(1 << 30);
    Ok(LogFigures { index_bytes, recovery_gib, append_nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_filled_is_found_again_whole() {
        let figures = measure().expect("measured");
        assert!(figures.index_bytes > 8.0 && figures.recovery_gib > 0.0 && figures.append_nanos > 0.0);
    }
}
