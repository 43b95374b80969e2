//! Bounded cross-core rings: payload moves by handle, a full ring gives the item back (`Bounded`).
//!
//! A ring belongs to one receiver, which is polled by its reactor; any number of senders may share it.
//! [`Sender::push`] hands over without waking, [`Sender::kick`] wakes once for a whole batch; both cost
//! no system call while the receiver is awake.

use crate::park::Waker;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The ring was full; here is the item again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    closed: AtomicBool,
}

/// Makes a ring of `capacity` items whose receiver is woken by `waker`.
///
/// # Panics
/// When `capacity` is zero.
pub fn channel<T: Send>(capacity: usize, waker: Waker) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { queue: ArrayQueue::new(capacity), closed: AtomicBool::new(false) });
    (Sender { shared: Arc::clone(&shared), waker, pushed: false }, Receiver { shared })
}

/// The producing end. Clones share the ring.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    waker: Waker,
    pushed: bool,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), waker: self.waker.clone(), pushed: false }
    }
}

impl<T: Send> Sender<T> {
    /// Hands over one item without waking the receiver; [`Sender::kick`] must follow in the same turn.
    pub fn push(&mut self, item: T) -> Result<(), Full<T>> {
        self.shared.queue.push(item).map_err(Full)?;
        self.pushed = true;
        Ok(())
    }

    /// Wakes the receiver if something was pushed since the last kick and it sleeps.
    pub fn kick(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.waker.wake();
        }
    }

    /// Hands over one item and wakes the receiver if it sleeps.
    pub fn send(&mut self, item: T) -> Result<(), Full<T>> {
        let sent = self.push(item);
        self.kick();
        sent
    }

    /// Whether the receiver is gone; items pushed now are dropped with the ring.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Items in the ring at the moment.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether the ring is empty at the moment.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// Room of the ring.
    pub fn capacity(&self) -> usize {
        self.shared.queue.capacity()
    }
}

/// The consuming end.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Receiver<T> {
    /// The oldest item, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Items in the ring at the moment.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether the ring is empty at the moment.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({} of {})", self.shared.queue.len(), self.shared.queue.capacity())
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiver({} of {})", self.shared.queue.len(), self.shared.queue.capacity())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Items may hold buffers and senders of other rings; they must not wait for the last sender.
        while self.shared.queue.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::park::{Parker, WaitSet};
    use std::time::Duration;

    #[test]
    fn a_full_ring_gives_the_item_back_and_keeps_order() {
        let parker = Parker::new().expect("eventfd");
        let (mut tx, mut rx) = channel(2, parker.waker());
        assert_eq!(tx.send(1), Ok(()));
        assert_eq!(tx.send(2), Ok(()));
        assert_eq!(tx.send(3), Err(Full(3)));
        assert_eq!((tx.len(), tx.capacity(), rx.len()), (2, 2, 2));
        assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(1), Some(2), None));
        assert!(tx.is_empty() && rx.is_empty());
    }

    #[test]
    fn a_dropped_receiver_is_seen_and_its_items_are_freed() {
        let parker = Parker::new().expect("eventfd");
        let (mut tx, rx) = channel(4, parker.waker());
        let item = Arc::new(());
        tx.send(Arc::clone(&item)).expect("room");
        assert!(!tx.is_closed());
        drop(rx);
        assert!(tx.is_closed());
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn no_wake_up_is_lost_in_a_hundred_thousand_rounds() {
        const ROUNDS: u64 = 100_000;
        let (here, there) = (Parker::new().expect("eventfd"), Parker::new().expect("eventfd"));
        let (mut ping, mut ping_rx) = channel::<u64>(1, there.waker());
        let (mut pong, mut pong_rx) = channel::<u64>(1, here.waker());
        // A lost wake-up shows as a sleep that only its time-out ends; with 30 s of it the test hangs
        // visibly instead of passing late.
        let next = |parker: &Parker, rx: &mut Receiver<u64>| loop {
            if let Some(item) = rx.pop() {
                return item;
            }
            parker.announce();
            if let Some(item) = rx.pop() {
                parker.retract();
                return item;
            }
            parker.sleep(WaitSet::default(), Some(Duration::from_secs(30)));
        };
        let start = std::time::Instant::now();
        let echo = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                let item = next(&there, &mut ping_rx);
                pong.send(item + 1).expect("room for one");
            }
        });
        for round in 0..ROUNDS {
            ping.send(round).expect("room for one");
            assert_eq!(next(&here, &mut pong_rx), round + 1);
        }
        echo.join().expect("echo thread");
        assert!(start.elapsed() < Duration::from_secs(29), "some sleep ended by its time-out");
    }
}
