//! The export on its own, with real sockets.

use super::*;
use palisade_dma::{Backing, PoolConfig};
use palisade_perf::nbd::target::NbdTarget;
use palisade_perf::nbd::uri::Uri;
use palisade_perf::target::{Done, Op, Target, Verb, Want};
use palisade_protocol::export::nbd::{ExportInfo, Group, Known};
use palisade_protocol::head::Clients;
use palisade_protocol::wire::{ClientError, Number};
use palisade_runtime::park::Parker;
use palisade_runtime::ring::channel;
use std::io::Write;

const BYTES: u64 = 16 << 20;
const STEP: u32 = 20 << 10;

#[test]
fn a_bare_volume_is_served_within_its_export_and_goes_with_its_clients() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("nbd.sock");
    let parker = Parker::new().expect("eventfd");
    let (mut orders, orders_rx) = channel(4, parker.waker());
    let (_answers, answers) = channel(4, parker.waker());
    let (name, partition) = ("bare".to_owned(), PartitionId(7));
    let exports = Arc::new(ExportList::default());
    exports.put(ExportInfo { name, description: String::new(), partition, bytes: BYTES, readonly: false });
    let listeners = vec![Listener::unix(&path).expect("listens")];
    let pool = Pool::new(PoolConfig::small()).expect("maps");
    let payloads = pool.clone();
    let parts = ExportParts {
        name: "x".into(),
        asker: 1,
        listeners,
        exports,
        pool,
        orders: orders_rx,
        answers,
        clients_max: 4,
        client_bytes: 64 << 20,
    };
    let mut service = ExportService::new(parts);
    let volume = BareVolume::new(partition, BYTES, Backing::Ordinary).expect("maps");
    assert!(orders.send(ExportOrder::Bare(volume)).is_ok());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let begin = std::time::Instant::now();
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            service.turn(Nanos(begin.elapsed().as_nanos() as u64));
            std::thread::yield_now();
        }
        assert!(service.volumes.bare.is_empty(), "the volume is gone");
    });
    let uri = Uri::parse(&format!("nbd+unix:///bare?socket={}", path.display())).expect("an address");
    let want = Want { slots: 32, slot_bytes: STEP as usize, connections: 2, look: true };
    let mut target = NbdTarget::open(uri, want).expect("a connection");
    let all = |target: &mut NbdTarget, verb: Verb| -> Vec<Done> {
        for slot in 0..32u32 {
            let op = Op { verb, offset: u64::from(slot) * u64::from(STEP), len: STEP };
            target.submit(slot, op).expect("taken");
        }
        let mut done = Vec::new();
        while done.len() < 32 {
            target.poll(&mut done).expect("the server lives");
        }
        done
    };
    (0..32u32).for_each(|slot| target.buffer(slot).fill(slot as u8 + 1));
    assert!(all(&mut target, Verb::Write).iter().all(|done| done.errno == 0));
    (0..32u32).for_each(|slot| target.buffer(slot).fill(0));
    assert!(all(&mut target, Verb::Read).iter().all(|done| done.errno == 0));
    for slot in 0..32u32 {
        assert!(target.buffer(slot).iter().all(|&byte| byte == slot as u8 + 1), "slot {slot}");
    }
    assert!(orders.send(ExportOrder::Gone(partition)).is_ok());
    let end = std::time::Instant::now() + Duration::from_secs(10);
    drop(target);
    while payloads.stats().free != payloads.stats().total && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    assert_eq!(payloads.stats().free, payloads.stats().total, "no buffer stays behind");
    while !orders.is_empty() && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    thread.join().expect("no panic");
}

/// What a client of the raw protocol says to attach to the export `v`.
fn attach(path: &std::path::Path) -> std::os::unix::net::UnixStream {
    let mut socket = std::os::unix::net::UnixStream::connect(path).expect("a listener");
    socket.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x07\0\0\0\x01v\0\0").expect("room");
    socket
}

/// A write of 4 KiB at 0.
fn write(socket: &mut std::os::unix::net::UnixStream, cookie: u64) {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1];
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(0u64.to_be_bytes());
    bytes.extend(4096u32.to_be_bytes());
    bytes.resize(bytes.len() + 4096, cookie as u8);
    socket.write_all(&bytes).expect("room");
}

#[test]
fn p11_a_heads_commands_of_a_lost_connection_are_aborted_before_their_tags_go_to_another() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("nbd.sock");
    let parker = Parker::new().expect("eventfd");
    let (mut orders, orders_rx) = channel(4, parker.waker());
    let (mut answers_tx, answers) = channel(16, parker.waker());
    let (commands_tx, mut commands) = channel(16, parker.waker());
    let (head_tx, mut head) = channel(16, parker.waker());
    let (name, partition) = ("v".to_owned(), PartitionId(7));
    let exports = Arc::new(ExportList::default());
    let description = String::new();
    exports.put(ExportInfo { name, description, partition, bytes: BYTES, readonly: false });
    let mut service = ExportService::new(ExportParts {
        name: "x".into(),
        asker: 1,
        listeners: vec![Listener::unix(&path).expect("listens")],
        exports,
        pool: Pool::new(PoolConfig::small()).expect("maps"),
        orders: orders_rx,
        answers,
        clients_max: 4,
        client_bytes: 64 << 20,
    });
    let ring = VolumeRing { commands: commands_tx, orders: head_tx };
    assert!(orders.send(ExportOrder::Volume(partition, ring)).is_ok());
    let mut now = 0;
    let mut turns = |service: &mut ExportService| {
        for _ in 0..50 {
            now += 1_000_000;
            service.turn(Nanos(now));
        }
    };
    let connection = |cmd: &ClientCmd| Connection::id_of(cmd.tag);
    let mut first = attach(&path);
    write(&mut first, 1);
    turns(&mut service);
    let lost = commands.pop().expect("a write");
    assert!(head.pop().is_none(), "all is well");
    drop(first);
    turns(&mut service);
    let told = head.pop();
    assert!(matches!(told, Some(HeadOrder::Abort(p, id)) if p == partition && id == connection(&lost)));
    let mut second = attach(&path);
    write(&mut second, 2);
    turns(&mut service);
    let other = commands.pop().expect("a write");
    assert_ne!(connection(&other), connection(&lost), "its answers are still to come");
    let result = || Err(ClientError::NotServed);
    assert!(answers_tx.send(ClientDone { tag: lost.tag, result: result() }).is_ok());
    turns(&mut service);
    let mut third = attach(&path);
    write(&mut third, 3);
    turns(&mut service);
    assert_eq!(commands.pop().map(|cmd| connection(&cmd)), Some(connection(&lost)), "now it is free");
    // Goodbye is no loss: what was sent before it is carried out.
    let mut goodbye = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2];
    goodbye.resize(28, 0);
    second.write_all(&goodbye).expect("room");
    drop(second);
    turns(&mut service);
    assert!(head.pop().is_none(), "nothing is aborted");
}

/// An export with a bare volume `bare`, and `there`, which another head leads; turned by hand.
struct Hand {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    service: ExportService,
    orders: Sender<ExportOrder>,
    told: Receiver<HeadOrder>,
    ms: u64,
}

const BARE: PartitionId = PartitionId(7);
const THERE: PartitionId = PartitionId(9);

impl Hand {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("nbd.sock");
        let parker = Parker::new().expect("eventfd");
        let (mut orders, orders_rx) = channel(8, parker.waker());
        let (_answers, answers) = channel(4, parker.waker());
        let (head, told) = channel(64, parker.waker());
        let exports = Arc::new(ExportList::default());
        let (name, description) = ("bare".to_owned(), String::new());
        exports.put(ExportInfo { name, description, partition: BARE, bytes: BYTES, readonly: false });
        let number = Number { epoch: 1, counter: 5 };
        let (leader, places) = ("head-2".to_owned(), vec!["nbd://10.0.0.2/there".to_owned()]);
        exports.put_group("there", Group { partition: THERE, number, leader, places });
        let service = ExportService::new(ExportParts {
            name: "x".into(),
            asker: 1,
            listeners: vec![Listener::unix(&path).expect("listens")],
            exports,
            pool: Pool::new(PoolConfig::small()).expect("maps"),
            orders: orders_rx,
            answers,
            clients_max: 4,
            client_bytes: 64 << 20,
        });
        let bare = BareVolume::new(BARE, BYTES, Backing::Ordinary).expect("maps");
        assert!(orders.send(ExportOrder::Bare(bare)).is_ok());
        assert!(orders.send(ExportOrder::Head(head)).is_ok());
        Self { _dir: dir, path, service, orders, told, ms: 0 }
    }

    /// Some turns, each a while after the other; what the head heard in them.
    fn turns(&mut self) -> Vec<HeadOrder> {
        for _ in 0..5 {
            self.ms += 20;
            self.service.turn(Nanos(self.ms * 1_000_000));
        }
        std::iter::from_fn(|| self.told.pop()).collect()
    }

    /// A client that asks to attach to an export, perhaps with what it knows of the group.
    fn client(&mut self, export: &str, known: Option<Known>) -> std::os::unix::net::UnixStream {
        let mut socket = std::os::unix::net::UnixStream::connect(&self.path).expect("it listens");
        let string = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let mut bytes = 3u32.to_be_bytes().to_vec();
        let mut option = |kind: u32, data: &[u8]| {
            bytes.extend(b"IHAVEOPT");
            bytes.extend(kind.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(data);
        };
        if let Some(known) = known {
            let query = [&string(export)[..], &1u32.to_be_bytes(), &string(&known.query())].concat();
            option(9, &query);
        }
        option(7, &[&string(export)[..], &[0, 0]].concat());
        socket.write_all(&bytes).expect("sent");
        socket
    }
}

fn clients(heard: &[HeadOrder]) -> Option<Clients> {
    let of = |order: &HeadOrder| match order {
        HeadOrder::Clients(BARE, clients) => Some(*clients),
        _ => None,
    };
    heard.iter().rev().find_map(of)
}

fn asks(heard: &[HeadOrder]) -> Vec<u64> {
    let of = |order: &HeadOrder| match order {
        HeadOrder::ClientAsks(THERE, io) => Some(*io),
        _ => None,
    };
    heard.iter().filter_map(of).collect()
}

#[test]
fn ma12_ma13_the_head_hears_of_its_clients_and_of_those_that_vanish() {
    let mut hand = Hand::new();
    let mut first = hand.client("bare", None);
    let second = hand.client("bare", None);
    let heard = hand.turns();
    let mut expect = Clients { connected: 1, associated: 1, busiest: true, io: 0 };
    assert_eq!(clients(&heard), Some(expect), "two connections of one process are one client");
    // A read of 512 bytes.
    let mut read = 0x2560_9513u32.to_be_bytes().to_vec();
    read.extend([0; 2 + 2 + 8 + 8]);
    read.extend(512u32.to_be_bytes());
    first.write_all(&read).expect("sent");
    expect.io = 1;
    assert_eq!(clients(&hand.turns()), Some(expect));
    drop(second);
    assert_eq!(clients(&hand.turns()), None, "one connection is left");
    drop(first);
    let heard = clients(&hand.turns()).map(|clients| (clients.connected, clients.associated, clients.io));
    assert_eq!(heard, Some((0, 1, 0)), "a lost connection is nobody who could keep a primary in place");
    assert!(hand.service.clients.iter().all(Option::is_none));
}

#[test]
fn ma14_a_client_at_the_wrong_head_begins_a_decision_unless_it_was_just_sent_away() {
    let mut hand = Hand::new();
    let known = |counter| Some(Known { number: Some(Number { epoch: 1, counter }), io: 31 });
    let _first = hand.client("there", None);
    assert_eq!(asks(&hand.turns()), [0]);
    let _second = hand.client("there", known(5));
    assert_eq!(asks(&hand.turns()), [31], "with what it had answered lately");
    let _third = hand.client("there", known(4));
    assert!(asks(&hand.turns()).is_empty(), "who is behind is sent on");
    // The volume was here until now, and moved away as somebody planned.
    let parker = Parker::new().expect("eventfd");
    let (commands, _commands) = channel(4, parker.waker());
    let (orders, _orders) = channel(4, parker.waker());
    assert!(hand.orders.send(ExportOrder::Volume(THERE, VolumeRing { commands, orders })).is_ok());
    assert!(hand.orders.send(ExportOrder::Gone(THERE)).is_ok());
    hand.turns();
    hand.service.clients.clear();
    let _fourth = hand.client("there", None);
    assert!(asks(&hand.turns()).is_empty(), "it does not come back with the clients that were sent away");
    let _fifth = hand.client("there", known(5));
    assert_eq!(asks(&hand.turns()), [31], "who knows the newest group means it");
    hand.ms += LEFT.as_millis() as u64;
    let _sixth = hand.client("there", None);
    assert_eq!(asks(&hand.turns()), [0], "and later everybody does");
}
