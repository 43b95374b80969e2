//! The data pointer of a command as the device reads it (NVMe Base 2.0 section 4.1): where its bytes are.

use crate::controller::{Controller, Fetched};
use palisade_dma::DmaFault;

/// Why a pointer leads nowhere.
pub(crate) enum Bad {
    /// It is against the rules.
    Rule(&'static str),
    /// The memory is not there.
    Fault(DmaFault),
}

impl From<DmaFault> for Bad {
    fn from(fault: DmaFault) -> Self {
        Self::Fault(fault)
    }
}

impl Controller {
    fn page(&self) -> u64 {
        4096 << (self.config.cap >> 48 & 0xf)
    }

    /// The places of `bytes` of data, in order.
    pub(crate) fn places(&self, command: &Fetched, bytes: u64) -> Result<Vec<(u64, u64)>, Bad> {
        match command.words[0] >> 14 & 3 {
            0 => self.by_pages(command.words[3], command.words[4], bytes),
            1 => self.by_descriptors(command.words[3], command.words[4], bytes),
            _ => Err(Bad::Rule("PSDT")),
        }
    }

    /// 4.1.1: PRP1 may start inside a page, everything else starts one; PRP2 is a page or a list.
    fn by_pages(&self, first: u64, second: u64, bytes: u64) -> Result<Vec<(u64, u64)>, Bad> {
        let page = self.page();
        if !first.is_multiple_of(4) {
            return Err(Bad::Rule("PRP1 is no double word"));
        }
        let mut places = vec![(first, bytes.min(page - first % page))];
        let mut left = bytes - places[0].1;
        if left == 0 {
            return Ok(places);
        }
        if left <= page {
            if !second.is_multiple_of(page) {
                return Err(Bad::Rule("PRP2 starts inside a page"));
            }
            places.push((second, left));
            return Ok(places);
        }
        if !second.is_multiple_of(8) {
            return Err(Bad::Rule("the list is no quad word"));
        }
        let mut list = second;
        while left > 0 {
            let entry = self.space.load(list)?;
            list += 8;
            if list.is_multiple_of(page) && left > page {
                return Err(Bad::Rule("the list runs over its page"));
            }
            if !entry.is_multiple_of(page) {
                return Err(Bad::Rule("a list entry starts inside a page"));
            }
            places.push((entry, left.min(page)));
            left -= left.min(page);
        }
        Ok(places)
    }

    /// 4.1.2: a data block in the command, or a last segment of data blocks.
    fn by_descriptors(&self, first: u64, second: u64, bytes: u64) -> Result<Vec<(u64, u64)>, Bad> {
        if !self.config.sgl {
            return Err(Bad::Rule("SGLs are not offered"));
        }
        let mut places = Vec::new();
        match second >> 56 {
            0x00 => places.push((first, second & 0xffff_ffff)),
            0x30 => {
                for at in 0..(second & 0xffff_ffff) / 16 {
                    let (place, what) =
                        (self.space.load(first + at * 16)?, self.space.load(first + at * 16 + 8)?);
                    if what >> 56 != 0 {
                        return Err(Bad::Rule("no data block in a last segment"));
                    }
                    places.push((place, what & 0xffff_ffff));
                }
            }
            _ => return Err(Bad::Rule("descriptor type")),
        }
        if places.iter().map(|place| place.1).sum::<u64>() != bytes {
            return Err(Bad::Rule("an SGL of another length"));
        }
        Ok(places)
    }
}
