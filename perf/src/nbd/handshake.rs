//! The two sides of a fixed newstyle handshake, blocking with time-outs.
//!
//! The client asks for one export by `NBD_OPT_GO` and offers no extension, so every reply is a simple one. A
//! client that can follow a volume asks for its group before that, in the same message.

use super::stream::Stream;
use super::uri::Uri;
use super::wire::*;
use palisade_protocol::export::nbd::{Known, parse_group};
use palisade_protocol::wire::Number;
use std::io::{self, Read, Write};

/// What the server said about the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub bytes: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed.
    #[error("handshake: {0}")]
    Io(#[from] io::Error),
    /// The other side does not speak fixed newstyle NBD.
    #[error("handshake: {0}")]
    Protocol(String),
    /// The server refused.
    #[error("the server refuses export `{name}`: {why}")]
    Refused {
        /// Asked for.
        name: String,
        /// The server's text, or the number of its answer.
        why: String,
        /// The newest group that the server knows of the volume, if it was asked and told.
        group: Option<Group>,
    },
}

/// The heads of a volume (MA-11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: Number,
    /// Addresses, the leader's first.
    pub places: Vec<Uri>,
}

impl Group {
    /// Reads the context that tells of it; addresses that are none are left out.
    fn read(context: &[u8]) -> Option<Self> {
        let (number, places) = parse_group(std::str::from_utf8(context).ok()?)?;
        let places = places.into_iter().filter_map(|place| Uri::parse(place).ok());
        Some(Self { number, places: places.take(GROUP_PLACES_MAX).collect() })
    }
}

/// Addresses of a group that are used.
const GROUP_PLACES_MAX: usize = 16;

fn protocol(what: impl Into<String>) -> HandshakeError {
    HandshakeError::Protocol(what.into())
}

fn take<const N: usize>(stream: &mut Stream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_vec(stream: &mut Stream, len: u32) -> Result<Vec<u8>, HandshakeError> {
    if len as usize > OPTION_BYTES_MAX {
        return Err(protocol(format!("an option of {len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The client's side.
pub fn ask(stream: &mut Stream, name: &str) -> Result<Export, HandshakeError> {
    talk(stream, name, None).map(|(export, _)| export)
}

/// The same for a client that can follow the volume: it says which group it knows and hears of the newest one.
pub fn ask_group(
    stream: &mut Stream,
    name: &str,
    known: &Known,
) -> Result<(Export, Option<Group>), HandshakeError> {
    talk(stream, name, Some(known))
}

fn talk(
    stream: &mut Stream,
    name: &str,
    known: Option<&Known>,
) -> Result<(Export, Option<Group>), HandshakeError> {
    let hello: [u8; 18] = take(stream)?;
    if be64(&hello, 0) != MAGIC || be64(&hello, 8) != OPTION_MAGIC {
        return Err(protocol("this is no newstyle NBD server"));
    }
    let flags = be16(&hello, 16);
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(protocol("the server does not speak fixed newstyle"));
    }
    let mut out = Vec::with_capacity(160 + 2 * name.len());
    out.extend(u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes());
    if let Some(known) = known {
        let query = known.query();
        option(&mut out, OPT_LIST_META_CONTEXT, &[&string(name), &1u32.to_be_bytes(), &string(&query)]);
    }
    option(&mut out, OPT_GO, &[&string(name), &0u16.to_be_bytes()]);
    stream.write_all(&out)?;
    replies(stream, name)
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn option(out: &mut Vec<u8>, option: u32, parts: &[&[u8]]) {
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend((parts.iter().map(|part| part.len()).sum::<usize>() as u32).to_be_bytes());
    parts.iter().for_each(|part| out.extend(*part));
}

/// Replies until `NBD_OPT_GO` is acknowledged or refused.
fn replies(stream: &mut Stream, name: &str) -> Result<(Export, Option<Group>), HandshakeError> {
    let (mut export, mut group) = (None, None);
    for _ in 0..64 {
        let head: [u8; 20] = take(stream)?;
        let option = be32(&head, 8);
        if be64(&head, 0) != OPTION_REPLY_MAGIC || (option != OPT_GO && option != OPT_LIST_META_CONTEXT) {
            return Err(protocol("an option reply that answers nothing we asked"));
        }
        let kind = be32(&head, 12);
        let data = take_vec(stream, be32(&head, 16))?;
        match (option, kind) {
            (OPT_LIST_META_CONTEXT, REP_META_CONTEXT) if data.len() >= 4 => {
                group = group.or_else(|| Group::read(&data[4..]));
            }
            (OPT_LIST_META_CONTEXT, _) => {} // its end, or a server that knows no groups
            (_, REP_ACK) => {
                let export =
                    export.ok_or_else(|| protocol("no NBD_INFO_EXPORT before the acknowledgement"))?;
                return Ok((export, group));
            }
            (_, REP_INFO) if data.len() >= 12 && be16(&data, 0) == INFO_EXPORT => {
                export = Some(Export { bytes: be64(&data, 2), flags: be16(&data, 10) });
            }
            (_, kind) if kind & REP_ERROR != 0 => {
                let text = String::from_utf8_lossy(&data).into_owned();
                let why = if text.is_empty() { format!("answer {kind:#x}") } else { text };
                return Err(HandshakeError::Refused { name: name.to_owned(), why, group });
            }
            _ => {} // other information is not for us
        }
    }
    Err(protocol("more than 64 replies to two options"))
}

/// The server's side: offers one export under any name. `false` when the client left.
pub fn offer(stream: &mut Stream, export: Export) -> Result<bool, HandshakeError> {
    let mut hello = Vec::with_capacity(18);
    hello.extend(MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    stream.write_all(&hello)?;
    let client_flags = u32::from_be_bytes(take(stream)?);
    for _ in 0..64 {
        let head: [u8; 16] = take(stream)?;
        if be64(&head, 0) != OPTION_MAGIC {
            return Err(protocol("an option without IHAVEOPT"));
        }
        let option = be32(&head, 8);
        let data = take_vec(stream, be32(&head, 12))?;
        match option {
            OPT_EXPORT_NAME => {
                let mut out = Vec::from(export.bytes.to_be_bytes());
                out.extend(export.flags.to_be_bytes());
                if client_flags & u32::from(FLAG_NO_ZEROES) == 0 {
                    out.extend([0; 124]);
                }
                stream.write_all(&out)?;
                return Ok(true);
            }
            OPT_GO | OPT_INFO => {
                let mut info = Vec::from(INFO_EXPORT.to_be_bytes());
                info.extend(export.bytes.to_be_bytes());
                info.extend(export.flags.to_be_bytes());
                answer(stream, option, REP_INFO, &info)?;
                answer(stream, option, REP_ACK, &[])?;
                if option == OPT_GO {
                    return Ok(true);
                }
            }
            OPT_LIST if data.is_empty() => {
                answer(stream, option, REP_SERVER, &[0, 0, 0, 4, b'b', b'a', b'r', b'e'])?;
                answer(stream, option, REP_ACK, &[])?;
            }
            OPT_ABORT => {
                answer(stream, option, REP_ACK, &[])?;
                return Ok(false);
            }
            _ => answer(stream, option, REP_ERR_UNSUP, &[])?,
        }
    }
    Err(protocol("more than 64 options"))
}

fn answer(stream: &mut Stream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(20 + data.len());
    out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    stream.write_all(&out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn client_and_bare_server_agree_on_the_export() {
        let (a, b) = UnixStream::pair().expect("a socket pair");
        let export = Export { bytes: 12 << 20, flags: TRANSMISSION_FLAGS };
        let server = std::thread::spawn(move || {
            let mut stream = Stream::from_unix(b).expect("a stream");
            offer(&mut stream, export).expect("a handshake")
        });
        let mut stream = Stream::from_unix(a).expect("a stream");
        assert_eq!(ask(&mut stream, "any").expect("an export"), export);
        assert!(server.join().expect("no panic"));
    }

    #[test]
    fn a_refusal_carries_the_servers_words() {
        let (a, mut b) = UnixStream::pair().expect("a socket pair");
        let mut script = Vec::from(MAGIC.to_be_bytes());
        script.extend(OPTION_MAGIC.to_be_bytes());
        script.extend(FLAG_FIXED_NEWSTYLE.to_be_bytes());
        script.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        script.extend(OPT_GO.to_be_bytes());
        script.extend(REP_ERR_UNKNOWN.to_be_bytes());
        script.extend(7u32.to_be_bytes());
        script.extend(b"no such");
        b.write_all(&script).expect("the script fits the socket");
        let mut stream = Stream::from_unix(a).expect("a stream");
        let error = ask(&mut stream, "x").expect_err("refused").to_string();
        assert_eq!(error, "the server refuses export `x`: no such");
    }

    #[test]
    fn a_stranger_on_the_port_is_an_error() {
        let (a, mut b) = UnixStream::pair().expect("a socket pair");
        b.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("fits");
        let mut stream = Stream::from_unix(a).expect("a stream");
        assert!(ask(&mut stream, "x").expect_err("no NBD").to_string().contains("no newstyle NBD server"));
    }
}
