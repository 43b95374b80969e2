//! IOMMU groups in sysfs: which devices share one, and which driver has each.

use crate::error::VfioError;
use std::fs;
use std::path::Path;

/// Drivers that leave a group viable: VFIO's own, and those that let nobody use the device.
const HARMLESS: [&str; 4] = ["vfio-pci", "pci-stub", "pcieport", "shpchp"];

/// A device of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its PCI address.
    pub address: String,
    /// The driver that has it, if one has.
    pub driver: Option<String>,
}

/// Devices that the IOMMU cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// Its devices, in the order of their addresses.
    pub members: Vec<Member>,
}

impl Group {
    /// Devices that keep it from being used.
    pub fn in_the_way(&self) -> Vec<Member> {
        let is_bad = |member: &&Member| match &member.driver {
            Some(driver) => !HARMLESS.contains(&driver.as_str()),
            None => false,
        };
        self.members.iter().filter(is_bad).cloned().collect()
    }
}

/// The group of a PCI device (`0000:01:00.0`) in the sysfs at `sys`, which is `/sys` but for tests.
pub fn find_group(sys: &Path, address: &str) -> Result<Group, VfioError> {
    let device = sys.join("bus/pci/devices").join(address);
    if address.contains('/') || !device.exists() {
        return Err(VfioError::NoDevice(address.to_owned()));
    }
    let link = fs::read_link(device.join("iommu_group")).ok();
    let number = link.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()?.parse().ok());
    let number: u32 = number.ok_or_else(|| VfioError::NoIommu(address.to_owned()))?;
    let mut members = Vec::new();
    let listed = fs::read_dir(sys.join("kernel/iommu_groups").join(number.to_string()).join("devices"));
    for entry in listed.into_iter().flatten().flatten() {
        let address = entry.file_name().to_string_lossy().into_owned();
        members.push(Member { driver: driver_of(sys, &address), address });
    }
    members.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(Group { number, members })
}

/// The driver that has a device.
pub(crate) fn driver_of(sys: &Path, address: &str) -> Option<String> {
    let link = fs::read_link(sys.join("bus/pci/devices").join(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with devices: address, group, driver.
    fn sysfs(devices: &[(&str, Option<u32>, Option<&str>)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("directory");
        for (address, group, driver) in devices {
            let device = sys.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).expect("directory");
            if let Some(group) = group {
                let group = sys.path().join("kernel/iommu_groups").join(group.to_string());
                fs::create_dir_all(group.join("devices")).expect("directory");
                symlink(&group, device.join("iommu_group")).expect("link");
                symlink(&device, group.join("devices").join(address)).expect("link");
            }
            if let Some(driver) = driver {
                symlink(Path::new("../../../bus/pci/drivers").join(driver), device.join("driver"))
                    .expect("link");
            }
        }
        sys
    }

    #[test]
    fn a_group_names_its_devices_and_who_is_in_the_way() {
        let sys = sysfs(&[
            ("0000:01:00.0", Some(5), Some("vfio-pci")),
            ("0000:01:00.1", Some(5), Some("nvme")),
            ("0000:00:01.0", Some(5), Some("pcieport")),
            ("0000:01:00.2", Some(5), None),
            ("0000:02:00.0", Some(6), Some("nvme")),
        ]);
        let group = find_group(sys.path(), "0000:01:00.0").expect("found");
        assert_eq!((group.number, group.members.len()), (5, 4));
        let holder = Member { address: "0000:01:00.1".to_owned(), driver: Some("nvme".to_owned()) };
        assert_eq!(group.in_the_way(), [holder]);
    }

    #[test]
    fn a_missing_device_and_an_iommu_that_is_off_are_told_apart() {
        let sys = sysfs(&[("0000:01:00.0", None, Some("nvme"))]);
        assert!(matches!(find_group(sys.path(), "0000:01:00.0"), Err(VfioError::NoIommu(_))));
        for address in ["0000:09:00.0", "", "../devices/0000:01:00.0"] {
            let found = find_group(sys.path(), address);
            assert!(matches!(found, Err(VfioError::NoDevice(_) | VfioError::NoIommu(_))), "{address}");
        }
    }
}
