//! The IOMMU: a device reaches what it was given and nothing else, and nothing at all when it was cut off. And who may
//! have a device: groups, drivers, addresses.

use palisade_guest::{Disk, PLAIN, TWINS, Tampered, WIDE, bind, kernel_log, unbind};
use palisade_runtime::block::BlockFault;
use palisade_runtime::block::nvme::{NvmeEvent, NvmeOptions, VfioNvme};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Far from everything that a device is given.
const ASTRAY: u64 = 1 << 37;

fn options() -> NvmeOptions {
    let (timeout, admin_timeout) = (Duration::from_secs(2), Duration::from_secs(2));
    NvmeOptions { timeout, admin_timeout, ..NvmeOptions::default() }
}

/// Faults of a device that the IOMMU told the kernel of.
fn faults(address: &str) -> usize {
    let device = format!("[{}]", &address["0000:".len()..]);
    let of_it = |line: &&str| line.contains("DMAR") && line.contains("fault addr") && line.contains(&device);
    kernel_log().lines().filter(of_it).count()
}

#[test]
#[ignore = "make guest"]
fn a_device_that_is_told_a_wrong_address_writes_nowhere() {
    bind(PLAIN, "vfio-pci");
    let mut sound = Disk::open(PLAIN, options());
    sound.serves(0, 0x11);
    drop(sound);
    let before = faults(PLAIN);
    let (device, tampering) = Tampered::open(PLAIN, ASTRAY);
    let mut disk = Disk::on(device, options());
    // What the device answers to that is its business; where the bytes went is not.
    let key = disk.read(0, 4096, 0x77);
    match disk.wait(key) {
        Ok(buf) => {
            assert!(buf.is_some_and(|buf| buf.iter().all(|&byte| byte == 0x77)), "nothing was written")
        }
        Err(fault) => assert!(matches!(fault, BlockFault::Io | BlockFault::Gone), "{fault}"),
    }
    let end = Instant::now() + Duration::from_secs(10);
    while faults(PLAIN) == before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert!(faults(PLAIN) > before, "the IOMMU tells of it: {}", kernel_log());
    disk.check();
    drop((disk, tampering));
    let mut sound = Disk::open(PLAIN, options());
    let key = sound.read(0, 4096, 0);
    assert!(sound.done(key).iter().all(|&byte| byte == 0x11), "the disk is well");
}

#[test]
#[ignore = "make guest"]
fn a_device_that_is_cut_off_reaches_nothing_and_everything_is_answered() {
    bind(PLAIN, "vfio-pci");
    let (device, tampering) = Tampered::open(PLAIN, 0);
    let mut disk = Disk::on(device, options());
    disk.serves(0, 0x22);
    tampering.isolate();
    let keys: Vec<u64> = (0..32).map(|at| disk.read(at << 12, 4096, 0x33)).collect();
    disk.drain();
    for key in keys {
        let answer = disk.wait(key);
        assert!(matches!(answer, Err(BlockFault::Io | BlockFault::Gone)), "nothing can have been read");
    }
    disk.until("the end of the disk", |disk| disk.nvme().is_gone());
    assert!(matches!(disk.events.last(), Some(NvmeEvent::Gone(_))), "{:?}", disk.events);
    disk.check();
    drop((disk, tampering));
    Disk::open(PLAIN, options()).serves(0, 0x44);
}

#[test]
#[ignore = "make guest"]
fn who_is_in_the_way_is_named() {
    let told = |address: &str| VfioNvme::open(address).err().expect("it cannot be had").to_string();
    bind(PLAIN, "nvme");
    assert!(told(PLAIN).contains("0000:00:05.0 is with nvme"), "{}", told(PLAIN));
    unbind(PLAIN);
    assert!(told(PLAIN).contains("is with no driver"), "{}", told(PLAIN));
    assert!(told("0000:1f:00.0").contains("no PCI device 0000:1f:00.0"));
    // Not a controller, and with no driver at all: the host bridge.
    assert!(told("0000:00:00.0").contains("no driver"), "{}", told("0000:00:00.0"));

    bind(TWINS[0], "vfio-pci");
    bind(TWINS[1], "nvme");
    let error = told(TWINS[0]);
    assert!(error.contains("not viable") && error.contains("0000:00:07.1 (with nvme)"), "{error}");
    for with in [Some("vfio-pci"), None] {
        match with {
            Some(driver) => bind(TWINS[1], driver),
            None => unbind(TWINS[1]),
        }
        let mut disk = Disk::open(TWINS[0], options());
        disk.serves(0, 7);
    }
    bind(PLAIN, "vfio-pci");
    Disk::open(PLAIN, options()).serves(0, 8);
}

/// `palisade perf run` on the disk by an ordinary user; whether it went well, and what was said.
fn as_user(depth: &str) -> (bool, String) {
    let mut command = Command::new(std::env::var("PALISADE_BIN").expect("the machine says where it is"));
    command.args(["perf", "run", &format!("nvme:{PLAIN}"), "--quiet", "--size", "64k", "--depth", depth]);
    command.args(["--read", "50", "--verify", "--region", "16m", "--requests", "1000"]);
    let out = command.uid(1000).gid(1000).output().expect("runs");
    let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    println!("{said}");
    (out.status.success(), said)
}

#[test]
#[ignore = "make guest"]
fn an_ordinary_user_needs_the_file_and_the_right_to_lock_memory() {
    let lock = |bytes: Option<u64>| {
        setrlimit(Resource::Memlock, Rlimit { current: bytes, maximum: bytes }).expect("root may set it");
    };
    bind(PLAIN, "vfio-pci");
    let group = std::fs::read_link(format!("/sys/bus/pci/devices/{PLAIN}/iommu_group")).expect("a group");
    let file = Path::new("/dev/vfio").join(group.file_name().expect("a number"));
    let (good, said) = as_user("4");
    assert!(!good && said.contains("run as root, or give the file to the user"), "{said}");
    chown(&file, Some(1000), Some(1000)).expect("given");
    lock(Some(4 << 20));
    let (good, said) = as_user("128");
    assert!(!good && said.contains("LimitMEMLOCK=infinity"), "{said}");
    lock(None);
    let (good, said) = as_user("128");
    assert!(good, "no more rights are needed: {said}");
    let mut disk = Disk::open(PLAIN, options());
    disk.serves(0, 1);
}

#[test]
#[ignore = "make guest"]
fn two_devices_have_an_address_space_each() {
    bind(PLAIN, "vfio-pci");
    bind(WIDE, "vfio-pci");
    let (device, tampering) = Tampered::open(PLAIN, 0);
    let mut first = Disk::on(device, options());
    let mut second = Disk::open(WIDE, options());
    first.serves(0, 1);
    second.serves(0, 1);
    tampering.isolate();
    for round in 0..50 {
        second.serves(4096 * round, round as u8);
    }
    let key = first.read(0, 4096, 0);
    assert!(first.wait(key).is_err(), "one is cut off");
    second.serves(0, 3);
    assert_eq!(second.nvme().stats().resets, 0, "and the other is not");
}
