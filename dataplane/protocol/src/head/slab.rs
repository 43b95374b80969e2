//! Slots with generational names, so that a late answer cannot reach the wrong waiter.

/// Name of a slot's content: (generation, slot). Fits 52 bits, so that a kind fits above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(pub(super) u64);

const SLOT_BITS: u32 = 20;

impl Id {
    /// Names nothing.
    pub(super) const NONE: Self = Self(u64::MAX >> 12);

    fn parts(self) -> (usize, u32) {
        ((self.0 & ((1 << SLOT_BITS) - 1)) as usize, (self.0 >> SLOT_BITS) as u32)
    }
}

/// Contents by name. Slots are reused; memory stays at the highest mark.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Id {
        let slot = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < (1 << SLOT_BITS) - 1, "bounded by windows far below a million");
            self.slots.push((1, None));
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(value);
        Id(u64::from(entry.0) << SLOT_BITS | u64::from(slot))
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        let (slot, generation) = id.parts();
        self.slots.get(slot).filter(|entry| entry.0 == generation)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (slot, generation) = id.parts();
        self.slots.get_mut(slot).filter(|entry| entry.0 == generation)?.1.as_mut()
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let (slot, generation) = id.parts();
        let entry = self.slots.get_mut(slot).filter(|entry| entry.0 == generation)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1).max(1);
        self.free.push(slot as u32);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, (generation, value))| {
            let id = Id(u64::from(*generation) << SLOT_BITS | slot as u64);
            value.as_ref().map(|value| (id, value))
        })
    }

    /// Pushes the names of contents that `pick` chooses.
    pub(super) fn pick(&self, into: &mut Vec<Id>, mut pick: impl FnMut(&T) -> bool) {
        into.extend(self.iter().filter(|(_, value)| pick(value)).map(|(id, _)| id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_name() {
        let mut slab = Slab::default();
        let first = slab.insert(1);
        assert_eq!(slab.remove(first), Some(1));
        let second = slab.insert(2);
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get(second), Some(&2));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.get(Id::NONE), None);
    }
}
