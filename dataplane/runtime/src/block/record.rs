//! A log of everything that a device was asked, so that a power cut can be replayed at every point.
//!
//! [`Recording::image`] gives the media as they may look after a cut behind any number of events: what
//! was durable by then, and of the rest what a [`Survival`] keeps. For tests only: it copies every
//! write and takes a lock.

use super::cache::{Survival, WriteCache};
use super::{BlockCompletion, BlockDriver, BlockInfo, BlockPort, BlockRequest, BlockVerb, MemMedia, total};
use crate::clock::Nanos;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that happened at the device's face.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write was submitted.
    Write {
        /// Names the request within the recording.
        id: u64,
        /// Byte offset.
        offset: u64,
        /// Contents.
        bytes: Vec<u8>,
        /// Whether it was FUA.
        fua: bool,
    },
    /// A flush was submitted.
    Flush {
        /// Names the request within the recording.
        id: u64,
    },
    /// The write or flush completed without an error, and its owner saw that.
    Done {
        /// Of the request.
        id: u64,
    },
}

/// What was recorded; shared with the driver that records.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recording {
    /// Events so far: points at which a cut can be replayed.
    pub fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the events.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The media after a power cut behind the first `upto` events, starting from `base`.
    pub fn image(&self, base: &MemMedia, upto: usize, survival: Survival) -> MemMedia {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cache = WriteCache::new(base.clone());
        for event in events.iter().take(upto) {
            match event {
                Event::Write { id, offset, bytes, fua } => cache.write(*id, *offset, bytes.clone(), *fua),
                Event::Flush { id } => cache.flush(*id),
                Event::Done { id } => cache.completed(*id),
            }
        }
        cache.crash(survival)
    }

    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// Records what passes to and from another driver.
#[derive(Debug)]
pub struct RecordDriver {
    inner: BlockDriver,
    recording: Recording,
    /// Open writes and flushes by key.
    open: HashMap<u64, u64>,
    next: u64,
}

impl RecordDriver {
    /// Records in front of `inner`. Keys of open requests must differ.
    pub fn new(inner: BlockDriver) -> (Self, Recording) {
        let recording = Recording::default();
        (Self { inner, recording: recording.clone(), open: HashMap::new(), next: 0 }, recording)
    }

    /// The driver behind.
    pub fn inner_mut(&mut self) -> &mut BlockDriver {
        &mut self.inner
    }
}

impl BlockPort for RecordDriver {
    fn info(&self) -> &BlockInfo {
        self.inner.info()
    }

    fn submit(&mut self, request: BlockRequest) {
        self.next += 1;
        let id = self.next;
        match &request.verb {
            BlockVerb::Read { .. } => {}
            BlockVerb::Write { offset, bufs, fua } => {
                let mut bytes = Vec::with_capacity(total(bufs) as usize);
                bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
                self.open.insert(request.key, id);
                self.recording.push(Event::Write { id, offset: *offset, bytes, fua: *fua });
            }
            BlockVerb::Flush => {
                self.open.insert(request.key, id);
                self.recording.push(Event::Flush { id });
            }
        }
        self.inner.submit(request);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll(&mut self, now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let before = out.len();
        let count = self.inner.poll(now, out);
        for done in &out[before..] {
            if let Some(id) = self.open.remove(&done.key)
                && done.result.is_ok()
            {
                self.recording.push(Event::Done { id });
            }
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn deadline(&self) -> Option<Nanos> {
        self.inner.deadline()
    }
}
