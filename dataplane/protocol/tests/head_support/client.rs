//! The client: writes, trims and reads with contents that tell what they are, and a model of what every
//! sector may hold.

use super::*;

/// Content of sector `at` with value `value`; 0 is zeroes.
pub(super) fn sector(value: u64, at: usize) -> [u8; SECTOR] {
    let mut bytes = [0u8; SECTOR];
    if value != 0 {
        for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
            let mixed = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64) << 20 ^ i as u64;
            word.copy_from_slice(&mixed.to_le_bytes());
        }
    }
    bytes
}

impl Rack {
    pub fn submit(&mut self, verb: ClientVerb) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let now = self.now;
        let cmd = ClientCmd { tag: ClientTag(tag), partition: VOLUME, verb };
        let node = &mut self.nodes[self.primary];
        if let Machine::Head(head) = &mut node.machine {
            head.handle_client(now, cmd, &mut node.out);
        }
        tag
    }

    pub fn bytes(&mut self, value: u64, first: usize, count: usize) -> Buf {
        let mut buf = self.pool.alloc(count * SECTOR).expect("a client's buffer");
        for (i, chunk) in buf.chunks_exact_mut(SECTOR).enumerate() {
            chunk.copy_from_slice(&sector(value, first + i));
        }
        buf.freeze()
    }

    /// Starts a write of `count` sectors from `first`.
    pub fn write(&mut self, first: usize, count: usize) -> u64 {
        let value = self.next_value;
        self.next_value += 1;
        let data = self.bytes(value, first, count);
        for at in first..first + count {
            self.model[at].push(value);
        }
        let tag = self.next_tag;
        self.writes.insert(tag, (first, count, value));
        self.submit(ClientVerb::Write { offset: (first * SECTOR) as u64, data })
    }

    /// Starts a trim of `count` sectors from `first`.
    pub fn trim(&mut self, first: usize, count: usize) -> u64 {
        for at in first..first + count {
            self.model[at].push(0);
        }
        let tag = self.next_tag;
        self.writes.insert(tag, (first, count, 0));
        self.submit(ClientVerb::Trim { offset: (first * SECTOR) as u64, len: (count * SECTOR) as u64 })
    }

    pub fn wait(&mut self, tag: u64) -> Result<ClientOk, ClientError> {
        self.run_until("an answer", |rack| rack.done.contains_key(&tag));
        self.done.remove(&tag).expect("it is there")
    }

    pub fn wait_all(&mut self, tags: &[u64]) {
        for &tag in tags {
            let result = self.wait(tag);
            if result.is_err() {
                eprintln!("{:#?}", &self.events[self.events.len().saturating_sub(30)..]);
            }
            assert!(result.is_ok(), "seed {}: command failed: {result:?}", self.shape.seed);
        }
    }

    /// Checks the bytes of a read against what the sectors may hold, and pins what was seen.
    pub fn check(&mut self, first: usize, result: Result<ClientOk, ClientError>) {
        let Ok(ClientOk::Data(pieces)) = result else {
            panic!("seed {}: read at sector {first} failed: {result:?}", self.shape.seed)
        };
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        for (i, chunk) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = first + i;
            let seen = self.model[at].iter().copied().find(|&value| sector(value, at) == chunk);
            let Some(seen) = seen else {
                panic!("seed {}: sector {at} holds none of {:?}", self.shape.seed, self.model[at])
            };
            if self.writes.values().all(|&(first, count, _)| !(first..first + count).contains(&at)) {
                self.model[at] = vec![seen];
            }
        }
    }

    pub fn read(&mut self, first: usize, count: usize) {
        let verb = ClientVerb::Read { offset: (first * SECTOR) as u64, len: (count * SECTOR) as u32 };
        let tag = self.submit(verb);
        let result = self.wait(tag);
        self.check(first, result);
    }

    /// Reads the whole volume and checks it.
    pub fn verify(&mut self) {
        let sectors = self.model.len();
        let step = 64 * BLOCK / SECTOR;
        for first in (0..sectors).step_by(step) {
            self.read(first, step.min(sectors - first));
        }
    }

    /// Writes the blocks from 0 to `blocks`, 16 at a time, and flushes them.
    pub fn write_in_order(&mut self, blocks: usize) {
        let sectors = BLOCK / SECTOR;
        for lba in (0..blocks).step_by(16) {
            let tag = self.write(lba * sectors, 16 * sectors);
            self.wait_all(&[tag]);
        }
        self.flush_all();
    }

    /// Random writes and trims over the first `blocks` blocks, `depth` at a time, disjoint.
    pub fn workload(&mut self, count: usize, blocks: usize, depth: usize) {
        let mut open: Vec<(u64, usize, usize)> = Vec::new();
        for _ in 0..count {
            let total = blocks * (BLOCK / SECTOR);
            let len = match self.rand(4) {
                0 => 1 + self.rand(20) as usize,
                1 => 8 * (1 + self.rand(16) as usize),
                _ => 8,
            };
            let mut first = self.rand((total - len) as u64) as usize;
            if self.rand(3) > 0 {
                first = first / 8 * 8;
            }
            let clash = |&(_, at, n): &(u64, usize, usize)| first < at + n && at < first + len;
            if let Some(at) = open.iter().position(clash) {
                let all: Vec<u64> = open.drain(..=at).map(|entry| entry.0).collect();
                self.wait_all(&all);
                while let Some(at) = open.iter().position(clash) {
                    let tag = open.remove(at).0;
                    self.wait_all(&[tag]);
                }
            }
            let tag = if self.rand(12) == 0 { self.trim(first, len) } else { self.write(first, len) };
            open.push((tag, first, len));
            if open.len() >= depth {
                let tag = open.remove(0).0;
                self.wait_all(&[tag]);
            }
        }
        let all: Vec<u64> = open.iter().map(|entry| entry.0).collect();
        self.wait_all(&all);
    }

    pub fn start_flush(&mut self) -> u64 {
        let tag = 1 << 40 | self.next_tag;
        self.next_tag += 1;
        let now = self.now;
        let node = &mut self.nodes[self.primary];
        if let Machine::Head(head) = &mut node.machine {
            head.flush_all(now, VOLUME, ClientTag(tag), &mut node.out);
        }
        tag
    }

    pub fn flush_all(&mut self) {
        let tag = self.start_flush();
        let result = self.wait(tag);
        assert!(result.is_ok(), "seed {}: flush: {result:?}", self.shape.seed);
    }

    /// The connection behind these commands is lost; those that are dropped were never carried out.
    pub fn abort(&mut self, tags: &[u64]) -> usize {
        let now = self.now;
        let node = &mut self.nodes[self.primary];
        let Machine::Head(head) = &mut node.machine else { return 0 };
        let before = node.out.done.len();
        let dropped = head.abort(now, VOLUME, &|tag: ClientTag| tags.contains(&tag.0), &mut node.out);
        for done in &node.out.done[before..] {
            if let Some((first, count, value)) = self.writes.remove(&done.tag.0) {
                (first..first + count).for_each(|at| self.model[at].retain(|&held| held != value));
            }
        }
        dropped
    }

    pub fn status(&mut self) -> PartitionStatus {
        self.head(self.primary).status().partitions.remove(0)
    }

    pub fn counters(&mut self) -> Counters {
        self.status().stats.counters
    }
}
