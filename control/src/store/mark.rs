//! The high-water mark of grants, in a small file beside the store. A store that has granted less than the
//! mark says is an older copy that was restored (P-04); then the epoch is raised above both.
//!
//! The mark is written after the commit, so a crash in between leaves it behind, which is harmless; the next start
//! brings it up. So nobody waits for its two syncs: a thread of its own writes the newest one.
//!
//! A backup of the whole data directory has its mark with it. So the mark names the file that it is in: inode and
//! time of creation, which no copy and no extraction shares. A mark that lies in another file was put back or
//! copied, and the store beside it with it, for all that is known. What is rolled back below the file system (a
//! snapshot of a volume or of a virtual machine) is the same file again: that has to be said (`palisade rack
//! restored`), unless a head or a sled holds newer numbers.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::UNIX_EPOCH;

use palisade_protocol::wire::RackId;
use serde::{Deserialize, Serialize};

use crate::api::json;

/// The mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The rack that it is about.
    #[serde(with = "json::uuid")]
    pub rack: RackId,
    /// Epoch of the last grant.
    pub epoch: u32,
    /// Grants made.
    pub grants: u64,
    /// The file that it was written into; none where files have no time of creation, and in those of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
}

/// What tells a file from a copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Number of its inode.
    inode: u64,
    /// When it was created, in nanoseconds since 1970.
    created_ns: String,
}

impl Home {
    fn of(meta: &fs::Metadata) -> Option<Self> {
        let created = meta.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self { inode: meta.ino(), created_ns: created.as_nanos().to_string() })
    }
}

impl Mark {
    /// Name of the file in the data directory.
    pub const FILE: &str = "control.mark";

    /// Reads the mark, and whether it lies in the file that it was written into; none when there is none or it is
    /// damaged.
    pub fn read(data: &Path) -> Option<(Self, bool)> {
        let path = data.join(Self::FILE);
        let mark: Self = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let here = fs::metadata(&path).ok().and_then(|meta| Home::of(&meta));
        // Where it cannot be told it is taken for what it says.
        let moved = mark.home.is_some() && here.is_some() && mark.home != here;
        Some((mark, !moved))
    }

    /// Replaces the mark, durably.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let fresh = data.join(format!("{}.new", Self::FILE));
        // Made anew, not overwritten: what a crash left is another file.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::File::create(&fresh)?;
        let mark = Self { home: Home::of(&file.metadata()?), ..self.clone() };
        file.write_all(serde_json::to_string(&mark)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, data.join(Self::FILE))?;
        fs::File::open(data)?.sync_all()
    }
}

/// What the writer of marks is to do, and how it went.
#[derive(Default)]
struct Desk {
    next: Option<Mark>,
    error: Option<String>,
    over: bool,
}

/// Writes marks beside those who make grants.
pub struct MarkWriter {
    shared: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    last: Option<Mark>,
}

impl MarkWriter {
    /// Marks of a data directory.
    pub fn start(data: PathBuf) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let work = Arc::clone(&shared);
        let run = move || write_marks(&work, &data);
        let thread = std::thread::Builder::new().name("control-mark".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread), last: None })
    }

    /// Has a mark written, if it is news. Says what went wrong with an earlier one.
    pub fn put(&mut self, mark: Mark) -> Option<String> {
        if self.last.as_ref() == Some(&mark) {
            return None;
        }
        let mut desk = lock(&self.shared.0);
        desk.next = Some(mark.clone());
        self.last = Some(mark);
        self.shared.1.notify_one();
        desk.error.take()
    }
}

impl Drop for MarkWriter {
    /// The newest mark is on the disk then.
    fn drop(&mut self) {
        lock(&self.shared.0).over = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed.
            let _ = thread.join();
        }
    }
}

/// The desk is sound whoever panicked.
fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_marks(shared: &(Mutex<Desk>, Condvar), data: &Path) {
    let mut desk = lock(&shared.0);
    loop {
        if let Some(mark) = desk.next.take() {
            drop(desk);
            let written = mark.write(data);
            desk = lock(&shared.0);
            desk.error = written.err().map(|error| error.to_string());
        } else if desk.over {
            return;
        } else {
            desk = shared.1.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(grants: u64) -> Mark {
        Mark { rack: RackId(5), epoch: 1, grants, home: None }
    }

    #[test]
    fn p04_the_newest_mark_is_on_the_disk_when_its_writer_ends_and_failures_are_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut writer = MarkWriter::start(dir.path().to_path_buf()).expect("a thread");
        for grants in 1..=200 {
            assert_eq!(writer.put(mark(grants)), None);
            let found = Mark::read(dir.path()).map_or(0, |(mark, _)| mark.grants);
            assert!(found <= grants, "never ahead of what was granted");
        }
        drop(writer);
        let (found, here) = Mark::read(dir.path()).expect("a mark");
        assert!(found.grants == 200 && here, "{found:?}");
        let nowhere = dir.path().join("no/such/place");
        let mut writer = MarkWriter::start(nowhere).expect("a thread");
        let mut grants = 0;
        let told = std::iter::repeat_with(|| {
            grants += 1;
            std::thread::yield_now();
            writer.put(mark(grants))
        });
        assert!(told.take(1_000_000).flatten().next().is_some_and(|why| why.contains("No such file")));
    }
}
