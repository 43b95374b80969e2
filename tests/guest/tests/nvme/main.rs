//! The polled NVMe driver on PCI functions through VFIO, in the machine of `make guest`. Each test runs in a process
//! of its own and binds what it needs.

mod beside;
mod binding;
mod data;
mod faults;
mod fence;
mod media;
mod rack;
