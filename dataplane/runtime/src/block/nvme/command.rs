//! Submission and completion entries: NVMe Base 2.0 sections 3.3.3.1 and 3.3.3.2, commands of sections 5 and 7,
//! and of the NVM Command Set 1.0 section 3.2. An entry is built as the eight words in which it is stored.

use crate::block::BlockFault;

/// A submission queue entry, in words of 64 bits.
pub(super) type Command = [u64; 8];

/// Words of a submission entry.
pub(super) const COMMAND_WORDS: usize = 8;
/// Bytes of a submission entry.
pub(super) const COMMAND_BYTES: usize = 64;
/// Bytes of a completion entry.
pub(super) const COMPLETION_BYTES: usize = 16;

/// I/O opcodes: Flush (Base 7.1) and NVM commands (NVM 3.2).
pub(super) mod io {
    pub(in super::super) const FLUSH: u8 = 0x00;
    pub(in super::super) const WRITE: u8 = 0x01;
    pub(in super::super) const READ: u8 = 0x02;
    pub(in super::super) const WRITE_ZEROES: u8 = 0x08;
    pub(in super::super) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Admin opcodes (Base 5).
mod admin {
    pub(super) const CREATE_SQ: u8 = 0x01;
    pub(super) const GET_LOG_PAGE: u8 = 0x02;
    pub(super) const CREATE_CQ: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const ABORT: u8 = 0x08;
    pub(super) const SET_FEATURES: u8 = 0x09;
    pub(super) const ASYNC_EVENT: u8 = 0x0c;
    pub(super) const DOORBELL_BUFFER: u8 = 0x7c;
}

/// Identify: which structure (CNS, Base 5.17).
pub(super) mod cns {
    pub(in super::super) const NAMESPACE: u32 = 0x00;
    pub(in super::super) const CONTROLLER: u32 = 0x01;
    pub(in super::super) const ACTIVE_NAMESPACES: u32 = 0x02;
}

/// Features (Base 5.27.1).
pub(super) mod feature {
    pub(in super::super) const QUEUES: u32 = 0x07;
    pub(in super::super) const ASYNC_EVENTS: u32 = 0x0b;
}

/// CDW12 of read, write and write zeroes: Force Unit Access (NVM 3.2.6).
pub(super) const FUA: u32 = 1 << 30;
/// CDW0: the data pointer is an SGL (Base 3.3.3.1, PSDT 01b).
pub(super) const PSDT_SGL: u64 = 1 << 14;
/// CDW11 of Dataset Management: deallocate (NVM 3.2.3).
const DEALLOCATE: u64 = 1 << 2;

/// Data pointer of a command: PRP1 and PRP2, or one SGL descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DataPointer {
    pub(super) first: u64,
    pub(super) second: u64,
    pub(super) sgl: bool,
}

#[inline(always)]
fn entry(opcode: u8, nsid: u32, data: DataPointer, cdw10: u32, cdw11: u32) -> Command {
    let mut command = [0; COMMAND_WORDS];
    command[0] = u64::from(opcode) | u64::from(nsid) << 32 | if data.sgl { PSDT_SGL } else { 0 };
    (command[3], command[4]) = (data.first, data.second);
    command[5] = u64::from(cdw10) | u64::from(cdw11) << 32;
    command
}

fn page(at: u64) -> DataPointer {
    DataPointer { first: at, ..DataPointer::default() }
}

/// Puts the identifier into an entry (CDW0 bits 31:16).
pub(super) fn set_cid(command: &mut Command, cid: u16) {
    command[0] = command[0] & !0xffff_0000 | u64::from(cid) << 16;
}

/// Identify into the page at `at` (Base 5.17).
pub(super) fn identify(which: u32, nsid: u32, at: u64) -> Command {
    entry(admin::IDENTIFY, nsid, page(at), which, 0)
}

/// Set Features without data (Base 5.27).
pub(super) fn set_features(feature: u32, value: u32) -> Command {
    entry(admin::SET_FEATURES, 0, DataPointer::default(), feature, value)
}

/// Create I/O Completion Queue without interrupts, contiguous (PC, Base 5.4).
pub(super) fn create_cq(queue: u16, entries: u16, at: u64) -> Command {
    entry(admin::CREATE_CQ, 0, page(at), u32::from(queue) | u32::from(entries - 1) << 16, 1)
}

/// Create I/O Submission Queue for the completion queue of the same number (PC, Base 5.5).
pub(super) fn create_sq(queue: u16, entries: u16, at: u64) -> Command {
    let sizes = u32::from(queue) | u32::from(entries - 1) << 16;
    entry(admin::CREATE_SQ, 0, page(at), sizes, 1 | u32::from(queue) << 16)
}

/// Doorbell Buffer Config: where the shadow doorbells and the event indices are (Base 5.11).
pub(super) fn doorbell_buffer(shadow: u64, events: u64) -> Command {
    let data = DataPointer { first: shadow, second: events, sgl: false };
    entry(admin::DOORBELL_BUFFER, 0, data, 0, 0)
}

/// Abort of a command of `queue` (Base 5.1).
pub(super) fn abort(queue: u16, cid: u16) -> Command {
    let which = u32::from(queue) | u32::from(cid) << 16;
    entry(admin::ABORT, 0, DataPointer::default(), which, 0)
}

/// Asynchronous Event Request (Base 5.2).
pub(super) fn async_event() -> Command {
    entry(admin::ASYNC_EVENT, 0, DataPointer::default(), 0, 0)
}

/// Get Log Page of `bytes`, clearing its event (RAE 0), for the whole controller (Base 5.16).
pub(super) fn get_log(log: u8, bytes: u32, at: u64) -> Command {
    // NUMD is 0's based and in double words.
    entry(admin::GET_LOG_PAGE, u32::MAX, page(at), u32::from(log) | (bytes / 4 - 1) << 16, 0)
}

/// Flush (Base 7.1).
pub(super) fn flush(nsid: u32) -> Command {
    entry(io::FLUSH, nsid, DataPointer::default(), 0, 0)
}

/// Read, write or write zeroes of `blocks` from `lba` on (NVM 3.2.4, 3.2.6, 3.2.8): NLB is 0's based.
#[inline(always)]
pub(super) fn transfer(
    opcode: u8,
    nsid: u32,
    lba: u64,
    blocks: u32,
    data: DataPointer,
    flags: u32,
) -> Command {
    let mut command = entry(opcode, nsid, data, lba as u32, (lba >> 32) as u32);
    command[6] = u64::from((blocks - 1) & 0xffff | flags);
    command
}

/// Dataset Management, deallocate, one range that stands at `data` (NVM 3.2.3): NR is 0's based.
pub(super) fn deallocate(nsid: u32, data: DataPointer) -> Command {
    let mut command = entry(io::DATASET_MANAGEMENT, nsid, data, 0, 0);
    command[5] |= DEALLOCATE << 32;
    command
}

/// A range of Dataset Management (NVM 3.2.3.1): attributes 0, length in blocks, first block.
pub(super) fn dsm_range(lba: u64, blocks: u32) -> [u64; 2] {
    [u64::from(blocks) << 32, lba]
}

/// A completion queue entry (Base 3.3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// Command specific.
    pub(super) dw0: u32,
    /// Which submission queue.
    pub(super) queue: u16,
    /// Which command.
    pub(super) cid: u16,
    /// How it ended.
    pub(super) status: Status,
}

impl Completion {
    /// Decodes the two words of an entry.
    #[inline]
    pub(super) fn decode(first: u64, second: u64) -> Self {
        Self {
            dw0: first as u32,
            queue: (second >> 16) as u16,
            cid: (second >> 32) as u16,
            status: Status((second >> 49) as u16),
        }
    }
}

/// The phase tag of an entry's second word (Base 3.3.3.2: DW3 bit 16).
#[inline]
pub(super) fn phase(second: u64) -> bool {
    second >> 48 & 1 == 1
}

/// The status field without its phase tag (Base 3.3.3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl Status {
    /// It did what it was told.
    #[inline]
    pub fn is_ok(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Status Code.
    pub fn code(self) -> u8 {
        self.0 as u8
    }

    /// Status Code Type: 0 generic, 1 command specific, 2 media and data integrity, 3 path.
    pub fn kind(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Whether the same command may succeed when it is sent again: DNR is clear, and it is no error of the
    /// medium, which the device has tried to overcome itself.
    pub(super) fn may_retry(self) -> bool {
        self.0 >> 14 & 1 == 0 && self.kind() != 2 && !matches!((self.kind(), self.code()), (0, 0x80 | 0x81))
    }

    /// What it means to a machine.
    pub(super) fn fault(self) -> BlockFault {
        match (self.kind(), self.code()) {
            (0, 0x80) => BlockFault::Range,   // LBA Out of Range
            (0, 0x81) => BlockFault::NoSpace, // Capacity Exceeded
            _ => BlockFault::Io,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match (self.kind(), self.code()) {
            (0, 0x00) => "success",
            (0, 0x01) => "invalid command opcode",
            (0, 0x02) => "invalid field in command",
            (0, 0x04) => "data transfer error",
            (0, 0x05) => "aborted by power loss notification",
            (0, 0x06) => "internal error",
            (0, 0x07) => "aborted on request",
            (0, 0x0b) => "invalid namespace or format",
            (0, 0x20) => "namespace is write protected",
            (0, 0x80) => "LBA out of range",
            (0, 0x81) => "capacity exceeded",
            (0, 0x82) => "namespace not ready",
            (2, 0x80) => "write fault",
            (2, 0x81) => "unrecovered read error",
            _ => "",
        };
        write!(f, "status {}/{:#04x}", self.kind(), self.code())?;
        if text.is_empty() { Ok(()) } else { write!(f, " ({text})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_standard_says() {
        let data = DataPointer { first: 0x1000, second: 0x2000, sgl: false };
        let mut write = transfer(io::WRITE, 7, 0x1_2345_6789, 8, data, FUA);
        set_cid(&mut write, 0xbeef);
        assert_eq!(write, [0x0000_0007_beef_0001, 0, 0, 0x1000, 0x2000, 0x1_2345_6789, 0x4000_0007, 0]);
        assert_eq!(create_cq(1, 256, 0x3000)[5], 0x0000_0001_00ff_0001);
        assert_eq!(create_sq(2, 64, 0x3000)[5], 0x0002_0001_003f_0002);
        assert_eq!(abort(1, 0x1234)[5], 0x1234_0001);
        assert_eq!(get_log(2, 512, 0x4000)[5], 0x007f_0002);
        assert_eq!(deallocate(1, data)[5], 4 << 32);
        assert_eq!(dsm_range(5, 9), [9 << 32, 5]);
        let sgl = DataPointer { sgl: true, ..data };
        assert_eq!(transfer(io::READ, 1, 0, 1, sgl, 0)[0], 0x0000_0001_0000_4002);
    }

    #[test]
    fn completions_are_decoded_and_their_status_judged() {
        let second = 0x4281_u64 << 49 | 1 << 48 | 0xbeef << 32 | 1 << 16 | 5;
        let done = Completion::decode(9, second);
        assert_eq!((done.dw0, done.queue, done.cid, phase(second)), (9, 1, 0xbeef, true));
        assert_eq!((done.status.kind(), done.status.code(), done.status.may_retry()), (2, 0x81, false));
        assert_eq!(done.status.to_string(), "status 2/0x81 (unrecovered read error)");
        assert!(Status(0x0082).may_retry() && !Status(0x4082).may_retry() && !Status(0x0281).may_retry());
        assert!(Status(0x2000).is_ok(), "more information is no error");
        assert_eq!(Status(0x80).fault(), BlockFault::Range);
        assert_eq!(Status(0x81).fault(), BlockFault::NoSpace);
        assert_eq!(Status(0x7ff).fault(), BlockFault::Io);
    }
}
