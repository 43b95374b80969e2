//! `palisade bind` and `palisade unbind` on a kernel: what is in use stays where it is, everything else goes to
//! programs of this host and comes back.

use palisade_guest::{Disk, PLAIN, TWINS, bind, block_device, driver, unbind};
use palisade_runtime::block::nvme::NvmeOptions;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs the binary; whether it was content, and all that it said.
fn palisade(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(std::env::var("PALISADE_BIN").expect("the machine says where it is"));
    let out = command.args(args).output().expect("runs");
    let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    println!("palisade {args:?}: {said}");
    (out.status.success(), said)
}

fn host(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect("runs");
    assert!(status.success(), "{program} {args:?}: {status}");
}

#[test]
#[ignore = "make guest"]
fn a_controller_goes_to_programs_and_back_by_command() {
    bind(PLAIN, "nvme");
    block_device(PLAIN);
    let (good, said) = palisade(&["bind", PLAIN, "--dry-run"]);
    assert!(good && said.contains("which the kernel gives up"), "{said}");
    assert!(said.contains("echo 'vfio-pci' > /sys/bus/pci/devices/0000:00:05.0/driver_override"), "{said}");
    assert_eq!(driver(PLAIN).as_deref(), Some("nvme"), "only said");

    let (good, said) = palisade(&["bind", "00:05.0"]);
    assert!(good && said.contains("is with vfio-pci now (/dev/vfio/"), "{said}");
    let (good, said) = palisade(&["bind", PLAIN]);
    assert!(good && said.contains("already"), "{said}");
    let mut disk = Disk::open(PLAIN, NvmeOptions::default());
    disk.serves(0, 1);
    let (good, said) = palisade(&["unbind", PLAIN]);
    assert!(!good && said.contains("is open in a process"), "{said}");
    disk.serves(0, 2);
    drop(disk);

    let (good, said) = palisade(&["unbind", PLAIN]);
    assert!(good && said.contains("is with nvme now"), "{said}");
    block_device(PLAIN);
    let (good, said) = palisade(&["unbind", PLAIN]);
    assert!(!good && said.contains("not with vfio-pci"), "{said}");
}

#[test]
#[ignore = "make guest"]
fn a_disk_in_use_is_refused() {
    bind(PLAIN, "nvme");
    let path = block_device(PLAIN);
    let device = path.to_str().expect("text");
    let refused = |why: &str| {
        let (good, said) = palisade(&["bind", PLAIN]);
        assert!(!good && said.contains(why), "{said}");
        assert_eq!(driver(PLAIN).as_deref(), Some("nvme"), "it stays where it is");
        assert!(path.exists());
    };
    host("mkswap", &[device]);
    host("swapon", &[device]);
    refused("is swap");
    host("swapoff", &[device]);
    host("mke2fs", &["-F", device]);
    fs::create_dir_all("/tmp/mount").expect("directory");
    host("mount", &["-t", "ext4", device, "/tmp/mount"]);
    fs::write("/tmp/mount/file", "kept").expect("written");
    refused("is mounted at /tmp/mount; unmount it first");
    // Out of sight of the list of mounts, and still taken.
    host("umount", &["/tmp/mount"]);
    let script = format!("mount -t ext4 {device} /tmp/mount && echo up && read -r end");
    let mut apart = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut line = String::new();
    let said = apart.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line)
        .expect("says that it is mounted");
    assert_eq!(line, "up\n");
    refused("is taken by");
    drop(apart.stdin.take());
    apart.wait().expect("ends");
    let (good, said) = palisade(&["bind", PLAIN]);
    assert!(good, "nobody uses it any more: {said}");
    let mut disk = Disk::open(PLAIN, NvmeOptions::default());
    let key = disk.read(1024, 512, 0);
    assert_eq!(disk.done(key)[56..58], [0x53, 0xef], "the file system's mark is there, in our hands");
}

#[test]
#[ignore = "make guest"]
fn what_cannot_be_bound_is_refused_by_command() {
    let refused = |address: &str, why: &str| {
        let (good, said) = palisade(&["bind", address]);
        assert!(!good && said.contains(why), "{said}");
    };
    refused("0000:1f:00.0", "no PCI device 0000:1f:00.0");
    refused("0000:00:00.0", "is no NVMe controller (PCI class 0x060000)");
    bind(TWINS[1], "nvme");
    bind(TWINS[0], "nvme");
    refused(TWINS[0], "0000:00:07.1 (with nvme)");
    unbind(TWINS[1]);
    let (good, said) = palisade(&["bind", TWINS[0]]);
    assert!(good, "alone in its group: {said}");
    assert!(Path::new("/sys/bus/pci/devices").join(TWINS[0]).join("driver").exists());
}
