//! Operations in flight: what they own, how far they got, and their submission queue entries.

use crate::regions::Regions;
use io_uring::{opcode, squeue, types};
use palisade_dma::{Buf, BufMut};
use smallvec::SmallVec;

/// Times that an operation is sent again after the kernel asked for it (EAGAIN, EINTR).
const TRIES_MAX: u8 = 16;

/// What a finished operation gives back.
#[derive(Debug)]
pub enum Outcome {
    /// The filled buffer.
    Read(BufMut),
    /// A write or sync ended.
    Done,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The key that it was submitted with.
    pub key: u64,
    /// Its outcome, or the kernel's errno. A transfer that ends early at the end of the file gives EIO.
    pub result: Result<Outcome, i32>,
}

/// What an operation owns.
pub(crate) enum Payload {
    Free,
    Read(BufMut),
    Write(SmallVec<[Buf; 4]>),
    Sync,
}

/// One operation. Lives at a fixed address from submission to completion, because the kernel may read
/// its iovecs.
pub(crate) struct Op {
    pub(crate) payload: Payload,
    pub(crate) key: u64,
    offset: u64,
    total: usize,
    done: usize,
    dsync: bool,
    tries: u8,
    iovecs: Vec<libc::iovec>,
}

/// What follows from a result of the kernel.
pub(crate) enum Next {
    /// It ended.
    Ended(Result<(), i32>),
    /// The rest must be submitted again.
    Again,
}

impl Op {
    pub(crate) fn free() -> Self {
        Self {
            payload: Payload::Free,
            key: 0,
            offset: 0,
            total: 0,
            done: 0,
            dsync: false,
            tries: 0,
            iovecs: Vec::with_capacity(4),
        }
    }

    pub(crate) fn start(&mut self, key: u64, offset: u64, payload: Payload, dsync: bool) {
        let total = match &payload {
            Payload::Read(buf) => buf.len(),
            Payload::Write(bufs) => bufs.iter().map(|buf| buf.len()).sum(),
            Payload::Sync | Payload::Free => 0,
        };
        (self.key, self.offset, self.dsync, self.total) = (key, offset, dsync, total);
        (self.done, self.tries) = (0, 0);
        self.payload = payload;
    }

    /// Takes the payload out at the end.
    pub(crate) fn finish(&mut self, result: Result<(), i32>) -> Completion {
        let payload = std::mem::replace(&mut self.payload, Payload::Free);
        let result = result.map(|()| match payload {
            Payload::Read(buf) => Outcome::Read(buf),
            _ => Outcome::Done,
        });
        Completion { key: self.key, result }
    }

    /// Judges the kernel's result: done, failed, or to be continued after a short transfer.
    pub(crate) fn judge(&mut self, result: i32) -> Next {
        if result < 0 {
            let errno = -result;
            if (errno == libc::EAGAIN || errno == libc::EINTR) && self.tries < TRIES_MAX {
                self.tries += 1;
                return Next::Again;
            }
            return Next::Ended(Err(errno));
        }
        self.done += result as usize;
        if self.done >= self.total {
            Next::Ended(Ok(()))
        } else if result == 0 {
            Next::Ended(Err(libc::EIO))
        } else {
            Next::Again
        }
    }

    /// The entry for what is left to do. `self` must stay where it is until the operation ends.
    pub(crate) fn entry(&mut self, target: Target, regions: Option<&Regions>) -> squeue::Entry {
        match target {
            Target::Plain(fd) => self.entry_on(types::Fd(fd), regions),
            // The descriptor field then holds the place in the ring's table of files.
            Target::Registered => self.entry_on(types::Fd(0), regions).flags(squeue::Flags::FIXED_FILE),
        }
    }

    fn entry_on(&mut self, fd: types::Fd, regions: Option<&Regions>) -> squeue::Entry {
        let (at, left) = (self.offset + self.done as u64, (self.total - self.done) as u32);
        let flags = if self.dsync { libc::RWF_DSYNC } else { 0 };
        let done = self.done;
        match &mut self.payload {
            Payload::Free => unreachable!("a free slot is never submitted"),
            Payload::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Payload::Read(buf) => {
                let ptr = buf[done..].as_mut_ptr();
                match regions.and_then(|regions| regions.find(ptr as usize, left as usize)) {
                    Some(index) => opcode::ReadFixed::new(fd, ptr, left, index).offset(at).build(),
                    None => opcode::Read::new(fd, ptr, left).offset(at).build(),
                }
            }
            Payload::Write(bufs) if bufs.len() == 1 => {
                let ptr = bufs[0][done..].as_ptr();
                match regions.and_then(|regions| regions.find(ptr as usize, left as usize)) {
                    Some(index) => {
                        opcode::WriteFixed::new(fd, ptr, left, index).offset(at).rw_flags(flags).build()
                    }
                    None => opcode::Write::new(fd, ptr, left).offset(at).rw_flags(flags).build(),
                }
            }
            Payload::Write(bufs) => {
                gather(&mut self.iovecs, bufs, done);
                opcode::Writev::new(fd, self.iovecs.as_ptr(), self.iovecs.len() as u32)
                    .offset(at)
                    .rw_flags(flags)
                    .build()
            }
        }
    }
}

/// How the device's descriptor is named to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// By number.
    Plain(i32),
    /// By its place in the ring's table, which saves a look-up per operation.
    Registered,
}

/// Fills `iovecs` with what is left of `bufs` after `skip` bytes; neighbours in memory become one.
fn gather(iovecs: &mut Vec<libc::iovec>, bufs: &[Buf], mut skip: usize) {
    iovecs.clear();
    for buf in bufs {
        let part = &buf[skip.min(buf.len())..];
        skip -= skip.min(buf.len());
        if part.is_empty() {
            continue;
        }
        if let Some(last) = iovecs.last_mut()
            && last.iov_base as usize + last.iov_len == part.as_ptr() as usize
        {
            last.iov_len += part.len();
            continue;
        }
        iovecs.push(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Pool, PoolConfig};

    #[test]
    fn a_gather_list_skips_what_is_done_and_joins_neighbours() {
        let pool = Pool::new(PoolConfig::small()).expect("pool");
        let whole = pool.alloc(16384).expect("slot").freeze();
        let apart = pool.alloc(65536).expect("slot").freeze();
        let bufs = [whole.slice(0..4096), whole.slice(4096..12288), apart.slice(0..4096)];
        let mut iovecs = Vec::new();
        gather(&mut iovecs, &bufs, 0);
        assert_eq!(iovecs.iter().map(|v| v.iov_len).collect::<Vec<_>>(), [12288, 4096]);
        gather(&mut iovecs, &bufs, 5000);
        assert_eq!(iovecs.iter().map(|v| v.iov_len).collect::<Vec<_>>(), [7288, 4096]);
        assert_eq!(iovecs[0].iov_base as usize, whole.as_ptr() as usize + 5000);
        gather(&mut iovecs, &bufs, 12288 + 512);
        assert_eq!(iovecs.iter().map(|v| v.iov_len).collect::<Vec<_>>(), [3584]);
    }

    #[test]
    fn short_transfers_go_on_and_early_ends_and_endless_retries_fail() {
        let pool = Pool::new(PoolConfig::small()).expect("pool");
        let mut op = Op::free();
        op.start(1, 0, Payload::Read(pool.alloc(8192).expect("slot")), false);
        assert!(matches!(op.judge(4096), Next::Again));
        assert!(matches!(op.judge(4096), Next::Ended(Ok(()))));
        op.start(1, 0, Payload::Read(pool.alloc(8192).expect("slot")), false);
        assert!(matches!(op.judge(0), Next::Ended(Err(libc::EIO))));
        assert!(matches!(op.judge(-libc::ENOSPC), Next::Ended(Err(libc::ENOSPC))));
        op.start(1, 0, Payload::Sync, false);
        for _ in 0..TRIES_MAX {
            assert!(matches!(op.judge(-libc::EINTR), Next::Again));
        }
        assert!(matches!(op.judge(-libc::EINTR), Next::Ended(Err(libc::EINTR))));
    }
}
