//! Damage to the files below a rack.

use super::Trouble;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Where columns have begun on a device of 256 MiB; what lies before them has copies of its own.
const COLUMNS_AT: u64 = 4 << 20;
/// Bytes of one write of the filler.
const CHUNK: usize = 64 << 10;
/// Most that a filler writes: a disk that is larger is none that a drill made.
const FILLER_MAX: u64 = 1 << 30;

/// Flips one bit in each of `count` places of a device file that hold something; how many it flipped.
pub(super) fn flip(path: &Path, count: u64) -> Result<u64, Trouble> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    let blocks = file.metadata().map_err(failed)?.len() / BLOCK;
    let mut block = [0; BLOCK as usize];
    let mut held = Vec::new();
    for at in COLUMNS_AT / BLOCK..blocks {
        file.read_exact_at(&mut block, at * BLOCK).map_err(failed)?;
        if block.iter().any(|&byte| byte != 0) {
            held.push(at);
        }
    }
    if held.is_empty() {
        return Err(Trouble::Failed(format!("{} holds nothing that could rot", path.display())));
    }
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..count {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = held[(x >> 16) as usize % held.len()] * BLOCK + x % BLOCK;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).map_err(failed)?;
        byte[0] ^= 1 << ((x >> 32) & 7);
        file.write_all_at(&byte, at).map_err(failed)?;
    }
    Ok(count)
}

/// Fills the disk of a folder; the file that does it.
pub(super) fn fill(folder: &Path) -> Result<PathBuf, Trouble> {
    let path = folder.join("filler");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::create(&path).map_err(failed)?;
    // Whole chunks first, then what is left byte by byte of a page.
    for size in [CHUNK, BLOCK as usize] {
        let chunk = vec![0xa5; size];
        let mut written = 0u64;
        loop {
            match file.write_all(&chunk) {
                Ok(()) => written += size as u64,
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => return Err(failed(e).into()),
            }
            if written > FILLER_MAX {
                let _half = std::fs::remove_file(&path);
                return Err(Trouble::Failed(format!(
                    "{} does not fill: it is no small disk",
                    folder.display()
                )));
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_flipped_where_something_is_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("device");
        let mut bytes = vec![0u8; 6 << 20];
        assert!(std::fs::write(&path, &bytes).is_ok() && flip(&path, 5).is_err(), "nothing there to rot");
        bytes[5 << 20..(5 << 20) + 8192].fill(0x55);
        std::fs::write(&path, &bytes).expect("room");
        assert_eq!(flip(&path, 9).ok(), Some(9));
        let after = std::fs::read(&path).expect("a file");
        let changed: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != after[at]).collect();
        assert!((1..=9).contains(&changed.len()), "{changed:?}");
        assert!(changed.iter().all(|at| (5 << 20..(5 << 20) + 8192).contains(at)), "{changed:?}");
    }
}
