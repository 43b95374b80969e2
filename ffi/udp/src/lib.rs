//! Safe face of `recvmmsg`: many datagrams by one system call, into memory that is kept.
//!
//! Only receiving: for `sendmmsg` rustix has a safe face, for this it has none. What arrives is lent to a
//! closure, so that nobody holds it when the next call writes over it. Not offered: control messages,
//! waiting; sockets are polled by a reactor.
#![allow(unsafe_code)] // Memory and addresses that the kernel fills, see the SAFETY reasons at each block.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams of one call.
pub const BATCH: usize = 16;
/// Bytes for each: more than any UDP payload, so that none is cut.
const SLOT: usize = 1 << 16;

/// Memory for a batch of received datagrams: 1 MiB, taken once.
#[derive(Debug)]
pub struct Batch {
    memory: Box<[u8]>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { memory: vec![0; BATCH * SLOT].into_boxed_slice() }
    }
}

impl Batch {
    /// Takes what waits at a socket, at most [`BATCH`] datagrams, without waiting, and lends each with its
    /// sender to `take`. Gives their number; an error is that of the first, when there is none before it.
    pub fn recv(
        &mut self,
        socket: BorrowedFd<'_>,
        take: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> io::Result<usize> {
        // SAFETY: all three are plain C structs of integers and pointers, for which all-zero bytes are a
        // valid value (null pointers, lengths of zero, family AF_UNSPEC).
        let (mut names, mut vectors, mut headers): (
            [libc::sockaddr_storage; BATCH],
            [libc::iovec; BATCH],
            [libc::mmsghdr; BATCH],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        for (index, slot) in self.memory.chunks_exact_mut(SLOT).enumerate() {
            vectors[index] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: every header points to a name, a vector and a slot of its own, all of which live until
        // this function returns and are not touched otherwise while the call writes to them; the lengths
        // given are theirs. The kernel keeps no pointer after the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?.min(BATCH);
        let slots = self.memory.chunks_exact(SLOT);
        for ((slot, name), header) in slots.zip(&names).zip(&headers).take(count) {
            let len = (header.msg_len as usize).min(SLOT);
            if let Some(from) = address(name) {
                take(from, &slot[..len]);
            }
        }
        Ok(count)
    }
}

/// An internet address as the kernel wrote it.
fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is at least as large and as strictly aligned as a sockaddr_in,
            // every bit pattern of which is valid; the family says that the kernel wrote one.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for a sockaddr_in6.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair(any: &str) -> (UdpSocket, UdpSocket) {
        let bind = || UdpSocket::bind(any).expect("binds");
        (bind(), bind())
    }

    fn all(batch: &mut Batch, socket: &UdpSocket) -> (io::Result<usize>, Vec<(SocketAddr, Vec<u8>)>) {
        let mut seen = Vec::new();
        let got = batch.recv(socket.as_fd(), &mut |from, bytes| seen.push((from, bytes.to_vec())));
        (got, seen)
    }

    #[test]
    fn a_batch_comes_by_one_call_whole_in_order_and_with_its_senders() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            if UdpSocket::bind(any).is_err() {
                continue; // A host without that family.
            }
            let (a, b) = pair(any);
            let to = b.local_addr().expect("bound");
            let mut batch = Batch::default();
            assert_eq!(all(&mut batch, &b).0.map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
            for index in 0..20u8 {
                a.send_to(&vec![index; 1 + usize::from(index) * 100], to).expect("sends");
            }
            let (got, mut seen) = all(&mut batch, &b);
            assert_eq!(got.expect("received"), BATCH);
            let (rest, more) = all(&mut batch, &b);
            assert_eq!(rest.expect("received"), 4);
            seen.extend(more);
            for (index, (from, bytes)) in seen.iter().enumerate() {
                assert_eq!(*from, a.local_addr().expect("bound"));
                assert_eq!(bytes, &vec![index as u8; 1 + index * 100]);
            }
        }
    }

    #[test]
    fn the_largest_datagram_and_an_empty_one_arrive_whole() {
        let (a, b) = pair("127.0.0.1:0");
        let to = b.local_addr().expect("bound");
        a.send_to(&[7; 65_507], to).expect("sends");
        a.send_to(&[], to).expect("sends");
        let (got, seen) = all(&mut Batch::default(), &b);
        assert_eq!(got.expect("received"), 2);
        assert_eq!((seen[0].1.len(), seen[1].1.len()), (65_507, 0));
    }
}
