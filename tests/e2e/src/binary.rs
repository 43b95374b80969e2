//! Finds the `palisade` binary, and builds it if need be.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The binary: `PALISADE_BIN`, or the one in the target directory of this test, built on first use.
///
/// # Panics
/// When there is none and it cannot be built.
pub fn palisade() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(named) = std::env::var_os("PALISADE_BIN") {
                return PathBuf::from(named);
            }
            let test = std::env::current_exe().expect("a path of this test");
            let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/test").to_path_buf();
            let release = profile.ends_with("release");
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "-q", "-p", "palisade-node", "--bin", "palisade"]);
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            if release {
                build.arg("--release");
            }
            let status = build.status().expect("cargo runs");
            assert!(status.success(), "the palisade binary does not build");
            profile.join("palisade")
        })
        .clone()
}
