//! The `palisade` binary: any role of the rack, by config.

use palisade_node::up::{UpOptions, load, node, up};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let file = PathBuf::from(&args[2]);
    let data_dir = args.iter().position(|a| a == "--data-dir").map(|i| PathBuf::from(&args[i + 1]));
    let Some(rack) = load(&file, data_dir.as_deref()) else { return ExitCode::FAILURE };
    if args[1] == "node" {
        let name = args.iter().position(|a| a == "--name").map(|i| args[i + 1].clone()).unwrap();
        return node(&rack, &name);
    }
    let options =
        UpOptions { file, data_dir, processes: args.iter().any(|a| a == "--processes"), ready_file: None };
    up(&rack, &options)
}
