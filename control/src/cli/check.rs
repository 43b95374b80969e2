//! `palisade check`, and the loading of a rack file that `up` and `node` do first.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::json;

use super::CheckArgs;
use super::show::{complain, say};
use crate::api::client::Client;
use crate::api::status::Status;
use crate::authority::Authority;
use crate::check::{self, HostFacts};
use crate::config::{self, Finding, Parsed, Rack, Severity, StoreKind};
use crate::lock::DataLock;
use crate::store::{Embedded, Store};

/// Reads a rack file, whatever its size claims to be.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let fail =
        |why: String| format!("{}: {why}; give a rack file, such as configs/one-box.toml", file.display());
    let system = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    };
    let mut text = Vec::new();
    let limit = config::FILE_BYTES_MAX as u64 + 1;
    fs::File::open(file)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|e| fail(system(e)))?;
    String::from_utf8(text).map_err(|_| fail("it is not a text file".to_owned()))
}

/// Reads and judges a rack file for `up` and `node`. Errors come rendered, one finding after another;
/// warnings of the file are returned beside the rack. `host` adds what only this host can tell.
pub fn load(file: &Path, data_dir: Option<&Path>, host: bool) -> Result<(Rack, Vec<String>), String> {
    let parsed = config::parse(&read(file)?, data_dir);
    let mut findings = check::file(&parsed);
    if host && !parsed.has_errors() {
        free(&parsed.rack.data)?;
    }
    if host {
        findings.extend(check::host(&parsed, &HostFacts::look(&parsed.rack), false));
    }
    check::sort(&mut findings);
    let render = |finding: &Finding| finding.render(file);
    let (errors, rest): (Vec<_>, Vec<_>) =
        findings.iter().partition(|finding| finding.severity == Severity::Error);
    if errors.is_empty() {
        Ok((parsed.rack, rest.into_iter().map(render).collect()))
    } else {
        Err(errors.into_iter().map(render).collect::<Vec<_>>().join("\n"))
    }
}

/// Says who holds a data directory. Without this the second `up` would hear of every address that the first
/// one listens at, and not of the first one.
fn free(data: &Path) -> Result<(), String> {
    if !data.join(DataLock::FILE).exists() {
        return Ok(());
    }
    DataLock::acquire(data).map(drop).map_err(|error| error.to_string())
}

/// What a rack is known as, and whether it runs.
fn known(parsed: &Parsed) -> Result<Option<(Status, bool)>, String> {
    let socket = parsed.rack.socket();
    if let Ok(mut client) = Client::connect(&socket) {
        let answer = client.call("rack.status", json!({}), super::ask::PATIENCE);
        let value = answer.map_err(|error| format!("the running rack does not answer: {error}"))?;
        let status = serde_json::from_value(value).map_err(|error| format!("unreadable status: {error}"))?;
        return Ok(Some((status, true)));
    }
    let store = parsed.rack.data.join(Embedded::FILE);
    // What an etcd knows of a stopped rack is not asked: its lease may be another's business just now.
    if parsed.rack.control.store == StoreKind::Etcd || !store.exists() {
        return Ok(None);
    }
    let _lock = DataLock::acquire(&parsed.rack.data).map_err(|error| error.to_string())?;
    let mut store = Embedded::open(&store).map_err(|error| error.to_string())?;
    let records = store.load().map_err(|error| error.to_string())?;
    let authority = Authority::load(records).map_err(|error| error.to_string())?;
    Ok(Some((Status::of(&authority, Some(&parsed.rack), &Default::default()), false)))
}

/// Every finding about a file, and what it was compared with.
fn judge(parsed: &Parsed) -> (Vec<Finding>, &'static str) {
    let mut findings = check::file(parsed);
    let (status, running) = match known(parsed) {
        Ok(Some((status, running))) => (Some(status), running),
        Ok(None) => (None, false),
        Err(what) => {
            let remedy = "stop what holds it, or look at its log".to_owned();
            findings.push(Finding { severity: Severity::Warning, place: None, what, remedy });
            (None, false)
        }
    };
    findings.extend(check::host(parsed, &HostFacts::look(&parsed.rack), running));
    if let Some(status) = &status {
        findings.extend(check::compare(parsed, status, running));
    }
    check::sort(&mut findings);
    let compared = match (status.is_some(), running) {
        (true, true) => "the running rack",
        (true, false) => "the store of the stopped rack",
        _ => "no rack (none was started here yet)",
    };
    (findings, compared)
}

/// `palisade check FILE`.
pub(super) fn check(args: &CheckArgs) -> u8 {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => {
            complain(&error);
            return 1;
        }
    };
    let parsed = config::parse(&text, args.data_dir.as_deref());
    let (findings, compared) = judge(&parsed);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let errors = count(Severity::Error);
    if args.json {
        let warnings = count(Severity::Warning);
        let file = args.file.display().to_string();
        let all = json!({
            "file": file, "errors": errors, "warnings": warnings, "compared_with": compared, "findings": findings
        });
        say(&format!("{all:#}"));
    } else {
        for finding in &findings {
            say(&finding.render(&args.file));
        }
        say(&format!(
            "{}: {errors} errors, {} warnings, {} notes; compared with {compared}",
            args.file.display(),
            count(Severity::Warning),
            count(Severity::Note)
        ));
    }
    u8::from(errors > 0)
}
