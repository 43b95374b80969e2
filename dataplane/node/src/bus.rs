//! How the services of a process reach one another: bounded rings, payload by handle.
//!
//! Every node has one mailbox. A [`Post`] is one sender's set of routes: straight to the mailbox of a
//! node in the same process, or to the mailbox of the own fabric service, which packs the message into
//! datagrams. What does not fit into a full ring waits in the sender's own queue and goes first next
//! turn, so that order and memory stay under the protocol's own windows (`Bounded`: a head's window, a
//! sled's answers to it, and nothing else).

use palisade_protocol::wire::{BootId, ClientDone, ClientTag, Envelope, Msg, NodeId};
use palisade_runtime::ring::{Full, Receiver, Sender};
use std::collections::{BTreeMap, VecDeque};

/// Messages that a mailbox holds.
pub const MAILBOX: usize = 4096;
/// Client commands, and answers, that wait between an export and a volume.
pub const CLIENT_RING: usize = 2048;

/// A sender's routes to the nodes that it talks to.
pub struct Post {
    from: NodeId,
    boot: BootId,
    routes: BTreeMap<NodeId, Sender<Envelope>>,
    waiting: VecDeque<Envelope>,
    /// Messages for nodes without a route; the protocol repeats them once there is one.
    pub unrouted: u64,
}

impl Post {
    /// A sender without routes.
    pub fn new(from: NodeId, boot: BootId) -> Self {
        Self { from, boot, routes: BTreeMap::new(), waiting: VecDeque::new(), unrouted: 0 }
    }

    /// From now on messages to `to` go into this ring.
    pub fn route(&mut self, to: NodeId, ring: Sender<Envelope>) {
        self.routes.insert(to, ring);
    }

    /// Sends, or keeps until there is room.
    pub fn send(&mut self, to: NodeId, msg: Msg) {
        // A fabric service that takes it puts its message into datagrams, and another one makes a new envelope.
        let envelope = Envelope { from: self.from, boot: self.boot, to, near: true, msg };
        if self.waiting.is_empty() {
            self.push(envelope);
        } else {
            self.waiting.push_back(envelope);
        }
    }

    /// Tries what had to wait, and wakes the receivers of this turn's messages.
    pub fn flush(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(envelope) = self.waiting.pop_front() else { break };
            self.push(envelope);
        }
        for ring in self.routes.values_mut() {
            ring.kick();
        }
    }

    /// Whether something waits for room.
    pub fn pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn push(&mut self, envelope: Envelope) {
        match self.routes.get_mut(&envelope.to) {
            Some(ring) => {
                if let Err(Full(envelope)) = ring.push(envelope) {
                    self.waiting.push_back(envelope);
                }
            }
            None => self.unrouted += 1,
        }
    }
}

/// Where the answers of client commands go: the upper eight bits of a tag name the asker.
#[derive(Default)]
pub struct Askers {
    rings: Vec<(Option<Sender<ClientDone>>, VecDeque<ClientDone>)>,
}

/// Bit position of the asker in a [`ClientTag`].
pub const ASKER_SHIFT: u32 = 56;

impl Askers {
    /// Answers to tags of `asker` go into `ring`.
    pub fn add(&mut self, asker: u8, ring: Sender<ClientDone>) {
        let at = usize::from(asker);
        if self.rings.len() <= at {
            self.rings.resize_with(at + 1, Default::default);
        }
        self.rings[at].0 = Some(ring);
    }

    /// Hands an answer to its asker; without one it is dropped with its buffers.
    pub fn answer(&mut self, done: ClientDone) {
        let at = asker_of(done.tag);
        let Some((Some(ring), waiting)) = self.rings.get_mut(at) else { return };
        if waiting.is_empty() {
            if let Err(Full(done)) = ring.push(done) {
                waiting.push_back(done);
            }
        } else {
            waiting.push_back(done);
        }
    }

    /// Tries what had to wait, and wakes the askers.
    pub fn flush(&mut self) {
        for (ring, waiting) in &mut self.rings {
            let Some(ring) = ring else { continue };
            while let Some(done) = waiting.pop_front() {
                if let Err(Full(done)) = ring.push(done) {
                    waiting.push_front(done);
                    break;
                }
            }
            ring.kick();
        }
    }
}

fn asker_of(tag: ClientTag) -> usize {
    (tag.0 >> ASKER_SHIFT) as usize
}

/// A mailbox being read, with a bound per turn so that one busy peer cannot hold the reactor.
pub fn drain<T: Send>(ring: &mut Receiver<T>, most: usize, mut take: impl FnMut(T)) -> usize {
    let mut count = 0;
    while count < most {
        let Some(item) = ring.pop() else { break };
        take(item);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_runtime::park::Parker;
    use palisade_runtime::ring::channel;

    fn msg(nonce: u64) -> Msg {
        Msg::Confirmed { nonce, stamps: Default::default() }
    }

    #[test]
    fn a_full_mailbox_keeps_order_and_loses_nothing() {
        let parker = Parker::new().expect("eventfd");
        let (tx, mut rx) = channel(2, parker.waker());
        let mut post = Post::new(NodeId(1), BootId(7));
        post.route(NodeId(2), tx);
        for nonce in 0..5 {
            post.send(NodeId(2), msg(nonce));
        }
        post.send(NodeId(9), msg(99));
        assert!(post.pending());
        let mut seen = Vec::new();
        for _ in 0..4 {
            drain(&mut rx, 8, |envelope: Envelope| {
                assert!(envelope.near, "it did not leave the process");
                if let Msg::Confirmed { nonce, .. } = envelope.msg {
                    seen.push(nonce);
                }
            });
            post.flush();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert!(!post.pending());
        assert_eq!(post.unrouted, 1, "a message without a route waits for nobody");
    }

    #[test]
    fn answers_find_their_asker() {
        let parker = Parker::new().expect("eventfd");
        let (tx, mut rx) = channel(1, parker.waker());
        let mut askers = Askers::default();
        askers.add(3, tx);
        for slot in 0..2u64 {
            let tag = ClientTag(3 << ASKER_SHIFT | slot);
            askers.answer(ClientDone { tag, result: Ok(palisade_protocol::wire::ClientOk::Done) });
        }
        askers.answer(ClientDone { tag: ClientTag(1), result: Ok(palisade_protocol::wire::ClientOk::Done) });
        assert_eq!(rx.pop().map(|done| done.tag.0 & 0xff), Some(0));
        askers.flush();
        assert_eq!(rx.pop().map(|done| done.tag.0 & 0xff), Some(1));
        assert!(rx.pop().is_none());
    }
}
