//! Disks with errors of their own: blocks that cannot be read or written, and answers that take too long.

use palisade_guest::{BAD, BAD_BLOCK, Disk, SLOW, bind};
use palisade_runtime::block::BlockFault;
use palisade_runtime::block::nvme::{NvmeEvent, NvmeOptions, ResetReason};
use std::time::Duration;

#[test]
#[ignore = "make guest"]
fn a_block_that_cannot_be_read_is_an_error_alone() {
    bind(BAD, "vfio-pci");
    let mut disk = Disk::open(BAD, NvmeOptions::default());
    let bad = BAD_BLOCK * 512;
    let good: Vec<u64> = (0..64).map(|at| disk.read(at << 14, 16384, 1)).collect();
    let across = disk.read(bad - 4096, 8192, 1);
    let alone = disk.read(bad, 512, 1);
    let beside = disk.read(bad + 512, 4096, 1);
    let behind: Vec<u64> = (0..64).map(|at| disk.read(at << 14, 16384, 1)).collect();
    for key in [across, alone] {
        assert_eq!(disk.wait(key).err(), Some(BlockFault::Io));
    }
    for key in good.into_iter().chain([beside]).chain(behind) {
        assert!(disk.done(key).iter().all(|&byte| byte == 0), "others are read");
    }
    let failed: Vec<u64> = disk.events.iter().filter_map(failed).collect();
    assert_eq!(failed.len(), 2, "an operator is told of each: {:?}", disk.events);
    assert!(failed.contains(&across) && failed.contains(&alone));
    let stats = disk.nvme().stats();
    assert_eq!((stats.resets, stats.aborts, stats.bad_completions), (0, 0, 0));
    disk.serves(0, 4);
    disk.check();
}

fn failed(event: &NvmeEvent) -> Option<u64> {
    match event {
        NvmeEvent::Failed { key, .. } => Some(*key),
        _ => None,
    }
}

/// The disk that takes a second and a half for everything.
fn slow(timeout_ms: u64, admin_timeout_ms: u64) -> Disk {
    bind(SLOW, "vfio-pci");
    let (timeout, admin_timeout) =
        (Duration::from_millis(timeout_ms), Duration::from_millis(admin_timeout_ms));
    Disk::open(SLOW, NvmeOptions { timeout, admin_timeout, ..NvmeOptions::default() })
}

#[test]
#[ignore = "make guest"]
fn an_answer_that_takes_long_is_waited_for() {
    let mut disk = slow(8000, 5000);
    let key = disk.read(0, 4096, 1);
    disk.done(key);
    let stats = disk.nvme().stats();
    assert_eq!((stats.aborts, stats.resets), (0, 0));
}

#[test]
#[ignore = "make guest"]
fn an_answer_that_takes_too_long_is_aborted_and_answered_once() {
    let mut disk = slow(500, 10_000);
    let key = disk.read(0, 4096, 1);
    // Whether the abort ends it or its late completion does is the controller's choice.
    let answer = disk.wait(key);
    assert!(matches!(answer, Ok(_) | Err(BlockFault::Io)), "{:?}", answer.err());
    assert!(disk.events.contains(&NvmeEvent::Aborted { key }), "{:?}", disk.events);
    let stats = disk.nvme().stats();
    assert_eq!((stats.aborts, stats.resets, stats.bad_completions), (1, 0, 0));
    disk.check();
}

#[test]
#[ignore = "make guest"]
fn an_abort_that_does_not_help_ends_in_a_reset_and_an_error() {
    let mut disk = slow(200, 300);
    let key = disk.read(0, 4096, 1);
    assert_eq!(
        disk.wait(key).err(),
        Some(BlockFault::Io),
        "answered when the device could not reach its buffer"
    );
    assert!(disk.events.contains(&NvmeEvent::Reset(ResetReason::Timeout)), "{:?}", disk.events);
    assert!(disk.events.contains(&NvmeEvent::Aborted { key }), "{:?}", disk.events);
    disk.until("the device", |disk| disk.events.last() == Some(&NvmeEvent::Ready));
    assert_eq!(disk.nvme().stats().resets, 1);
    disk.check();
}
