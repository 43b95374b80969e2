//! A bare volume: memory exported without heads, the baseline of the benches (DESIGN section 6).
//!
//! It has no log, no replica and no checksum, and says so in `status`: what it measures is the cost of
//! export and reactor alone. So it lives inside the export that serves it (no ring in between), and reads
//! hand out handles of its memory, which the socket copies from. Memory that a reader still holds is
//! replaced by a written copy, never changed under it. It is kept in pieces large enough for their
//! handles and counts to stay in the cache: a slot per block costs two more cache misses a request.

use palisade_dma::{Backing, Buf, BufMut, Pool, PoolConfig, PoolError, SLOT_CLASSES};
use palisade_protocol::wire::volume::{Payload, zeroes};
use palisade_protocol::wire::{ClientError, ClientOk, ClientVerb, PartitionId, StatusRun};

/// Bytes of a piece of the memory.
const CHUNK: usize = SLOT_CLASSES[1];
/// Pieces beyond the volume's own: replaced ones on their way out.
const SPARE: usize = 256;
/// Most runs of one block status; the client asks again for what follows.
const RUNS_MAX: usize = 256;

/// No buffer is free; here is the request again.
#[derive(Debug)]
pub struct NoBuffer(pub ClientVerb);

/// Memory behind an export.
#[derive(Debug)]
pub struct BareVolume {
    partition: PartitionId,
    bytes: u64,
    /// Never written (or cleared) ones are holes.
    chunks: Vec<Option<Buf>>,
    pool: Pool,
}

impl BareVolume {
    /// A volume of holes; its memory is mapped here and touched when it is written. It tries huge pages
    /// when `like` has them.
    pub fn new(partition: PartitionId, bytes: u64, like: Backing) -> Result<Self, PoolError> {
        let count = bytes.div_ceil(CHUNK as u64) as usize;
        let config = PoolConfig { slots: [1, count + SPARE, 1], huge: like != Backing::Ordinary };
        Ok(Self { partition, bytes, chunks: vec![None; count], pool: Pool::new(config)? })
    }

    /// Which commands are for it.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Carries a request out at once.
    pub fn carry_out(&mut self, verb: ClientVerb) -> Result<Result<ClientOk, ClientError>, NoBuffer> {
        let (offset, len) = range_of(&verb);
        if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
            return Ok(Err(ClientError::Range));
        }
        match verb {
            ClientVerb::Read { offset, len } => Ok(Ok(ClientOk::Data(self.read(offset, u64::from(len))))),
            ClientVerb::Write { offset, ref data } => {
                self.write(offset, data).map(|()| Ok(ClientOk::Done)).ok_or(NoBuffer(verb))
            }
            ClientVerb::Trim { offset, len } | ClientVerb::WriteZeroes { offset, len } => {
                self.clear(offset, len).map(|()| Ok(ClientOk::Done)).ok_or(NoBuffer(verb))
            }
            ClientVerb::Flush => Ok(Ok(ClientOk::Done)),
            ClientVerb::BlockStatus { offset, len } => Ok(Ok(ClientOk::Status(self.status(offset, len)))),
        }
    }

    fn read(&self, offset: u64, len: u64) -> Payload {
        let piece = |(chunk, at, len): (usize, usize, usize)| match &self.chunks[chunk] {
            Some(buf) => buf.slice(at..at + len),
            None => zeroes(len),
        };
        parts(offset, len).map(piece).collect()
    }

    /// `None` when there is no buffer for a part of it; doing it again from the start is harmless.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let mut taken = 0;
        for (chunk, at, len) in parts(offset, data.len() as u64) {
            let mut buf = self.writable(chunk)?;
            buf[at..at + len].copy_from_slice(&data[taken..taken + len]);
            self.chunks[chunk] = Some(buf.freeze());
            taken += len;
        }
        Some(())
    }

    /// Whole pieces become holes, parts of pieces zeroes.
    fn clear(&mut self, offset: u64, len: u64) -> Option<()> {
        for (chunk, at, len) in parts(offset, len) {
            if len == CHUNK || self.chunks[chunk].is_none() {
                self.chunks[chunk] = None;
                continue;
            }
            let mut buf = self.writable(chunk)?;
            buf[at..at + len].fill(0);
            self.chunks[chunk] = Some(buf.freeze());
        }
        Some(())
    }

    fn status(&self, offset: u64, len: u64) -> Vec<StatusRun> {
        let mut runs: Vec<StatusRun> = Vec::new();
        for (chunk, _, len) in parts(offset, len) {
            let (len, data, full) = (len as u64, self.chunks[chunk].is_some(), runs.len() == RUNS_MAX);
            match runs.last_mut() {
                Some(run) if run.data == data => run.len += len,
                _ if full => break,
                _ => runs.push(StatusRun { len, data }),
            }
        }
        runs
    }

    /// A piece's bytes, to be changed and put back: in place when nobody else holds them.
    fn writable(&mut self, chunk: usize) -> Option<BufMut> {
        let old = match self.chunks[chunk].take().map(Buf::try_mut) {
            None => return self.pool.alloc_zeroed(CHUNK),
            Some(Ok(own)) => return Some(own),
            Some(Err(shared)) => shared,
        };
        let copy = self.pool.alloc(CHUNK).map(|mut copy| {
            copy.copy_from_slice(&old);
            copy
        });
        self.chunks[chunk] = Some(old); // it stays what it was should there be no buffer
        copy
    }
}

fn range_of(verb: &ClientVerb) -> (u64, u64) {
    match verb {
        ClientVerb::Read { offset, len } => (*offset, u64::from(*len)),
        ClientVerb::Write { offset, data } => (*offset, data.len() as u64),
        ClientVerb::Trim { offset, len }
        | ClientVerb::WriteZeroes { offset, len }
        | ClientVerb::BlockStatus { offset, len } => (*offset, *len),
        ClientVerb::Flush => (0, 0),
    }
}

/// A range as (piece, offset in it, bytes of it).
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        let (chunk, into) = ((at / CHUNK as u64) as usize, (at % CHUNK as u64) as usize);
        let len = (end - at).min((CHUNK - into) as u64);
        at += len;
        (len > 0).then_some((chunk, into, len as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 8 * CHUNK as u64 + 512;

    fn volume() -> BareVolume {
        BareVolume::new(PartitionId(9), BYTES, Backing::Ordinary).expect("maps")
    }

    fn payloads() -> Pool {
        Pool::new(PoolConfig::small()).expect("maps")
    }

    fn pieces(volume: &mut BareVolume, offset: u64, len: u32) -> Payload {
        match volume.carry_out(ClientVerb::Read { offset, len }) {
            Ok(Ok(ClientOk::Data(data))) => data,
            other => panic!("{other:?}"),
        }
    }

    fn read(volume: &mut BareVolume, offset: u64, len: u32) -> Vec<u8> {
        pieces(volume, offset, len).iter().flat_map(|piece| piece.iter().copied()).collect()
    }

    fn write(volume: &mut BareVolume, pool: &Pool, offset: u64, bytes: &[u8]) {
        let mut buf = pool.alloc(bytes.len()).expect("slot");
        buf.copy_from_slice(bytes);
        let done = volume.carry_out(ClientVerb::Write { offset, data: buf.freeze() });
        assert!(matches!(done, Ok(Ok(ClientOk::Done))), "{done:?}");
    }

    #[test]
    fn a_bare_volume_reads_back_what_any_mix_of_writes_and_clears_left() {
        let (mut volume, pool) = (volume(), payloads());
        let mut model = vec![0u8; BYTES as usize];
        let mut random = 1u64;
        for round in 0..3000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let sectors = BYTES / 512;
            let first = (random >> 33) % sectors;
            let most = (sectors - first).min(if round % 3 == 0 { 8 } else { 500 });
            let len = (1 + (random >> 20) % most) * 512;
            let (offset, at) = (first * 512, (first * 512) as usize);
            let span = at..at + len as usize;
            match round % 5 {
                0..=2 => {
                    let bytes = vec![round as u8 | 1; len as usize];
                    write(&mut volume, &pool, offset, &bytes);
                    model[span.clone()].copy_from_slice(&bytes);
                }
                3 => {
                    let verb = ClientVerb::WriteZeroes { offset, len };
                    assert!(matches!(volume.carry_out(verb), Ok(Ok(ClientOk::Done))));
                    model[span.clone()].fill(0);
                }
                _ => {}
            }
            assert_eq!(read(&mut volume, offset, len as u32), model[span], "round {round}");
        }
        for at in (0..BYTES).step_by(CHUNK) {
            let len = (BYTES - at).min(CHUNK as u64);
            let span = at as usize..(at + len) as usize;
            assert!(read(&mut volume, at, len as u32) == model[span], "piece at {at}");
        }
        assert_eq!(pool.stats().free, pool.stats().total, "payload buffers are not kept");
    }

    #[test]
    fn a_reader_keeps_the_bytes_that_it_was_given() {
        let (mut volume, pool) = (volume(), payloads());
        write(&mut volume, &pool, 0, &[1; 4096]);
        let held = pieces(&mut volume, 0, 4096);
        write(&mut volume, &pool, 0, &[2; 4096]);
        assert!(held[0].iter().all(|&byte| byte == 1), "what a reader holds is not changed");
        write(&mut volume, &pool, 512, &[3; 512]);
        assert_eq!(read(&mut volume, 0, 1536), [[2u8; 512], [3; 512], [2; 512]].concat());
    }

    #[test]
    fn replaced_and_cleared_memory_is_free_again_when_its_reader_is_gone() {
        let (mut volume, pool) = (volume(), payloads());
        let free = |volume: &BareVolume| volume.pool.stats().free[1];
        let empty = free(&volume);
        write(&mut volume, &pool, 0, &[1; 4096]);
        let held = pieces(&mut volume, 0, 512);
        write(&mut volume, &pool, 0, &[2; 4096]);
        assert_eq!(free(&volume), empty - 2, "the reader's and the volume's");
        drop(held);
        assert_eq!(free(&volume), empty - 1);
        let verb = ClientVerb::Trim { offset: 0, len: CHUNK as u64 };
        assert!(matches!(volume.carry_out(verb), Ok(Ok(ClientOk::Done))));
        assert_eq!(free(&volume), empty);
    }

    #[test]
    fn ranges_outside_are_refused_and_holes_are_told() {
        let (mut volume, pool) = (volume(), payloads());
        for (offset, len) in [(BYTES, 512), (BYTES - 512, 1024), (u64::MAX - 511, 512)] {
            let done = volume.carry_out(ClientVerb::Read { offset, len });
            assert!(matches!(done, Ok(Err(ClientError::Range))), "{done:?}");
        }
        write(&mut volume, &pool, CHUNK as u64, &[1; CHUNK]);
        let verb = ClientVerb::BlockStatus { offset: 512, len: 3 * CHUNK as u64 };
        let Ok(Ok(ClientOk::Status(runs))) = volume.carry_out(verb) else { panic!("a status") };
        let told: Vec<(u64, bool)> = runs.iter().map(|run| (run.len, run.data)).collect();
        assert_eq!(told, [(65536 - 512, false), (65536, true), (65536 + 512, false)]);
    }

    #[test]
    fn without_a_buffer_the_request_comes_back_and_succeeds_later() {
        let (mut volume, pool) = (volume(), payloads());
        let all: Vec<BufMut> = std::iter::from_fn(|| volume.pool.alloc(CHUNK)).collect();
        let mut buf = pool.alloc(4096).expect("slot");
        buf.fill(7);
        let verb = ClientVerb::Write { offset: 0, data: buf.freeze() };
        let Err(NoBuffer(verb)) = volume.carry_out(verb) else { panic!("there was none") };
        drop(all);
        assert!(matches!(volume.carry_out(verb), Ok(Ok(ClientOk::Done))));
        assert_eq!(read(&mut volume, 0, 4096), [7; 4096]);
    }
}
