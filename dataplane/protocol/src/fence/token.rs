//! Column tokens (P-21): a keyed function of the grant's secret, so that one grant covers all columns of a
//! partition on a device and still no token is good for another column or generation.
//!
//! SipHash-2-4 with 128 bits of output is the keyed function. Secrets are volatile: a token from before a
//! sled's restart never matches (EF-18), since the boot secret is drawn anew by whoever starts the sled.

use crate::wire::{DeviceId, GrantSecret, Token};
use siphasher::sip128::SipHasher24;

/// Column number of the partition-wide token, which reserves new columns; its generation is 0.
pub const WHOLE_DEVICE: u32 = u32::MAX;

/// Token of a column and generation of a device under a grant.
pub fn derive(secret: GrantSecret, device: DeviceId, column: u32, generation: u32) -> Token {
    let mut bytes = [0u8; 24];
    bytes[..16].copy_from_slice(&device.0.to_le_bytes());
    bytes[16..20].copy_from_slice(&column.to_le_bytes());
    bytes[20..].copy_from_slice(&generation.to_le_bytes());
    Token(SipHasher24::new_with_key(&secret.0.to_le_bytes()).hash(&bytes).as_u128())
}

/// Secret of the `counter`-th grant of a sled boot on a device.
pub fn grant_secret(boot_secret: u128, device: DeviceId, counter: u64) -> GrantSecret {
    let mut bytes = [0u8; 32];
    bytes[..16].copy_from_slice(&device.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&counter.to_le_bytes());
    bytes[24..].copy_from_slice(b"palgrant");
    GrantSecret(SipHasher24::new_with_key(&boot_secret.to_le_bytes()).hash(&bytes).as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn p21_every_grant_device_column_and_generation_has_its_own_token() {
        let mut seen = BTreeSet::new();
        for counter in 0..4 {
            for device in [DeviceId(1), DeviceId(2)] {
                let secret = grant_secret(99, device, counter);
                for column in [0, 1, 500, WHOLE_DEVICE] {
                    for generation in 0..4 {
                        assert!(seen.insert(derive(secret, device, column, generation).0));
                    }
                }
            }
        }
        assert_eq!(seen.len(), 4 * 2 * 4 * 4);
    }

    #[test]
    fn ef18_another_boot_secret_gives_other_grants() {
        assert_ne!(grant_secret(1, DeviceId(1), 0), grant_secret(2, DeviceId(1), 0));
    }

    #[test]
    fn p21_tokens_are_fixed_by_a_golden_value() {
        // Heads and sleds of different builds must derive alike.
        assert_eq!(derive(GrantSecret(1), DeviceId(2), 3, 4).0, GOLDEN);
    }
    const GOLDEN: u128 = 165_810_302_240_175_353_959_319_021_214_703_813_216;
}
