//! What a sound disk does: it says what it is, and holds what was written, at any place, length and depth.

use palisade_dma::{Backing, DmaMemory};
use palisade_guest::{Disk, Image, PLAIN, PLAIN_BYTES, WIDE, WIDE_BYTES, bind};
use palisade_runtime::block::nvme::{NvmeEvent, NvmeOptions};
use palisade_runtime::block::{BlockFault, BlockPort, BlockVerb};
use std::thread;

fn open(address: &str, options: NvmeOptions) -> Disk {
    bind(address, "vfio-pci");
    Disk::open(address, options)
}

#[test]
#[ignore = "make guest"]
fn a_controller_says_what_it_is() {
    for (address, serial, bytes, block) in
        [(PLAIN, "palisade-plain", PLAIN_BYTES, 512), (WIDE, "palisade-wide", WIDE_BYTES, 4096)]
    {
        let mut disk = open(address, NvmeOptions::default());
        let info = disk.info();
        assert_eq!((info.bytes, info.block), (bytes, block), "{info:?}");
        assert_eq!(info.path, format!("nvme:{address}"));
        assert!(info.volatile_cache && info.durable && info.direct, "{info:?}");
        assert!(info.note.contains("QEMU NVMe Ctrl") && info.note.contains(serial), "{}", info.note);
        let facts = disk.nvme().facts().clone();
        assert_eq!((facts.model.as_str(), facts.serial.as_str()), ("QEMU NVMe Ctrl", serial));
        let transfer = if address == PLAIN { 512 << 10 } else { 64 << 10 };
        assert_eq!(facts.transfer_max, Some(transfer));
        assert!(facts.write_zeroes && facts.deallocate && facts.shadow_doorbells && facts.sgl, "{facts:?}");
        let namespace = disk.nvme().namespace();
        assert_eq!((namespace.nsid, namespace.bytes()), (1, bytes));
    }
}

#[test]
#[ignore = "make guest"]
fn the_health_log_is_read_while_the_disk_is_idle() {
    let mut disk = open(PLAIN, NvmeOptions::default());
    disk.serves(0, 1);
    disk.until("health", |disk| disk.nvme().health().is_some());
    let health = *disk.nvme().health().expect("just seen");
    assert!((273..373).contains(&health.kelvins), "{health:?}");
    assert_eq!((health.warnings, health.media_errors), (0, 0), "{health:?}");
    assert_eq!(disk.events, [NvmeEvent::Ready]);
}

/// Random work at several depths; everything is read back.
fn random_work(address: &str, options: NvmeOptions, seed: u64) -> Disk {
    let mut disk = open(address, options);
    let mut image = Image::write(&mut disk, 3 << 20, 8 << 20, seed);
    for (depth, count) in [(1, 200), (8, 800), (100, 3000), (600, 2000)] {
        image.work(&mut disk, depth, count);
    }
    image.verify(&mut disk);
    let stats = disk.nvme().stats();
    println!("{address}: {stats:?}");
    assert_eq!((stats.retries, stats.aborts, stats.resets, stats.bad_completions), (0, 0, 0, 0));
    assert!(stats.commands > 4000, "{stats:?}");
    assert_eq!(disk.events, [NvmeEvent::Ready]);
    disk.check();
    disk
}

#[test]
#[ignore = "make guest"]
fn what_was_written_is_read_at_any_place_length_and_depth() {
    let mut disk = random_work(PLAIN, NvmeOptions::default(), 1);
    assert_eq!(disk.nvme().stats().copied, 0, "the device was given all buffers");
}

#[test]
#[ignore = "make guest"]
fn without_scatter_gather_lists_and_shadow_doorbells_it_is_the_same() {
    random_work(PLAIN, NvmeOptions { extras: false, ..NvmeOptions::default() }, 2);
}

#[test]
#[ignore = "make guest"]
fn blocks_of_4096_bytes_and_short_transfers_are_the_same() {
    random_work(WIDE, NvmeOptions::default(), 3);
    random_work(WIDE, NvmeOptions { extras: false, ..NvmeOptions::default() }, 4);
}

#[test]
#[ignore = "make guest"]
fn ordinary_pages_and_short_queues_are_the_same() {
    random_work(PLAIN, NvmeOptions { huge: false, depth: 4, ..NvmeOptions::default() }, 5);
}

#[test]
#[ignore = "make guest"]
fn huge_pages_are_given_to_the_device_where_the_host_has_them() {
    let disk = open(PLAIN, NvmeOptions::default());
    assert_eq!(disk.pool.backing(), Backing::Huge);
    assert_eq!(DmaMemory::new(1 << 20, true).expect("maps").backing(), Backing::Huge);
    assert!(!disk.info().note.contains("ordinary pages"), "{}", disk.info().note);
}

#[test]
#[ignore = "make guest"]
fn transfers_beyond_the_devices_limit_are_split() {
    let mut disk = open(WIDE, NvmeOptions::default());
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 4096) as u8 ^ i as u8).collect();
    let before = disk.nvme().stats().commands;
    let key = disk.write(4096, &bytes, true);
    disk.done(key);
    assert_eq!(disk.nvme().stats().commands - before, 16, "a MiB in parts of 64 KiB");
    for at in (0..1 << 20).step_by(256 << 10) {
        let key = disk.read(4096 + at as u64, 256 << 10, 0);
        assert!(disk.done(key) == bytes[at..at + (256 << 10)]);
    }
    disk.check();
}

#[test]
#[ignore = "make guest"]
fn zeroes_and_deallocation_reach_their_range_and_nothing_else() {
    let mut disk = open(PLAIN, NvmeOptions::default());
    let key = disk.write(0, &[7; 64 << 10], false);
    disk.done(key);
    let key = disk.key();
    disk.nvme().write_zeroes(key, 8192, 16384).expect("offered");
    disk.done(key);
    let key = disk.read(0, 64 << 10, 1);
    let bytes = disk.done(key);
    assert!(bytes[8192..24576].iter().all(|&byte| byte == 0), "zeroes");
    assert!(bytes[..8192].iter().chain(&bytes[24576..]).all(|&byte| byte == 7), "and nothing else");
    let key = disk.key();
    disk.nvme().deallocate(key, 32768, 8192).expect("offered");
    disk.done(key);
    let key = disk.read(0, 64 << 10, 1);
    let bytes = disk.done(key);
    assert!(bytes[24576..32768].iter().chain(&bytes[40960..]).all(|&byte| byte == 7), "nothing else");
    disk.check();
}

#[test]
#[ignore = "make guest"]
fn ranges_outside_are_refused_and_the_last_block_is_not() {
    for (address, bytes, block) in [(PLAIN, PLAIN_BYTES, 512), (WIDE, WIDE_BYTES, 4096)] {
        let mut disk = open(address, NvmeOptions::default());
        for (offset, len) in
            [(bytes, block), (bytes - block, 2 * block), (block / 2, block), (u64::MAX - 511, block)]
        {
            let key = disk.read(offset, len as usize, 0);
            assert_eq!(disk.wait(key).err(), Some(BlockFault::Range), "{offset} {len}");
            let key = disk.write(offset, &vec![1; len as usize], false);
            assert_eq!(disk.wait(key).err(), Some(BlockFault::Range), "{offset} {len}");
        }
        let key = disk.submit(BlockVerb::Write { offset: 0, bufs: Default::default(), fua: false });
        assert_eq!(disk.wait(key).err(), Some(BlockFault::Range), "nothing");
        let key = disk.write(bytes - block, &vec![0x5a; block as usize], true);
        disk.done(key);
        let key = disk.read(bytes - block, block as usize, 0);
        assert!(disk.done(key).iter().all(|&byte| byte == 0x5a));
        disk.check();
    }
}

#[test]
#[ignore = "make guest"]
fn two_controllers_serve_two_threads_at_a_time() {
    let run = |address: &'static str, seed| {
        thread::spawn(move || {
            let mut disk = open(address, NvmeOptions::default());
            let mut image = Image::write(&mut disk, 0, 4 << 20, seed);
            image.work(&mut disk, 64, 3000);
            image.verify(&mut disk);
            disk.nvme().stats()
        })
    };
    let both = [run(PLAIN, 6), run(WIDE, 7)];
    for thread in both {
        let stats = thread.join().expect("its work is right");
        assert_eq!((stats.resets, stats.bad_completions, stats.copied), (0, 0, 0));
    }
}

#[test]
#[ignore = "make guest"]
fn an_idle_disk_is_looked_at_now_and_then_only() {
    let mut disk = open(PLAIN, NvmeOptions::default());
    disk.serves(0, 3);
    disk.until("rest", |disk| disk.nvme().health().is_some());
    let deadline = disk.driver.deadline().expect("it wants to be looked at");
    assert!(deadline.0 > 0, "but not at once: a reactor may sleep");
    disk.serves(0, 4);
}
