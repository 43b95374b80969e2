//! Serves the control socket with ordinary threads: one accepts, two a connection (one reads and answers,
//! one writes). Every wait, queue and message is bounded; what a connection does wrong ends at worst that
//! connection.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{file_id, through_directory};
use super::core::Core;
use super::line::{LineError, LineReader, write_line};
use super::methods::{self, Outcome};
use super::rpc::{self, Message, RpcError};

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 256;
/// Messages that wait for one connection.
const OUTBOX: usize = 4096;
/// A connection that says nothing for so long is closed; agents speak twice a second.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a waiting flush looks at stop flags.
const POLL: Duration = Duration::from_millis(50);
/// How often an idle acceptor looks at stop flags.
const ACCEPT_POLL: Duration = Duration::from_millis(200);
/// How often an idle writer looks whether its connection is over; usually its channel closes first.
const WRITER_POLL: Duration = Duration::from_secs(1);

/// A connection, as methods see it.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) outbox: SyncSender<Vec<u8>>,
}

/// What the threads share.
struct Shared {
    core: Mutex<Core>,
    stop: AtomicBool,
    connections: AtomicUsize,
    next_link: AtomicU64,
    /// Raised to end every connection that was made before.
    cuts: AtomicU64,
}

/// A served socket.
pub struct Server {
    shared: Arc<Shared>,
    socket: PathBuf,
    /// Which file the socket is: another process may serve another one under the same path.
    file: Option<(u64, u64)>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the socket and serves `core` on it. The caller holds the data directory's lock, so that a
    /// socket left there belongs to nobody.
    pub fn start(core: Core, socket: &Path) -> io::Result<Self> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (directory, short) = through_directory(socket)?;
        let listener = UnixListener::bind(short)?;
        drop(directory);
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            next_link: AtomicU64::new(1),
            cuts: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("control-accept".to_owned())
            .spawn(move || accept(&accepting, &listener))?;
        let file = file_id(socket);
        Ok(Self { shared, socket: socket.to_path_buf(), file, acceptor: Some(acceptor) })
    }

    /// Ends every connection, so that nodes come back and say all that control must know.
    pub(crate) fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// The state, under its lock.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.shared)
    }

    /// A way to the state that other threads may keep (the metrics endpoint).
    pub fn viewer(&self) -> impl Fn() -> super::status::Status + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || lock(&shared).status()
    }

    /// A way to the nodes' last words, with histograms.
    pub fn reports(&self) -> impl Fn() -> crate::metrics::Picture + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || lock(&shared).picture()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there was already printed.
            let _ = acceptor.join();
        }
        let patience = Instant::now() + Duration::from_secs(2);
        while self.shared.connections.load(Ordering::Relaxed) > 0 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Nobody listens any more; a leftover is removed by the next start as well. One that another control
        // plane made in its place stays.
        if file_id(&self.socket) == self.file {
            let _ = fs::remove_file(&self.socket);
        }
    }
}

/// A thread that panicked under the lock broke nothing durable: the store decides what holds.
fn lock(shared: &Shared) -> MutexGuard<'_, Core> {
    shared.core.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            wait_readable(listener);
            continue;
        };
        if shared.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            // Closing tells the client enough.
            drop(stream);
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let serving = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name("control-link".to_owned()).spawn(move || {
            if let Err(error) = serve(&serving, stream) {
                tracing::debug!(%error, "a control connection ended");
            }
            serving.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn wait_readable(listener: &UnixListener) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let span = Timespec { tv_sec: 0, tv_nsec: ACCEPT_POLL.as_nanos() as i64 };
    // An interrupted or failed poll only means that accept is tried sooner.
    let _ = poll(&mut fds, Some(&span));
}

fn serve(shared: &Shared, stream: UnixStream) -> Result<(), LineError> {
    stream.set_nonblocking(false)?;
    let mut writer = stream.try_clone()?;
    let mut reader = LineReader::new(stream)?;
    let (outbox, waiting) = sync_channel(OUTBOX);
    let link = Link { id: shared.next_link.fetch_add(1, Ordering::Relaxed), outbox };
    let over = AtomicBool::new(false);
    let cuts = shared.cuts.load(Ordering::Relaxed);
    let ended = std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            write(&mut writer, waiting, over);
            over.store(true, Ordering::Relaxed);
            // The reader sees the end; a stream that is down already needs no more.
            let _ = writer.shutdown(Shutdown::Both);
        });
        let ended = read(shared, &link, &mut reader, (over, cuts));
        lock(shared).drop_link(link.id);
        over.store(true, Ordering::Relaxed);
        drop(link);
        ended
    });
    match ended {
        Err(LineError::Closed | LineError::Timeout) => Ok(()),
        other => other,
    }
}

fn write(writer: &mut UnixStream, waiting: Receiver<Vec<u8>>, over: &AtomicBool) {
    loop {
        match waiting.recv_timeout(WRITER_POLL) {
            Ok(line) => {
                if write_line(writer, &line).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) if !over.load(Ordering::Relaxed) => {}
            Err(_) => return,
        }
    }
}

/// `until`: what ends it, and the cuts there were when it was made.
fn read(
    shared: &Shared,
    link: &Link,
    reader: &mut LineReader,
    until: (&AtomicBool, u64),
) -> Result<(), LineError> {
    let (over, cuts) = until;
    let cut = || shared.cuts.load(Ordering::Relaxed) != cuts;
    let stop = || shared.stop.load(Ordering::Relaxed) || over.load(Ordering::Relaxed) || cut();
    loop {
        let line = match reader.next(Instant::now() + SILENCE, stop) {
            Err(LineError::TooLong) => {
                let error = RpcError::new(rpc::INVALID, LineError::TooLong.to_string());
                reply(link, &Value::Null, Err(error));
                return Err(LineError::TooLong);
            }
            other => other?,
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match rpc::decode(&line) {
            Ok(Message::Request(request)) => {
                let outcome = methods::call(&mut lock(shared), link, &request.method, request.params);
                let result = outcome.and_then(|outcome| finish(shared, outcome, stop));
                match (&request.id, result) {
                    (Some(id), result) => reply(link, id, result),
                    (None, Err(error)) => tracing::warn!(method = request.method, %error, "refused"),
                    (None, Ok(_)) => {}
                }
            }
            Ok(Message::Response { .. }) => {}
            Err((id, error)) => reply(link, &id, Err(error)),
        }
    }
}

/// Waits for what another process has to do, without holding the lock.
fn finish(shared: &Shared, outcome: Outcome, stop: impl Fn() -> bool) -> Result<Value, RpcError> {
    let promise = match outcome {
        Outcome::Now(value) => return Ok(value),
        Outcome::Later(promise) => promise,
    };
    let deadline = Instant::now() + promise.patience;
    loop {
        match promise.answer.recv_timeout(POLL) {
            Ok(None) => return Ok(promise.good),
            Ok(Some(why)) => return Err(RpcError::refused(why)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline && !stop() => {}
            Err(_) => {
                lock(shared).promises.remove(&promise.tag);
                return Err(RpcError::new(rpc::TIMEOUT, promise.late));
            }
        }
    }
}

/// Queues an answer; a client that takes none of its answers loses its connection by the writer's time-out.
fn reply(link: &Link, id: &Value, result: Result<Value, RpcError>) {
    let _ = link.outbox.try_send(rpc::answer(id, result));
}
