//! What a rack file says, resolved: defaults filled in, sizes in bytes, paths joined to the data directory.
//! Plain data without places; the places of its keys travel beside it in `Places`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A whole rack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rack {
    /// `[rack] name`: names the rack to people; the store gives its identity.
    pub name: String,
    /// `[rack] data`: store, sockets, lock and file devices live here. A relative path counts from the
    /// working directory, as every path of the file does; `--data-dir` overrides it.
    pub data: PathBuf,
    /// `[rack] metrics`: where the Prometheus endpoint listens; none when absent.
    pub metrics: Option<SocketAddr>,
    /// `[rack] drills`: `palisade device drill` may make devices of the running rack fail; off unless said.
    pub drills: bool,
    /// `[reactors]`.
    pub reactors: Reactors,
    /// `[code]`: the default erasure code and geometry.
    pub code: Code,
    /// `[timers]`.
    pub timers: Timers,
    /// `[limits]`.
    pub limits: Limits,
    /// `[control]`.
    pub control: Control,
    /// `[[head]]`, in file order.
    pub heads: Vec<Head>,
    /// `[[sled]]`, in file order.
    pub sleds: Vec<Sled>,
    /// `[[volume]]`, in file order.
    pub volumes: Vec<Volume>,
}

/// Polled threads of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reactors {
    /// `cores`: one pinned thread each.
    pub cores: Vec<usize>,
    /// `idle`: `"adaptive"` (default) or `"spin"`.
    pub idle: Idle,
    /// `spin_us`: how long an adaptive reactor looks for work before it parks (default 20).
    pub spin_us: u32,
    /// `pool`: buffer memory of each reactor (default 256 MiB).
    pub pool_bytes: u64,
    /// `huge_pages`: `"auto"` (default, falls back aloud), `"never"`, or `"require"`.
    pub huge_pages: HugePages,
}

/// What a reactor does without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spin a little, then park.
    Adaptive,
    /// Never park: for dedicated cores.
    Spin,
}

/// Whether buffer pools use 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// If the host has them; otherwise ordinary pages, and it says so.
    Auto,
    /// Ordinary pages.
    Never,
    /// Refuse to start without.
    Require,
}

/// Erasure code and geometry (EF-11). Fixed when a device is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `k`: data columns (default 4).
    pub data: u8,
    /// `m`: parity columns (default 2).
    pub parity: u8,
    /// `unit`: stripe unit (default 64 KiB).
    pub unit_bytes: u64,
    /// `column`: column size (default 64 MiB; 8 MiB on a one-box rack).
    pub column_bytes: u64,
    /// `min_columns`: columns that a flush needs (P-25; default k+1).
    pub min_columns: u8,
    /// `shared_shelves`: allow several columns of an extent on one shelf; off unless said (EF-11).
    pub shared_shelves: bool,
}

impl Code {
    /// Columns of an extent.
    pub fn columns(&self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }
}

/// Times of the machines. `profile = "slow"` multiplies every default by ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// `resend_ms`: first repeat of an unanswered request (default 20).
    pub resend_ms: u64,
    /// `resend_ms_max`: repeats double up to this (default 200).
    pub resend_ms_max: u64,
    /// `drain_ms`: a device that does not drain in this time is suspect (default 1000).
    pub drain_ms: u64,
    /// `flush_ms`: log data older than this is flushed though the log is not full (default 2000).
    pub flush_ms: u64,
    /// `slow_io_ms`: slower requests are logged with their stages (default 100).
    pub slow_io_ms: u64,
    /// `heartbeat_ms`: between two signs of life of a head to another (default 25).
    pub heartbeat_ms: u64,
    /// `silence_ms`: a head that gives none for so long is asked how it is (default 100).
    pub silence_ms: u64,
    /// `confirm_ms`: how long it may take to answer that (default 50).
    pub confirm_ms: u64,
    /// `health_ms`: a node silent towards control for so long is shown as away (default 3000).
    pub health_ms: u64,
    /// `device_fail_ms`: a device that was suspect for so long counts as failed and is rebuilt elsewhere
    /// (EF-22; default 30000).
    pub device_fail_ms: u64,
    /// `salvage_after_ms`: a lone head that was away for so long is followed from its copies on sleds.
    pub salvage_after_ms: u64,
    /// `trial_ms`: another binary has so long to bring its node up before the one of before runs again (default 60000).
    pub trial_ms: u64,
    /// `checkpoint_ms`: time after which a checkpoint of a volume's index is written to sleds though less than
    /// `checkpoint` was flushed (BA-01; default 600000).
    pub checkpoint_ms: u64,
}

/// Bounds that depend on the host rather than on the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `log_low_percent`: flush until the log is this full (default 40).
    pub log_low_percent: u8,
    /// `log_high_percent`: start to flush at the latest here (default 60).
    pub log_high_percent: u8,
    /// `hot_cache`: appended payload that a head keeps in memory (default 64 MiB).
    pub hot_cache_bytes: u64,
    /// `collect_percent`: extents with a lower live share are collected (default 50).
    pub collect_percent: u8,
    /// `rebuild_percent`: share of the time that a rebuild may take while clients are at work (default 80).
    pub rebuild_percent: u8,
    /// `connections`: client connections per export address (default 64).
    pub connections: u32,
    /// `scrub`: bytes a second that each device of a sled scrubs, 0 for none (default 640 KiB).
    pub scrub_bytes: u64,
    /// `checkpoint`: flushed bytes after which a checkpoint of a volume's index is written to sleds, 0 for never
    /// (BA-01; default 1 GiB).
    pub checkpoint_bytes: u64,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `store`: `"embedded"` (default), `"memory"` or `"etcd"`.
    pub store: StoreKind,
    /// `endpoints`: URLs of the members of an etcd, as `"http://10.0.0.1:2379"` or without `http://`; only with
    /// `store = "etcd"`. The rack's records stand under its name there, so it must be the only rack of it.
    pub endpoints: Vec<String>,
    /// `lease_ms`: a control plane that was silent towards etcd for so long may be followed by another (EF-24;
    /// default 5000). etcd counts in whole seconds and gives at least 2 at its default timers.
    pub lease_ms: u64,
    /// `failover`: `"planned"` (default) or `"auto"`.
    pub failover: Failover,
    /// `replace_after_ms`: with `failover = "auto"`, a member that was away for so long is replaced by another
    /// head (MA-21; default 30000); `"off"`: only by people. One that lost its log or leaves for good is
    /// replaced at once.
    pub replace_after_ms: Option<u64>,
    /// `balance_after_ms`: with `failover = "auto"`, a head that served much more than others for so long gives a
    /// volume to its secondary (EF-28; default "off").
    pub balance_after_ms: Option<u64>,
    /// `isolate_after_ms`: with `failover = "auto"`, volumes leave a head whose log device is many times as slow as
    /// those of other heads, or whose networks are bad, for so long, and at once one whose log device errs
    /// (BA-02; default 30000), if another head can take its place; `"off"`: only by people, who are told.
    pub isolate_after_ms: Option<u64>,
}

/// What moves roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Only people: `palisade volume failover`, `palisade head drain`.
    Planned,
    /// Heads, too, when another one is silent.
    Auto,
}

/// Where control keeps its decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A crash-safe file in the data directory.
    Embedded,
    /// Forgotten at exit; the only sensible one for racks of memory devices.
    Memory,
    /// An etcd cluster, for racks of several hosts: control runs under a lease that moves (EF-24).
    Etcd,
}

/// `[[head]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `name`.
    pub name: String,
    /// `core`: the reactor that hosts it (default: the first).
    pub core: usize,
    /// `shelf`: fault domain (default: its own name).
    pub shelf: String,
    /// `power`: fault domain (default "").
    pub power: String,
    /// `nbd`: where its volumes are exported.
    pub nbd: Vec<NbdAddress>,
    /// `fabric`: its datagram addresses, one on each network (EF-31), in the same order at every node;
    /// needed only when nodes are processes of their own.
    pub fabric: Vec<SocketAddr>,
    /// `log`: the device of its log.
    pub log: Device,
    /// `log.segment`: bytes of a log segment (default 8 MiB).
    pub segment_bytes: u64,
}

/// `[[sled]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sled {
    /// `name`.
    pub name: String,
    /// `core`: the reactor that hosts it (default: the first).
    pub core: usize,
    /// `shelf`: fault domain (default: its own name).
    pub shelf: String,
    /// `power`: fault domain (default "").
    pub power: String,
    /// `fabric`: its datagram addresses, one on each network (EF-31), in the same order at every node;
    /// needed only when nodes are processes of their own.
    pub fabric: Vec<SocketAddr>,
    /// `[[sled.device]]`.
    pub devices: Vec<Device>,
}

/// A device of a head (its log) or of a sled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name in the store: `NODE/log`, or `NODE/0`, `NODE/1`, … by position.
    pub name: String,
    /// `kind` and `path`.
    pub kind: DeviceKind,
    /// `size`; 0 for a block device means all of it. NVMe controllers are used whole.
    pub size_bytes: u64,
    /// Whether a memory device takes all its memory at the start rather than as it is written.
    pub populate: bool,
    /// `sparse`: whether a file that is made takes its blocks as it is written, and may find its file system full
    /// then, rather than all of them at once.
    pub sparse: bool,
}

/// What stands behind a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A file, created at the first start; default path `DATA/NODE/log` or `DATA/NODE/INDEX`.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// An NVMe controller that its node drives itself, by the PCI address in `address`: no kernel in the way.
    Nvme(String),
    /// Memory of the process: durable for its life (P-09).
    Memory,
}

impl DeviceKind {
    /// Its path, where it has one.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            Self::Nvme(_) | Self::Memory => None,
        }
    }
}

/// Where an export listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NbdAddress {
    /// `"127.0.0.1:10809"`.
    Tcp(SocketAddr),
    /// `"unix:PATH"`, relative to the data directory.
    Unix(PathBuf),
}

impl NbdAddress {
    /// The address as NBD clients write it for one export.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        }
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[[volume]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `name`: also the name of its export.
    pub name: String,
    /// `size`.
    pub size_bytes: u64,
    /// `kind`: `"replicated"` (default) or `"bare"`.
    pub kind: VolumeKind,
}

/// How a volume is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// The full path: log, replica, fence, erasure code.
    Replicated {
        /// `primary`: name of a head.
        primary: String,
        /// `secondary`: name of another head. None: a group of one, which `check` warns of.
        secondary: Option<String>,
        /// `reserves`: names of further heads that follow, in order (BA-09).
        reserves: Vec<String>,
        /// `k`, `m`: its own code, otherwise the rack's.
        code: Code,
        /// `solo`: `"wait"` (default), `"sleds"` or `"local"`.
        solo: Solo,
    },
    /// A memory device exported without heads: the baseline of benches.
    Bare {
        /// `core`: the reactor that serves it (default: the first).
        core: usize,
        /// `nbd`: where (default: the addresses of the first head, in one list of exports).
        nbd: Vec<NbdAddress>,
    },
}

/// What a volume does when all but one of its heads are gone (P-30).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solo {
    /// That one serves reads; writes wait until there are two again: what is acknowledged stands on two
    /// heads.
    #[default]
    Wait,
    /// That one serves everything, and acknowledges a write when sleds hold copies of it, from which another
    /// head can take over.
    Sleds,
    /// That one serves everything: what it acknowledges alone and is not on the sleds yet is lost with
    /// it.
    Local,
}

impl Volume {
    /// Names of the heads that are its members, primary first.
    pub fn members(&self) -> Vec<&str> {
        match &self.kind {
            VolumeKind::Replicated { primary, secondary, reserves, .. } => {
                let reserves = reserves.iter().map(String::as_str);
                std::iter::once(primary.as_str()).chain(secondary.as_deref()).chain(reserves).collect()
            }
            VolumeKind::Bare { .. } => Vec::new(),
        }
    }
}

impl Rack {
    /// The datagram addresses of a node.
    pub fn fabric(&self, node: &str) -> &[SocketAddr] {
        let head = self.head(node).map(|head| &head.fabric);
        head.or_else(|| self.sled(node).map(|sled| &sled.fabric)).map_or(&[], |list| list)
    }

    /// Every datagram address with its node, its place in the file, and its network, counted from 0.
    pub fn fabrics(&self) -> Vec<(&str, String, usize, SocketAddr)> {
        let heads = self.heads.iter().enumerate();
        let heads = heads.map(|(index, head)| (&head.name, format!("head[{index}]"), &head.fabric));
        let sleds = self.sleds.iter().enumerate();
        let sleds = sleds.map(|(index, sled)| (&sled.name, format!("sled[{index}]"), &sled.fabric));
        let mut found = Vec::new();
        for (name, node, list) in heads.chain(sleds) {
            for (network, address) in list.iter().enumerate() {
                // A single address may be written without brackets.
                let path = if list.len() == 1 { String::new() } else { format!("[{network}]") };
                found.push((name.as_str(), format!("{node}.fabric{path}"), network, *address));
            }
        }
        found
    }

    /// A head by name.
    pub fn head(&self, name: &str) -> Option<&Head> {
        self.heads.iter().find(|head| head.name == name)
    }

    /// A sled by name.
    pub fn sled(&self, name: &str) -> Option<&Sled> {
        self.sleds.iter().find(|sled| sled.name == name)
    }

    /// A volume by name.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// Volume bytes that checkpoints on every head's log must have room for (P-32): twice the declared
    /// volumes, for those made at run time.
    pub fn checkpoint_bytes(&self) -> u64 {
        let declared = self.volumes.iter().fold(0u64, |sum, volume| sum.saturating_add(volume.size_bytes));
        declared.max(1 << 30).saturating_mul(2)
    }

    /// Where control serves its API.
    pub fn socket(&self) -> PathBuf {
        self.data.join("control.sock")
    }
}
