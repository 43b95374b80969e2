//! The layout of the rack file: which keys stand where, and their defaults. Judging the values against
//! one another is the business of `check`; this only reads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use palisade_protocol::wire::limits;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Places, Severity};
use super::rack::*;
use super::reader::{Reader, Section, whole};

/// Largest rack file that is read, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// Default data directory, from the working directory.
const DATA_DEFAULT: &str = "data";

/// A read rack file: best effort where findings are errors, so that `check` can go on and find more.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What it says.
    pub rack: Rack,
    /// What was wrong with its form.
    pub findings: Vec<Finding>,
    /// Where its keys stand.
    pub places: Places,
}

impl Parsed {
    /// Whether a finding forbids to go on.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Reads a rack file. `data_dir` overrides `[rack] data`.
pub fn parse(text: &str, data_dir: Option<&Path>) -> Parsed {
    let mut reader = Reader::new(text);
    if text.len() > FILE_BYTES_MAX {
        reader.error(0..0, "the file is larger than 1 MiB".to_owned(), "give a rack file".to_owned());
        return finish(reader, &DeTable::new(), data_dir);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let what = format!("not TOML: {}", error.message().lines().collect::<Vec<_>>().join(", "));
        reader.error(error.span().unwrap_or(0..0), what, "mend the syntax at this place".to_owned());
    }
    // A broken document is still read as far as it goes only for the rack's sake; what a reader would say
    // about the torn rest would mislead, so it is dropped.
    if errors.is_empty() {
        return finish(reader, document.get_ref(), data_dir);
    }
    let kept = reader.findings.clone();
    let mut parsed = finish(reader, document.get_ref(), data_dir);
    parsed.findings = kept;
    parsed
}

fn finish(mut reader: Reader, document: &DeTable<'_>, data_dir: Option<&Path>) -> Parsed {
    let mut root = Section::root(document);
    let rack = rack(&mut reader, &mut root, data_dir);
    reader.finish(&root);
    Parsed { rack, findings: reader.findings, places: reader.places }
}

fn rack(reader: &mut Reader, root: &mut Section<'_>, data_dir: Option<&Path>) -> Rack {
    let mut section = reader.table(root, "rack");
    let name = reader.string(&mut section, "name").unwrap_or_else(|| "rack".to_owned());
    let in_file = reader.string(&mut section, "data").unwrap_or_else(|| DATA_DEFAULT.to_owned());
    let data = data_dir.map_or_else(|| PathBuf::from(in_file), Path::to_path_buf);
    let metrics = reader.parsed(&mut section, "metrics", "an address such as 127.0.0.1:9464");
    let drills = reader.truth(&mut section, "drills");
    reader.finish(&section);
    let reactors = reactors(reader, root);
    let core = reactors.cores.first().copied().unwrap_or(0);
    let code = code(reader, root);
    let timers = timers(reader, root);
    let limits = limits(reader, root);
    let control = control(reader, root);
    let heads: Vec<Head> =
        reader.tables(root, "head").iter_mut().map(|section| head(reader, section, &data, core)).collect();
    let sleds =
        reader.tables(root, "sled").iter_mut().map(|section| sled(reader, section, &data, core)).collect();
    let exports = heads.first().map_or_else(Vec::new, |head| head.nbd.clone());
    let volumes = reader
        .tables(root, "volume")
        .iter_mut()
        .map(|section| volume(reader, section, &data, core, code, &exports))
        .collect();
    Rack { name, data, metrics, drills, reactors, code, timers, limits, control, heads, sleds, volumes }
}

fn reactors(reader: &mut Reader, root: &mut Section<'_>) -> Reactors {
    let mut section = reader.table(root, "reactors");
    let mut cores = Vec::new();
    let listed =
        reader.list(&mut section, "cores", |reader, path, item: &Spanned<DeValue<'_>>| {
            match whole(item.get_ref()) {
                Some(core) if core < 1 << 16 => cores.push(core as usize),
                _ => reader.error(
                    item.span(),
                    format!("`{path}` is no core number"),
                    "list cores as whole numbers, such as cores = [0, 1]".to_owned(),
                ),
            }
        });
    if !listed {
        cores.push(0);
    }
    let idle = reader.word(&mut section, "idle", &[("adaptive", Idle::Adaptive), ("spin", Idle::Spin)]);
    let spin_us = reader.number_to(&mut section, "spin_us", 1_000_000, 20) as u32;
    let pool_bytes = reader.size(&mut section, "pool").unwrap_or(256 << 20);
    let words = [("auto", HugePages::Auto), ("never", HugePages::Never), ("require", HugePages::Require)];
    let huge_pages = reader.word(&mut section, "huge_pages", &words);
    reader.finish(&section);
    Reactors { cores, idle, spin_us, pool_bytes, huge_pages }
}

fn code(reader: &mut Reader, root: &mut Section<'_>) -> Code {
    let mut section = reader.table(root, "code");
    let data = reader.number_to(&mut section, "k", limits::COLUMNS_MAX as u64, 4) as u8;
    let parity = reader.number_to(&mut section, "m", limits::COLUMNS_MAX as u64, 2) as u8;
    let unit_bytes = reader.size(&mut section, "unit").unwrap_or(limits::UNIT_DEFAULT as u64);
    let column_bytes = reader.size(&mut section, "column").unwrap_or(64 << 20);
    let columns = limits::COLUMNS_MAX as u64;
    let min_columns =
        reader.number_to(&mut section, "min_columns", columns, u64::from(data.saturating_add(1))) as u8;
    let shared_shelves = reader.truth(&mut section, "shared_shelves");
    reader.finish(&section);
    Code { data, parity, unit_bytes, column_bytes, min_columns, shared_shelves }
}

fn timers(reader: &mut Reader, root: &mut Section<'_>) -> Timers {
    let mut section = reader.table(root, "timers");
    let slow = reader.word(&mut section, "profile", &[("fast", 1), ("slow", 10)]);
    let mut ms = |key, default: u64| reader.number_to(&mut section, key, 3_600_000, default * slow);
    let timers = Timers {
        resend_ms: ms("resend_ms", 20),
        resend_ms_max: ms("resend_ms_max", 200),
        drain_ms: ms("drain_ms", 1000),
        flush_ms: ms("flush_ms", 2000),
        slow_io_ms: ms("slow_io_ms", 100),
        heartbeat_ms: ms("heartbeat_ms", 25),
        silence_ms: ms("silence_ms", 100),
        confirm_ms: ms("confirm_ms", 50),
        health_ms: ms("health_ms", 3000),
        device_fail_ms: ms("device_fail_ms", 30_000),
        salvage_after_ms: ms("salvage_after_ms", 10_000),
        trial_ms: ms("trial_ms", 60_000),
        checkpoint_ms: reader.number_to(&mut section, "checkpoint_ms", 86_400_000, 600_000),
    };
    reader.finish(&section);
    timers
}

fn limits(reader: &mut Reader, root: &mut Section<'_>) -> Limits {
    let mut section = reader.table(root, "limits");
    let limits = Limits {
        log_low_percent: reader.number_to(&mut section, "log_low_percent", 100, 40) as u8,
        log_high_percent: reader.number_to(&mut section, "log_high_percent", 100, 60) as u8,
        hot_cache_bytes: reader.size(&mut section, "hot_cache").unwrap_or(64 << 20),
        collect_percent: reader.number_to(&mut section, "collect_percent", 100, 50) as u8,
        rebuild_percent: reader.number_to(&mut section, "rebuild_percent", 100, 80) as u8,
        connections: reader.number_to(&mut section, "connections", 4096, 64) as u32,
        scrub_bytes: reader.size(&mut section, "scrub").unwrap_or(640 << 10),
        checkpoint_bytes: reader.size(&mut section, "checkpoint").unwrap_or(1 << 30),
    };
    reader.finish(&section);
    limits
}

fn control(reader: &mut Reader, root: &mut Section<'_>) -> Control {
    let mut section = reader.table(root, "control");
    let words = [("embedded", StoreKind::Embedded), ("memory", StoreKind::Memory), ("etcd", StoreKind::Etcd)];
    let store = reader.word(&mut section, "store", &words);
    let mut endpoints = Vec::new();
    reader.list(&mut section, "endpoints", |reader, path, item| {
        let text = match item.get_ref() {
            DeValue::String(text) => text.as_ref(),
            _ => "",
        };
        match endpoint(text) {
            Some(url) => endpoints.push(url),
            None => reader.error(
                item.span(),
                format!("`{path}` is no address of an etcd member"),
                "write \"http://10.0.0.1:2379\"".to_owned(),
            ),
        }
    });
    let lease_ms = reader.number_to(&mut section, "lease_ms", 3_600_000, 5000);
    let words = [("planned", Failover::Planned), ("auto", Failover::Auto)];
    let failover = reader.word(&mut section, "failover", &words);
    let replace_after_ms = reader.number_or_off(&mut section, "replace_after_ms", 86_400_000, Some(30_000));
    let isolate_after_ms = reader.number_or_off(&mut section, "isolate_after_ms", 86_400_000, Some(30_000));
    let balance_after_ms = reader.number_or_off(&mut section, "balance_after_ms", 86_400_000, None);
    reader.finish(&section);
    Control { store, endpoints, lease_ms, failover, replace_after_ms, isolate_after_ms, balance_after_ms }
}

/// `HOST:PORT` with or without `http://`, as a URL without a path.
fn endpoint(text: &str) -> Option<String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address = address.strip_suffix('/').unwrap_or(address);
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'),
    };
    sound.then(|| format!("http://{host}:{port}"))
}

/// What heads and sleds have in common.
struct NodeKeys {
    name: String,
    core: usize,
    shelf: String,
    power: String,
    fabric: Vec<SocketAddr>,
}

fn node(reader: &mut Reader, section: &mut Section<'_>, what: &str, core: usize) -> NodeKeys {
    let name = reader.name(section, what);
    NodeKeys {
        core: reader.number_to(section, "core", (1 << 16) - 1, core as u64) as usize,
        shelf: reader.string(section, "shelf").unwrap_or_else(|| name.clone()),
        power: reader.string(section, "power").unwrap_or_default(),
        fabric: fabric(reader, section),
        name,
    }
}

/// One address, or a list of one for each network.
fn fabric(reader: &mut Reader, section: &mut Section<'_>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    reader.one_or_more(section, "fabric", |reader, path, item| {
        let address = match item.get_ref() {
            DeValue::String(text) => text.parse().ok(),
            _ => None,
        };
        match address {
            Some(address) => found.push(address),
            None => reader.error(
                item.span(),
                format!("`{path}` is no datagram address"),
                "write \"127.0.0.1:7201\", or a list of one for each of two networks".to_owned(),
            ),
        }
    });
    found
}

fn head(reader: &mut Reader, section: &mut Section<'_>, data: &Path, core: usize) -> Head {
    let NodeKeys { name, core, shelf, power, fabric } = node(reader, section, "a head", core);
    let nbd = addresses(reader, section, data);
    let mut log_section = reader.table(section, "log");
    let log = device(reader, &mut log_section, format!("{name}/log"), data);
    let segment_bytes = reader.size(&mut log_section, "segment").unwrap_or(limits::SEGMENT_DEFAULT as u64);
    reader.finish(&log_section);
    reader.finish(section);
    Head { name, core, shelf, power, nbd, fabric, log, segment_bytes }
}

fn sled(reader: &mut Reader, section: &mut Section<'_>, data: &Path, core: usize) -> Sled {
    let NodeKeys { name, core, shelf, power, fabric } = node(reader, section, "a sled", core);
    let mut devices = Vec::new();
    for (index, mut table) in reader.tables(section, "device").into_iter().enumerate() {
        devices.push(device(reader, &mut table, format!("{name}/{index}"), data));
        reader.finish(&table);
    }
    reader.finish(section);
    Sled { name, core, shelf, power, fabric, devices }
}

fn device(reader: &mut Reader, section: &mut Section<'_>, name: String, data: &Path) -> Device {
    let kinds = [("file", 0), ("block", 1), ("memory", 2), ("nvme", 3)];
    let kind = match reader.word(section, "kind", &kinds) {
        // It is used whole. The keys of the others are strange to it, and told.
        3 => {
            let kind = DeviceKind::Nvme(reader.string(section, "address").unwrap_or_default());
            return Device { name, kind, size_bytes: 0, populate: false, sparse: false };
        }
        kind => {
            let path = reader.string(section, "path").map(PathBuf::from);
            match kind {
                0 => DeviceKind::File(path.unwrap_or_else(|| data.join(&name))),
                1 => DeviceKind::Block(path.unwrap_or_default()),
                _ => DeviceKind::Memory,
            }
        }
    };
    let size_bytes = reader.size(section, "size").unwrap_or(0);
    let populate = reader.truth(section, "populate");
    let sparse = reader.truth(section, "sparse");
    Device { name, kind, size_bytes, populate, sparse }
}

fn addresses(reader: &mut Reader, section: &mut Section<'_>, data: &Path) -> Vec<NbdAddress> {
    let mut found = Vec::new();
    reader.list(section, "nbd", |reader, path, item| {
        let text = match item.get_ref() {
            DeValue::String(text) => text.as_ref(),
            _ => "",
        };
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            found.push(NbdAddress::Unix(data.join(path)));
        } else if let Ok(address) = text.parse() {
            found.push(NbdAddress::Tcp(address));
        } else {
            reader.error(
                item.span(),
                format!("`{path}` is no address to export at"),
                "write \"127.0.0.1:10809\" or \"unix:PATH\"".to_owned(),
            );
        }
    });
    found
}

fn volume(
    reader: &mut Reader,
    section: &mut Section<'_>,
    data: &Path,
    core: usize,
    code: Code,
    exports: &[NbdAddress],
) -> Volume {
    let name = reader.name(section, "a volume");
    let size_bytes = reader.size(section, "size").unwrap_or(0);
    let kind = if reader.word(section, "kind", &[("replicated", false), ("bare", true)]) {
        let core = reader.number_to(section, "core", (1 << 16) - 1, core as u64) as usize;
        let own = addresses(reader, section, data);
        VolumeKind::Bare { core, nbd: if own.is_empty() { exports.to_vec() } else { own } }
    } else {
        let primary = reader.string(section, "primary").unwrap_or_default();
        let secondary = reader.string(section, "secondary");
        let reserves = head_names(reader, section);
        let code = volume_code(reader, section, code);
        let solo = reader.word(
            section,
            "solo",
            &[("wait", Solo::Wait), ("sleds", Solo::Sleds), ("local", Solo::Local)],
        );
        VolumeKind::Replicated { primary, secondary, reserves, code, solo }
    };
    reader.finish(section);
    Volume { name, size_bytes, kind }
}

/// `reserves`: a list of names of heads.
fn head_names(reader: &mut Reader, section: &mut Section<'_>) -> Vec<String> {
    let mut found = Vec::new();
    reader.list(section, "reserves", |reader, path, item| match item.get_ref() {
        DeValue::String(name) if !name.is_empty() => found.push(name.to_string()),
        _ => reader.wrong(&path, item, "the name of a head in quotes"),
    });
    found
}

/// A volume's own k and m; its least number of columns for a flush follows, unless they are the rack's.
fn volume_code(reader: &mut Reader, section: &mut Section<'_>, code: Code) -> Code {
    let most = limits::COLUMNS_MAX as u64;
    let data = reader.number_to(section, "k", most, u64::from(code.data)) as u8;
    let parity = reader.number_to(section, "m", most, u64::from(code.parity)) as u8;
    let same = (data, parity) == (code.data, code.parity);
    let min_columns = if same { code.min_columns } else { data.saturating_add(1) };
    Code { data, parity, min_columns, ..code }
}
