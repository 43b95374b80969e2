//! `rack:FILE[#VOLUME]` as a target of the load generator: the rack runs inside the generator's process,
//! with a data directory of its own that is removed afterwards, and requests go to the head by ring, past
//! the export. What it measures beside the same volume through NBD is the export.

use crate::bus::{ASKER_SHIFT, CLIENT_RING};
use crate::host::{Ask, Host};
use crate::up::{host, names};
use hdrhistogram::Histogram;
use palisade_control::Control;
use palisade_control::metrics::HistSnapshot;
use palisade_dma::{Pool, PoolConfig};
use palisade_perf::target::{Done, Factory, Op, Target, TargetError, Verb, Want};
use palisade_protocol::wire::{
    ClientCmd, ClientDone, ClientError, ClientOk, ClientTag, ClientVerb, PartitionId,
};
use palisade_runtime::park::Parker;
use palisade_runtime::ring::{Receiver, Sender, channel};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The asker number of the load generator.
const ASKER: u8 = 254;
/// How long a rack may take to serve.
const READY: Duration = Duration::from_secs(60);
/// Longest wait for the bridge.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes targets of rack files.
pub struct RackFactory;

impl Factory for RackFactory {
    fn open(&self, address: &str, want: Want) -> Option<Result<Box<dyn Target>, TargetError>> {
        let rest = address.strip_prefix("rack:")?;
        let (file, volume) = rest.split_once('#').map_or((rest, None), |(file, name)| (file, Some(name)));
        Some(
            RackTarget::start(Path::new(file), volume, want)
                .map(|target| Box::new(target) as Box<dyn Target>),
        )
    }
}

/// A rack inside this process.
struct RackTarget {
    host: Option<Host>,
    control: Option<Control>,
    data: PathBuf,
    volume: String,
    bytes: u64,
    partition: PartitionId,
    commands: Sender<ClientCmd>,
    answers: Receiver<ClientDone>,
    pool: Pool,
    slots: Vec<Box<[u8]>>,
    /// Length of the read in each slot, zero for other requests.
    reading: Vec<u32>,
    look: bool,
    /// Requests for which there was no room yet.
    waiting: Vec<ClientCmd>,
}

fn fatal(error: impl std::fmt::Display) -> TargetError {
    TargetError::Fatal(error.to_string())
}

impl RackTarget {
    fn start(file: &Path, volume: Option<&str>, want: Want) -> Result<Self, TargetError> {
        let data = std::env::temp_dir().join(format!("palisade-perf-{}", std::process::id()));
        let (mut rack, _) = palisade_control::cli::load(file, Some(&data), false).map_err(fatal)?;
        // A rack of its own must not collide with a running one.
        rack.metrics = None;
        rack.heads.iter_mut().for_each(|head| head.nbd.clear());
        rack.volumes.retain(|volume| !volume.members().is_empty());
        let volume = match volume {
            Some(name) => rack.volume(name),
            None => rack.volumes.first(),
        };
        let volume = volume.ok_or_else(|| fatal("the file has no replicated volume of that name"))?.clone();
        let control = Control::start(&rack).map_err(fatal)?;
        let running = host(&rack, &names(&rack)).map_err(fatal)?;
        let end = Instant::now() + READY;
        while !control.status().ready {
            if Instant::now() >= end {
                return Err(fatal("the rack is not ready after a minute"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The generator spins, so nobody ever sleeps on this parker.
        let parker = Parker::new().map_err(fatal)?;
        let (answers_in, answers) = channel(CLIENT_RING, parker.waker());
        let (reply, attached) = mpsc::channel();
        running.ask(Ask::Attach { volume: volume.name.clone(), asker: ASKER, answers: answers_in, reply });
        let (partition, commands) =
            attached.recv_timeout(PATIENCE).map_err(|_| fatal("the volume's primary is not here"))?;
        let pool = Pool::new(PoolConfig::sized(128 << 20, false)).map_err(fatal)?;
        let slots = usize::try_from(want.slots).map_err(fatal)?;
        Ok(Self {
            host: Some(running),
            control: Some(control),
            data,
            volume: volume.name,
            bytes: volume.size_bytes,
            partition,
            commands,
            answers,
            pool,
            slots: (0..slots).map(|_| vec![0; want.slot_bytes].into_boxed_slice()).collect(),
            reading: vec![0; slots],
            look: want.look,
            waiting: Vec::new(),
        })
    }

    fn send(&mut self, cmd: ClientCmd) {
        if let Err(full) = self.commands.send(cmd) {
            self.waiting.push(full.0);
        }
    }

    fn finish(&mut self, answer: ClientDone) -> Done {
        let slot = (answer.tag.0 & u64::from(u32::MAX)) as u32;
        let at = slot as usize;
        let errno = match answer.result {
            Ok(ClientOk::Data(pieces)) if self.look && self.reading[at] > 0 => {
                let mut filled = 0;
                for piece in &pieces {
                    self.slots[at][filled..filled + piece.len()].copy_from_slice(piece);
                    filled += piece.len();
                }
                0
            }
            Ok(_) => 0,
            Err(ClientError::Range) => 22,
            Err(ClientError::NoSpace) => 28,
            Err(_) => 5,
        };
        Done { slot, errno }
    }
}

impl Target for RackTarget {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        &mut self.slots[slot as usize]
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        let at = slot as usize;
        self.reading[at] = 0;
        let verb = match op.verb {
            Verb::Read => {
                self.reading[at] = op.len;
                ClientVerb::Read { offset: op.offset, len: op.len }
            }
            Verb::Write => {
                let len = op.len as usize;
                let mut data =
                    self.pool.alloc(len).ok_or_else(|| fatal("the generator's buffers are out"))?;
                data.copy_from_slice(&self.slots[at][..len]);
                ClientVerb::Write { offset: op.offset, data: data.freeze() }
            }
            Verb::Flush => ClientVerb::Flush,
        };
        let tag = ClientTag(u64::from(ASKER) << ASKER_SHIFT | u64::from(slot));
        self.send(ClientCmd { tag, partition: self.partition, verb });
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        for cmd in std::mem::take(&mut self.waiting) {
            self.send(cmd);
        }
        while let Some(answer) = self.answers.pop() {
            let end = self.finish(answer);
            done.push(end);
        }
        if self.host.as_ref().is_none_or(Host::failed) {
            return Err(fatal("a reactor of the rack ended"));
        }
        Ok(())
    }

    fn stages(&mut self) -> Vec<(String, Histogram<u64>)> {
        let Some(host) = &self.host else { return Vec::new() };
        let (reply, stages) = mpsc::channel();
        host.ask(Ask::Stages { volume: self.volume.clone(), reply });
        let stages = stages.recv_timeout(PATIENCE).unwrap_or_default();
        stages.into_iter().map(|(name, snapshot)| (name, histogram(&snapshot))).collect()
    }
}

fn histogram(snapshot: &HistSnapshot) -> Histogram<u64> {
    let mut out = Histogram::new_with_bounds(1, 100_000_000_000, 2).expect("constant bounds are valid");
    for (upper, count) in &snapshot.buckets {
        out.saturating_record_n(*upper, *count);
    }
    out
}

impl Drop for RackTarget {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            host.stop();
        }
        drop(self.control.take());
        // Left-overs in the temporary directory hurt nobody.
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
