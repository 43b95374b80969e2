//! Limits of one connection, each with the argument that ties it to the others (`Bounded`).

use crate::wire::limits::{BLOCK, EXPORT_BYTES_MAX, IO_BYTES_MAX};

/// Most requests that are open at a time; beyond them input waits.
pub const REQUESTS_MAX: usize = 256;
/// Most commands that are open at a time: large requests become several.
pub const COMMANDS_MAX: usize = 512;
/// Most payload bytes that a connection holds in open commands and unsent answers.
pub const BYTES_MAX: usize = 16 << 20;
/// Most parts of one request that are open at a time.
pub const PARTS_MAX: usize = 8;
/// Most unsent reply bytes besides payload; beyond them input waits.
pub const REPLY_BYTES_MAX: usize = 64 << 10;
/// Most data of an option; longer ones up to [`OPTION_SKIP_MAX`] are refused, still longer ones end it.
pub const OPTION_BYTES_MAX: usize = 16 << 10;
/// Most option data that is read over.
pub const OPTION_SKIP_MAX: usize = 1 << 20;
/// Most options of one handshake.
pub const OPTIONS_MAX: u32 = 1024;
/// Most bytes of an export's name ("Conventions": strings are no longer than 4096 bytes).
pub const NAME_MAX: usize = 4096;
/// Most payload of a refused write that is read over; a longer one ends the connection.
pub const DISCARD_MAX: u32 = 64 << 20;
/// Most descriptors of one block status reply; the client asks again for what follows.
pub const STATUS_RUNS_MAX: usize = 1024;
/// From this many missing payload bytes on, the socket is best read straight into the pool buffer.
pub const DIRECT_MIN: usize = 16 << 10;

const _: () = {
    assert!(REQUESTS_MAX <= COMMANDS_MAX && COMMANDS_MAX <= 1 << 16, "slots fit a tag's 16 bits");
    assert!(PARTS_MAX * IO_BYTES_MAX <= BYTES_MAX, "one large request never fills the byte limit alone");
    assert!(DISCARD_MAX as usize >= EXPORT_BYTES_MAX && OPTION_BYTES_MAX >= 2 * NAME_MAX);
    assert!(4 + 8 * STATUS_RUNS_MAX <= REPLY_BYTES_MAX / 4);
    assert!(DIRECT_MIN > BLOCK);
};
