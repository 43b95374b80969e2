//! When no copy of a page of the newest checkpoint is whole (P-29).
//!
//! Each superblock names the checkpoint before the newest, too. That one, with all that the log held from where
//! it began, says the same; segments are written over in the order of the ring, so the log still holds it all as
//! long as the first of those segments has its header, though some may have been given back since. So the older
//! checkpoint stands again then, and before the first one an empty log does.
//!
//! Otherwise the recovery goes on without any: what the log holds is read, for what it tells of commits and pairs,
//! and every partition is damaged, whether the log names it or not ([`RecoveryReport::blind`]). The head serves
//! nothing of it and is filled by its peers. The same goes for a log of which no copy of the superblock is whole:
//! its layout is known from how it was made, and is believed when segments of this very log lie in their places.

use super::*;

impl Recovery {
    /// The checkpoint that was being loaded cannot be used.
    pub(super) fn checkpoint_lost(&mut self, error: &LogError, out: &mut Out) -> Result<(), LogError> {
        out.events.push(Event::Corrupt { place: "checkpoint", what: error.to_string() });
        let Some(superblock) = self.superblock.as_mut() else { return Ok(()) };
        let before = std::mem::take(&mut superblock.before);
        if stands(&before, &self.headers, superblock.segments) {
            self.fallen = Some(superblock.root);
            superblock.seq += 1;
            superblock.root = before;
            let superblock = *superblock;
            self.write_superblocks(&superblock, true)?;
            let what = format!("checkpoint {} and the log since stand for it", before.generation);
            out.events.push(Event::Repaired { place: "checkpoint", what });
            self.replay.report.repaired += 1;
            return self.begin_checkpoint(superblock);
        }
        if let Some(newest) = self.fallen.take() {
            // The older one must not be taken for whole either.
            superblock.seq += 1;
            superblock.root = newest;
            let superblock = *superblock;
            self.write_superblocks(&superblock, true)?;
        }
        self.replay.report.blind = true;
        self.begin_records()
    }

    /// No copy of the superblock is whole: the log is looked for where it was made.
    pub(super) fn rescue(&mut self, made: &FormatAs) -> Result<(), LogError> {
        let superblock = Superblock::plan(&self.config, made)?;
        self.replay.report.blind = true;
        self.ask_headers(superblock);
        Ok(())
    }

    /// All segment headers were looked at: whether this is the log after all. Its superblock is made anew.
    pub(super) fn rescued(&mut self, superblock: &Superblock, out: &mut Out) -> Result<(), LogError> {
        if self.headers.is_empty() {
            return Err(LogError::Refused(Verdict::Damaged(format::NO_COPY)));
        }
        let what = format::NO_COPY.to_owned();
        out.events.push(Event::Corrupt { place: "log", what });
        self.write_superblocks(superblock, true)?;
        self.begin_records()
    }

    /// The segment from which records are read: the tail that the newest header names, or where the checkpoint
    /// began that stands again.
    pub(super) fn read_from(&self, tail: u64) -> u64 {
        let Some(Superblock { root: Root { tail: began, .. }, .. }) = self.superblock else { return tail };
        if self.fallen.is_some() { began } else { tail }
    }
}

/// Whether the log still holds all that it held since that checkpoint began, with room for what comes first: until
/// another checkpoint ends, nothing that was given back since is free.
fn stands(before: &Root, headers: &BTreeMap<u64, SegmentHeader>, segments: u64) -> bool {
    let Some((&head, newest)) = headers.last_key_value() else { return false };
    let used = head.saturating_sub(before.tail) + 1;
    let roomy = before.tail >= newest.tail || used + SPARE_SEGMENTS < segments;
    before.tail > 0 && headers.contains_key(&before.tail) && roomy
}
