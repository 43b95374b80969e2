//! Which head leads a volume, for clients that follow it (MA-10, MA-11, MA-22).
//!
//! NBD has no redirect. A head that does not lead the volume refuses it with NBD_REP_ERR_POLICY and a line for
//! people. A client that can follow asks before that, by NBD_OPT_LIST_META_CONTEXT, for the context
//! `x-palisade:group`, and may say which group it knows and how much I/O it had answered lately:
//! `x-palisade:group/NUMBER/IO`. The answer is one context, `x-palisade:group/NUMBER URI URI …`, the leader's
//! addresses first. It says where to go and cannot be selected. Servers that do not know it answer nothing.

use super::limits::NAME_MAX;
use crate::wire::{Number, PartitionId};

/// Name of the context, and start of the longer forms.
pub const GROUP_CONTEXT: &str = "x-palisade:group";

/// The newest group of a volume that a head knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The partition of the volume.
    pub partition: PartitionId,
    /// Its number.
    pub number: Number,
    /// Name of the head that leads it; empty when it is not known.
    pub leader: String,
    /// Where clients reach the members, as addresses of the export, the leader's first.
    pub places: Vec<String>,
}

/// A client asks at a head for a volume that another one leads (MA-11 step 3): the beginning of MA-14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The volume's partition.
    pub partition: PartitionId,
    /// Whether the client knows the very group that this head knows. It may also have said nothing; one that
    /// knows an older group is sent on and does not knock.
    pub informed: bool,
    /// Requests that it had answered lately, as it says; 0 when it says nothing.
    pub io: u64,
}

/// What a client said of itself in its query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The newest group that it knows.
    pub number: Option<Number>,
    /// Requests that it had answered lately.
    pub io: u64,
}

impl Known {
    /// The query that says so.
    pub fn query(&self) -> String {
        match self.number {
            Some(number) => format!("{GROUP_CONTEXT}/{number}/{}", self.io),
            None => GROUP_CONTEXT.to_owned(),
        }
    }

    /// Reads a query; `None` when it is another context's, or malformed.
    pub(super) fn parse(query: &str) -> Option<Self> {
        let rest = query.strip_prefix(GROUP_CONTEXT)?;
        if rest.is_empty() {
            return Some(Self::default());
        }
        let (number, io) = rest.strip_prefix('/')?.split_once('/')?;
        Some(Self { number: Some(parse_number(number)?), io: parse_digits(io)? })
    }
}

impl Group {
    /// The context that tells of the group. Addresses that make it longer than a string may be are left out.
    pub(super) fn context(&self) -> String {
        let mut text = format!("{GROUP_CONTEXT}/{}", self.number);
        for place in &self.places {
            let fits = text.len() + 1 + place.len() <= NAME_MAX && !place.contains([' ', '\0']);
            if fits {
                text.push(' ');
                text.push_str(place);
            }
        }
        text
    }

    /// Why a client does not get the volume here, for people and in one line.
    pub(super) fn refusal(&self, name: &str, known: Known) -> String {
        if known.number > Some(self.number) {
            return format!(
                "`{name}`: this head knows group {} and you know a newer one: ask another head",
                self.number
            );
        }
        let leader = if self.leader.is_empty() { "another head" } else { &self.leader };
        let mut text = format!("`{name}` is served by {leader}");
        if let Some(place) = self.places.first() {
            text.push_str(&format!(": connect to {place}"));
        }
        text.push_str(&format!(" (group {})", self.number));
        // "Conventions": strings are no longer than that.
        let most = (0..=NAME_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(most.unwrap_or(0));
        text
    }
}

/// Reads a context that tells of a group: its number, and the addresses. For clients.
pub fn parse_group(context: &str) -> Option<(Number, Vec<&str>)> {
    let mut words = context.strip_prefix(GROUP_CONTEXT)?.strip_prefix('/')?.split(' ');
    let number = parse_number(words.next()?)?;
    Some((number, words.filter(|word| !word.is_empty()).collect()))
}

fn parse_number(text: &str) -> Option<Number> {
    let (epoch, counter) = text.split_once('.')?;
    Some(Number { epoch: u32::try_from(parse_digits(epoch)?).ok()?, counter: parse_digits(counter)? })
}

/// Digits only: no sign, and no form of which there are two.
fn parse_digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
