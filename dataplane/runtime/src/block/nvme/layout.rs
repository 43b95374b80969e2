//! Where everything lies in the memory that driver and device share: queues, pages of answers, shadow
//! doorbells, and a list of addresses for each command.

use super::command::{COMMAND_BYTES, COMPLETION_BYTES};

/// Entries of the admin queues: setup runs one command at a time, later there are events, aborts and logs.
pub(super) const ADMIN_ENTRIES: u16 = 32;
/// Bytes of a command's list: 128 PRP entries or 64 SGL descriptors, never across a page.
pub(super) const LIST_BYTES: usize = 1024;
/// Most bytes of one command: with pages of 4 KiB that makes 64 list entries.
pub(super) const TRANSFER_MAX: u64 = 256 << 10;
/// Bytes of the structures that Identify answers with (Base 5.17), and of the longest log that is read.
pub(super) const ANSWER_BYTES: usize = 4096;

const _: () = assert!(TRANSFER_MAX as usize / 4096 <= LIST_BYTES / 8, "a list names all pages of a transfer");

/// Offsets in the queue memory; each starts a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) admin_submissions: usize,
    pub(super) admin_completions: usize,
    pub(super) submissions: usize,
    pub(super) completions: usize,
    /// What Identify answers.
    pub(super) identity: usize,
    /// What Get Log Page answers.
    pub(super) log: usize,
    pub(super) shadow: usize,
    pub(super) events: usize,
    pub(super) lists: usize,
    /// Bytes of all.
    pub(super) bytes: usize,
}

impl Layout {
    /// For I/O queues of `entries` and pages of `page` bytes.
    pub(super) fn new(entries: u16, page: usize) -> Self {
        let mut end = 0;
        let mut take = |bytes: usize| {
            let at = end;
            end = (at + bytes).next_multiple_of(page);
            at
        };
        let (admin, entries) = (usize::from(ADMIN_ENTRIES), usize::from(entries));
        Self {
            admin_submissions: take(admin * COMMAND_BYTES),
            admin_completions: take(admin * COMPLETION_BYTES),
            submissions: take(entries * COMMAND_BYTES),
            completions: take(entries * COMPLETION_BYTES),
            identity: take(ANSWER_BYTES),
            log: take(ANSWER_BYTES),
            shadow: take(page),
            events: take(page),
            lists: take(entries * LIST_BYTES),
            bytes: end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_starts_a_page_and_nothing_overlaps() {
        for (entries, page) in [(2, 4096), (256, 4096), (1024, 65536), (64, 8192)] {
            let all = Layout::new(entries, page);
            let starts = [
                all.admin_submissions,
                all.admin_completions,
                all.submissions,
                all.completions,
                all.identity,
                all.log,
                all.shadow,
                all.events,
                all.lists,
                all.bytes,
            ];
            assert!(starts.iter().all(|at| at % page == 0), "{starts:?}");
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
            assert!(all.completions - all.submissions >= usize::from(entries) * 64);
            assert!(all.bytes - all.lists >= usize::from(entries) * LIST_BYTES);
        }
    }
}
