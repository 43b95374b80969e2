//! A polled NVMe driver in user space (NVMe Base 2.0, NVM Command Set 1.0, PCIe Transport 1.0).
//!
//! One driver owns a controller and one pair of I/O queues, and serves one namespace to one service of one
//! reactor: nothing is shared, nothing is locked, and no system call is made for an I/O. It runs over
//! [`NvmeDevice`], behind which stands a PCI function or an emulated controller.
//!
//! | file | what |
//! |---|---|
//! | `registers`, `command`, `identify`, `health` | the standard's structures |
//! | `layout`, `queue`, `cids`, `pointer`, `ops` | queue memory, queue pair, identifiers, data pointers, requests |
//! | `bringup`, `admin` | reset to ready as a polled state machine; admin commands, events, health |
//! | `issue`, `complete` | a request becomes commands, their completions become an answer |
//! | `vfio` | the PCI function behind [`NvmeDevice`] |
//! | `watch`, `reset` | time-outs, aborts, fatal states; reset, recovery, the end |
//!
//! **Every request is answered exactly once.** A command that takes too long is aborted; if that does not end
//! it, or the device breaks the protocol or is in a fatal state, the controller is reset. Buffers stay with
//! the driver until the device cannot reach them any more: it has completed the command, or its CSTS.RDY is 0,
//! or it was cut off from memory. Requests that a reset caught are sent once more (writes are idempotent until
//! they are answered), those that took too long, or are caught twice, end with an error.
//!
//! **A reset is not trusted to keep a volatile cache.** Where one is present and writes were not flushed, the
//! next flush after a reset fails, as fsync does after a lost write.
//!
//! Not offered: metadata and protection information, multiple namespaces or queue pairs per driver, interrupts.

mod admin;
mod bringup;
mod cids;
mod command;
mod complete;
mod device;
mod driver;
mod error;
mod health;
mod identify;
mod issue;
mod layout;
mod ops;
mod pointer;
mod queue;
mod registers;
mod reset;
mod vfio;
mod watch;

pub use command::Status;
pub use device::{MapError, NvmeDevice};
pub use driver::{NvmeDriver, NvmeOptions, NvmeStats};
pub use error::{NvmeError, NvmeEvent, ResetReason, Unsupported};
pub use health::{AsyncEvent, Health};
pub use identify::{ControllerFacts, IdentifyError, NamespaceFacts};
pub use queue::DoorbellCounts;
pub use vfio::{BindError, Host, Plan, VfioError, VfioNvme};
