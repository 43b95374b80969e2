//! One node's process under `palisade up --processes`: a child that dies is started again with a growing pause. One
//! that ends to become another binary is started as that at once; when it does not come up as that in time, or
//! ends before, the binary of before is started again.
//!
//! Children are known by their process ids: a program that takes the supervisor's own place (`successor`) has the
//! same children and goes on to look after them.

use crate::successor::SUCCESSOR;
use crate::up::UpOptions;
use palisade_control::api::status::Status;
use palisade_control::release::{BINARY, SUPERVISED, UPGRADE_CODE, next_binary};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// First and longest pause before a dead node is started again: while one is dead, writes may wait for it.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// A node that lived for so long, and for so many times its last pause, died of something new.
const LIVED: (Duration, u32) = (Duration::from_secs(2), 10);
/// How long children may take to stop.
const STOP: Duration = Duration::from_secs(15);

/// How long a node that lived for so long stays dead, after the pause of the last time: the first time it is back
/// at once, and one that dies again and again is started ever more rarely.
fn pause(lived: Duration, last: Duration) -> Duration {
    if lived >= LIVED.0 && lived >= last * LIVED.1 {
        return BACK_OFF.0;
    }
    (last * 2).clamp(BACK_OFF.0, BACK_OFF.1)
}

/// Another binary that has not shown yet that it can be this node.
struct Trial {
    /// What ran before; none is the supervisor's own.
    before: Option<PathBuf>,
    ends: Instant,
}

/// Keeps one node's process alive.
pub(crate) struct Keeper {
    name: String,
    /// Where the node leaves the path of the binary that it is to become.
    note: PathBuf,
    /// What it runs as; none is this very program.
    binary: Option<PathBuf>,
    trial: Option<Trial>,
    /// How long another binary may take until its node is ready: it reads its log or its devices first.
    patience: Duration,
    child: Option<Pid>,
    /// Before it was started last; zero at first.
    pause: Duration,
    next_start: Instant,
    started: Instant,
}

impl Keeper {
    /// A node that is to be started. A note of an earlier life counts no more.
    pub(crate) fn new(name: &str, data: &Path, patience: Duration) -> Self {
        let now = Instant::now();
        let note = next_binary(data, name);
        // Usually there is none.
        let _ = std::fs::remove_file(&note);
        Self {
            name: name.to_owned(),
            note,
            binary: None,
            trial: None,
            patience,
            child: None,
            pause: Duration::ZERO,
            next_start: now,
            started: now,
        }
    }

    /// Whether a new binary is on trial, so that [`Keeper::watch`] wants to see the status.
    pub(crate) fn tries(&self) -> bool {
        self.trial.is_some()
    }

    /// Starts the node when it is due, and judges a binary on trial by what control sees of it.
    pub(crate) fn watch(&mut self, options: &UpOptions, status: Option<&Status>) {
        let now = Instant::now();
        if let Some(child) = self.child {
            match ended(child) {
                Some(ended) => {
                    self.child = None;
                    self.ended(now, &ended);
                }
                None => self.judge(now, status),
            }
        }
        if self.child.is_none() && now >= self.next_start {
            self.start(options);
        }
    }

    fn ended(&mut self, now: Instant, status: &Ended) {
        self.next_start = now;
        if status.code == Some(i32::from(UPGRADE_CODE))
            && let Some(binary) = self.take_note()
        {
            let before = self.trial.take().map_or_else(|| self.binary.take(), |trial| trial.before);
            self.trial = Some(Trial { before, ends: now + self.patience });
            self.binary = Some(binary);
            return;
        }
        if self.trial.is_some() {
            return self.roll_back(&format!("ended ({})", status.text));
        }
        let pause = pause(now.duration_since(self.started), self.pause);
        eprintln!("palisade: node {} ended ({}); starting it again in {pause:?}", self.name, status.text);
        (self.pause, self.next_start) = (pause, now + pause);
    }

    fn take_note(&self) -> Option<PathBuf> {
        let text = std::fs::read_to_string(&self.note).ok()?;
        // The next start removes one that stays.
        let _ = std::fs::remove_file(&self.note);
        let path = PathBuf::from(text.trim());
        path.is_absolute().then_some(path)
    }

    /// A binary on trial is accepted once control sees its node at work.
    fn judge(&mut self, now: Instant, status: Option<&Status>) {
        let (Some(trial), Some(child)) = (&self.trial, self.child) else { return };
        let node = status.and_then(|status| status.nodes.iter().find(|node| node.name == self.name));
        let works = |state: &str| matches!(state, "ready" | "draining" | "drained" | "leaving");
        if node.is_some_and(|node| {
            i32::try_from(node.pid) == Ok(child.as_raw_nonzero().get()) && works(&node.state)
        }) {
            self.trial = None;
            self.pause = Duration::ZERO;
        } else if now >= trial.ends {
            // It is waited for, so that its devices and addresses are free.
            let _gone = kill_process(child, Signal::KILL);
            let _reaped = waitpid(Some(child), WaitOptions::empty());
            self.child = None;
            self.roll_back(&format!("was not ready within {:?}", self.patience));
        }
    }

    fn roll_back(&mut self, why: &str) {
        let Some(trial) = self.trial.take() else { return };
        let failed = std::mem::replace(&mut self.binary, trial.before);
        let failed = failed.map_or_else(String::new, |path| path.display().to_string());
        eprintln!("palisade: node {} as {failed} {why}; starting it as before", self.name);
        self.next_start = Instant::now();
    }

    fn start(&mut self, options: &UpOptions) {
        self.started = Instant::now();
        let mut command = Command::new(self.binary.clone().unwrap_or_else(own_program));
        command.arg("node").arg(&options.file).arg("--name").arg(&self.name).stdin(Stdio::null());
        if let Some(dir) = &options.data_dir {
            command.arg("--data-dir").arg(dir);
        }
        match &self.binary {
            Some(binary) => command.env(BINARY, binary),
            None => command.env_remove(BINARY),
        };
        match command.env(SUPERVISED, "1").env_remove(SUCCESSOR).spawn() {
            // It is waited for by its id.
            Ok(child) => self.child = Some(Pid::from_child(&child)),
            Err(error) if self.trial.is_some() => self.roll_back(&format!("cannot be started: {error}")),
            Err(error) => {
                eprintln!("palisade: node {} cannot be started: {error}", self.name);
                self.pause = pause(Duration::ZERO, self.pause);
                self.next_start = self.started + self.pause;
            }
        }
    }

    /// Ends the node in good order; false when it did not.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(child) = self.child else { return true };
        if kill_process(child, Signal::TERM).is_err() {
            return true;
        }
        let end = Instant::now() + STOP;
        while Instant::now() < end {
            if let Some(ended) = ended(child) {
                return matches!(ended.code, Some(code) if code == 0 || code == i32::from(UPGRADE_CODE));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("palisade: node {} does not stop; killing it", self.name);
        let killed = kill_process(child, Signal::KILL);
        let _reaped = waitpid(Some(child), WaitOptions::empty());
        killed.is_err()
    }

    /// For the program that takes this one's place. What is on trial stays what it was before for that one.
    pub(crate) fn handed_over(&self) -> Value {
        let pid = self.child.map(|pid| pid.as_raw_nonzero().get());
        // What ran as this program goes on as this program, when it has to be started again.
        let binary = self.binary.clone().unwrap_or_else(own_program);
        json!({ "name": self.name, "pid": pid, "binary": binary })
    }

    /// Takes a node over from the program that was in this one's place.
    pub(crate) fn take_over(&mut self, nodes: &[Value]) {
        let Some(node) = nodes.iter().find(|node| node["name"] == self.name.as_str()) else { return };
        let pid = node["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        self.child = pid.and_then(Pid::from_raw);
        self.binary = node["binary"].as_str().map(PathBuf::from);
    }
}

/// How a child ended.
struct Ended {
    code: Option<i32>,
    text: String,
}

/// Whether a child ended, and how. One that is no child (any more) counts as ended.
fn ended(child: Pid) -> Option<Ended> {
    match waitpid(Some(child), WaitOptions::NOHANG) {
        Ok(None) => None,
        Ok(Some((_, status))) => {
            let code = status.exit_status();
            let text = match (code, status.terminating_signal()) {
                (Some(code), _) => format!("exit status: {code}"),
                (None, Some(signal)) => format!("signal: {signal}"),
                (None, None) => "in some way".to_owned(),
            };
            Some(Ended { code, text })
        }
        Err(rustix::io::Errno::INTR) => None,
        Err(error) => Some(Ended { code: None, text: error.to_string() }),
    }
}

/// The program of this process, also when its file was replaced by a newer one since.
pub(crate) fn own_program() -> PathBuf {
    let named = std::env::current_exe().ok().filter(|path| path.exists());
    named.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_well_is_back_at_once_and_one_that_keeps_dying_ever_more_rarely() {
        let ms = Duration::from_millis;
        assert_eq!(pause(Duration::from_secs(60), Duration::ZERO), BACK_OFF.0);
        let mut last = Duration::ZERO;
        let pauses: Vec<Duration> = (0..10)
            .map(|_| {
                last = pause(ms(300), last);
                last
            })
            .collect();
        assert_eq!(pauses[..4], [ms(50), ms(100), ms(200), ms(400)]);
        assert_eq!(pauses[9], BACK_OFF.1, "and no more than that");
        assert_eq!(pause(ms(2500), ms(100)), BACK_OFF.0, "it was well in between");
        assert_eq!(pause(ms(2500), ms(400)), ms(800), "not for long, after so long a pause");
    }
}
