//! A relay between the store and etcd that loses answers, holds requests back and cuts the way. One request a
//! connection: the relay closes after each answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request or answer that is relayed.
const LONG: Duration = Duration::from_secs(30);

/// What is to happen.
#[derive(Default)]
struct Plan {
    /// Everything is refused.
    cut: bool,
    /// Once so many requests to this path have passed, everything is refused.
    cut_after: Option<(String, u64)>,
    /// The answer to the next request to this path is lost.
    lose: Option<String>,
    /// Requests to this path are kept.
    hold: Option<String>,
    held: Vec<Vec<u8>>,
    lost: bool,
}

struct Shared {
    plan: Mutex<Plan>,
    upstream: String,
    stop: AtomicBool,
}

/// The relay.
pub(super) struct Weather {
    shared: Arc<Shared>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Weather {
    /// Fair weather before an endpoint.
    pub(super) fn before(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let upstream = endpoint.trim_start_matches("http://").to_owned();
        let shared = Shared { plan: Mutex::default(), upstream, stop: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let relaying = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if relaying.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&relaying)) else { continue };
                std::thread::spawn(move || shared.relay(stream));
            }
        });
        Self { shared, port, thread: Some(thread) }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.shared.plan.lock().expect("nobody panics under it")
    }

    pub(super) fn cut(&self) {
        self.plan().cut = true;
    }

    pub(super) fn cut_after(&self, path: &str, requests: u64) {
        self.plan().cut_after = Some((path.to_owned(), requests));
    }

    pub(super) fn mend(&self) {
        *self.plan() = Plan::default();
    }

    pub(super) fn lose_answer_to(&self, path: &str) {
        let mut plan = self.plan();
        plan.lose = Some(path.to_owned());
        plan.lost = false;
    }

    pub(super) fn lost(&self) -> bool {
        self.plan().lost
    }

    pub(super) fn hold(&self, path: &str) {
        self.plan().hold = Some(path.to_owned());
    }

    /// New requests pass again; those that were held stay so. How many they are.
    pub(super) fn release_later(&self) -> usize {
        let mut plan = self.plan();
        plan.hold = None;
        plan.held.len()
    }

    /// Delivers what was held, and waits for etcd's answers. How many there were.
    pub(super) fn deliver(&self) -> usize {
        let held = std::mem::take(&mut self.plan().held);
        held.iter().filter(|request| self.shared.ask(request).is_some()).count()
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the relay ended well");
        }
    }
}

impl Shared {
    fn relay(&self, mut client: TcpStream) {
        let Some(request) = read_message(&mut client) else { return };
        let text = String::from_utf8_lossy(&request).into_owned();
        let to = |path: &str| text.lines().next().is_some_and(|line| line.contains(path));
        let lose = {
            let mut plan = self.plan.lock().expect("nobody panics under it");
            if plan.cut {
                return;
            }
            if let Some((path, left)) = &mut plan.cut_after
                && to(path)
            {
                if *left == 0 {
                    plan.cut = true;
                    return;
                }
                *left -= 1;
            }
            if plan.hold.as_deref().is_some_and(to) {
                plan.held.push(request);
                return;
            }
            let lose = plan.lose.as_deref().is_some_and(to);
            if lose {
                (plan.lose, plan.lost) = (None, true);
            }
            lose
        };
        let Some(answer) = self.ask(&request) else { return };
        if !lose {
            // A client that gave up reads no more.
            let _ = client.write_all(&answer);
        }
    }

    fn ask(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut upstream = TcpStream::connect(&self.upstream).ok()?;
        upstream.set_read_timeout(Some(LONG)).ok()?;
        let text = String::from_utf8_lossy(request);
        // etcd closes after its answer, so that its end is seen, and our client hears that it does.
        let closing = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        upstream.write_all(closing.as_bytes()).ok()?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }
}

/// A request, head and body.
fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(LONG)).ok()?;
    let mut message = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let text = String::from_utf8_lossy(&message);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(message);
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => message.extend_from_slice(&chunk[..read]),
        }
    }
}
