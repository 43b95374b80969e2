//! The event hash of a run: two runs of one seed must agree in every input and effect of every node.

use std::fmt::{self, Write};

/// A running 64-bit hash, fed with text. Fixed, so that hashes can be compared between builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fold {
    /// The hash so far.
    pub fn value(&self) -> u64 {
        self.0
    }

    /// Adds a number.
    pub fn number(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Adds bytes of a name.
    pub fn bytes(&mut self, name: u32, bytes: &[u8]) {
        self.number(u64::from(name) << 32 | u64::from(palisade_isal::crc32c(bytes)));
        self.number(bytes.len() as u64);
    }

    /// Adds the debug text of a value.
    pub fn debug(&mut self, value: &impl fmt::Debug) {
        write!(self, "{value:?}").expect("folding text cannot fail");
    }
}

impl Write for Fold {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word) ^ chunk.len() as u64);
        }
        Ok(())
    }
}
