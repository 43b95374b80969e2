//! Between a machine's block effects and the runtime's block port: the same words in two crates that
//! must not know each other. Buffers move by handle; nothing is copied.

use palisade_protocol::wire::{BlockCmd, BlockDone, BlockError, BlockOk, BlockOp, DeviceIx, Key, Time};
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockOk as PortOk, BlockPort, BlockRequest, BlockVerb,
};
use palisade_runtime::clock::Nanos;
use palisade_runtime::park::WaitSet;

/// The devices of one service, by [`DeviceIx`].
pub struct Devices {
    drivers: Vec<BlockDriver>,
    done: Vec<BlockCompletion>,
    submitted: bool,
}

impl Devices {
    /// Device 0 first.
    pub fn new(drivers: Vec<BlockDriver>) -> Self {
        Self { drivers, done: Vec::with_capacity(256), submitted: false }
    }

    /// Takes a command; an unknown device is a machine's bug.
    pub fn submit(&mut self, cmd: BlockCmd) {
        let verb = match cmd.op {
            BlockOp::Read { offset, buf } => BlockVerb::Read { offset, buf },
            BlockOp::Write { offset, bufs, fua } => BlockVerb::Write { offset, bufs, fua },
            BlockOp::Flush => BlockVerb::Flush,
        };
        let driver =
            self.drivers.get_mut(usize::from(cmd.device.0)).expect("machines name their own devices");
        driver.submit(BlockRequest { key: cmd.key.0, verb });
        self.submitted = true;
    }

    /// Hands this turn's requests to the devices, in one batch each.
    pub fn kick(&mut self) {
        if std::mem::take(&mut self.submitted) {
            for driver in &mut self.drivers {
                driver.kick();
            }
        }
    }

    /// Gives each completion to `take`; returns how many.
    pub fn poll(&mut self, now: Nanos, mut take: impl FnMut(DeviceIx, BlockDone)) -> usize {
        let mut count = 0;
        for (index, driver) in self.drivers.iter_mut().enumerate() {
            driver.poll(now, &mut self.done);
            count += self.done.len();
            for done in self.done.drain(..) {
                take(DeviceIx(index as u16), translate(done));
            }
        }
        count
    }

    /// Requests that the devices still hold.
    pub fn in_flight(&self) -> usize {
        self.drivers.iter().map(BlockPort::in_flight).sum()
    }

    /// Descriptors that end a sleep when a device has completed something.
    pub fn wait_fds<'a>(&'a self, set: &mut WaitSet<'a>) {
        self.drivers.iter().filter_map(BlockPort::wait_fd).for_each(|fd| set.readable(fd));
    }

    /// When a service must run again, by its machine's deadline and those of the drivers.
    pub fn deadline(&self, machine: Option<Time>) -> Option<Nanos> {
        let drivers = self.drivers.iter().filter_map(BlockPort::deadline);
        drivers.chain(machine.map(|at| Nanos(at.0))).min()
    }
}

fn translate(done: BlockCompletion) -> BlockDone {
    let result = match done.result {
        Ok(PortOk::Read(buf)) => Ok(BlockOk::Read(buf)),
        Ok(PortOk::Done) => Ok(BlockOk::Done),
        Err(BlockFault::Io) => Err(BlockError::Io),
        Err(BlockFault::Gone) => Err(BlockError::Gone),
        Err(BlockFault::NoSpace) => Err(BlockError::NoSpace),
        Err(BlockFault::Range) => Err(BlockError::Range),
    };
    BlockDone { key: Key(done.key), result }
}

/// The machines' time for the reactor's.
pub fn time(now: Nanos) -> Time {
    Time(now.0)
}
