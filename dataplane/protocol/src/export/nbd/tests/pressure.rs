//! Back-pressure: many requests, slow readers, an empty pool, payload read straight into the pool.

use super::super::limits::{BYTES_MAX, PARTS_MAX, REQUESTS_MAX};
use super::super::words::flag;
use super::*;

#[test]
fn pipelined_requests_are_answered_in_whatever_order_they_end() {
    let mut rig = Rig::attached(true);
    let bytes: Vec<u8> = (0..200).flat_map(|i| request(cmd::READ, 0, i, i * 4096, 4096)).collect();
    rig.feed(&bytes);
    assert_eq!((rig.open.len(), rig.backlog()), (200, 0));
    while !rig.open.is_empty() {
        rig.answer(rig.open.len() - 1);
    }
    assert_eq!(parse_replies(&rig.take()).len(), 200);
}

#[test]
fn beyond_the_most_open_requests_input_waits() {
    let mut rig = Rig::attached(true);
    let bytes: Vec<u8> = (0..1000).flat_map(|i| request(cmd::READ, 0, i, 0, 512)).collect();
    rig.feed(&bytes);
    assert_eq!(rig.open.len(), REQUESTS_MAX);
    assert!(rig.conn.stalled() && !rig.conn.wants_pool() && rig.backlog() > 20_000);
    assert_eq!(rig.conn.open_tags().count(), REQUESTS_MAX);
    assert_eq!(parse_replies(&rig.settle()).len(), 1000, "none was dropped");
    assert!(rig.conn.stats().limit_waits > 0 && !rig.conn.stalled());
}

#[test]
fn a_client_that_does_not_read_stops_being_served() {
    let mut rig = Rig::attached(true);
    rig.ask(&write(1, 0, &pattern(1, 256 << 10)));
    for cookie in 0..400 {
        rig.feed(&request(cmd::READ, 0, cookie, 0, 256 << 10));
        while !rig.open.is_empty() {
            rig.answer(0);
        }
    }
    assert!(rig.conn.pending() <= BYTES_MAX + (1 << 20), "{}", rig.conn.pending());
    assert!(rig.conn.stalled());
    for cookie in 0..5_000 {
        rig.feed(&request(cmd::TRIM, 0, cookie, 0, 4096));
    }
    assert!(rig.conn.pending() <= BYTES_MAX + (1 << 20));
    let mut slow = Vec::new();
    while rig.conn.pending() > 0 || rig.backlog() > 0 {
        let piece: Vec<u8> = rig.conn.pieces().flatten().copied().take(1_000_003).collect();
        rig.conn.sent(piece.len());
        slow.extend(piece);
        rig.feed(&[]);
        while !rig.open.is_empty() {
            rig.answer(0);
        }
    }
    let mut ends = 0;
    let mut rest = &slow[..];
    while !rest.is_empty() {
        let simple = u32_at(rest, 0) == words::SIMPLE_REPLY_MAGIC;
        ends += u32::from(simple || u16_at(rest, 4) & words::chunk::DONE != 0);
        rest = &rest[if simple { 16 } else { 20 + u32_at(rest, 16) as usize }..];
    }
    assert_eq!(ends, 5_400);
}

#[test]
fn a_connection_keeps_to_its_part_of_the_buffers_and_answers_all_the_same() {
    let mut rig = Rig::attached(true);
    rig.conn.set_bytes_max(1 << 20);
    let bytes: Vec<u8> = (0..16).flat_map(|i| request(cmd::READ, 0, i, i << 18, 256 << 10)).collect();
    rig.feed(&bytes);
    assert_eq!(rig.open.len(), 4);
    assert_eq!(parse_replies(&rig.settle()).len(), 16);
    rig.conn.set_bytes_max(0);
    rig.feed(&request(cmd::READ, 0, 1, 0, 4 << 20));
    assert_eq!(rig.open.len(), 1, "the largest command always fits");
    assert_eq!(parse_replies(&rig.settle())[&1].joined().len(), 4 << 20);
    rig.conn.set_bytes_max(usize::MAX);
    rig.feed(&bytes);
    assert_eq!(rig.open.len(), 16);
    rig.settle();
}

#[test]
fn an_empty_pool_holds_writes_back_and_loses_nothing() {
    let mut rig = Rig::with_pool(PoolConfig { slots: [2, 1, 1], huge: false });
    rig.feed(&handshake(true, "vol0"));
    rig.take();
    let bytes: Vec<u8> = (0..20u64).flat_map(|i| write(i, i * 4096, &pattern(i, 4096))).collect();
    rig.feed(&bytes);
    assert_eq!(rig.open.len(), 4);
    assert!(rig.conn.wants_pool() && rig.conn.stats().pool_waits > 0);
    assert_eq!(parse_replies(&rig.settle()).len(), 20);
    for i in 0..20u64 {
        assert_eq!(rig.ask(&request(cmd::READ, 0, 1, i * 4096, 4096)).joined(), pattern(i, 4096));
    }
    rig.feed(&request(cmd::WRITE_ZEROES, flag::NO_HOLE, 99, 0, 4 << 20));
    assert_eq!(rig.open.len(), 1, "one buffer of that size");
    assert!(rig.conn.wants_pool());
    assert_eq!(parse_replies(&rig.settle()).len(), 1);
    assert_eq!(rig.pool.stats().free, rig.pool.stats().total);
}

#[test]
fn a_loop_that_parks_is_told_when_parts_of_a_large_request_can_go_on() {
    let mut rig = Rig::attached(true);
    rig.ask(&write(1, 0, &pattern(1, 4 << 20)));
    rig.feed(&request(cmd::READ, 0, 2, 0, 4 << 20));
    assert!(!rig.conn.wants_turn(), "the window is full");
    let mut rounds = 0;
    while !rig.open.is_empty() {
        rig.answer(0);
        rounds += 1;
        if rig.conn.wants_turn() {
            rig.feed(&[]);
        }
    }
    assert_eq!(rounds, 16);
    assert_eq!(parse_replies(&rig.take()).remove(&2).expect("a reply").joined().len(), 4 << 20);
    assert!(!rig.conn.wants_turn());
}

#[test]
fn zero_fills_go_out_in_a_window_and_stop_at_an_error() {
    let mut rig = Rig::attached(true);
    rig.feed(&request(cmd::WRITE_ZEROES, flag::NO_HOLE, 1, 0, 32 << 20));
    assert_eq!(rig.open.len(), PARTS_MAX);
    rig.fail(0, ClientError::NoSpace);
    rig.feed(&[]);
    assert_eq!(rig.open.len(), PARTS_MAX - 1, "nothing more is issued");
    assert_eq!(parse_replies(&rig.settle()).remove(&1).expect("a reply").error, 28);
}

#[test]
fn large_payload_is_read_straight_into_the_pool() {
    let mut rig = Rig::attached(true);
    let data = pattern(11, 1 << 20);
    let bytes = write(1, 4096, &data);
    rig.feed(&bytes[..28 + 100]);
    let mut at = 100;
    let mut direct = 0;
    while at < data.len() {
        rig.feed(&[]);
        match rig.conn.want_payload() {
            Some(room) => {
                let count = room.len().min(50_000).min(data.len() - at);
                room[..count].copy_from_slice(&data[at..at + count]);
                rig.conn.payload_received(count, &mut rig.open);
                (at, direct) = (at + count, direct + count);
            }
            None => {
                let count = (data.len() - at).min(1000);
                rig.feed(&data[at..at + count]);
                at += count;
            }
        }
    }
    assert!(direct > 900_000, "{direct}");
    rig.settle();
    assert_eq!(rig.ask(&request(cmd::READ, 0, 2, 4096, 1 << 20)).joined(), data);
    rig.feed(&request(cmd::WRITE, 0, 3, 0, 4096));
    assert!(rig.conn.want_payload().is_none(), "small payload comes with the rest of the input");
}

#[test]
fn a_lost_connection_gives_every_buffer_back() {
    let mut rig = Rig::attached(true);
    rig.ask(&write(1, 0, &pattern(12, 1 << 20)));
    rig.feed(&request(cmd::READ, 0, 2, 0, 4 << 20));
    rig.answer(0);
    rig.feed(&write(3, 0, &pattern(13, 300_000 / 512 * 512))[..200_000]);
    let pool = rig.pool.clone();
    assert!(pool.stats().free != pool.stats().total);
    drop(rig);
    assert_eq!(pool.stats().free, pool.stats().total);
}
