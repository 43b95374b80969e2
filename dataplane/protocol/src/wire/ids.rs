//! Names of things. Each is a newtype, so that one cannot stand in for another.

use smallvec::SmallVec;
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}
macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let v = self.0;
                write!(f, "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", (v >> 96) as u32, (v >> 80) as u16,
                    (v >> 64) as u16, (v >> 48) as u16, v & 0xffff_ffff_ffff)
            }
        }
    };
}

id!(
    /// A node (head, sled or control) of the rack; given once by the control store, never reused.
    NodeId(u32)
);
id!(
    /// A volume; never reused after deletion.
    VolumeId(u64)
);
id!(
    /// A volume partition: the unit of sequence numbers, fencing and operation order. For now a volume
    /// has one partition.
    PartitionId(u64)
);
id!(
    /// Operation number of a partition: rises by one with every change of its index (P-07). 0 is "none".
    Op(u64)
);
id!(
    /// A logical block (4 KiB) of a volume.
    Lba(u64)
);
id!(
    /// An extent of a partition: the operation number of its creation, so never reused.
    ExtentId(u64)
);
id!(
    /// Which grant of the authority gave a number (P-04): two stores that grant one number differ here.
    GrantId(u64)
);
id!(
    /// A request of one sender boot; answered alike when repeated (P-22).
    ReqId(u64)
);
uuid!(
    /// The rack that media belong to.
    RackId
);
uuid!(
    /// A formatted sled device; lives on the device and moves with it.
    DeviceId
);
uuid!(
    /// A formatted head log (P-03).
    LogId
);
uuid!(
    /// One boot of one node (P-01).
    BootId
);

/// A sequence number (EF-14, P-04): the epoch of the store that granted it, then its counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// Raised when a control store is restored or made anew.
    pub epoch: u32,
    /// Raised by one with every grant of the partition.
    pub counter: u64,
}

impl Number {
    /// Below every granted number.
    pub const ZERO: Self = Self { epoch: 0, counter: 0 };
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// What every inter-node message of a partition carries (MA-06, P-04).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The partition spoken of.
    pub partition: PartitionId,
    /// The number under which the sender speaks.
    pub number: Number,
    /// The grant that gave it.
    pub grant: GrantId,
}

/// One member of a group (P-03): a head together with its log and boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The head.
    pub head: NodeId,
    /// Its log; another log is another member.
    pub log: LogId,
    /// The boot that the number was granted to (P-01).
    pub boot: BootId,
}

/// A granted (number, group) pair of a partition. The first member is the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Partition, number, grant.
    pub stamp: Stamp,
    /// Primary first. Never empty.
    pub members: Vec<Member>,
    /// Of a group of one: it acknowledges nothing that sleds do not hold copies of (P-30). Said with the
    /// grant, so that authority and head mean the same whenever the volume's policy changes.
    pub copies: bool,
    /// Before the primary serves it has to take over from the sleds what was acknowledged alone under numbers
    /// above this one, the last under which it was a full member (P-30).
    pub salvage: Option<Number>,
}

impl Assignment {
    /// A pair that is served as it is: no copies on sleds are made or needed.
    pub fn plain(stamp: Stamp, members: Vec<Member>) -> Self {
        Self { stamp, members, copies: false, salvage: None }
    }

    /// The primary.
    pub fn primary(&self) -> Option<&Member> {
        self.members.first()
    }

    /// This head's membership, if it is a member.
    pub fn member(&self, head: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.head == head)
    }
}

/// Why a change of a group is proposed. For `events` and the rate pause; the authority judges every proposal
/// by the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// A member does not answer.
    Silence,
    /// The primary answers and is not well (MA-14).
    Unhealthy,
    /// A client asked for the volume at a secondary, and the policy lets it move (MA-14).
    ClientAsked,
    /// Somebody wants the primary elsewhere: a planned switch-over, a drain.
    Planned,
    /// A head that was no member holds everything by now and joins (MA-21).
    Joined,
    /// Every member isolates, and the proposer is the one that is best off (BA-02).
    Isolation,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silence => "silence",
            Self::Unhealthy => "unhealthy",
            Self::ClientAsked => "a client asked",
            Self::Planned => "planned",
            Self::Joined => "joined",
            Self::Isolation => "every member isolates",
        })
    }
}

/// A wish of a head for another group (MA-05): a compare-and-set against the newest pair of the partition.
/// While it is unanswered it counts as granted and as not granted (P-02): repeat it, same nonce and same
/// content, until its outcome is known, and make no other before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The partition.
    pub partition: PartitionId,
    /// The pair that the proposer holds, by number and grant: granted only if it is the newest.
    pub expected: Stamp,
    /// The wanted group, primary first; one member asks for leave to run alone (`SoloByLeave`).
    pub members: SmallVec<[Member; 3]>,
    /// Names the proposal: rises from one proposal to the next within a boot of the proposer.
    pub nonce: u64,
    /// Why.
    pub why: Why,
    /// The proposer, who is the primary of the expected group, vouches that every wanted member holds
    /// everything acknowledged so far (MA-21). Without it a member that is not of that group is declined,
    /// and one that came back into it stays barred from becoming the primary.
    pub caught_up: bool,
}

/// What became of a [`Proposal`]; found again by repeating it (P-02).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// Granted, durably. By now a still newer pair may be in force, which arrives as an assignment.
    Granted(Assignment),
    /// Not granted, and never will be under this nonce. Give the wish up; do not try the next number for
    /// having lost (MA-18).
    Declined {
        /// The newest pair of the partition; none when there is none, or no such partition.
        newest: Option<Assignment>,
    },
}

/// A column of a device together with its generation (P-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColumnRef {
    /// Sled that serves the device at present.
    pub sled: NodeId,
    /// The device.
    pub device: DeviceId,
    /// Column number on the device.
    pub column: u32,
    /// Raised at each reservation of the column.
    pub generation: u32,
}

/// A 128-bit column token (P-21), good for one (grant, device, column, generation).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Token(pub u128);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The secret of one grant of one device, from which the tokens of its columns derive (P-21). Volatile.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantSecret(pub u128);

impl fmt::Debug for GrantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantSecret(..)")
    }
}
