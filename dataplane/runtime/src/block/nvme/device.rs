//! What the driver needs of a controller: its registers, memory that both see, and a way to cut it off.
//!
//! Behind it stands a PCI function (`vfio.rs`) or an emulated controller (`tests/nvme_model`); the driver above
//! is the same. Time is no part of it: whoever polls the driver says what time it is.

use palisade_dma::DmaRange;

/// Why a device could not be given memory.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MapError(pub Box<dyn std::error::Error + Send + Sync>);

/// A controller's registers and its way to memory.
pub trait NvmeDevice: Send {
    /// Where it is, for people.
    fn name(&self) -> &str;
    /// Length of the register space in bytes.
    fn register_bytes(&self) -> usize;
    /// Reads a register. A device that is gone answers with all ones.
    fn read32(&self, at: usize) -> u32;
    /// Writes a register, after everything that was stored in shared memory before.
    fn write32(&self, at: usize, value: u32);
    /// Reads a register of 64 bits, in halves where the device wants that.
    fn read64(&self, at: usize) -> u64 {
        u64::from(self.read32(at)) | u64::from(self.read32(at + 4)) << 32
    }
    /// Writes a register of 64 bits.
    fn write64(&self, at: usize, value: u64) {
        self.write32(at, value as u32);
        self.write32(at + 4, (value >> 32) as u32);
    }
    /// Gives the device a range of memory for good; returns where it finds it.
    fn map(&mut self, range: DmaRange) -> Result<u64, MapError>;
    /// Cuts the device off from all memory, whatever it is doing; false when that cannot be promised.
    fn isolate(&mut self) -> bool;
    /// Whether the host asked for the device back, because somebody is about to unplug it.
    fn is_leaving(&self) -> bool {
        false
    }
}

/// What is left of a device that was given back.
pub(super) struct Departed(pub(super) String);

impl NvmeDevice for Departed {
    fn name(&self) -> &str {
        &self.0
    }
    fn register_bytes(&self) -> usize {
        0
    }
    fn read32(&self, _at: usize) -> u32 {
        u32::MAX
    }
    fn write32(&self, _at: usize, _value: u32) {}
    fn map(&mut self, _range: DmaRange) -> Result<u64, MapError> {
        Err(MapError("the device was given back".into()))
    }
    fn isolate(&mut self) -> bool {
        true
    }
}
