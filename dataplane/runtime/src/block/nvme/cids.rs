//! Command identifiers: which command is where, with a generation against completions of one that has ended.
//!
//! An identifier is a place (low bits) and how often the place was used (high bits). A completion that comes
//! twice, or after its command was given up, names a place that is free or a generation that is over.

/// Bits of a place.
const PLACE_BITS: u32 = 10;
/// Most commands at a time.
pub(super) const PLACES_MAX: usize = 1 << PLACE_BITS;
/// Generations run from 0 to one below this: the last one would make FFFFh, which means no command (Base 5.16.1.2).
const GENERATIONS: u16 = (1 << (16 - PLACE_BITS)) - 1;

struct Place<T> {
    generation: u16,
    held: Option<T>,
}

/// Commands under way.
pub(super) struct Cids<T> {
    places: Box<[Place<T>]>,
    free: Vec<u16>,
}

impl<T> Cids<T> {
    /// Room for `count` commands, at most [`PLACES_MAX`].
    pub(super) fn new(count: usize) -> Self {
        assert!(count <= PLACES_MAX, "a place has {PLACE_BITS} bits");
        Self {
            places: (0..count).map(|_| Place { generation: 0, held: None }).collect(),
            free: (0..count as u16).rev().collect(),
        }
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether no place is free.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The place that the next [`Cids::insert`] takes.
    #[inline]
    pub(super) fn next_place(&self) -> Option<usize> {
        self.free.last().map(|&place| usize::from(place))
    }

    /// Takes a place for a command; `None` when all are taken.
    #[inline(always)]
    pub(super) fn insert(&mut self, held: T) -> Option<u16> {
        let place = self.free.pop()?;
        let entry = &mut self.places[usize::from(place)];
        entry.held = Some(held);
        Some(entry.generation << PLACE_BITS | place)
    }

    #[inline]
    fn find(&mut self, cid: u16) -> Option<&mut Place<T>> {
        let place = self.places.get_mut(usize::from(cid) % PLACES_MAX)?;
        (place.generation == cid >> PLACE_BITS && place.held.is_some()).then_some(place)
    }

    /// Ends a command; `None` when the identifier means none that is under way.
    #[inline]
    pub(super) fn remove(&mut self, cid: u16) -> Option<T> {
        let place = self.find(cid)?;
        let held = place.held.take();
        place.generation = (place.generation + 1) % GENERATIONS;
        self.free.push(cid % PLACES_MAX as u16);
        held
    }

    /// All commands under way with their identifiers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(at, place)| {
            let cid = place.generation << PLACE_BITS | at as u16;
            place.held.as_mut().map(|held| (cid, held))
        })
    }

    /// Ends any one command.
    pub(super) fn pop(&mut self) -> Option<T> {
        let cid = self.iter_mut().next()?.0;
        self.remove(cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_means_one_command_once() {
        let mut cids = Cids::new(2);
        let (a, b) = (cids.insert('a').expect("room"), cids.insert('b').expect("room"));
        assert_eq!((cids.insert('c'), cids.is_full(), cids.len()), (None, true, 2));
        assert_eq!((cids.remove(a), cids.remove(a)), (Some('a'), None));
        let c = cids.insert('c').expect("room");
        assert_ne!(c, a, "the place is used again under another generation");
        assert_eq!(cids.remove(a), None, "and the old one means nothing");
        assert_eq!(cids.iter_mut().map(|(cid, _)| cid).collect::<Vec<_>>(), [c, b]);
        assert_eq!((cids.pop(), cids.pop(), cids.pop()), (Some('c'), Some('b'), None));
    }

    #[test]
    fn identifiers_out_of_range_mean_nothing_and_ffff_is_never_given() {
        let mut cids = Cids::new(PLACES_MAX);
        for _ in 0..200 {
            let all: Vec<u16> = (0..PLACES_MAX).filter_map(|i| cids.insert(i)).collect();
            assert_eq!(all.len(), PLACES_MAX);
            assert!(!all.contains(&u16::MAX));
            assert!(all.iter().all(|&cid| cids.remove(cid).is_some()));
        }
        let mut few = Cids::new(3);
        assert_eq!(few.insert(1), Some(0));
        assert_eq!((few.remove(3), few.remove(PLACES_MAX as u16), few.remove(u16::MAX)), (None, None, None));
    }
}
