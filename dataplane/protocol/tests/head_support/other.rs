//! More partitions on the same heads.

use super::*;

/// A second partition, with the roles of the heads exchanged.
pub const OTHER: PartitionId = PartitionId(8);

impl Rack {
    /// Adds [`OTHER`] to both heads and grants it a number.
    pub fn serve_other(&mut self) {
        self.serve_more(OTHER, 1);
    }

    /// Adds a partition to both heads and grants it a number; the head at `primary` leads it.
    pub fn serve_more(&mut self, partition: PartitionId, primary: usize) {
        let config = PartitionConfig { partition, solo: Solo::Local, ..self.partition() };
        for at in 0..2 {
            let now = self.now;
            self.head(at).create_partition(now, config.clone());
        }
        self.number += 1;
        let member = |node: &Node| Member { head: node.id, log: node.log, boot: node.boot };
        let members = vec![member(&self.nodes[primary]), member(&self.nodes[1 - primary])];
        let number = Number { epoch: 1, counter: self.number };
        let stamp = Stamp { partition, number, grant: GrantId(self.number + 1000) };
        for at in 0..2 {
            let now = self.now;
            let node = &mut self.nodes[at];
            if let Machine::Head(head) = &mut node.machine {
                head.assign(now, Assignment::plain(stamp, members.clone()), &mut node.out);
            }
        }
        let number = self.number;
        self.run_until("service of the other", move |rack| rack.serving(number));
    }

    /// Starts a 64 KiB write to [`OTHER`] at its primary, without the model.
    pub fn write_other(&mut self, lba: u64) -> u64 {
        self.write_more(OTHER, 1, lba, lba + 1)
    }

    /// Starts a 64 KiB write of `value` to a partition at a head, without the model.
    pub fn write_more(&mut self, partition: PartitionId, at: usize, lba: u64, value: u64) -> u64 {
        let data = self.bytes(value, 0, 128);
        let tag = self.next_tag;
        self.next_tag += 1;
        let verb = ClientVerb::Write { offset: lba * BLOCK as u64, data };
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Machine::Head(head) = &mut node.machine {
            head.handle_client(now, ClientCmd { tag: ClientTag(tag), partition, verb }, &mut node.out);
        }
        tag
    }
}

impl Rack {
    /// Adds [`OTHER`] to a head, which serves it alone.
    pub fn serve_alone(&mut self, at: usize) {
        let config = PartitionConfig { partition: OTHER, solo: Solo::Local, ..self.partition() };
        let now = self.now;
        self.head(at).create_partition(now, config);
        self.number += 1;
        let number = Number { epoch: 1, counter: self.number };
        let stamp = Stamp { partition: OTHER, number, grant: GrantId(self.number + 1000) };
        let node = &mut self.nodes[at];
        let members = vec![Member { head: node.id, log: node.log, boot: node.boot }];
        if let Machine::Head(head) = &mut node.machine {
            head.assign(now, Assignment::plain(stamp, members), &mut node.out);
        }
        let number = self.number;
        self.run_until("service of the other", move |rack| rack.serving(number));
    }

    /// Starts a 64 KiB write of `value` to [`OTHER`] at that head.
    pub fn write_alone(&mut self, at: usize, lba: u64, value: u64) -> u64 {
        self.write_more(OTHER, at, lba, value)
    }
}
