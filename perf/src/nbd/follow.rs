//! A volume with several addresses, of which one serves it at a time: whoever goes on after a head died or gave
//! its role away (MA-11). An answer that the volume is not served there, a lost connection and a long silence
//! all mean: look at the next address. What was under way then is open, as after any lost connection.

use super::target::NbdTarget;
use super::uri::Uri;
use crate::target::{Done, Op, Target, TargetError, Verb, Want};
use std::time::{Duration, Instant};

/// ESHUTDOWN: the head does not lead the volume.
const NOT_SERVED: u32 = 108;
/// Without any answer for so long another address is tried: the head may be stopped, not dead.
const SILENCE: Duration = Duration::from_secs(2);
/// How long the first read at an address may take.
const PROBE: Duration = Duration::from_secs(1);

/// The target.
pub struct Follower {
    inner: NbdTarget,
    uris: Vec<Uri>,
    /// The address in use.
    at: usize,
    open: usize,
    heard: Instant,
}

impl Follower {
    /// Connects to the first address that serves the volume; `uris` has at least one.
    pub fn open(uris: Vec<Uri>, want: Want) -> Result<Self, TargetError> {
        let first = uris.first().cloned().ok_or_else(|| TargetError::Fatal("no address".to_owned()))?;
        let inner = NbdTarget::closed(first, want);
        let at = uris.len() - 1;
        let mut follower = Self { inner, uris, at, open: 0, heard: Instant::now() };
        follower.reconnect()?;
        Ok(follower)
    }

    /// Whether the volume is served at the address that is connected: a read of its first block succeeds.
    fn serves(&mut self) -> Result<(), TargetError> {
        let len = self.inner.bytes().min(512) as u32;
        self.inner.submit(0, Op { verb: Verb::Read, offset: 0, len })?;
        let (begin, mut done) = (Instant::now(), Vec::new());
        while done.is_empty() {
            self.inner.poll(&mut done)?;
            if begin.elapsed() > PROBE {
                return Err(TargetError::Lost("no answer".to_owned()));
            }
            std::thread::yield_now();
        }
        match done[0].errno {
            0 => Ok(()),
            errno => Err(TargetError::Lost(format!("error {errno}"))),
        }
    }
}

impl Target for Follower {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        self.inner.buffer(slot)
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        if self.open == 0 {
            self.heard = Instant::now();
        }
        self.open += 1;
        self.inner.submit(slot, op)
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        let before = done.len();
        self.inner.poll(done)?;
        let fresh = &done[before..];
        if fresh.iter().any(|done| done.errno == NOT_SERVED) {
            return Err(TargetError::Lost(format!("{} does not serve it any more", self.uris[self.at])));
        }
        if !fresh.is_empty() {
            self.open = self.open.saturating_sub(fresh.len());
            self.heard = Instant::now();
        } else if self.open > 0 && self.heard.elapsed() > SILENCE {
            return Err(TargetError::Lost(format!("{} is silent", self.uris[self.at])));
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), TargetError> {
        let mut last = TargetError::Lost("nobody serves it".to_owned());
        for _ in 0..self.uris.len() {
            self.at = (self.at + 1) % self.uris.len();
            self.inner.redirect(self.uris[self.at].clone());
            match self.inner.reconnect().and_then(|()| self.serves()) {
                Ok(()) => {
                    (self.open, self.heard) = (0, Instant::now());
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::server::BareServer;
    use crate::nbd::uri::Place;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Server {
        uri: Uri,
        stop: Arc<AtomicBool>,
        thread: std::thread::JoinHandle<()>,
    }

    fn server() -> Server {
        let mut server = BareServer::bind(&Place::Tcp("127.0.0.1:0".into()), 1 << 20).expect("a port");
        let port = server.local_port().expect("TCP");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(&flag));
        Server { uri: Uri::parse(&format!("nbd://127.0.0.1:{port}/x")).expect("an address"), stop, thread }
    }

    fn end(server: Server) {
        server.stop.store(true, Ordering::Relaxed);
        server.thread.join().expect("no panic");
    }

    #[test]
    fn ma11_a_client_goes_to_the_next_address_when_the_first_is_gone() {
        let (first, second) = (server(), server());
        let want = Want { slots: 4, slot_bytes: 4096, connections: 1, look: true };
        let mut target = Follower::open(vec![first.uri.clone(), second.uri.clone()], want).expect("served");
        assert_eq!((target.at, target.bytes()), (0, 1 << 20));
        end(first);
        let read = Op { verb: Verb::Read, offset: 0, len: 4096 };
        let mut done = Vec::new();
        let lost = target.submit(0, read).and_then(|()| {
            while done.is_empty() {
                target.poll(&mut done)?;
            }
            Ok(())
        });
        assert!(matches!(lost, Err(TargetError::Lost(_))), "{lost:?} {done:?}");
        target.reconnect().expect("the other one serves");
        assert_eq!(target.at, 1);
        target.submit(0, read).expect("taken");
        while done.is_empty() {
            target.poll(&mut done).expect("served");
        }
        assert_eq!(done, [Done { slot: 0, errno: 0 }]);
        end(second);
        assert!(matches!(target.reconnect(), Err(TargetError::Lost(_))), "nobody is left");
    }
}
