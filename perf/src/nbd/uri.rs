//! NBD addresses: `nbd://host:port/name` and `nbd+unix:///name?socket=PATH`.

use std::fmt;

/// Where an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The socket.
    pub place: Place,
    /// The export's name, perhaps empty.
    pub name: String,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `host:port`.
    Tcp(String),
    /// A path.
    Unix(String),
}

/// Why an address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no target: use nbd://host:port/name, nbd+unix:///name?socket=PATH, mem:SIZE, \
     block:PATH or nvme:PCI-ADDRESS"
)]
pub struct NotAnAddress(pub String);

impl Uri {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, NotAnAddress> {
        let bad = || NotAnAddress(text.to_owned());
        if let Some(rest) = text.strip_prefix("nbd://") {
            let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
            if host.is_empty() {
                return Err(bad());
            }
            let after_bracket = host.rsplit(']').next().unwrap_or(host);
            let host = if after_bracket.contains(':') { host.to_owned() } else { format!("{host}:10809") };
            return Ok(Self { place: Place::Tcp(host), name: name.to_owned() });
        }
        let rest = text.strip_prefix("nbd+unix://").ok_or_else(bad)?;
        let (name, query) = rest.split_once('?').ok_or_else(bad)?;
        let path = query.split('&').find_map(|part| part.strip_prefix("socket=")).ok_or_else(bad)?;
        if path.is_empty() {
            return Err(bad());
        }
        Ok(Self { place: Place::Unix(path.to_owned()), name: name.trim_start_matches('/').to_owned() })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(host) => write!(f, "nbd://{host}/{}", self.name),
            Place::Unix(path) => write!(f, "nbd+unix:///{}?socket={path}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_are_read_and_written_alike() {
        for text in ["nbd://127.0.0.1:10809/vol0", "nbd+unix:///vol0?socket=/run/x.sock"] {
            assert_eq!(Uri::parse(text).expect("an address").to_string(), text);
        }
        let short = Uri::parse("nbd://[::1]").expect("an address");
        assert_eq!(short, Uri { place: Place::Tcp("[::1]:10809".into()), name: String::new() });
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in ["", "http://x/", "nbd://", "nbd+unix:///x", "nbd+unix:///x?socket="] {
            assert_eq!(Uri::parse(text), Err(NotAnAddress(text.to_owned())));
        }
    }
}
