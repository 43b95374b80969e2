//! The lock of a data directory: one `up` at a time. The kernel drops it when the process ends, however
//! that happens; the file keeps the holder's pid so that a second one can name it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {pid}: stop that one first, or choose another --data-dir", data.display())]
    Held {
        /// The directory.
        data: PathBuf,
        /// The holder, as it wrote itself down.
        pid: String,
    },
    /// The system says no.
    #[error("data directory {}: {error}; choose another one with --data-dir or [rack] data", data.display())]
    Io {
        /// The directory.
        data: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl DataLock {
    /// Name of the file.
    pub const FILE: &str = "lock";

    /// Makes the directory if it is lacking and takes its lock, without waiting.
    pub fn acquire(data: &Path) -> Result<Self, LockError> {
        let fail = |error: io::Error| LockError::Io { data: data.to_path_buf(), error };
        fs::create_dir_all(data).map_err(fail)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data.join(Self::FILE))
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                Read::by_ref(&mut file).take(32).read_to_string(&mut pid).map_err(fail)?;
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(LockError::Held { data: data.to_path_buf(), pid });
            }
            Err(error) => return Err(fail(error.into())),
        }
        file.set_len(0).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let data = dir.path().join("data");
        let first = DataLock::acquire(&data).expect("free");
        let error = DataLock::acquire(&data).expect_err("held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(DataLock::acquire(&data).is_ok(), "free again");
    }

    #[test]
    fn a_directory_that_cannot_be_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, b"x").expect("written");
        let error = DataLock::acquire(&file).expect_err("no directory").to_string();
        assert!(error.contains("file"), "{error}");
    }
}
