//! The command line: what people type, and the commands that need only the control socket or a rack file.
//! `up`, `node`, `control`, `inspect`, `bind`, `unbind` and `perf` are parsed here and carried out by the binary's
//! crate.

mod ask;
mod check;
mod show;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::model::Drill;

/// A rack of fenced block storage.
#[derive(Debug, Parser)]
#[command(
    name = "palisade",
    version,
    about = "A rack of fenced block storage",
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring up every node of this host and the control plane, until SIGINT or SIGTERM.
    Up(UpArgs),
    /// Run one node as a process of its own (control runs elsewhere, with `up --processes`), or upgrade a running one.
    Node(NodeArgs),
    /// Run a control plane and no nodes. With the etcd store several may stand by: one has the lease and serves,
    /// another follows when it dies.
    Control(ControlArgs),
    /// Judge a rack file, this host, and where the running rack and the file part; exit 1 on an error.
    Check(CheckArgs),
    /// Show the running rack.
    Status(AskArgs),
    /// Create, list, delete and flush volumes, or move one to its other head.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Take a head out of use, or into use again.
    #[command(subcommand)]
    Head(HeadVerb),
    /// Empty a sled before it is pulled, or take it into use again.
    #[command(subcommand)]
    Sled(SledVerb),
    /// Show what happened: which roles moved, when, why and under which number.
    Events(EventsArgs),
    /// List devices, give one up, or make one fail on purpose.
    #[command(subcommand)]
    Device(DeviceVerb),
    /// What concerns all nodes of the running rack.
    #[command(subcommand)]
    Rack(RackVerb),
    /// Say, as JSON, the version of this program and of the formats that it reads.
    Release,
    /// Apply a rack file to the running rack: make what is lacking; with --prune remove what is too much.
    Apply(ApplyArgs),
    /// Show what stands on a device or file, with checksum verdicts. Reads only.
    Inspect(InspectArgs),
    /// Take an NVMe controller that nobody uses from the kernel, for programs of this host (vfio-pci).
    Bind(BindArgs),
    /// Give a controller back to the kernel.
    Unbind(BindArgs),
    /// Generate load, measure, compare: see `palisade perf --help`.
    #[command(disable_help_flag = true)]
    Perf(PerfArgs),
}

/// `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Rack file.
    pub file: PathBuf,
    /// Data directory, in place of the file's.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Run every node as its own process, so that one can be killed.
    #[arg(long)]
    pub processes: bool,
    /// Write one line per volume here once all are served; the file appears whole.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// `node`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NodeArgs {
    /// Something else than to run a node.
    #[command(subcommand)]
    pub verb: Option<NodeVerb>,
    /// Rack file.
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// Which node of it.
    #[arg(long, required = true)]
    pub name: Option<String>,
    /// Data directory, in place of the file's.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

/// `node …`.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeVerb {
    /// Start a node again as another binary while the rack serves: a head gives its volumes to their other heads
    /// first; when the binary does not come up, the one of before is started again.
    Upgrade {
        /// Name of the node, or `control`.
        name: String,
        /// How.
        #[command(flatten)]
        how: UpgradeArgs,
    },
}

/// `rack …`.
#[derive(Clone, Debug, Subcommand)]
pub enum RackVerb {
    /// Say that the store of the control plane was put back from an older copy: nothing is decided about a volume
    /// before every head has said what it holds.
    Restored {
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Upgrade every node, one after the other, sleds first; ends at the first one that does not come up.
    Upgrade {
        /// How.
        #[command(flatten)]
        how: UpgradeArgs,
    },
}

/// How nodes are upgraded.
#[derive(Clone, Debug, Args)]
pub struct UpgradeArgs {
    /// The new binary (default: the one of this command).
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Seconds that each step of a node may take.
    #[arg(long, default_value_t = 180)]
    pub timeout: u64,
    /// Where to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `control`.
#[derive(Clone, Debug, Args)]
pub struct ControlArgs {
    /// Rack file.
    pub file: PathBuf,
    /// Data directory, in place of the file's; its control socket is served.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Rack file.
    pub file: PathBuf,
    /// Data directory, in place of the file's.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where to ask, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// Data directory of the rack (default: $PALISADE_DATA, then `data`).
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `volume …`.
#[derive(Clone, Debug, Subcommand)]
pub enum VolumeVerb {
    /// Create a volume.
    Create {
        /// Name; also the name of its export.
        name: String,
        /// Size, such as "4 GiB".
        #[arg(long)]
        size: String,
        /// Head that serves it (default: the one with the fewest volumes).
        #[arg(long)]
        primary: Option<String>,
        /// Head that follows (default: the next one).
        #[arg(long)]
        secondary: Option<String>,
        /// Further head that follows; may be given twice.
        #[arg(long = "reserve")]
        reserves: Vec<String>,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// List volumes.
    List {
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Delete a volume with everything in it.
    Delete {
        /// Name.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Move a volume from the head that serves it to the one that follows; both must be well.
    Failover {
        /// Name.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Let another head take over a volume whose lone head is gone, from its copies on sleds (`solo = "sleds"`).
    Salvage {
        /// Name.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Go on with a volume that is in doubt since the store was put back, without heads that are gone for good and
    /// may hold acknowledged writes that nobody else has; those are lost.
    Settle {
        /// Name.
        name: String,
        /// Head to go on without; may be given more than once.
        #[arg(long, required = true)]
        without: Vec<String>,
        /// These writes are given up.
        #[arg(long)]
        accept_loss: bool,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Fill another head with a volume; once it has everything it takes the place of the member that is away,
    /// of one that has to leave, or else of the secondary.
    Replace {
        /// Name.
        name: String,
        /// The head (default: the best one: declared, on another shelf and power, with the fewest volumes).
        #[arg(long)]
        with: Option<String>,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Move everything acknowledged so far from the log to the sleds.
    Flush {
        /// Name.
        name: String,
        /// Wait until it is done.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after so many seconds; the flush goes on.
        #[arg(long, default_value_t = 600)]
        timeout: u64,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `head …`.
#[derive(Clone, Debug, Subcommand)]
pub enum HeadVerb {
    /// Move every volume that a head serves to its other head, then fill third heads with what it follows, and
    /// place no new ones on it; `status` says when it is safe to stop.
    Drain {
        /// Name of the head.
        name: String,
        /// Wait until it is safe to stop.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after so many seconds; the draining goes on.
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Move every volume away from a head that is about to fail (BA-02), and place no new ones on it.
    Isolate {
        /// Name of the head.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Take an isolating head into use again; volumes stay where they are.
    Rejoin {
        /// Name of the head.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Take a drained head into use again; volumes stay where they are.
    Resume {
        /// Name of the head.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `sled …`.
#[derive(Clone, Debug, Subcommand)]
pub enum SledVerb {
    /// Move every column of a sled elsewhere, and place no new ones on it; `status` says when it is safe to pull.
    Drain {
        /// Name of the sled.
        name: String,
        /// Wait until it is safe to pull.
        #[arg(long)]
        wait: bool,
        /// Give up waiting after so many seconds; the draining goes on.
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Take a drained sled into use again.
    Resume {
        /// Name of the sled.
        name: String,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Only what is about this volume.
    #[arg(long)]
    pub volume: Option<String>,
    /// Only what happened within this time: `90s`, `15m`, `2h`, `3d`.
    #[arg(long, value_parser = watch::span)]
    pub since: Option<std::time::Duration>,
    /// Go on and show what happens, until interrupted; with --json one object a line.
    #[arg(long)]
    pub follow: bool,
    /// Where to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `device …`.
#[derive(Clone, Debug, Subcommand)]
pub enum DeviceVerb {
    /// List devices and logs.
    List {
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Give a device up: what comes in its place will be formatted when its node starts next.
    Replace {
        /// Name, such as `sled-1/0` or `head-1/log`.
        name: String,
        /// Format even what carries a foreign signature.
        #[arg(long)]
        force: bool,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Make a device of the running rack fail on purpose; needs `drills = true` in the rack file.
    Drill {
        /// Name, such as `sled-1/0` or `head-1/log`.
        name: String,
        /// How it fails; `clear` ends the drill.
        drill: Drill,
        /// Where to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// Rack file.
    pub file: PathBuf,
    /// Remove volumes and unused nodes that the file does not name.
    #[arg(long)]
    pub prune: bool,
    /// Data directory, in place of the file's.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Device or file.
    pub path: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bind`, `unbind`.
#[derive(Clone, Debug, Args)]
pub struct BindArgs {
    /// PCI address, such as 0000:01:00.0 (`lspci -D`).
    pub address: String,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// `perf`, passed through.
#[derive(Clone, Debug, Args)]
pub struct PerfArgs {
    /// Everything after `perf`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

fn release() -> Result<(), String> {
    let text = serde_json::to_string(&crate::release::Release::this()).map_err(|error| error.to_string())?;
    say(&text);
    Ok(())
}

/// Carries out a command that needs only the socket or a file, and gives its exit code. None: it is the
/// binary's to carry out.
pub fn run(verb: &Verb) -> Option<u8> {
    let outcome = match verb {
        Verb::Node(NodeArgs { verb: Some(verb), .. }) => upgrade::node(verb),
        Verb::Rack(verb) => upgrade::rack(verb),
        Verb::Release => release(),
        Verb::Up(_) | Verb::Node(_) | Verb::Control(_) | Verb::Inspect(_) | Verb::Perf(_) => return None,
        Verb::Bind(_) | Verb::Unbind(_) => return None,
        Verb::Check(args) => return Some(check::check(args)),
        Verb::Status(args) => ask::status(args),
        Verb::Volume(verb) => ask::volume(verb),
        Verb::Head(verb) => ask::head(verb),
        Verb::Sled(verb) => ask::sled(verb),
        Verb::Events(args) => watch::events(args),
        Verb::Device(verb) => ask::device(verb),
        Verb::Apply(args) => ask::apply(args),
    };
    Some(match outcome {
        Ok(()) => 0,
        Err(error) => {
            show::complain(&error);
            1
        }
    })
}

pub use check::load;
pub use show::{complain, say};
