//! A device of this host under load, without a rack: `nvme:PCI-ADDRESS` through the polled driver, `block:PATH`
//! through io_uring. The same load on the same disk by both ways shows what each of them costs.
//!
//! A slot's buffer is a slot of a pool: it goes to the driver and comes back, as a service's would.

use super::{Done, Op, Target, TargetError, Verb, Want};
use palisade_dma::{Buf, BufMut, Pool, PoolConfig, SLOT_CLASSES};
use palisade_runtime::block::nvme::{NvmeDriver, NvmeOptions, VfioNvme};
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockOk, BlockPort, BlockRequest, BlockVerb, UringDriver,
    UringOptions,
};
use palisade_runtime::clock::{Clock, MonoClock};
use smallvec::smallvec;
use std::path::Path;

/// Where a slot's buffer is.
enum Held {
    /// Here: nothing is under way, or a flush.
    Idle(BufMut),
    /// With the driver, which gives it back filled.
    Reading,
    /// Here and with the driver, which gives its handle up at the end.
    Writing(Buf),
}

/// A device and the buffers of its requests.
pub struct Device {
    driver: BlockDriver,
    pool: Pool,
    slots: Vec<Held>,
    slot_bytes: usize,
    out: Vec<BlockCompletion>,
}

impl Device {
    /// Opens what an address names; `None` when it is of another kind.
    pub fn open(address: &str, want: Want) -> Option<Result<Self, TargetError>> {
        let (kind, place) = address.split_once(':')?;
        let make: fn(&str, &Pool) -> Result<BlockDriver, String> = match kind {
            "nvme" => nvme,
            "block" => block,
            _ => return None,
        };
        Some(pool(want).and_then(|pool| {
            let driver = make(place, &pool).map_err(TargetError::Fatal)?;
            Self::new(driver, pool, want)
        }))
    }

    /// A target over a driver that was opened, with buffers of `pool`.
    fn new(driver: BlockDriver, pool: Pool, want: Want) -> Result<Self, TargetError> {
        let mut slots = Vec::with_capacity(want.slots as usize);
        for _ in 0..want.slots {
            slots.push(Held::Idle(buffer(&pool, want.slot_bytes)?));
        }
        let out = Vec::with_capacity(want.slots as usize);
        Ok(Self { driver, pool, slots, slot_bytes: want.slot_bytes, out })
    }

    /// Puts a slot's buffer back; the error number of its request.
    fn ended(&mut self, slot: usize, result: Result<BlockOk, BlockFault>) -> Result<u32, TargetError> {
        let held = std::mem::replace(&mut self.slots[slot], Held::Reading);
        let errno = match &result {
            Ok(_) => 0,
            Err(BlockFault::Range) => 22,   // EINVAL
            Err(BlockFault::NoSpace) => 28, // ENOSPC
            Err(BlockFault::Gone) => return Err(TargetError::Fatal("the device is gone".to_owned())),
            Err(BlockFault::Io) => 5, // EIO
        };
        let mut buf = match (held, result) {
            (_, Ok(BlockOk::Read(buf))) | (Held::Idle(buf), _) => buf,
            (Held::Writing(buf), _) => match buf.try_mut() {
                Ok(buf) => buf,
                Err(_) => return Err(TargetError::Fatal("the driver kept a buffer".to_owned())),
            },
            // A read that failed does not give its buffer back.
            (Held::Reading, _) => buffer(&self.pool, self.slot_bytes)?,
        };
        buf.set_len(buf.capacity());
        self.slots[slot] = Held::Idle(buf);
        Ok(errno)
    }
}

fn pool(want: Want) -> Result<Pool, TargetError> {
    let Some(class) = SLOT_CLASSES.iter().position(|&bytes| bytes >= want.slot_bytes) else {
        let most = SLOT_CLASSES[SLOT_CLASSES.len() - 1];
        return Err(TargetError::Fatal(format!("a device takes requests of {most} bytes at most")));
    };
    let mut slots = [1; SLOT_CLASSES.len()];
    slots[class] = want.slots as usize + 1;
    Pool::new(PoolConfig { slots, huge: true }).map_err(|error| TargetError::Fatal(error.to_string()))
}

fn buffer(pool: &Pool, bytes: usize) -> Result<BufMut, TargetError> {
    pool.alloc(bytes).ok_or_else(|| TargetError::Fatal("no buffer is left".to_owned()))
}

fn nvme(address: &str, pool: &Pool) -> Result<BlockDriver, String> {
    let device = VfioNvme::open(address).map_err(|error| error.to_string())?;
    let driver = NvmeDriver::open(Box::new(device), pool, NvmeOptions::default());
    driver.map(|driver| BlockDriver::Nvme(Box::new(driver))).map_err(|error| error.to_string())
}

fn block(path: &str, pool: &Pool) -> Result<BlockDriver, String> {
    let options = UringOptions { pool: Some(pool.clone()), ..UringOptions::default() };
    let driver = UringDriver::open(Path::new(path), &options);
    driver.map(|driver| BlockDriver::Uring(Box::new(driver))).map_err(|error| error.to_string())
}

impl Target for Device {
    fn bytes(&self) -> u64 {
        self.driver.info().bytes
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        match &mut self.slots[slot as usize] {
            Held::Idle(buf) => buf,
            Held::Reading | Held::Writing(_) => &mut [],
        }
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        let place = &mut self.slots[slot as usize];
        let busy = || TargetError::Fatal(format!("slot {slot} is busy"));
        let Held::Idle(mut buf) = std::mem::replace(place, Held::Reading) else { return Err(busy()) };
        let verb = match op.verb {
            Verb::Read => {
                buf.set_len(op.len as usize);
                BlockVerb::Read { offset: op.offset, buf }
            }
            Verb::Write => {
                buf.set_len(op.len as usize);
                let buf = buf.freeze();
                *place = Held::Writing(buf.clone());
                BlockVerb::Write { offset: op.offset, bufs: smallvec![buf], fua: false }
            }
            Verb::Flush => {
                *place = Held::Idle(buf);
                BlockVerb::Flush
            }
        };
        self.driver.submit(BlockRequest { key: u64::from(slot), verb });
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        self.driver.kick();
        let mut out = std::mem::take(&mut self.out);
        self.driver.poll(MonoClock.now(), &mut out);
        for end in out.drain(..) {
            let slot = end.key as u32;
            let errno = self.ended(slot as usize, end.result)?;
            done.push(Done { slot, errno });
        }
        self.out = out;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_runtime::block::CreateFile;

    const WANT: Want = Want { slots: 4, slot_bytes: 8192, connections: 1, look: true };

    fn wait(target: &mut Device, count: usize) -> Vec<Done> {
        let mut done = Vec::new();
        while done.len() < count {
            target.poll(&mut done).expect("goes on");
        }
        done.sort_by_key(|end| end.slot);
        done
    }

    #[test]
    fn a_file_gives_back_what_was_written_and_refuses_what_lies_outside() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("disk");
        let create = Some(CreateFile { bytes: 1 << 20, preallocate: true });
        drop(UringDriver::open(&path, &UringOptions { create, ..UringOptions::default() }).expect("made"));
        let address = format!("block:{}", path.display());
        let mut target = Device::open(&address, WANT).expect("its kind").expect("opens");
        assert_eq!(target.bytes(), 1 << 20);
        target.buffer(0).fill(7);
        target.submit(0, Op { verb: Verb::Write, offset: 4096, len: 8192 }).expect("taken");
        assert_eq!(wait(&mut target, 1), [Done { slot: 0, errno: 0 }]);
        target.submit(1, Op { verb: Verb::Read, offset: 8192, len: 4096 }).expect("taken");
        target.submit(2, Op { verb: Verb::Flush, offset: 0, len: 0 }).expect("taken");
        target.submit(3, Op { verb: Verb::Read, offset: 1 << 20, len: 4096 }).expect("taken");
        let ends = wait(&mut target, 3);
        assert_eq!(ends.iter().map(|end| end.errno).collect::<Vec<_>>(), [0, 0, 22]);
        assert!(target.buffer(1)[..4096].iter().all(|&byte| byte == 7));
        target.submit(3, Op { verb: Verb::Read, offset: 0, len: 4096 }).expect("its buffer is another one");
        assert_eq!(wait(&mut target, 1), [Done { slot: 3, errno: 0 }]);
    }

    #[test]
    fn addresses_of_other_kinds_are_left_and_devices_that_are_not_there_are_named() {
        assert!(Device::open("mem:4m", WANT).is_none());
        assert!(Device::open("nothing", WANT).is_none());
        let told = |address: &str| match Device::open(address, WANT) {
            Some(Err(error)) => error.to_string(),
            _ => panic!("{address} is refused"),
        };
        assert!(told("nvme:ffff:ff:1f.7").contains("no PCI device ffff:ff:1f.7"));
        assert!(told("block:/nonexistent/disk").contains("/nonexistent/disk"));
        let large = Device::open("block:/dev/null", Want { slot_bytes: 1 << 20, ..WANT });
        assert!(large.is_some_and(|opened| opened.is_err()));
    }
}
