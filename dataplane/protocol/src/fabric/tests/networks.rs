//! Two networks (EF-31): cut, lossy, slow, flapping, one way and both; nothing lost, nothing twice.

use super::link::traffic;
use super::*;
use std::collections::BTreeSet;

const MS: Duration = Duration::from_millis(1);

fn two() -> Config {
    Config { paths: 2, ..Config::default() }
}

/// The network that nodes 0 and 1 prefer, and the other one.
const HOME: usize = 1;
const OTHER: usize = 0;

/// Two nodes that have met on both networks.
fn met(seed: u64, config: Config) -> Net {
    let mut net = Net::new(seed, 2, config, CALM);
    net.send(0, 1, &numbered(&pool(), 1_000_000, 0)).expect("room");
    net.run(MS * 20);
    assert_eq!(net.got[1].len(), 1);
    net.got[1].clear();
    assert_eq!(states(&net), [PathState::Up; 4]);
    net
}

/// States of both networks as node 0 sees them, then as node 1 does.
fn states(net: &Net) -> Vec<PathState> {
    net.nodes.iter().flat_map(|node| node.paths().map(|path| path.state)).collect()
}

fn status(net: &Net, path: usize) -> PathStatus {
    net.nodes[0].paths().nth(path).expect("two of them")
}

fn both_ways(net: &mut Net, path: usize, lane: Lane) {
    net.lanes[path] = [lane; 2];
}

const CUT: Lane = Lane { cut: true, loss: 0, delay: Duration::ZERO };
const CLEAR: Lane = Lane { cut: false, loss: 0, delay: Duration::ZERO };

/// A load of small and large messages both ways, and the names of what has arrived.
struct Load {
    next: u64,
    source: Pool,
    names: [Vec<u64>; 2],
}

impl Load {
    fn new() -> Self {
        Self { next: 0, source: pool(), names: Default::default() }
    }

    /// Takes what has arrived, so that its buffers are free again.
    fn take(&mut self, net: &mut Net) {
        for (names, got) in self.names.iter_mut().zip(&mut net.got) {
            names.extend(got.drain(..).map(|envelope| check_numbered(&envelope.msg)));
        }
    }

    fn send(&mut self, net: &mut Net, len: usize) {
        for (from, to) in [(0, 1), (1, 0)] {
            let until = net.now + Duration::from_secs(20);
            while net.send(from, to, &numbered(&self.source, self.next, len)).is_err() {
                assert!(net.step(until), "a full queue empties");
                self.take(net);
            }
        }
        self.next += 1;
    }

    /// Runs for so many milliseconds.
    fn run(&mut self, net: &mut Net, span_ms: u64) {
        for _ in 0..span_ms {
            [0, 512, 16_384].into_iter().for_each(|len| self.send(net, len));
            net.run(MS);
            self.take(net);
        }
    }

    /// Everything arrived, once, whole.
    fn check(&mut self, net: &mut Net) {
        let until = net.now + Duration::from_secs(100);
        while !net.nodes.iter().all(Fabric::idle) {
            assert!(net.step(until), "everything arrives in the end");
            self.take(net);
        }
        self.take(net);
        for names in &self.names {
            assert_eq!(names.len() as u64, self.next, "every message once");
            assert!(names.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(0..self.next));
        }
    }
}

/// How long a small message takes now.
fn latency(net: &mut Net, name: u64) -> Duration {
    let start = net.now;
    net.send(0, 1, &numbered(&pool(), name, 0)).expect("room");
    let there = |net: &Net| net.got[1].iter().any(|e| check_numbered(&e.msg) == name);
    while !there(net) {
        assert!(net.step(start + Duration::from_secs(10)), "it arrives");
    }
    net.got[1].retain(|e| check_numbered(&e.msg) != name);
    net.now.since(start)
}

#[test]
fn ef31_lossy_doubling_and_reordering_networks_carry_everything_once() {
    for seed in 0..12 {
        for loss in [1, 10, 50] {
            let weather = Weather { loss, double: 20, late: 50 };
            let net = traffic(seed * 3 + loss, Config { datagram_bytes: 8192, ..two() }, weather, 50);
            assert_eq!(net.nodes[0].stats().messages_received, 50);
        }
    }
}

#[test]
fn ef31_very_bad_networks_and_smallest_datagrams_work_too() {
    for seed in 0..3 {
        let weather = Weather { loss: 250, double: 200, late: 300 };
        let net = traffic(seed, Config { datagram_bytes: 1200, ..two() }, weather, 12);
        assert!(net.nodes[0].paths().any(|path| path.resent > 0));
    }
}

#[test]
fn ef31_a_calm_pair_keeps_to_its_home_network_and_resends_nothing() {
    let mut net = met(1, two());
    let before = net.carried;
    let mut load = Load::new();
    load.run(&mut net, 200);
    load.check(&mut net);
    assert_eq!(net.nodes[0].stats().resends, 0);
    assert!(net.carried[HOME] - before[HOME] > 5_000_000);
    assert!(net.carried[OTHER] - before[OTHER] < 20_000, "keep-alives only");
    let rtt = status(&net, OTHER).rtt.expect("measured by keep-alives");
    assert!((Duration::from_micros(90)..Duration::from_micros(220)).contains(&rtt), "{rtt:?}");
}

#[test]
fn ef31_a_peer_on_one_network_only_is_never_sent_to_by_the_other() {
    let mut net = Net::new(1, 2, two(), CALM);
    for (node, peer) in [(0, 1), (1, 0)] {
        net.nodes[node] = Fabric::new(NodeId(node as u32), BootId(500 + node as u128), two(), pool());
        net.nodes[node].add_peer_on(NodeId(peer), 1);
    }
    let mut load = Load::new();
    load.run(&mut net, 20);
    load.check(&mut net);
    assert_eq!(net.carried[1], 0);
    assert_eq!(net.nodes[0].paths().count(), 1);
}

#[test]
fn ef31_half_of_the_pairs_call_each_network_home() {
    let mut net = Net::new(1, 4, two(), CALM);
    let source = pool();
    let mut homes = [0; 2];
    for (from, to) in (0..4).flat_map(|a| (0..a).map(move |b| (a, b))) {
        net.send(from, to, &numbered(&source, 1, 0)).expect("room");
        net.run(MS * 20);
        let before = net.carried;
        (0..4).for_each(|i| net.send(from, to, &numbered(&source, 2 + i, 65_536)).expect("room"));
        net.run(MS * 20);
        let carried: Vec<u64> = (0..2).map(|path| net.carried[path] - before[path]).collect();
        homes[usize::from(carried[1] > carried[0])] += 1;
        assert!(carried.iter().max() > Some(&(4 * 65_536)) && carried.iter().min() < Some(&20_000));
    }
    assert_eq!(homes, [2, 4], "odd sums of node numbers have one home, even ones the other");
}

#[test]
fn ef31_what_does_not_fit_on_one_network_goes_by_the_other() {
    let mut net = met(1, two());
    let before = net.carried;
    let source = pool();
    (0..40).for_each(|i| net.send(0, 1, &numbered(&source, i, 262_144)).expect("room"));
    net.drain();
    assert_eq!(net.got[1].len(), 40);
    assert!(net.carried[OTHER] - before[OTHER] > 1 << 20, "both networks share a burst");
}

#[test]
fn ef31_a_cut_costs_a_time_out_and_is_known_at_both_ends_until_the_network_heals() {
    for one_way in [None, Some(0), Some(1)] {
        let mut net = met(3, two());
        let mut load = Load::new();
        load.run(&mut net, 50);
        match one_way {
            None => both_ways(&mut net, HOME, CUT),
            Some(from) => net.lanes[HOME][from] = CUT,
        }
        assert!(latency(&mut net, 5_000_000) <= MS * 10, "one time-out, then the other network");
        load.run(&mut net, 400);
        assert!(latency(&mut net, 5_000_001) < MS, "traffic has moved");
        for node in &net.nodes {
            let seen: Vec<_> = node.paths().map(|path| path.state).collect();
            assert_eq!(seen, [PathState::Up, PathState::Down], "{one_way:?}");
        }
        both_ways(&mut net, HOME, CLEAR);
        load.run(&mut net, 1500);
        assert_eq!(states(&net), [PathState::Up; 4]);
        let before = net.carried;
        load.run(&mut net, 100);
        assert!(net.carried[HOME] - before[HOME] > 2_000_000, "home again");
        assert!(net.carried[OTHER] - before[OTHER] < 20_000);
        load.check(&mut net);
        let home = PathId(HOME as u8);
        assert_eq!(net.told, [(home, PathState::Down), (home, PathState::Up)], "told once each");
    }
}

#[test]
fn ef31_a_network_that_is_cut_from_the_start_does_not_hold_up_the_first_message() {
    for dead in [HOME, OTHER] {
        let mut net = Net::new(1, 2, two(), CALM);
        both_ways(&mut net, dead, CUT);
        assert!(latency(&mut net, 1) < MS);
        net.run(Duration::from_secs(1));
        assert_eq!(status(&net, dead).state, PathState::Down);
        assert_eq!(status(&net, 1 - dead).state, PathState::Up);
    }
}

#[test]
fn ef31_a_slow_network_is_measured_and_avoided_and_never_holds_up_small_messages() {
    let mut net = met(5, two());
    let slow = Lane { delay: MS * 50, ..CLEAR };
    both_ways(&mut net, HOME, slow);
    let mut load = Load::new();
    load.run(&mut net, 1000);
    let seen = status(&net, HOME);
    assert_eq!(seen.state, PathState::Up, "slow is not down");
    assert!(seen.rtt.is_some_and(|rtt| rtt > MS * 60), "{:?}", seen.rtt);
    let before = net.carried;
    load.run(&mut net, 200);
    assert!(latency(&mut net, 5_000_000) < MS);
    assert!(net.carried[HOME] - before[HOME] < 20_000, "keep-alives only");
    load.check(&mut net);
    both_ways(&mut net, HOME, CLEAR);
    net.run(Duration::from_secs(5));
    load.run(&mut net, 1500);
    let before = net.carried;
    load.run(&mut net, 50);
    assert!(net.carried[HOME] - before[HOME] > 1_000_000, "it is fast again, and home");
    load.check(&mut net);
}

#[test]
fn ef31_when_both_networks_are_slow_small_messages_pass_large_ones() {
    let mut net = met(6, two());
    for path in [HOME, OTHER] {
        both_ways(&mut net, path, Lane { delay: MS * 50, ..CLEAR });
    }
    let source = pool();
    for round in 0..3 {
        let names = round * 44..(round + 1) * 44;
        names.for_each(|i| net.send(0, 1, &numbered(&source, i, 262_144)).expect("room"));
        net.run(MS * 10);
        let took = latency(&mut net, 5_000_000 + round);
        assert!(took < MS * 60, "it left at once, though 11 MiB wait before it: {took:?}");
        net.drain();
        assert_eq!(net.got[1].drain(..).count(), 44);
    }
}

#[test]
fn ef31_a_lossy_network_is_left_for_a_clean_one() {
    let mut net = met(7, two());
    both_ways(&mut net, HOME, Lane { loss: 200, ..CLEAR });
    let mut load = Load::new();
    load.run(&mut net, 1000);
    let before = net.carried;
    load.run(&mut net, 200);
    let (lossy, clean) = (net.carried[HOME] - before[HOME], net.carried[OTHER] - before[OTHER]);
    assert!(clean > lossy, "{clean} {lossy}");
    assert!(status(&net, HOME).loss_ppm > 10_000, "{}", status(&net, HOME).loss_ppm);
    assert!(status(&net, HOME).resent > 0);
    load.check(&mut net);
}

#[test]
fn ef31_a_flapping_network_loses_nothing_and_settles() {
    for period in [2, 30, 400] {
        let mut net = met(period, two());
        let mut load = Load::new();
        for flap in 0..(600 / period).max(4) {
            both_ways(&mut net, HOME, if flap % 2 == 0 { CUT } else { CLEAR });
            load.run(&mut net, period);
        }
        both_ways(&mut net, HOME, CLEAR);
        load.run(&mut net, 1500);
        assert_eq!(states(&net), [PathState::Up; 4], "period {period}");
        load.check(&mut net);
    }
}

#[test]
fn ef31_both_networks_cut_and_healed_deliver_everything_once() {
    for span in [3, 30, 200, 2000] {
        let mut net = met(span, two());
        let mut load = Load::new();
        load.run(&mut net, 20);
        both_ways(&mut net, HOME, CUT);
        net.run(MS * (span as u32 / 3));
        both_ways(&mut net, OTHER, CUT);
        // Less than the queues take: what a peer that is away has no room for may be dropped.
        for i in 0..20 {
            load.send(&mut net, 4096);
            net.run(MS * (span as u32) / 20 + MS * (i % 2));
        }
        both_ways(&mut net, if span % 2 == 0 { OTHER } else { HOME }, CLEAR);
        load.check(&mut net);
        both_ways(&mut net, HOME, CLEAR);
        both_ways(&mut net, OTHER, CLEAR);
        load.run(&mut net, 1500);
        assert_eq!(states(&net), [PathState::Up; 4]);
        load.check(&mut net);
    }
}

#[test]
fn ef31_networks_that_each_carry_one_way_only_still_carry_together() {
    for way in [0, 1] {
        let mut net = met(9, two());
        net.lanes[HOME][way] = CUT;
        net.lanes[OTHER][1 - way] = CUT;
        let mut load = Load::new();
        load.run(&mut net, 300);
        load.check(&mut net);
    }
}

#[test]
fn ef31_any_weather_loses_nothing_doubles_nothing_and_keeps_what_is_under_way_bounded() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let config = Config { datagram_bytes: 8192, window_bytes: 2 << 20, ..two() };
        let weather = Weather { loss: dice.below(30), double: 30, late: 50 };
        let mut net = met(seed, config);
        net.weather = weather;
        let mut load = Load::new();
        for _ in 0..40 {
            let (path, from) = (dice.below(2) as usize, dice.below(2) as usize);
            let delay = if dice.chance(300) { MS * dice.below(60) as u32 } else { Duration::ZERO };
            net.lanes[path][from] = Lane { cut: dice.chance(400), loss: dice.below(100), delay };
            if net.lanes[0][0].cut && net.lanes[1][0].cut || net.lanes[0][1].cut && net.lanes[1][1].cut {
                net.lanes[path][from].cut = false;
            }
            let sent = net.nodes[0].stats().bytes_sent;
            load.run(&mut net, 1 + dice.below(8));
            let most = (2 * config.window_bytes * 20) as u64;
            assert!(net.nodes[0].stats().bytes_sent - sent < most, "seed {seed}: no storm");
        }
        net.lanes = Default::default();
        net.weather = CALM;
        load.check(&mut net);
    }
}

#[test]
fn ef31_silence_costs_a_keep_alive_a_second_and_a_dead_peer_no_more() {
    let mut net = met(1, two());
    net.run(Duration::from_secs(2));
    let sent = |net: &Net| net.nodes.iter().map(|node| node.stats().datagrams_sent).sum::<u64>();
    let before = sent(&net);
    net.run(Duration::from_secs(10));
    let idle = sent(&net) - before;
    assert!((30..=90).contains(&idle), "two nodes, two networks, question and answer: {idle}");
    both_ways(&mut net, HOME, CUT);
    both_ways(&mut net, OTHER, CUT);
    net.run(Duration::from_secs(5));
    assert_eq!(states(&net), [PathState::Down; 4]);
    let before = sent(&net);
    net.run(Duration::from_secs(10));
    assert!(sent(&net) - before <= 44, "{}", sent(&net) - before);
    both_ways(&mut net, HOME, CLEAR);
    both_ways(&mut net, OTHER, CLEAR);
    net.run(Duration::from_secs(2));
    assert_eq!(states(&net), [PathState::Up; 4], "keep-alives find it healed though nobody speaks");
}

#[test]
fn ef31_a_restart_while_a_network_is_cut_ends_in_a_working_session() {
    for cut in [HOME, OTHER] {
        let mut net = met(4, two());
        both_ways(&mut net, cut, CUT);
        net.run(Duration::from_secs(1));
        net.restart(1, 777);
        net.got[1].clear();
        let _ = net.send(0, 1, &numbered(&pool(), 1, 512));
        net.run(MS * 300);
        net.send(0, 1, &numbered(&pool(), 2, 512)).expect("room");
        net.drain();
        assert_eq!(net.nodes[0].peer_boot(NodeId(1)), Some(BootId(777)));
        assert!(net.got[1].iter().any(|e| check_numbered(&e.msg) == 2));
        both_ways(&mut net, cut, CLEAR);
        net.run(Duration::from_secs(2));
        assert_eq!(states(&net), [PathState::Up; 4]);
    }
}
