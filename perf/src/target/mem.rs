//! The bare memory target: what the generator itself can do, as a ceiling for every other figure.
//!
//! A request is one copy between the slot and a flat buffer and ends at the next poll.

use super::{Done, Op, Target, TargetError, Verb, Want};

/// A flat piece of memory.
pub struct Memory {
    bytes: Vec<u8>,
    slots: Vec<Vec<u8>>,
    ended: Vec<Done>,
}

impl Memory {
    /// Memory of `bytes` zeroes.
    pub fn new(bytes: u64, want: Want) -> Self {
        let slots = (0..want.slots).map(|_| vec![0; want.slot_bytes]).collect();
        Self { bytes: vec![0; bytes as usize], slots, ended: Vec::with_capacity(want.slots as usize) }
    }
}

impl Target for Memory {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        &mut self.slots[slot as usize]
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        let len = op.len as usize;
        let buffer = &mut self.slots[slot as usize][..len];
        let end = op.offset.checked_add(len as u64).filter(|&end| end <= self.bytes.len() as u64);
        let errno = match end {
            None => 22, // EINVAL, as a server would answer
            Some(end) => {
                let place = &mut self.bytes[op.offset as usize..end as usize];
                match op.verb {
                    Verb::Read => buffer.copy_from_slice(place),
                    Verb::Write => place.copy_from_slice(buffer),
                    Verb::Flush => {}
                }
                0
            }
        };
        self.ended.push(Done { slot, errno });
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        done.append(&mut self.ended);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_gives_back_what_was_written() {
        let want = Want { slots: 2, slot_bytes: 4096, connections: 1, look: true };
        let mut memory = Memory::new(1 << 20, want);
        memory.buffer(0).fill(7);
        memory.submit(0, Op { verb: Verb::Write, offset: 8192, len: 4096 }).expect("memory never fails");
        memory.submit(1, Op { verb: Verb::Read, offset: 8192, len: 4096 }).expect("memory never fails");
        let mut done = Vec::new();
        memory.poll(&mut done).expect("memory never fails");
        assert_eq!(done, [Done { slot: 0, errno: 0 }, Done { slot: 1, errno: 0 }]);
        assert!(memory.buffer(1).iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_range_outside_is_an_error_and_no_panic() {
        let want = Want { slots: 1, slot_bytes: 4096, connections: 1, look: true };
        let mut memory = Memory::new(8192, want);
        memory.submit(0, Op { verb: Verb::Read, offset: u64::MAX - 5, len: 4096 }).expect("taken");
        let mut done = Vec::new();
        memory.poll(&mut done).expect("memory never fails");
        assert_eq!(done[0].errno, 22);
    }
}
