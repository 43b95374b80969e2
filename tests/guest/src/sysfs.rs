//! What an operator does by hand: which driver has a PCI function, taking it out, putting it back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long the kernel may take.
const LIMIT: Duration = Duration::from_secs(30);

fn function(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{} < {text:?}: {error}", path.display()));
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come within {LIMIT:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The driver that has a function.
pub fn driver(address: &str) -> Option<String> {
    let link = fs::read_link(function(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Takes a function from its driver; returns when the driver has let go.
pub fn unbind(address: &str) {
    let path = function(address).join("driver/unbind");
    if path.exists() {
        write(&path, address);
    }
}

/// Gives a function to a driver.
///
/// # Panics
/// When the driver does not take it.
pub fn bind(address: &str, wanted: &str) {
    if driver(address).as_deref() == Some(wanted) {
        return;
    }
    unbind(address);
    write(&function(address).join("driver_override"), wanted);
    write(Path::new("/sys/bus/pci/drivers_probe"), address);
    assert_eq!(driver(address).as_deref(), Some(wanted), "{address} is bound\n{}", kernel_log());
}

/// Resets a function, whoever has it.
pub fn reset(address: &str) {
    write(&function(address).join("reset"), "1");
}

/// Takes a function off the bus; returns when its driver has let go.
pub fn remove(address: &str) {
    write(&function(address).join("remove"), "1");
}

/// Looks for functions that are new on the bus.
pub fn rescan(address: &str) {
    write(Path::new("/sys/bus/pci/rescan"), "1");
    until("the function", || function(address).exists().then_some(()));
}

/// The kernel's own disk of a function that its `nvme` driver has.
pub fn block_device(address: &str) -> PathBuf {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let children = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    until("the kernel's disk", || {
        let controllers = children(&function(address).join("nvme"));
        let mut paths = controllers.iter().flat_map(|path| children(path)).filter_map(|path| name(&path));
        let disk = |path: String| {
            // Of a disk with several paths these are named nvme0c0n1, nvme0c1n1.
            let subsystem = path.strip_suffix("n1")?.strip_prefix("nvme")?.split('c').next()?;
            Some(PathBuf::from(format!("/dev/nvme{subsystem}n1"))).filter(|path| path.exists())
        };
        paths.find_map(disk)
    })
}

/// All that the kernel said.
pub fn kernel_log() -> String {
    let said = Command::new("dmesg").output();
    said.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into_owned())
}
