//! Structure-aware fuzzing from seeds: sessions of mostly sensible requests, cut anywhere, sometimes
//! damaged, answered late and out of order, read slowly.

use super::super::limits::{BYTES_MAX, COMMANDS_MAX, REPLY_BYTES_MAX, REQUESTS_MAX};
use super::super::words::flag;
use super::*;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A session's bytes, and the cookies of its requests when every one of them must be answered.
fn session(dice: &mut Dice, structured: bool) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    for _ in 0..dice.below(4) {
        let which = dice.pick(&[opt::LIST, opt::INFO, opt::STARTTLS, opt::LIST_META_CONTEXT, 99]);
        let data = match dice.below(3) {
            0 => vec![],
            1 => go_data("vol0", &[dice.below(5) as u16]),
            _ => pattern(dice.roll(), dice.below(40) as usize),
        };
        bytes.extend(option(which, &data));
    }
    bytes.extend_from_slice(&handshake(structured, "vol0")[4..]);
    let mut cookies = Vec::new();
    for cookie in 0..dice.below(12) {
        let command = dice.pick(&[0, 0, 0, 1, 1, 1, 3, 4, 6, 7, 5, 1234]);
        let flags =
            dice.pick(&[0, 0, 0, flag::FUA, flag::DF, flag::NO_HOLE, flag::FAST_ZERO, flag::REQ_ONE, 64]);
        let offset = dice.pick(&[0, 512, 4096, 1 << 20, SIZE - 4096, SIZE, u64::MAX - 511, dice.0]);
        let len = dice.pick(&[512, 4096, 8192, 1024, 0, 66_048, 300_032, 513]);
        bytes.extend(request(command, flags, cookie, offset, len));
        if command == cmd::WRITE {
            bytes.extend(pattern(cookie, len as usize));
        }
        cookies.push(cookie);
    }
    if dice.below(2) == 0 {
        bytes.extend(request(cmd::DISC, 0, 0, 0, 0));
    }
    (bytes, cookies)
}

/// Damages some bytes, drops some, doubles some.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(bytes.len() as u64) as usize;
        match dice.below(4) {
            0 => bytes.truncate(at.max(1)),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, dice.roll() as u8),
            _ => bytes[at] ^= 1 << dice.below(8),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// Runs the session to its end; returns what the client received.
fn run(dice: &mut Dice, rig: &mut Rig, bytes: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    let mut at = 0;
    let mut idle_rounds = 0;
    while idle_rounds < 3 {
        let before = (at, got.len(), rig.open.len(), rig.backlog());
        let step = dice.pick(&[1, 3, 28, 100, 5000, 1 << 20]).min(bytes.len() - at);
        rig.feed(&bytes[at..at + step]);
        at += step;
        assert!(rig.open.len() <= COMMANDS_MAX && rig.conn.open_tags().count() <= COMMANDS_MAX);
        assert!(rig.conn.pending() <= BYTES_MAX + REPLY_BYTES_MAX + REQUESTS_MAX * 1024);
        for _ in 0..dice.below(4) {
            if !rig.open.is_empty() {
                let place = dice.below(rig.open.len() as u64) as usize;
                match dice.below(20) {
                    0 => rig.fail(place, ClientError::Unreadable),
                    _ => rig.answer(place),
                }
            }
        }
        let take = dice.pick(&[0, 1, 17, 4000, 1 << 20]).min(rig.conn.pending());
        got.extend(rig.conn.pieces().flatten().take(take));
        rig.conn.sent(take);
        let end = at == bytes.len() && (at, got.len(), rig.open.len(), rig.backlog()) == before;
        idle_rounds = if end && rig.open.is_empty() && rig.conn.pending() == 0 { idle_rounds + 1 } else { 0 };
    }
    got
}

/// Where the transmission phase starts in what a client received.
fn skip_handshake(mut bytes: &[u8]) -> &[u8] {
    bytes = &bytes[18..];
    while bytes.len() >= 8 && u64_at(bytes, 0) == words::OPTION_REPLY_MAGIC {
        bytes = &bytes[20 + u32_at(bytes, 16) as usize..];
    }
    bytes
}

fn fuzz(seeds: std::ops::Range<u64>) {
    let pool = PoolConfig { slots: [512, 8, 8], huge: false };
    let mut template = Rig::with_pool(pool);
    let (mut answered, mut closed) = (0, 0);
    for seed in seeds {
        let mut dice = Dice::new(seed);
        template.conn = Connection::new(seed as u32);
        template.volume.sectors.clear();
        template.open.clear();
        template.backlog.clear();
        let rig = &mut template;
        rig.beside = [None, Some(2), Some(5)][seed as usize % 3];
        let structured = dice.below(4) > 0;
        let (mut bytes, cookies) = session(&mut dice, structured);
        let damaged = dice.below(2) == 0;
        if damaged {
            damage(&mut dice, &mut bytes);
        }
        let got = run(&mut dice, rig, &bytes);
        closed += u64::from(rig.conn.closed().is_some());
        if !damaged && structured {
            let replies = parse_replies(skip_handshake(&got));
            assert!(replies.keys().eq(cookies.iter()), "seed {seed}: each request has its reply");
            answered += cookies.len();
        }
    }
    assert!(answered > 100 && closed > 10, "the fuzzer reaches both ends: {answered} {closed}");
    drop((template.conn, template.open));
    assert_eq!(template.pool.stats().free, template.pool.stats().total, "no buffer is lost");
}

#[test]
fn random_sessions_neither_panic_nor_hang_nor_grow() {
    fuzz(0..25_000);
}

#[test]
fn more_random_sessions_in_parallel_one() {
    fuzz(25_000..50_000);
}

#[test]
fn more_random_sessions_in_parallel_two() {
    fuzz(50_000..100_000);
}

#[test]
fn random_bytes_end_the_connection_or_wait() {
    let mut rig = Rig::new();
    for seed in 0..20_000 {
        rig.conn = Connection::new(1);
        rig.backlog.clear();
        let mut dice = Dice::new(seed ^ 0xabcd_ef00);
        let len = dice.below(300) as usize;
        let mut bytes = pattern(dice.roll(), len);
        if dice.below(2) == 0 {
            bytes.splice(0..0, [0, 0, 0, 3, b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T']);
        }
        rig.feed(&bytes);
        assert!(rig.open.is_empty());
        assert!(rig.conn.closed().is_some() || rig.backlog() == 0);
    }
}
