//! `palisade up --processes` and `palisade control` become another binary in the same process (`palisade node
//! upgrade control`): by exec, with the children as they are. Nothing waits for it but who asks control (EF-02). A
//! successor that cannot start gives its place back to the binary of before.

use crate::keeper::own_program;
use palisade_control::release::BINARY;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a successor is told: its children, and the binary of before.
pub(crate) const SUCCESSOR: &str = "PALISADE_SUCCESSOR";

/// What this process was told by the program that was in its place.
#[derive(Debug, Default)]
pub struct Heritage {
    /// Children, each with name, process id and binary.
    pub nodes: Vec<Value>,
    before: Option<PathBuf>,
}

impl Heritage {
    /// None, for a process that began as itself.
    pub fn read() -> Option<Self> {
        let told: Value = serde_json::from_str(&std::env::var(SUCCESSOR).ok()?).ok()?;
        let before = told["before"].as_str().map(PathBuf::from);
        Some(Self { nodes: told["nodes"].as_array().cloned().unwrap_or_default(), before })
    }

    /// Gives the place back to the binary of before, if there is one; returns when there is none, or it cannot be.
    pub fn give_back(&self, why: &str) {
        let Some(before) = &self.before else { return };
        eprintln!("palisade: {why}; {} goes on", before.display());
        let error = become_binary(before, &self.nodes, None);
        eprintln!("palisade: {error}");
    }
}

/// Becomes another binary, with the same arguments; returns only why it did not.
pub fn become_binary(binary: &Path, nodes: &[Value], before: Option<&Path>) -> String {
    let told = json!({ "nodes": nodes, "before": before }).to_string();
    let mut command = Command::new(binary);
    command.args(std::env::args_os().skip(1)).env(SUCCESSOR, told).env(BINARY, binary);
    let error = command.exec();
    format!("{} cannot be started: {error}", binary.display())
}

/// Becomes another binary, or goes on as this one from the start when that cannot be; returns only when neither can.
pub fn succeed(binary: &Path, nodes: &[Value]) -> String {
    let own = own_program();
    let first = become_binary(binary, nodes, Some(&own));
    eprintln!("palisade: {first}; {} goes on", own.display());
    become_binary(&own, nodes, None)
}
