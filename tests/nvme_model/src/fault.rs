//! What a controller can be made to do wrong.

/// What an abort does to a command that is stuck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AbortMode {
    /// The command ends with "aborted on request".
    #[default]
    Works,
    /// The abort ends, the command never does.
    Refused,
    /// The abort ends, and the command is carried out some steps later.
    Late(u32),
    /// Neither ends.
    Silent,
}

/// What is wrong with a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCompletion {
    /// The phase tag of the lap before: nobody sees it.
    WrongPhase,
    /// Another identifier.
    Cid(u16),
    /// Another submission queue.
    Queue(u16),
    /// It comes twice.
    Doubled,
}

/// Planted misbehaviour. The first group lasts, the second is used up by the next I/O commands.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// CSTS.RDY never rises.
    pub never_ready: bool,
    /// CSTS.RDY never falls.
    pub never_stops: bool,
    /// CSTS.CFS instead of CSTS.RDY.
    pub fatal_start: bool,
    /// Admin commands with this opcode are never answered.
    pub silent_admin: Option<u8>,
    /// Admin commands with this opcode are refused with this status.
    pub refused_admin: Option<(u8, u16)>,
    /// What aborts do.
    pub abort: AbortMode,
    /// A reset forgets what the volatile cache holds.
    pub reset_loses_cache: bool,
    /// It cannot be cut off from memory.
    pub no_isolation: bool,
    /// The host wants it back.
    pub leaving: bool,

    /// I/O commands that are never answered.
    pub stuck: u32,
    /// I/O commands that end with this status; 0 is carried out.
    pub status: Vec<u16>,
    /// I/O commands whose completion is bad.
    pub bad: Vec<BadCompletion>,
    /// Chances in 10,000 that any of the above befalls an I/O command by itself.
    pub chance: Chances,
}

/// Chances in 10,000 for each I/O command, but for the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    /// Never answered.
    pub stuck: u32,
    /// An error that may pass, or one that does not.
    pub status: u32,
    /// A bad completion.
    pub bad: u32,
    /// A fatal state.
    pub fatal: u32,
    /// For each read of a register: any value.
    pub registers: u32,
}
