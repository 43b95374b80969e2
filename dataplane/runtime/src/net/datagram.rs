//! The datagram port: the waist between the fabric machine and a network.
//!
//! A datagram may be lost, doubled or reordered by what is behind the port; the machine bears that. The
//! kernel's UDP costs one system call a datagram each way: a gather list goes out without a copy in user
//! space, and datagrams are large (up to 60 KiB on loopback and jumbo networks), so a message of a
//! stripe unit costs two. The DPDK port comes behind the same trait.

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr, sockopt};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Largest UDP payload.
pub const DATAGRAM_MAX: usize = 65_507;
/// Datagrams taken per call of [`DatagramPort::recv`], so that one port cannot hold a reactor.
const BATCH: usize = 64;
/// Socket buffers: a burst of six column reads must fit.
const SOCKET_BYTES: usize = 8 << 20;

/// Something that sends and receives datagrams.
pub trait DatagramPort: Send {
    /// Sends one datagram, given in pieces. What the network does not take is lost, and counted.
    fn send(&mut self, to: SocketAddr, pieces: &[IoSlice<'_>]);
    /// Hands over what was sent since the last call, where the port batches.
    fn kick(&mut self) {}
    /// Gives what arrived to `take`, a bounded number; returns how many.
    fn recv(&mut self, take: &mut dyn FnMut(SocketAddr, &[u8])) -> usize;
    /// For sleeping on.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Datagrams that the network did not take.
    fn refused(&self) -> u64;
}

/// UDP of the kernel.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    buffer: Box<[u8]>,
    refused: u64,
}

impl UdpPort {
    /// Binds an address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // Without privilege the kernel may grant less (net.core.rmem_max); then bursts are resent more
        // often.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
        }
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
        Ok(Self { socket, buffer: vec![0; DATAGRAM_MAX].into_boxed_slice(), refused: 0 })
    }

    /// The address it got (port 0 asks for any).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl DatagramPort for UdpPort {
    fn send(&mut self, to: SocketAddr, pieces: &[IoSlice<'_>]) {
        let mut control = SendAncillaryBuffer::default();
        if sendmsg_addr(&self.socket, &to, pieces, &mut control, SendFlags::DONTWAIT).is_err() {
            self.refused += 1;
        }
    }

    fn recv(&mut self, take: &mut dyn FnMut(SocketAddr, &[u8])) -> usize {
        let mut count = 0;
        while count < BATCH {
            match self.socket.recv_from(&mut self.buffer) {
                Ok((bytes, from)) => {
                    take(from, &self.buffer[..bytes]);
                    count += 1;
                }
                // A refused earlier datagram shows up here (ICMP); what arrived is behind it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => count += 1,
                Err(_) => break,
            }
        }
        count
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_as_one_datagram_with_its_sender() {
        let any = "127.0.0.1:0".parse().expect("address");
        let (mut a, mut b) = (UdpPort::bind(any).expect("binds"), UdpPort::bind(any).expect("binds"));
        let (from, to) = (a.address().expect("bound"), b.address().expect("bound"));
        let large = vec![7u8; 50_000];
        a.send(to, &[IoSlice::new(b"head"), IoSlice::new(&large)]);
        let mut seen = Vec::new();
        for _ in 0..1000 {
            b.recv(&mut |sender, bytes| seen.push((sender, bytes.len(), bytes[..4].to_vec())));
            if !seen.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(seen, [(from, 50_004, b"head".to_vec())]);
        assert_eq!(a.refused(), 0);
    }

    #[test]
    fn a_datagram_that_is_too_large_is_counted_and_not_sent() {
        let any = "127.0.0.1:0".parse().expect("address");
        let mut a = UdpPort::bind(any).expect("binds");
        let to = a.address().expect("bound");
        a.send(to, &[IoSlice::new(&vec![0u8; DATAGRAM_MAX + 1])]);
        assert_eq!(a.refused(), 1);
    }
}
