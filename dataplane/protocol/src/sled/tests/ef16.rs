//! The check of column writes: every refusal of OP-30, and that a refused write changes no byte.

use super::*;

/// Asks for a write that must be refused, and compares the whole medium.
fn refused(rig: &mut Rig, head: &Head, msg: Msg, with: Status) {
    let before = rig.media[0].durable.clone();
    assert_eq!(rig.status(head, msg), with);
    assert!(rig.media[0].durable == before && rig.media[0].cache.is_empty(), "not a byte changed: {with:?}");
}

/// What a write shows of itself, to be spoiled.
struct Shown {
    token: Token,
    column: ColumnRef,
    extent: ExtentId,
}

/// A write that is good but for what `spoil` does to it.
fn spoiled(rig: &Rig, head: &mut Head, column: ColumnRef, spoil: impl FnOnce(&mut Shown)) -> Msg {
    match head.write(&rig.pool, column, 1, 0, &[0xee]) {
        Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs } => {
            let mut shown = Shown { token, column, extent };
            spoil(&mut shown);
            let Shown { token, column, extent } = shown;
            Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ef16_a_good_token_writes_and_is_acknowledged() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    assert_eq!(rig.write(&mut head, column, 1, 0, 0x11), Status::Ok);
    assert_eq!(rig.data()[..UNIT], [0x11; UNIT]);
    let (status, bytes) = rig.read(&mut head, column, 0, 1);
    assert_eq!((status, bytes), (Status::Ok, vec![0x11; UNIT]));
}

#[test]
fn ef16_a_missing_or_forged_token_changes_no_byte() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let missing = spoiled(&rig, &mut head, column, |shown| shown.token = Token(0));
    refused(&mut rig, &head, missing, Status::NoToken);
    for bit in [0, 63, 64, 127] {
        let forged = spoiled(&rig, &mut head, column, |shown| shown.token.0 ^= 1 << bit);
        refused(&mut rig, &head, forged, Status::NoToken);
    }
    assert_eq!(rig.counters().refused.no_token, 5);
}

#[test]
fn ef16_a_token_of_another_column_changes_no_byte() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let other = rig.column(&mut head, 1, 1).1;
    let foreign = head.token(other);
    let msg = spoiled(&rig, &mut head, column, |shown| shown.token = foreign);
    refused(&mut rig, &head, msg, Status::NoToken);
    let whole = token::derive(head.secret, head.device, token::WHOLE_DEVICE, 0);
    let msg = spoiled(&rig, &mut head, column, |shown| shown.token = whole);
    refused(&mut rig, &head, msg, Status::NoToken);
}

#[test]
fn ef16_an_old_number_is_fenced_and_an_old_token_of_the_number_is_no_token() {
    let mut rig = Rig::new();
    let (old, column) = rig.granted(5);
    let mut new = Head::new(1, 6);
    assert_eq!(rig.reserve(&mut new), Status::Ok);
    let mut late = old.clone();
    let msg = late.write(&rig.pool, column, 1, 0, &[0xee]);
    refused(&mut rig, &late, msg, fenced(6));
    let mut mixed = new.clone();
    mixed.secret = old.secret;
    let msg = mixed.write(&rig.pool, column, 1, 0, &[0xee]);
    refused(&mut rig, &mixed, msg, Status::NoToken);
    let mut grant = new.clone();
    grant.stamp.grant = GrantId(1);
    let msg = grant.write(&rig.pool, column, 1, 0, &[0xee]);
    refused(&mut rig, &grant, msg, fenced(6));
    let mut ahead = new.clone();
    ahead.stamp.number.counter = 7;
    let msg = ahead.write(&rig.pool, column, 1, 0, &[0xee]);
    refused(&mut rig, &ahead, msg, Status::NoToken);
    assert_eq!(rig.write(&mut new, column, 1, 0, 1), Status::Ok);
}

#[test]
fn ef16_a_partition_without_a_grant_here_is_no_token() {
    let mut rig = Rig::new();
    let (_, column) = rig.granted(5);
    let mut stranger = Head::new(3, 5).of(99);
    let msg = stranger.write(&rig.pool, column, 1, 0, &[0xee]);
    refused(&mut rig, &stranger, msg, Status::NoToken);
    let msg = stranger.column_reserve(1, 0);
    refused(&mut rig, &stranger, msg, Status::NoToken);
    let msg = stranger.release(column);
    refused(&mut rig, &stranger, msg, Status::NoToken);
}

#[test]
fn p19_another_generation_or_extent_or_owner_is_not_owner() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let msg = spoiled(&rig, &mut head, column, |shown| shown.column.generation += 1);
    refused(&mut rig, &head, msg, Status::NotOwner);
    let msg = spoiled(&rig, &mut head, column, |shown| shown.extent.0 += 1);
    refused(&mut rig, &head, msg, Status::NotOwner);
    let free = ColumnRef { column: column.column + 1, ..column };
    let msg = head.write(&rig.pool, free, 1, 0, &[0xee]);
    refused(&mut rig, &head, msg, Status::NotOwner);
}

#[test]
fn malformed_writes_are_bad_requests() {
    let mut rig = Rig::new();
    let (mut head, column) = rig.granted(5);
    let pool = rig.pool.clone();
    let bad: [(&str, Msg); 5] = [
        ("no units", head.write(&pool, column, 1, 0, &[])),
        ("too many units", head.write(&pool, column, 1, 0, &[1; 5])),
        ("beyond the column", head.write(&pool, column, 1, UNITS, &[1])),
        ("over its end", head.write(&pool, column, 1, UNITS - 1, &[1, 2])),
        ("far beyond", head.write(&pool, column, 1, u32::MAX, &[1, 2])),
    ];
    for (_, msg) in bad {
        refused(&mut rig, &head, msg, Status::BadRequest);
    }
    let msg = head.write(&pool, ColumnRef { column: u32::MAX, ..column }, 1, 0, &[1]);
    refused(&mut rig, &head, msg, Status::BadRequest);
    let msg = head.write(&pool, ColumnRef { device: DeviceId(9), ..column }, 1, 0, &[1]);
    refused(&mut rig, &head, msg, Status::BadRequest);
    if let Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, mut crcs } =
        head.write(&pool, column, 1, 0, &[1, 2])
    {
        crcs[1] ^= 1;
        let wrong = Msg::ColumnWrite {
            req,
            stamp,
            column,
            token,
            extent,
            stripe,
            units: units.clone(),
            crcs: crcs.clone(),
        };
        refused(&mut rig, &head, wrong, Status::BadRequest);
        crcs.pop();
        let short = Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs };
        refused(&mut rig, &head, short, Status::BadRequest);
    }
    if let Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs } =
        head.write(&pool, column, 1, 0, &[1])
    {
        let units = units.iter().map(|unit| unit.slice(0..100)).collect();
        let cut = Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs };
        refused(&mut rig, &head, cut, Status::BadRequest);
    }
}

#[test]
fn a_write_by_a_superseded_head_is_fenced_whatever_else_is_wrong_with_it() {
    let mut rig = Rig::new();
    let (mut old, column) = rig.granted(5);
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    let msg = spoiled(&rig, &mut old, column, |shown| {
        shown.token = Token(0);
        shown.column.generation = 77;
    });
    refused(&mut rig, &old, msg, fenced(6));
    let msg = old.column_reserve(2, 0);
    refused(&mut rig, &old, msg, fenced(6));
    let msg = old.release(column);
    refused(&mut rig, &old, msg, fenced(6));
}

#[test]
fn ef27_a_takeover_of_one_partition_leaves_tokens_of_others_valid() {
    let mut rig = Rig::new();
    let (_, _) = rig.granted(5);
    let mut other = Head::new(3, 5).of(8);
    assert_eq!(rig.reserve(&mut other), Status::Ok);
    let column = rig.column(&mut other, 4, 2).1;
    assert_eq!(rig.reserve(&mut Head::new(2, 6)), Status::Ok);
    assert_eq!(rig.write(&mut other, column, 4, 0, 1), Status::Ok);
}

#[test]
fn every_byte_pattern_of_a_stray_message_is_answered_or_ignored() {
    let mut rig = Rig::new();
    let (head, _) = rig.granted(5);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        match below {
            0 => seed,
            _ => seed % below,
        }
    };
    for round in 0..3000 {
        let column = ColumnRef {
            sled: NodeId(50),
            device: DeviceId(if draw(8) == 0 { 3 } else { 0xd1 }),
            column: if draw(4) == 0 { draw(0) as u32 } else { draw(40) as u32 },
            generation: draw(3) as u32,
        };
        let stamp = Stamp {
            partition: PartitionId(draw(9)),
            number: Number { epoch: 1, counter: 4 + draw(3) },
            grant: GrantId(500),
        };
        let (req, token) = (ReqId(draw(50)), Token(u128::from(draw(0))));
        let fills = vec![round as u8; draw(6) as usize];
        let msg = match draw(7) {
            0 => Msg::Reserve { req, device: column.device, stamp },
            1 => Msg::ColumnRead {
                req,
                partition: stamp.partition,
                column,
                block: draw(0) as u32,
                count: draw(0) as u32,
            },
            2 => Msg::ColumnRelease { req, stamp, column, token },
            3 => Msg::ColumnList {
                req,
                device: column.device,
                partition: stamp.partition,
                from: draw(0) as u32,
            },
            4 => Msg::ColumnReserve {
                req,
                device: column.device,
                stamp,
                token,
                extent: ExtentId(draw(4)),
                position: draw(256) as u8,
                prefer: Some((draw(0) as u32, draw(0) as u32)),
            },
            5 => Msg::Confirm { nonce: draw(0), stamps: SmallVec::new() },
            _ => head.clone().write(&rig.pool, column, draw(4), draw(0) as u32, &fills),
        };
        let answered = rig.ask(&head, msg).len();
        assert!(answered <= 2, "an answer, and perhaps one to a cancelled claim");
    }
    assert!(rig.sled.idle() && rig.sled.status().misaddressed > 0);
}
