//! The bare spinning NBD server: what a memory volume costs when nothing stands behind it. It is the
//! baseline that the shipping export is held against (DESIGN section 6).
//!
//! One thread spins over listener and connections: one receive of up to 512 KiB per turn, every complete
//! request carried out at once against flat memory, one send per turn. Few answers leave as a gather
//! (no copy), many in one contiguous buffer: which is faster depends on the batch. No checksums, no
//! structured replies, no limits worth the name: it is a ruler, not a server to use.

use super::handshake::{self, Export};
use super::stream::{Stream, moved};
use super::uri::Place;
use super::wire::*;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receive buffer of a connection.
const RECEIVE_BYTES: usize = 512 << 10;
/// Up to this many answers leave as a gather.
const GATHER_MAX: usize = 24;
/// A contiguous send holds at most this much.
const SEND_BYTES: usize = 512 << 10;
/// Answers that may wait in a connection before it stops receiving.
const ANSWERS_MAX: usize = 4096;

/// A listening socket that does not wait.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(host) => {
                let listener = TcpListener::bind(host)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Place::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener))
            }
        }
    }

    fn accept(&self) -> Option<io::Result<Stream>> {
        match self {
            Self::Tcp(listener) => listener.accept().ok().map(|(stream, _)| Stream::from_tcp(stream)),
            Self::Unix(listener) => listener.accept().ok().map(|(stream, _)| Stream::from_unix(stream)),
        }
    }
}

/// One answer: its head, and a piece of the memory when it is a good read.
struct Answer {
    head: [u8; REPLY_LEN],
    offset: usize,
    len: usize,
}

/// A write whose payload is still arriving.
struct Filling {
    offset: usize,
    left: usize,
    cookie: u64,
    errno: u32,
}

struct Client {
    stream: Stream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    filling: Option<Filling>,
    answers: VecDeque<Answer>,
    sent: usize, // of the first answer
    packed: Vec<u8>,
    leaving: bool,
}

/// The server.
pub struct BareServer {
    listener: Listener,
    clients: Vec<Client>,
    memory: Vec<u8>,
}

impl BareServer {
    /// Listens, with `bytes` of zeroes to serve.
    pub fn bind(place: &Place, bytes: u64) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(place)?, clients: Vec::new(), memory: vec![0; bytes as usize] })
    }

    /// Where it listens, for a TCP port that the system chose.
    pub fn local_port(&self) -> Option<u16> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok().map(|a| a.port()),
            Listener::Unix(_) => None,
        }
    }

    /// Spins until `stop`.
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut turn = 0u64;
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            // The listener is looked at now and then only: it costs a system call.
            if self.clients.is_empty() || turn.is_multiple_of(1024) {
                self.accept();
            }
            let memory = &mut self.memory;
            self.clients.retain_mut(|client| client.turn(memory).is_ok());
        }
    }

    /// Takes waiting clients. Their handshake is blocking: nobody measures it.
    fn accept(&mut self) {
        while let Some(Ok(mut stream)) = self.listener.accept() {
            let export = Export { bytes: self.memory.len() as u64, flags: TRANSMISSION_FLAGS };
            if matches!(handshake::offer(&mut stream, export), Ok(true)) && stream.polled().is_ok() {
                self.clients.push(Client {
                    stream,
                    input: vec![0; RECEIVE_BYTES],
                    start: 0,
                    end: 0,
                    filling: None,
                    answers: VecDeque::with_capacity(ANSWERS_MAX),
                    sent: 0,
                    packed: Vec::with_capacity(SEND_BYTES),
                    leaving: false,
                });
            }
        }
    }
}

impl Client {
    /// One receive, everything complete carried out, one send. An error ends the connection.
    fn turn(&mut self, memory: &mut [u8]) -> io::Result<()> {
        if self.answers.len() < ANSWERS_MAX
            && let Some(n) = moved(self.stream.read(&mut self.input[self.end..]))?
        {
            self.end += n;
            self.carry_out(memory)?;
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if !self.answers.is_empty() {
            self.send(memory)?;
        }
        if self.leaving && self.answers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "NBD_CMD_DISC"));
        }
        Ok(())
    }

    fn carry_out(&mut self, memory: &mut [u8]) -> io::Result<()> {
        loop {
            if let Some(filling) = &mut self.filling {
                let n = filling.left.min(self.end - self.start);
                if filling.errno == 0 {
                    let bytes = &self.input[self.start..self.start + n];
                    memory[filling.offset..filling.offset + n].copy_from_slice(bytes);
                }
                self.start += n;
                filling.offset += n;
                filling.left -= n;
                if filling.left > 0 {
                    return Ok(());
                }
                let (errno, cookie) = (filling.errno, filling.cookie);
                self.filling = None;
                self.answer(errno, cookie, 0, 0);
            }
            let Some(head) = self.input[self.start..self.end].first_chunk() else { return Ok(()) };
            let request = Request::decode(head)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request with a wrong magic"))?;
            self.start += REQUEST_LEN;
            self.one(request, memory.len())?;
        }
    }

    fn one(&mut self, request: Request, bytes: usize) -> io::Result<()> {
        let len = request.len as usize;
        let inside = request.offset.checked_add(len as u64).is_some_and(|end| end <= bytes as u64);
        let errno = if inside && len <= REQUEST_BYTES_MAX { 0 } else { 22 };
        let offset = if errno == 0 { request.offset as usize } else { 0 };
        match request.command {
            CMD_READ => self.answer(errno, request.cookie, offset, if errno == 0 { len } else { 0 }),
            CMD_WRITE if len <= REQUEST_BYTES_MAX => {
                self.filling = Some(Filling { offset, left: len, cookie: request.cookie, errno });
            }
            CMD_WRITE => return Err(io::Error::new(io::ErrorKind::InvalidData, "a write beyond 32 MiB")),
            CMD_FLUSH => self.answer(0, request.cookie, 0, 0),
            CMD_DISC => self.leaving = true,
            _ => self.answer(22, request.cookie, 0, 0),
        }
        Ok(())
    }

    fn answer(&mut self, errno: u32, cookie: u64, offset: usize, len: usize) {
        self.answers.push_back(Answer { head: Reply { errno, cookie }.encode(), offset, len });
    }

    fn send(&mut self, memory: &[u8]) -> io::Result<()> {
        let n = if self.answers.len() <= GATHER_MAX { self.gather(memory)? } else { self.pack(memory)? };
        self.advance(n);
        Ok(())
    }

    fn gather(&mut self, memory: &[u8]) -> io::Result<usize> {
        let mut pieces = std::array::from_fn::<_, { 2 * GATHER_MAX }, _>(|_| IoSlice::new(&[]));
        let mut count = 0;
        let mut skip = self.sent;
        for answer in &self.answers {
            for bytes in [&answer.head[..], &memory[answer.offset..answer.offset + answer.len]] {
                let from = skip.min(bytes.len());
                skip -= from;
                if from < bytes.len() {
                    pieces[count] = IoSlice::new(&bytes[from..]);
                    count += 1;
                }
            }
        }
        Ok(moved(self.stream.write_vectored(&pieces[..count]))?.unwrap_or(0))
    }

    fn pack(&mut self, memory: &[u8]) -> io::Result<usize> {
        self.packed.clear();
        let mut skip = self.sent;
        for answer in &self.answers {
            for bytes in [&answer.head[..], &memory[answer.offset..answer.offset + answer.len]] {
                let from = skip.min(bytes.len());
                skip -= from;
                self.packed.extend_from_slice(&bytes[from..]);
            }
            if self.packed.len() >= SEND_BYTES {
                break;
            }
        }
        Ok(moved(self.stream.write(&self.packed))?.unwrap_or(0))
    }

    /// Forgets `n` sent bytes.
    fn advance(&mut self, n: usize) {
        let mut left = self.sent + n;
        while let Some(first) = self.answers.front() {
            let len = REPLY_LEN + first.len;
            if left < len {
                break;
            }
            left -= len;
            self.answers.pop_front();
        }
        self.sent = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::target::NbdTarget;
    use crate::nbd::uri::Uri;
    use crate::target::{Done, Op, Target, Verb, Want};
    use std::sync::Arc;

    fn finish(target: &mut NbdTarget, count: usize) -> Vec<Done> {
        let mut done = Vec::new();
        while done.len() < count {
            target.poll(&mut done).expect("the server lives");
        }
        done
    }

    #[test]
    fn the_bare_server_gives_back_what_the_polled_client_wrote() {
        let mut server = BareServer::bind(&Place::Tcp("127.0.0.1:0".into()), 8 << 20).expect("a port");
        let port = server.local_port().expect("TCP");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(&flag));
        let uri = Uri::parse(&format!("nbd://127.0.0.1:{port}/x")).expect("an address");
        let want = Want { slots: 64, slot_bytes: 64 << 10, connections: 2, look: true };
        let mut target = NbdTarget::open(uri, want).expect("a connection");
        assert_eq!(target.bytes(), 8 << 20);
        for slot in 0..64u32 {
            target.buffer(slot).fill(slot as u8 + 1);
            let op = Op { verb: Verb::Write, offset: u64::from(slot) << 16, len: 64 << 10 };
            target.submit(slot, op).expect("taken");
        }
        assert!(finish(&mut target, 64).iter().all(|d| d.errno == 0));
        for slot in 0..64u32 {
            target.buffer(slot).fill(0);
            let op = Op { verb: Verb::Read, offset: u64::from(63 - slot) << 16, len: 64 << 10 };
            target.submit(slot, op).expect("taken");
        }
        assert!(finish(&mut target, 64).iter().all(|d| d.errno == 0));
        for slot in 0..64u32 {
            assert!(target.buffer(slot).iter().all(|&b| b == 64 - slot as u8), "slot {slot}");
        }
        target.submit(0, Op { verb: Verb::Read, offset: 8 << 20, len: 4096 }).expect("taken");
        assert_eq!(finish(&mut target, 1), [Done { slot: 0, errno: 22 }]);
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("no panic");
    }
}
