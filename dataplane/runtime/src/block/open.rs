//! Opening a file or block device for one owner, and finding out what can be trusted about it.
//!
//! Exclusive (P-17): an advisory lock on the open file, and O_EXCL on block devices. The kernel keeps
//! both while any I/O of a killed process is in flight, because that I/O holds the open file; so a
//! successor that gets the lock knows that the old I/O has ended.

use rustix::fs::{self, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Sizes of files are used down to a multiple of this.
const ROUND: u64 = 4096;
/// Pause between two tries for the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// How a file is made when it does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateFile {
    /// Its size.
    pub bytes: u64,
    /// Whether its blocks are allocated now, so that writes cannot fail for lack of space later. Where the file
    /// system cannot do that the file is sparse, and said to be.
    pub preallocate: bool,
}

/// Why a device could not be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("{path}: not there; create it, or mend the path in the rack file")]
    Missing {
        /// The path.
        path: String,
    },
    /// Another process owns it, or its last I/O has not ended.
    #[error("{path}: in use by {}; stop that process first", holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The path.
        path: String,
        /// Who holds the lock, where the kernel tells.
        holder: Option<u32>,
    },
    /// Neither a file nor a block device.
    #[error("{path}: neither a regular file nor a block device")]
    Kind {
        /// The path.
        path: String,
    },
    /// The file system is full.
    #[error("{path}: no room for {bytes} bytes; free space on its file system or configure a smaller size")]
    NoSpace {
        /// The path.
        path: String,
        /// Bytes wanted.
        bytes: u64,
    },
    /// It holds less than one block.
    #[error("{path}: only {bytes} bytes large; a device needs at least 4096")]
    Empty {
        /// The path.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// The kernel has no usable io_uring.
    #[error("{path}: io_uring cannot be used ({source}); see `sysctl kernel.io_uring_disabled`")]
    Ring {
        /// The path.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Any other refusal.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// An opened, locked device and what is known about it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: OwnedFd,
    pub(crate) bytes: u64,
    pub(crate) direct: bool,
    pub(crate) offset_align: u32,
    pub(crate) memory_align: u32,
    pub(crate) durable: bool,
    pub(crate) volatile_cache: bool,
    pub(crate) note: String,
}

/// Opens `path` for this process alone; `wait` is how long an old holder may take to let go.
pub(crate) fn open(
    path: &Path,
    create: Option<CreateFile>,
    want_direct: bool,
    wait: Duration,
) -> Result<Opened, OpenError> {
    let name = path.display().to_string();
    let file = open_file(path, &name, create.is_some())?;
    lock(file.as_fd(), &name, wait)?;
    if let Some(create) = create {
        make(file.as_fd(), path, &name, create)?;
    }
    let size = fs::seek(&file, SeekFrom::End(0)).map_err(|e| io(&name, "cannot find its size", e))?;
    if size < ROUND {
        return Err(OpenError::Empty { path: name, bytes: size });
    }
    let mut note = String::new();
    if sparse(file.as_fd()) {
        say(&mut note, "sparse: writes fail when its file system is full; `check` says how to end that");
    }
    let (direct, offset_align, memory_align) = go_direct(file.as_fd(), want_direct, &mut note);
    let (durable, volatile_cache) = trust(file.as_fd(), &mut note);
    let bytes = size / ROUND * ROUND;
    Ok(Opened { file, bytes, direct, offset_align, memory_align, durable, volatile_cache, note })
}

fn io(path: &str, what: &'static str, error: Errno) -> OpenError {
    OpenError::Io { path: path.to_owned(), what, source: error.into() }
}

fn open_file(path: &Path, name: &str, create: bool) -> Result<OwnedFd, OpenError> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => flags |= OFlags::EXCL,
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err(OpenError::Kind { path: name.to_owned() }),
        Err(_) if create => flags |= OFlags::CREATE,
        // Named properly by the open below.
        Err(_) => {}
    }
    fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
        Errno::NOENT => OpenError::Missing { path: name.to_owned() },
        Errno::BUSY => OpenError::InUse { path: name.to_owned(), holder: None },
        other => io(name, "cannot open for reading and writing", other),
    })
}

fn lock(file: BorrowedFd<'_>, name: &str, wait: Duration) -> Result<(), OpenError> {
    let end = Instant::now() + wait;
    loop {
        match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse { path: name.to_owned(), holder: holder(file) });
            }
            Err(error) => return Err(io(name, "cannot lock", error)),
        }
    }
}

/// Who holds the lock, by the kernel's table of locks.
fn holder(file: BorrowedFd<'_>) -> Option<u32> {
    let stat = fs::fstat(file).ok()?;
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    let device = format!("{:02x}:{:02x}", fs::major(stat.st_dev), fs::minor(stat.st_dev));
    let wanted = format!("{device}:{}", stat.st_ino);
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, place, ..] if place == wanted => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Gives a new (empty) file its size; one that has a size already stays as it is.
fn make(file: BorrowedFd<'_>, path: &Path, name: &str, create: CreateFile) -> Result<(), OpenError> {
    let stat = fs::fstat(file).map_err(|e| io(name, "cannot find its size", e))?;
    if !fs::FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_size > 0 {
        return Ok(());
    }
    let bytes = create.bytes / ROUND * ROUND;
    let allocated = match create.preallocate {
        true => fs::fallocate(file, fs::FallocateFlags::empty(), 0, bytes),
        false => Err(Errno::OPNOTSUPP),
    };
    let sized = match allocated {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fs::ftruncate(file, bytes),
        // What was allocated of it is given back: it would count as the device, and be too small.
        Err(error) => fs::ftruncate(file, 0).and(Err(error)),
        Ok(()) => Ok(()),
    };
    sized.map_err(|error| match error {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => OpenError::NoSpace { path: name.to_owned(), bytes },
        other => io(name, "cannot give it its size", other),
    })?;
    // Its size and its name survive a power cut (P-09).
    fs::fsync(file).map_err(|e| io(name, "cannot sync", e))?;
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    dir.and_then(fs::fsync).map_err(|e| io(name, "cannot sync its directory", e))
}

/// Whether a file has fewer blocks than its size needs.
fn sparse(file: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fs::fstat(file) else { return false };
    let regular = fs::FileType::from_raw_mode(stat.st_mode).is_file();
    regular && (stat.st_blocks as u64).saturating_mul(512) < stat.st_size as u64 / ROUND * ROUND
}

/// Switches the page cache off where that works; says why not otherwise. Returns whether it did, and
/// the alignment of offsets and of memory.
fn go_direct(file: BorrowedFd<'_>, want: bool, note: &mut String) -> (bool, u32, u32) {
    let buffered = (false, 512, 1);
    if !want {
        say(note, "page cache in use, as configured");
        return buffered;
    }
    let (offset, memory) = match fs::statx(file, "", fs::AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) => {
            (stat.stx_dio_offset_align, stat.stx_dio_mem_align)
        }
        // An older kernel: one block suits every device.
        _ => (4096, 4096),
    };
    if offset == 0 || offset > 4096 || memory > 4096 {
        say(note, "page cache in use: its file system offers no direct I/O in 4 KiB blocks");
        return buffered;
    }
    let direct = fs::fcntl_getfl(file).and_then(|flags| fs::fcntl_setfl(file, flags | OFlags::DIRECT));
    match direct {
        Ok(()) => (true, offset.max(512), memory.max(1)),
        Err(error) => {
            let error = std::io::Error::from(error);
            say(note, &format!("page cache in use: its file system refuses direct I/O ({error})"));
            buffered
        }
    }
}

/// Whether synced data survives a restart of the host, and whether writes linger in a volatile cache.
fn trust(file: BorrowedFd<'_>, note: &mut String) -> (bool, bool) {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const REMOTE: [(i64, &str); 4] =
        [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0x0102_1997, "9p"), (0x6573_5546, "FUSE")];
    let Ok(stat) = fs::fstat(file) else { return (true, true) };
    if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::BlockDevice {
        return (true, volatile_cache(fs::major(stat.st_rdev), fs::minor(stat.st_rdev)));
    }
    let kind = fs::fstatfs(file).map_or(0, |stat| stat.f_type & 0xffff_ffff);
    if kind == TMPFS || kind == RAMFS {
        say(note, "lies in memory: contents are lost when the host restarts");
        return (false, false);
    }
    if let Some((_, name)) = REMOTE.iter().find(|(magic, _)| *magic == kind) {
        say(note, &format!("durability is what the server behind {name} makes of a sync"));
        return (true, true);
    }
    if mounted_nobarrier(file) {
        say(note, "its file system is mounted without write barriers: a sync may not reach the medium");
    }
    (true, volatile_cache(fs::major(stat.st_dev), fs::minor(stat.st_dev)))
}

/// What the kernel says of the device's write cache; a device that it does not know counts as volatile.
fn volatile_cache(major: u32, minor: u32) -> bool {
    let read = |suffix: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{suffix}"));
    let text = read("queue/write_cache").or_else(|_| read("../queue/write_cache"));
    !text.is_ok_and(|text| text.trim() == "write through")
}

/// Whether the mount that holds the file waives barriers.
fn mounted_nobarrier(file: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fs::fstat(file) else { return false };
    let place = format!("{}:{}", fs::major(stat.st_dev), fs::minor(stat.st_dev));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| {
        line.split_whitespace().nth(2) == Some(&place)
            && (line.contains("nobarrier") || line.contains("barrier=0"))
    })
}

fn say(note: &mut String, text: &str) {
    if !note.is_empty() {
        note.push_str("; ");
    }
    note.push_str(text);
}
