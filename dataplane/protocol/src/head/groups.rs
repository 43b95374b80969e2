//! What a head's log holds of groups: a control plane whose store was put back from an older copy asks every head
//! for it before it decides anything (P-04).

use super::core::Core;
use super::part::Part;
use crate::wire::{Adopt, Assignment, Stamp};

impl Part {
    /// The newest pair that it adopted, or is about to: what was granted may be in force the next moment.
    fn newest_pair(&self) -> Option<Assignment> {
        let adopting = self.adoption.iter().map(|adoption| &adoption.adopt);
        let probing = self.probing.iter().map(|probing| &probing.adopt);
        let newest = self.adopted.iter().chain(adopting).chain(probing).max_by_key(|adopt| adopt.number)?;
        let Adopt { partition, number, grant, ref members, .. } = *newest;
        let pair = Assignment::plain(Stamp { partition, number, grant }, members.iter().copied().collect());
        // Until the copies are read somebody else has more, so that this is no answer yet.
        let salvage = self.salvage.as_ref().filter(|_| self.salvages()).map(|salvage| salvage.base);
        Some(Assignment { copies: self.journal.on, salvage, ..pair })
    }
}

impl Core {
    pub(super) fn groups(&self) -> Vec<Assignment> {
        self.parts.iter().filter_map(Part::newest_pair).collect()
    }
}
