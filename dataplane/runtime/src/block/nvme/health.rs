//! The SMART / Health Information log (NVMe Base 2.0 section 5.16.1.3) and asynchronous events (5.2).

/// Log pages.
pub(super) mod log {
    pub(in super::super) const HEALTH: u8 = 0x02;
}

/// Bytes of the health log.
pub(super) const HEALTH_BYTES: usize = 512;

/// What a device says of its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Critical Warning, as the device gives it.
    pub warnings: u8,
    /// Composite temperature in kelvins.
    pub kelvins: u16,
    /// Spare capacity left, and when it is too little, in percent.
    pub spare_percent: u8,
    /// Below this the device warns.
    pub spare_least_percent: u8,
    /// Estimate of the device's life that is used, in percent; may exceed 100.
    pub used_percent: u8,
    /// Unrecovered data integrity errors.
    pub media_errors: u64,
    /// Power losses without a shutdown notification.
    pub unsafe_shutdowns: u64,
    /// Units of 512,000 bytes read.
    pub units_read: u64,
    /// Units of 512,000 bytes written.
    pub units_written: u64,
}

/// What Critical Warning says (Figure "SMART / Health Information Log Page", byte 0).
const WARNINGS: [&str; 6] = [
    "spare capacity is low",
    "temperature is out of range",
    "reliability is degraded",
    "the media are read-only",
    "the backup of volatile memory failed",
    "persistent memory is read-only or unreliable",
];

impl Health {
    /// Reads the log page.
    pub(super) fn decode(data: &[u8; HEALTH_BYTES]) -> Self {
        // Counters have 128 bits; what does not fit into 64 is shown as the most that does.
        let counter = |at: usize| {
            let bytes: [u8; 16] = std::array::from_fn(|i| data[at + i]);
            u64::try_from(u128::from_le_bytes(bytes)).unwrap_or(u64::MAX)
        };
        Self {
            warnings: data[0],
            kelvins: u16::from_le_bytes([data[1], data[2]]),
            spare_percent: data[3],
            spare_least_percent: data[4],
            used_percent: data[5],
            units_read: counter(32),
            units_written: counter(48),
            unsafe_shutdowns: counter(144),
            media_errors: counter(160),
        }
    }

    /// What is wrong, for people; empty while nothing is.
    pub fn complaints(&self) -> impl Iterator<Item = &'static str> {
        let warnings = self.warnings;
        (0..WARNINGS.len()).filter(move |bit| warnings >> bit & 1 == 1).map(|bit| WARNINGS[bit])
    }
}

/// An asynchronous event (Base 5.2.1): completion double word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// 0 error, 1 health, 2 notice, 6 command set, 7 vendor.
    pub kind: u8,
    /// What of that kind.
    pub info: u8,
    /// The log page that tells more.
    pub log: u8,
}

impl AsyncEvent {
    pub(super) fn decode(dw0: u32) -> Self {
        Self { kind: dw0 as u8 & 7, info: (dw0 >> 8) as u8, log: (dw0 >> 16) as u8 }
    }

    /// A notice that namespaces have changed.
    pub(super) fn is_namespace_change(self) -> bool {
        (self.kind, self.info) == (2, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_log_is_read_and_its_warnings_told() {
        let mut data = [0; 512];
        (data[0], data[1], data[2], data[3], data[4], data[5]) = (0b1001, 0x2c, 0x01, 90, 10, 120);
        data[48..52].copy_from_slice(&7u32.to_le_bytes());
        data[160] = 3;
        data[144..160].fill(0xff);
        let health = Health::decode(&data);
        assert_eq!((health.kelvins, health.spare_percent, health.used_percent), (300, 90, 120));
        assert_eq!((health.units_written, health.media_errors), (7, 3));
        assert_eq!(health.unsafe_shutdowns, u64::MAX);
        let told: Vec<&str> = health.complaints().collect();
        assert_eq!(told, ["spare capacity is low", "the media are read-only"]);
        assert_eq!(Health { warnings: 0xff, ..health }.complaints().count(), 6);
    }

    #[test]
    fn events_are_read_from_their_completion() {
        let event = AsyncEvent::decode(0x0002_0101);
        assert_eq!(event, AsyncEvent { kind: 1, info: 1, log: 2 });
        assert!(AsyncEvent::decode(0x0004_0002).is_namespace_change() && !event.is_namespace_change());
    }
}
