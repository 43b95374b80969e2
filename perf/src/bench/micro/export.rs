//! One 4 KiB request through the NBD machine. The general way: header in, command out, answer in, reply out;
//! the payload of a write is copied once into its pool buffer, as it is when it arrives by socket, a read's is
//! not touched. The short way, of a bare volume: header in, reply out; the payload is copied once, a write's
//! into the volume, a read's out of it. Copies are counted: 4 KiB are about 270 instructions.

use super::Work;
use crate::nbd::wire::{CMD_READ, CMD_WRITE, FLAG_NO_ZEROES, OPT_GO, OPTION_MAGIC, Request};
use palisade_dma::{Buf, Pool, PoolConfig};
use palisade_protocol::export::nbd::{Beside, Connection, ExportInfo, Exports, Lent, Phase};
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
    let mut bytes = 0;
    connection.each_piece(32, |piece| bytes += black_box(piece).len());
    connection.sent(bytes);
    bytes
}

/// The requests of a work, one after another, each at another place.
struct Requests {
    command: u16,
    cookie: u64,
    bytes: Vec<u8>,
}

impl Requests {
    fn new(command: u16) -> Self {
        let mut bytes = vec![0u8; 28];
        if command == CMD_WRITE {
            bytes.extend_from_slice(&BLOCK);
        }
        Self { command, cookie: 0, bytes }
    }

    fn next(&mut self) -> &[u8] {
        self.cookie += 1;
        let offset = self.cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (BYTES / 4096) * 4096;
        let request = Request { command: self.command, cookie: self.cookie, offset, len: 4096 };
        self.bytes[..28].copy_from_slice(&request.encode());
        black_box(&self.bytes)
    }
}

/// One block, whatever is asked.
struct Block([u8; 4096]);

impl Beside for Block {
    fn partition(&self) -> PartitionId {
        PartitionId(1)
    }

    fn read(&mut self, _offset: u64, len: u32) -> Option<Lent<'_>> {
        self.0.get(..len as usize).map(Lent::Bytes)
    }

    fn write(&mut self, _offset: u64, bytes: &[u8]) -> bool {
        self.0[..bytes.len()].copy_from_slice(bytes);
        true
    }
}

fn beside(name: &'static str, command: u16) -> Work {
    let pool = Pool::new(PoolConfig::small()).expect("a small pool");
    let mut connection = connected(&pool);
    let mut commands: Vec<ClientCmd> = Vec::new();
    let mut volume = Block(BLOCK);
    let mut requests = Requests::new(command);
    let call = move || {
        let input = requests.next();
        let taken = connection.input_beside(input, &One, &pool, &mut commands, &mut volume);
        assert!(taken == input.len() && commands.is_empty(), "one request, no command");
        assert!(drain(&mut connection) >= 16, "a reply");
    };
    Work { name, call: Box::new(call), goal: None }
}

fn work(name: &'static str, command: u16) -> Work {
    let pool = Pool::new(PoolConfig::small()).expect("a small pool");
    let mut connection = connected(&pool);
    let mut commands: Vec<ClientCmd> = Vec::new();
    let mut requests = Requests::new(command);
    let call = move || {
        let input = requests.next();
        let taken = connection.input(input, &One, &pool, &mut commands);
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

/// A read, the short way.
pub(super) fn read_beside() -> Work {
    beside("nbd-read-beside", CMD_READ)
}

/// A write, the short way.
pub(super) fn write_beside() -> Work {
    beside("nbd-write-beside", CMD_WRITE)
}
