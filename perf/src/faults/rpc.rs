//! One question to the control socket of a rack, as any program would ask it: a line of JSON, a line back.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls a method; what control refuses is an error, too.
pub(super) fn call(socket: &Path, method: &str, params: &Value) -> Result<Value, String> {
    let failed = |e: std::io::Error| format!("{}: {method}: {e}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let mut answer: Value =
        serde_json::from_str(&line).map_err(|e| format!("{method}: no JSON ({e}): {line}"))?;
    match answer["error"].take() {
        Value::Null => Ok(answer["result"].take()),
        error => Err(format!("{method}: {}", error["message"].as_str().unwrap_or("refused"))),
    }
}
