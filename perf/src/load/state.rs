//! The model in a file, so that a second run, after the rack or the generator was killed, can check what
//! the first one was promised.
//!
//! Layout, little-endian: magic "PALISTAT", version u32, unit u32, offset u64, seed u64, blocks u64, clean
//! u32 (1: written at the end of a run), acknowledged u32 × blocks, issued u32 × blocks, CRC32C u32 over
//! all before. The file is written beside its name and renamed over it.

use super::model::Model;
use palisade_isal::crc32c;
use std::fs;
use std::io::Write;
use std::path::Path;

const MAGIC: &[u8; 8] = b"PALISTAT";
const VERSION: u32 = 1;
const HEAD: usize = 44;
/// Blocks that a file may name: 4 TiB of 4 KiB blocks.
pub const BLOCKS_MAX: u64 = 1 << 30;
/// After an unclean end nobody knows which generations were issued last; new ones start beyond any.
const LEAP: u32 = 1 << 20;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("state file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is damaged or none of ours.
    #[error("state file {path}: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// Writes the model; `clean` when nothing is in flight any more.
pub fn save(path: &Path, model: &Model, clean: bool) -> Result<(), StateError> {
    let mut out = Vec::with_capacity(HEAD + model.acknowledged.len() * 8 + 4);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(model.unit.to_le_bytes());
    out.extend(model.offset.to_le_bytes());
    out.extend(model.seed.to_le_bytes());
    out.extend(model.blocks().to_le_bytes());
    out.extend(u32::from(clean).to_le_bytes());
    for generation in model.acknowledged.iter().chain(&model.issued) {
        out.extend(generation.to_le_bytes());
    }
    out.extend(crc32c(&out).to_le_bytes());
    let io = |source| StateError::Io { path: path.display().to_string(), source };
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside).map_err(io)?;
    file.write_all(&out).map_err(io)?;
    file.sync_data().map_err(io)?;
    fs::rename(&beside, path).map_err(io)
}

/// Reads a model.
pub fn load(path: &Path) -> Result<Model, StateError> {
    let bytes =
        fs::read(path).map_err(|source| StateError::Io { path: path.display().to_string(), source })?;
    parse(&bytes).map_err(|why| StateError::Damaged { path: path.display().to_string(), why })
}

fn parse(bytes: &[u8]) -> Result<Model, &'static str> {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
    if bytes.len() < HEAD + 4 || &bytes[..8] != MAGIC {
        return Err("this is no state file");
    }
    if u32_at(8) != VERSION {
        return Err("another version");
    }
    let (unit, blocks) = (u32_at(12), u64_at(32));
    if blocks > BLOCKS_MAX || bytes.len() as u64 != HEAD as u64 + blocks * 8 + 4 {
        return Err("wrong length");
    }
    if crc32c(&bytes[..bytes.len() - 4]) != u32_at(bytes.len() - 4) {
        return Err("wrong checksum");
    }
    if unit < 512 || !unit.is_multiple_of(512) {
        return Err("wrong block size");
    }
    let generations = |from: usize| (0..blocks as usize).map(move |i| u32_at(from + i * 4));
    let leap = if u32_at(40) == 1 { 0 } else { LEAP };
    let acknowledged: Vec<u32> = generations(HEAD).collect();
    let issued = generations(HEAD + blocks as usize * 4).map(|g| g.saturating_add(leap)).collect();
    Ok(Model::restored(unit, u64_at(16), u64_at(24), acknowledged, issued))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let mut model = Model::new(4096, 1 << 20, 100, 9);
        for block in [0u64, 7, 99] {
            assert!(model.start_write((1 << 20) + block * 4096, &mut [0; 4096]));
            model.end_write((1 << 20) + block * 4096, 4096, block != 7);
        }
        model
    }

    #[test]
    fn a_model_survives_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        save(&path, &model(), true).expect("saved");
        assert_eq!(load(&path).expect("loaded"), model());
        save(&path, &model(), false).expect("saved");
        let loaded = load(&path).expect("loaded");
        assert_eq!((loaded.acknowledged[99], loaded.issued[99]), (1, 1 + LEAP));
    }

    #[test]
    fn truncated_and_flipped_state_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        save(&path, &model(), true).expect("saved");
        let good = fs::read(&path).expect("readable");
        for cut in [0, 7, 43, 44, 100, good.len() - 1] {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in (0..good.len()).step_by(13) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(parse(&bad).is_err(), "flip at {at}");
        }
    }
}
