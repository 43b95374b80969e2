//! Listening and connected stream sockets, TCP or Unix, for exports.
//!
//! Below 512 KiB of receive buffer small requests cost 15-20 % more (the caller owns the buffer); larger
//! socket buffers and busy polling bring nothing. TCP sockets send without delay.

use rustix::fd::AsFd;
use rustix::net::sockopt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Silence after which the kernel probes whether a TCP client still exists, the pause between two probes, and how
/// many go unanswered: a client whose link is dead counts as connected for 11 s at most (MA-12).
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(2), 3);
/// Sent bytes that are not acknowledged for so long end a TCP connection.
const UNACKED: Duration = Duration::from_secs(11);

/// Who is at the other end, as far as the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A host.
    Host(IpAddr),
    /// A process of this host.
    Process(u32),
    /// Nobody knows.
    Unknown,
}

/// A listening socket. A Unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, with the path of its file.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on a TCP address.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Listens on a Unix socket. A socket file that nobody listens on any more (its process was killed)
    /// is replaced; a live one, and a file that is no socket, are left alone.
    pub fn unix(path: &Path) -> io::Result<Self> {
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is no socket"));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// A new connection, or `None` when nobody knocks.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().map(|(socket, _)| Stream::Tcp(socket)),
            Self::Unix(listener, _) => listener.accept().map(|(socket, _)| Stream::Unix(socket)),
        };
        match accepted {
            Ok(stream) => {
                stream.prepare()?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The TCP address it got (port 0 asks for any).
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// For sleeping on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // It may be gone already; a stale file is replaced by the next listener anyway.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_nodelay(true)?;
                // A client whose host vanished must not be kept for ever (`Bounded`).
                sockopt::set_socket_keepalive(socket, true)?;
                sockopt::set_tcp_keepidle(socket, KEEP_ALIVE.0)?;
                sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE.1)?;
                sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE.2)?;
                sockopt::set_tcp_user_timeout(socket, UNACKED.as_millis() as u32)?;
                socket.set_nonblocking(true)
            }
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        let found = match self {
            Self::Tcp(socket) => socket.peer_addr().ok().map(|address| Peer::Host(address.ip())),
            Self::Unix(socket) => sockopt::socket_peercred(socket)
                .ok()
                .map(|peer| Peer::Process(peer.pid.as_raw_nonzero().get().unsigned_abs())),
        };
        found.unwrap_or(Peer::Unknown)
    }

    /// Takes what is there; `Ok(0)` is the peer's end of stream, `WouldBlock` nothing at present.
    pub fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(into),
            Self::Unix(socket) => socket.read(into),
        }
    }

    /// Sends the pieces in one call, as far as the socket takes them.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(pieces),
            Self::Unix(socket) => socket.write_vectored(pieces),
        }
    }

    /// For sleeping on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn ma12_a_dead_tcp_link_is_noticed_within_the_keep_alive() {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let client = TcpStream::connect(listener.tcp_address().expect("TCP")).expect("it listens");
        let served = eventually(|| listener.accept().expect("accepts"));
        let Stream::Tcp(socket) = &served else { panic!("TCP") };
        assert!(sockopt::socket_keepalive(socket).expect("asked"));
        let idle = sockopt::tcp_keepidle(socket).expect("asked");
        let probes =
            sockopt::tcp_keepintvl(socket).expect("asked") * sockopt::tcp_keepcnt(socket).expect("asked");
        let unacked = sockopt::tcp_user_timeout(socket).expect("asked");
        assert_eq!((idle + probes, unacked), (Duration::from_secs(11), 11_000));
        assert_eq!(served.peer(), Peer::Host(client.local_addr().expect("bound").ip()));
        let (a, _b) = UnixStream::pair().expect("a socket pair");
        assert_eq!(Stream::Unix(a).peer(), Peer::Process(std::process::id()));
    }

    fn eventually<T>(mut what: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(value) = what() {
                return value;
            }
            assert!(Instant::now() < end, "nothing came");
            std::thread::yield_now();
        }
    }

    fn echo(listener: &Listener, mut client: impl Read + Write) {
        let mut server = eventually(|| listener.accept().expect("accepts"));
        let mut buffer = [0u8; 16];
        let error = server.recv(&mut buffer).expect_err("nothing was sent yet");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").expect("writes");
        let got = eventually(|| server.recv(&mut buffer).ok());
        assert_eq!(&buffer[..got], b"hello");
        let pieces = [IoSlice::new(b"good "), IoSlice::new(b"day")];
        assert_eq!(server.send(&pieces).expect("sends"), 8);
        let mut answer = [0u8; 8];
        client.read_exact(&mut answer).expect("reads");
        assert_eq!(&answer, b"good day");
        drop(client);
        assert_eq!(eventually(|| server.recv(&mut buffer).ok()), 0, "end of stream");
    }

    #[test]
    fn tcp_and_unix_streams_carry_bytes_both_ways() {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("address")).expect("binds");
        let address = listener.tcp_address().expect("tcp");
        echo(&listener, TcpStream::connect(address).expect("connects"));
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s.sock");
        let listener = Listener::unix(&path).expect("binds");
        echo(&listener, UnixStream::connect(&path).expect("connects"));
    }

    #[test]
    fn a_dead_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s.sock");
        // A listener of std leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        let live = Listener::unix(&path).expect("replaces the dead one");
        let error = Listener::unix(&path).expect_err("the live one stays");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(!path.exists());
        std::fs::write(&path, b"data").expect("writes");
        assert!(Listener::unix(&path).is_err(), "an ordinary file is left alone");
        assert_eq!(std::fs::read(&path).expect("reads"), b"data");
    }
}
