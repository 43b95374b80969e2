//! Rank 1: reliable datagrams between the processes of a rack over one network or several (EF-04, EF-31).
//!
//! [`Fabric`] takes messages and datagrams and gives datagrams and messages; it owns no socket and knows
//! no clock. Messages arrive whole, once, in any order; a lost datagram delays only the messages that had
//! a part in it. Two boots form a session: when a peer restarts, what was open to it is dropped, and the
//! next [`Envelope`](crate::wire::Envelope) carries its new boot (MA-06; machines repeat what they need).
//!
//! Everything is bounded: a peer may start only as many message bytes as it was given credit for, queues
//! refuse when full, and resends slow down while a peer is away. Datagrams carry room for path, key and
//! MAC; keys come later, so hostile datagrams with a valid CRC are bounded in effect but not refused.
//!
//! | file | story |
//! |---|---|
//! | `machine` | peers by name, what comes in |
//! | `turn` | what goes out |
//! | `peer` | a session, and the choice of a network |
//! | `outbox`, `inbox` | the two halves of a session |
//! | `path` | round trips, loss, window, keep-alives |
//! | `packet`, `message`, `fields` | formats |

mod fields;
mod inbox;
mod machine;
pub mod message;
mod outbox;
mod packet;
mod path;
mod peer;
mod port;
#[cfg(test)]
mod tests;
mod turn;

pub use machine::Fabric;
pub use packet::VERSION;
pub use port::{
    Config, DATAGRAM_MAX, Datagram, FabricOut, MESSAGES_MAX, PATHS_MAX, PathId, PathState, PathStatus,
    QueueFull, Stats,
};
