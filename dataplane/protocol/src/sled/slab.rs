//! A slab with generational keys: completions of what is long gone find nothing.

/// Slots that are reused; a key holds place and generation.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty slab.
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Keeps `value` and names it.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[place as usize];
        slot.0 = slot.0.wrapping_add(1);
        slot.1 = Some(value);
        (u64::from(slot.0) << 32) | u64::from(place)
    }

    fn slot(&mut self, key: u64) -> Option<&mut (u32, Option<T>)> {
        self.slots.get_mut((key & 0xffff_ffff) as usize).filter(|slot| u64::from(slot.0) == key >> 32)
    }

    /// What `key` names, if it is still there.
    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        self.slot(key)?.1.as_mut()
    }

    /// What `key` names, if it is still there.
    pub(super) fn get(&self, key: u64) -> Option<&T> {
        let slot = self.slots.get((key & 0xffff_ffff) as usize)?;
        slot.1.as_ref().filter(|_| u64::from(slot.0) == key >> 32)
    }

    /// Takes out what `key` names.
    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let value = self.slot(key)?.1.take()?;
        self.free.push((key & 0xffff_ffff) as u32);
        Some(value)
    }

    /// How many are in it.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn an_old_key_finds_nothing_in_a_reused_slot() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!((slab.remove(first), slab.get_mut(second).copied(), slab.len()), (None, Some('b'), 1));
        assert_eq!(slab.remove(u64::MAX), None);
    }
}
