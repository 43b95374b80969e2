//! The handshake: client flags and options ("Newstyle negotiation", "Option types").

use super::connection::{Connection, Reason, Receive};
use super::group::{Knock, Known};
use super::limits::{NAME_MAX, OPTION_BYTES_MAX, OPTION_SKIP_MAX, OPTIONS_MAX, REPLY_BYTES_MAX};
use super::request::Attached;
use super::serve::Wait;
use super::words::{
    CONTEXT, CONTEXT_ID, FIXED_NEWSTYLE, IHAVEOPT, NO_ZEROES, OPTION_REPLY_MAGIC, info, opt, rep, trans,
};
use super::{ExportInfo, Exports};
use crate::wire::limits::{BLOCK, EXPORT_BYTES_MAX, SECTOR};

/// What was negotiated so far.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    no_zeroes: bool,
    options: u32,
    structured: bool,
    /// Export for which base:allocation was selected.
    context_for: Option<String>,
    /// What the client said of the group of an export, named first.
    known: Option<(String, Known)>,
    /// It was refused a volume that another head leads.
    pub(super) knock: Option<Knock>,
}

/// Big-endian fields of an option's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }
    /// A string behind its 32-bit length.
    fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        if len > NAME_MAX {
            return None;
        }
        std::str::from_utf8(self.take(len)?).ok()
    }
}

impl Connection {
    /// One step of the handshake.
    pub(super) fn negotiate(&mut self, rest: &mut &[u8], exports: &dyn Exports) -> bool {
        match self.receive {
            Receive::ClientFlags => self.gather(rest, 4) && self.client_flags(),
            Receive::OptionHeader => {
                if self.output.pending() > REPLY_BYTES_MAX {
                    return self.wait(Wait::Limit);
                }
                self.gather(rest, 16) && self.option_header()
            }
            Receive::OptionData { option, len } => {
                if !self.gather(rest, len) {
                    return false;
                }
                let data = std::mem::take(&mut self.carry);
                self.receive = Receive::OptionHeader;
                self.option(option, &data, exports);
                self.carry = data;
                self.carry.clear();
                true
            }
            Receive::OptionSkip { option, left } => {
                let count = rest.len().min(left);
                *rest = &rest[count..];
                self.receive = Receive::OptionSkip { option, left: left - count };
                if left == count {
                    self.receive = Receive::OptionHeader;
                    self.option_reply(option, rep::ERR_TOO_BIG, &[b"option data too long"]);
                }
                left == count
            }
            _ => unreachable!("the handshake is over"),
        }
    }

    fn client_flags(&mut self) -> bool {
        let flags = Fields(&self.carry).u32().unwrap_or(0);
        self.carry.clear();
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            self.close(Reason::Violation("unknown client flags"));
        } else {
            self.handshake.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
            self.receive = Receive::OptionHeader;
        }
        true
    }

    fn option_header(&mut self) -> bool {
        let carry = std::mem::take(&mut self.carry);
        let mut fields = Fields(&carry);
        let magic = fields.take(8).unwrap_or_default();
        let (option, len) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0) as usize);
        self.handshake.options += 1;
        if magic != IHAVEOPT.to_be_bytes() {
            self.close(Reason::Violation("an option does not start with IHAVEOPT"));
        } else if self.handshake.options > OPTIONS_MAX {
            self.close(Reason::Violation("too many options"));
        } else if len > OPTION_SKIP_MAX || (option == opt::EXPORT_NAME && len > NAME_MAX) {
            self.close(Reason::Violation("option data far too long"));
        } else if len > OPTION_BYTES_MAX {
            self.receive = Receive::OptionSkip { option, left: len };
        } else {
            self.receive = Receive::OptionData { option, len };
        }
        self.carry = carry;
        self.carry.clear();
        true
    }

    fn option(&mut self, option: u32, data: &[u8], exports: &dyn Exports) {
        match option {
            opt::EXPORT_NAME => self.export_name(data, exports),
            opt::ABORT => {
                self.option_reply(option, rep::ACK, &[]);
                self.drain(Reason::Disconnected);
            }
            opt::LIST if data.is_empty() => {
                for export in exports.list() {
                    let len = (export.name.len() as u32).to_be_bytes();
                    let parts = [&len[..], export.name.as_bytes(), export.description.as_bytes()];
                    self.option_reply(option, rep::SERVER, &parts);
                }
                self.option_reply(option, rep::ACK, &[]);
            }
            opt::LIST => self.option_reply(option, rep::ERR_INVALID, &[b"NBD_OPT_LIST takes no data"]),
            opt::INFO | opt::GO => self.info_or_go(option, data, exports),
            opt::STRUCTURED_REPLY if data.is_empty() && !self.handshake.structured => {
                self.handshake.structured = true;
                self.option_reply(option, rep::ACK, &[]);
            }
            opt::STRUCTURED_REPLY => {
                let text = b"structured replies take no data and are negotiated once";
                self.option_reply(option, rep::ERR_INVALID, &[text]);
            }
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, data, exports),
            opt::STARTTLS => self.option_reply(option, rep::ERR_UNSUP, &[b"TLS is not supported"]),
            _ => self.option_reply(option, rep::ERR_UNSUP, &[b"unknown option"]),
        }
    }

    /// NBD_OPT_EXPORT_NAME knows no error reply: an unknown name ends the connection.
    fn export_name(&mut self, data: &[u8], exports: &dyn Exports) {
        let Ok(name) = std::str::from_utf8(data) else {
            return self.close(Reason::Violation("NBD_OPT_EXPORT_NAME without a name"));
        };
        let export = match self.find(name, exports, true) {
            Ok(export) => export,
            Err((rep::ERR_POLICY, _)) => {
                return self.close(Reason::Violation("NBD_OPT_EXPORT_NAME asks for what another head leads"));
            }
            Err(_) => return self.close(Reason::Violation("NBD_OPT_EXPORT_NAME asks for an unknown export")),
        };
        self.output.put(&export.bytes.to_be_bytes());
        self.output.put(&self.transmission_flags(&export).to_be_bytes());
        if !self.handshake.no_zeroes {
            self.output.put(&[0; 124]);
        }
        self.attach(&export);
    }

    /// NBD_OPT_INFO and NBD_OPT_GO: size, flags and block sizes always, the rest when asked for.
    fn info_or_go(&mut self, option: u32, data: &[u8], exports: &dyn Exports) {
        let mut fields = Fields(data);
        let asked = fields.string().and_then(|name| {
            let count = fields.u16()?;
            let wanted = fields.take(usize::from(count) * 2)?;
            fields.0.is_empty().then_some((name, wanted))
        });
        let Some((name, wanted)) = asked else {
            return self.option_reply(option, rep::ERR_INVALID, &[b"malformed option data"]);
        };
        let export = match self.find(name, exports, option == opt::GO) {
            Ok(export) => export,
            Err((kind, text)) => return self.option_reply(option, kind, &[text.as_bytes()]),
        };
        let wants = |kind: u16| wanted.chunks_exact(2).any(|pair| pair == kind.to_be_bytes());
        self.info(
            option,
            info::EXPORT,
            &[&export.bytes.to_be_bytes(), &self.transmission_flags(&export).to_be_bytes()],
        );
        if wants(info::NAME) {
            self.info(option, info::NAME, &[export.name.as_bytes()]);
        }
        if wants(info::DESCRIPTION) && !export.description.is_empty() {
            self.info(option, info::DESCRIPTION, &[export.description.as_bytes()]);
        }
        let sizes = [SECTOR as u32, BLOCK as u32, EXPORT_BYTES_MAX as u32].map(u32::to_be_bytes);
        self.info(option, info::BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        self.option_reply(option, rep::ACK, &[]);
        if option == opt::GO {
            self.attach(&export);
        }
    }

    /// The export, if it is served here and the client knows no newer group; else the error and its words.
    /// Who wants to attach to what another head leads has knocked here.
    fn find(&mut self, name: &str, exports: &dyn Exports, attach: bool) -> Result<ExportInfo, (u32, String)> {
        let (export, group) = (exports.lookup(name), exports.group(name));
        let said = self.handshake.known.as_ref().filter(|(of, _)| of == name);
        let known = said.map(|(_, known)| *known).unwrap_or_default();
        match (export, group) {
            // A head that leads an older group than the client knows does not know yet that it is over.
            (Some(export), group) if group.as_ref().is_none_or(|g| known.number <= Some(g.number)) => {
                Ok(export)
            }
            (export, Some(group)) => {
                let informed = known.number == Some(group.number);
                if attach && export.is_none() && (informed || known.number.is_none()) {
                    let partition = group.partition;
                    self.handshake.knock = Some(Knock { partition, informed, io: known.io });
                }
                Err((rep::ERR_POLICY, group.refusal(name, known)))
            }
            (_, None) => Err((rep::ERR_UNKNOWN, "no export of that name".to_owned())),
        }
    }

    fn info(&mut self, option: u32, kind: u16, parts: &[&[u8]]) {
        let kind = kind.to_be_bytes();
        let mut all: [&[u8]; 4] = [&[]; 4];
        all[0] = &kind;
        all[1..=parts.len()].copy_from_slice(parts);
        self.option_reply(option, rep::INFO, &all);
    }

    /// NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: base:allocation, and to be listed only the
    /// group of a volume, also of one that another head leads.
    fn meta_context(&mut self, option: u32, data: &[u8], exports: &dyn Exports) {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            self.handshake.context_for = None;
        }
        if set && !self.handshake.structured {
            return self.option_reply(option, rep::ERR_INVALID, &[b"negotiate structured replies first"]);
        }
        let mut fields = Fields(data);
        let asked = fields.string().and_then(|name| Some((name, queries(&mut fields, set)?)));
        let Some((name, Queries { allocation, known })) = asked else {
            return self.option_reply(option, rep::ERR_INVALID, &[b"malformed option data"]);
        };
        let (export, group) = (exports.lookup(name), exports.group(name));
        if export.is_none() && group.is_none() {
            return self.option_reply(option, rep::ERR_UNKNOWN, &[b"no export of that name"]);
        }
        if let Some((known, group)) = known.zip(group) {
            self.option_reply(option, rep::META_CONTEXT, &[&[0; 4], group.context().as_bytes()]);
            self.handshake.known = Some((name.to_owned(), known));
        }
        if let Some(export) = export.filter(|_| allocation) {
            let id = if set { CONTEXT_ID } else { 0 };
            self.option_reply(option, rep::META_CONTEXT, &[&id.to_be_bytes(), CONTEXT]);
            if set {
                self.handshake.context_for = Some(export.name);
            }
        }
        self.option_reply(option, rep::ACK, &[]);
    }

    /// What the server offers for the export. Multi-conn is true: a write is durable and seen by every
    /// connection before it is acknowledged, so a flush on one covers all ("Multiple connections").
    fn transmission_flags(&self, export: &ExportInfo) -> u16 {
        let mut flags = trans::HAS_FLAGS | trans::SEND_FLUSH | trans::SEND_FUA | trans::CAN_MULTI_CONN;
        if export.readonly {
            flags |= trans::READ_ONLY;
        } else {
            flags |= trans::SEND_TRIM | trans::SEND_WRITE_ZEROES | trans::SEND_FAST_ZERO;
        }
        if self.handshake.structured {
            flags |= trans::SEND_DF;
        }
        flags
    }

    /// The handshake is over; requests follow.
    fn attach(&mut self, export: &ExportInfo) {
        self.attached = Some(Attached {
            partition: export.partition,
            bytes: export.bytes,
            readonly: export.readonly,
            structured: self.handshake.structured,
            context: self.handshake.context_for.as_ref() == Some(&export.name),
        });
        self.receive = Receive::Header;
    }

    /// "Option haggling": every reply repeats the option and says how much follows.
    fn option_reply(&mut self, option: u32, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.output.put(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.put(&option.to_be_bytes());
        self.output.put(&kind.to_be_bytes());
        self.output.put(&(len as u32).to_be_bytes());
        parts.iter().for_each(|part| self.output.put(part));
    }
}

/// What the queries ask for.
struct Queries {
    allocation: bool,
    /// The group, with what the client knows of it.
    known: Option<Known>,
}

/// Reads the queries; `None` when they are malformed. A list without queries asks for all contexts that can be
/// selected, and one for "base:" for all of that name space.
fn queries(fields: &mut Fields<'_>, set: bool) -> Option<Queries> {
    let count = fields.u32()?;
    let mut found = Queries { allocation: count == 0 && !set, known: None };
    for _ in 0..count {
        let query = fields.string()?;
        found.allocation |= query.as_bytes() == CONTEXT || (!set && query == "base:");
        found.known = found.known.or_else(|| Known::parse(query).filter(|_| !set));
    }
    fields.0.is_empty().then_some(found)
}
