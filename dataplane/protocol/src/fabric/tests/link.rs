//! Two machines over a link that loses, doubles and reorders.

use super::*;
use std::collections::BTreeSet;

/// Sends `count` messages of mixed sizes both ways as queues allow; all must arrive once and whole.
pub(super) fn traffic(seed: u64, config: Config, weather: Weather, count: u64) -> Net {
    let mut net = Net::new(seed, 2, config, weather);
    let source = pool();
    let mut dice = Dice::new(seed ^ 0x55);
    let mut sizes = Vec::new();
    for i in 0..count {
        let len = [0, 0, 0, 512, 4096, 4096, 16_384, 65_536, 262_144, 100][dice.below(10) as usize];
        sizes.push(len);
        for (from, to) in [(0, 1), (1, 0)] {
            let until = net.now + Duration::from_secs(20);
            while net.send(from, to, &numbered(&source, i, len)).is_err() {
                assert!(net.step(until), "a full queue empties");
            }
        }
        if dice.chance(300) {
            net.run(Duration::from_micros(dice.below(400)));
        }
    }
    if config.paths == 1 {
        net.settle()
    } else {
        net.drain()
    }
    for node in 0..2 {
        let names: Vec<u64> = net.got[node].iter().map(|envelope| check_numbered(&envelope.msg)).collect();
        let unique: BTreeSet<u64> = names.iter().copied().collect();
        assert_eq!(names.len() as u64, count, "seed {seed}: every message once");
        assert!(unique.into_iter().eq(0..count), "seed {seed}: and all of them");
    }
    net
}

#[test]
fn a_calm_link_carries_everything_without_a_resend() {
    let net = traffic(1, Config::default(), CALM, 300);
    assert_eq!(net.nodes[0].stats().resends + net.nodes[1].stats().resends, 0);
    assert_eq!(net.nodes[0].stats().duplicates, 0);
}

#[test]
fn links_that_lose_double_and_reorder_carry_everything_once() {
    for seed in 0..40 {
        for loss in [10, 50] {
            let weather = Weather { loss, double: 20, late: 50 };
            let config = Config { datagram_bytes: 8192, ..Config::default() };
            let net = traffic(seed * 2 + u64::from(loss == 50), config, weather, 60);
            assert!(net.nodes[0].stats().resends > 0);
        }
    }
}

#[test]
fn very_bad_links_and_smallest_datagrams_work_too() {
    for seed in 0..5 {
        let weather = Weather { loss: 250, double: 200, late: 300 };
        let config = Config { datagram_bytes: 1200, ..Config::default() };
        traffic(seed, config, weather, 12);
    }
}

#[test]
fn a_message_does_not_wait_for_one_that_was_lost_before_it() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    let source = pool();
    net.send(0, 1, &numbered(&source, 0, 0)).expect("room");
    net.settle();
    net.cut = true;
    net.send(0, 1, &numbered(&source, 1, 0)).expect("room");
    net.run(Duration::from_micros(10));
    net.cut = false;
    net.send(0, 1, &numbered(&source, 2, 0)).expect("room");
    net.run(Duration::from_micros(500));
    let names: Vec<u64> = net.got[1].iter().map(|envelope| check_numbered(&envelope.msg)).collect();
    assert_eq!(names, [0, 2], "no head-of-line blocking (EF-04)");
    net.settle();
    assert_eq!(net.got[1].len(), 3);
}

#[test]
fn small_messages_overtake_large_ones() {
    let mut net = Net::new(1, 2, Config { datagram_bytes: 8192, ..Config::default() }, CALM);
    let source = pool();
    (0..16).for_each(|i| net.send(0, 1, &numbered(&source, i, 262_144)).expect("room"));
    net.send(0, 1, &numbered(&source, 99, 0)).expect("room");
    net.settle();
    assert_eq!(check_numbered(&net.got[1][0].msg), 99);
}

#[test]
fn messages_of_one_turn_share_a_datagram() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    let source = pool();
    net.send(0, 1, &numbered(&source, 0, 0)).expect("room");
    net.settle();
    let before = net.nodes[0].stats().datagrams_sent;
    (1..100).for_each(|i| net.send(0, 1, &numbered(&source, i, 0)).expect("room"));
    net.settle();
    assert_eq!(net.got[1].len(), 100);
    assert_eq!(net.nodes[0].stats().datagrams_sent - before, 1);
}

#[test]
fn the_largest_message_is_cut_and_joined() {
    let source = pool();
    let entries = (0..7u64)
        .map(|i| Entry {
            partition: PartitionId(7),
            number: Number::ZERO,
            op: Op(i),
            body: Body::Write {
                lba: Lba(i * 64),
                crcs: (0..64).collect(),
                data: filled(&source, i, 262_144),
            },
        })
        .collect();
    let msg = Msg::Replicate { stamp: stamp(), committed: Op(1), entries };
    for datagram_bytes in [1200, 8192, 65_507] {
        let mut net = Net::new(3, 2, Config { datagram_bytes, ..Config::default() }, CALM);
        net.send(0, 1, &msg).expect("room");
        net.settle();
        let Msg::Replicate { entries, .. } = &net.got[1][0].msg else { panic!("another message") };
        for (i, entry) in entries.iter().enumerate() {
            let Body::Write { data, .. } = &entry.body else { panic!("another body") };
            assert_eq!(data[..], filled(&source, i as u64, 262_144)[..]);
        }
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again_later() {
    let config = Config { queue_bytes: 4 << 20, ..Config::default() };
    let mut net = Net::new(1, 2, config, CALM);
    let source = pool();
    net.cut = true;
    let mut sent = 0;
    while net.nodes[0].ready(NodeId(1)) {
        net.send(0, 1, &numbered(&source, sent, 262_144)).expect("ready says so");
        sent += 1;
        net.run(Duration::from_micros(100));
    }
    assert!((8..=16).contains(&sent), "{sent}");
    assert_eq!(net.send(0, 1, &numbered(&source, 99, 0)), Err(QueueFull));
    net.cut = false;
    net.settle();
    assert_eq!(net.got[1].len() as u64, sent);
    assert!(net.send(0, 1, &numbered(&source, 99, 0)).is_ok());
    assert_eq!(net.send(0, 5, &numbered(&source, 1, 0)), Err(QueueFull), "nobody of that name");
}

#[test]
fn a_peer_that_is_away_never_makes_its_queue_refuse_for_long() {
    let mut net = Net::new(1, 3, Config { queue_messages: 64, ..Config::default() }, CALM);
    let source = pool();
    net.send(0, 1, &numbered(&source, 0, 0)).expect("room");
    net.settle();
    net.cut = true;
    let refused = |net: &mut Net, span| {
        let before = net.nodes[0].stats().queue_full;
        for i in 0..200 {
            let _ = net.send(0, 1, &numbered(&source, 1000 + i, 0));
            let _ = net.send(0, 2, &numbered(&source, 1000 + i, 0));
        }
        net.run(Duration::from_millis(span));
        net.nodes[0].stats().queue_full - before
    };
    assert!(refused(&mut net, 400) > 200, "at first the queues push back");
    assert_eq!(refused(&mut net, 10), 0, "then the peers count as away");
    assert_eq!(net.nodes[0].stats().dropped_away, 400);
    net.cut = false;
    net.settle();
    assert_eq!((net.got[1].len(), net.got[2].len()), (65, 64), "what was queued still arrives");
    assert_eq!(refused(&mut net, 10), 272, "and a peer that is heard again is not away");
}

#[test]
fn credit_bounds_what_a_peer_may_start() {
    let config = Config { window_bytes: 2 << 20, ..Config::default() };
    let mut net = Net::new(1, 2, config, CALM);
    let source = pool();
    (0..20).for_each(|i| net.send(0, 1, &numbered(&source, i, 262_144)).expect("room"));
    net.run(Duration::from_micros(250));
    let under_way = net.nodes[0].stats().bytes_sent;
    assert!(under_way <= (2 << 20) + 200_000, "{under_way}");
    net.settle();
    assert_eq!(net.got[1].len(), 20, "credit comes back as messages are delivered");
}

#[test]
fn an_empty_pool_at_the_receiver_delays_and_loses_nothing() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    let tight = Pool::new(PoolConfig { slots: [2, 1, 1], huge: false }).expect("maps");
    net.nodes[1] = Fabric::new(NodeId(1), BootId(500), Config::default(), tight);
    net.nodes[1].add_peer(NodeId(0));
    let source = pool();
    (0..10).for_each(|i| net.send(0, 1, &numbered(&source, i, 4096)).expect("room"));
    let mut names = Vec::new();
    for _ in 0..2000 {
        net.run(Duration::from_millis(1));
        names.extend(net.got[1].drain(..).map(|envelope| check_numbered(&envelope.msg)));
    }
    names.sort_unstable();
    assert!(names.into_iter().eq(0..10));
    assert!(net.nodes[1].stats().pool_waits > 0);
}

#[test]
fn a_peer_that_is_away_is_tried_ever_more_slowly() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    let source = pool();
    net.send(0, 1, &numbered(&source, 0, 262_144)).expect("room");
    net.settle();
    net.cut = true;
    (1..8).for_each(|i| net.send(0, 1, &numbered(&source, i, 262_144)).expect("room"));
    net.run(Duration::from_secs(1));
    let before = net.nodes[0].stats().datagrams_sent;
    net.run(Duration::from_secs(10));
    let tries = net.nodes[0].stats().datagrams_sent - before;
    assert!((40..=260).contains(&tries), "about four datagrams in 200 ms: {tries}");
    net.cut = false;
    net.settle();
    assert_eq!(net.got[1].len(), 8);
}

#[test]
fn nothing_to_say_means_no_timer() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    net.send(0, 1, &numbered(&pool(), 0, 4096)).expect("room");
    net.settle();
    net.run(Duration::from_secs(1));
    assert!(net.nodes.iter().all(|node| node.deadline().is_none() && node.idle()));
}

#[test]
fn a_run_repeats_from_its_seed() {
    let weather = Weather { loss: 30, double: 30, late: 100 };
    let figures = |seed| {
        let net = traffic(seed, Config::default(), weather, 50);
        (net.now, net.nodes[0].stats(), net.nodes[1].stats())
    };
    assert_eq!(figures(11), figures(11));
    assert_ne!(figures(11), figures(12));
}

#[test]
fn buffers_come_back_when_all_was_delivered() {
    let source = pool();
    let mut net = Net::new(4, 2, Config::default(), Weather { loss: 50, double: 50, late: 50 });
    for i in 0..30 {
        net.send(0, 1, &numbered(&source, i, 65_536)).expect("room");
    }
    net.settle();
    assert_eq!(source.stats().free, source.stats().total, "the sender holds nothing");
}

#[test]
fn a_time_out_moves_to_the_other_network() {
    let config = Config { paths: 2, ..Config::default() };
    let mut fabric = Fabric::new(NodeId(0), BootId(1), config, pool());
    let mut peer = Fabric::new(NodeId(1), BootId(2), config, pool());
    fabric.add_peer(NodeId(1));
    peer.add_peer(NodeId(0));
    let (mut out, mut paths) = (FabricOut::default(), BTreeSet::new());
    let mut now = Time(1_000_000_000);
    for i in 0..200u64 {
        now = now + Duration::from_millis(1);
        let _ = fabric.send(now, NodeId(1), &Msg::Fetched { req: ReqId(i), data: None });
        for side in [&mut fabric, &mut peer] {
            side.turn(now, &mut out);
        }
        for datagram in out.datagrams.drain(..).collect::<Vec<_>>() {
            paths.insert(datagram.path);
            let broken = datagram.path == PathId(0) && i > 20;
            let to = if datagram.to == NodeId(0) { &mut fabric } else { &mut peer };
            if !broken {
                to.datagram(now, datagram.path, &datagram.head, &mut out);
            }
        }
    }
    assert_eq!(paths.len(), 2);
    assert!(out.received.len() > 150, "EF-31: the other network carries on: {}", out.received.len());
}
