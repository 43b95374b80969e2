//! Admin commands of the emulated controller (NVMe Base 2.0 section 5).

use crate::controller::{ABORTED, Completions, Controller, Fetched, Submissions};
use crate::fault::AbortMode;

const INVALID_OPCODE: u16 = 0x4001;
const INVALID_FIELD: u16 = 0x4002;
const INVALID_QUEUE: u16 = 0x4101;
const INVALID_NAMESPACE: u16 = 0x400b;

impl Controller {
    pub(crate) fn admin(&mut self, command: Fetched) {
        let opcode = command.opcode();
        if self.faults.silent_admin == Some(opcode) {
            return;
        }
        if let Some((refused, status)) = self.faults.refused_admin
            && refused == opcode
        {
            return self.complete(&command, 0, status);
        }
        let status = match opcode {
            0x01 => self.create_submissions(&command),
            0x02 => self.log(&command),
            0x05 => self.create_completions(&command),
            0x06 => self.identify(&command),
            0x08 => return self.abort(&command),
            0x09 => 0,
            0x0c => return self.event_requests.push(command),
            0x7c if self.config.shadow_doorbells => {
                self.shadow = Some((command.words[3], command.words[4]));
                0
            }
            _ => INVALID_OPCODE,
        };
        self.complete(&command, 0, status);
    }

    fn create_completions(&mut self, command: &Fetched) -> u16 {
        let (queue, size) = (command.dw(10) as u16, (command.dw(10) >> 16) + 1);
        let most = (self.config.cap & 0xffff) as u32 + 1;
        if queue == 0 || self.completions.contains_key(&queue) || size < 2 || size > most {
            self.violated(format!("completion queue {queue} of {size}"));
            return INVALID_QUEUE;
        }
        if command.dw(11) != 1 {
            self.violated(format!("completion queue flags {:#x}", command.dw(11)));
        }
        let at = command.words[3];
        self.completions.insert(queue, Completions { at, size, head: 0, tail: 0, phase: true });
        0
    }

    fn create_submissions(&mut self, command: &Fetched) -> u16 {
        let (queue, size) = (command.dw(10) as u16, (command.dw(10) >> 16) + 1);
        let completions = (command.dw(11) >> 16) as u16;
        if queue == 0 || self.submissions.contains_key(&queue) || !self.completions.contains_key(&completions)
        {
            self.violated(format!("submission queue {queue} for {completions}"));
            return INVALID_QUEUE;
        }
        let at = command.words[3];
        self.submissions.insert(queue, Submissions { at, size, head: 0, tail: 0, completions });
        0
    }

    fn identify(&mut self, command: &Fetched) -> u16 {
        let mut data = vec![0u8; 4096];
        let patches = match command.dw(10) & 0xff {
            0 => {
                if self.config.namespaces.first() == Some(&command.nsid()) {
                    self.namespace_data(&mut data);
                } else if !self.config.namespaces.contains(&command.nsid()) {
                    return INVALID_NAMESPACE;
                }
                &self.config.namespace_patches
            }
            1 => {
                self.controller_data(&mut data);
                &self.config.controller_patches
            }
            2 => {
                for (at, nsid) in self.config.namespaces.iter().enumerate() {
                    data[at * 4..at * 4 + 4].copy_from_slice(&nsid.to_le_bytes());
                }
                &self.config.list_patches
            }
            _ => return INVALID_FIELD,
        };
        for &(at, value) in patches {
            data[at] = value;
        }
        self.give(command, &data)
    }

    fn controller_data(&self, data: &mut [u8]) {
        data[4..24].copy_from_slice(b"S0000000000000000001");
        data[24..64].fill(b' ');
        data[24..34].copy_from_slice(b"Model disk");
        data[64..72].copy_from_slice(b"1.0     ");
        data[77] = self.config.mdts;
        data[92..96].copy_from_slice(&(1u32 << 8).to_le_bytes()); // OAES: namespace notices
        data[111] = 1; // an I/O controller
        data[256..258].copy_from_slice(&(u16::from(self.config.shadow_doorbells) << 8).to_le_bytes());
        (data[258], data[259]) = (1, 1); // two aborts, two event requests
        (data[512], data[513]) = (0x66, 0x44);
        data[516..520].copy_from_slice(&64u32.to_le_bytes());
        data[520] = 0b1100; // dataset management, write zeroes
        data[525] = u8::from(self.config.volatile_cache);
        data[536] = u8::from(self.config.sgl);
    }

    fn namespace_data(&self, data: &mut [u8]) {
        for at in [0, 8, 16] {
            data[at..at + 8].copy_from_slice(&self.config.blocks.to_le_bytes());
        }
        data[130] = self.config.block_shift;
    }

    fn log(&mut self, command: &Fetched) -> u16 {
        let bytes = ((command.dw(10) >> 16) as usize + 1) * 4;
        let mut data = vec![0u8; bytes.min(4096)];
        if command.dw(10) & 0xff == 2 {
            data[0] = self.health.0;
            data[1..3].copy_from_slice(&310u16.to_le_bytes());
            (data[3], data[4]) = (100, 10);
            data[160..168].copy_from_slice(&self.health.1.to_le_bytes());
        }
        self.give(command, &data)
    }

    /// Data of an admin command: one page, which the driver gives as PRP1.
    fn give(&mut self, command: &Fetched, data: &[u8]) -> u16 {
        match self.space.write(command.words[3], data) {
            Ok(()) => 0,
            Err(fault) => {
                self.violated(format!("admin data: {fault}"));
                0x0004
            }
        }
    }

    fn abort(&mut self, command: &Fetched) {
        let (queue, cid) = (command.dw(10) as u16, (command.dw(10) >> 16) as u16);
        let place = self.under_way.iter().position(|other| (other.queue, other.cid()) == (queue, cid));
        match (self.faults.abort, place) {
            (AbortMode::Silent, _) => {}
            (AbortMode::Works, Some(place)) => {
                let aborted = self.under_way.remove(place);
                self.complete(&aborted, 0, ABORTED);
                self.complete(command, 0, 0);
            }
            (AbortMode::Late(steps), Some(place)) => {
                let late = &mut self.under_way[place];
                (late.stuck, late.wait) = (false, steps);
                self.complete(command, 0, 0);
            }
            // Bit 0 of the answer: the command was not aborted.
            (_, None) | (AbortMode::Refused, _) => self.complete(command, 1, 0),
        }
    }

    pub(crate) fn raise(&mut self, kind: u8, info: u8, log: u8) {
        self.events.push_back(u32::from(kind) | u32::from(info) << 8 | u32::from(log) << 16);
    }

    pub(crate) fn tell_events(&mut self) {
        while !self.events.is_empty() && !self.event_requests.is_empty() {
            let (request, event) = (self.event_requests.remove(0), self.events.pop_front());
            self.complete(&request, event.unwrap_or_default(), 0);
        }
    }
}
