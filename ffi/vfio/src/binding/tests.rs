//! Plans on made-up hosts, and a made-up kernel that carries them out.

use super::*;
use std::os::unix::fs::symlink;

const ADDRESS: &str = "0000:01:00.0";

/// A host with one controller, its disk and a partition, with the kernel's driver.
struct Fake {
    dir: tempfile::TempDir,
    host: Host,
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let this = Self { host: Host::at(dir.path()), dir };
        for driver in ["nvme", "vfio-pci"] {
            fs::create_dir_all(this.path("sys/bus/pci/drivers").join(driver)).expect("directory");
        }
        this.function(ADDRESS, "0x010802", Some(5), Some("nvme"));
        let function = this.path("sys/bus/pci/devices").join(ADDRESS);
        fs::create_dir_all(function.join("nvme/nvme0/nvme0n1")).expect("directory");
        fs::create_dir_all(function.join("nvme/nvme0/hwmon1")).expect("directory");
        for (part, number) in [("nvme0n1", "259:0"), ("nvme0n1p1", "259:1")] {
            this.file(&format!("sys/class/block/{part}/dev"), &format!("{number}\n"));
            this.file(&format!("sys/class/block/{part}/holders/.keep"), "");
            fs::remove_file(this.path(&format!("sys/class/block/{part}/holders/.keep"))).expect("removed");
            this.file(&format!("dev/{part}"), "");
        }
        fs::create_dir_all(this.path("sys/block/nvme0n1/nvme0n1p1")).expect("directory");
        this.file("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        this.file("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
        this
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
        fs::write(path, text).expect("written");
    }

    fn function(&self, address: &str, class: &str, group: Option<u32>, driver: Option<&str>) {
        self.file(&format!("sys/bus/pci/devices/{address}/class"), &format!("{class}\n"));
        let function = self.path("sys/bus/pci/devices").join(address);
        if let Some(group) = group {
            let group = self.path("sys/kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(group.join("devices")).expect("directory");
            symlink(&group, function.join("iommu_group")).expect("link");
            symlink(&function, group.join("devices").join(address)).expect("link");
        }
        if let Some(driver) = driver {
            symlink(self.path("sys/bus/pci/drivers").join(driver), function.join("driver")).expect("link");
        }
    }

    fn refusal(&self) -> String {
        self.host.plan_bind(ADDRESS).expect_err("refused").to_string()
    }

    /// Carries a plan out as the kernel does; `takes` is the driver that a probe ends with.
    fn carry_out(
        &self,
        plan: &Plan,
        takes: impl Fn(&str) -> Option<&'static str>,
    ) -> (Result<Option<String>, BindError>, Vec<String>) {
        let link = self.path("sys/bus/pci/devices").join(&plan.address).join("driver");
        let (mut over, mut lines) = (String::new(), Vec::new());
        let root = self.dir.path().to_string_lossy().into_owned();
        let result = self.host.carry_out(plan, &mut |path, text| {
            lines.push(format!("{} < {}", path.to_string_lossy().replace(&root, ""), text.trim_end()));
            if path.ends_with("driver/unbind") {
                fs::remove_file(&link)?;
            } else if path.ends_with("driver_override") {
                over = text.trim_end().to_owned();
            } else if let Some(driver) = takes(&over) {
                symlink(self.path("sys/bus/pci/drivers").join(driver), &link)?;
            }
            Ok(())
        });
        (result, lines)
    }
}

/// A kernel whose drivers take what they are given.
fn willing(over: &str) -> Option<&'static str> {
    if over == "vfio-pci" { Some("vfio-pci") } else { Some("nvme") }
}

#[test]
fn a_controller_is_taken_from_the_kernel_and_given_back() {
    let fake = Fake::new();
    let plan = fake.host.plan_bind("01:00.0").expect("a plan, and the domain may be left out");
    assert_eq!((plan.address.as_str(), plan.from.as_deref(), plan.group), (ADDRESS, Some("nvme"), Some(5)));
    assert_eq!(plan.disks, ["nvme0n1"]);
    assert!(plan.steps[1].to_string().starts_with("echo 'vfio-pci' > "), "{}", plan.steps[1]);
    assert_eq!(driver_of(&fake.path("sys"), ADDRESS).as_deref(), Some("nvme"), "a plan changes nothing");
    let (now, lines) = fake.carry_out(&plan, willing);
    assert_eq!(now.expect("bound").as_deref(), Some("vfio-pci"));
    let function = "/sys/bus/pci/devices/0000:01:00.0";
    let probe = "/sys/bus/pci/drivers_probe < 0000:01:00.0".to_owned();
    let unbind = format!("{function}/driver/unbind < {ADDRESS}");
    assert_eq!(lines, [unbind.clone(), format!("{function}/driver_override < vfio-pci"), probe.clone()]);
    assert_eq!(fake.host.plan_bind(ADDRESS).expect("a plan").steps, [], "it is as wanted already");

    let plan = fake.host.plan_unbind(ADDRESS).expect("a plan");
    let (now, lines) = fake.carry_out(&plan, willing);
    assert_eq!(now.expect("given back").as_deref(), Some("nvme"));
    assert_eq!(lines, [unbind, format!("{function}/driver_override < "), probe]);
    let error = fake.host.plan_unbind(ADDRESS).expect_err("it is not ours").to_string();
    assert!(error.contains("is with nvme, not with vfio-pci"), "{error}");
}

#[test]
fn one_that_vfio_does_not_take_goes_back_to_where_it_was() {
    let fake = Fake::new();
    let plan = fake.host.plan_bind(ADDRESS).expect("a plan");
    let (now, lines) = fake.carry_out(&plan, |over| if over.is_empty() { Some("nvme") } else { None });
    let error = now.expect_err("refused").to_string();
    assert!(error.contains("is with no driver and not with vfio-pci"), "{error}");
    assert_eq!(lines.len(), 5, "override and probe once more: {lines:?}");
    assert_eq!(driver_of(&fake.path("sys"), ADDRESS).as_deref(), Some("nvme"));
}

#[test]
fn a_refused_write_is_named_with_what_to_do() {
    let fake = Fake::new();
    let plan = fake.host.plan_bind(ADDRESS).expect("a plan");
    let refuse = &mut |_: &Path, _: &str| Err(io::Error::from_raw_os_error(libc::EACCES));
    let error = fake.host.carry_out(&plan, refuse).expect_err("refused").to_string();
    assert!(error.contains("driver/unbind") && error.ends_with("run as root"), "{error}");
}

#[test]
fn what_is_mounted_swap_or_part_of_something_is_left_where_it_is() {
    let fake = Fake::new();
    fake.file("proc/self/mountinfo", "30 22 259:1 / /srv rw - ext4 /dev/nvme0n1p1 rw\n");
    assert!(fake.refusal().contains("nvme0n1p1 is mounted at /srv; unmount it first"), "{}", fake.refusal());
    fake.file("proc/self/mountinfo", "30 22 0:45 / /pool rw - btrfs /dev/nvme0n1 rw\n");
    assert!(fake.refusal().contains("nvme0n1 is mounted at /pool"), "{}", fake.refusal());
    fake.file("proc/self/mountinfo", "");
    fake.file("proc/swaps", "Filename Type\n/dev/nvme0n1p1 partition\n");
    assert!(fake.refusal().contains("nvme0n1p1 is swap; `swapoff`"), "{}", fake.refusal());
    fake.file("proc/swaps", "");
    fake.file("sys/class/block/nvme0n1p1/holders/dm-3", "");
    assert!(fake.refusal().contains("nvme0n1p1 is part of dm-3"), "{}", fake.refusal());
    fs::remove_file(fake.path("sys/class/block/nvme0n1p1/holders/dm-3")).expect("removed");
    assert!(fake.host.plan_bind(ADDRESS).is_ok(), "nobody uses it any more");
}

#[test]
fn a_disk_with_several_paths_is_found_behind_each() {
    let fake = Fake::new();
    let controller = fake.path("sys/bus/pci/devices").join(ADDRESS).join("nvme/nvme0");
    fs::rename(controller.join("nvme0n1"), controller.join("nvme0c1n1")).expect("renamed");
    fake.file("proc/self/mountinfo", "30 22 259:1 / /srv rw - ext4 /dev/nvme0n1p1 rw\n");
    assert!(fake.refusal().contains("nvme0n1p1 is mounted at /srv"), "{}", fake.refusal());
}

#[test]
fn what_cannot_be_had_is_told_apart() {
    let fake = Fake::new();
    let told = |address: &str| fake.host.plan_bind(address).expect_err("refused").to_string();
    assert!(told("0000:09:00.0").contains("no PCI device 0000:09:00.0"));
    assert!(told("../devices/0000:01:00.0").contains("no PCI device"));
    fake.function("0000:02:00.0", "0x020000", Some(6), Some("e1000e"));
    assert!(told("0000:02:00.0").contains("is no NVMe controller (PCI class 0x020000)"));
    fake.function("0000:03:00.0", "0x010802", None, Some("nvme"));
    assert!(told("0000:03:00.0").contains("intel_iommu=on"));
    fake.function("0000:01:00.1", "0x040300", Some(5), Some("snd_hda_intel"));
    let text = told(ADDRESS);
    assert!(text.contains("group 5") && text.contains("0000:01:00.1 (with snd_hda_intel)"), "{text}");
    fs::remove_file(fake.path("sys/bus/pci/devices/0000:01:00.1/driver")).expect("unbound");
    assert!(fake.host.plan_bind(ADDRESS).is_ok(), "one without a driver is in nobody's way");
    fs::remove_dir(fake.path("sys/bus/pci/drivers/vfio-pci")).expect("removed");
    assert!(told(ADDRESS).contains("modprobe vfio-pci"), "{}", told(ADDRESS));
    let unbind = fake.host.plan_unbind("0000:09:00.0").expect_err("refused").to_string();
    assert!(unbind.contains("no PCI device"), "{unbind}");
}
