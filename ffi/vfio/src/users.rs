//! The kernel's disks of a controller, and who uses them: file systems, swap, disks made of disks, open files.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who uses a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum User {
    /// A file system.
    #[error("{disk} is mounted at {at}")]
    Mounted {
        /// Disk or partition.
        disk: String,
        /// Where.
        at: String,
    },
    /// Swap.
    #[error("{disk} is swap")]
    Swap {
        /// Disk or partition.
        disk: String,
    },
    /// Another block device.
    #[error("{disk} is part of {by}")]
    Held {
        /// Disk or partition.
        disk: String,
        /// Whose part it is.
        by: String,
    },
    /// Something that has it for itself.
    #[error("{disk} is taken by a process, a file system or another device")]
    Taken {
        /// The disk.
        disk: String,
    },
}

/// A disk and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its name below `/dev`.
    pub(crate) name: String,
    /// Its own name and those of its partitions.
    parts: Vec<String>,
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The disk of a path to a namespace: `nvme0c1n1` is one of the paths to `nvme0n1`. `None` for anything else.
fn disk_name(entry: &str) -> Option<String> {
    let (controller, namespace) = entry.strip_prefix("nvme")?.split_once('n')?;
    let subsystem = controller.split('c').next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(subsystem) && is_number(namespace)).then(|| format!("nvme{subsystem}n{namespace}"))
}

impl Disk {
    /// The disks of a PCI function.
    pub(crate) fn of(root: &Path, function: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        for controller in names(&function.join("nvme")) {
            let entries = names(&function.join("nvme").join(controller));
            for name in entries.iter().filter_map(|entry| disk_name(entry)) {
                let below = names(&root.join("sys/block").join(&name));
                let partitions = below.into_iter().filter(|part| part.starts_with(&format!("{name}p")));
                let parts = std::iter::once(name.clone()).chain(partitions).collect();
                found.push(Self { name, parts });
            }
        }
        found
    }

    /// Everybody who uses it.
    pub(crate) fn users(&self, root: &Path) -> Vec<User> {
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        let swaps = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
        let mut users = Vec::new();
        for part in &self.parts {
            let disk = || part.clone();
            let path = format!("/dev/{part}");
            let number = fs::read_to_string(root.join("sys/class/block").join(part).join("dev"));
            let number = number.unwrap_or_default();
            users.extend(mounted(&mounts, number.trim(), &path).map(|at| User::Mounted { disk: disk(), at }));
            let is_swap = swaps.lines().any(|line| line.split_whitespace().next() == Some(&path));
            users.extend(is_swap.then(|| User::Swap { disk: disk() }));
            let holders = names(&root.join("sys/class/block").join(part).join("holders"));
            users.extend(holders.into_iter().map(|by| User::Held { disk: disk(), by }));
        }
        if users.is_empty() && self.is_taken(root) {
            users.push(User::Taken { disk: self.name.clone() });
        }
        users
    }

    /// Whether the kernel refuses it to one who wants it alone: mounted in another namespace, or held by something
    /// that has no place in the lists.
    fn is_taken(&self, root: &Path) -> bool {
        self.parts.iter().any(|part| {
            let mut options = fs::OpenOptions::new();
            let opened = options.read(true).custom_flags(libc::O_EXCL).open(root.join("dev").join(part));
            opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        })
    }
}

/// Where a block device is mounted, by its number or (file systems over several devices have numbers of their own)
/// by its path.
fn mounted<'a>(mounts: &'a str, number: &'a str, path: &'a str) -> impl Iterator<Item = String> + 'a {
    mounts.lines().filter_map(move |line| {
        let (place, source) = line.split_once(" - ")?;
        let fields: Vec<&str> = place.split_whitespace().collect();
        let is_it = fields.get(2) == Some(&number) || source.split_whitespace().nth(1) == Some(path);
        is_it.then(|| fields.get(4).copied().unwrap_or("?").to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_to_a_namespace_is_a_path_to_its_disk() {
        for (entry, disk) in [("nvme0n1", "nvme0n1"), ("nvme12c3n4", "nvme12n4")] {
            assert_eq!(disk_name(entry).as_deref(), Some(disk));
        }
        for entry in ["ng0n1", "nvme0", "nvme0n1p1", "nvmexn1", "hwmon1", "nvme0n"] {
            assert_eq!(disk_name(entry), None, "{entry}");
        }
    }

    #[test]
    fn mounts_are_found_by_number_and_by_path() {
        let mounts = "22 1 259:1 / / rw - ext4 /dev/root rw\n30 22 0:45 /sub /data rw shared:1 - btrfs /dev/nvme0n1p2 rw\n\
            31 22 0:50 / /tmp rw - tmpfs tmpfs rw\nbroken\n";
        let found = |number, path| mounted(mounts, number, path).collect::<Vec<_>>();
        assert_eq!(found("259:1", "/dev/nvme0n1"), ["/"]);
        assert_eq!(found("259:2", "/dev/nvme0n1p2"), ["/data"]);
        assert!(found("259:3", "/dev/nvme0n1p3").is_empty());
    }
}
