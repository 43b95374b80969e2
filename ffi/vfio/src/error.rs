//! What can be missing, and what to do about it.

use crate::group::Member;
use std::io;

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// No device has this address.
    #[error("no PCI device {0}; `lspci -D` lists those that there are")]
    NoDevice(String),
    /// It has no IOMMU group.
    #[error(
        "{0} has no IOMMU group: the IOMMU is off. Enable VT-d or AMD-Vi in the firmware, and boot with \
         `intel_iommu=on iommu=pt` (AMD: `amd_iommu=on iommu=pt`)"
    )]
    NoIommu(String),
    /// VFIO is not there.
    #[error("/dev/vfio/vfio does not exist: load the driver (`modprobe vfio-pci`)")]
    NoVfio,
    /// Another driver has it.
    #[error("{address} is with {driver}; give it up there first, and bind it to vfio-pci")]
    NotOurs {
        /// Which device.
        address: String,
        /// Which driver, or that there is none.
        driver: String,
    },
    /// Its group holds devices of other drivers.
    #[error(
        "IOMMU group {group} of {address} is not viable: {} must be unbound or bound to vfio-pci, too \
         (devices of a group can reach one another's memory)",
        list(holders)
    )]
    NotViable {
        /// Which device.
        address: String,
        /// Its group.
        group: u32,
        /// The other devices of the group that are in the way.
        holders: Vec<Member>,
    },
    /// The group cannot be opened.
    #[error("/dev/vfio/{group}: {source}{}", hint(source))]
    Group {
        /// Which one.
        group: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's VFIO is another one.
    #[error(
        "the kernel has no VFIO of version 0 with an IOMMU of type 1; a newer one, or another machine, has"
    )]
    Version,
    /// Memory cannot be given to the device.
    #[error("{bytes} bytes of memory cannot be given to {address}: {source}{}", locked(source))]
    Map {
        /// Which device.
        address: String,
        /// How many bytes.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The IOMMU has no room for addresses.
    #[error("the IOMMU has no room left for {bytes} bytes of {address}: lower `pool` in the rack file")]
    NoRoom {
        /// Which device.
        address: String,
        /// How many bytes.
        bytes: usize,
    },
    /// A request on the device failed.
    #[error("{address}: cannot {what}: {source}")]
    Device {
        /// Which device.
        address: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A BAR that is missing, too short, or no memory.
    #[error(
        "{address} has no memory in BAR {bar}, or it cannot be mapped; it is not the function that was meant"
    )]
    NoBar {
        /// Which device.
        address: String,
        /// Which BAR.
        bar: u32,
    },
}

fn list(holders: &[Member]) -> String {
    let one = |member: &Member| match &member.driver {
        Some(driver) => format!("{} (with {driver})", member.address),
        None => member.address.clone(),
    };
    if holders.is_empty() {
        return "another device of it".to_owned();
    }
    holders.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "; run as root, or give the file to the user that runs the rack",
        Some(libc::EBUSY) => "; another process has it (`fuser -v` on that file says which)",
        Some(libc::ENOENT) => "; no device of the group is bound to vfio-pci",
        _ => "",
    }
}

fn locked(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOMEM) => {
            "; raise the limit on locked memory (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_who_is_in_the_way_and_what_to_do() {
        let holder = |address: &str, driver: &str| Member {
            address: address.to_owned(),
            driver: Some(driver.to_owned()),
        };
        let error = VfioError::NotViable {
            address: "0000:01:00.0".to_owned(),
            group: 7,
            holders: vec![holder("0000:01:00.1", "snd_hda_intel"), holder("0000:01:00.2", "xhci_hcd")],
        };
        let text = error.to_string();
        assert!(text.contains("group 7") && text.contains("0000:01:00.1 (with snd_hda_intel), 0000:01:00.2"));
        let source = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = VfioError::Map { address: "a".to_owned(), bytes: 5, source }.to_string();
        assert!(text.contains("LimitMEMLOCK"), "{text}");
        let source = io::Error::from_raw_os_error(libc::EBUSY);
        assert!(VfioError::Group { group: 3, source }.to_string().contains("another process"));
        assert!(VfioError::NoIommu("x".to_owned()).to_string().contains("intel_iommu=on"));
    }
}
