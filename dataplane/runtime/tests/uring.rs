//! The io_uring driver on real files: what was written reads back, ranges and owners are guarded, and
//! what an operator should know is said.

use palisade_dma::{Buf, BufMut, Pool, PoolConfig};
use palisade_runtime::Nanos;
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockOk, BlockPort, BlockRequest, BlockVerb, CreateFile,
    OpenError, UringDriver, UringOptions, complete_all,
};
use smallvec::{SmallVec, smallvec};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn pool() -> Pool {
    Pool::new(PoolConfig::small()).expect("pool")
}

fn options(bytes: u64) -> UringOptions {
    UringOptions {
        create: Some(CreateFile { bytes, preallocate: false }),
        lock_wait: Duration::from_millis(200),
        ..UringOptions::default()
    }
}

fn open(path: &Path, options: &UringOptions) -> BlockDriver {
    BlockDriver::Uring(Box::new(UringDriver::open(path, options).expect("opens")))
}

fn filled(pool: &Pool, len: usize, byte: u8) -> Buf {
    let mut buf = pool.alloc(len).expect("slot");
    buf.fill(byte);
    buf.freeze()
}

fn ask(driver: &mut BlockDriver, verb: BlockVerb) -> Result<BlockOk, BlockFault> {
    driver.submit(BlockRequest { key: 1, verb });
    let mut out = Vec::new();
    assert!(complete_all(driver, LIMIT, &mut out));
    assert_eq!(out.len(), 1);
    out.remove(0).result
}

fn read(driver: &mut BlockDriver, buf: BufMut, offset: u64) -> BufMut {
    match ask(driver, BlockVerb::Read { offset, buf }) {
        Ok(BlockOk::Read(buf)) => buf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn gathered_and_single_writes_read_back_from_the_file() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    for registered in [None, Some(pool.clone())] {
        let path = dir.path().join(format!("disk-{}", registered.is_some()));
        let mut driver = open(&path, &UringOptions { pool: registered, ..options(8 * MIB) });
        let bufs: SmallVec<[Buf; 4]> =
            (0..6).map(|n| filled(&pool, 4096 * (1 + n as usize % 2), n + 1)).collect();
        assert!(ask(&mut driver, BlockVerb::Write { offset: 4096, bufs, fua: true }).is_ok());
        let bufs = smallvec![filled(&pool, 65536, 99)];
        assert!(ask(&mut driver, BlockVerb::Write { offset: MIB, bufs, fua: false }).is_ok());
        assert!(ask(&mut driver, BlockVerb::Flush).is_ok());
        let got = read(&mut driver, pool.alloc(9 * 4096).expect("slot"), 4096);
        let want: Vec<u8> = [1, 2, 2, 3, 4, 4, 5, 6, 6].iter().flat_map(|&b| vec![b; 4096]).collect();
        assert_eq!(&got[..], &want[..]);
        assert!(read(&mut driver, pool.alloc(65536).expect("slot"), MIB).iter().all(|&b| b == 99));
        drop((got, driver));
        let file = std::fs::read(&path).expect("file");
        assert_eq!((file.len() as u64, &file[4096..4096 + want.len()]), (8 * MIB, &want[..]));
    }
}

#[test]
fn hundreds_of_operations_beyond_the_rings_depth_all_complete_once() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    let mut driver = open(&dir.path().join("disk"), &UringOptions { depth: 8, ..options(8 * MIB) });
    for key in 0..500u64 {
        let bufs = smallvec![filled(&pool, 4096, key as u8)];
        driver.submit(BlockRequest { key, verb: BlockVerb::Write { offset: key * 4096, bufs, fua: false } });
    }
    assert_eq!(driver.in_flight(), 500);
    let mut out = Vec::new();
    assert!(complete_all(&mut driver, LIMIT, &mut out));
    let mut keys: Vec<_> = out.iter().inspect(|done| assert!(done.result.is_ok())).map(|d| d.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..500).collect::<Vec<_>>());
    assert_eq!(pool.stats().free, pool.stats().total, "every buffer came back");
    for key in [0, 255, 499] {
        assert_eq!(read(&mut driver, pool.alloc(4096).expect("slot"), key * 4096)[17], key as u8);
    }
}

#[test]
fn ranges_outside_the_device_and_unaligned_memory_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    let mut driver = open(&dir.path().join("disk"), &options(MIB));
    for (offset, len) in [(MIB, 4096), (MIB - 4096, 8192), (u64::MAX - 4095, 4096), (100, 4096), (0, 100)] {
        let buf = pool.alloc(len).expect("slot");
        assert!(matches!(ask(&mut driver, BlockVerb::Read { offset, buf }), Err(BlockFault::Range)));
    }
    if driver.info().direct {
        let bufs = smallvec![filled(&pool, 8192, 1).slice(100..4196)];
        let refused = ask(&mut driver, BlockVerb::Write { offset: 0, bufs, fua: false });
        assert!(matches!(refused, Err(BlockFault::Range)));
    }
}

#[test]
fn a_second_opener_is_refused_and_told_the_holder_p17() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("disk");
    let first = open(&path, &options(MIB));
    match UringDriver::open(&path, &options(MIB)) {
        Err(OpenError::InUse { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(first);
    assert!(UringDriver::open(&path, &options(MIB)).is_ok(), "free again at once");
}

#[test]
fn a_driver_moves_to_another_thread_between_operations() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    let mut driver = open(&dir.path().join("disk"), &options(MIB));
    let bufs = smallvec![filled(&pool, 4096, 42)];
    assert!(ask(&mut driver, BlockVerb::Write { offset: 0, bufs, fua: true }).is_ok());
    let buf = pool.alloc(4096).expect("slot");
    let thread = std::thread::spawn(move || read(&mut driver, buf, 0)[4095]);
    assert_eq!(thread.join().expect("thread"), 42);
}

#[test]
fn a_dropped_driver_gives_every_buffer_back_after_its_io_ended() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    for _ in 0..20 {
        let mut driver = open(&dir.path().join("disk"), &options(8 * MIB));
        for key in 0..100 {
            let bufs = smallvec![filled(&pool, 65536, 1)];
            driver.submit(BlockRequest {
                key,
                verb: BlockVerb::Write { offset: key * 65536, bufs, fua: true },
            });
        }
        driver.kick();
        drop(driver);
        assert_eq!(pool.stats().free, pool.stats().total);
    }
}

#[test]
fn a_memory_file_system_is_named_as_not_durable_and_its_page_cache_too() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
    let pool = pool();
    let mut driver = open(&dir.path().join("disk"), &options(MIB));
    let info = driver.info().clone();
    assert!(!info.durable && info.note.contains("lies in memory"), "{info:?}");
    assert!(info.direct || info.note.contains("page cache in use"), "{info:?}");
    let bufs = smallvec![filled(&pool, 4096, 5)];
    assert!(ask(&mut driver, BlockVerb::Write { offset: 4096, bufs, fua: true }).is_ok());
    assert!(ask(&mut driver, BlockVerb::Flush).is_ok());
    assert_eq!(read(&mut driver, pool.alloc(4096).expect("slot"), 4096)[0], 5);
}

#[test]
fn what_cannot_be_a_device_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("dir");
    let plain = UringOptions { create: None, ..options(0) };
    let missing = UringDriver::open(&dir.path().join("none"), &plain).expect_err("missing").to_string();
    assert!(missing.contains("not there"), "{missing}");
    assert!(matches!(UringDriver::open(dir.path(), &plain), Err(OpenError::Kind { .. })));
    let small = dir.path().join("small");
    std::fs::write(&small, b"tiny").expect("file");
    assert!(matches!(UringDriver::open(&small, &plain), Err(OpenError::Empty { bytes: 4, .. })));
    let huge = CreateFile { bytes: 1 << 50, preallocate: true };
    let full =
        UringDriver::open(&dir.path().join("huge"), &UringOptions { create: Some(huge), ..options(0) });
    assert!(matches!(full, Err(OpenError::NoSpace { .. })), "{full:?}");
}

#[test]
fn a_sparse_file_may_be_larger_than_its_file_system_and_only_then() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
    let bytes = 1 << 42;
    let driver = UringDriver::open(&dir.path().join("thin"), &options(bytes)).expect("sparse");
    assert_eq!(driver.info().bytes, bytes);
    let whole = CreateFile { bytes, preallocate: true };
    let full =
        UringDriver::open(&dir.path().join("full"), &UringOptions { create: Some(whole), ..options(0) });
    assert!(matches!(full, Err(OpenError::NoSpace { .. })), "{full:?}");
    // What did not fit is no device: with room (or a smaller size) the same path is made anew.
    assert_eq!(std::fs::metadata(dir.path().join("full")).expect("a file").len(), 0);
    assert!(UringDriver::open(&dir.path().join("full"), &options(MIB)).is_ok());
}

#[test]
fn a_file_with_all_its_blocks_cannot_run_out_of_them_and_a_sparse_one_is_told() {
    let dir = tempfile::tempdir().expect("dir");
    let make = |name: &str, preallocate| {
        let create = Some(CreateFile { bytes: 8 * MIB, preallocate });
        let driver = UringDriver::open(&dir.path().join(name), &UringOptions { create, ..options(0) });
        let blocks = std::fs::metadata(dir.path().join(name)).expect("a file").blocks();
        (driver.expect("made").info().note.clone(), blocks * 512)
    };
    let (note, bytes) = make("whole", true);
    assert!(bytes >= 8 * MIB && !note.contains("sparse"), "{bytes} {note}");
    let (note, bytes) = make("thin", false);
    assert!(bytes < 8 * MIB && note.contains("sparse"), "{bytes} {note}");
}

#[test]
fn an_existing_file_keeps_its_contents_when_opened_with_create() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![7u8; 8192 + 100]).expect("file");
    let pool = pool();
    let mut driver = open(&path, &options(8 * MIB));
    assert_eq!(driver.info().bytes, 8192, "whole blocks of what is there");
    assert_eq!(read(&mut driver, pool.alloc(4096).expect("slot"), 4096)[0], 7);
}

#[test]
fn the_wait_descriptor_fires_for_a_parked_reactor() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    let mut driver = open(&dir.path().join("disk"), &options(MIB));
    let bufs = smallvec![filled(&pool, 4096, 5)];
    driver.submit(BlockRequest { key: 3, verb: BlockVerb::Write { offset: 0, bufs, fua: true } });
    driver.kick();
    let parker = palisade_runtime::Parker::new().expect("eventfd");
    let mut out: Vec<BlockCompletion> = Vec::new();
    let start = std::time::Instant::now();
    while driver.poll(Nanos::ZERO, &mut out) == 0 {
        assert!(start.elapsed() < LIMIT);
        parker.announce();
        let mut set = palisade_runtime::WaitSet::default();
        set.readable(driver.wait_fd().expect("a descriptor"));
        parker.sleep(set, Some(LIMIT));
    }
    assert_eq!((out[0].key, driver.in_flight()), (3, 0));
    assert!(start.elapsed() < Duration::from_secs(10), "woken, not timed out");
}

/// Where the child process of the next test writes; unset when this binary runs as a test.
const CHILD_DEVICE: &str = "PALISADE_TEST_CHILD_DEVICE";

/// Writes without end, many operations at a time, until it is killed. Not a test of its own.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD_DEVICE) else { return };
    let pool = pool();
    let mut driver = open(Path::new(&path), &options(16 * MIB));
    let mut out = Vec::new();
    for key in 0u64.. {
        let bufs = smallvec![filled(&pool, 65536, key as u8)];
        let verb = BlockVerb::Write { offset: key % 256 * 65536, bufs, fua: key.is_multiple_of(3) };
        driver.submit(BlockRequest { key, verb });
        driver.kick();
        while driver.in_flight() > 64 {
            driver.poll(Nanos::ZERO, &mut out);
        }
        assert!(out.drain(..).all(|done| done.result.is_ok()));
    }
}

#[test]
fn after_kill_nine_the_device_is_free_only_once_the_old_io_has_ended_p17() {
    let dir = tempfile::tempdir().expect("dir");
    let pool = pool();
    for round in 0..5u64 {
        let path = dir.path().join(format!("disk-{round}"));
        let mut child = std::process::Command::new(std::env::current_exe().expect("this binary"))
            .args(["child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
            .env(CHILD_DEVICE, &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("child");
        let start = std::time::Instant::now();
        // Its first block is not zero once the child has come round to it again.
        while std::fs::read(&path).map_or(true, |bytes| bytes.get(65536) != Some(&1)) {
            assert!(start.elapsed() < LIMIT, "the child never wrote");
            std::thread::sleep(Duration::from_millis(2 + round));
        }
        match UringDriver::open(&path, &options(16 * MIB)) {
            Err(OpenError::InUse { holder, .. }) => assert_eq!(holder, Some(child.id())),
            other => panic!("{other:?}"),
        }
        child.kill().expect("kill");
        let patient = UringOptions { lock_wait: LIMIT, ..options(16 * MIB) };
        let mut driver = open(&path, &patient);
        let mut contents = || -> Vec<u8> {
            (0..256).map(|n| read(&mut driver, pool.alloc(65536).expect("slot"), n * 65536)[99]).collect()
        };
        let first = contents();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(first, contents(), "nothing lands after the lock was granted");
        child.wait().expect("reaped");
    }
}
