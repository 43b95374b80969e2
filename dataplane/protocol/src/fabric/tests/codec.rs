//! Every message there and back, golden vectors, cuts and flips.

use super::super::message::{KINDS, MessageError, Pieces, decode, encode};
use super::*;
use crate::wire::codec::DecodeError;
use crate::wire::msg::OwnedColumn;

fn column() -> ColumnRef {
    ColumnRef { sled: NodeId(4), device: DeviceId(0xd0), column: 5, generation: 6 }
}

fn entry(op: u64, body: Body) -> Entry {
    Entry { partition: PartitionId(7), number: Number { epoch: 1, counter: 9 }, op: Op(op), body }
}

/// A checkpoint of two chapters, three copies each.
fn checkpoint() -> SledCheckpoint {
    SledCheckpoint {
        number: Number { epoch: 1, counter: 9 },
        generation: 4,
        covers: Op(33),
        pages: 9,
        unit_blocks: 16,
        stripes: 8,
        copies: 3,
        hash: 0x0102_0304,
        columns: vec![column(); 6],
    }
}

/// All operations.
fn entries(pool: &Pool) -> smallvec::SmallVec<[Entry; 4]> {
    let desc = ExtentDesc {
        id: ExtentId(3),
        number: Number { epoch: 1, counter: 9 },
        geometry: Geometry { k: 2, m: 1, unit_blocks: 16, stripes: 128 },
        columns: smallvec![Some(column()), None, Some(column())],
    };
    let moved = |from| RepointEntry { lba: Lba(1), op: Op(2), from, block: 3, crc: 4 };
    let repoint = Repoint {
        extent: ExtentId(3),
        first_stripe: 1,
        stripes: 2,
        absent: 0b10,
        entries: vec![moved(GatheredFrom::Log), moved(GatheredFrom::Extent { id: ExtentId(2), block: 77 })],
    };
    smallvec![
        entry(1, Body::Write { lba: Lba(8), crcs: smallvec![1, 2], data: filled(pool, 1, 8192) }),
        entry(2, Body::Clear { lba: Lba(9), count: 10 }),
        entry(3, Body::ExtentCreate(Box::new(desc))),
        entry(4, Body::Repoint(Box::new(repoint))),
        entry(5, Body::Seal { extent: ExtentId(3), stripes: 3 }),
        entry(6, Body::Release { extent: ExtentId(3) }),
        entry(7, Body::Delete),
        entry(8, Body::Nothing),
        entry(9, Body::Checkpoint { found: Some(Box::new(checkpoint())), keep: 1 }),
        entry(10, Body::Checkpoint { found: None, keep: 0 }),
    ]
}

fn copied_pair() -> Adopt {
    let member = |head| Member { head: NodeId(head), log: LogId(0x10), boot: BootId(0xb0) };
    let (partition, number) = (PartitionId(7), Number { epoch: 1, counter: 9 });
    Adopt { partition, number, grant: GrantId(0xabc), members: smallvec![member(1)], tail: Op(40) }
}

/// Blocks of every place.
fn blocks_part() -> CopyPart {
    let block = |at, place| CopiedBlock { at, op: Op(u64::from(at)), crc: 9, place };
    let blocks = vec![
        block(1, Place::Cleared),
        block(2, Place::Lost),
        block(3, Place::Known),
        block(4, Place::Sent),
        block(6, Place::Extent { id: ExtentId(3), block: 77 }),
        block(7, Place::Sent),
    ];
    let kept = KeptCheckpoints { op: Op(34), found: vec![checkpoint()] };
    CopyPart { at: Op(41), lba: 3584, count: 8, blocks, last: true, kept, ..CopyPart::default() }
}

fn extents_part() -> CopyPart {
    let desc = ExtentDesc {
        id: ExtentId(3),
        number: Number { epoch: 1, counter: 9 },
        geometry: Geometry { k: 2, m: 1, unit_blocks: 16, stripes: 128 },
        columns: smallvec![Some(column()), None, Some(column())],
    };
    let open = CopiedExtent { desc: desc.clone(), sealed: None, absent: vec![] };
    let sealed = CopiedExtent { desc, sealed: Some(2), absent: vec![0, 2] };
    CopyPart { at: Op(40), extents: vec![open, sealed], ..CopyPart::default() }
}

fn same_part() -> CopyPart {
    let blocks = vec![CopiedBlock { at: 3, op: Op(3), crc: 9, place: Place::Known }];
    CopyPart {
        at: Op(40),
        count: 256,
        blocks,
        same: vec![(0, 3), (4, 124), (200, 56)],
        ..CopyPart::default()
    }
}

/// At least one of every kind, with every status.
fn samples(pool: &Pool) -> Vec<Msg> {
    let (number, grant, req) = (Number { epoch: 1, counter: 9 }, GrantId(0xabc), ReqId(0x11));
    let member = |head| Member { head: NodeId(head), log: LogId(0x10), boot: BootId(0xb0) };
    let members = smallvec![member(1), member(2)];
    let adopt = Adopt { partition: PartitionId(7), number, grant, members, tail: Op(40) };
    let (stamp, device, token) = (stamp(), DeviceId(0xd0), Token(0x7777));
    let (column, extent, partition) = (column(), ExtentId(3), PartitionId(7));
    let owned = OwnedColumn { column: 5, generation: 6, extent, position: 1, number, stripes: 9 };
    let mut all = vec![
        Msg::Probe { adopt: adopt.clone(), held: stamp },
        Msg::Probed {
            stamp,
            log: LogId(0x10),
            tail: Op(40),
            damaged: false,
            whole: true,
            entries: entries(pool),
        },
        Msg::Announce { adopt, committed: Op(39) },
        Msg::Announced {
            stamp,
            log: LogId(0x10),
            durable: Op(38),
            credit: 500,
            covered: Op(5),
            damaged: true,
        },
        Msg::Replicate { stamp, committed: Op(39), entries: entries(pool) },
        Msg::Replicated { stamp, durable: Op(41), credit: 600, covered: Op(5) },
        Msg::Confirm { nonce: 77, stamps: smallvec![stamp, stamp] },
        Msg::Confirmed { nonce: 77, stamps: smallvec![stamp] },
        Msg::Fetch { stamp, req, lba: Lba(8), op: Op(2) },
        Msg::Fetched { req, data: Some(filled(pool, 2, 4096)) },
        Msg::Fetched { req, data: None },
        Msg::Refused { refused: stamp, held: stamp },
        Msg::Reserve { req, device, stamp },
        Msg::ColumnReserve { req, device, stamp, token, extent, position: 3, prefer: Some((1, 9)) },
        Msg::ColumnReserve { req, device, stamp, token, extent, position: 3, prefer: None },
        Msg::ColumnReserved { req, status: Status::NotFree, column },
        Msg::ColumnWrite {
            req,
            stamp,
            column,
            token,
            extent,
            stripe: 2,
            units: smallvec![filled(pool, 3, 65_536), filled(pool, 4, 65_536)],
            crcs: smallvec![8, 9],
        },
        Msg::ColumnRead { req, partition, column, block: 16, count: 4 },
        Msg::ColumnData { req, status: Status::Ok, data: Some(filled(pool, 5, 16_384)) },
        Msg::ColumnRelease { req, stamp, column, token },
        Msg::ColumnReleased { req, status: Status::Retry },
        Msg::ColumnList { req, device, partition, from: 256 },
        Msg::ColumnListed { req, status: Status::Ok, columns: vec![owned, owned], more: Some(512) },
        Msg::ColumnRotten { partition, column, extent, position: 3 },
    ];
    for status in [
        Status::Ok,
        Status::Fenced { partition, number, grant },
        Status::NoToken,
        Status::NotOwner,
        Status::StaleNumber { number, grant },
        Status::NotFree,
        Status::DeviceError,
        Status::Corrupt,
        Status::Retry,
        Status::BadRequest,
    ] {
        all.push(Msg::ColumnWritten { req, status });
        all.push(Msg::Reserved { req, device, stamp, status, secret: GrantSecret(0x5ec), free: 12 });
    }
    all.extend([
        Msg::Compare { stamp, held: stamp },
        Msg::Common { stamp, upto: Op(37), number: Number { epoch: 1, counter: 8 } },
        Msg::Heartbeat { sent: 12 },
        Msg::Copy { adopt: copied_pair(), session: 3, to: member(3) },
        Msg::CopyPart { stamp, session: 3, seq: 4, part: blocks_part(), data: Some(filled(pool, 6, 8192)) },
        Msg::CopyPart { stamp, session: 3, seq: 5, part: extents_part(), data: None },
        Msg::CopyPart { stamp, session: 3, seq: 6, part: same_part(), data: None },
        Msg::CopyAsk { stamp, session: 3, named: vec![checkpoint(), checkpoint()], from: 5 },
        Msg::CopyHas { stamp, session: 3, from: 5, upto: Some(9), found: vec![(5, 0xaa), (8, 0xbb)] },
        Msg::CopyHas { stamp, session: 3, from: 5, upto: None, found: vec![] },
        Msg::CopyOps { stamp, session: 3, committed: Op(39), parts: 5, entries: entries(pool) },
        Msg::Copied {
            stamp,
            session: 3,
            log: LogId(0x10),
            parts: 5,
            durable: Op(41),
            covered: Op(40),
            room: 900,
            whole: true,
            broken: false,
        },
        Msg::IsolationAsk { req, held: stamp },
        Msg::Isolation {
            req,
            held: stamp,
            isolating: true,
            score: Score { whole: true, severity: 2, success: 990, spare: 7 },
        },
        Msg::HealthAsk { req, held: stamp },
        Msg::Health {
            req,
            held: stamp,
            serving: true,
            connected: 2,
            associated: 3,
            busiest: true,
            io: 400,
            idle_ms: 7,
            paused: false,
        },
    ]);
    all
}

fn encoded(msg: &Msg) -> (Vec<u8>, Pieces) {
    let (mut fields, mut pieces) = (Vec::new(), Pieces::new());
    encode(msg, &mut fields, &mut pieces);
    (fields, pieces)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_message_comes_back_as_it_went() {
    let pool = pool();
    let mut kinds = std::collections::BTreeSet::new();
    for msg in samples(&pool) {
        let (fields, pieces) = encoded(&msg);
        let payload: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        kinds.insert(fields[0]);
        let back = decode(&fields, pieces).expect("decodes");
        let (fields_again, pieces_again) = encoded(&back);
        assert_eq!(fields_again, fields);
        assert_eq!(pieces_again.iter().map(|piece| piece.to_vec()).collect::<Vec<_>>(), payload);
        assert_eq!(format!("{back:?}"), format!("{msg:?}"));
    }
    assert!(KINDS.iter().map(|(kind, _, _)| *kind).eq(kinds), "a sample of every kind");
}

#[test]
fn encodings_are_the_golden_ones() {
    let pool = pool();
    let lines: Vec<String> = samples(&pool)
        .iter()
        .map(|msg| {
            let (fields, pieces) = encoded(msg);
            let name = KINDS.iter().find(|(kind, _, _)| *kind == fields[0]).expect("known").2;
            format!("{name} {} +{}", hex(&fields), pieces.iter().map(|piece| piece.len()).sum::<usize>())
        })
        .collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(lines, golden, "formats change by version only; what is encoded now:\n{}", lines.join("\n"));
}

#[test]
fn one_encoding_done_by_hand() {
    let msg = Msg::Replicated { stamp: stamp(), durable: Op(41), credit: 600, covered: Op(5) };
    let expect = "0401 0700000000000000 01000000 0900000000000000 bc0a000000000000 2900000000000000 \
                  5802000000000000 0500000000000000";
    assert_eq!(hex(&encoded(&msg).0), expect.replace(' ', ""));
}

#[test]
fn cuts_at_every_byte_and_missing_payload_are_errors() {
    let pool = pool();
    for msg in samples(&pool) {
        let (fields, pieces) = encoded(&msg);
        for cut in 0..fields.len() {
            assert!(decode(&fields[..cut], pieces.clone()).is_err(), "{msg:?} cut at {cut}");
        }
        let longer = [&fields[..], &[0]].concat();
        assert!(decode(&longer, pieces.clone()).is_err());
        let mut more = pieces.clone();
        more.push(filled(&pool, 9, 512));
        assert!(decode(&fields, more).is_err(), "payload that no field names");
        if !pieces.is_empty() {
            assert!(decode(&fields, pieces[1..].iter().cloned().collect()).is_err());
            let mut short = pieces.clone();
            short[0] = short[0].slice(0..short[0].len() - 512);
            assert!(decode(&fields, short).is_err());
        }
    }
}

#[test]
fn unknown_kinds_and_versions_are_named() {
    for (kind, version) in [(0u8, 1u8), (10, 1), (200, 1), (4, 2), (4, 0)] {
        let error = decode(&[kind, version, 0, 0], Pieces::new()).expect_err("unknown");
        assert_eq!(error, MessageError::Kind { kind, version });
    }
    assert_eq!(
        decode(&[], Pieces::new()).expect_err("empty"),
        MessageError::Field(DecodeError::Short { missing: 1 })
    );
}

#[test]
fn flipped_bits_never_panic_and_never_grow() {
    let pool = pool();
    let mut refused = 0;
    for (seed, msg) in samples(&pool).iter().enumerate() {
        let (fields, pieces) = encoded(msg);
        let mut dice = Dice::new(seed as u64);
        for _ in 0..4000 {
            let mut bytes = fields.clone();
            for _ in 0..1 + dice.below(3) {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] = if dice.chance(500) { dice.roll() as u8 } else { bytes[at] ^ 1 << dice.below(8) };
            }
            match decode(&bytes, pieces.clone()) {
                Err(_) => refused += 1,
                Ok(back) => assert_eq!(encoded(&back).0, bytes, "what decodes has one encoding"),
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}

#[test]
fn contradictions_between_fields_are_errors() {
    let pool = pool();
    let unit = |len| filled(&pool, 1, len);
    let write = |units: Vec<Buf>, crcs: Vec<u32>| Msg::ColumnWrite {
        req: ReqId(1),
        stamp: stamp(),
        column: column(),
        token: Token(1),
        extent: ExtentId(1),
        stripe: 0,
        units: units.into_iter().collect(),
        crcs: crcs.into_iter().collect(),
    };
    let replicate =
        |body| Msg::Replicate { stamp: stamp(), committed: Op(0), entries: smallvec![entry(1, body)] };
    let part = |part| Msg::CopyPart { stamp: stamp(), session: 3, seq: 6, part, data: None };
    let ask = |named| Msg::CopyAsk { stamp: stamp(), session: 3, named, from: 0 };
    let has = |from, upto, found| Msg::CopyHas { stamp: stamp(), session: 3, from, upto, found };
    let bad = [
        write(vec![], vec![]),
        write(vec![unit(4096)], vec![1, 2]),
        write(vec![unit(4096), unit(8192)], vec![1, 2]),
        write(vec![unit(512)], vec![1]),
        write(vec![unit(4096); 5], vec![1; 5]),
        replicate(Body::Write { lba: Lba(0), crcs: smallvec![1], data: unit(8192) }),
        replicate(Body::Write { lba: Lba(u64::MAX), crcs: smallvec![1], data: unit(4096) }),
        replicate(Body::Clear { lba: Lba(u64::MAX), count: 1 }),
        Msg::Fetched { req: ReqId(1), data: Some(unit(512)) },
        part(CopyPart { same: vec![(250, 7)], ..same_part() }),
        part(CopyPart { same: vec![(4, 4), (7, 1)], ..same_part() }),
        part(CopyPart { same: vec![(4, 0)], ..same_part() }),
        ask(vec![checkpoint(); 3]),
        ask(vec![SledCheckpoint { pages: 17, ..checkpoint() }]),
        ask(vec![SledCheckpoint { unit_blocks: 0, ..checkpoint() }]),
        has(5, None, vec![(5, 1)]),
        has(5, Some(9), vec![(9, 1)]),
        has(5, Some(9), vec![(8, 1), (7, 1)]),
        has(0, Some(u64::MAX), (0..1025).map(|at| (at, 1)).collect()),
        Msg::Announce {
            adopt: Adopt {
                partition: PartitionId(7),
                number: Number::ZERO,
                grant: GrantId(1),
                members: smallvec![],
                tail: Op(0),
            },
            committed: Op(0),
        },
    ];
    for msg in bad {
        let (fields, pieces) = encoded(&msg);
        assert!(
            matches!(decode(&fields, pieces), Err(MessageError::Field(DecodeError::Range(_)))),
            "{msg:?}"
        );
    }
}
