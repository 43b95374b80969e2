//! Drills: devices of a running rack fail on purpose, so that what is said about failures can be tried.
//!
//! Only a rack whose file says `drills = true` has them: there every device is wrapped in the runtime's
//! fault driver once it has been opened, and control's orders steer the wrappers. Elsewhere nothing is
//! wrapped and every order is refused.

use crate::service::late::Late;
use palisade_control::agent::Drill;
use palisade_runtime::block::fault::{Action, Ops, Rule};
use palisade_runtime::block::{BlockDriver, BlockFault, FaultDriver, FaultHandle};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bits that a corrupt read has flipped.
const FLIPPED: u32 = 3;
/// How much longer a slow device takes.
const SLOW: Duration = Duration::from_millis(100);

/// The handles of wrapped devices, by name.
pub(super) struct Drills {
    on: bool,
    handles: BTreeMap<String, FaultHandle>,
    /// What makes a head's column writes leave it late, by the name of its log device.
    late: BTreeMap<String, Late>,
}

impl Drills {
    /// Without `on` nothing will be wrapped.
    pub(super) fn new(on: bool) -> Self {
        Self { on, handles: BTreeMap::new(), late: BTreeMap::new() }
    }

    /// A device that orders can make fail, or the device itself.
    pub(super) fn wrap(&mut self, name: &str, driver: BlockDriver) -> BlockDriver {
        if !self.on {
            return driver;
        }
        let (driver, handle) = FaultDriver::new(driver, self.handles.len() as u64 + 1);
        self.handles.insert(name.to_owned(), handle);
        BlockDriver::Fault(Box::new(driver))
    }

    /// What a head's service asks whether its column writes are late; none where there are no drills.
    pub(super) fn late(&mut self, log: &str) -> Option<Late> {
        self.on.then(|| self.late.entry(log.to_owned()).or_default().clone())
    }

    /// Carries out an order, in place of the one before; why not, otherwise.
    pub(super) fn order(&self, name: &str, drill: Drill) -> Result<(), String> {
        let Some(handle) = self.handles.get(name) else {
            return Err(match self.on {
                true => format!("device {name} is not open; see `palisade device list`"),
                false => "this node was started without drills".to_owned(),
            });
        };
        let late = self.late.get(name);
        if drill == Drill::Late && late.is_none() {
            return Err(format!("device {name} is no head's log: only a head's column writes can be late"));
        }
        handle.clear();
        late.into_iter().for_each(|late| late.set(drill == Drill::Late));
        match drill {
            Drill::Error => handle.add(Rule::always(Ops::ALL, Action::Fail(BlockFault::Io))),
            Drill::Corrupt => handle.add(Rule::always(Ops::READS, Action::Corrupt { bits: FLIPPED })),
            Drill::Slow => handle.add(Rule::always(Ops::ALL, Action::Delay(SLOW))),
            Drill::Late | Drill::Clear => {}
        }
        Ok(())
    }

    /// Requests that drills have hit, where there may be any.
    pub(super) fn hits(&self, name: &str) -> Option<u64> {
        self.handles.get(name).map(FaultHandle::hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::Pool;
    use palisade_runtime::block::{BlockCompletion, BlockPort, BlockRequest, BlockVerb, MemDriver, MemMedia};
    use palisade_runtime::clock::Nanos;

    fn memory() -> BlockDriver {
        BlockDriver::Mem(MemDriver::new("mem", MemMedia::new(1 << 20)))
    }

    /// The first byte block of the device as it is read now.
    fn read(driver: &mut BlockDriver, pool: &Pool) -> BlockCompletion {
        let buf = pool.alloc(4096).expect("room");
        driver.submit(BlockRequest { key: 7, verb: BlockVerb::Read { offset: 0, buf } });
        driver.kick();
        let mut done = Vec::new();
        assert_eq!(driver.poll(Nanos(1), &mut done), 1);
        done.pop().expect("one")
    }

    #[test]
    fn a_device_errs_and_rots_as_ordered_and_is_sound_when_the_drill_is_over() {
        let pool = palisade_runtime::pool::create(32 << 20, false).expect("memory").pool;
        let mut drills = Drills::new(true);
        let mut driver = drills.wrap("sled-1/0", memory());
        let zeroes = |done: BlockCompletion| match done.result {
            Ok(palisade_runtime::block::BlockOk::Read(buf)) => Some(buf.iter().all(|&byte| byte == 0)),
            _ => None,
        };
        assert_eq!(zeroes(read(&mut driver, &pool)), Some(true));
        drills.order("sled-1/0", Drill::Error).expect("it is open");
        assert_eq!(zeroes(read(&mut driver, &pool)), None);
        drills.order("sled-1/0", Drill::Corrupt).expect("it is open");
        assert_eq!(zeroes(read(&mut driver, &pool)), Some(false));
        drills.order("sled-1/0", Drill::Clear).expect("it is open");
        assert_eq!(zeroes(read(&mut driver, &pool)), Some(true));
        assert_eq!(drills.hits("sled-1/0"), Some(2));
        assert!(drills.order("sled-2/0", Drill::Error).is_err_and(|why| why.contains("not open")));
    }

    #[test]
    fn only_a_heads_column_writes_can_be_late() {
        let mut drills = Drills::new(true);
        let (_log, _sled) = (drills.wrap("head-1/log", memory()), drills.wrap("sled-1/0", memory()));
        let late = drills.late("head-1/log").expect("drills are on");
        assert!(drills.order("sled-1/0", Drill::Late).is_err_and(|why| why.contains("no head's log")));
        drills.order("head-1/log", Drill::Late).expect("a head");
        assert!(late.on());
        drills.order("head-1/log", Drill::Clear).expect("a head");
        assert!(!late.on());
        assert!(Drills::new(false).late("head-1/log").is_none());
    }

    #[test]
    fn without_drills_no_device_is_wrapped_and_orders_are_refused() {
        let mut drills = Drills::new(false);
        assert!(matches!(drills.wrap("sled-1/0", memory()), BlockDriver::Mem(_)));
        assert!(drills.order("sled-1/0", Drill::Error).is_err_and(|why| why.contains("without drills")));
        assert_eq!(drills.hits("sled-1/0"), None);
    }
}
