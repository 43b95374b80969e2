//! A controller through VFIO whose driver does not know that somebody else has a hand on it.

use palisade_dma::DmaRange;
use palisade_runtime::block::nvme::{MapError, NvmeDevice, VfioNvme};
use std::sync::{Arc, Mutex, MutexGuard};

/// Controller Configuration: zero stops the controller (NVMe Base 2.0 section 3.1.3.5).
const CC: usize = 0x14;

/// The hand.
#[derive(Clone)]
pub struct Tampering {
    device: Arc<Mutex<VfioNvme>>,
}

impl Tampering {
    fn device(&self) -> MutexGuard<'_, VfioNvme> {
        self.device.lock().expect("no test panics with it")
    }

    /// Stops the controller.
    pub fn stop(&self) {
        self.device().write32(CC, 0);
    }

    /// Takes all memory away from it.
    pub fn isolate(&self) {
        assert!(self.device().isolate(), "the kernel takes the memory out of the IOMMU");
    }
}

/// The device for the driver.
pub struct Tampered {
    name: String,
    bytes: usize,
    tampering: Tampering,
    shift: u64,
    maps: u32,
}

impl Tampered {
    /// Opens a controller. Its driver is told that buffers (all that is mapped after the queues) are `shift` bytes
    /// from where the device was given them.
    pub fn open(address: &str, shift: u64) -> (Box<Self>, Tampering) {
        let device = VfioNvme::open(address).expect("opens");
        let (name, bytes) = (device.name().to_owned(), device.register_bytes());
        let tampering = Tampering { device: Arc::new(Mutex::new(device)) };
        (Box::new(Self { name, bytes, tampering: tampering.clone(), shift, maps: 0 }), tampering)
    }
}

impl NvmeDevice for Tampered {
    fn name(&self) -> &str {
        &self.name
    }
    fn register_bytes(&self) -> usize {
        self.bytes
    }
    fn read32(&self, at: usize) -> u32 {
        self.tampering.device().read32(at)
    }
    fn write32(&self, at: usize, value: u32) {
        self.tampering.device().write32(at, value);
    }
    fn map(&mut self, range: DmaRange) -> Result<u64, MapError> {
        let at = self.tampering.device().map(range)?;
        self.maps += 1;
        Ok(if self.maps > 1 { at + self.shift } else { at })
    }
    fn isolate(&mut self) -> bool {
        self.tampering.device().isolate()
    }
    fn is_leaving(&self) -> bool {
        self.tampering.device().is_leaving()
    }
}
