//! Datagrams that are no good: cut, flipped, lying, random.

use super::super::packet::{self, FRAGMENT_BYTES, Fragment, HEADER_BYTES, Header, Packet};
use super::*;

fn header() -> Header {
    Header {
        path: 0,
        flags: 0,
        from: NodeId(0),
        to: NodeId(1),
        from_boot: BootId(50),
        to_boot: BootId(9),
        number: 1,
        credit: 1 << 20,
        ack_delay_us: 0,
    }
}

fn datagram(header: &Header, ranges: &[(u64, u64)], fragments: &[Fragment], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet::write(&mut bytes, header, ranges, fragments, data.len());
    bytes.extend_from_slice(data);
    packet::seal(&mut bytes, &[]);
    bytes
}

fn fragment(len: u32) -> Fragment {
    Fragment { msg: 0, piece: 0, pieces: 1, piece_len: len, offset: 0, len, total: len }
}

fn receiver() -> Fabric {
    let mut fabric = Fabric::new(NodeId(1), BootId(9), Config::default(), pool());
    fabric.add_peer(NodeId(0));
    fabric
}

#[test]
fn a_datagram_is_byte_for_byte_the_documented_one() {
    let mut head = header();
    (head.path, head.flags, head.number, head.ack_delay_us) = (2, 1, 0x0102, 7);
    let bytes = datagram(&head, &[(5, 9)], &[fragment(3)], b"abc");
    assert_eq!(bytes.len(), HEADER_BYTES + 16 + FRAGMENT_BYTES + 3);
    assert_eq!(&bytes[..8], b"PLSD\x01\x02\x00\x01");
    assert_eq!(bytes[8..16], [0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!((bytes[16], bytes[32]), (50, 9));
    assert_eq!(bytes[48..50], [2, 1]);
    assert_eq!(bytes[56..64], (1u64 << 20).to_le_bytes());
    assert_eq!(bytes[64..76], [7, 0, 0, 0, 1, 0, 1, 0, 3, 0, 0, 0]);
    assert_eq!(bytes[80..96], [0; 16], "room for a MAC");
    assert_eq!((bytes[96], bytes[104]), (5, 9));
    assert_eq!(bytes[112..140].iter().filter(|byte| **byte != 0).count(), 4);
    let packet = Packet::parse(&bytes).expect("parses");
    assert_eq!((packet.header, packet.ranges().collect::<Vec<_>>()), (head, vec![(5, 9)]));
    assert_eq!(packet.fragments().collect::<Vec<_>>(), [(fragment(3), &b"abc"[..])]);
}

#[test]
fn cut_and_flipped_datagrams_are_refused() {
    let bytes = datagram(&header(), &[(3, 4)], &[fragment(40)], &[7; 40]);
    for cut in 0..bytes.len() {
        assert!(Packet::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Packet::parse(&flipped).is_err(), "bit {bit}");
    }
    let mut fabric = receiver();
    fabric.datagram(Time(1), PathId(0), &bytes[..50], &mut FabricOut::default());
    assert_eq!(fabric.stats().datagrams_refused, 1);
}

#[test]
fn datagrams_for_others_of_strangers_or_on_unknown_networks_are_refused() {
    let mut fabric = receiver();
    let mut out = FabricOut::default();
    let refused = [
        (PathId(0), Header { to: NodeId(2), ..header() }),
        (PathId(0), Header { from: NodeId(7), ..header() }),
        (PathId(0), Header { from: NodeId(1), ..header() }),
        (PathId(0), Header { from_boot: BootId(0), ..header() }),
        (PathId(3), header()),
    ];
    for (path, head) in refused {
        fabric.datagram(Time(1), path, &datagram(&head, &[], &[], &[]), &mut out);
    }
    assert_eq!(fabric.stats().datagrams_refused, 5);
    fabric.turn(Time(1), &mut out);
    assert!(out.datagrams.is_empty() && out.boots.is_empty());
}

#[test]
fn lying_tables_are_refused() {
    let good = fragment(8);
    let lies = [
        Fragment { offset: 1, ..good },
        Fragment { len: 9, ..good },
        Fragment { piece: 1, ..good },
        Fragment { pieces: 0, ..good },
        Fragment { total: 7, ..good },
        Fragment { len: 0, ..good },
        Fragment { offset: u32::MAX, ..good },
    ];
    for lie in lies {
        assert!(Packet::parse(&datagram(&header(), &[], &[lie], &[0; 8])).is_err(), "{lie:?}");
    }
    for ranges in [&[(0, 3)][..], &[(5, 4)], &[(1, 3), (4, 6)], &[(4, 6), (6, 6)], &[(4, 6), (2, 4)]] {
        assert!(Packet::parse(&datagram(&header(), ranges, &[], &[])).is_err(), "{ranges:?}");
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_refused() {
    let mut fabric = receiver();
    let bytes = datagram(&header(), &[(1, u64::MAX)], &[], &[]);
    fabric.datagram(Time(1), PathId(0), &bytes, &mut FabricOut::default());
    assert_eq!(fabric.stats().datagrams_refused, 1);
}

#[test]
fn fragments_that_contradict_each_other_are_refused_and_pieces_are_never_delivered_in_part() {
    let mut fabric = receiver();
    let mut out = FabricOut::default();
    let mut number = 0;
    let mut give = |fabric: &mut Fabric, fragments: &[Fragment]| {
        number += 1;
        let data = vec![1; fragments.iter().map(|part| part.len as usize).sum()];
        let head = Header { number, ..header() };
        let before = fabric.stats().datagrams_refused;
        fabric.datagram(Time(1), PathId(0), &datagram(&head, &[], fragments, &data), &mut out);
        fabric.stats().datagrams_refused - before
    };
    let part = |piece, piece_len, offset, len, total, pieces| Fragment {
        msg: 3,
        piece,
        pieces,
        piece_len,
        offset,
        len,
        total,
    };
    assert_eq!(give(&mut fabric, &[part(1, 4096, 0, 1024, 5000, 2)]), 0);
    assert_eq!(give(&mut fabric, &[part(1, 4096, 512, 1024, 5000, 2)]), 1, "overlap");
    assert_eq!(give(&mut fabric, &[part(1, 4095, 2048, 10, 5000, 2)]), 1, "another length");
    assert_eq!(give(&mut fabric, &[part(1, 4096, 2048, 10, 5001, 2)]), 1, "another total");
    assert_eq!(give(&mut fabric, &[part(1, 4096, 2048, 10, 5000, 3)]), 1, "other pieces");
    assert_eq!(give(&mut fabric, &[part(0, 5000, 0, 3976, 5000, 2)]), 1, "sums up, but no piece is full");
    assert_eq!(give(&mut fabric, &[Fragment { msg: u64::MAX, ..part(0, 9, 0, 9, 9, 1) }]), 1, "far ahead");
    let huge = part(0, 1 << 30, 0, 8, 1 << 30, 1);
    assert_eq!(give(&mut fabric, &[Fragment { msg: 4, ..huge }]), 1, "larger than any message");
    assert_eq!(give(&mut fabric, &[Fragment { msg: 5, ..part(1, 300_000, 0, 8, 300_010, 2) }]), 1);
    assert_eq!(give(&mut fabric, &[Fragment { msg: 5, ..part(1, 100, 0, 8, 300, 60_000) }]), 1);
    assert!(out.received.is_empty());
}

#[test]
fn open_messages_beyond_the_credit_are_not_kept() {
    let mut fabric = receiver();
    let mut out = FabricOut::default();
    for msg in 0..100u64 {
        let total = 1 << 20;
        let start = Fragment { msg, piece: 1, pieces: 9, piece_len: 262_144, offset: 0, len: 100, total };
        let head = Header { number: msg + 1, ..header() };
        fabric.datagram(Time(1), PathId(0), &datagram(&head, &[], &[start], &[0; 100]), &mut out);
    }
    assert_eq!(fabric.stats().pool_waits, 92, "eight of a MiB fill the window");
}

#[test]
fn random_and_mutated_datagrams_never_panic() {
    let mut taken = 0;
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let mut fabric = receiver();
        let mut out = FabricOut::default();
        let mut now = Time(1_000_000);
        let _ = fabric.send(now, NodeId(0), &Msg::Fetched { req: ReqId(1), data: None });
        for _ in 0..60 {
            let count = dice.below(4) as usize;
            let pick = |dice: &mut Dice, from: &[u64]| from[dice.below(from.len() as u64) as usize];
            let fragments: Vec<Fragment> = (0..count)
                .map(|_| Fragment {
                    msg: pick(&mut dice, &[0, 1, 2, 3, 4095, 4096, u64::MAX]),
                    piece: pick(&mut dice, &[0, 0, 1, 2, 65_535]) as u16,
                    pieces: pick(&mut dice, &[1, 2, 3, 257, 258, 65_535]) as u16,
                    piece_len: pick(&mut dice, &[1, 30, 100, 4096, 262_144, 262_145]) as u32,
                    offset: pick(&mut dice, &[0, 0, 10, 50]) as u32,
                    len: pick(&mut dice, &[1, 10, 30, 50, 100]) as u32,
                    total: pick(&mut dice, &[1, 30, 100, 130, 4096, 300_000, 2 << 20, u32::MAX as u64])
                        as u32,
                })
                .collect();
            let data: Vec<u8> =
                (0..fragments.iter().map(|part| part.len).sum()).map(|_| dice.roll() as u8 & 31).collect();
            let mut head = header();
            head.number = pick(&mut dice, &[0, 1, 2, 3, 4, 5, 100, u64::MAX - 1, u64::MAX]);
            head.credit = dice.roll();
            head.from_boot = BootId(u128::from(pick(&mut dice, &[50, 50, 50, 51, 52])));
            head.to_boot = BootId(u128::from(pick(&mut dice, &[9, 9, 9, 9, 0, 8])));
            let ranges = [(dice.below(3), dice.below(5))];
            let mut bytes = datagram(&head, &ranges[..dice.below(2) as usize], &fragments, &data);
            if dice.chance(100) {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] = dice.roll() as u8;
            }
            fabric.datagram(now, PathId(0), &bytes, &mut out);
            if dice.chance(500) {
                fabric.turn(now, &mut out);
                out.datagrams.clear();
            }
            now = now + Duration::from_millis(dice.below(30));
        }
        taken += fabric.stats().datagrams_received;
    }
    assert!(taken > 2000, "the fuzzer gets past the checks: {taken}");
}
