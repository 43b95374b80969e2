//! What a controller and its namespaces say of themselves (NVMe Base 2.0 section 5.17.2, NVM Command Set 1.0
//! section 4.1.5), with everything refused that the driver cannot live with. A device may say anything.

use super::layout::ANSWER_BYTES;

/// Smallest and largest block, as powers of two: 512 bytes to 4 KiB.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u32> = 9..=12;

/// Why a controller or namespace cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Its queue entries have other sizes.
    #[error(
        "its queue entries cannot be 64 and 16 bytes long (SQES {sqes:#04x}, CQES {cqes:#04x}); \
         no NVM controller says so: update its firmware"
    )]
    Entries {
        /// SQES.
        sqes: u8,
        /// CQES.
        cqes: u8,
    },
    /// Not a controller for I/O.
    #[error("it is no I/O controller (CNTRLTYPE {0}); name the function that has the namespaces")]
    Type(u8),
    /// No namespaces at all.
    #[error("it has no namespaces; make one with `nvme create-ns` and attach it")]
    NoNamespaces,
    /// The wanted namespace is not active.
    #[error("namespace {wanted} is not active (active: {active:?}); name one that is, or attach it")]
    Inactive {
        /// Which one.
        wanted: u32,
        /// Those that are, the first few.
        active: Vec<u32>,
    },
    /// A namespace without blocks.
    #[error("namespace {0} has no blocks; it is not active, or its firmware is broken")]
    Empty(u32),
    /// A block size that the rack cannot use.
    #[error(
        "namespace {nsid} has blocks of 2^{shift} bytes; format it with 512 or 4096 \
         (`nvme format --block-size=4096`)"
    )]
    Blocks {
        /// Which one.
        nsid: u32,
        /// LBADS.
        shift: u32,
    },
    /// Metadata or protection information.
    #[error("namespace {0} is formatted with metadata; format it without (`nvme format --ms=0 --pi=0`)")]
    Metadata(u32),
    /// More bytes than can be addressed.
    #[error("namespace {nsid} claims {blocks} blocks of 2^{shift} bytes, which no device has")]
    Size {
        /// Which one.
        nsid: u32,
        /// NSZE.
        blocks: u64,
        /// LBADS.
        shift: u32,
    },
}

/// What is known about a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerFacts {
    /// Model number.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Most bytes of a transfer; `None` without a limit.
    pub transfer_max: Option<u64>,
    /// Aborts that it takes at a time.
    pub aborts_max: u32,
    /// Event requests that it takes at a time.
    pub events_max: u32,
    /// Event notices that can be asked for (OAES).
    pub notices: u32,
    /// A volatile write cache is present: writes last after FUA or flush only.
    pub volatile_cache: bool,
    /// Shadow doorbells.
    pub shadow_doorbells: bool,
    /// Dataset Management.
    pub deallocate: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// Scatter gather lists for data.
    pub sgl: bool,
    /// Highest namespace number.
    pub namespaces_max: u32,
}

/// What is known about a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its number.
    pub nsid: u32,
    /// Blocks.
    pub blocks: u64,
    /// A block is 2^shift bytes.
    pub block_shift: u32,
}

impl NamespaceFacts {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks << self.block_shift
    }
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from(u16_at(data, at)) | u32::from(u16_at(data, at + 2)) << 16
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

/// Printable characters of a field that is padded with spaces.
fn text(bytes: &[u8]) -> String {
    let clean = bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '?' });
    clean.collect::<String>().trim_matches([' ', '?']).to_owned()
}

/// Reads the Identify Controller data structure (Base 5.17.2.1). `page_min` is the smallest memory page.
pub(super) fn controller(data: &[u8; ANSWER_BYTES], page_min: u64) -> Result<ControllerFacts, IdentifyError> {
    let (sqes, cqes) = (data[512], data[513]);
    let takes = |sizes: u8, wanted: u8| sizes & 0xf <= wanted && wanted <= sizes >> 4;
    if !takes(sqes, 6) || !takes(cqes, 4) {
        return Err(IdentifyError::Entries { sqes, cqes });
    }
    // CNTRLTYPE: 1 is an I/O controller, 0 one that is older than the field.
    if data[111] > 1 {
        return Err(IdentifyError::Type(data[111]));
    }
    let namespaces_max = u32_at(data, 516);
    if namespaces_max == 0 {
        return Err(IdentifyError::NoNamespaces);
    }
    let (oacs, oncs) = (u16_at(data, 256), u16_at(data, 520));
    // MDTS: a power of two of the smallest page, 0 for no limit. More than 4 GiB is none, either.
    let mdts = u32::from(data[77]);
    let transfer_max = (1..20).contains(&mdts).then(|| page_min << mdts);
    Ok(ControllerFacts {
        model: text(&data[24..64]),
        serial: text(&data[4..24]),
        firmware: text(&data[64..72]),
        transfer_max,
        aborts_max: u32::from(data[258]) + 1, // ACL and AERL are 0's based
        events_max: u32::from(data[259]) + 1,
        notices: u32_at(data, 92),
        volatile_cache: data[525] & 1 == 1,
        shadow_doorbells: oacs >> 8 & 1 == 1,
        deallocate: oncs >> 2 & 1 == 1,
        write_zeroes: oncs >> 3 & 1 == 1,
        sgl: matches!(u32_at(data, 536) & 3, 1 | 2),
        namespaces_max,
    })
}

/// Picks the namespace to use from the active ones (Base 5.17.2.2): `wanted`, or the first.
pub(super) fn pick(
    data: &[u8; ANSWER_BYTES],
    wanted: Option<u32>,
    namespaces_max: u32,
) -> Result<u32, IdentifyError> {
    let numbers = (0..ANSWER_BYTES / 4).map(|i| u32_at(data, i * 4));
    let mut active = numbers.take_while(|&nsid| nsid != 0).filter(|&nsid| nsid <= namespaces_max);
    match wanted {
        None => active.next().ok_or(IdentifyError::NoNamespaces),
        Some(wanted) if active.clone().any(|nsid| nsid == wanted) => Ok(wanted),
        Some(wanted) => Err(IdentifyError::Inactive { wanted, active: active.take(8).collect() }),
    }
}

/// Reads the Identify Namespace data structure (NVM 4.1.5.1).
pub(super) fn namespace(data: &[u8; ANSWER_BYTES], nsid: u32) -> Result<NamespaceFacts, IdentifyError> {
    let blocks = u64_at(data, 0);
    if blocks == 0 {
        return Err(IdentifyError::Empty(nsid));
    }
    // FLBAS: the format's number in bits 3:0, and 6:5 for more than 16 formats, which are 64 at most.
    let format = usize::from(data[26] & 0xf) | usize::from(data[26] >> 5 & 3) << 4;
    let format = u32_at(data, 128 + 4 * format);
    let shift = format >> 16 & 0xff;
    if !BLOCK_SHIFTS.contains(&shift) {
        return Err(IdentifyError::Blocks { nsid, shift });
    }
    if format & 0xffff != 0 || data[29] & 7 != 0 {
        return Err(IdentifyError::Metadata(nsid));
    }
    if blocks > i64::MAX as u64 >> shift {
        return Err(IdentifyError::Size { nsid, blocks, shift });
    }
    Ok(NamespaceFacts { nsid, blocks, block_shift: shift })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound_controller() -> [u8; 4096] {
        let mut data = [0; 4096];
        data[24..64].fill(b' ');
        data[24..29].copy_from_slice(b"MODEL");
        (data[512], data[513], data[516], data[77]) = (0x66, 0x44, 4, 5);
        data
    }

    fn sound_namespace(shift: u8) -> [u8; 4096] {
        let mut data = [0; 4096];
        data[..8].copy_from_slice(&1000u64.to_le_bytes());
        data[26] = 1;
        data[128 + 4 + 2] = shift;
        data
    }

    #[test]
    fn a_sound_controller_is_read() {
        let mut data = sound_controller();
        data[256..258].copy_from_slice(&0x100u16.to_le_bytes());
        (data[520], data[525], data[536], data[258], data[259]) = (0xc, 7, 1, 3, 7);
        let facts = controller(&data, 4096).expect("sound");
        assert_eq!((facts.model.as_str(), facts.serial.as_str()), ("MODEL", ""));
        assert_eq!((facts.transfer_max, facts.aborts_max, facts.events_max), (Some(128 << 10), 4, 8));
        assert!(facts.volatile_cache && facts.shadow_doorbells && facts.deallocate && facts.write_zeroes);
        assert!(facts.sgl);
    }

    #[test]
    fn hostile_controllers_are_refused_or_bounded() {
        for mdts in [0, 20, 63, 64, 255] {
            let mut data = sound_controller();
            data[77] = mdts;
            assert_eq!(controller(&data, 65536).expect("no limit").transfer_max, None, "MDTS {mdts}");
        }
        let broken = |at: usize, byte: u8| {
            let mut data = sound_controller();
            data[at] = byte;
            controller(&data, 4096).expect_err("refused")
        };
        assert_eq!(broken(512, 0x77), IdentifyError::Entries { sqes: 0x77, cqes: 0x44 });
        assert_eq!(broken(513, 0x00), IdentifyError::Entries { sqes: 0x66, cqes: 0 });
        assert_eq!(broken(111, 2), IdentifyError::Type(2));
        assert_eq!(broken(516, 0), IdentifyError::NoNamespaces);
    }

    #[test]
    fn namespaces_of_512_and_4096_bytes_are_read_and_hostile_ones_refused() {
        let facts = namespace(&sound_namespace(9), 3).expect("sound");
        assert_eq!((facts.nsid, facts.blocks, facts.bytes()), (3, 1000, 512_000));
        assert_eq!(namespace(&sound_namespace(12), 1).map(|facts| facts.bytes()), Ok(4_096_000));
        for shift in [0, 8, 13, 31, 63, 64, 255] {
            let refused = namespace(&sound_namespace(shift), 1);
            assert_eq!(refused, Err(IdentifyError::Blocks { nsid: 1, shift: u32::from(shift) }));
        }
        let mut data = sound_namespace(9);
        data[..8].fill(0);
        assert_eq!(namespace(&data, 1), Err(IdentifyError::Empty(1)));
        data[..8].fill(0xff);
        assert!(matches!(namespace(&data, 1), Err(IdentifyError::Size { .. })));
        let mut data = sound_namespace(9);
        data[128 + 4] = 8;
        assert_eq!(namespace(&data, 1), Err(IdentifyError::Metadata(1)));
        let mut data = sound_namespace(9);
        data[26] = 0x6f; // format 63
        data[128 + 63 * 4 + 2] = 12;
        assert_eq!(namespace(&data, 1).map(|facts| facts.block_shift), Ok(12));
    }

    #[test]
    fn the_namespace_is_the_wanted_one_or_the_first_active_one() {
        let mut data = [0; 4096];
        data[..4].copy_from_slice(&7u32.to_le_bytes());
        data[4..8].copy_from_slice(&9u32.to_le_bytes());
        assert_eq!((pick(&data, None, 16), pick(&data, Some(9), 16)), (Ok(7), Ok(9)));
        let refused = pick(&data, Some(8), 16);
        assert_eq!(refused, Err(IdentifyError::Inactive { wanted: 8, active: vec![7, 9] }));
        assert_eq!(pick(&data, None, 6), Err(IdentifyError::NoNamespaces), "above NN");
        assert_eq!(pick(&[0; 4096], None, 16), Err(IdentifyError::NoNamespaces));
        assert_eq!(pick(&[0xff; 4096], None, 16), Err(IdentifyError::NoNamespaces));
    }
}
