//! Opening a node's devices: what lies there, what control knows, what may be done (DESIGN section 1).
//!
//! A driver opens a device exclusively before anything is read from it (P-17), so that a process which
//! still holds it is met here, by name, and not later by its late writes. What is absent or unfit is left
//! out, aloud; nothing is formatted unless control decided so.

use palisade_control::agent::{Agent, AgentError, Decision, Identity, Medium};
use palisade_control::config::{self, Device, DeviceKind, Rack};
use palisade_dma::Pool;
use palisade_protocol::head::{HeadLog, LogStart};
use palisade_protocol::log::format as log_format;
use palisade_protocol::sled::format::{self as sled_format, FormatSpec, Superblock, Verdict};
use palisade_protocol::wire::{DeviceId, DeviceIx, LogId, RackId};
use palisade_runtime::block::nvme::{NvmeDriver, NvmeOptions, VfioError, VfioNvme};
use palisade_runtime::block::{
    BlockDriver, BlockFault, BlockOk, BlockPort, BlockRequest, BlockVerb, CreateFile, MemDriver, MemMedia,
    OpenError, UringDriver, UringOptions,
};
use palisade_runtime::clock::{Clock, MonoClock};
use smallvec::smallvec;
use std::time::Duration;

/// Longest wait for one read or write while a device is being opened.
const PATIENCE: Duration = Duration::from_secs(30);

/// Said when the pool is out.
const NO_BUFFER: &str = "no buffer is free; give a larger [reactors] pool";

/// Pages of partition records on a sled device: room for several thousand partitions.
const RECORD_PAGES: u32 = 64;

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The driver said no.
    #[error("device {name}: {source}")]
    Open {
        /// Name in the store.
        name: String,
        /// The driver's reason, with its remedy.
        source: OpenError,
    },
    /// The driver of an NVMe controller said no.
    #[error("device {name}: {why}")]
    Nvme {
        /// Name in the store.
        name: String,
        /// The driver's reason, with its remedy.
        why: String,
    },
    /// A read or write failed, or did not end.
    #[error("device {name}: {what} failed while it was being opened: {why}")]
    Io {
        /// Name in the store.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What came of it, and what helps.
        why: String,
    },
    /// The declared sizes give no format.
    #[error("device {name} cannot be formatted: {what}")]
    Format {
        /// Name in the store.
        name: String,
        /// Why.
        what: String,
    },
    /// Control did not answer.
    #[error("device {name}: {source}")]
    Control {
        /// Name in the store.
        name: String,
        /// What went wrong.
        source: AgentError,
    },
}

/// An open device of a sled.
pub(super) struct Opened {
    /// Name in the store.
    pub(super) name: String,
    /// The driver.
    pub(super) driver: BlockDriver,
}

/// What opening needs beside the device.
pub(super) struct Opener<'a> {
    /// Decides.
    pub(super) agent: &'a Agent,
    /// The rack's identity.
    pub(super) rack: RackId,
    /// Buffers, registered with the rings.
    pub(super) pool: &'a Pool,
}

impl Opener<'_> {
    /// A head's log: its driver and how the head is to meet it; none when it is missing or refused. A log
    /// that is to be made is made by the head itself, at its first turns: confirm it when the head has
    /// read it. A crash before that makes it again under the same identity.
    pub(super) fn log(
        &self,
        head: &config::Head,
        volume_bytes: u64,
    ) -> Result<Option<(BlockDriver, HeadLog)>, MediaError> {
        let device = &head.log;
        let Some(mut driver) = self.driver(device)? else {
            self.settle(device, self.decide(device, &Medium::Absent)?);
            return Ok(None);
        };
        let bytes = driver.info().bytes;
        let start = read(&mut driver, self.pool, log_format::CHECKPOINT_OFFSET as usize, &device.name)?;
        let medium = log_medium(log_format::examine(&start, self.rack, None, bytes));
        let start = match self.decide(device, &medium)? {
            Decision::Format { id } => LogStart::Format(LogId(id.0)),
            Decision::Open { id } => LogStart::Open(LogId(id.0)),
            other => {
                self.settle(device, other);
                return Ok(None);
            }
        };
        let mut log = HeadLog::new(DeviceIx(0), bytes, start);
        log.segment_bytes = head.segment_bytes as u32;
        log.volume_bytes = volume_bytes;
        Ok(Some((driver, log)))
    }

    /// The devices of a sled that may be served.
    pub(super) fn sled(&self, rack: &Rack, sled: &config::Sled) -> Result<Vec<Opened>, MediaError> {
        let mut opened = Vec::new();
        for device in &sled.devices {
            let Some(mut driver) = self.driver(device)? else {
                self.settle(device, self.decide(device, &Medium::Absent)?);
                continue;
            };
            let bytes = driver.info().bytes;
            let start =
                read(&mut driver, self.pool, sled_format::PROBE_BYTES.min(bytes as usize), &device.name)?;
            let medium = sled_medium(&sled_format::judge(&start, bytes, self.rack));
            match self.decide(device, &medium)? {
                Decision::Format { id } => {
                    self.format_sled(rack, device, &mut driver, id)?;
                    self.formatted(device, id)?;
                }
                Decision::Open { .. } => {}
                other => {
                    self.settle(device, other);
                    continue;
                }
            }
            opened.push(Opened { name: device.name.clone(), driver });
        }
        Ok(opened)
    }

    /// The driver of a device; none when there is nothing and nothing may be made.
    fn driver(&self, device: &Device) -> Result<Option<BlockDriver>, MediaError> {
        let (path, block) = match &device.kind {
            DeviceKind::Memory => {
                let mut media = MemMedia::new(device.size_bytes);
                if device.populate {
                    media.populate();
                }
                return Ok(Some(BlockDriver::Mem(MemDriver::new(&device.name, media))));
            }
            DeviceKind::Nvme(address) => return self.controller(device, address),
            DeviceKind::File(path) => (path, false),
            DeviceKind::Block(path) => (path, true),
        };
        let mut options = UringOptions { pool: Some(self.pool.clone()), ..UringOptions::default() };
        if !path.exists() {
            let make = matches!(self.decide(device, &Medium::Absent)?, Decision::Format { .. });
            if !make || block {
                return Ok(None);
            }
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| {
                    let why = format!("{}: {error}", folder.display());
                    MediaError::Io { name: device.name.clone(), what: "making its folder", why }
                })?;
            }
            options.create = Some(CreateFile { bytes: device.size_bytes, preallocate: !device.sparse });
        }
        let driver = UringDriver::open(path, &options)
            .map_err(|source| MediaError::Open { name: device.name.clone(), source })?;
        let info = driver.info();
        if info.note.is_empty() {
            tracing::info!(device = device.name, path = info.path, bytes = info.bytes, "opened");
        } else {
            tracing::warn!(device = device.name, path = info.path, note = info.note, "opened");
        }
        Ok(Some(BlockDriver::Uring(Box::new(driver))))
    }

    /// An NVMe controller, driven by this process; none when it is not plugged in.
    fn controller(&self, device: &Device, address: &str) -> Result<Option<BlockDriver>, MediaError> {
        let failed = |why: String| MediaError::Nvme { name: device.name.clone(), why };
        let function = match VfioNvme::open(address) {
            Err(VfioError::NoDevice(_)) => return Ok(None),
            function => function.map_err(|error| failed(error.to_string()))?,
        };
        let driver = NvmeDriver::open(Box::new(function), self.pool, NvmeOptions::default());
        let driver = driver.map_err(|error| failed(error.to_string()))?;
        let info = driver.info();
        tracing::info!(
            device = device.name,
            path = info.path,
            bytes = info.bytes,
            note = info.note,
            "opened"
        );
        Ok(Some(BlockDriver::Nvme(Box::new(driver))))
    }

    fn format_sled(
        &self,
        rack: &Rack,
        device: &Device,
        driver: &mut BlockDriver,
        id: Identity,
    ) -> Result<(), MediaError> {
        let spec = FormatSpec {
            rack: self.rack,
            device: DeviceId(id.0),
            device_bytes: driver.info().bytes,
            column_bytes: rack.code.column_bytes,
            unit_bytes: rack.code.unit_bytes as u32,
            record_pages: RECORD_PAGES,
        };
        let plan = Superblock::plan(&spec)
            .map_err(|error| MediaError::Format { name: device.name.clone(), what: error.to_string() })?;
        tracing::info!(device = device.name, id = %spec.device, columns = plan.columns, "formatting");
        let images: Vec<_> = sled_format::images(plan).collect();
        let (body, supers) = images.split_at(images.len() - 2);
        for (place, (offset, image)) in body.iter().enumerate() {
            // The marker of an unfinished format comes first and durably: a power cut in the middle must
            // not leave something that looks like foreign data.
            write(driver, self.pool, *offset, image, place == 0, &device.name)?;
        }
        // Everything that the superblocks vouch for is durable before them.
        let failed = |why| MediaError::Io { name: device.name.clone(), what: "flushing its format", why };
        wait(driver, BlockVerb::Flush).map_err(failed)?;
        for (offset, image) in supers {
            write(driver, self.pool, *offset, image, true, &device.name)?;
        }
        Ok(())
    }

    fn decide(&self, device: &Device, medium: &Medium) -> Result<Decision, MediaError> {
        let answer = self.agent.decide(&device.name, medium);
        answer.map_err(|source| MediaError::Control { name: device.name.clone(), source })
    }

    fn formatted(&self, device: &Device, id: Identity) -> Result<(), MediaError> {
        let answer = self.agent.formatted(&device.name, id);
        answer.map_err(|source| MediaError::Control { name: device.name.clone(), source })
    }

    /// Says why a device is left out.
    fn settle(&self, device: &Device, decision: Decision) {
        if let Decision::Missing { why } | Decision::Refuse { why } = decision {
            tracing::warn!(device = device.name, "left out: {why}");
        }
    }
}

fn log_medium<T>(verdict: Result<(log_format::Superblock, T), palisade_protocol::log::Verdict>) -> Medium {
    use palisade_protocol::log::Verdict as Log;
    match verdict {
        Ok((superblock, _)) => Medium::Ours { id: Identity(superblock.log.0) },
        Err(Log::Blank) => Medium::Blank,
        Err(Log::ForeignSignature) => Medium::Foreign { what: "no head log".to_owned() },
        Err(Log::OtherRack(_)) => Medium::OtherRack,
        Err(Log::OtherLog(log)) => Medium::Ours { id: Identity(log.0) },
        Err(Log::Newer { .. }) => Medium::Newer,
        Err(Log::Damaged(what)) if what == log_format::NO_COPY => Medium::Rotten { what: what.to_owned() },
        Err(Log::Damaged(what)) => Medium::Damaged { what: what.to_owned() },
    }
}

fn sled_medium(verdict: &Verdict) -> Medium {
    match verdict {
        Verdict::Ours { superblock, .. } => Medium::Ours { id: Identity(superblock.device.0) },
        Verdict::Blank => Medium::Blank,
        Verdict::ForeignSignature => Medium::Foreign { what: verdict.to_string() },
        Verdict::OtherRack(_) => Medium::OtherRack,
        Verdict::Newer(..) => Medium::Newer,
        Verdict::Damaged(what) => Medium::Damaged { what: (*what).to_owned() },
    }
}

/// The first `len` bytes of a device, before a reactor has it.
fn read(driver: &mut BlockDriver, pool: &Pool, len: usize, name: &str) -> Result<Vec<u8>, MediaError> {
    let failed = |why| MediaError::Io { name: name.to_owned(), what: "reading its start", why };
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let part = (len - bytes.len()).min(palisade_protocol::wire::limits::IO_BYTES_MAX);
        let buf = pool.alloc(part).ok_or_else(|| failed(NO_BUFFER.to_owned()))?;
        let verb = BlockVerb::Read { offset: bytes.len() as u64, buf };
        if let BlockOk::Read(buf) = wait(driver, verb).map_err(failed)? {
            bytes.extend_from_slice(&buf);
        }
    }
    Ok(bytes)
}

fn write(
    driver: &mut BlockDriver,
    pool: &Pool,
    offset: u64,
    bytes: &[u8],
    fua: bool,
    name: &str,
) -> Result<(), MediaError> {
    let failed = |why| MediaError::Io { name: name.to_owned(), what: "writing its format", why };
    let mut buf = pool.alloc(bytes.len()).ok_or_else(|| failed(NO_BUFFER.to_owned()))?;
    buf.copy_from_slice(bytes);
    let verb = BlockVerb::Write { offset, bufs: smallvec![buf.freeze()], fua };
    wait(driver, verb).map(|_| ()).map_err(failed)
}

/// One request, waited for; or why it failed, in words.
fn wait(driver: &mut BlockDriver, verb: BlockVerb) -> Result<BlockOk, String> {
    driver.submit(BlockRequest { key: 0, verb });
    driver.kick();
    // The clock of the reactor that polls the driver next, and of a controller's start: a driver that is told an
    // earlier time than before waits for the later one before it looks after its device.
    let (start, mut done) = (MonoClock.now(), Vec::new());
    loop {
        let now = MonoClock.now();
        if now.since(start) >= PATIENCE {
            return Err(format!("no answer within {} s", PATIENCE.as_secs()));
        }
        if driver.poll(now, &mut done) > 0
            && let Some(completion) = done.pop()
        {
            return completion.result.map_err(|error| match error {
                BlockFault::NoSpace => format!("{error}; free space there, or make the device smaller"),
                _ => error.to_string(),
            });
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_nvme_model::{Model, ModelConfig, Rig};

    #[test]
    fn a_controller_that_fails_while_it_is_opened_is_looked_after() {
        let model = Model::new(ModelConfig { blocks: 1024, ..ModelConfig::default() });
        let device = model.clone();
        // Ends with its last user, this test and the driver.
        std::thread::spawn(move || {
            while device.handles() > 1 {
                device.step();
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        let pool = Rig::pool();
        let driver = NvmeDriver::open(Box::new(model.clone()), &pool, Rig::options()).expect("it starts");
        let mut driver = BlockDriver::Nvme(Box::new(driver));
        write(&mut driver, &pool, 0, &[7; 4096], true, "sled-1/0").expect("it serves");
        model.set_fatal();
        let bytes = read(&mut driver, &pool, 4096, "sled-1/0").expect("it was started again");
        assert_eq!((bytes, model.starts()), (vec![7; 4096], 2));
    }
}
