//! A socket of either family. Non-blocking after the handshake.

use super::uri::Place;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a connect or one step of a handshake may take.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// TCP or unix.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with NODELAY.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects; blocking, with time-outs, until [`Stream::polled`].
    pub fn connect(place: &Place) -> io::Result<Self> {
        Self::connect_within(place, HANDSHAKE_TIME)
    }

    /// The same, with less patience for the connect and each step of the handshake.
    pub fn connect_within(place: &Place, patience: Duration) -> io::Result<Self> {
        let stream = Self::reach(place, patience)?;
        match &stream {
            Self::Tcp(socket) => socket.set_read_timeout(Some(patience))?,
            Self::Unix(socket) => socket.set_read_timeout(Some(patience))?,
        }
        Ok(stream)
    }

    fn reach(place: &Place, patience: Duration) -> io::Result<Self> {
        match place {
            Place::Tcp(host) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in host.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => return Self::from_tcp(stream),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Place::Unix(path) => Self::from_unix(UnixStream::connect(path)?),
        }
    }

    /// Takes an accepted or connected TCP socket.
    pub fn from_tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIME))?;
        stream.set_write_timeout(Some(HANDSHAKE_TIME))?;
        Ok(Self::Tcp(stream))
    }

    /// Takes an accepted or connected unix socket.
    pub fn from_unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(HANDSHAKE_TIME))?;
        stream.set_write_timeout(Some(HANDSHAKE_TIME))?;
        Ok(Self::Unix(stream))
    }

    /// From here on no call waits.
    pub fn polled(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(bufs),
            Self::Unix(stream) => stream.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a non-blocking call did: bytes, nothing yet, or the end.
pub fn moved(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection")),
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}
