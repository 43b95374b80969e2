//! The `palisade` binary: one program, any role of the rack, by config.

use clap::{Args, Command, FromArgMatches, Parser};
use palisade_control::cli::{self, Cli, InspectArgs, PerfArgs, Verb};
use palisade_control::config::Rack;
use palisade_node::binding::{bind, unbind};
use palisade_node::inspect::{inspect, table};
use palisade_node::rack_target::RackFactory;
use palisade_node::successor::Heritage;
use palisade_node::up::{UpOptions, control, node, up};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    if let Some(code) = cli::run(&cli.verb) {
        return ExitCode::from(code);
    }
    match cli.verb {
        Verb::Up(args) => {
            // A successor's own nodes hold the addresses.
            let heritage = Heritage::read();
            let Some(rack) = load(&args.file, args.data_dir.as_deref(), heritage.is_none()) else {
                if let Some(heritage) = heritage {
                    heritage.give_back("the rack file is refused");
                }
                return ExitCode::FAILURE;
            };
            let options = UpOptions {
                file: args.file,
                data_dir: args.data_dir,
                processes: args.processes,
                ready_file: args.ready_file,
            };
            up(&rack, &options)
        }
        // The host was judged by whoever brought control up, which holds some of the addresses itself.
        Verb::Node(args) => {
            let (file, name) = (args.file.unwrap_or_default(), args.name.unwrap_or_default());
            match load(&file, args.data_dir.as_deref(), false) {
                Some(rack) => node(&rack, &name),
                None => ExitCode::FAILURE,
            }
        }
        Verb::Control(args) => match load(&args.file, args.data_dir.as_deref(), false) {
            Some(rack) => control(&rack),
            None => ExitCode::FAILURE,
        },
        Verb::Inspect(args) => look(&args),
        Verb::Bind(args) => ExitCode::from(bind(&args)),
        Verb::Unbind(args) => ExitCode::from(unbind(&args)),
        Verb::Perf(args) => perf(args),
        _ => unreachable!("every other command was carried out by control's part"),
    }
}

/// Logs for people on a terminal, one JSON object a line with `PALISADE_LOG=json`. Warnings only, unless
/// `RUST_LOG` says otherwise: `palisade status` has the events of a healthy rack.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("PALISADE_LOG").is_ok_and(|form| form == "json") {
        builder.json().init();
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// The rack of a file; warnings are said and go on, errors are said and end it.
fn load(file: &Path, data_dir: Option<&Path>, host: bool) -> Option<Rack> {
    match cli::load(file, data_dir, host) {
        Ok((rack, warnings)) => {
            for warning in warnings {
                cli::complain(&warning);
            }
            Some(rack)
        }
        Err(errors) => {
            cli::complain(&errors);
            None
        }
    }
}

fn look(args: &InspectArgs) -> ExitCode {
    match inspect(&args.path, true) {
        Ok(value) if args.json => cli::say(&value.to_string()),
        Ok(value) => cli::say(table(&value).trim_end()),
        Err(error) => {
            cli::complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn perf(args: PerfArgs) -> ExitCode {
    let command = palisade_perf::cli::PerfArgs::augment_args(
        Command::new("palisade perf").about("Load, baselines and benches").arg_required_else_help(true),
    );
    let words = std::iter::once("palisade perf".into()).chain(args.args);
    let matches = command.get_matches_from(words);
    match palisade_perf::cli::PerfArgs::from_arg_matches(&matches) {
        Ok(args) => palisade_perf::cli::run(&args, &RackFactory),
        Err(error) => error.exit(),
    }
}
