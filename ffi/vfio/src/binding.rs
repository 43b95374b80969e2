//! Taking an NVMe controller from the kernel's driver for a process of this host, and giving it back: sysfs, as an
//! operator would write to it by hand, but refused where data would be pulled from under somebody.
//!
//! First a [`Plan`], which changes nothing and can be shown; then [`Host::carry_out`]. A host is a root directory, so
//! that tests can make one.

use crate::error::VfioError;
use crate::group::{driver_of, find_group};
use crate::users::{Disk, User};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The PCI class of NVMe controllers (mass storage, non-volatile memory, NVMe I/O).
const NVME: u32 = 0x01_08_02;
/// The driver that gives functions to processes.
const VFIO: &str = "vfio-pci";

/// Why a controller is not bound to another driver.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No such function, no IOMMU, others in its group.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// Another kind of device.
    #[error("{address} is no NVMe controller (PCI class {class}); `lspci -D` lists what there is")]
    NotNvme {
        /// Which one.
        address: String,
        /// What it is.
        class: String,
    },
    /// Somebody uses a disk of it.
    #[error("{address} is in use: {}; {}", list(users), remedy(users))]
    InUse {
        /// Which one.
        address: String,
        /// By whom.
        users: Vec<User>,
    },
    /// The driver is not there.
    #[error("the kernel has no driver vfio-pci: load it (`modprobe vfio-pci`)")]
    NoDriver,
    /// It is not with vfio-pci, so it is not ours to give back.
    #[error("{address} is with {driver}, not with vfio-pci; there is nothing to give back")]
    NotBound {
        /// Which one.
        address: String,
        /// Who has it.
        driver: String,
    },
    /// A process has it.
    #[error("{address} is open in a process (`fuser -v /dev/vfio/{group}` says which); stop that one first")]
    Open {
        /// Which one.
        address: String,
        /// Its IOMMU group.
        group: u32,
    },
    /// Sysfs refused.
    #[error("{}: {source}{}", path.display(), hint(source))]
    Write {
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel took everything, and yet another driver has it.
    #[error("{address} is with {driver} and not with {wanted}: `dmesg` may say why")]
    Refused {
        /// Which one.
        address: String,
        /// Who has it.
        driver: String,
        /// Who should have it.
        wanted: &'static str,
    },
}

fn list(users: &[User]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn remedy(users: &[User]) -> &'static str {
    match users.first() {
        Some(User::Mounted { .. }) => "unmount it first",
        Some(User::Swap { .. }) => "`swapoff` it first",
        Some(User::Held { .. } | User::Taken { .. }) | None => "close what uses it first",
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "; run as root",
        _ => "",
    }
}

/// One thing to do: write a text to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file.
    pub path: PathBuf,
    /// The text; a line feed alone takes back what was set.
    pub text: String,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "echo '{}' > {}", self.text.trim_end(), self.path.display())
    }
}

/// What is to be done with a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its PCI address.
    pub address: String,
    /// The driver that has it.
    pub from: Option<String>,
    /// Its IOMMU group, where there is one.
    pub group: Option<u32>,
    /// The kernel's disks that go away.
    pub disks: Vec<String>,
    /// In order; none when it is as wanted already.
    pub steps: Vec<Step>,
    /// Whether vfio-pci is to have it; else whichever driver the kernel chooses.
    binds: bool,
}

impl Plan {
    /// Whether it ends with vfio-pci.
    pub fn is_bind(&self) -> bool {
        self.binds
    }
}

/// A host: `sys`, `proc` and `dev` below a directory.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// One that lies below a directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn sys(&self) -> PathBuf {
        self.root.join("sys")
    }

    fn function(&self, address: &str) -> PathBuf {
        self.sys().join("bus/pci/devices").join(address)
    }

    /// How a controller gets to vfio-pci.
    pub fn plan_bind(&self, address: &str) -> Result<Plan, BindError> {
        let address = full(address);
        let class = self.class(&address)?;
        if class != Some(NVME) {
            let class = class.map_or_else(|| "unknown".to_owned(), |class| format!("{class:#08x}"));
            return Err(BindError::NotNvme { address, class });
        }
        let group = find_group(&self.sys(), &address)?;
        let from = driver_of(&self.sys(), &address);
        let plan = |disks, steps, from, address| {
            let group = Some(group.number);
            Plan { address, from, group, disks, steps, binds: true }
        };
        if from.as_deref() == Some(VFIO) {
            return Ok(plan(Vec::new(), Vec::new(), from, address));
        }
        let others = group.in_the_way().into_iter().filter(|member| member.address != address);
        let holders: Vec<_> = others.collect();
        if !holders.is_empty() {
            return Err(VfioError::NotViable { address, group: group.number, holders }.into());
        }
        if !self.sys().join("bus/pci/drivers").join(VFIO).exists() {
            return Err(BindError::NoDriver);
        }
        let disks = Disk::of(&self.root, &self.function(&address));
        let users: Vec<User> = disks.iter().flat_map(|disk| disk.users(&self.root)).collect();
        if !users.is_empty() {
            return Err(BindError::InUse { address, users });
        }
        let steps = self.steps(&address, from.is_some(), VFIO);
        Ok(plan(disks.into_iter().map(|disk| disk.name).collect(), steps, from, address))
    }

    /// How a controller gets back from vfio-pci to the kernel's driver.
    pub fn plan_unbind(&self, address: &str) -> Result<Plan, BindError> {
        let address = full(address);
        self.class(&address)?;
        let from = driver_of(&self.sys(), &address);
        if from.as_deref() != Some(VFIO) {
            let driver = from.unwrap_or_else(|| "no driver".to_owned());
            return Err(BindError::NotBound { address, driver });
        }
        let group = find_group(&self.sys(), &address).ok().map(|group| group.number);
        if let Some(group) = group {
            // A group has one owner at a time; the kernel would wait for it, for as long as it takes.
            let file = self.root.join("dev/vfio").join(group.to_string());
            let opened = fs::OpenOptions::new().read(true).write(true).open(file);
            if opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                return Err(BindError::Open { address, group });
            }
        }
        let steps = self.steps(&address, true, "");
        Ok(Plan { address, from, group, disks: Vec::new(), steps, binds: false })
    }

    /// The PCI class of a function that exists.
    fn class(&self, address: &str) -> Result<Option<u32>, VfioError> {
        let function = self.function(address);
        if address.contains('/') || !function.exists() {
            return Err(VfioError::NoDevice(address.to_owned()));
        }
        let text = fs::read_to_string(function.join("class")).unwrap_or_default();
        Ok(u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok())
    }

    fn steps(&self, address: &str, is_bound: bool, wanted: &str) -> Vec<Step> {
        let function = self.function(address);
        let step = |path: PathBuf, text: &str| Step { path, text: text.to_owned() };
        let mut steps = Vec::new();
        if is_bound {
            steps.push(step(function.join("driver/unbind"), address));
        }
        steps.push(step(function.join("driver_override"), &format!("{wanted}\n")));
        steps.push(step(self.sys().join("bus/pci/drivers_probe"), address));
        steps
    }

    /// Does what a plan says, by `write`, and looks at the end whether it came to that; the driver that has the
    /// controller now. When vfio-pci does not take it the kernel's driver gets it back.
    pub fn carry_out(
        &self,
        plan: &Plan,
        write: &mut dyn FnMut(&Path, &str) -> io::Result<()>,
    ) -> Result<Option<String>, BindError> {
        let mut all = |steps: &[Step]| {
            steps.iter().try_for_each(|Step { path, text }| {
                write(path, text).map_err(|source| BindError::Write { path: path.clone(), source })
            })
        };
        let done = all(&plan.steps);
        let now = driver_of(&self.sys(), &plan.address);
        if !plan.binds || now.as_deref() == Some(VFIO) {
            return done.map(|()| now);
        }
        // What was there before is better than nothing; the first failure is the one to tell of.
        let _restored = all(&self.steps(&plan.address, now.is_some(), ""));
        done?;
        let driver = now.unwrap_or_else(|| "no driver".to_owned());
        Err(BindError::Refused { address: plan.address.clone(), driver, wanted: VFIO })
    }
}

/// With the domain that people leave out.
fn full(address: &str) -> String {
    match address.matches(':').count() {
        1 => format!("0000:{address}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests;
