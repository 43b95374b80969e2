//! Sessions: first contact, restarts, late datagrams of the dead.

use super::*;

fn names(net: &Net, node: usize, boot: u128) -> Vec<u64> {
    net.got[node].iter().filter(|e| e.boot == BootId(boot)).map(|e| check_numbered(&e.msg)).collect()
}

#[test]
fn first_contact_learns_the_boot_before_it_sends_anything() {
    let mut net = Net::new(1, 2, Config::default(), CALM);
    assert_eq!(net.nodes[0].peer_boot(NodeId(1)), None);
    net.send(0, 1, &numbered(&pool(), 5, 4096)).expect("room");
    net.settle();
    assert_eq!(names(&net, 1, 100), [5]);
    assert_eq!(net.nodes[0].peer_boot(NodeId(1)), Some(BootId(101)));
    assert_eq!(net.boots[1], [(NodeId(0), BootId(100))]);
}

#[test]
fn a_restarted_peer_gets_nothing_of_the_old_session_and_shows_its_new_boot() {
    for seed in 0..20 {
        let weather = Weather { loss: 50, double: 100, late: 300 };
        let mut net = Net::new(seed, 2, Config::default(), weather);
        let source = pool();
        (0..20).for_each(|i| net.send(0, 1, &numbered(&source, i, 4096)).expect("room"));
        net.run(Duration::from_micros(seed * 40));
        net.restart(1, 777);
        net.got[1].clear();
        net.run(Duration::from_millis(300));
        let early = net.got[1].len();
        assert!(early == 0 || net.boots[0].len() < 2, "what was open to the old boot is lost");
        net.send(1, 0, &numbered(&source, 60, 512)).expect("room");
        net.settle();
        net.send(0, 1, &numbered(&source, 50, 512)).expect("room");
        net.settle();
        assert_eq!(net.nodes[0].peer_boot(NodeId(1)), Some(BootId(777)), "seed {seed}");
        assert!(names(&net, 1, 100).contains(&50));
        assert_eq!(names(&net, 0, 777), [60]);
        assert_eq!(net.boots[0].last(), Some(&(NodeId(1), BootId(777))));
    }
}

#[test]
fn many_restarts_of_both_sides_always_end_in_a_working_session() {
    for seed in 0..10 {
        let mut net = Net::new(seed, 3, Config::default(), Weather { loss: 100, double: 100, late: 200 });
        let source = pool();
        let mut dice = Dice::new(seed);
        for round in 0..30u64 {
            let node = dice.below(3) as u32;
            net.restart(node, 1000 + u128::from(round));
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                let _ = net.send(from, to, &numbered(&source, round, 4096));
            }
            net.run(Duration::from_micros(dice.below(30_000)));
        }
        net.settle();
        net.got.iter_mut().for_each(Vec::clear);
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
            // A session that only one side knows of is noticed with the first message, which is lost.
            net.send(from, to, &numbered(&source, 500, 512)).expect("room");
            net.settle();
            net.send(from, to, &numbered(&source, 501, 512)).expect("room");
            net.settle();
            let got = &net.got[to as usize];
            assert!(got.iter().any(|e| e.from == NodeId(from) && check_numbered(&e.msg) == 501));
        }
    }
}

#[test]
fn late_datagrams_of_a_dead_boot_do_not_bring_its_session_back() {
    let config = Config::default();
    let mut receiver = Fabric::new(NodeId(1), BootId(9), config, pool());
    receiver.add_peer(NodeId(0));
    let mut out = FabricOut::default();
    let mut captured = Vec::new();
    for boot in [50u128, 51] {
        let mut sender = Fabric::new(NodeId(0), BootId(boot), config, pool());
        sender.add_peer(NodeId(1));
        let now = Time(boot as u64 * 1_000_000_000);
        sender.send(now, NodeId(1), &Msg::Fetched { req: ReqId(1), data: None }).expect("room");
        for _ in 0..4 {
            for (turner, other) in [(0, 1), (1, 0)] {
                let mut step = FabricOut::default();
                if turner == 0 {
                    sender.turn(now, &mut step)
                } else {
                    receiver.turn(now, &mut step)
                }
                for datagram in step.datagrams {
                    captured.push((boot, other, datagram.head.clone()));
                    let to = if other == 0 { &mut sender } else { &mut receiver };
                    to.datagram(now, PathId(0), &datagram.head, &mut out);
                }
            }
        }
    }
    assert_eq!(out.received.len(), 2);
    assert_eq!(receiver.peer_boot(NodeId(0)), Some(BootId(51)));
    let refused = receiver.stats().datagrams_refused;
    for (boot, to, bytes) in &captured {
        if *to == 1 && *boot == 50 {
            receiver.datagram(Time(99_000_000_000), PathId(0), bytes, &mut out);
        }
    }
    assert_eq!(receiver.peer_boot(NodeId(0)), Some(BootId(51)), "P-01: a boot that ended stays ended");
    assert!(receiver.stats().datagrams_refused > refused);
    assert_eq!(out.received.len(), 2);
}

#[test]
fn a_question_alone_does_not_start_a_session() {
    let config = Config::default();
    let mut receiver = Fabric::new(NodeId(1), BootId(9), config, pool());
    receiver.add_peer(NodeId(0));
    let mut sender = Fabric::new(NodeId(0), BootId(50), config, pool());
    sender.add_peer(NodeId(1));
    let (mut asked, mut out) = (FabricOut::default(), FabricOut::default());
    sender.send(Time(1), NodeId(1), &Msg::Fetched { req: ReqId(1), data: None }).expect("room");
    sender.turn(Time(1), &mut asked);
    receiver.datagram(Time(2), PathId(0), &asked.datagrams[0].head, &mut out);
    receiver.turn(Time(2), &mut out);
    assert_eq!(receiver.peer_boot(NodeId(0)), None, "it may be a late one of a dead process");
    assert_eq!(out.datagrams.len(), 1, "but it is answered");
}
