//! Sizes as people write them: `"4 GiB"`, `"512KiB"`, `"8 MB"`, or a bare number of bytes.

/// Units, longest first where one ends in another.
const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number stands in front.
    #[error("`{0}` does not start with a whole number")]
    Number(String),
    /// The unit is not one of ours.
    #[error("`{0}` is no unit: write B, KiB, MiB, GiB, TiB or PiB")]
    Unit(String),
    /// More bytes than 64 bits count.
    #[error("the size does not fit 64 bits")]
    TooLarge,
}

/// Bytes of a written size.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Number(text.to_owned()));
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let unit = unit.trim();
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| SizeError::Unit(unit.to_owned()))?;
    number.checked_mul(*scale).ok_or(SizeError::TooLarge)
}

/// A size for people: the largest binary unit, one decimal (`4.0 GiB`), bytes below 1 KiB.
pub fn show_size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_sizes_are_read() {
        let table = [
            ("4 GiB", 4 << 30),
            ("512KiB", 512 << 10),
            ("8 mib", 8 << 20),
            ("0", 0),
            ("17 B", 17),
            ("2 TB", 2_000_000_000_000),
            (" 1 PiB ", 1 << 50),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_name() {
        assert!(matches!(parse_size("four GiB"), Err(SizeError::Number(_))));
        assert!(matches!(parse_size("-4 GiB"), Err(SizeError::Number(_))));
        assert!(matches!(parse_size("4 Gigs"), Err(SizeError::Unit(_))));
        assert!(matches!(parse_size("1.5 GiB"), Err(SizeError::Unit(_))));
        assert_eq!(parse_size("99999999999999999999"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("99999999 PiB"), Err(SizeError::TooLarge));
        assert!(parse_size("").is_err());
    }

    #[test]
    fn sizes_are_shown_as_the_ready_line_shows_them() {
        assert_eq!(show_size(4 << 30), "4.0 GiB");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(512), "512 B");
    }
}
