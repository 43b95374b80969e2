//! A bare volume alone, for measuring the export.
use palisade_dma::{Pool, PoolConfig};
use palisade_node::bus::Askers;
use palisade_node::exports::ExportList;
use palisade_node::service::bare::BareService;
use palisade_node::service::export::*;
use palisade_protocol::export::nbd::ExportInfo;
use palisade_protocol::wire::PartitionId;
use palisade_runtime::block::*;
use palisade_runtime::net::stream::Listener;
use palisade_runtime::reactor::*;
use palisade_runtime::ring::channel;
use std::sync::Arc;
fn main() {
    let mut reactor = Reactor::new("r").expect("r");
    let pool = Pool::new(PoolConfig::sized(256 << 20, false)).expect("pool");
    let exports = Arc::new(ExportList::default());
    exports.put(ExportInfo {
        name: "bare0".into(),
        description: String::new(),
        partition: PartitionId(1),
        bytes: 1 << 30,
        readonly: false,
    });
    let (mut otx, orders) = channel(16, reactor.waker());
    let (atx, answers) = channel(2048, reactor.waker());
    let (ctx, crx) = channel(2048, reactor.waker());
    assert!(otx.send(ExportOrder::Volume(PartitionId(1), ctx)).is_ok());
    let listeners = vec![
        Listener::unix(std::path::Path::new("/tmp/bare.sock")).expect("u"),
        Listener::tcp("127.0.0.1:10999".parse().expect("a")).expect("t"),
    ];
    let mut askers = Askers::default();
    askers.add(0, atx);
    reactor.add(Box::new(ExportService::new(ExportParts {
        name: "e".into(),
        asker: 0,
        listeners,
        exports,
        pool: pool.clone(),
        orders,
        answers,
        clients_max: 64,
    })));
    let dev = BlockDriver::Mem(MemDriver::new("m", MemMedia::new(1 << 30)));
    reactor.add(Box::new(BareService::new("b", dev, pool, crx, askers)));
    let idle = if std::env::args().nth(1).as_deref() == Some("spin") {
        IdlePolicy::Spin
    } else {
        IdlePolicy::default()
    };
    let h = reactor.spawn(ReactorConfig { core: Some(0), idle, ..Default::default() }).expect("s");
    h.join().expect("j");
}
