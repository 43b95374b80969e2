//! Others that have the disk before, after and beside this process: the kernel's own driver, which must see the same
//! bytes; a second driver; processes that are killed; the load generator.

use palisade_guest::{Disk, Image, PLAIN, PLAIN_BYTES, WIDE, bind, block_device};
use palisade_runtime::block::BlockPort;
use palisade_runtime::block::nvme::{NvmeOptions, VfioNvme};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const BYTES: usize = 6 << 20;
const OFFSET: u64 = 1 << 20;

fn open(address: &str) -> Disk {
    bind(address, "vfio-pci");
    Disk::open(address, NvmeOptions::default())
}

#[test]
#[ignore = "make guest"]
fn the_kernels_driver_reads_what_was_written_and_its_writes_are_read() {
    for (address, seed) in [(PLAIN, 11), (WIDE, 12)] {
        let mut disk = open(address);
        let block = u64::from(disk.info().block);
        let mut image = Image::write(&mut disk, OFFSET, BYTES, seed);
        image.work(&mut disk, 32, 500);
        let key = disk.flush();
        disk.done(key);
        let bytes = disk.info().bytes;
        drop(disk);

        bind(address, "nvme");
        let path = block_device(address);
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("the kernel's disk opens");
        let mut seen = vec![0; BYTES];
        file.read_exact_at(&mut seen, OFFSET).expect("the kernel reads");
        assert!(seen == image.bytes(), "the kernel sees on {} what was written", path.display());
        let theirs: Vec<u8> = (0..BYTES).map(|i| (i / 512) as u8 ^ seed as u8 ^ 0xa5).collect();
        file.write_all_at(&theirs, OFFSET + block).expect("the kernel writes");
        file.sync_all().expect("the kernel flushes");
        drop(file);

        let mut disk = open(address);
        assert_eq!(disk.info().bytes, bytes);
        let key = disk.read(OFFSET, block as usize, 0);
        assert!(disk.done(key) == image.bytes()[..block as usize], "what the kernel left is left");
        for at in (0..BYTES).step_by(256 << 10) {
            let key = disk.read(OFFSET + block + at as u64, 256 << 10, 0);
            assert!(disk.done(key) == theirs[at..at + (256 << 10)], "what the kernel wrote is read, at {at}");
        }
    }
}

#[test]
#[ignore = "make guest"]
fn data_stays_over_closing_and_opening_with_a_shutdown_and_without() {
    let mut disk = open(PLAIN);
    let mut image = Image::write(&mut disk, OFFSET, BYTES, 13);
    for shuts_down in [true, false, true] {
        image.work(&mut disk, 16, 300);
        let key = disk.flush();
        disk.done(key);
        if shuts_down {
            assert!(disk.nvme().shut_down(Duration::from_secs(10)), "it says that it has stopped");
        }
        drop(disk);
        disk = open(PLAIN);
        image.verify(&mut disk);
    }
}

#[test]
#[ignore = "make guest"]
fn closing_with_requests_under_way_leaves_a_disk_that_opens() {
    for round in 0..3 {
        let mut disk = open(PLAIN);
        for at in 0..100 {
            disk.write(at << 16, &[round; 65536], false);
        }
        disk.driver.kick();
        assert!(disk.open_requests() > 0, "some are under way");
        let pool = disk.pool.clone();
        drop(disk);
        let stats = pool.stats();
        assert_eq!(stats.free, stats.total, "every buffer came back");
    }
    open(PLAIN).serves(0, 9);
}

#[test]
#[ignore = "make guest"]
fn a_disk_has_one_owner() {
    let mut disk = open(PLAIN);
    let error = VfioNvme::open(PLAIN).err().expect("it is taken").to_string();
    assert!(error.contains("another process has it"), "{error}");
    disk.serves(0, 5);
    drop(disk);
    open(PLAIN).serves(0, 6);
}

/// `palisade perf run` on a disk.
fn perf(address: &str, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("PALISADE_BIN").expect("the machine says where it is"));
    command.args(["perf", "run", &format!("nvme:{address}"), "--quiet", "--json"]).args(args);
    command
}

/// Runs it to its end, which must be good; what it reports.
fn report(mut command: Command) -> serde_json::Value {
    let out = command.output().expect("runs");
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{said}");
    assert!(out.status.success(), "{}: {said} {complained}", out.status);
    serde_json::from_str(&said).expect("JSON")
}

#[test]
#[ignore = "make guest"]
fn the_load_generator_verifies_what_it_wrote() {
    for (address, size, depth) in [(PLAIN, "4k", "64"), (PLAIN, "128k", "8"), (WIDE, "16k", "32")] {
        bind(address, "vfio-pci");
        let sizes =
            ["--size", size, "--depth", depth, "--region", "64m", "--requests", "10000", "--seconds", "20"];
        let mut command = perf(address, &["--read", "50", "--verify", "--flush-every", "100"]);
        command.args(sizes);
        let report = report(command);
        assert_eq!(report["wrong"], 0, "{report}");
        assert_eq!(report["errors"], 0, "{report}");
        assert_eq!(report["ended"], "complete", "{report}");
        assert!(report["compared_blocks"].as_u64().is_some_and(|count| count > 200), "{report}");
    }
}

#[test]
#[ignore = "make guest"]
fn what_one_process_wrote_another_verifies() {
    bind(PLAIN, "vfio-pci");
    let state = ["--state", "/tmp/state", "--region", "32m"];
    let mut command = perf(PLAIN, &["--read", "30", "--verify", "--requests", "8000", "--seconds", "20"]);
    command.args(state);
    report(command);
    let mut command = perf(PLAIN, &["--verify-only"]);
    command.args(state);
    report(command);
}

/// Waits until a process has the disk.
fn taken(child: &mut Child) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(child.try_wait().expect("asked").is_none(), "the load goes on");
        assert!(Instant::now() < end, "the load does not begin");
        match VfioNvme::open(PLAIN) {
            Err(error) if error.to_string().contains("another process") => return,
            opened => drop(opened),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "make guest"]
fn a_process_that_is_killed_under_load_leaves_a_disk_that_opens() {
    bind(PLAIN, "vfio-pci");
    for round in 0..3 {
        let mut command = perf(PLAIN, &["--read", "50", "--depth", "128", "--seconds", "60"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("runs");
        thread::sleep(Duration::from_millis(1500));
        taken(&mut child);
        thread::sleep(Duration::from_millis(500));
        child.kill().expect("killed");
        child.wait().expect("ended");
        let mut disk = Disk::open(PLAIN, NvmeOptions::default());
        assert_eq!(disk.info().bytes, PLAIN_BYTES);
        disk.serves(0, 0x30 + round);
        let stats = disk.nvme().stats();
        assert_eq!((stats.resets, stats.bad_completions), (0, 0), "nothing of before comes through");
    }
    assert!(Path::new("/dev/vfio/vfio").exists());
}
