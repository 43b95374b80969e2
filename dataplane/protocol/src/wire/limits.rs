//! Every limit of the rack, in one place, each with the argument that ties it to the others (`Bounded`).

/// Logical block in bytes: unit of index, checksum and log payload.
pub const BLOCK: usize = 4096;
/// Smallest unit that exports accept, in bytes; below [`BLOCK`] the head merges (P-10).
pub const SECTOR: usize = 512;
/// Largest single read or write handed to a head, in bytes. Exports split larger requests.
pub const IO_BYTES_MAX: usize = 256 << 10;
/// Largest single read or write in blocks.
pub const IO_BLOCKS_MAX: usize = IO_BYTES_MAX / BLOCK;
/// Largest request that an export accepts, in bytes.
pub const EXPORT_BYTES_MAX: usize = 32 << 20;
/// Default stripe unit in bytes (DESIGN section 5).
pub const UNIT_DEFAULT: usize = 64 << 10;
/// Default log segment in bytes.
pub const SEGMENT_DEFAULT: usize = 8 << 20;
/// Most data plus parity columns of an extent.
pub const COLUMNS_MAX: usize = 16;
/// Most members of a group.
pub const MEMBERS_MAX: usize = 4;
/// Most bytes of one inter-node message with its payload.
pub const MSG_BYTES_MAX: usize = 2 << 20;
/// Most operations in one log record.
pub const RECORD_OPS_MAX: usize = 256;
/// Most payload blocks in one log record (1 MiB).
pub const RECORD_BLOCKS_MAX: usize = 256;
/// Most bytes of a record's header, entries included.
pub const RECORD_HEADER_MAX: usize = 64 << 10;
/// Most blocks that one repoint moves: its log entry fits one record header.
pub const REPOINT_ENTRIES_MAX: usize = 1024;
/// Most log records under way at once: what recovery must look past a hole for (P-06).
pub const RECORDS_IN_FLIGHT_MAX: usize = 64;
/// Most granules of a checkpoint that one answer speaks of ([`super::Msg::CopyHas`]).
pub const GRANULES_TOLD_MAX: usize = 1024;
/// Most blocks of a partition (16 TiB): reverse maps hold block numbers in 32 bits.
pub const PARTITION_BLOCKS_MAX: u64 = u32::MAX as u64;
/// Most client commands a head holds per volume before it pushes back on exports.
pub const COMMANDS_MAX: usize = 1024;
/// Most columns of one multi-unit column write.
pub const WRITE_UNITS_MAX: usize = 4;

const _: () = {
    assert!(IO_BYTES_MAX.is_multiple_of(BLOCK) && BLOCK.is_multiple_of(SECTOR));
    assert!(IO_BLOCKS_MAX <= RECORD_BLOCKS_MAX, "one write fits one record");
    assert!(
        RECORD_BLOCKS_MAX * BLOCK + RECORD_HEADER_MAX < SEGMENT_DEFAULT,
        "a segment holds several records"
    );
    assert!(REPOINT_ENTRIES_MAX * 40 + 1024 <= RECORD_HEADER_MAX, "a largest repoint fits one record");
    assert!(
        super::checkpoint::CHECKPOINT_COLUMNS_MAX * 28 + 1024 <= RECORD_HEADER_MAX,
        "the name of a largest checkpoint fits one record"
    );
    assert!(WRITE_UNITS_MAX * UNIT_DEFAULT <= IO_BYTES_MAX, "a column write fits one buffer");
    assert!(IO_BYTES_MAX + RECORD_HEADER_MAX < MSG_BYTES_MAX, "a message holds a largest write");
};
