//! The networks between nodes (EF-31): everyone on all of them, and each of them a network of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::Judge;

/// Most networks of a rack.
const NETWORKS_MAX: usize = 2;

pub(super) fn judge(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let nodes: Vec<(&str, &str, usize)> = (rack.heads.iter().map(|head| (&head.name, "head", &head.fabric)))
        .chain(rack.sleds.iter().map(|sled| (&sled.name, "sled", &sled.fabric)))
        .map(|(name, role, list)| (name.as_str(), role, list.len()))
        .collect();
    let most = nodes.iter().map(|(_, _, count)| *count).max().unwrap_or(0);
    let mut counts = BTreeMap::from([("head", 0), ("sled", 0)]);
    for (name, role, count) in &nodes {
        let index = counts.entry(role).or_insert(0);
        let path = format!("{role}[{index}].fabric");
        *index += 1;
        if *count > NETWORKS_MAX {
            let what = format!("`{name}` has {count} fabric addresses: there are at most two networks");
            judge.error(&path, what, "give one address, or one for each of two networks");
        } else if most == NETWORKS_MAX && *count == 1 {
            let what =
                format!("`{name}` is on the first network only: when that fails it is out of reach (EF-31)");
            judge.warning(&path, what, "give it an address on the second network too");
        }
    }
    let with = nodes.iter().filter(|(_, _, count)| *count > 0).count();
    if let Some((_, path, ..)) = rack.fabrics().into_iter().next().filter(|_| with < nodes.len()) {
        let what = format!("only {with} of {} nodes have a fabric address", nodes.len());
        judge.warning(&path, what, "give every node one, or none: `up --processes` needs all of them");
    }
    apart(judge);
}

/// An address of the second network that seems to be on the first.
fn apart(judge: &mut Judge<'_>) {
    let rack = judge.rack;
    let fabrics = rack.fabrics();
    let on = |network| fabrics.iter().filter(move |(_, _, at, _)| *at == network);
    for (name, path, _, address) in on(1) {
        let first = on(0).find(|(_, _, _, first)| subnet(first) == subnet(address));
        if let Some((other, _, _, first)) = first {
            let what = format!(
                "`{name}` has {address} on the second network, but {first} of `{other}` on the first is in the \
                 same subnet: one switch or cable may carry both (EF-31)"
            );
            judge.warning(path, what, "give each network a subnet and an interface of its own");
        }
    }
}

/// What is taken for one subnet: 24 bits of IPv4, 64 of IPv6; on loopback each address is one of its own.
fn subnet(address: &SocketAddr) -> u128 {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => u32::from(ip).into(),
        IpAddr::V4(ip) => (u32::from(ip) & !0xff).into(),
        IpAddr::V6(ip) if ip.is_loopback() => ip.into(),
        IpAddr::V6(ip) => u128::from(ip) & !u128::from(u64::MAX),
    }
}
