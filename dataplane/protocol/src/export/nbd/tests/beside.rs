//! The short way: a volume beside the connection answers simple requests while they are parsed. Clients
//! must not be able to tell.

use super::super::words::flag;
use super::super::{Beside, Lent};
use super::*;
use crate::wire::volume::is_zeroes;

/// The test volume beside the connection.
pub(super) struct Near<'a> {
    volume: &'a mut Volume,
    pool: &'a Pool,
    every: u32,
    asked: u32,
    lent: Vec<u8>,
}

impl<'a> Near<'a> {
    /// Each `every`th request is refused, and so is what is not in one piece.
    pub(super) fn new(volume: &'a mut Volume, pool: &'a Pool, every: u32) -> Self {
        Self { volume, pool, every, asked: 0, lent: Vec::new() }
    }

    fn refuses(&mut self) -> bool {
        self.asked += 1;
        self.asked.is_multiple_of(self.every)
    }
}

impl Beside for Near<'_> {
    fn partition(&self) -> PartitionId {
        PartitionId(7)
    }

    fn read(&mut self, offset: u64, len: u32) -> Option<Lent<'_>> {
        let pieces = if self.refuses() { None } else { self.volume.read(offset, len, self.pool) };
        let piece = pieces.filter(|pieces| pieces.len() == 1)?.pop()?;
        self.lent = piece.to_vec();
        Some(if is_zeroes(&piece) { Lent::Hole } else { Lent::Bytes(&self.lent) })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if self.refuses() {
            return false;
        }
        for (i, sector) in bytes.chunks_exact(512).enumerate() {
            self.volume.sectors.insert(offset / 512 + i as u64, sector.try_into().expect("512 bytes"));
        }
        true
    }
}

fn rig(structured: bool, every: u32) -> Rig {
    let mut rig = Rig::attached(structured);
    rig.beside = Some(every);
    rig
}

#[test]
fn simple_requests_beside_a_volume_are_answered_without_commands() {
    let mut rig = rig(true, u32::MAX);
    let data = pattern(1, 4096);
    let requests = [write(1, 8192, &data), request(cmd::READ, 0, 2, 8192, 4096)];
    rig.feed(&requests.concat());
    assert!(rig.open.is_empty() && rig.backlog() == 0);
    let mut replies = parse_replies(&rig.take());
    assert_eq!(replies.len(), 2);
    let reply = replies.remove(&2).expect("the read's");
    assert_eq!((reply.error, reply.chunks, reply.joined()), (0, 1, data));
    rig.feed(&request(cmd::READ, 0, 3, 0, 4096));
    assert_eq!(parse_replies(&rig.take()).remove(&3).expect("a reply").holes, 1, "a hole is told");
    rig.feed(&request(cmd::READ, flag::DF, 4, 0, 4096));
    assert_eq!(parse_replies(&rig.take()).remove(&4).expect("a reply").joined(), [0; 4096]);
    assert_eq!(rig.conn.stats().requests, 4);
}

#[test]
fn what_is_not_simple_takes_the_general_way_and_the_rest_does_not() {
    let mut rig = rig(true, u32::MAX);
    let requests = [
        write(1, 0, &pattern(1, 4096)),
        request(cmd::TRIM, 0, 2, 0, 4096),
        write(3, 4096, &pattern(3, 4096)),
        request(cmd::READ, 0, 4, SIZE, 4096),
        request(cmd::READ, 0, 5, 0, 1 << 20),
        request(cmd::READ, 0, 6, 4096, 4096),
    ];
    rig.feed(&requests.concat());
    assert_eq!(rig.open.len(), 1 + 4, "the trim, and the large read's parts");
    let replies = parse_replies(&rig.settle());
    assert!(replies.keys().copied().eq(1..=6));
    assert_eq!((replies[&4].error, replies[&6].joined()), (22, pattern(3, 4096)));
}

#[test]
fn behind_a_request_that_came_in_two_parts_the_short_way_goes_on() {
    for cut in [1, 27, 28, 29, 28 + 4095] {
        let mut rig = rig(true, u32::MAX);
        let (first, last) = (write(1, 0, &pattern(1, 4096)), write(3, 0, &pattern(3, 4096)));
        rig.feed(&first[..cut]);
        rig.feed(&[&first[cut..], &write(2, 4096, &pattern(2, 4096)), &last[..cut]].concat());
        assert_eq!(rig.open.len(), 1, "only the one that was cut at {cut}");
        rig.feed(&last[cut..]);
        assert!(parse_replies(&rig.settle()).keys().copied().eq(1..=3));
        assert_eq!(rig.ask(&request(cmd::READ, 0, 4, 4096, 4096)).joined(), pattern(2, 4096));
    }
}

#[test]
fn nothing_interrupts_a_large_simple_read() {
    let mut rig = rig(false, u32::MAX);
    let data = pattern(1, 512 << 10);
    rig.feed(&write(1, 0, &data));
    rig.settle();
    let small = request(cmd::READ, 0, 3, 0, 512);
    rig.feed(&[request(cmd::READ, 0, 2, 0, 512 << 10), small].concat());
    assert!(rig.conn.pending() == 0 && rig.backlog() == 0, "the small read waits");
    let bytes = rig.settle();
    assert_eq!(bytes.len(), 16 + data.len() + 16 + 512);
    assert!(bytes[16..16 + data.len()] == data && bytes[bytes.len() - 512..] == data[..512]);
}

#[test]
fn a_client_that_does_not_read_is_not_served_beside_a_volume_either() {
    let mut rig = rig(true, u32::MAX);
    rig.ask(&write(1, 0, &pattern(1, 64 << 10)));
    for cookie in 0..2000 {
        rig.feed(&request(cmd::READ, flag::DF, cookie, 0, 4096));
        rig.feed(&request(cmd::TRIM, 0, 10_000 + cookie, 4096, 512));
        rig.feed(&request(cmd::READ, 0, 20_000 + cookie, 32 << 10, 4096));
    }
    use super::super::limits::{BYTES_MAX, REPLY_BYTES_MAX};
    assert!(rig.conn.pending() <= BYTES_MAX + REPLY_BYTES_MAX + 1024);
    assert_eq!(parse_replies(&rig.settle()).len(), 6000, "nothing was dropped");
}

#[test]
fn clients_cannot_tell_the_short_way_from_the_general_one() {
    for (structured, every) in [(true, u32::MAX), (true, 2), (false, 3), (false, u32::MAX)] {
        let (mut short, mut general) = (rig(structured, every), Rig::attached(structured));
        let mut state = 1u64;
        for cookie in 0..3000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (state >> 40) % 64 * 512;
            let len = [512, 1024, 4096, 20_480][(state >> 20) as usize % 4];
            let bytes = match (state >> 30) % 5 {
                0 | 1 => write(cookie, offset, &pattern(cookie, len)),
                2 => request(cmd::WRITE_ZEROES, 0, cookie, offset, len as u32),
                _ => request(cmd::READ, 0, cookie, offset, len as u32),
            };
            let serve = |rig: &mut Rig| {
                let cut = (state >> 50) as usize % bytes.len();
                rig.feed(&bytes[..cut]);
                rig.feed(&bytes[cut..]);
                rig.settle()
            };
            let (a, b) = (serve(&mut short), serve(&mut general));
            match structured {
                true => {
                    let (a, b) = (parse_replies(&a), parse_replies(&b));
                    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
                    assert!(
                        a.values()
                            .zip(b.values())
                            .all(|(a, b)| a.error == b.error && a.joined() == b.joined())
                    );
                }
                false => assert!(a == b, "request {cookie}"),
            }
        }
        assert_eq!(short.volume.sectors, general.volume.sectors);
    }
}
