//! A volume with several addresses, of which one serves it at a time: whoever goes on after a head died or gave
//! its role away (MA-11). An answer that the volume is not served there, a lost connection and a long silence
//! all mean: go elsewhere. What was under way then is open, as after any lost connection.
//!
//! Heads say in the handshake which group is the newest that they know, and the client says which one it knows.
//! One that is behind goes straight to where the newer group is led; one that is not asks the others in turn,
//! which lets them look after a primary that it lost (MA-14). It never goes back to an older group (MA-22). A short
//! silence is no reason to leave (writes may wait for a second head), but to ask whether another address serves it.

use super::handshake::{Group, HandshakeError};
use super::target::NbdTarget;
use super::uri::Uri;
use crate::target::{Done, Op, Target, TargetError, Verb, Want};
use palisade_protocol::export::nbd::Known;
use palisade_protocol::wire::Number;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::time::{Duration, Instant};

/// ESHUTDOWN: the head does not lead the volume.
const NOT_SERVED: u32 = 108;
/// Without any answer for so long another address is tried: the head may be stopped, not dead.
const SILENCE: Duration = Duration::from_secs(2);
/// How long each step of a handshake, and the first read at an address, may take.
const PROBE: Duration = Duration::from_secs(1);
/// Without any answer for so long the other addresses are asked, and again after as long.
const LOOK: Duration = Duration::from_millis(300);
/// Pauses before all addresses are asked again; each is drawn up to a bound that doubles from the first to the
/// last (MA-11 step 5).
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));
/// I/O of "lately" is that of this span and of the one before it.
const LATELY: Duration = Duration::from_secs(5);
/// Addresses that are remembered (`Bounded`).
const PLACES_MAX: usize = 32;

/// The target.
pub struct Follower {
    inner: NbdTarget,
    uris: Vec<Uri>,
    /// The address in use.
    at: usize,
    /// The newest group that was heard of.
    number: Option<Number>,
    open: usize,
    heard: Instant,
    looked: Instant,
    /// Answers of the span before and of this one, and when this one began.
    answered: (u64, u64, Instant),
    /// Rounds in vain.
    failed: u32,
    dice: Xoshiro256PlusPlus,
}

impl Follower {
    /// Connects to the first address that serves the volume; `uris` has at least one.
    pub fn open(uris: Vec<Uri>, want: Want) -> Result<Self, TargetError> {
        let mut follower = Self::closed(uris, want)?;
        follower.reconnect()?;
        Ok(follower)
    }

    fn closed(uris: Vec<Uri>, want: Want) -> Result<Self, TargetError> {
        let first = uris.first().cloned().ok_or_else(|| TargetError::Fatal("no address".to_owned()))?;
        let now = Instant::now();
        Ok(Self {
            inner: NbdTarget::closed(first, want),
            at: uris.len() - 1,
            uris,
            number: None,
            open: 0,
            heard: now,
            looked: now,
            answered: (0, 0, now),
            failed: 0,
            dice: Xoshiro256PlusPlus::seed_from_u64(u64::from(std::process::id())),
        })
    }

    /// The address in use is silent: goes on waiting, unless another one serves the volume or it has been long.
    fn look(&mut self) -> Result<(), TargetError> {
        if self.heard.elapsed() > SILENCE {
            return Err(TargetError::Lost(format!("{} is silent", self.uris[self.at])));
        }
        if self.looked.max(self.heard).elapsed() > LOOK {
            self.looked = Instant::now();
            let silent = self.uris[self.at].clone();
            if let Some(at) = self.served_elsewhere() {
                let why = format!("{silent} is silent and {} serves it", self.uris[at]);
                self.at = (at + self.uris.len() - 1) % self.uris.len(); // the next one is tried first
                return Err(TargetError::Lost(why));
            }
        }
        Ok(())
    }

    /// Another address than the one in use that serves the volume, or that a newer group names as its leader. Who
    /// is asked looks after the silent one (MA-14).
    fn served_elsewhere(&mut self) -> Option<usize> {
        let want = Want { slots: 1, slot_bytes: 512, connections: 1, look: false };
        let known = Known { number: self.number, io: self.count(0) };
        for step in 1..self.uris.len() {
            let at = (self.at + step) % self.uris.len();
            let mut target = NbdTarget::closed(self.uris[at].clone(), want);
            match target.attach(&known, PROBE) {
                Ok(_) if serves(&mut target).is_ok() => return Some(at),
                Err(HandshakeError::Refused { group: Some(group), .. }) if self.learn(group.clone()) => {
                    return Some(0);
                }
                _ => {}
            }
        }
        None
    }

    /// Counts answers, and says how many there were lately.
    fn count(&mut self, fresh: u64) -> u64 {
        let (before, now, begun) = &mut self.answered;
        if begun.elapsed() >= LATELY {
            let lately = begun.elapsed() < LATELY * 2;
            (*before, *now, *begun) = (if lately { *now } else { 0 }, 0, Instant::now());
        }
        *now += fresh;
        *before + *now
    }

    /// Tries one address. `Ok(false)`: a newer group was heard of instead, whose leader is next.
    fn visit(&mut self) -> Result<bool, TargetError> {
        let uri = self.uris[self.at].clone();
        self.inner.redirect(uri.clone());
        let known = Known { number: self.number, io: self.count(0) };
        match self.inner.attach(&known, PROBE) {
            Ok(group) => {
                if let Some(group) = group {
                    self.learn(group);
                }
                self.at = self.uris.iter().position(|known| *known == uri).unwrap_or(self.at);
                serves(&mut self.inner).map(|()| true)
            }
            Err(HandshakeError::Refused { group: Some(group), .. }) if self.learn(group.clone()) => Ok(false),
            Err(error) => Err(TargetError::Lost(format!("{uri}: {error}"))),
        }
    }

    /// Takes a group over if it is newer than what is known, and turns to its leader; addresses that it does not
    /// name stay behind the others.
    fn learn(&mut self, group: Group) -> bool {
        if group.places.is_empty() || self.number.is_some_and(|known| known >= group.number) {
            return false;
        }
        self.number = Some(group.number);
        let old = std::mem::replace(&mut self.uris, group.places);
        for uri in old {
            if !self.uris.contains(&uri) && self.uris.len() < PLACES_MAX {
                self.uris.push(uri);
            }
        }
        self.at = 0;
        true
    }

    /// After rounds in vain a while, drawn at random so that clients do not come all at once.
    fn pause(&mut self) {
        if self.failed > 0 {
            let most = (PAUSE.0 * (1 << self.failed.min(10))).min(PAUSE.1);
            let part = self.dice.next_u64() % (most.as_micros() as u64 + 1);
            std::thread::sleep(Duration::from_micros(part));
        }
    }
}

/// Whether the volume is served at an address that is connected: a read of its first block succeeds.
fn serves(target: &mut NbdTarget) -> Result<(), TargetError> {
    let len = target.bytes().min(512) as u32;
    target.submit(0, Op { verb: Verb::Read, offset: 0, len })?;
    let (begin, mut done) = (Instant::now(), Vec::new());
    while done.is_empty() {
        target.poll(&mut done)?;
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
            let count = fresh.len();
            self.open = self.open.saturating_sub(count);
            self.heard = Instant::now();
            self.count(count as u64);
        } else if self.open > 0 && self.heard.elapsed() > LOOK {
            return self.look();
        }
        Ok(())
    }

    /// One round: the addresses in turn, from the one behind that in use, or straight to the leader of a newer
    /// group. Numbers only rise and each group is a few addresses, so that a round ends.
    fn reconnect(&mut self) -> Result<(), TargetError> {
        self.pause();
        let mut last = TargetError::Lost("nobody serves it".to_owned());
        let mut left = self.uris.len();
        let mut next = (self.at + 1) % self.uris.len();
        let mut redirects = 0;
        while left > 0 {
            left -= 1;
            self.at = next;
            match self.visit() {
                Ok(true) => {
                    (self.open, self.heard, self.failed) = (0, Instant::now(), 0);
                    return Ok(());
                }
                Ok(false) if redirects < PLACES_MAX => {
                    redirects += 1;
                    (next, left) = (0, self.uris.len());
                }
                Ok(false) => {}
                Err(error) => {
                    last = error;
                    next = (self.at + 1) % self.uris.len();
                }
            }
        }
        self.failed += 1;
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::server::BareServer;
    use crate::nbd::uri::Place;
    use crate::nbd::wire::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
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
    fn ma11_a_silent_address_is_left_for_one_that_serves_and_kept_while_none_does() {
        // Takes connections and never says a word: a head that is stopped.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = format!("nbd://{}/x", silent.local_addr().expect("bound"));
        let (first, second) = (server(), server());
        let uris = vec![first.uri.clone(), Uri::parse(&silent).expect("an address"), second.uri.clone()];
        let mut target = Follower::open(uris, WANT).expect("served");
        target.uris.swap(0, 1); // as if the silent one had been in use
        target.at = 0;
        (target.open, target.heard) = (1, Instant::now() - LOOK * 2);
        target.looked = target.heard;
        let lost = target.look();
        assert!(matches!(&lost, Err(TargetError::Lost(why)) if why.contains("serves it")), "{lost:?}");
        target.reconnect().expect("served");
        assert_eq!(target.at, 1);
        end(first);
        end(second);
        (target.open, target.heard) = (1, Instant::now() - LOOK * 2);
        target.looked = target.heard;
        assert!(target.look().is_ok(), "nobody else serves it: it waits");
        target.heard = Instant::now() - SILENCE * 2;
        assert!(matches!(target.look(), Err(TargetError::Lost(_))), "and not for ever");
    }

    #[test]
    fn ma11_a_silent_address_is_left_when_another_head_tells_of_a_newer_group() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent =
            Uri::parse(&format!("nbd://{}/x", silent.local_addr().expect("bound"))).expect("an address");
        let leader = server();
        let other = refuser(group(6), vec![leader.uri.clone()]);
        let mut target = Follower::closed(vec![silent, other.0.clone()], WANT).expect("addresses");
        (target.at, target.number, target.open) = (0, Some(group(5)), 1);
        (target.heard, target.looked) = (Instant::now() - LOOK * 2, Instant::now() - LOOK * 2);
        assert!(matches!(target.look(), Err(TargetError::Lost(_))));
        target.reconnect().expect("served");
        assert_eq!((&target.uris[target.at], target.number), (&leader.uri, Some(group(6))));
        assert_eq!(asked(other), ["x-palisade:group/1.5/0"]);
        end(leader);
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

    const READ: Op = Op { verb: Verb::Read, offset: 0, len: 4096 };
    const WANT: Want = Want { slots: 4, slot_bytes: 4096, connections: 1, look: true };

    fn group(counter: u64) -> Number {
        Number { epoch: 1, counter }
    }

    /// A head that refuses the volume and tells of a group; says what it was asked, once for each connection.
    fn refuser(number: Number, places: Vec<Uri>) -> (Uri, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let uri = Uri::parse(&format!("nbd://127.0.0.1:{port}/x")).expect("an address");
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while let Ok((mut socket, _)) = listener.accept() {
                let hello = [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &3u16.to_be_bytes()];
                socket.write_all(&hello.concat()).expect("sent");
                let mut head = [0; 4 + 16];
                if socket.read_exact(&mut head).is_err() {
                    break; // the end of the test knocks and says nothing
                }
                assert_eq!(be32(&head, 12), OPT_LIST_META_CONTEXT);
                let mut data = vec![0; be32(&head, 16) as usize];
                socket.read_exact(&mut data).expect("a query");
                asked.push(String::from_utf8_lossy(&data[13..]).into_owned());
                let text: Vec<String> = places.iter().map(Uri::to_string).collect();
                let context = format!("x-palisade:group/{number} {}", text.join(" "));
                let mut out = Vec::new();
                let mut reply = |option: u32, kind: u32, data: &[u8]| {
                    out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
                    [option, kind, data.len() as u32].iter().for_each(|word| out.extend(word.to_be_bytes()));
                    out.extend(data);
                };
                let context = [&[0; 4], context.as_bytes()].concat();
                reply(OPT_LIST_META_CONTEXT, REP_META_CONTEXT, &context);
                reply(OPT_LIST_META_CONTEXT, REP_ACK, &[]);
                reply(OPT_GO, REP_ERR_POLICY, b"elsewhere");
                socket.write_all(&out).expect("sent");
                // The client hangs up.
                let _rest = socket.read_to_end(&mut Vec::new());
            }
            asked
        });
        (uri, thread)
    }

    /// Ends a refuser; what it was asked.
    fn asked((uri, thread): (Uri, std::thread::JoinHandle<Vec<String>>)) -> Vec<String> {
        let Place::Tcp(host) = &uri.place else { panic!("TCP") };
        drop(std::net::TcpStream::connect(host).expect("it listens"));
        thread.join().expect("no panic")
    }

    fn read(target: &mut Follower) -> Done {
        let mut done = Vec::new();
        target.submit(0, READ).expect("taken");
        while done.is_empty() {
            target.poll(&mut done).expect("served");
        }
        done[0]
    }

    #[test]
    fn ma11_a_client_three_groups_behind_connects_within_one_redirect() {
        let serving = server();
        let behind = refuser(group(6), vec![serving.uri.clone()]);
        let never = refuser(group(1), vec![]);
        let mut target = Follower::closed(vec![behind.0.clone(), never.0.clone()], WANT).expect("addresses");
        target.number = Some(group(3));
        target.reconnect().expect("served");
        assert_eq!((target.number, &target.uris[target.at]), (Some(group(6)), &serving.uri));
        assert_eq!(target.uris.len(), 3, "the old addresses stay behind");
        assert_eq!(read(&mut target), Done { slot: 0, errno: 0 });
        assert_eq!(asked(behind), ["x-palisade:group/1.3/0"], "asked once, with what the client knew");
        assert_eq!(asked(never), Vec::<String>::new(), "the next address was not needed");
        end(serving);
    }

    #[test]
    fn ma22_a_client_is_never_sent_back_to_an_older_group() {
        let serving = server();
        let elsewhere = refuser(group(9), vec![]);
        let stale = refuser(group(4), vec![elsewhere.0.clone()]);
        let mut target =
            Follower::closed(vec![stale.0.clone(), serving.uri.clone()], WANT).expect("addresses");
        target.number = Some(group(5));
        target.reconnect().expect("served");
        assert_eq!((target.number, target.at), (Some(group(5)), 1));
        assert_eq!(asked(stale), ["x-palisade:group/1.5/0"]);
        assert_eq!(asked(elsewhere), Vec::<String>::new());
        end(serving);
    }

    #[test]
    fn ma11_refusals_without_end_are_a_bounded_round_and_pauses_grow() {
        let a = refuser(group(1), vec![]);
        let b = refuser(group(1), vec![a.0.clone()]);
        let mut target = Follower::closed(vec![a.0.clone(), b.0.clone()], WANT).expect("addresses");
        for round in 1..=3 {
            assert!(matches!(target.reconnect(), Err(TargetError::Lost(_))));
            assert_eq!(target.failed, round);
        }
        assert_eq!(target.number, Some(group(1)));
        let (at_a, at_b) = (asked(a).len(), asked(b).len());
        assert!(at_a + at_b <= 8, "{at_a} and {at_b} visits in three rounds of two addresses");
        assert!(at_a >= 3 && at_b >= 3);
    }

    #[test]
    fn io_of_lately_is_counted_and_forgotten() {
        let uri = Uri::parse("nbd://127.0.0.1:1/x").expect("an address");
        let mut target = Follower::closed(vec![uri], WANT).expect("addresses");
        assert_eq!((target.count(5), target.count(2), target.count(0)), (5, 7, 7));
        target.answered.2 -= LATELY;
        assert_eq!(target.count(1), 8, "the span before counts");
        target.answered.2 -= LATELY * 2;
        assert_eq!(target.count(0), 0);
    }
}
