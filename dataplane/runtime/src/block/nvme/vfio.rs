//! A PCI function behind the driver's device trait.

use super::device::{MapError, NvmeDevice};
use palisade_dma::DmaRange;
use palisade_vfio::{Bar, VfioDevice};

pub use palisade_vfio::{BindError, Host, Plan, VfioError};

/// A controller that this process has through VFIO.
pub struct VfioNvme {
    // Registers first: they are unmapped before the device is closed.
    registers: Bar,
    device: VfioDevice,
}

impl VfioNvme {
    /// Opens the controller at a PCI address (`0000:01:00.0`), resets it, and maps its registers: BAR0 (NVMe over
    /// PCIe Transport 1.0 section 3.1.1). It reaches no memory but what it will be given.
    pub fn open(address: &str) -> Result<Self, VfioError> {
        let device = VfioDevice::open(address)?;
        // One that cannot be reset by its function is reset by CC.EN later.
        let _was_reset = device.reset()?;
        device.set_bus_master(true)?;
        Ok(Self { registers: device.bar(0)?, device })
    }
}

impl NvmeDevice for VfioNvme {
    fn name(&self) -> &str {
        self.device.address()
    }

    fn register_bytes(&self) -> usize {
        self.registers.bytes()
    }

    fn read32(&self, at: usize) -> u32 {
        self.registers.read32(at)
    }

    fn write32(&self, at: usize, value: u32) {
        self.registers.write32(at, value);
    }

    fn map(&mut self, range: DmaRange) -> Result<u64, MapError> {
        self.device.map(range).map_err(|error| MapError(Box::new(error)))
    }

    fn isolate(&mut self) -> bool {
        self.device.isolate()
    }

    fn is_leaving(&self) -> bool {
        self.device.is_leaving()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_is_not_there_is_named_with_what_to_do() {
        let error = VfioNvme::open("ffff:ff:1f.7").err().expect("no such device").to_string();
        assert!(error.contains("no PCI device ffff:ff:1f.7"), "{error}");
    }
}
