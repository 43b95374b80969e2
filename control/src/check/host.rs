//! The host against the file: cores, memory, huge pages, devices, ports. What was seen is data
//! ([`HostFacts`]), so that every finding can be tested without that host.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::Judge;
use crate::config::size::show_size;
use crate::config::{Device, DeviceKind, Finding, HugePages, Idle, NbdAddress, Parsed, Rack, VolumeKind};

/// What was seen at the path of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathFacts {
    /// Something is there.
    pub exists: bool,
    /// It is a block device.
    pub block: bool,
    /// It is an ordinary file.
    pub file: bool,
    /// Its size.
    pub bytes: u64,
    /// Bytes of a file for which its file system has set blocks aside.
    pub allocated: u64,
    /// Free space of the file system that holds it, or would.
    pub free_bytes: u64,
    /// That file system lives in memory.
    pub tmpfs: bool,
    /// A block device with a volatile write cache.
    pub volatile_cache: bool,
}

/// What was seen of a PCI function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciFacts {
    /// It is there.
    pub exists: bool,
    /// An IOMMU confines it.
    pub confined: bool,
    /// The driver that has it.
    pub driver: Option<String>,
}

/// What was seen of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Core numbers that exist; empty: not known.
    pub cores: Vec<usize>,
    /// Memory that programs may take; 0: not known.
    pub memory_bytes: u64,
    /// Free 2 MiB pages in bytes.
    pub huge_bytes: u64,
    /// Devices by path.
    pub paths: BTreeMap<PathBuf, PathFacts>,
    /// Functions that racks drive themselves, by PCI address.
    pub functions: BTreeMap<String, PciFacts>,
    /// Addresses that cannot be had, and why.
    pub busy: BTreeMap<String, String>,
}

/// Judges the host. `running`: the rack runs on it now, so that its own ports and memory are no findings.
pub fn host(parsed: &Parsed, facts: &HostFacts, running: bool) -> Vec<Finding> {
    let mut judge = Judge::new(parsed);
    cores(&mut judge, facts);
    if !running {
        memory(&mut judge, facts);
        ports(&mut judge, facts);
    }
    for (path, device) in devices(&parsed.rack) {
        if let Some(seen) = device.kind.path().and_then(|at| facts.paths.get(at)) {
            device_facts(&mut judge, &path, device, seen);
        }
        if let DeviceKind::Nvme(address) = &device.kind
            && let Some(seen) = facts.functions.get(address)
        {
            function_facts(&mut judge, &path, address, seen);
        }
    }
    judge.findings
}

fn devices(rack: &Rack) -> Vec<(String, &Device)> {
    let heads = rack.heads.iter().enumerate().map(|(index, head)| (format!("head[{index}].log"), &head.log));
    let sleds = rack.sleds.iter().enumerate().flat_map(|(index, sled)| {
        let devices = sled.devices.iter().enumerate();
        devices.map(move |(at, device)| (format!("sled[{index}].device[{at}]"), device))
    });
    heads.chain(sleds).collect()
}

fn cores(judge: &mut Judge<'_>, facts: &HostFacts) {
    let reactors = &judge.rack.reactors;
    for (index, core) in reactors.cores.iter().enumerate() {
        if !facts.cores.is_empty() && !facts.cores.contains(core) {
            let what = format!("core {core} does not exist here; this host has {:?}", facts.cores);
            judge.error(&format!("reactors.cores[{index}]"), what, "list cores of this host");
        }
    }
    let all = facts.cores.iter().all(|core| reactors.cores.contains(core));
    if reactors.idle == Idle::Spin && all && !facts.cores.is_empty() {
        let what = "spinning reactors take every core of this host: clients and control starve";
        judge.warning("reactors.idle", what, "leave a core free, or use idle = \"adaptive\"");
    }
}

fn memory(judge: &mut Judge<'_>, facts: &HostFacts) {
    let rack = judge.rack;
    let pools = rack.reactors.pool_bytes.saturating_mul(rack.reactors.cores.len() as u64);
    let in_memory = devices(rack)
        .into_iter()
        .filter(|(_, device)| device.kind == DeviceKind::Memory)
        .fold(0u64, |sum, (_, device)| sum.saturating_add(device.size_bytes));
    let bare = rack.volumes.iter().filter(|volume| matches!(volume.kind, VolumeKind::Bare { .. }));
    let wanted =
        bare.fold(pools.saturating_add(in_memory), |sum, volume| sum.saturating_add(volume.size_bytes));
    if facts.memory_bytes > 0 && wanted > facts.memory_bytes {
        let what = format!(
            "pools, memory devices and bare volumes take {}, this host has {} free",
            show_size(wanted),
            show_size(facts.memory_bytes)
        );
        judge.error("reactors.pool", what, "make them smaller");
    }
    if facts.huge_bytes >= pools || rack.reactors.huge_pages == HugePages::Never {
        return;
    }
    let remedy = format!("run `sysctl vm.nr_hugepages={}` as root", pools.div_ceil(2 << 20));
    let what =
        format!("{} of free huge pages, the pools want {}", show_size(facts.huge_bytes), show_size(pools));
    match rack.reactors.huge_pages {
        HugePages::Require => judge.error("reactors.huge_pages", what, remedy),
        _ => judge.note("reactors.huge_pages", format!("{what}: ordinary pages will serve"), remedy),
    }
}

fn ports(judge: &mut Judge<'_>, facts: &HostFacts) {
    for (path, address) in listeners(judge.rack) {
        if let Some(why) = facts.busy.get(&address.to_string()) {
            let what = format!("{address} cannot be had: {why}");
            judge.error(&path, what, "stop what listens there, or choose another address");
        }
    }
    for (_, path, _, address) in judge.rack.fabrics() {
        if let Some(why) = facts.busy.get(&format!("udp {address}")) {
            let what = format!("{address} cannot be had: {why}");
            judge.warning(&path, what, "needed only by `up --processes` and `node`: choose another address");
        }
    }
}

fn listeners(rack: &Rack) -> Vec<(String, SocketAddr)> {
    let mut found: Vec<(String, SocketAddr)> =
        rack.metrics.map(|address| ("rack.metrics".to_owned(), address)).into_iter().collect();
    for (index, head) in rack.heads.iter().enumerate() {
        for (at, address) in head.nbd.iter().enumerate() {
            if let NbdAddress::Tcp(address) = address {
                found.push((format!("head[{index}].nbd[{at}]"), *address));
            }
        }
    }
    found
}

fn device_facts(judge: &mut Judge<'_>, path: &str, device: &Device, seen: &PathFacts) {
    let name = device.kind.path().map_or_else(String::new, |path| path.display().to_string());
    match &device.kind {
        DeviceKind::Block(_) => block_facts(judge, path, &name, device.size_bytes, seen),
        DeviceKind::File(_) => file_facts(judge, path, &name, device, seen),
        DeviceKind::Nvme(_) | DeviceKind::Memory => {}
    }
}

/// Why a node could not have a controller, and what helps.
fn function_facts(judge: &mut Judge<'_>, path: &str, address: &str, seen: &PciFacts) {
    let at = format!("{path}.address");
    if !seen.exists {
        let what = format!("there is no PCI function {address}");
        return judge.error(&at, what, "plug it in, or mend the address: `ls /sys/bus/pci/devices`");
    }
    if !seen.confined {
        let what = format!("no IOMMU confines {address}: a device could write anywhere in memory");
        let remedy = "switch the IOMMU on: in the BIOS (VT-d, AMD-Vi), and with `intel_iommu=on` on the kernel's \
                      command line where it is an Intel";
        return judge.error(&at, what, remedy);
    }
    let driver = seen.driver.as_deref().unwrap_or("no driver");
    if driver != "vfio-pci" {
        let what = format!("{address} is with {driver}, and no program can drive it");
        judge.error(&at, what, format!("run `palisade bind {address}` as root"));
    }
}

fn block_facts(judge: &mut Judge<'_>, path: &str, name: &str, bytes: u64, seen: &PathFacts) {
    let at = format!("{path}.path");
    if !seen.exists {
        return judge.error(&at, format!("there is no device {name}"), "plug it in, or mend the path");
    }
    if !seen.block {
        let what = format!("{name} is no block device");
        return judge.error(&at, what, "use kind = \"file\", or mend the path");
    }
    if bytes > seen.bytes && seen.bytes > 0 {
        let what = format!("{name} holds {}, the file says {}", show_size(seen.bytes), show_size(bytes));
        judge.error(&format!("{path}.size"), what, "give its size, or leave size out to take all of it");
    }
    if seen.volatile_cache {
        let what = format!("{name} has a volatile write cache: every write is flushed (P-09)");
        judge.note(&at, what, "power-protected devices are faster; nothing needs to be done");
    }
}

fn file_facts(judge: &mut Judge<'_>, path: &str, name: &str, device: &Device, seen: &PathFacts) {
    let bytes = device.size_bytes;
    let (at, size) = (format!("{path}.path"), format!("{path}.size"));
    if seen.exists && !seen.file {
        let what = format!("{name} is not an ordinary file");
        return judge.error(&at, what, "use kind = \"block\", or mend the path");
    }
    if seen.exists && seen.bytes > 0 && seen.bytes != bytes {
        let what = format!("{name} has {}, the file says {}", show_size(seen.bytes), show_size(bytes));
        judge.error(&size, what, "sizes are fixed when a device is formatted: write the old one");
    }
    if seen.tmpfs {
        let what = format!("{name} lies on a file system in memory: it is lost with the host's power (P-09)");
        judge.warning(&at, what, "put it on a disk");
    }
    if !seen.exists && seen.free_bytes < bytes {
        let (wants, free) = (show_size(bytes), show_size(seen.free_bytes));
        let what = format!("{name} wants {wants}, its file system has {free} free");
        judge.warning(&size, what, "free space, or make the device smaller");
    }
    if seen.exists && seen.file && seen.allocated < seen.bytes {
        let (holds, size) = (show_size(seen.allocated), show_size(seen.bytes));
        let what = format!(
            "{name} is sparse: {holds} of {size} are set aside, and writes fail when its file system is full"
        );
        let remedy =
            format!("run `fallocate --keep-size --length {} {name}`, which is safe at any time", seen.bytes);
        judge.warning(&at, what, remedy);
    } else if !seen.exists && device.sparse {
        let what = format!("{name} will be sparse: writes fail when its file system is full");
        judge.note(&format!("{path}.sparse"), what, "leave `sparse` out, unless space is short on purpose");
    }
}

impl HostFacts {
    /// Looks at this host, without changing anything on it.
    pub fn look(rack: &Rack) -> Self {
        let mut facts = Self { cores: online_cores(), ..Self::default() };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        facts.memory_bytes = meminfo(&memory, "MemAvailable").saturating_mul(1024);
        let page = meminfo(&memory, "Hugepagesize").saturating_mul(1024);
        facts.huge_bytes = meminfo(&memory, "HugePages_Free").saturating_mul(page);
        for (_, device) in devices(rack) {
            if let Some(path) = device.kind.path() {
                facts.paths.insert(path.clone(), look_at(path));
            }
            if let DeviceKind::Nvme(address) = &device.kind {
                facts.functions.insert(address.clone(), look_at_function(Path::new("/sys"), address));
            }
        }
        for (_, address) in listeners(rack) {
            if let Err(error) = TcpListener::bind(address) {
                facts.busy.insert(address.to_string(), error.to_string());
            }
        }
        for (_, _, _, address) in rack.fabrics() {
            if let Err(error) = UdpSocket::bind(address) {
                facts.busy.insert(format!("udp {address}"), error.to_string());
            }
        }
        facts
    }
}

/// Cores listed as `0-3,6`; empty when the system does not tell.
fn online_cores() -> Vec<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(first..=last.min(first + 4096));
        }
    }
    cores
}

/// A number of /proc/meminfo; 0 when it is not there.
fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn look_at(path: &Path) -> PathFacts {
    let mut facts = PathFacts::default();
    if let Ok(meta) = fs::metadata(path) {
        facts.exists = true;
        facts.block = meta.file_type().is_block_device();
        facts.file = meta.is_file();
        facts.bytes = meta.len();
        facts.allocated = meta.blocks().saturating_mul(512);
    }
    if facts.block {
        let name = fs::canonicalize(path).ok().and_then(|path| Some(path.file_name()?.to_owned()));
        let sys = name.map(|name| Path::new("/sys/class/block").join(name)).unwrap_or_default();
        let sectors = fs::read_to_string(sys.join("size")).unwrap_or_default();
        facts.bytes = sectors.trim().parse::<u64>().unwrap_or(0).saturating_mul(512);
        let cache = fs::read_to_string(sys.join("queue/write_cache")).unwrap_or_default();
        facts.volatile_cache = cache.trim() == "write back";
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if let Some(home) = absolute.ancestors().find(|ancestor| ancestor.exists()) {
        facts.free_bytes = statvfs(home).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        facts.tmpfs = rustix::fs::statfs(home).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
    }
    facts
}

/// A PCI function in the sysfs at `sys`.
fn look_at_function(sys: &Path, address: &str) -> PciFacts {
    let function = sys.join("bus/pci/devices").join(address);
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    PciFacts {
        exists: !address.is_empty() && function.exists(),
        confined: function.join("iommu_group").exists(),
        driver: fs::read_link(function.join("driver")).ok().and_then(name),
    }
}

/// What statfs(2) calls a tmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_and_absent_keys_are_zero() {
        let text = "MemTotal:       100 kB\nMemAvailable:    7 kB\nHugePages_Free:      3\n";
        assert_eq!(meminfo(text, "MemAvailable"), 7);
        assert_eq!(meminfo(text, "HugePages_Free"), 3);
        assert_eq!(meminfo(text, "Nothing"), 0);
        assert!(!online_cores().is_empty());
    }
}
