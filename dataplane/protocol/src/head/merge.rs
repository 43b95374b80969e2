//! Writes below a block (P-10): merged onto the newest version that exists *when the operation is numbered*,
//! a pending one if there is any, else the committed one. A merge that had to read checks again before it
//! is numbered.

use super::core::Core;
use super::part::Stalled;
use super::read::ReadOwner;
use super::slab::Id;
use crate::log::Loc;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;

/// Part of a block that waits to be merged (P-10).
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) part: usize,
    pub(super) cmd: Id,
    pub(super) lba: Lba,
    /// First byte within the block.
    pub(super) from: usize,
    pub(super) len: usize,
    /// `None` zeroes the range.
    pub(super) data: Option<Buf>,
    /// Version that is being read, and its bytes once they are there.
    pub(super) base: Op,
    pub(super) bytes: Option<Buf>,
}

impl Core {
    pub(super) fn add_merge(
        &mut self,
        now: Time,
        part: usize,
        cmd: Id,
        (lba, from, len, data): (Lba, usize, usize, Option<Buf>),
        out: &mut Out,
    ) {
        if let Some(cmd) = self.cmds.get_mut(cmd) {
            cmd.open += 1;
        }
        self.parts[part].stats.counters.merges += 1;
        let merge = Merge { part, cmd, lba, from, len, data, base: Op(u64::MAX), bytes: None };
        let id = self.merges.insert(merge);
        self.poll_merge(now, id, out);
    }

    /// Tries to number a merge: onto the newest pending version, else onto the committed one, which may
    /// have to be read first. Says whether it needs no retry by `pump`.
    pub(super) fn poll_merge(&mut self, now: Time, id: Id, out: &mut Out) -> bool {
        let Some(merge) = self.merges.get(id) else { return true };
        let (p, lba) = (merge.part, merge.lba);
        let part = &self.parts[p];
        let pending = if self.cfg.faults.rmw_on_committed() { None } else { newest_pending(part, lba) };
        let base = match pending {
            Some(Some(bytes)) => bytes,
            Some(None) => volume::zeroes(BLOCK),
            None => {
                let mapping = part.index.get(lba);
                match (mapping.loc, &merge.bytes) {
                    (Loc::Hole | Loc::Cleared, _) => volume::zeroes(BLOCK),
                    (_, Some(bytes)) if merge.base == mapping.op => bytes.clone(),
                    _ => {
                        if let Some(merge) = self.merges.get_mut(id) {
                            merge.base = mapping.op;
                            merge.bytes = None;
                        }
                        self.read_blocks(now, p, ReadOwner::Merge(id), &[(lba, mapping)], out);
                        return true;
                    }
                }
            }
        };
        self.number_merge(now, p, id, &base, out)
    }

    fn number_merge(&mut self, now: Time, p: usize, id: Id, base: &Buf, out: &mut Out) -> bool {
        let verb = ClientVerb::Flush;
        let merged = if self.admits(p, &verb) { self.pool.alloc(BLOCK) } else { None };
        let (Some(mut bytes), Some(merge)) = (merged, self.merges.get(id)) else {
            self.parts[p].stalled.push_back(Stalled::Merge(id));
            return false;
        };
        bytes.copy_from_slice(&base[..BLOCK]);
        let range = merge.from..merge.from + merge.len;
        match &merge.data {
            Some(data) => bytes[range].copy_from_slice(data),
            None => bytes[range].fill(0),
        }
        let (lba, cmd) = (merge.lba, merge.cmd);
        let data = bytes.freeze();
        let crcs = std::iter::once(crc32c(&data)).collect();
        if self.number(now, p, Body::Write { lba, crcs, data }, cmd).is_err() {
            self.parts[p].stalled.push_back(Stalled::Merge(id));
            return false;
        }
        // The operation took the merge's place among what the command waits for.
        self.merges.remove(id);
        let _ = out;
        true
    }

    /// The committed bytes that a merge waited for.
    pub(super) fn merge_read(&mut self, now: Time, id: Id, result: Result<Buf, ClientError>, out: &mut Out) {
        match result {
            Ok(bytes) => {
                if let Some(merge) = self.merges.get_mut(id) {
                    merge.bytes = Some(bytes);
                }
                self.poll_merge(now, id, out);
            }
            Err(error) => {
                if let Some(merge) = self.merges.remove(id) {
                    self.fail_cmd(merge.cmd, error);
                    self.close_cmd(now, merge.cmd, out);
                }
            }
        }
    }
}

/// The newest pending version of a block: its bytes, or `Some(None)` for a clear.
fn newest_pending(part: &super::part::Part, lba: Lba) -> Option<Option<Buf>> {
    part.pending.iter().rev().find_map(|pending| match &pending.entry.body {
        Body::Write { lba: first, crcs, data } => {
            let at = lba.0.checked_sub(first.0).filter(|&at| at < crcs.len() as u64)? as usize;
            Some(Some(data.slice(at * BLOCK..(at + 1) * BLOCK)))
        }
        Body::Clear { lba: first, count } => {
            lba.0.checked_sub(first.0).filter(|&at| at < u64::from(*count)).map(|_| None)
        }
        _ => None,
    })
}
