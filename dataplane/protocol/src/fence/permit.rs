//! Permits: the only way to a column write. A function that changes a column takes one by value, so that a
//! write without admission does not compile (EF-16); it lives until the write has completed (P-16).

use super::entry::{FenceEntry, Presented, check};
use super::gate::{Gate, Pass};

/// Why a permit was not given; the caller finds out the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The gate is closed: no grant lives, or a reservation drains.
    Closed,
    /// Something shown differs from what must be shown.
    Differs,
}

/// Leave to change one column, under one grant, until it is given back to the gate it came from.
#[derive(Debug)]
#[must_use = "a permit that does not leave its gate keeps it from draining"]
pub struct ColumnPermit {
    pass: Pass,
    column: u32,
}

impl ColumnPermit {
    /// Counts first, then checks (P-16).
    #[inline]
    pub fn admit(
        gate: &Gate,
        entry: &FenceEntry,
        ordinal: u32,
        column: u32,
        shown: &Presented,
    ) -> Result<Self, Denied> {
        let Some(pass) = gate.enter() else {
            return Err(Denied::Closed);
        };
        if check(entry, ordinal, shown) {
            return Ok(Self { pass, column });
        }
        gate.leave(pass);
        Err(Denied::Differs)
    }

    /// A permit without a check: what a broken fence would give.
    #[cfg(any(test, feature = "canary"))]
    pub fn forced(gate: &Gate, column: u32) -> Self {
        let pass = gate.enter().unwrap_or_else(|| {
            gate.open();
            let pass = gate.enter().expect("the gate was just opened");
            gate.close();
            pass
        });
        Self { pass, column }
    }

    /// The column it is for.
    pub fn column(&self) -> u32 {
        self.column
    }

    /// Ends what it allowed.
    pub fn leave(self, gate: &Gate) {
        gate.leave(self.pass);
    }
}

/// Leave to make a new column record of a partition, until it is given back to its gate.
#[derive(Debug)]
#[must_use = "a permit that does not leave its gate keeps it from draining"]
pub struct ReservePermit {
    pass: Pass,
}

impl ReservePermit {
    /// Counts first, then lets `valid` check.
    pub fn admit(gate: &Gate, valid: impl FnOnce() -> bool) -> Result<Self, Denied> {
        let Some(pass) = gate.enter() else {
            return Err(Denied::Closed);
        };
        if valid() {
            return Ok(Self { pass });
        }
        gate.leave(pass);
        Err(Denied::Differs)
    }

    /// Ends what it allowed.
    pub fn leave(self, gate: &Gate) {
        gate.leave(self.pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ExtentId, PartitionId, Stamp, Token};

    #[test]
    fn p16_a_denied_permit_leaves_no_count_behind() {
        let gate = Gate::closed();
        let shown =
            Presented { stamp: Stamp::default(), token: Token(1), extent: ExtentId(0), generation: 0 };
        let mut entry = FenceEntry { partition: PartitionId(0), part: 0, ..FenceEntry::FREE };
        entry.refresh(Stamp::default(), 1, Token(1));
        assert_eq!(ColumnPermit::admit(&gate, &entry, 1, 0, &shown).err(), Some(Denied::Closed));
        gate.open();
        assert_eq!(ColumnPermit::admit(&gate, &entry, 2, 0, &shown).err(), Some(Denied::Differs));
        assert_eq!(gate.count(), 0);
        let permit = ColumnPermit::admit(&gate, &entry, 1, 9, &shown).expect("valid");
        assert_eq!((gate.count(), permit.column()), (1, 9));
        permit.leave(&gate);
        assert_eq!(gate.count(), 0);
        assert_eq!(ReservePermit::admit(&gate, || false).err(), Some(Denied::Differs));
        assert_eq!(gate.count(), 0);
    }
}
