//! One 4 KiB request through the NBD machine: header in, command out, answer in, reply out. The payload of
//! a write is copied once into its pool buffer, as it is when it arrives by socket; a read's is not touched.

use super::Work;
use crate::nbd::wire::{CMD_READ, CMD_WRITE, FLAG_NO_ZEROES, OPT_GO, OPTION_MAGIC, Request};
use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_protocol::export::nbd::{Connection, ExportInfo, Exports, Phase};
use palisade_protocol::wire::{ClientCmd, ClientDone, ClientOk, ClientVerb, PartitionId};
use std::hint::black_box;

static BLOCK: [u8; 4096] = [9; 4096];
const BYTES: u64 = 1 << 30;

struct One;

impl Exports for One {
    fn list(&self) -> Vec<ExportInfo> {
        self.lookup("v").into_iter().collect()
    }

    fn lookup(&self, name: &str) -> Option<ExportInfo> {
        Some(ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            partition: PartitionId(1),
            bytes: BYTES,
            readonly: false,
        })
    }
}

/// A connection after its handshake.
fn connected(pool: &Pool) -> Connection {
    let mut connection = Connection::new(1);
    let mut hello = Vec::new();
    hello.extend(u32::from(1 | FLAG_NO_ZEROES).to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(OPT_GO.to_be_bytes());
    hello.extend(7u32.to_be_bytes());
    hello.extend(1u32.to_be_bytes());
    hello.extend(b"v");
    hello.extend(0u16.to_be_bytes());
    let taken = connection.input(&hello, &One, pool, &mut Vec::new());
    assert!(taken == hello.len() && connection.phase() == Phase::Transmission, "the handshake is fit");
    drain(&mut connection);
    connection
}

/// Sends everything, as a socket that takes all would.
fn drain(connection: &mut Connection) -> usize {
    let bytes = connection.pieces().map(|piece| black_box(piece).len()).sum();
    connection.sent(bytes);
    bytes
}

fn work(name: &'static str, command: u16) -> Work {
    let pool = Pool::new(PoolConfig::small()).expect("a small pool");
    let mut connection = connected(&pool);
    let mut commands: Vec<ClientCmd> = Vec::new();
    let mut input = vec![0u8; 28];
    if command == CMD_WRITE {
        input.extend_from_slice(&BLOCK);
    }
    let mut cookie = 0u64;
    let call = move || {
        cookie += 1;
        let offset = cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (BYTES / 4096) * 4096;
        let request = Request { command, cookie, offset, len: 4096 };
        input[..28].copy_from_slice(&request.encode());
        let taken = connection.input(black_box(&input), &One, &pool, &mut commands);
        assert!(taken == input.len() && commands.len() == 1, "one request, one command");
        for command in commands.drain(..) {
            let ok = match command.verb {
                ClientVerb::Read { .. } => {
                    ClientOk::Data(std::iter::once(Buf::from_static(&BLOCK)).collect())
                }
                _ => ClientOk::Done,
            };
            connection.complete(ClientDone { tag: command.tag, result: Ok(ok) });
        }
        assert!(drain(&mut connection) >= 16, "a reply");
    };
    Work { name, call: Box::new(call), goal: None }
}

/// A read.
pub(super) fn read() -> Work {
    work("nbd-read", CMD_READ)
}

/// A write.
pub(super) fn write() -> Work {
    work("nbd-write", CMD_WRITE)
}
