//! Controllers that stop, are reset by others, asked back or taken out under load: every request is answered, what
//! was answered well is true, and nothing hangs.

use palisade_guest::{Disk, Image, PLAIN, Tampered, bind, driver, remove, rescan, reset, unbind};
use palisade_runtime::block::nvme::{NvmeEvent, NvmeOptions, ResetReason, VfioNvme};
use palisade_runtime::block::{BlockFault, BlockPort};
use std::thread;
use std::time::Duration;

/// Time-outs that a test can wait for.
fn options() -> NvmeOptions {
    let (timeout, admin_timeout) = (Duration::from_secs(2), Duration::from_secs(2));
    NvmeOptions { timeout, admin_timeout, ..NvmeOptions::default() }
}

fn resets(disk: &Disk) -> Vec<ResetReason> {
    let reason = |event: &NvmeEvent| match event {
        NvmeEvent::Reset(reason) => Some(*reason),
        _ => None,
    };
    disk.events.iter().filter_map(reason).collect()
}

#[test]
#[ignore = "make guest"]
fn a_controller_that_stops_is_started_again_and_nothing_is_lost() {
    bind(PLAIN, "vfio-pci");
    let (device, tampering) = Tampered::open(PLAIN, 0);
    let mut disk = Disk::on(device, options());
    for round in 1..=3u8 {
        let writes: Vec<u64> = (0..64).map(|at| disk.write(at << 16, &[round; 65536], false)).collect();
        disk.driver.kick();
        tampering.stop();
        for key in writes {
            assert!(disk.wait(key).is_ok(), "a write that a reset caught is sent again");
        }
        // Some completed before: the cache that held them is not trusted over a reset.
        let told = |disk: &mut Disk| {
            let key = disk.flush();
            disk.wait(key).err()
        };
        let first = told(&mut disk);
        assert!(matches!(first, None | Some(BlockFault::Io)), "{first:?}");
        assert_eq!(told(&mut disk), None, "an owner that was told writes on");
        for at in (0..64).map(|at| at << 16) {
            let key = disk.read(at, 65536, 0);
            assert!(disk.done(key).iter().all(|&byte| byte == round), "round {round} at {at}");
        }
    }
    assert_eq!(resets(&disk), [ResetReason::NotReady; 3]);
    disk.check();
}

#[test]
#[ignore = "make guest"]
fn a_stopped_controller_answers_the_flush_of_lost_writes_with_an_error_once() {
    bind(PLAIN, "vfio-pci");
    let (device, tampering) = Tampered::open(PLAIN, 0);
    let mut disk = Disk::on(device, options());
    disk.serves(0, 1);
    tampering.stop();
    disk.until("the reset", |disk| {
        disk.events.iter().filter(|&event| *event == NvmeEvent::Ready).count() == 2
    });
    let key = disk.flush();
    assert_eq!(disk.wait(key).err(), Some(BlockFault::Io), "writes were cached and not flushed");
    disk.serves(0, 2);
    let key = disk.flush();
    disk.done(key);
}

#[test]
#[ignore = "make guest"]
fn a_function_that_somebody_resets_is_started_again_or_given_up_and_never_hangs() {
    bind(PLAIN, "vfio-pci");
    let mut disk = Disk::open(PLAIN, options());
    let mut image = Image::write(&mut disk, 0, 4 << 20, 21);
    image.work(&mut disk, 32, 200);
    let key = disk.flush();
    disk.done(key);
    let by_somebody = thread::spawn(|| reset(PLAIN));
    let mut reads = Vec::new();
    disk.until("the reset", |disk| {
        if disk.open_requests() < 32 && !disk.nvme().is_gone() {
            let at = (reads.len() as u64 % 64) << 16;
            reads.push((at as usize, disk.read(at, 65536, 0xee)));
        }
        by_somebody.is_finished() && (disk.nvme().is_gone() || !resets(disk).is_empty())
    });
    by_somebody.join().expect("the kernel resets it");
    disk.drain();
    let mut good = 0;
    for (at, key) in reads {
        if let Ok(Some(buf)) = disk.wait(key) {
            assert!(*buf == image.bytes()[at..at + 65536], "what was answered is right, at {at}");
            good += 1;
        }
    }
    println!("{good} reads were answered well; gone: {}", disk.nvme().is_gone());
    disk.check();
    drop(disk);
    let mut disk = Disk::open(PLAIN, options());
    image.verify(&mut disk);
}

/// Keeps writes under way until the disk is gone; all must be answered.
fn load_until_gone(disk: &mut Disk) {
    let mut keys = Vec::new();
    disk.until("the end of the disk", |disk| {
        if disk.open_requests() < 64 && !disk.nvme().is_gone() {
            keys.push(disk.write(0, &[1; 16384], false));
        }
        disk.nvme().is_gone()
    });
    disk.drain();
    let ends: Vec<_> = keys.into_iter().map(|key| disk.wait(key).err()).collect();
    assert!(ends.iter().all(|end| matches!(end, None | Some(BlockFault::Gone))), "{ends:?}");
    let key = disk.write(0, &[1; 4096], false);
    assert_eq!(disk.wait(key).err(), Some(BlockFault::Gone), "and so is everything after");
    assert!(
        matches!(disk.events.last(), Some(NvmeEvent::Gone(why)) if why.contains("asked back")),
        "{:?}",
        disk.events
    );
    disk.check();
}

#[test]
#[ignore = "make guest"]
fn a_function_that_is_asked_back_under_load_is_given_back() {
    bind(PLAIN, "vfio-pci");
    let mut disk = Disk::open(PLAIN, options());
    disk.serves(0, 1);
    let operator = thread::spawn(|| unbind(PLAIN));
    load_until_gone(&mut disk);
    operator.join().expect("the kernel unbinds it while the driver is still there");
    assert_eq!(driver(PLAIN), None);
    drop(disk);
    bind(PLAIN, "vfio-pci");
    Disk::open(PLAIN, options()).serves(0, 2);
}

#[test]
#[ignore = "make guest"]
fn a_function_that_is_taken_off_the_bus_under_load_is_gone_and_comes_back() {
    bind(PLAIN, "vfio-pci");
    let mut disk = Disk::open(PLAIN, options());
    let mut image = Image::write(&mut disk, 1 << 20, 1 << 20, 22);
    let operator = thread::spawn(|| remove(PLAIN));
    load_until_gone(&mut disk);
    operator.join().expect("the kernel removes it while the driver is still there");
    let error = VfioNvme::open(PLAIN).err().expect("it is away").to_string();
    assert!(error.contains("no PCI device"), "{error}");
    drop(disk);
    rescan(PLAIN);
    bind(PLAIN, "vfio-pci");
    let mut disk = Disk::open(PLAIN, options());
    image.verify(&mut disk);
}
