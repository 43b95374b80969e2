//! A sled on a reactor: the machine, its devices, its mailbox.

use super::port::{Devices, time};
use crate::bus::{Post, drain};
use crate::order::{Report, Reporter, SledOrder};
use palisade_protocol::sled::Sled;
use palisade_protocol::wire::{Envelope, NodeId, Out};
use palisade_runtime::block::BlockDriver;
use palisade_runtime::clock::Nanos;
use palisade_runtime::park::WaitSet;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::Receiver;

/// Messages taken per turn.
const BATCH: usize = 512;

/// The rings of a sled.
pub struct SledRings {
    /// Messages of heads.
    pub mailbox: Receiver<Envelope>,
    /// Orders of control.
    pub orders: Receiver<SledOrder>,
}

/// A sled as a service.
pub struct SledService {
    name: String,
    node: NodeId,
    sled: Sled,
    devices: Devices,
    rings: SledRings,
    post: Post,
    reporter: Reporter,
    out: Out,
}

impl SledService {
    /// Puts the parts together. `drivers` are the machine's devices, device 0 first.
    pub fn new(
        name: &str,
        node: NodeId,
        sled: Sled,
        drivers: Vec<BlockDriver>,
        rings: SledRings,
        post: Post,
        reporter: Reporter,
    ) -> Self {
        Self {
            name: name.to_owned(),
            node,
            sled,
            devices: Devices::new(drivers),
            rings,
            post,
            reporter,
            out: Out::default(),
        }
    }

    /// The machine, for simulators and tests.
    pub fn machine(&self) -> &Sled {
        &self.sled
    }

    fn take_orders(&mut self) -> usize {
        let mut count = 0;
        while let Some(order) = self.rings.orders.pop() {
            count += 1;
            match order {
                SledOrder::Route(to, ring) => self.post.route(to, ring),
                SledOrder::Records(ask) => {
                    // Before its devices are read it has nothing to say, and is asked again.
                    if let Some(held) = self.sled.records() {
                        self.reporter.send(Report::Records { node: self.node, ask, held });
                    }
                }
                SledOrder::Status => {
                    self.reporter.send(Report::Sled(self.node, Box::new(self.sled.status())));
                }
            }
        }
        count
    }

    fn put_out(&mut self) {
        for cmd in self.out.block.drain(..) {
            self.devices.submit(cmd);
        }
        for (to, msg) in self.out.net.drain(..) {
            self.post.send(to, msg);
        }
        for event in self.out.events.drain(..) {
            self.reporter.send(Report::Event(self.node, event));
        }
        debug_assert!(self.out.done.is_empty(), "a sled has no clients");
        self.devices.kick();
        self.post.flush();
    }
}

impl Service for SledService {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, now: Nanos) -> usize {
        let mut work = self.take_orders();
        let (sled, out) = (&mut self.sled, &mut self.out);
        work += drain(&mut self.rings.mailbox, BATCH, |envelope: Envelope| {
            let Envelope { from, boot, near, msg, .. } = envelope;
            match near {
                true => sled.handle_near(time(now), from, boot, msg, out),
                false => sled.handle_msg(time(now), from, boot, msg, out),
            }
        });
        work += self.devices.poll(now, |_, done| sled.handle_block(time(now), done, out));
        self.sled.turn(time(now), &mut self.out);
        work += usize::from(!self.out.is_empty());
        self.put_out();
        work
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.post.pending() {
            return Some(Nanos::ZERO);
        }
        self.devices.deadline(self.sled.deadline())
    }

    fn wait_fds<'a>(&'a self, set: &mut WaitSet<'a>) {
        self.devices.wait_fds(set);
    }

    fn stopping(&mut self, _now: Nanos) -> bool {
        self.devices.in_flight() == 0
    }
}
