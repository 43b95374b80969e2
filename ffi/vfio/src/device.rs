//! A PCI device of this process: group, registers, config space, memory.

use crate::bar::Bar;
use crate::container::Container;
use crate::error::VfioError;
use crate::group::{driver_of, find_group};
use crate::sys;
use crate::watch::Watch;
use palisade_dma::DmaRange;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use vfio_bindings::bindings::vfio;

/// The command register of PCI config space, and two of its bits.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;

/// A device, from opening to closing. Closing gives it back: the kernel resets it and frees its memory.
pub struct VfioDevice {
    address: String,
    file: File,
    /// Where config space is in the file.
    config: u64,
    flags: u32,
    watch: Watch,
    // Last, in this order: a device is closed before its memory is taken away, its group after both.
    container: Container,
    _group: File,
}

impl VfioDevice {
    /// Opens the device at a PCI address (`0000:01:00.0`) that is bound to vfio-pci, alone in its group or with
    /// others that nobody uses. Nothing can reach memory before [`VfioDevice::set_bus_master`].
    pub fn open(address: &str) -> Result<Self, VfioError> {
        let sys_root = Path::new("/sys");
        let group = find_group(sys_root, address)?;
        if !Path::new("/dev/vfio/vfio").exists() {
            return Err(VfioError::NoVfio);
        }
        let driver = driver_of(sys_root, address);
        if driver.as_deref() != Some("vfio-pci") {
            let driver = driver.unwrap_or_else(|| "no driver".to_owned());
            return Err(VfioError::NotOurs { address: address.to_owned(), driver });
        }
        let number = group.number;
        let path = format!("/dev/vfio/{number}");
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|source| VfioError::Group { group: number, source })?;
        let argsz = size_of::<vfio::vfio_group_status>() as u32;
        let mut status = vfio::vfio_group_status { argsz, flags: 0 };
        sys::with(file.as_fd(), sys::GROUP_GET_STATUS, &mut status)
            .map_err(|source| VfioError::Group { group: number, source })?;
        if status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
            let (address, holders) = (address.to_owned(), group.in_the_way());
            return Err(VfioError::NotViable { address, group: number, holders });
        }
        let container = Container::new(file.as_fd(), number)?;
        Self::of_group(address, file, container)
    }

    fn of_group(address: &str, group: File, container: Container) -> Result<Self, VfioError> {
        let failed = |what| move |source| VfioError::Device { address: address.to_owned(), what, source };
        let name = CString::new(address).map_err(|_| VfioError::NoDevice(address.to_owned()))?;
        let fd = sys::device_fd(group.as_fd(), &name).map_err(failed("be opened"))?;
        let mut info = vfio::vfio_device_info {
            argsz: size_of::<vfio::vfio_device_info>() as u32,
            ..Default::default()
        };
        sys::with(fd.as_fd(), sys::DEVICE_GET_INFO, &mut info).map_err(failed("be described"))?;
        let region = region(&fd, vfio::VFIO_PCI_CONFIG_REGION_INDEX).map_err(failed("find config space"))?;
        let (watch, signals) = Watch::start().map_err(failed("be watched"))?;
        let this = Self {
            address: address.to_owned(),
            file: File::from(fd),
            config: region.offset,
            flags: info.flags,
            watch,
            container,
            _group: group,
        };
        for (index, signal) in
            [vfio::VFIO_PCI_REQ_IRQ_INDEX, vfio::VFIO_PCI_ERR_IRQ_INDEX].into_iter().zip(&signals)
        {
            // A kernel or a device without the one or the other is good enough.
            let _missing = this.set_signal(index, signal);
        }
        Ok(this)
    }

    /// Its PCI address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Maps a BAR.
    pub fn bar(&self, index: u32) -> Result<Bar, VfioError> {
        let none = || VfioError::NoBar { address: self.address.clone(), bar: index };
        if index > vfio::VFIO_PCI_BAR5_REGION_INDEX {
            return Err(none());
        }
        let region = region(&self.file, index).map_err(|_| none())?;
        let wanted = vfio::VFIO_REGION_INFO_FLAG_READ
            | vfio::VFIO_REGION_INFO_FLAG_WRITE
            | vfio::VFIO_REGION_INFO_FLAG_MMAP;
        let bytes = usize::try_from(region.size).ok().filter(|&bytes| bytes > 0);
        match bytes {
            Some(bytes) if region.flags & wanted == wanted => {
                Bar::map(self.file.as_fd(), region.offset, bytes).map_err(|_| none())
            }
            _ => Err(none()),
        }
    }

    /// Lets the device read and write the memory that it was given, or stops that.
    pub fn set_bus_master(&self, on: bool) -> Result<(), VfioError> {
        let failed =
            |source| VfioError::Device { address: self.address.clone(), what: "be made bus master", source };
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, self.config + COMMAND).map_err(failed)?;
        let old = u16::from_le_bytes(bytes);
        let new = if on { old | COMMAND_BUS_MASTER | COMMAND_MEMORY } else { old & !COMMAND_BUS_MASTER };
        self.file.write_all_at(&new.to_le_bytes(), self.config + COMMAND).map_err(failed)
    }

    /// Resets the function, where it can be reset alone; true when it was.
    pub fn reset(&self) -> Result<bool, VfioError> {
        if self.flags & vfio::VFIO_DEVICE_FLAGS_RESET == 0 {
            return Ok(false);
        }
        let failed = |source| VfioError::Device { address: self.address.clone(), what: "be reset", source };
        sys::simple(self.file.as_fd(), sys::DEVICE_RESET, 0).map_err(failed)?;
        Ok(true)
    }

    /// Gives the device a range of memory; where it finds it.
    pub fn map(&mut self, range: DmaRange) -> Result<u64, VfioError> {
        self.container.map(&self.address, range)
    }

    /// Takes all memory from the device, whatever it is doing: the IOMMU refuses it from here on. False when the
    /// kernel did not do so.
    pub fn isolate(&mut self) -> bool {
        // A device that is gone cannot be told; the IOMMU is what counts.
        let _told = self.set_bus_master(false);
        self.container.unmap_all()
    }

    /// Whether the kernel wants it back, or its link failed.
    pub fn is_leaving(&self) -> bool {
        self.watch.is_asked()
    }

    /// Has the kernel signal an interrupt index of one vector by a descriptor.
    fn set_signal(&self, index: u32, signal: &OwnedFd) -> io::Result<()> {
        /// `vfio_irq_set` with one descriptor as its data.
        #[repr(C)]
        struct Set {
            argsz: u32,
            flags: u32,
            index: u32,
            start: u32,
            count: u32,
            data: i32,
        }
        // SAFETY: `repr(C)` and plain; the header is that of `vfio_irq_set`, asserted below, and the data is
        // one descriptor, as flags and count say.
        unsafe impl sys::Argument for Set {}
        const _: () = assert!(std::mem::offset_of!(Set, data) == size_of::<vfio::vfio_irq_set>());
        let mut set = Set {
            argsz: size_of::<Set>() as u32,
            flags: vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER,
            index,
            start: 0,
            count: 1,
            data: signal.as_raw_fd(),
        };
        sys::with(self.file.as_fd(), sys::DEVICE_SET_IRQS, &mut set).map(|_| ())
    }
}

fn region(fd: &impl AsFd, index: u32) -> io::Result<vfio::vfio_region_info> {
    let argsz = size_of::<vfio::vfio_region_info>() as u32;
    let mut region = vfio::vfio_region_info { argsz, index, ..Default::default() };
    sys::with(fd.as_fd(), sys::DEVICE_GET_REGION_INFO, &mut region)?;
    Ok(region)
}

impl std::fmt::Debug for VfioDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VfioDevice({})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_is_named() {
        let error = VfioDevice::open("ffff:ff:1f.7").expect_err("no such device");
        assert!(matches!(&error, VfioError::NoDevice(address) if address == "ffff:ff:1f.7"), "{error}");
    }
}
