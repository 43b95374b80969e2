//! Controller properties: NVMe Base 2.0 section 3.1.3, doorbells: NVMe over PCIe Transport 1.0 section 3.1.2.

/// Controller Capabilities (3.1.3.1).
pub(super) const CAP: usize = 0x00;
/// Version (3.1.3.2).
pub(super) const VS: usize = 0x08;
/// Interrupt Mask Set (3.1.3.3): a polled driver masks all.
pub(super) const INTMS: usize = 0x0c;
/// Controller Configuration (3.1.3.5).
pub(super) const CC: usize = 0x14;
/// Controller Status (3.1.3.6).
pub(super) const CSTS: usize = 0x1c;
/// Admin Queue Attributes (3.1.3.8).
pub(super) const AQA: usize = 0x24;
/// Admin Submission Queue Base Address (3.1.3.9).
pub(super) const ASQ: usize = 0x28;
/// Admin Completion Queue Base Address (3.1.3.10).
pub(super) const ACQ: usize = 0x30;
/// The first doorbell (PCIe 3.1.2.1).
pub(super) const DOORBELLS: usize = 0x1000;

/// What a register of a device that is gone reads as.
pub(super) const ALL_ONES: u32 = u32::MAX;

/// CC.EN: enabled.
pub(super) const CC_EN: u32 = 1;
/// CC.SHN: normal shutdown notification.
pub(super) const CC_SHN_NORMAL: u32 = 1 << 14;

/// CC to enable the NVM command set (CSS 0) with pages of `2^(12 + mps)` bytes, round-robin arbitration (AMS 0),
/// submission entries of 2^6 and completion entries of 2^4 bytes (3.1.3.5).
pub(super) fn cc_enable(mps: u32) -> u32 {
    CC_EN | mps << 7 | 6 << 16 | 4 << 20
}

/// CAP, decoded (3.1.3.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Cap(pub(super) u64);

impl Cap {
    /// Most entries of an I/O queue: MQES is 0's based.
    pub(super) fn entries_max(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// TO: how long CSTS.RDY may take to follow CC.EN. Units of 500 ms; 0 is taken for one.
    pub(super) fn timeout_ms(self) -> u64 {
        ((self.0 >> 24) & 0xff).max(1) * 500
    }

    /// Bytes between doorbells: 2^(2 + DSTRD).
    pub(super) fn stride(self) -> usize {
        4 << ((self.0 >> 32) & 0xf)
    }

    /// CSS bit 0: the NVM command set is there.
    pub(super) fn has_nvm_commands(self) -> bool {
        self.0 >> 37 & 1 == 1
    }

    /// MPSMIN: the smallest page is 2^(12 + MPSMIN) bytes.
    pub(super) fn mps_min(self) -> u32 {
        (self.0 >> 48 & 0xf) as u32
    }
}

/// CSTS, decoded (3.1.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Csts(pub(super) u32);

impl Csts {
    /// No device answers.
    pub(super) fn is_absent(self) -> bool {
        self.0 == ALL_ONES
    }

    /// RDY: follows CC.EN.
    pub(super) fn is_ready(self) -> bool {
        self.0 & 1 == 1
    }

    /// CFS: a fatal error that only a reset ends.
    pub(super) fn is_fatal(self) -> bool {
        self.0 & 2 == 2
    }

    /// SHST is 10b: shutdown processing is complete.
    pub(super) fn is_shut_down(self) -> bool {
        self.0 >> 2 & 3 == 2
    }
}

/// SQyTDBL (PCIe 3.1.2.1), as an offset from [`DOORBELLS`]; the completion queue's head doorbell, CQyHDBL
/// (3.1.2.2), is one stride further.
pub(super) fn tail_doorbell(queue: u16, stride: usize) -> usize {
    2 * usize::from(queue) * stride
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_decoded_as_the_standard_lays_them_out() {
        let cap = Cap(0x7ff | 1 << 16 | 0x28 << 24 | 2 << 32 | 1 << 37 | 1 << 48 | 4 << 52);
        assert_eq!((cap.entries_max(), cap.timeout_ms(), cap.stride()), (2048, 20_000, 16));
        assert_eq!((cap.has_nvm_commands(), cap.mps_min()), (true, 1));
        assert_eq!(Cap(0).timeout_ms(), 500, "a device that claims to need no time gets some");
        assert_eq!(Cap(u64::MAX).entries_max(), 65_536);
        assert_eq!(tail_doorbell(3, 8), 48);
        assert_eq!(cc_enable(1), 0x0046_0081);
    }

    #[test]
    fn a_status_of_all_ones_is_a_device_that_is_gone() {
        assert!(Csts(ALL_ONES).is_absent() && !Csts(3).is_absent());
        assert!(Csts(3).is_ready() && Csts(3).is_fatal() && !Csts(0).is_ready());
        assert!(Csts(8).is_shut_down() && !Csts(4).is_shut_down());
    }
}
