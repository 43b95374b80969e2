//! Requests and their replies.

use super::super::words::flag;
use super::super::{Phase, Reason};
use super::*;

#[test]
fn what_was_written_is_read_back_with_structured_replies() {
    let mut rig = Rig::attached(true);
    let data = pattern(1, 12_288);
    assert_eq!(rig.ask(&write(1, 8192, &data)).error, 0);
    let reply = rig.ask(&request(cmd::READ, 0, 2, 4096, 20_480));
    assert_eq!(reply.error, 0);
    assert_eq!((reply.chunks, reply.holes), (3, 2), "hole, data, hole");
    assert_eq!(reply.joined(), [vec![0; 4096], data, vec![0; 4096]].concat());
    let whole = rig.ask(&request(cmd::READ, flag::DF, 3, 4096, 20_480));
    assert_eq!((whole.chunks, whole.holes, whole.joined().len()), (1, 0, 20_480));
}

#[test]
fn sectors_of_512_bytes_are_accepted_and_smaller_ones_are_not() {
    let mut rig = Rig::attached(true);
    let data = pattern(2, 512);
    assert_eq!(rig.ask(&write(1, 512 * 77, &data)).error, 0);
    assert_eq!(rig.ask(&request(cmd::READ, 0, 2, 512 * 77, 512)).joined(), data);
    for (command, offset, len) in
        [(cmd::READ, 1, 512), (cmd::READ, 0, 511), (cmd::TRIM, 100, 512), (cmd::WRITE_ZEROES, 0, 100)]
    {
        assert_eq!(rig.ask(&request(command, 0, 3, offset, len)).error, 22);
    }
    assert_eq!(rig.ask(&write(4, 256, &[0; 512])).error, 22, "and its payload was read over");
    assert_eq!(rig.ask(&write(5, 0, &data)).error, 0);
}

#[test]
fn ranges_beyond_the_end_are_einval_or_enospc() {
    let mut rig = Rig::attached(true);
    for (command, errno) in
        [(cmd::READ, 22), (cmd::TRIM, 22), (cmd::BLOCK_STATUS, 22), (cmd::WRITE_ZEROES, 28)]
    {
        for (offset, len) in [(SIZE, 512), (SIZE - 512, 1024), (u64::MAX - 511, 512), (1 << 62, 4096)] {
            assert_eq!(rig.ask(&request(command, 0, 1, offset, len)).error, errno, "{command} {offset}");
        }
    }
    assert_eq!(rig.ask(&write(2, SIZE - 512, &[1; 1024])).error, 28);
    assert_eq!(rig.ask(&write(3, SIZE - 512, &[1; 512])).error, 0);
}

#[test]
fn a_read_only_export_refuses_all_changes() {
    let mut rig = Rig::new();
    rig.feed(&handshake(true, "golden"));
    rig.take();
    assert_eq!(rig.ask(&write(1, 0, &[1; 4096])).error, 1);
    assert_eq!(rig.ask(&request(cmd::TRIM, 0, 2, 0, 4096)).error, 1);
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, 0, 3, 0, 4096)).error, 1);
    assert_eq!(rig.ask(&request(cmd::READ, 0, 4, 0, 4096)).error, 0);
    assert_eq!(rig.ask(&request(cmd::FLUSH, 0, 5, 0, 0)).error, 0);
}

#[test]
fn trim_and_zeroes_make_holes_and_no_hole_writes_zeroes() {
    let mut rig = Rig::attached(true);
    rig.ask(&write(1, 0, &pattern(3, 16_384)));
    assert_eq!(rig.ask(&request(cmd::TRIM, flag::FUA, 2, 0, 4096)).error, 0);
    let fast = flag::FAST_ZERO;
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, fast, 3, 4096, 4096)).error, 0);
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, flag::NO_HOLE, 4, 8192, 4096)).error, 0);
    let status = rig.ask(&request(cmd::BLOCK_STATUS, 0, 5, 0, 20_480)).status;
    assert_eq!(status, [(8192, 3), (8192, 0), (4096, 3)]);
    assert!(rig.ask(&request(cmd::READ, 0, 6, 0, 12_288)).joined().iter().all(|byte| *byte == 0));
}

#[test]
fn fast_zero_is_refused_where_it_would_not_be_fast() {
    let mut rig = Rig::attached(true);
    let both = flag::FAST_ZERO | flag::NO_HOLE;
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, both, 1, 0, 4096)).error, 95);
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, flag::FAST_ZERO, 2, 512, 4096)).error, 95);
    assert_eq!(rig.ask(&request(cmd::WRITE_ZEROES, flag::FAST_ZERO, 3, 512, 8192)).error, 0);
}

#[test]
fn zeroes_of_the_largest_length_are_one_command() {
    let mut rig = Rig::attached(true);
    rig.feed(&request(cmd::TRIM, 0, 1, 0, SIZE as u32));
    rig.feed(&request(cmd::WRITE_ZEROES, 0, 2, 0, SIZE as u32));
    assert_eq!(rig.open.len(), 2);
    assert_eq!(parse_replies(&rig.settle()).len(), 2);
}

#[test]
fn block_status_wants_its_context_and_knows_req_one() {
    let mut rig = Rig::attached(false);
    assert_eq!(rig.ask(&request(cmd::BLOCK_STATUS, 0, 1, 0, 4096)).error, 22);
    let mut rig = Rig::attached(true);
    rig.ask(&write(1, 4096, &[1; 4096]));
    let one = rig.ask(&request(cmd::BLOCK_STATUS, flag::REQ_ONE, 2, 0, 65_536));
    assert_eq!(one.status, [(4096, 3)]);
    assert_eq!(rig.ask(&request(cmd::BLOCK_STATUS, 0, 3, 0, 0)).error, 22);
    let long = rig.ask(&request(cmd::BLOCK_STATUS, 0, 4, 0, SIZE as u32)).status;
    assert!(long.iter().map(|run| u64::from(run.0)).sum::<u64>() <= SIZE);
}

#[test]
fn block_status_is_cut_at_the_most_descriptors() {
    let mut rig = Rig::attached(true);
    (0..2000u64).for_each(|i| drop(rig.ask(&write(1, i * 1024, &[1; 512]))));
    let status = rig.ask(&request(cmd::BLOCK_STATUS, 0, 2, 0, 2_048_000)).status;
    assert_eq!(status.len(), super::super::limits::STATUS_RUNS_MAX);
}

#[test]
fn unknown_commands_and_flags_are_einval_and_the_connection_goes_on() {
    let mut rig = Rig::attached(true);
    for command in [5u16, 8, 9, 1000, u16::MAX] {
        assert_eq!(rig.ask(&request(command, 0, 1, 0, 512)).error, 22, "cache, resize, unknown");
    }
    for (command, flags) in [(cmd::READ, flag::NO_HOLE), (cmd::READ, 1 << 15), (cmd::FLUSH, flag::DF)] {
        assert_eq!(rig.ask(&request(command, flags, 2, 0, 512)).error, 22);
    }
    let odd = [request(cmd::WRITE, flag::DF, 3, 0, 512), vec![0; 512]].concat();
    assert_eq!(rig.ask(&odd).error, 22);
    let mut simple = Rig::attached(false);
    assert_eq!(simple.ask(&request(cmd::READ, flag::DF, 4, 0, 512)).error, 22, "DF was not offered");
    assert_eq!(rig.ask(&request(cmd::FLUSH, flag::FUA, 5, 99, 99)).error, 0);
}

#[test]
fn requests_of_no_bytes_do_nothing_and_succeed() {
    for structured in [false, true] {
        let mut rig = Rig::attached(structured);
        for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            let reply = rig.ask(&request(command, 0, 1, 4096, 0));
            assert_eq!((reply.error, reply.data.len()), (0, 0));
        }
        assert_eq!(rig.conn.stats().requests, 4);
    }
}

#[test]
fn errors_of_the_volume_become_errors_of_the_protocol() {
    for (error, errno) in [
        (ClientError::Range, 22),
        (ClientError::Unreadable, 5),
        (ClientError::NoSpace, 28),
        (ClientError::NotServed, 108),
        (ClientError::Device, 5),
    ] {
        for structured in [false, true] {
            let mut rig = Rig::attached(structured);
            for command in [cmd::READ, cmd::FLUSH, cmd::TRIM] {
                rig.feed(&request(command, 0, 1, 8192, 4096));
                rig.fail(0, error);
                let reply = parse_replies(&rig.take()).remove(&1).expect("a reply");
                assert_eq!(reply.error, errno);
                if structured && command == cmd::READ {
                    assert_eq!(reply.error_at, [8192]);
                }
            }
            assert_eq!(rig.conn.stats().errors, 3);
            assert!(rig.conn.idle());
        }
    }
}

#[test]
fn large_writes_are_cut_and_joined() {
    for (offset, len) in [(0u64, 1 << 20), (512, 700 * 512), (4096 * 3 + 512, 3 << 20)] {
        let mut rig = Rig::attached(true);
        let data = pattern(offset, len);
        rig.feed(&write(1, offset, &data));
        assert!(rig.open.len() > 1);
        let reply = parse_replies(&rig.settle()).remove(&1).expect("a reply");
        assert_eq!(reply, Reply { done: true, ..Reply::default() });
        let back = rig.ask(&request(cmd::READ, 0, 2, offset, len as u32));
        assert_eq!(back.joined(), data);
    }
}

#[test]
fn a_failed_part_fails_a_large_write_once() {
    let mut rig = Rig::attached(true);
    rig.feed(&write(1, 0, &pattern(5, 1 << 20)));
    assert_eq!(rig.open.len(), 4);
    rig.fail(2, ClientError::NoSpace);
    rig.fail(0, ClientError::Device);
    assert!(rig.take().is_empty());
    let reply = parse_replies(&rig.settle()).remove(&1).expect("a reply");
    assert_eq!((reply.error, reply.chunks), (28, 1), "the first error counts");
}

#[test]
fn parts_of_a_structured_read_go_out_as_they_end() {
    let mut rig = Rig::attached(true);
    let data = pattern(6, 4 << 20);
    rig.ask(&write(1, 0, &data));
    rig.feed(&request(cmd::READ, 0, 2, 0, 4 << 20));
    assert_eq!(rig.open.len(), super::super::limits::PARTS_MAX, "a window of parts");
    rig.answer(3);
    assert!(rig.conn.pending() > 256 << 10, "the fourth part does not wait for the first");
    rig.fail(0, ClientError::Unreadable);
    let reply = parse_replies(&rig.settle()).remove(&2).expect("a reply");
    assert_eq!((reply.error, reply.error_at.as_slice()), (5, &[0][..]));
    assert_eq!(reply.joined(), &data[256 << 10..], "the other parts are good");
    assert_eq!(rig.ask(&request(cmd::READ, flag::DF, 3, 0, 1 << 20)).error, 75);
    assert_eq!(rig.ask(&request(cmd::READ, flag::DF, 3, 512, 65_536)).chunks, 1);
}

#[test]
fn a_large_simple_read_is_one_piece_and_nothing_comes_between() {
    let mut rig = Rig::attached(false);
    let data = pattern(7, 5 << 20);
    for (i, part) in data.chunks(1 << 20).enumerate() {
        rig.ask(&write(1, (i as u64) << 20, part));
    }
    let small = request(cmd::FLUSH, 0, 8, 0, 0);
    rig.feed(&[small.clone(), request(cmd::READ, 0, 9, 0, 5 << 20), small].concat());
    let got = rig.settle();
    assert_eq!((u64_at(&got, 8), u64_at(&got, 24)), (8, 9));
    assert_eq!(got[32..32 + data.len()], data);
    assert_eq!(u64_at(&got[32 + data.len()..], 8), 8);
    assert!(rig.conn.idle() && rig.open.is_empty());
}

#[test]
fn a_large_simple_read_that_fails_early_is_an_error_and_late_ends_the_connection() {
    let mut rig = Rig::attached(false);
    rig.feed(&request(cmd::READ, 0, 1, 0, 4 << 20));
    rig.answer(1);
    rig.fail(0, ClientError::Unreadable);
    assert_eq!(parse_replies(&rig.settle()).remove(&1).expect("a reply").error, 5);
    assert!(rig.conn.idle());
    rig.feed(&request(cmd::READ, 0, 2, 0, 4 << 20));
    rig.answer(0);
    rig.take();
    rig.fail(0, ClientError::Unreadable);
    assert_eq!((rig.conn.closed(), rig.conn.pending()), (None, 0), "nothing more is sent");
    while !rig.open.is_empty() {
        rig.answer(0);
    }
    assert_eq!(rig.conn.closed(), Some(Reason::ReadFailed));
    assert_eq!(rig.conn.pending(), 0, "late answers change nothing");
}

#[test]
fn requests_longer_than_offered_are_refused_and_absurd_payload_ends_the_connection() {
    let mut rig = Rig::attached(true);
    assert_eq!(rig.ask(&request(cmd::READ, 0, 1, 0, (32 << 20) + 512)).error, 22);
    rig.feed(&request(cmd::WRITE, 0, 2, 0, (32 << 20) + 512));
    (0..33).for_each(|_| rig.feed(&[0; 1 << 20]));
    let consumed_as_payload = (33 << 20) - ((32 << 20) + 512);
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(_))), "zeroes are no request");
    assert!(consumed_as_payload > 28);
    let mut rig = Rig::attached(true);
    rig.feed(&request(cmd::WRITE, 0, 2, 0, u32::MAX - 511));
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("payload")));
}

#[test]
fn a_bad_request_magic_ends_the_connection_at_once() {
    let mut rig = Rig::attached(true);
    rig.feed(&write(1, 0, &[1; 4096]));
    rig.feed(&[0xff; 28]);
    assert_eq!((rig.conn.phase(), rig.conn.closed()), (Phase::Draining, None), "an answer may still come");
    assert_eq!(rig.conn.open_tags().count(), 1, "P-11: what was open can be aborted");
    rig.answer(0);
    assert_eq!((rig.conn.pending(), rig.conn.open_tags().count()), (0, 0));
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("magic")));
}

#[test]
fn disconnect_answers_what_is_open_and_reads_nothing_more() {
    let mut rig = Rig::attached(true);
    let mut bytes = request(cmd::READ, 0, 1, 0, 1 << 20);
    bytes.extend(write(2, 0, &[1; 4096]));
    bytes.extend(request(cmd::DISC, 0, 3, 0, 0));
    bytes.extend(request(cmd::READ, 0, 4, 0, 4096));
    rig.feed(&bytes);
    assert_eq!((rig.conn.phase(), rig.conn.closed()), (Phase::Draining, None));
    let replies = parse_replies(&rig.settle());
    assert_eq!(replies.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(rig.conn.closed(), Some(Reason::Disconnected));
}

#[test]
fn shutdown_ends_in_order_even_in_the_middle_of_a_payload() {
    let mut rig = Rig::attached(true);
    let bytes = write(1, 0, &pattern(8, 1 << 20));
    rig.feed(&bytes[..600_000]);
    assert_eq!(rig.open.len(), 2);
    rig.conn.shutdown();
    rig.feed(&bytes[600_000..]);
    assert_eq!(rig.open.len(), 2, "nothing more is started");
    let reply = parse_replies(&rig.settle()).remove(&1).expect("a reply");
    assert_eq!(reply.error, 108, "a write that did not come whole is no success");
    assert_eq!(rig.conn.closed(), Some(Reason::Shutdown));
    let mut fresh = Rig::new();
    fresh.conn.shutdown();
    fresh.take();
    assert_eq!(fresh.conn.closed(), Some(Reason::Shutdown));
}

#[test]
fn answers_to_tags_that_are_not_open_are_counted_and_ignored() {
    let mut rig = Rig::attached(true);
    rig.feed(&request(cmd::FLUSH, 0, 1, 0, 0));
    let tag = rig.open[0].tag;
    assert_eq!(Connection::id_of(tag), 3);
    rig.settle();
    rig.feed(&request(cmd::FLUSH, 0, 2, 0, 0));
    assert_ne!(rig.open[0].tag, tag, "the slot's generation differs");
    for stray in [tag, crate::wire::ClientTag(u64::MAX), crate::wire::ClientTag(rig.open[0].tag.0 ^ 1 << 32)]
    {
        rig.conn.complete(ClientDone { tag: stray, result: Ok(ClientOk::Done) });
    }
    assert_eq!((rig.conn.stats().stray_answers, rig.conn.pending()), (3, 0));
}

#[test]
fn the_transmission_bears_cuts_at_every_byte() {
    let mut bytes = write(1, 0, &pattern(9, 1024));
    bytes.extend(request(cmd::READ, 0, 2, 0, 512));
    bytes.extend(request(cmd::BLOCK_STATUS, 0, 3, 0, 4096));
    let mut whole = Rig::attached(true);
    whole.feed(&bytes);
    let expect = whole.settle();
    assert_eq!(parse_replies(&expect).len(), 3);
    for cut in 0..=bytes.len() {
        let mut rig = Rig::attached(true);
        rig.feed(&bytes[..cut]);
        rig.feed(&bytes[cut..]);
        assert_eq!(parse_replies(&rig.settle()), parse_replies(&expect), "cut at {cut}");
    }
}
