//! Tests of kernel bypass on PCI functions, for the virtual machine that `make guest` boots: what an emulated
//! controller inside of a test cannot show, because it has no PCI, no IOMMU and no kernel beside it.
//!
//! The tests in `tests/nvme` are ignored elsewhere. They take whole disks and bind them to drivers as they like.

mod disk;
mod sysfs;
mod tamper;

pub use disk::{Answer, Disk, Image};
pub use sysfs::{bind, block_device, driver, kernel_log, remove, rescan, reset, unbind};
pub use tamper::{Tampered, Tampering};

/// A controller as QEMU makes it: blocks of 512 bytes, transfers of 512 KiB.
pub const PLAIN: &str = "0000:00:05.0";
/// Its size.
pub const PLAIN_BYTES: u64 = 256 << 20;
/// One with blocks of 4096 bytes and transfers of 64 KiB.
pub const WIDE: &str = "0000:00:06.0";
/// Its size.
pub const WIDE_BYTES: u64 = 128 << 20;
/// One that has a block which cannot be read or written,
pub const BAD: &str = "0000:00:08.0";
/// namely this one, of 512 bytes.
pub const BAD_BLOCK: u64 = 5000;
/// One that takes a second and a half for everything, and holds nothing.
pub const SLOW: &str = "0000:00:09.0";
/// Two functions of one device, which share their IOMMU group.
pub const TWINS: [&str; 2] = ["0000:00:07.0", "0000:00:07.1"];
/// Three for the logs of a rack's heads.
pub const LOGS: [&str; 3] = ["0000:00:0a.0", "0000:00:0b.0", "0000:00:0c.0"];
/// Six for its sleds.
pub const SLEDS: [&str; 6] =
    ["0000:00:10.0", "0000:00:11.0", "0000:00:12.0", "0000:00:13.0", "0000:00:14.0", "0000:00:15.0"];
