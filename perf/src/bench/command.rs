//! Outside programs: found or not, pinned to a core, bounded in time, never left behind.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whether a program is in PATH.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A command pinned to a core by `taskset`; as root also ahead of other work, which disturbs less.
pub fn pinned(core: Option<usize>, program: &str) -> Command {
    let mut words: Vec<String> = Vec::new();
    if rustix::process::geteuid().is_root() && exists("nice") {
        words.extend(["nice", "-n", "-10"].map(str::to_owned));
    }
    if let Some(core) = core
        && exists("taskset")
    {
        words.extend(["taskset".into(), "-c".into(), core.to_string()]);
    }
    words.push(program.to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// A child that is killed when its owner forgets it.
#[derive(Debug)]
pub struct Kept(pub Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The program itself, without what pins it and without its arguments.
fn name_of(command: &Command) -> String {
    let mut words = std::iter::once(command.get_program()).chain(command.get_args());
    let wrapper = |word: &str| {
        let number = word.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
        number || matches!(word, "nice" | "taskset" | "-n" | "-c")
    };
    let word = words.find_map(|word| word.to_str().filter(|word| !wrapper(word)));
    Path::new(word.unwrap_or("?")).file_name().map_or_else(String::new, |name| name.to_string_lossy().into())
}

/// Runs to the end within `limit`; standard output, or what went wrong.
pub fn output(mut command: Command, limit: Duration) -> Result<String, String> {
    let name = name_of(&command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut kept = Kept(child.map_err(|e| format!("{name}: {e}"))?);
    let mut stdout = kept.0.stdout.take().expect("asked for a pipe");
    let mut stderr = kept.0.stderr.take().expect("asked for a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let begin = Instant::now();
    let status = loop {
        match kept.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() > limit => return Err(format!("{name}: no end after {limit:?}")),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => return Err(format!("{name}: {e}")),
        }
    };
    let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    let errors = errors.join().ok().and_then(Result::ok).unwrap_or_default();
    if status.success() {
        return Ok(text);
    }
    let tail: Vec<&str> = errors.lines().rev().take(3).collect();
    Err(format!("{name}: {status}: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gives_its_output_its_failure_or_its_overtime() {
        let run = |script: &str, limit| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            output(command, limit)
        };
        assert_eq!(run("echo hi", Duration::from_secs(5)).as_deref(), Ok("hi\n"));
        assert!(run("echo no >&2; exit 3", Duration::from_secs(5)).expect_err("fails").contains("no"));
        assert!(run("sleep 30", Duration::from_millis(50)).expect_err("late").contains("no end"));
        assert_eq!(name_of(&pinned(Some(1), "/usr/bin/fio")), "fio");
        assert!(!exists("surely-no-such-program"));
    }
}
