//! The blocking client of the control socket, for the command line: one request, one answer, in time.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::line::{LineError, LineReader, write_line};
use super::rpc::{self, Message, RpcError};

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody serves the socket.
    #[error(
        "no rack runs in {}: {}; start one with `palisade up FILE`, or name its data directory with --data-dir",
        folder(socket),
        silence(error)
    )]
    NotRunning {
        /// The socket tried.
        socket: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The connection broke, or the answer did not come in time.
    #[error("the control socket: {0}")]
    Line(#[from] LineError),
    /// The answer was no answer.
    #[error("the control socket sent something that is no answer: {0}")]
    Answer(String),
    /// Control said no.
    #[error("{0}")]
    Refused(#[from] RpcError),
}

/// The data directory of a control socket.
fn folder(socket: &Path) -> std::path::Display<'_> {
    socket.parent().unwrap_or(socket).display()
}

/// Why nobody answers, in words.
fn silence(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "it has no control socket".to_owned(),
        ErrorKind::ConnectionRefused => "nobody answers at its control socket".to_owned(),
        _ => format!("its control socket: {error}"),
    }
}

/// A connection.
pub struct Client {
    reader: LineReader,
    writer: UnixStream,
    next_id: u64,
}

impl Client {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self, CallError> {
        let stream =
            connect(socket).map_err(|error| CallError::NotRunning { socket: socket.to_path_buf(), error })?;
        let writer = stream.try_clone().map_err(LineError::from)?;
        Ok(Self { reader: LineReader::new(stream).map_err(LineError::from)?, writer, next_id: 1 })
    }

    /// Calls a method and waits at most `patience` for the answer.
    pub fn call(&mut self, method: &str, params: Value, patience: Duration) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = Instant::now() + patience;
        write_line(&mut self.writer, &rpc::request(id, method, params))?;
        loop {
            let line = self.reader.next(deadline, || false)?;
            match rpc::decode(&line) {
                Ok(Message::Response { id: of, result }) if of == id => return Ok(result?),
                Ok(_) => {}
                Err((_, error)) => return Err(CallError::Answer(error.message)),
            }
        }
    }
}

/// Longest path that the kernel takes for a unix socket.
const SOCKET_PATH_MAX: usize = 107;

/// Connects to a unix socket of any path length: a long one is reached through its directory.
pub(crate) fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        return UnixStream::connect(socket);
    }
    let (directory, short) = through_directory(socket)?;
    let stream = UnixStream::connect(short);
    drop(directory);
    stream
}

/// Device and number of the file at a path: another process that serves there makes another file.
pub(crate) fn file_id(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// A short name for a path: its directory, opened, seen through `/proc/self/fd`.
pub(crate) fn through_directory(path: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}
