//! Every option, good and bad, and whole transcripts.

use super::super::words::{OPTION_REPLY_MAGIC, info, rep, trans};
use super::super::{Phase, Reason};
use super::*;

/// Option replies as (option, kind, data).
fn replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(u64_at(bytes, 0), OPTION_REPLY_MAGIC);
        let len = u32_at(bytes, 16) as usize;
        all.push((u32_at(bytes, 8), u32_at(bytes, 12), bytes[20..20 + len].to_vec()));
        bytes = &bytes[20 + len..];
    }
    all
}

/// A rig past the client flags.
fn haggling() -> Rig {
    let mut rig = Rig::new();
    assert_eq!(rig.take(), b"NBDMAGICIHAVEOPT\x00\x03");
    rig.feed(&3u32.to_be_bytes());
    rig
}

fn one(rig: &mut Rig, bytes: &[u8]) -> (u32, Vec<u8>) {
    rig.feed(bytes);
    let got = replies(&rig.take());
    assert_eq!(got.len(), 1);
    (got[0].1, got[0].2.clone())
}

#[test]
fn a_whole_session_is_byte_for_byte_as_the_document_says() {
    let mut rig = haggling();
    rig.feed(&option(opt::GO, &go_data("vol0", &[])));
    let flags: u16 = 1 | 4 | 8 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 11;
    let mut expect = Vec::new();
    for (kind, data) in [
        (3u32, [&0u16.to_be_bytes()[..], &SIZE.to_be_bytes(), &flags.to_be_bytes()].concat()),
        (3, b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00".to_vec()),
        (1, vec![]),
    ] {
        expect.extend(b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07");
        expect.extend(kind.to_be_bytes());
        expect.extend((data.len() as u32).to_be_bytes());
        expect.extend(data);
    }
    assert_eq!(rig.take(), expect);
    rig.feed(&write(0x1122, 4096, &[5; 512]));
    assert_eq!(rig.open.len(), 1);
    assert_eq!(rig.open[0].partition, PartitionId(7));
    assert_eq!(rig.settle(), b"\x67\x44\x66\x98\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x11\x22");
    rig.feed(&request(cmd::READ, 0, 9, 4096, 512));
    let mut expect = b"\x67\x44\x66\x98\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09".to_vec();
    expect.extend([5; 512]);
    assert_eq!(rig.settle(), expect);
    rig.feed(&request(cmd::DISC, 0, 10, 0, 0));
    assert_eq!(rig.conn.closed(), Some(Reason::Disconnected));
    assert!(rig.take().is_empty());
}

#[test]
fn export_name_attaches_with_or_without_the_zeroes() {
    for (client_flags, zeroes) in [(3u32, 0), (1, 124), (0, 124)] {
        let mut rig = Rig::new();
        rig.take();
        rig.feed(&client_flags.to_be_bytes());
        rig.feed(&option(opt::EXPORT_NAME, b"golden"));
        let got = rig.take();
        assert_eq!(got.len(), 10 + zeroes);
        assert_eq!(u64_at(&got, 0), SIZE);
        assert_ne!(u16_at(&got, 8) & trans::READ_ONLY, 0);
        assert_eq!(u16_at(&got, 8) & (trans::SEND_TRIM | trans::SEND_WRITE_ZEROES), 0);
        assert!(got[10..].iter().all(|byte| *byte == 0));
        assert_eq!(rig.conn.phase(), Phase::Transmission);
    }
}

#[test]
fn export_name_of_an_unknown_export_ends_the_connection() {
    let mut rig = haggling();
    rig.feed(&option(opt::EXPORT_NAME, b"nothing"));
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("unknown export")));
}

#[test]
fn abort_is_acknowledged_and_ends_in_order() {
    let mut rig = haggling();
    rig.feed(&option(opt::ABORT, &[]));
    assert_eq!((rig.conn.phase(), rig.conn.closed()), (Phase::Draining, None));
    assert_eq!(replies(&rig.take())[0].1, rep::ACK);
    assert_eq!(rig.conn.closed(), Some(Reason::Disconnected));
}

#[test]
fn list_names_every_export_with_its_description() {
    let mut rig = haggling();
    rig.feed(&option(opt::LIST, &[]));
    let got = replies(&rig.take());
    let shown = |name: &str| [string(name), format!("the volume {name}").into_bytes()].concat();
    assert_eq!(
        got,
        [
            (opt::LIST, rep::SERVER, shown("vol0")),
            (opt::LIST, rep::SERVER, shown("golden")),
            (opt::LIST, rep::ACK, vec![])
        ]
    );
    assert_eq!(one(&mut rig, &option(opt::LIST, &[1])).0, rep::ERR_INVALID);
}

#[test]
fn info_tells_what_was_asked_and_does_not_attach() {
    let mut rig = haggling();
    let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 99];
    rig.feed(&option(opt::INFO, &go_data("", &wanted)));
    let got = replies(&rig.take());
    let kinds: Vec<u16> = got[..got.len() - 1].iter().map(|reply| u16_at(&reply.2, 0)).collect();
    assert_eq!(kinds, [info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]);
    assert_eq!(&got[1].2[2..], b"vol0", "the empty name is the default export");
    assert_eq!(got.last().map(|reply| reply.1), Some(rep::ACK));
    assert_eq!(rig.conn.phase(), Phase::Handshake);
}

#[test]
fn info_and_go_refuse_unknown_names_and_malformed_data_and_haggling_goes_on() {
    let mut rig = haggling();
    for which in [opt::INFO, opt::GO] {
        assert_eq!(one(&mut rig, &option(which, &go_data("nothing", &[]))).0, rep::ERR_UNKNOWN);
        let good = go_data("vol0", &[3]);
        for cut in 0..good.len() {
            assert_eq!(one(&mut rig, &option(which, &good[..cut])).0, rep::ERR_INVALID, "cut at {cut}");
        }
        assert_eq!(one(&mut rig, &option(which, &[&good[..], &[0]].concat())).0, rep::ERR_INVALID);
        let not_utf8 = [&2u32.to_be_bytes()[..], &[0xff, 0xfe], &[0, 0]].concat();
        assert_eq!(one(&mut rig, &option(which, &not_utf8)).0, rep::ERR_INVALID);
        let huge_name = [&u32::MAX.to_be_bytes()[..], &[0; 64]].concat();
        assert_eq!(one(&mut rig, &option(which, &huge_name)).0, rep::ERR_INVALID);
    }
    assert_eq!(rig.conn.phase(), Phase::Handshake);
}

#[test]
fn structured_replies_are_negotiated_once_and_bring_df() {
    let mut rig = haggling();
    assert_eq!(one(&mut rig, &option(opt::STRUCTURED_REPLY, &[1])).0, rep::ERR_INVALID);
    assert_eq!(one(&mut rig, &option(opt::STRUCTURED_REPLY, &[])).0, rep::ACK);
    assert_eq!(one(&mut rig, &option(opt::STRUCTURED_REPLY, &[])).0, rep::ERR_INVALID);
    rig.feed(&option(opt::GO, &go_data("vol0", &[])));
    let flags = u16_at(&replies(&rig.take())[0].2, 10);
    assert_ne!(flags & trans::SEND_DF, 0);
    assert_eq!(flags & (1 << 9 | 1 << 10), 0, "neither resize nor cache is offered");
}

#[test]
fn meta_contexts_are_listed_and_set() {
    let query = |name: &str, queries: &[&str]| {
        let mut data = string(name);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|text| data.extend(string(text)));
        data
    };
    let mut rig = haggling();
    let set = |data: &[u8]| option(opt::SET_META_CONTEXT, data);
    assert_eq!(one(&mut rig, &set(&query("vol0", &["base:allocation"]))).0, rep::ERR_INVALID);
    one(&mut rig, &option(opt::STRUCTURED_REPLY, &[]));
    for (queries, found) in
        [(&[][..], true), (&["base:"], true), (&["base:allocation"], true), (&["qemu:dirty"], false)]
    {
        rig.feed(&option(opt::LIST_META_CONTEXT, &query("vol0", queries)));
        let got = replies(&rig.take());
        assert_eq!(got.len(), if found { 2 } else { 1 }, "{queries:?}");
        assert_eq!(got.last().map(|reply| reply.1), Some(rep::ACK));
    }
    for (queries, found) in [(&[][..], false), (&["base:"], false), (&["x:y", "base:allocation"], true)] {
        rig.feed(&set(&query("vol0", queries)));
        let got = replies(&rig.take());
        assert_eq!(got.len(), if found { 2 } else { 1 }, "{queries:?}");
        if found {
            assert_eq!(got[0].2, [&1u32.to_be_bytes()[..], b"base:allocation"].concat());
        }
    }
    assert_eq!(one(&mut rig, &set(&query("nothing", &["base:allocation"]))).0, rep::ERR_UNKNOWN);
    assert_eq!(one(&mut rig, &set(&query("vol0", &["base:allocation"])[..12])).0, rep::ERR_INVALID);
}

#[test]
fn a_context_of_another_export_is_not_selected() {
    let mut rig = Rig::new();
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option(opt::STRUCTURED_REPLY, &[]));
    let context = [&string("golden")[..], &1u32.to_be_bytes(), &string("base:allocation")].concat();
    bytes.extend(option(opt::SET_META_CONTEXT, &context));
    bytes.extend(option(opt::GO, &go_data("vol0", &[])));
    rig.feed(&bytes);
    rig.take();
    assert_eq!(rig.ask(&request(cmd::BLOCK_STATUS, 0, 1, 0, 4096)).error, 22);
}

#[test]
fn tls_and_unknown_options_are_unsupported() {
    let mut rig = haggling();
    for which in [opt::STARTTLS, 4, 11, 0, 77, u32::MAX] {
        assert_eq!(one(&mut rig, &option(which, b"data")).0, rep::ERR_UNSUP);
    }
    assert_eq!(rig.conn.phase(), Phase::Handshake);
}

#[test]
fn oversized_options_are_skipped_and_absurd_ones_end_the_connection() {
    let mut rig = haggling();
    assert_eq!(one(&mut rig, &option(opt::GO, &vec![0; 20_000])).0, rep::ERR_TOO_BIG);
    assert_eq!(one(&mut rig, &option(opt::STRUCTURED_REPLY, &[])).0, rep::ACK);
    rig.feed(&option(opt::GO, &[])[..12]);
    rig.feed(&u32::MAX.to_be_bytes());
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("too long")));
}

#[test]
fn broken_starts_end_the_connection_with_a_reason() {
    let mut rig = Rig::new();
    rig.feed(&0x80u32.to_be_bytes());
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("client flags")));
    let mut rig = haggling();
    rig.feed(b"GET / HTTP/1.1\r\n");
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("IHAVEOPT")));
    let mut rig = haggling();
    (0..2000).for_each(|_| {
        rig.feed(&option(77, &[]));
        rig.take();
    });
    assert!(matches!(rig.conn.closed(), Some(Reason::Violation(text)) if text.contains("too many")));
}

#[test]
fn options_wait_while_their_answers_are_not_read() {
    let mut rig = haggling();
    let bytes = option(opt::LIST, &[]).repeat(1000);
    rig.feed(&bytes);
    assert!(rig.conn.stalled() && rig.backlog() > 0);
    assert!(rig.conn.pending() < 70_000);
    let mut got = rig.take();
    while rig.backlog() > 0 {
        rig.feed(&[]);
        got.extend(rig.take());
    }
    assert_eq!(replies(&got).len(), 3000);
}

#[test]
fn the_handshake_bears_cuts_at_every_byte() {
    let bytes = handshake(true, "vol0");
    let mut whole = Rig::new();
    whole.feed(&bytes);
    let expect = whole.take();
    for cut in 0..=bytes.len() {
        let mut rig = Rig::new();
        rig.feed(&bytes[..cut]);
        let before = rig.conn.phase();
        assert_eq!(before == Phase::Transmission, cut == bytes.len());
        rig.feed(&bytes[cut..]);
        assert_eq!((rig.take(), rig.conn.phase()), (expect.clone(), Phase::Transmission));
    }
    let mut rig = Rig::new();
    bytes.iter().for_each(|byte| rig.feed(&[*byte]));
    assert_eq!(rig.take(), expect);
}
