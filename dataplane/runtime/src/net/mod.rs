//! Sockets of the kernel as ports: streams for exports, datagrams for the fabric. All are non-blocking;
//! a reactor tries them once per turn and sleeps on their descriptors.

pub mod datagram;
pub mod stream;
