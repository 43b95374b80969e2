//! What a primary says of itself, and whether that is enough to keep its role (MA-13, MA-14, MA-17). Pure.

/// What "healthy" means: the primary keeps its role while the policy holds (MA-14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// At least one client is connected to it.
    #[default]
    Any,
    /// More than half of the associated clients are.
    Majority,
    /// The busiest client is.
    Busiest,
    /// Its clients together do more I/O than the one that asks elsewhere.
    Requester,
}

/// What the node knows of a volume's clients; the head passes it on (MA-12, MA-13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Connected now.
    pub connected: u32,
    /// That may connect.
    pub associated: u32,
    /// Whether the busiest one is connected.
    pub busiest: bool,
    /// I/O that they had answered lately.
    pub io: u64,
}

/// A primary's answer, as far as the policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// It serves the partition, and its log device works.
    pub serving: bool,
    /// Its clients.
    pub clients: Clients,
    /// Roles moved too often lately (MA-17).
    pub paused: bool,
}

/// Whether a primary that answers is left in place, though a client with `requester` I/O asks elsewhere. A
/// pause keeps it whatever the policy says; a primary that cannot serve is not healthy under any.
pub fn keeps(policy: Policy, health: &Health, requester: u64) -> bool {
    let Clients { connected, associated, busiest, io } = health.clients;
    let well = match policy {
        Policy::Any => connected > 0,
        Policy::Majority => u64::from(connected) * 2 > u64::from(associated),
        Policy::Busiest => busiest,
        Policy::Requester => io > requester,
    };
    health.paused || (health.serving && well)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connected, associated, busiest is connected, I/O of the connected; I/O of the requester; who keeps.
    const TABLE: [(u32, u32, bool, u64, u64, [bool; 4]); 7] = [
        (0, 0, false, 0, 0, [false, false, false, false]),
        (0, 3, false, 0, 9, [false, false, false, false]),
        (1, 3, false, 5, 9, [true, false, false, false]),
        (1, 3, true, 50, 9, [true, false, true, true]),
        (2, 3, false, 5, 9, [true, true, false, false]),
        (2, 4, false, 10, 9, [true, false, false, true]),
        (3, 3, true, 9, 9, [true, true, true, false]),
    ];

    #[test]
    fn ma14_each_policy_keeps_a_primary_as_its_line_of_the_table_says() {
        let policies = [Policy::Any, Policy::Majority, Policy::Busiest, Policy::Requester];
        for (connected, associated, busiest, io, requester, expected) in TABLE {
            let clients = Clients { connected, associated, busiest, io };
            let health = Health { serving: true, clients, paused: false };
            let kept = policies.map(|policy| keeps(policy, &health, requester));
            assert_eq!(kept, expected, "{health:?}, requester {requester}");
            let broken = Health { serving: false, ..health };
            assert!(policies.iter().all(|&policy| !keeps(policy, &broken, requester)), "{health:?}");
        }
    }

    #[test]
    fn ma17_a_primary_that_answers_during_a_pause_is_left_in_place_under_every_policy() {
        let health = Health { serving: true, clients: Clients::default(), paused: true };
        for policy in [Policy::Any, Policy::Majority, Policy::Busiest, Policy::Requester] {
            assert!(keeps(policy, &health, u64::MAX));
            assert!(!keeps(policy, &Health { paused: false, ..health }, u64::MAX));
        }
    }
}
