//! One JSON message a line, with a bound on its length and on every wait.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest message in bytes; a status of a large rack with histograms fits.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// How long a read of the socket blocks before stop flags and deadlines are looked at again.
const POLL: Duration = Duration::from_millis(250);
/// How long the other side may take none of our bytes before it counts as gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no line came.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The other side closed.
    #[error("the connection was closed")]
    Closed,
    /// Nothing whole came in time.
    #[error("no message came in time")]
    Timeout,
    /// A line above the bound; the connection is no use any more.
    #[error("a message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// The system says so.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Reads lines.
pub struct LineReader {
    stream: UnixStream,
    buffer: Vec<u8>,
    searched: usize,
}

impl LineReader {
    /// Takes the reading side of a stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(POLL))?;
        Ok(Self { stream, buffer: Vec::new(), searched: 0 })
    }

    /// The next line, without its end; gives up at `deadline` or when `stop` says so.
    pub fn next(&mut self, deadline: Instant, stop: impl Fn() -> bool) -> Result<Vec<u8>, LineError> {
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MESSAGE_BYTES_MAX {
                return Err(LineError::TooLong);
            }
            if stop() || Instant::now() >= deadline {
                return Err(LineError::Timeout);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(LineError::Closed),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if is_wait(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Writes one line whole.
pub fn write_line(stream: &mut UnixStream, json: &[u8]) -> Result<(), LineError> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut line = Vec::with_capacity(json.len() + 1);
    line.extend_from_slice(json);
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => LineError::Timeout,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LineError::Closed,
        _ => error.into(),
    })
}
