//! What a binary is: its version and the formats that it reads. A new one is looked at before it takes a node's
//! place: it must run at all, and know the major version of everything that the running one keeps or says.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use palisade_protocol::fabric;
use palisade_protocol::log::format as log_format;
use palisade_protocol::sled::format as sled_format;
use serde::{Deserialize, Serialize};

/// How long a binary may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of its answer that are read.
const ANSWER_MAX: u64 = 64 << 10;

/// What a binary says of itself (`palisade release`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// Version.
    pub version: String,
    /// Major version of each format on media and between processes.
    pub formats: BTreeMap<String, u32>,
}

impl Release {
    /// This binary.
    pub fn this() -> Self {
        let formats = [
            ("api", crate::api::API_VERSION),
            ("store", crate::authority::FORMAT),
            ("log", u32::from(log_format::MAJOR)),
            ("sled", u32::from(sled_format::VERSION.0)),
            ("fabric", u32::from(fabric::VERSION)),
        ];
        let formats = formats.into_iter().map(|(name, major)| (name.to_owned(), major)).collect();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), formats }
    }

    /// Whether `new` may take over what this one keeps; an error says which format it does not read.
    pub fn hand_over(&self, new: &Self) -> Result<(), String> {
        for (format, major) in &self.formats {
            match new.formats.get(format) {
                Some(theirs) if theirs == major => {}
                // Older stores are read.
                Some(theirs) if format == "store" && theirs > major => {}
                Some(theirs) => {
                    return Err(format!("it has version {theirs} of the {format} format, this rack {major}"));
                }
                None => return Err(format!("it does not know the {format} format")),
            }
        }
        Ok(())
    }
}

/// Looks at a binary that is to take a node's place: it exists, may be executed, answers `--version` in time, and
/// reads the formats of this one. An error names the binary and the remedy.
pub fn examine(binary: &Path) -> Result<Release, String> {
    let unfit = |what: String| {
        format!("{} cannot take over: {what}; nothing was changed, name another --binary", binary.display())
    };
    let meta = std::fs::metadata(binary).map_err(|error| unfit(error.to_string()))?;
    if !meta.is_file() {
        return Err(unfit("it is no file".to_owned()));
    }
    let version = answer(binary, "--version").map_err(&unfit)?;
    if !version.starts_with("palisade ") {
        return Err(unfit("its --version is not that of a palisade".to_owned()));
    }
    let said = answer(binary, "release").map_err(&unfit)?;
    let release: Release = serde_json::from_str(&said)
        .map_err(|error| unfit(format!("what it says of its formats cannot be read: {error}")))?;
    Release::this().hand_over(&release).map_err(unfit)?;
    Ok(release)
}

/// Standard output of a binary that ends well and in time.
fn answer(binary: &Path, word: &str) -> Result<String, String> {
    let mut command = Command::new(binary);
    command.arg(word).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let Some(out) = child.stdout.take() else { return Err("it has no standard output".to_owned()) };
    // It may write more than a pipe holds.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.take(ANSWER_MAX).read_to_string(&mut text).map(|_| text)
    });
    let begin = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It is waited for, so that nothing of it stays.
                let _gone = child.kill();
                let _reaped = child.wait();
                return Err(format!("`{word}` did not end within {PATIENCE:?}"));
            }
        }
    };
    if !ended.success() {
        return Err(format!("`{word}` ended with {ended}"));
    }
    match reader.join() {
        Ok(Ok(text)) => Ok(text),
        _ => Err(format!("what `{word}` says cannot be read")),
    }
}

/// Where a node that is to become another binary leaves its path for whoever starts it again.
pub fn next_binary(data: &Path, node: &str) -> PathBuf {
    data.join(format!("{node}.next-binary"))
}

/// Exit code of a node that wants to be started again as another binary.
pub const UPGRADE_CODE: u8 = 85;
/// Set for nodes that are started again when they end.
pub const SUPERVISED: &str = "PALISADE_SUPERVISED";
/// Set for nodes that were started as another binary than their supervisor's: its path.
pub const BINARY: &str = "PALISADE_BINARY";

/// The binary of this process, as people named it.
pub fn own_binary() -> String {
    std::env::var(BINARY)
        .or_else(|_| std::env::current_exe().map(|path| path.display().to_string()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A program of a few lines of shell.
    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
        path
    }

    fn speaking(release: &Release) -> String {
        let json = serde_json::to_string(release).expect("JSON");
        format!("case \"$1\" in --version) echo palisade 9.9.9;; release) echo '{json}';; *) exit 1;; esac")
    }

    #[test]
    fn a_binary_is_taken_only_when_it_runs_and_reads_every_format() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut release = Release { version: "9.9.9".to_owned(), ..Release::this() };
        let good = script(dir.path(), "good", &speaking(&release));
        assert_eq!(examine(&good), Ok(release.clone()));
        release.formats.insert("log".to_owned(), 77);
        let newer = script(dir.path(), "newer", &speaking(&release));
        assert!(examine(&newer).is_err_and(|why| why.contains("version 77 of the log format")));
        release.formats.remove("log");
        let without = script(dir.path(), "without", &speaking(&release));
        assert!(examine(&without).is_err_and(|why| why.contains("does not know the log format")));
        release = Release::this();
        release.formats.insert("colour".to_owned(), 1);
        let more = script(dir.path(), "more", &speaking(&release));
        assert!(examine(&more).is_ok(), "what it knows beyond that does not matter");
    }

    #[test]
    fn what_is_no_palisade_is_refused_with_its_name_and_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let plain = dir.path().join("plain");
        fs::write(&plain, b"text").expect("written");
        let cases = [
            (dir.path().join("absent"), "No such file"),
            (dir.path().to_path_buf(), "it is no file"),
            (plain, "Permission denied"),
            (script(dir.path(), "other", "echo something else"), "not that of a palisade"),
            (script(dir.path(), "failing", "exit 3"), "ended with exit status: 3"),
            (script(dir.path(), "garbled", "echo palisade 1.0"), "cannot be read"),
        ];
        for (path, reason) in cases {
            let why = examine(&path).expect_err("refused");
            assert!(why.contains(reason) && why.contains(&path.display().to_string()), "{reason}: {why}");
        }
    }
}
