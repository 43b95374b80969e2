//! The agent's connection: connect, register, say standing reports, then read and write until it breaks;
//! then again, with a growing pause. Two threads while connected: this one writes, another reads.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{AgentError, Outgoing, Shared};
use crate::api::client::{connect, file_id};
use crate::api::line::{LineError, LineReader, write_line};
use crate::api::model::Command;
use crate::api::rpc::{self, Message, RpcError};
use crate::release;

/// First and longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long a registration may take.
const REGISTER_PATIENCE: Duration = Duration::from_secs(5);
/// How often an idle writer looks at stop flags.
const WRITER_POLL: Duration = Duration::from_millis(200);
/// How often the writer says that it lives when it has nothing else to say.
const PING: Duration = Duration::from_millis(500);

type Pending = Mutex<BTreeMap<u64, SyncSender<Result<Value, RpcError>>>>;

/// Runs until the agent stops.
pub(super) fn run(shared: &Shared, commands: &SyncSender<Command>, outgoing: &Receiver<Outgoing>) {
    let mut pause = PAUSE.0;
    while !shared.stop.load(Ordering::Relaxed) {
        let connected_at = Instant::now();
        let outcome = once(shared, commands, outgoing);
        shared.connected.store(false, Ordering::Relaxed);
        if let Err(error) = outcome {
            let mut admission = shared.admission.lock().unwrap_or_else(PoisonError::into_inner);
            if admission.is_err() {
                *admission = Err(error);
            }
        }
        if connected_at.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        sleep(shared, pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn sleep(shared: &Shared, span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end && !shared.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10).min(span));
    }
}

/// One connection, from connecting to its end.
fn once(
    shared: &Shared,
    commands: &SyncSender<Command>,
    outgoing: &Receiver<Outgoing>,
) -> Result<(), AgentError> {
    let unreachable = |error: &dyn std::fmt::Display| AgentError::Unreachable(error.to_string());
    let file = file_id(&shared.config.socket);
    let stream = connect(&shared.config.socket).map_err(|error| unreachable(&error))?;
    let mut writer = stream.try_clone().map_err(|error| unreachable(&error))?;
    let mut reader = LineReader::new(stream).map_err(|error| unreachable(&error))?;
    register(shared, &mut reader, &mut writer)?;
    shared.connected.store(true, Ordering::Relaxed);
    for report in shared.standing.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let params = serde_json::to_value(report).map_err(|error| unreachable(&error))?;
        write_line(&mut writer, &rpc::notification("node.report", params)).map_err(|e| unreachable(&e))?;
    }
    let pending = Pending::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            read(shared, &mut reader, commands, &pending, &over);
            over.store(true, Ordering::Relaxed);
        });
        let ended = write(shared, &mut writer, outgoing, &pending, (&over, file));
        over.store(true, Ordering::Relaxed);
        if ended.is_err() {
            // The reader sees the end of the stream and this connection is given up; if that fails too,
            // the stream is already down.
            let _ = writer.shutdown(Shutdown::Both);
        }
    });
    Ok(())
}

fn register(shared: &Shared, reader: &mut LineReader, writer: &mut UnixStream) -> Result<(), AgentError> {
    let unreachable = |error: LineError| AgentError::Unreachable(error.to_string());
    let params = json!({
        "pid": std::process::id(),
        "nodes": shared.config.nodes,
        "version": env!("CARGO_PKG_VERSION"),
        "binary": release::own_binary(),
        "supervised": std::env::var_os(release::SUPERVISED).is_some(),
    });
    write_line(writer, &rpc::request(0, "node.register", params)).map_err(unreachable)?;
    let deadline = Instant::now() + REGISTER_PATIENCE;
    // A command may overtake the answer; control says it again when the node is ready.
    let result = loop {
        let line = reader.next(deadline, || shared.stop.load(Ordering::Relaxed)).map_err(unreachable)?;
        match rpc::decode(&line) {
            Ok(Message::Response { id: 0, result }) => break result?,
            Ok(_) => {}
            Err((_, error)) => return Err(AgentError::Unreachable(error.message)),
        }
    };
    let admission = serde_json::from_value(result)
        .map_err(|error| AgentError::Unreachable(format!("unreadable admission: {error}")))?;
    *shared.admission.lock().unwrap_or_else(PoisonError::into_inner) = Ok(admission);
    Ok(())
}

fn read(
    shared: &Shared,
    reader: &mut LineReader,
    commands: &SyncSender<Command>,
    pending: &Pending,
    over: &AtomicBool,
) {
    let stop = || shared.stop.load(Ordering::Relaxed) || over.load(Ordering::Relaxed);
    while !stop() {
        let line = match reader.next(Instant::now() + PING, stop) {
            Ok(line) => line,
            Err(LineError::Timeout) => continue,
            Err(_) => return,
        };
        match rpc::decode(&line) {
            Ok(Message::Response { id, result }) => {
                let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(waiting) = waiting {
                    // The caller may have given up; then nobody wants the answer.
                    let _ = waiting.try_send(result);
                }
            }
            Ok(Message::Request(request)) if request.method == "node.command" => {
                match serde_json::from_value(request.params) {
                    Ok(command) => {
                        if !hand_over(commands, command, stop) {
                            return;
                        }
                        if let Some(wake) = &*shared.wake.lock().unwrap_or_else(PoisonError::into_inner) {
                            wake();
                        }
                    }
                    Err(error) => tracing::warn!(%error, "control sent a command that cannot be read"),
                }
            }
            Ok(_) => {}
            Err((_, error)) => tracing::warn!(%error, "control sent a malformed message"),
        }
    }
}

/// Puts a command into the channel; waits for room, because commands are not lost while connected.
fn hand_over(commands: &SyncSender<Command>, mut command: Command, stop: impl Fn() -> bool) -> bool {
    loop {
        match commands.try_send(command) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(back)) => {
                if stop() {
                    return false;
                }
                command = back;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn write(
    shared: &Shared,
    writer: &mut UnixStream,
    outgoing: &Receiver<Outgoing>,
    pending: &Pending,
    until: (&AtomicBool, Option<(u64, u64)>),
) -> Result<(), LineError> {
    let (over, file) = until;
    let mut next_id = 1;
    let (mut last, mut looked) = (Instant::now(), Instant::now());
    while !(shared.stop.load(Ordering::Relaxed) || over.load(Ordering::Relaxed)) {
        if looked.elapsed() >= PING {
            looked = Instant::now();
            // Another control plane serves the socket: the one at the other end may be stopped, and say
            // nothing for ever.
            if file_id(&shared.config.socket).is_some_and(|now| Some(now) != file) {
                return Err(LineError::Closed);
            }
        }
        let line = match outgoing.recv_timeout(WRITER_POLL) {
            Ok(Outgoing::Report(report)) => match serde_json::to_value(&report) {
                Ok(params) => rpc::notification("node.report", params),
                Err(_) => continue,
            },
            Ok(Outgoing::Call { method, params, reply }) => {
                let id = next_id;
                next_id += 1;
                pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
                rpc::request(id, method, params)
            }
            Err(RecvTimeoutError::Timeout) if last.elapsed() < PING => continue,
            Err(RecvTimeoutError::Timeout) => rpc::notification("node.ping", Value::Null),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        last = Instant::now();
        write_line(writer, &line)?;
    }
    if shared.stop.load(Ordering::Relaxed) {
        // What the nodes said last still goes out; the channel is bounded, so this ends.
        while let Ok(Outgoing::Report(report)) = outgoing.try_recv() {
            if let Ok(params) = serde_json::to_value(&report) {
                write_line(writer, &rpc::notification("node.report", params))?;
            }
        }
        write_line(writer, &rpc::notification("node.leave", Value::Null))?;
    }
    Ok(())
}
