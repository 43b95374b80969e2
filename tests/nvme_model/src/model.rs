//! The handle of an emulated controller: what tests turn, and what the driver sees.

use crate::config::ModelConfig;
use crate::controller::Controller;
use crate::fault::Faults;
use crate::media::Media;
use palisade_dma::DmaRange;
use palisade_runtime::block::nvme::{MapError, NvmeDevice};
use std::sync::{Arc, Mutex, MutexGuard};

/// An emulated controller. Clones share it: one is given to the driver, others stay with the test.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Mutex<Controller>>,
    name: String,
    register_bytes: usize,
}

impl Model {
    /// A controller in its reset state.
    pub fn new(config: ModelConfig) -> Self {
        let media = Media::new(config.blocks.min(1 << 20), 1 << config.block_shift.min(16));
        Self::with_media(config, media)
    }

    /// A controller with a medium that was in another one.
    pub fn with_media(config: ModelConfig, media: Media) -> Self {
        let register_bytes = config.register_bytes;
        let inner = Arc::new(Mutex::new(Controller::new(config, media)));
        Self { inner, name: "model".to_owned(), register_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets the controller do a step of its work.
    pub fn step(&self) {
        self.lock().step();
    }

    /// Changes what goes wrong.
    pub fn plant(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Changes what it says of itself.
    pub fn change(&self, change: impl FnOnce(&mut ModelConfig)) {
        change(&mut self.lock().config);
    }

    /// Sets CSTS.CFS.
    pub fn set_fatal(&self) {
        self.lock().set_fatal();
    }

    /// Pulls it out: registers read as all ones and nothing moves any more.
    pub fn remove(&self) {
        self.lock().is_removed = true;
    }

    /// Tells an asynchronous event: type, information, log page.
    pub fn raise(&self, kind: u8, info: u8, log: u8) {
        self.lock().raise(kind, info, log);
    }

    /// Writes a completion entry of these bytes where the next one of the queue goes.
    pub fn forge(&self, queue: u16, entry: [u64; 2], phase: bool) {
        self.lock().forge(queue, entry, phase);
    }

    /// Sets a critical warning and a number of media errors in its health log.
    pub fn set_health(&self, warning: u8, media_errors: u64) {
        self.lock().health = (warning, media_errors);
    }

    /// How many have a handle of it: tests and driver.
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    /// The medium, taken out.
    pub fn media(&self) -> Media {
        self.lock().media.clone()
    }

    /// What the driver did wrong.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// I/O commands that were carried out, with an error or without.
    pub fn carried_out(&self) -> u64 {
        self.lock().carried_out
    }

    /// Times that CC.EN was set.
    pub fn starts(&self) -> u64 {
        self.lock().starts
    }

    /// Opcodes of the I/O commands that it was given, newest last, with FUA and SGL flags.
    pub fn seen(&self) -> Vec<(u8, bool, bool)> {
        self.lock().seen.iter().copied().collect()
    }
}

impl NvmeDevice for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn register_bytes(&self) -> usize {
        self.register_bytes
    }

    fn read32(&self, at: usize) -> u32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.register_bytes, "a read beyond the registers");
        self.lock().read(at)
    }

    fn write32(&self, at: usize, value: u32) {
        assert!(at.is_multiple_of(4) && at + 4 <= self.register_bytes, "a write beyond the registers");
        self.lock().write(at, value);
    }

    fn map(&mut self, range: DmaRange) -> Result<u64, MapError> {
        Ok(self.lock().space.map(range))
    }

    fn isolate(&mut self) -> bool {
        let mut controller = self.lock();
        if controller.faults.no_isolation {
            return false;
        }
        controller.space.clear();
        true
    }

    fn is_leaving(&self) -> bool {
        self.lock().faults.leaving
    }
}
