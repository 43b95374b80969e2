//! Tests of the NBD machine: a client that speaks bytes, a volume in memory that answers commands.

mod beside;
mod fuzz;
mod options;
mod pressure;
mod redirect;
mod requests;

use super::words::{self, IHAVEOPT, REQUEST_MAGIC, cmd, opt};
use super::{Connection, ExportInfo, Exports};
use crate::wire::volume::zeroes;
use crate::wire::{
    ClientCmd, ClientDone, ClientError, ClientOk, ClientVerb, PartitionId, Payload, StatusRun,
};
use palisade_dma::{Pool, PoolConfig};
use std::collections::BTreeMap;

pub(super) const SIZE: u64 = 64 << 20;

pub(super) struct List(pub(super) Vec<ExportInfo>);

impl Exports for List {
    fn list(&self) -> Vec<ExportInfo> {
        self.0.clone()
    }
    fn lookup(&self, name: &str) -> Option<ExportInfo> {
        self.0.iter().find(|export| export.name == name || name.is_empty()).cloned()
    }
}

fn export(name: &str, readonly: bool) -> ExportInfo {
    let description = format!("the volume {name}");
    ExportInfo { name: name.into(), description, partition: PartitionId(7), bytes: SIZE, readonly }
}

/// A volume that keeps written 512-byte sectors; what was never written is a hole.
#[derive(Default)]
pub(super) struct Volume {
    sectors: BTreeMap<u64, [u8; 512]>,
}

impl Volume {
    fn answer(&mut self, verb: ClientVerb, pool: &Pool) -> Option<ClientOk> {
        Some(match verb {
            ClientVerb::Read { offset, len } => ClientOk::Data(self.read(offset, len, pool)?),
            ClientVerb::Write { offset, data } => {
                for (i, sector) in data.chunks_exact(512).enumerate() {
                    let copy = sector.try_into().expect("512 bytes");
                    self.sectors.insert(offset / 512 + i as u64, copy);
                }
                ClientOk::Done
            }
            ClientVerb::Trim { offset, len } | ClientVerb::WriteZeroes { offset, len } => {
                let gone: Vec<u64> =
                    self.sectors.range(offset / 512..(offset + len) / 512).map(|(at, _)| *at).collect();
                gone.iter().for_each(|at| {
                    self.sectors.remove(at);
                });
                ClientOk::Done
            }
            ClientVerb::Flush => ClientOk::Done,
            ClientVerb::BlockStatus { offset, len } => ClientOk::Status(
                (offset / 512..(offset + len) / 512)
                    .take(10_000)
                    .map(|at| StatusRun { len: 512, data: self.sectors.contains_key(&at) })
                    .collect(),
            ),
        })
    }

    fn read(&self, offset: u64, len: u32, pool: &Pool) -> Option<Payload> {
        let mut pieces = Payload::new();
        for start in (offset..offset + u64::from(len)).step_by(4096) {
            let size = (offset + u64::from(len) - start).min(4096) as usize;
            let at = start / 512..(start + size as u64) / 512;
            if self.sectors.range(at.clone()).next().is_none() {
                pieces.push(zeroes(size));
                continue;
            }
            let mut buf = pool.alloc_zeroed(size)?;
            for (sector, out) in at.zip(buf.chunks_exact_mut(512)) {
                self.sectors.get(&sector).into_iter().for_each(|bytes| out.copy_from_slice(bytes));
            }
            pieces.push(buf.freeze());
        }
        Some(pieces)
    }
}

/// A connection with all it needs around it.
pub(super) struct Rig {
    pub(super) conn: Connection,
    pub(super) pool: Pool,
    exports: List,
    pub(super) volume: Volume,
    pub(super) open: Vec<ClientCmd>,
    backlog: Vec<u8>,
    /// The volume carries simple requests out at once; every so many of them it says that it cannot.
    pub(super) beside: Option<u32>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_pool(PoolConfig { slots: [4096, 64, 64], huge: false })
    }

    pub(super) fn with_pool(config: PoolConfig) -> Self {
        Self {
            conn: Connection::new(3),
            pool: Pool::new(config).expect("maps"),
            exports: List(vec![export("vol0", false), export("golden", true)]),
            volume: Volume::default(),
            open: Vec::new(),
            backlog: Vec::new(),
            beside: None,
        }
    }

    /// A rig whose handshake is over, with its output taken.
    pub(super) fn attached(structured: bool) -> Self {
        let mut rig = Self::new();
        rig.feed(&handshake(structured, "vol0"));
        rig.take();
        assert_eq!(rig.conn.phase(), super::Phase::Transmission);
        rig
    }

    /// Offers bytes behind those that were not consumed yet.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.backlog.extend_from_slice(bytes);
        let (backlog, exports, pool, open) = (&self.backlog, &self.exports, &self.pool, &mut self.open);
        let taken = match self.beside {
            Some(every) => {
                let mut near = beside::Near::new(&mut self.volume, pool, every);
                self.conn.input_beside(backlog, exports, pool, open, &mut near)
            }
            None => self.conn.input(backlog, exports, pool, open),
        };
        self.backlog.drain(..taken);
    }

    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Answers the open command of that place, if the pool has room for the answer.
    pub(super) fn answer(&mut self, at: usize) {
        let command = self.open.remove(at);
        let result = match self.volume.answer(command.verb, &self.pool) {
            Some(answer) => Ok(answer),
            None => Err(ClientError::Device),
        };
        self.conn.complete(ClientDone { tag: command.tag, result });
    }

    pub(super) fn fail(&mut self, at: usize, error: ClientError) {
        let command = self.open.remove(at);
        self.conn.complete(ClientDone { tag: command.tag, result: Err(error) });
    }

    /// Answers all, and takes what the client gets, until nothing more happens.
    pub(super) fn settle(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        loop {
            self.feed(&[]);
            let before = got.len() + self.open.len();
            while !self.open.is_empty() {
                self.answer(self.open.len() / 2);
            }
            got.extend(self.take());
            if before == got.len() {
                return got;
            }
        }
    }

    /// What waits to be sent, as if the socket took it all.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes: Vec<u8> = self.conn.pieces().flatten().copied().collect();
        assert_eq!(bytes.len(), self.conn.pending());
        self.conn.sent(bytes.len());
        bytes
    }

    /// One request, served; its reply.
    pub(super) fn ask(&mut self, request: &[u8]) -> Reply {
        self.feed(request);
        let bytes = self.settle();
        let replies = parse_replies(&bytes);
        assert_eq!(replies.len(), 1, "one request, one reply");
        replies.into_values().next().expect("one")
    }
}

pub(super) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

pub(super) fn go_data(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((wanted.len() as u16).to_be_bytes());
    wanted.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

/// What a client sends up to NBD_OPT_GO.
pub(super) fn handshake(structured: bool, name: &str) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    if structured {
        bytes.extend(option(opt::STRUCTURED_REPLY, &[]));
        let context = [&string(name)[..], &1u32.to_be_bytes(), &string("base:allocation")].concat();
        bytes.extend(option(opt::SET_META_CONTEXT, &context));
    }
    bytes.extend(option(opt::GO, &go_data(name, &[3])));
    bytes
}

pub(super) fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

pub(super) fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [request(cmd::WRITE, 0, cookie, offset, data.len() as u32), data.to_vec()].concat()
}

/// A reply as a client sees it, chunks joined.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) error: u32,
    /// Offset of each error chunk that has one.
    pub(super) error_at: Vec<u64>,
    /// Data by offset; of a simple reply under offset 0.
    pub(super) data: BTreeMap<u64, Vec<u8>>,
    pub(super) holes: u32,
    pub(super) status: Vec<(u32, u32)>,
    pub(super) chunks: u32,
    done: bool,
}

impl Reply {
    pub(super) fn joined(&self) -> Vec<u8> {
        self.data.values().flatten().copied().collect()
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two"))
}
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"))
}

/// Reads a stream of whole replies; simple replies carry no data here (see [`simple_read`]).
pub(super) fn parse_replies(mut bytes: &[u8]) -> BTreeMap<u64, Reply> {
    let mut replies: BTreeMap<u64, Reply> = BTreeMap::new();
    while !bytes.is_empty() {
        if u32_at(bytes, 0) == words::SIMPLE_REPLY_MAGIC {
            let reply = replies.entry(u64_at(bytes, 8)).or_default();
            assert!(!reply.done, "one reply a request");
            (reply.error, reply.done) = (u32_at(bytes, 4), true);
            bytes = &bytes[16..];
            continue;
        }
        assert_eq!(u32_at(bytes, 0), words::CHUNK_MAGIC);
        let (flags, kind, len) = (u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 16) as usize);
        let reply = replies.entry(u64_at(bytes, 8)).or_default();
        assert!(!reply.done, "nothing follows the last chunk");
        reply.done = flags & words::chunk::DONE != 0;
        reply.chunks += 1;
        let body = &bytes[20..20 + len];
        parse_chunk(reply, kind, body);
        bytes = &bytes[20 + len..];
    }
    assert!(replies.values().all(|reply| reply.done), "every reply ends");
    replies
}

fn parse_chunk(reply: &mut Reply, kind: u16, body: &[u8]) {
    match kind {
        words::chunk::NONE => assert!(body.is_empty() && reply.done),
        words::chunk::OFFSET_DATA => {
            assert!(body.len() > 8);
            assert!(reply.data.insert(u64_at(body, 0), body[8..].to_vec()).is_none());
        }
        words::chunk::OFFSET_HOLE => {
            assert_eq!(body.len(), 12);
            reply.holes += 1;
            let hole = vec![0; u32_at(body, 8) as usize];
            assert!(!hole.is_empty() && reply.data.insert(u64_at(body, 0), hole).is_none());
        }
        words::chunk::BLOCK_STATUS => {
            assert_eq!(u32_at(body, 0), words::CONTEXT_ID);
            reply.status = body[4..].chunks_exact(8).map(|run| (u32_at(run, 0), u32_at(run, 4))).collect();
        }
        words::chunk::ERROR | words::chunk::ERROR_OFFSET => {
            reply.error = u32_at(body, 0);
            let text = usize::from(u16_at(body, 4));
            assert!(std::str::from_utf8(&body[6..6 + text]).is_ok_and(|text| !text.is_empty()));
            let tail = &body[6 + text..];
            match kind {
                words::chunk::ERROR => assert!(tail.is_empty()),
                _ => reply.error_at.push(u64_at(tail, 0)),
            }
        }
        _ => panic!("unknown chunk {kind}"),
    }
}

/// Bytes that differ at every place.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
