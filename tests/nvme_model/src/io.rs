//! I/O commands of the emulated controller (NVM Command Set 1.0 section 3.2).

use crate::controller::{Controller, Fetched};
use crate::data::Bad;

const OK: u16 = 0;
const INVALID_OPCODE: u16 = 0x4001;
const INVALID_FIELD: u16 = 0x4002;
const TRANSFER_ERROR: u16 = 0x4004;
const INVALID_NAMESPACE: u16 = 0x400b;
const OUT_OF_RANGE: u16 = 0x4080;

impl Controller {
    /// Carries a command out; its status.
    pub(crate) fn io(&mut self, command: &Fetched) -> u16 {
        let opcode = command.opcode();
        if self.config.null {
            return OK;
        }
        if self.config.namespaces.first() != Some(&command.nsid()) {
            self.violated(format!("namespace {}", command.nsid()));
            return INVALID_NAMESPACE;
        }
        match opcode {
            0x00 => {
                self.media.flush();
                OK
            }
            0x01 | 0x02 => self.transfer(command, opcode == 0x01),
            0x08 => self.write_zeroes(command),
            0x09 => self.deallocate(command),
            _ => INVALID_OPCODE,
        }
    }

    fn block(&self) -> u64 {
        1 << self.config.block_shift
    }

    /// Blocks of a read, write or write zeroes, if they exist.
    fn range(&mut self, command: &Fetched) -> Option<(u64, u64)> {
        let lba = command.words[5];
        let blocks = u64::from(command.dw(12) & 0xffff) + 1;
        let fits = lba.checked_add(blocks).is_some_and(|end| end <= self.config.blocks);
        if !fits {
            self.violated(format!("blocks {lba}..{lba}+{blocks}"));
        }
        fits.then_some((lba, blocks))
    }

    fn transfer(&mut self, command: &Fetched, is_write: bool) -> u16 {
        let Some((lba, blocks)) = self.range(command) else { return OUT_OF_RANGE };
        let bytes = blocks * self.block();
        let most = 4096u64 << (self.config.cap >> 48 & 0xf) << self.config.mdts.min(20);
        if self.config.mdts > 0 && bytes > most {
            self.violated(format!("{bytes} bytes where MDTS allows {most}"));
            return INVALID_FIELD;
        }
        let places = match self.places(command, bytes) {
            Ok(places) => places,
            Err(Bad::Rule(rule)) => {
                self.violated(format!("pointer: {rule}"));
                return INVALID_FIELD;
            }
            Err(Bad::Fault(fault)) => {
                self.violated(format!("pointer: {fault}"));
                return TRANSFER_ERROR;
            }
        };
        let mut data = vec![0; bytes as usize];
        if !is_write {
            for (at, block) in data.chunks_mut(self.block() as usize).enumerate() {
                block.copy_from_slice(self.media.read(lba + at as u64));
            }
        }
        let mut done = 0;
        for (at, len) in places {
            let part = &mut data[done..done + len as usize];
            done += len as usize;
            let moved = if is_write { self.space.read(at, part) } else { self.space.write(at, part) };
            if let Err(fault) = moved {
                self.violated(format!("data: {fault}"));
                return TRANSFER_ERROR;
            }
        }
        if is_write {
            let cache = self.config.volatile_cache && command.dw(12) >> 30 & 1 == 0;
            self.store(lba, &data, cache);
        }
        OK
    }

    fn store(&mut self, lba: u64, data: &[u8], cache: bool) {
        for (at, block) in data.chunks(self.block() as usize).enumerate() {
            self.media.write(lba + at as u64, block, cache);
        }
    }

    fn write_zeroes(&mut self, command: &Fetched) -> u16 {
        let Some((lba, blocks)) = self.range(command) else { return OUT_OF_RANGE };
        let zeroes = vec![0; (blocks * self.block()) as usize];
        self.store(lba, &zeroes, self.config.volatile_cache);
        OK
    }

    fn deallocate(&mut self, command: &Fetched) -> u16 {
        if command.dw(11) & 4 == 0 {
            return OK; // only hints
        }
        for at in 0..u64::from(command.dw(10) & 0xff) + 1 {
            let range = command.words[3] + at * 16;
            let (Ok(first), Ok(lba)) = (self.space.load(range), self.space.load(range + 8)) else {
                self.violated("ranges of a deallocation are nowhere".to_owned());
                return TRANSFER_ERROR;
            };
            let blocks = first >> 32;
            if lba.checked_add(blocks).is_none_or(|end| end > self.config.blocks) {
                self.violated(format!("deallocation of {lba}..{lba}+{blocks}"));
                return OUT_OF_RANGE;
            }
            let zeroes = vec![0; (blocks * self.block()) as usize];
            self.store(lba, &zeroes, self.config.volatile_cache);
        }
        OK
    }
}
