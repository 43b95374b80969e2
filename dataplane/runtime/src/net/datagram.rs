//! The datagram port: the waist between the fabric machine and a network.
//!
//! A datagram may be lost, doubled or reordered by what is behind the port; the machine bears that. The
//! kernel's UDP takes and gives many datagrams by one system call each way; a gather list goes out without
//! a copy in user space, and datagrams are large (up to 60 KiB on loopback and jumbo networks), so a
//! message of a stripe unit needs two. The DPDK port comes behind the same trait.

use palisade_udp::Batch;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags, SocketType, sendmmsg,
    sockopt,
};
use smallvec::SmallVec;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Largest UDP payload.
pub const DATAGRAM_MAX: usize = 65_507;
/// Calls per [`DatagramPort::recv`], so that one port cannot hold a reactor.
const RECV_CALLS: usize = 4;
/// Datagrams handed over by one system call.
pub const SEND_BATCH: usize = 32;
/// Socket buffers: a burst of six column reads must fit.
const SOCKET_BYTES: usize = 8 << 20;

/// One datagram to send, in pieces.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes, in order.
    pub pieces: SmallVec<[IoSlice<'a>; 4]>,
}

/// Datagrams by direction, and system calls that carried them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Datagrams taken by the network.
    pub sent: u64,
    /// System calls for them.
    pub send_calls: u64,
    /// Datagrams that the network did not take.
    pub refused: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// System calls that brought some.
    pub recv_calls: u64,
}

/// Something that sends and receives datagrams.
pub trait DatagramPort: Send {
    /// Sends datagrams, as many as the network takes; what it does not take is lost, and counted.
    fn send(&mut self, batch: &[Outgoing<'_>]);
    /// Gives what arrived to `take`, a bounded number; returns how many.
    fn recv(&mut self, take: &mut dyn FnMut(SocketAddr, &[u8])) -> usize;
    /// For sleeping on.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;
    /// What it has carried.
    fn stats(&self) -> PortStats;
}

/// UDP of the kernel.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    batch: Batch,
    stats: PortStats,
}

impl UdpPort {
    /// Binds an address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::over(UdpSocket::bind(address)?)
    }

    /// Binds an address that this host may come to have later: until then what is sent is lost.
    pub fn bind_absent(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_ip_freebind(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        Self::over(UdpSocket::from(socket))
    }

    fn over(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Without privilege the kernel may grant less (net.core.rmem_max); then bursts are resent more
        // often.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
        }
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
        Ok(Self { socket, batch: Batch::default(), stats: PortStats::default() })
    }

    /// The address it got (port 0 asks for any).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// One system call for at most [`SEND_BATCH`] datagrams; how many of them are done with.
    fn send_some(&mut self, batch: &[Outgoing<'_>]) -> usize {
        let names: SmallVec<[SocketAddrAny; SEND_BATCH]> = batch.iter().map(|out| out.to.into()).collect();
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; SEND_BATCH] = Default::default();
        let mut headers: SmallVec<[MMsgHdr<'_>; SEND_BATCH]> = names
            .iter()
            .zip(batch)
            .zip(&mut controls)
            .map(|((name, out), control)| MMsgHdr::new_with_addr(name, &out.pieces, control))
            .collect();
        self.stats.send_calls += 1;
        match sendmmsg(&self.socket, &mut headers, SendFlags::DONTWAIT) {
            Ok(sent) if sent > 0 => {
                self.stats.sent += sent as u64;
                sent
            }
            // The first of them was not taken; the next may go elsewhere, so they are tried.
            _ => {
                self.stats.refused += 1;
                1
            }
        }
    }
}

impl DatagramPort for UdpPort {
    fn send(&mut self, batch: &[Outgoing<'_>]) {
        let mut rest = batch;
        while !rest.is_empty() {
            let done = self.send_some(&rest[..rest.len().min(SEND_BATCH)]);
            rest = &rest[done..];
        }
    }

    fn recv(&mut self, take: &mut dyn FnMut(SocketAddr, &[u8])) -> usize {
        let mut count = 0;
        for _ in 0..RECV_CALLS {
            match self.batch.recv(self.socket.as_fd(), take) {
                Ok(got) => {
                    self.stats.recv_calls += 1;
                    count += got;
                    if got < palisade_udp::BATCH {
                        break;
                    }
                }
                // A refused earlier datagram shows up here (ICMP); what arrived is behind it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        self.stats.received += count as u64;
        count
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(addresses: [&str; 2]) -> [(UdpPort, SocketAddr); 2] {
        addresses.map(|address| {
            let port = UdpPort::bind(address.parse().expect("an address")).expect("binds");
            let at = port.address().expect("bound");
            (port, at)
        })
    }

    fn out<'a>(to: SocketAddr, pieces: &[&'a [u8]]) -> Outgoing<'a> {
        Outgoing { to, pieces: pieces.iter().map(|piece| IoSlice::new(piece)).collect() }
    }

    /// Receives until nothing more comes.
    fn all(port: &mut UdpPort) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut seen = Vec::new();
        while port.recv(&mut |sender, bytes| seen.push((sender, bytes.to_vec()))) > 0 {}
        seen
    }

    #[test]
    fn pieces_arrive_as_one_datagram_with_its_sender() {
        let [(mut a, from), (mut b, to)] = ports(["127.0.0.1:0", "127.0.0.1:0"]);
        let large = vec![7u8; 50_000];
        a.send(&[out(to, &[b"head", &large])]);
        let seen = all(&mut b);
        assert_eq!((seen.len(), seen[0].0, seen[0].1.len()), (1, from, 50_004));
        assert_eq!(&seen[0].1[..4], b"head");
        assert_eq!(a.stats().refused, 0);
    }

    #[test]
    fn issue3_08_a_hundred_datagrams_take_a_few_system_calls_each_way() {
        let [(mut a, from), (mut b, to)] = ports(["127.0.0.1:0", "127.0.0.1:0"]);
        let bodies: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 100 + usize::from(i)]).collect();
        let batch: Vec<Outgoing<'_>> = bodies.iter().map(|body| out(to, &[b"x", body])).collect();
        a.send(&batch);
        let seen = all(&mut b);
        assert_eq!(seen.len(), 100);
        for ((sender, bytes), body) in seen.iter().zip(&bodies) {
            assert_eq!((*sender, bytes[0], &bytes[1..]), (from, b'x', &body[..]));
        }
        assert_eq!(a.stats(), PortStats { sent: 100, send_calls: 4, ..PortStats::default() });
        assert_eq!(b.stats(), PortStats { received: 100, recv_calls: 7, ..PortStats::default() });
    }

    #[test]
    fn ef31_two_loopback_addresses_are_two_networks() {
        let [(mut one, first), (mut two, second)] = ports(["127.0.0.1:0", "127.0.0.2:0"]);
        let [(mut other_one, _), (mut other_two, _)] = ports(["127.0.0.1:0", "127.0.0.2:0"]);
        other_one.send(&[out(first, &[b"by one"])]);
        other_two.send(&[out(second, &[b"by two"])]);
        let bytes = |port: &mut UdpPort| all(port).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
        assert_eq!((bytes(&mut one), bytes(&mut two)), (vec![b"by one".to_vec()], vec![b"by two".to_vec()]));
    }

    #[test]
    fn ef31_an_address_that_the_host_does_not_have_yet_can_be_bound_and_loses_what_is_sent() {
        let absent = "192.0.2.77:0".parse().expect("an address of the documentation");
        assert!(UdpPort::bind(absent).is_err());
        let mut port = UdpPort::bind_absent(absent).expect("binds");
        let [(_b, to), _] = ports(["127.0.0.1:0", "127.0.0.1:0"]);
        port.send(&[out(to, &[b"lost"])]);
        assert!(port.wait_fd().is_some() && all(&mut port).is_empty());
    }

    #[test]
    fn a_datagram_that_the_network_does_not_take_is_counted_and_holds_up_no_other() {
        let [(mut a, _), (mut b, to)] = ports(["127.0.0.1:0", "127.0.0.1:0"]);
        let large = vec![0u8; DATAGRAM_MAX + 1];
        a.send(&[out(to, &[b"1"]), out(to, &[&large]), out(to, &[b"2"]), out(to, &[&large])]);
        assert_eq!(all(&mut b).len(), 2);
        assert_eq!((a.stats().sent, a.stats().refused), (2, 2));
    }
}
