//! Deleting a partition: a `Delete` operation on the members, then every column goes back (OP-18).

use super::core::Core;
use super::part::Dying;
use super::slab::Id;
use crate::log::Index;
use crate::wire::*;

impl Core {
    pub(super) fn delete_partition(&mut self, now: Time, partition: PartitionId, out: &mut Out) {
        self.busy = true;
        self.background_at = now;
        let Some(p) = self.parts.find(partition) else {
            out.events.push(Event::Deleted { partition });
            return;
        };
        let part = &mut self.parts[p];
        part.deleting = true;
        part.copy.wished = None;
        part.deleted_told = false;
        let flushes = std::mem::take(&mut part.flushes);
        let waiting = std::mem::take(&mut part.waiting).into_iter().map(|(cmd, _)| cmd.tag);
        for tag in waiting.chain(flushes.into_iter().map(|wait| wait.tag)) {
            out.done.push(ClientDone { tag, result: Err(ClientError::NotServed) });
        }
    }

    /// Numbers the `Delete` when nothing else is under way, and tells control when all columns are back.
    pub(super) fn poll_delete(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        if !part.deleting {
            return;
        }
        if !part.deleted {
            let quiet = part.pending.is_empty() && part.active == 0 && part.batches.is_empty();
            if quiet {
                // Columns that an extent in the making has got are found again by the list that follows.
                self.parts[p].making = None;
                self.forget_pages(p);
                // A failure is tried again at the next pass.
                let _ = self.number(now, p, Body::Delete, Id::NONE);
            }
            return;
        }
        if !part.dying.is_empty() || part.deleted_told {
            return;
        }
        let listed = part.claims.iter().all(|claim| claim.secret.is_some() && claim.list_from.is_none());
        if !listed {
            return;
        }
        let part = &mut self.parts[p];
        if part.claims.iter().all(|claim| claim.owned == 0) {
            part.deleted_told = true;
            out.events.push(Event::Deleted { partition: part.cfg.partition });
        } else {
            part.claims.iter_mut().for_each(|claim| claim.list_from = Some(0));
        }
    }

    /// A `Delete` is committed: nothing of the partition is left but its columns.
    pub(super) fn on_deleted(&mut self, p: usize, op: Op, extents: Vec<ExtentDesc>) {
        let primary = self.is_primary(p);
        let part = &mut self.parts[p];
        part.index = Index::new(part.cfg.blocks);
        part.deleted = true;
        part.recent.clear();
        part.released_op = op;
        part.bad.clear();
        part.rot.clear();
        (part.open, part.spare) = (None, None);
        part.making = None;
        for claim in &mut part.claims {
            claim.list_from = Some(0);
            claim.owned = u32::MAX;
        }
        if primary {
            for desc in extents {
                for column in desc.columns.iter().flatten().copied() {
                    let (extent, after, retry_at) = (desc.id, op, Time::ZERO);
                    part.dying.push(Dying { column, extent, after, asking: false, retry_at });
                }
            }
        }
        self.release_due = true;
    }
}
