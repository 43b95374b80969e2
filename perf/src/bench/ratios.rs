//! The ratios of DESIGN section 6 between points of one run: same client, same verb, same depth.

use super::nbd::{Client, DEPTHS, Point};
use super::servers::{BARE, FULL, NBDKIT, QEMU, SERVER};
use super::verdict::{Goal, Verdicts};

/// Writes a second of Ceph 16.2 RBD (EC 4+2, depth 32) on this kind of box, recorded once; the peer is too
/// large to install for a bench.
const CEPH_WRITES: f64 = 289.0;

/// Holds the points against their goals; ratios of what was not measured are left out.
pub(super) fn judge(points: &[Point], verdicts: &mut Verdicts) {
    let iops = |client: Client, server: &str, verb: &str, depth: u32| {
        let is = |p: &&Point| p.client == client && p.server == server && p.verb == verb && p.depth == depth;
        points.iter().find(is).map_or(f64::NAN, |p| p.numbers.iops)
    };
    for client in [Client::Fio, Client::Polled] {
        for verb in ["read", "write"] {
            for depth in DEPTHS {
                let ratio = iops(client, BARE, verb, depth) / iops(client, SERVER, verb, depth);
                let what = format!("bare volume / bare server, {client:?} {verb} QD {depth}");
                verdicts.add(what, ratio, Goal::AtLeast(0.9));
            }
        }
    }
    let nbdkit = [
        ("read", 1, 2.0),
        ("read", 32, 1.3),
        ("read", 128, 1.5),
        ("write", 1, 1.5),
        ("write", 32, 1.0),
        ("write", 128, 1.0),
    ];
    for (peer, goals) in [(NBDKIT, nbdkit), (QEMU, nbdkit.map(|g| (g.0, g.1, 1.0)))] {
        for (verb, depth, goal) in goals {
            let ratio = iops(Client::Fio, BARE, verb, depth) / iops(Client::Fio, peer, verb, depth);
            verdicts.add(format!("bare volume / {peer}, Fio {verb} QD {depth}"), ratio, Goal::AtLeast(goal));
        }
    }
    let best = |server: &str| {
        DEPTHS.iter().map(|&depth| iops(Client::Polled, server, "read", depth)).fold(0.0, f64::max) / 1e6
    };
    verdicts.add("bare volume, polled client, reads a second (millions)", best(BARE), Goal::AtLeast(1.0));
    verdicts.add("the same of the bare server: what the box gives", best(SERVER), Goal::AtLeast(1.0));
    for client in [Client::Fio, Client::Polled] {
        for depth in DEPTHS {
            let [bare, full] = [BARE, FULL].map(|server| iops(client, server, "write", depth));
            let what = format!("bare volume / whole write, IOPS per core, {client:?} QD {depth}");
            verdicts.add(what, bare / full, Goal::AtMost(3.0));
        }
    }
    let full = iops(Client::Fio, FULL, "write", 32);
    verdicts.add("whole write / Ceph 16.2 EC (recorded), Fio QD 32", full / CEPH_WRITES, Goal::AtLeast(20.0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fio::Numbers;

    #[test]
    fn ratios_are_taken_between_points_of_the_same_client_verb_and_depth() {
        let point = |server: &str, client, verb, iops| Point {
            server: server.into(),
            client,
            verb,
            depth: 32,
            numbers: Numbers { iops, ..Numbers::default() },
        };
        let points = [
            point(BARE, Client::Fio, "read", 90.0),
            point(SERVER, Client::Fio, "read", 100.0),
            point(SERVER, Client::Polled, "read", 1.0),
            point(NBDKIT, Client::Fio, "read", 30.0),
            point(BARE, Client::Polled, "write", 50.0),
            point(FULL, Client::Polled, "write", 20.0),
        ];
        let mut verdicts = Verdicts::default();
        judge(&points, &mut verdicts);
        let text = serde_json::to_string(&verdicts).expect("JSON");
        assert!(text.contains("bare volume / bare server, Fio read QD 32\",\"value\":0.9"), "{text}");
        assert!(text.contains("bare volume / nbdkit memory, Fio read QD 32\",\"value\":3.0"), "{text}");
        assert!(text.contains("whole write, IOPS per core, Polled QD 32\",\"value\":2.5"), "{text}");
        assert!(!text.contains("bare server, Polled read"), "what was not measured is left out: {text}");
    }
}
