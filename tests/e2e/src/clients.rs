//! Outside clients, run to their end within a time limit.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Passes on a good end.
    ///
    /// # Panics
    /// On any other.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// Runs a program.
///
/// # Panics
/// When it cannot be started or does not end in time: nothing may hang.
#[track_caller]
pub fn run(program: impl AsRef<Path>, args: &[&str], limit: Duration) -> Ended {
    let program = program.as_ref();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("cannot run {}: {e} (make deps installs what tests need)", program.display())
        });
    let drain = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _partial = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = drain(Box::new(child.stdout.take().expect("piped")));
    let err = drain(Box::new(child.stderr.take().expect("piped")));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if begin.elapsed() > limit {
            let _gone = child.kill();
            let _reaped = child.wait();
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            panic!("{} {args:?} did not end within {limit:?}\n{out}\n{err}", program.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ended { code: status.code(), out: text(out), err: text(err) }
}

/// SHA-256 of a file, by coreutils.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    let text = run("sha256sum", &[&path.display().to_string()], Duration::from_secs(120)).good().out;
    text.split_whitespace().next().expect("a digest").to_owned()
}

/// A file of pseudo-random bytes from a seed.
pub fn random_file(path: &Path, bytes: u64, seed: u64) {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file can be made"));
    let mut x = seed | 1;
    for _ in 0..bytes / 8 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        file.write_all(&x.to_le_bytes()).expect("room on the disk");
    }
    file.flush().expect("room on the disk");
}
