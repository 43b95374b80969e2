//! A bare volume: memory exported without heads, the baseline of the benches (DESIGN section 6).
//!
//! It has no log, no replica and no checksum, and says so in `status`: what it measures is the cost of
//! export and reactor alone. So it lives inside the export that serves it (no ring in between). Simple
//! requests are carried out while they are parsed ([`Beside`]): their bytes are lent, and the volume has its
//! memory to itself. The others come as commands, and large reads get handles of the memory, which the
//! socket copies from; memory that a reader still holds is replaced by a written copy, never changed under
//! it. It is kept in pieces large enough for their handles to stay in the cache.

use palisade_dma::{Backing, Buf, BufMut, Pool, PoolConfig, PoolError, SLOT_CLASSES, prefetch};
use palisade_protocol::export::nbd::{Beside, Lent};
use palisade_protocol::wire::volume::{Payload, zeroes};
use palisade_protocol::wire::{ClientError, ClientOk, ClientVerb, PartitionId, StatusRun};

/// Bytes of a piece of the memory.
const CHUNK: usize = SLOT_CLASSES[1];
/// Pieces beyond the volume's own: replaced ones on their way out.
const SPARE: usize = 256;
/// How much of the next request's bytes is brought near; the processor brings the rest by itself once it
/// sees them read in a row.
const NEAR: usize = 1 << 10;
/// Most runs of one block status; the client asks again for what follows.
const RUNS_MAX: usize = 256;

/// No buffer is free; here is the request again.
#[derive(Debug)]
pub struct NoBuffer(pub ClientVerb);

/// A piece of the memory.
#[derive(Debug, Default)]
enum Chunk {
    /// Never written, or cleared.
    #[default]
    Hole,
    /// Nobody else has it: it is written in place, without a look at its count.
    Own(BufMut),
    /// Readers were given handles of it, and may have them still.
    Shared(Buf),
}

impl Chunk {
    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Hole => None,
            Self::Own(buf) => Some(buf),
            Self::Shared(buf) => Some(buf),
        }
    }

    /// A handle of its bytes, which makes it shared.
    fn share(&mut self) -> Option<Buf> {
        *self = match std::mem::take(self) {
            Self::Own(buf) => Self::Shared(buf.freeze()),
            other => other,
        };
        match self {
            Self::Shared(buf) => Some(buf.clone()),
            _ => None,
        }
    }
}

/// Memory behind an export.
#[derive(Debug)]
pub struct BareVolume {
    partition: PartitionId,
    bytes: u64,
    chunks: Vec<Chunk>,
    pool: Pool,
}

impl BareVolume {
    /// A volume of holes; its memory is mapped here and touched when it is written. It tries huge pages
    /// when `like` has them.
    pub fn new(partition: PartitionId, bytes: u64, like: Backing) -> Result<Self, PoolError> {
        let count = bytes.div_ceil(CHUNK as u64) as usize;
        let config = PoolConfig { slots: [1, count + SPARE, 1], huge: like != Backing::Ordinary };
        let chunks = (0..count).map(|_| Chunk::Hole).collect();
        Ok(Self { partition, bytes, chunks, pool: Pool::new(config)? })
    }

    /// Carries a request out at once.
    pub fn carry_out(&mut self, verb: ClientVerb) -> Result<Result<ClientOk, ClientError>, NoBuffer> {
        let (offset, len) = range_of(&verb);
        if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
            return Ok(Err(ClientError::Range));
        }
        match verb {
            ClientVerb::Read { offset, len } => Ok(Ok(ClientOk::Data(self.pieces(offset, u64::from(len))))),
            ClientVerb::Write { offset, ref data } => {
                self.put(offset, data).map(|()| Ok(ClientOk::Done)).ok_or(NoBuffer(verb))
            }
            ClientVerb::Trim { offset, len } | ClientVerb::WriteZeroes { offset, len } => {
                self.clear(offset, len).map(|()| Ok(ClientOk::Done)).ok_or(NoBuffer(verb))
            }
            ClientVerb::Flush => Ok(Ok(ClientOk::Done)),
            ClientVerb::BlockStatus { offset, len } => Ok(Ok(ClientOk::Status(self.status(offset, len)))),
        }
    }

    fn pieces(&mut self, offset: u64, len: u64) -> Payload {
        let piece = |(chunk, at, len): (usize, usize, usize)| match self.chunks[chunk].share() {
            Some(buf) => buf.slice(at..at + len),
            None => zeroes(len),
        };
        parts(offset, len).map(piece).collect()
    }

    /// `None` when there is no buffer for a part of it; doing it again from the start is harmless.
    fn put(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let mut taken = 0;
        for (chunk, at, len) in parts(offset, data.len() as u64) {
            self.writable(chunk)?[at..at + len].copy_from_slice(&data[taken..taken + len]);
            taken += len;
        }
        Some(())
    }

    /// Whole pieces become holes, parts of pieces zeroes.
    fn clear(&mut self, offset: u64, len: u64) -> Option<()> {
        for (chunk, at, len) in parts(offset, len) {
            if len == CHUNK || matches!(self.chunks[chunk], Chunk::Hole) {
                self.chunks[chunk] = Chunk::Hole;
            } else {
                self.writable(chunk)?[at..at + len].fill(0);
            }
        }
        Some(())
    }

    fn status(&self, offset: u64, len: u64) -> Vec<StatusRun> {
        let mut runs: Vec<StatusRun> = Vec::new();
        for (chunk, _, len) in parts(offset, len) {
            let (len, data, full) =
                (len as u64, self.chunks[chunk].bytes().is_some(), runs.len() == RUNS_MAX);
            match runs.last_mut() {
                Some(run) if run.data == data => run.len += len,
                _ if full => break,
                _ => runs.push(StatusRun { len, data }),
            }
        }
        runs
    }

    /// A piece's bytes, to be changed: in place when nobody else holds them, otherwise a copy that takes
    /// their place.
    #[inline]
    fn writable(&mut self, chunk: usize) -> Option<&mut [u8]> {
        if !matches!(self.chunks[chunk], Chunk::Own(_)) {
            self.own(chunk)?;
        }
        match &mut self.chunks[chunk] {
            Chunk::Own(buf) => Some(buf),
            _ => None,
        }
    }

    /// Makes a piece the volume's alone; it stays what it was should there be no buffer.
    fn own(&mut self, chunk: usize) -> Option<()> {
        let own = match std::mem::take(&mut self.chunks[chunk]) {
            Chunk::Hole => self.pool.alloc_zeroed(CHUNK)?,
            Chunk::Own(buf) => buf,
            Chunk::Shared(buf) => match buf.try_mut() {
                Ok(buf) => buf,
                Err(shared) => match self.pool.alloc(CHUNK) {
                    Some(mut copy) => {
                        copy.copy_from_slice(&shared);
                        copy
                    }
                    None => {
                        self.chunks[chunk] = Chunk::Shared(shared);
                        return None;
                    }
                },
            },
        };
        self.chunks[chunk] = Chunk::Own(own);
        Some(())
    }
}

impl Beside for BareVolume {
    fn partition(&self) -> PartitionId {
        self.partition
    }

    #[inline]
    fn read(&mut self, offset: u64, len: u32) -> Option<Lent<'_>> {
        let (chunk, at) = place(offset);
        let end = at + len as usize;
        if end > CHUNK || offset.checked_add(u64::from(len)).is_none_or(|end| end > self.bytes) {
            return None;
        }
        Some(self.chunks[chunk].bytes().map_or(Lent::Hole, |bytes| Lent::Bytes(&bytes[at..end])))
    }

    /// The payload's one copy: from where it was received into the volume.
    #[inline]
    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.checked_add(bytes.len() as u64);
        end.is_some_and(|end| end <= self.bytes) && self.put(offset, bytes).is_some()
    }

    #[inline]
    fn expect(&self, offset: u64) {
        let (chunk, at) = place(offset);
        if let Some(bytes) = self.chunks.get(chunk).and_then(Chunk::bytes) {
            prefetch(&bytes[at..(at + NEAR).min(CHUNK)]);
        }
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

/// A place as (piece, offset in it).
#[inline]
fn place(offset: u64) -> (usize, usize) {
    ((offset / CHUNK as u64) as usize, (offset % CHUNK as u64) as usize)
}

/// A range as (piece, offset in it, bytes of it).
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        let (chunk, into) = place(at);
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

    fn asked(volume: &mut BareVolume, offset: u64, len: u32) -> Payload {
        match volume.carry_out(ClientVerb::Read { offset, len }) {
            Ok(Ok(ClientOk::Data(data))) => data,
            other => panic!("{other:?}"),
        }
    }

    fn read(volume: &mut BareVolume, offset: u64, len: u32) -> Vec<u8> {
        asked(volume, offset, len).iter().flat_map(|piece| piece.iter().copied()).collect()
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
    fn what_is_carried_out_at_once_is_what_commands_see() {
        let (mut volume, pool) = (volume(), payloads());
        let seam = CHUNK as u64 - 512;
        assert!(volume.write(seam, &[7; 1024]), "a write may cross pieces");
        assert_eq!(read(&mut volume, seam, 1024), [7; 1024]);
        assert!(Beside::read(&mut volume, seam, 1024).is_none(), "a read in one piece may not");
        write(&mut volume, &pool, 4096, &[8; 512]);
        let held = asked(&mut volume, 4096, 512);
        assert!(volume.write(4096, &[9; 512]));
        assert!(held[0].iter().all(|&byte| byte == 8), "what a reader holds is not changed");
        assert_eq!(Beside::read(&mut volume, 4096, 512), Some(Lent::Bytes(&[9; 512])));
        assert_eq!(Beside::read(&mut volume, 3 * CHUNK as u64, 4096), Some(Lent::Hole));
        for outside in [BYTES, u64::MAX - 511] {
            volume.expect(outside);
            assert!(Beside::read(&mut volume, outside, 512).is_none() && !volume.write(outside, &[0; 512]));
        }
    }

    #[test]
    fn a_reader_keeps_the_bytes_that_it_was_given() {
        let (mut volume, pool) = (volume(), payloads());
        write(&mut volume, &pool, 0, &[1; 4096]);
        let held = asked(&mut volume, 0, 4096);
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
        let held = asked(&mut volume, 0, 512);
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
