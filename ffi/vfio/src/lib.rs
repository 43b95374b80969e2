//! Safe face of VFIO: a PCI device that belongs to this process, with its registers and its way to memory.
//!
//! A [`VfioDevice`] holds its IOMMU group and a container of its own. A container each, though one could serve
//! all devices, because cutting a device off ([`VfioDevice::isolate`]) means taking its memory out of the
//! IOMMU, and that must not hit another one; the price is that locked memory is counted once per device.
//!
//! What a device does to memory cannot be seen by the compiler. The argument for a safe face is: the IOMMU lets
//! the device reach only ranges that it was given ([`VfioDevice::map`] takes a [`palisade_dma::DmaRange`], which
//! keeps them mapped in this process as long as they are mapped in the IOMMU), and those consist of atomic words
//! and of buffer slots, whose bytes only the holder of a slot reads or writes. A driver promises to name no
//! buffer to the device but those it holds, until the device has let go of them.
//!
//! Everything that can be missing on a host is an error of its own that says what to do ([`VfioError`]).
//!
//! Meant for x86-64, where stores reach a device in the order of the program.
#![allow(unsafe_code)] // System calls on raw structures and device memory, see the SAFETY reasons.

mod bar;
mod binding;
mod container;
mod device;
mod error;
mod group;
mod iova;
mod sys;
mod users;
mod watch;

pub use bar::Bar;
pub use binding::{BindError, Host, Plan, Step};
pub use device::VfioDevice;
pub use error::VfioError;
pub use group::{Group, Member, find_group};
pub use users::User;
