//! Which addresses a device uses for memory: chosen here, because an IOMMU may be narrower than addresses of
//! this process are wide (39 bits are common), and has holes (for interrupts, and what firmware reserved).

/// The first choice: above what machines of old reserve below 4 GiB.
const FIRST: u64 = 1 << 32;
/// Ranges start at multiples of a huge page, so that the IOMMU may use large entries.
const STEP: u64 = 2 << 20;

/// Free addresses.
#[derive(Debug)]
pub(crate) struct Iovas {
    /// First and last address of what the IOMMU allows, in order.
    allowed: Vec<(u64, u64)>,
    next: u64,
}

impl Iovas {
    /// With what the IOMMU says, or, when it says nothing, with what every IOMMU has.
    pub(crate) fn new(mut allowed: Vec<(u64, u64)>) -> Self {
        if allowed.is_empty() {
            allowed.push((FIRST, (1 << 39) - 1));
        }
        allowed.sort_unstable();
        Self { allowed, next: FIRST }
    }

    /// A place for so many bytes. Places are not given back: a device is given memory once, when it is opened.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let at = self.find(self.next, bytes).or_else(|| {
            // Nothing is left above: a narrow IOMMU has room below only.
            (self.next == FIRST).then(|| self.find(STEP, bytes)).flatten()
        })?;
        self.next = at + bytes;
        Some(at)
    }

    fn find(&self, from: u64, bytes: u64) -> Option<u64> {
        self.allowed.iter().find_map(|&(first, last)| {
            let at = from.max(first).checked_next_multiple_of(STEP)?;
            let end = at.checked_add(bytes.max(1) - 1)?;
            (end <= last).then_some(at)
        })
    }
}

/// Reads the allowed ranges from what VFIO_IOMMU_GET_INFO filled in: a header, then a chain of capabilities, of
/// which one (number 1) lists them. Offsets come from the kernel and are checked all the same.
pub(crate) fn parse(info: &[u64]) -> Vec<(u64, u64)> {
    const CAPABILITIES: u32 = 2; // VFIO_IOMMU_INFO_CAPS
    const RANGES: u32 = 1; // VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE
    let word = |at: usize| -> Option<u32> {
        let value = info.get(at / 8)?;
        Some((value >> (at % 8 * 8)) as u32)
    };
    let mut ranges = Vec::new();
    if word(4).unwrap_or(0) & CAPABILITIES == 0 {
        return ranges;
    }
    let mut at = word(16).unwrap_or(0) as usize;
    for _ in 0..16 {
        let (Some(id), Some(next)) = (word(at), word(at + 4)) else { break };
        if at == 0 || !at.is_multiple_of(8) {
            break;
        }
        if id & 0xffff == RANGES {
            let count = word(at + 8).unwrap_or(0) as usize;
            for range in info.get(at / 8 + 2..).unwrap_or_default().chunks_exact(2).take(count) {
                ranges.push((range[0], range[1]));
            }
        }
        at = next as usize;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_in_what_is_allowed_and_never_overlap() {
        let mut iovas = Iovas::new(vec![(0xfef0_0000, (1 << 39) - 1), (0, 0xfedf_ffff)]);
        let (a, b) = (iovas.take(4096).expect("room"), iovas.take(5 << 20).expect("room"));
        assert_eq!((a, b), (1 << 32, (1 << 32) + STEP));
        assert_eq!(iovas.take(1 << 39), None, "wider than the IOMMU");
        assert_eq!(iovas.take(4096), Some(b + (6 << 20)));
    }

    #[test]
    fn a_narrow_iommu_is_served_from_below_and_around_its_holes() {
        let mut iovas = Iovas::new(vec![(0, 0x3f_ffff), (0x80_0000, 0xff_ffff)]);
        assert_eq!(iovas.take(2 << 20), Some(0x20_0000));
        assert_eq!(iovas.take(2 << 20), Some(0x80_0000));
        assert_eq!(iovas.take(8 << 20), None);
        assert_eq!(Iovas::new(Vec::new()).take(1), Some(FIRST));
        assert_eq!(Iovas::new(vec![(u64::MAX - 10, u64::MAX)]).take(1), None);
    }

    #[test]
    fn ranges_are_read_from_the_chain_of_capabilities() {
        // argsz and flags; page sizes; cap_offset; then another capability, then the ranges.
        let info =
            [2u64 << 32, 0xfff, 24, 3 | 32 << 32, 1 | 1 << 16, 2, 0, 0xfed0_0000, 0xfef0_0000, 0xffff_ffff];
        let mut info = info.to_vec();
        info[3] = 3 | 1 << 16 | 32 << 32;
        assert_eq!(parse(&info), [(0, 0xfed0_0000), (0xfef0_0000, 0xffff_ffff)]);
        assert!(parse(&[0; 8]).is_empty());
        for broken in [1u64, 7, 8000, u64::from(u32::MAX)] {
            let mut other = info.clone();
            other[2] = broken;
            assert!(parse(&other).len() <= 2);
        }
        let mut circle = info.clone();
        circle[4] = 1 | 24 << 32;
        assert!(parse(&circle).len() <= 32, "a chain that bites its tail ends");
        let mut long = info;
        long[5] = u64::from(u32::MAX);
        assert_eq!(parse(&long).len(), 2, "no more than there is room for");
    }
}
