//! Invariants of the fence, judged at the sleds' devices and doors.
//!
//! A column write is followed from its message to the medium by the address of its buffers (sleds write
//! from the buffer that a unit arrived in) and its checksum. So the checks see under which number each data write was
//! sent, without a look into the sled:
//! `OneWriter`: none is submitted under a number below one granted for that device and partition;
//! `FenceDrains`: none is in flight when a higher number is granted;
//! `FenceIsDurable`: the record stands in the durable image when the grant leaves;
//! `FullStripes`: a written stripe unit of a column generation never changes.

use palisade_protocol::wire::*;
use std::collections::BTreeMap;

/// A stripe unit on its way to a medium.
#[derive(Clone, Copy, Debug)]
struct Carried {
    device: DeviceId,
    stamp: Stamp,
    column: ColumnRef,
    stripe: u32,
    crc: u32,
    len: usize,
}

/// Names a write in flight: sled, its device, flight.
type FlightId = (NodeId, u64);

/// The state of the fence checks.
#[derive(Debug, Default)]
pub struct FenceChecks {
    granted: BTreeMap<(DeviceId, PartitionId), Number>,
    carried: BTreeMap<(NodeId, usize), Carried>,
    flying: BTreeMap<FlightId, Vec<Carried>>,
    units: BTreeMap<(DeviceId, u32, u32, u32), u32>,
    /// Column writes followed to the medium.
    pub followed: u64,
}

impl FenceChecks {
    /// A column write reaches a sled.
    pub fn message_in(&mut self, sled: NodeId, msg: &Msg) {
        let Msg::ColumnWrite { stamp, column, stripe, units, crcs, .. } = msg else { return };
        for (index, (unit, crc)) in units.iter().zip(crcs).enumerate() {
            let carried = Carried {
                device: column.device,
                stamp: *stamp,
                column: *column,
                stripe: stripe + index as u32,
                crc: *crc,
                len: unit.len(),
            };
            self.carried.insert((sled, unit.as_ptr() as usize), carried);
        }
    }

    /// A sled submits a write to a device.
    pub fn submitted(&mut self, sled: NodeId, flight: u64, cmd: &BlockCmd) -> Result<(), String> {
        let BlockOp::Write { bufs, .. } = &cmd.op else { return Ok(()) };
        let key = |buf: &palisade_dma::Buf| (sled, buf.as_ptr() as usize);
        let units: Vec<Carried> = bufs
            .iter()
            .filter_map(|buf| self.carried.get(&key(buf)).map(|unit| (unit, buf)))
            .filter(|(unit, buf)| unit.len == buf.len() && palisade_isal::crc32c(buf) == unit.crc)
            .map(|(unit, _)| *unit)
            .collect();
        self.followed += units.len() as u64;
        for unit in &units {
            self.check_owner(unit, "submitted")?;
            self.check_unit(unit)?;
        }
        if !units.is_empty() {
            self.flying.insert((sled, flight), units);
        }
        Ok(())
    }

    fn check_owner(&self, unit: &Carried, how: &str) -> Result<(), String> {
        match self.granted.get(&(unit.device, unit.stamp.partition)) {
            Some(granted) if unit.stamp.number < *granted => Err(format!(
                "OneWriter: a write of column {} of device {} under {} was {how} after {granted} was granted",
                unit.column.column, unit.device, unit.stamp.number
            )),
            _ => Ok(()),
        }
    }

    fn check_unit(&mut self, unit: &Carried) -> Result<(), String> {
        let key = (unit.device, unit.column.column, unit.column.generation, unit.stripe);
        match self.units.insert(key, unit.crc) {
            Some(old) if old != unit.crc => Err(format!(
                "FullStripes: stripe {} of column {} generation {} of device {} was rewritten with other bytes",
                unit.stripe, unit.column.column, unit.column.generation, unit.device
            )),
            _ => Ok(()),
        }
    }

    /// A write ended.
    pub fn ended(&mut self, sled: NodeId, flight: u64) -> Result<(), String> {
        let units = self.flying.remove(&(sled, flight)).unwrap_or_default();
        units.iter().try_for_each(|unit| self.check_owner(unit, "landed"))
    }

    /// A sled died; nothing of it is in flight any more.
    pub fn died(&mut self, sled: NodeId) {
        self.flying.retain(|(owner, _), _| *owner != sled);
        self.carried.retain(|(owner, _), _| *owner != sled);
    }

    /// A grant leaves a sled: the device and the number whose durable record must be checked.
    pub fn grant(&mut self, sled: NodeId, msg: &Msg) -> Result<Option<(DeviceId, Stamp)>, String> {
        let Msg::Reserved { device, stamp, status: Status::Ok, .. } = msg else { return Ok(None) };
        let late = self.flying.iter().find(|((owner, _), units)| {
            *owner == sled
                && units.iter().any(|unit| {
                    unit.device == *device
                        && unit.stamp.partition == stamp.partition
                        && unit.stamp.number < stamp.number
                })
        });
        if let Some(((_, flight), _)) = late {
            return Err(format!(
                "FenceDrains: device {device} granted {} while write {flight} of an older number is in flight",
                stamp.number
            ));
        }
        let granted = self.granted.entry((*device, stamp.partition)).or_default();
        *granted = (*granted).max(stamp.number);
        Ok(Some((*device, *stamp)))
    }
}

/// `NumbersRise` (P-01, P-04): what heads say they hold never goes back, and no number has two holders.
#[derive(Debug, Default)]
pub struct NumberChecks {
    holders: BTreeMap<(PartitionId, Number), (GrantId, NodeId, BootId)>,
    newest: BTreeMap<PartitionId, Number>,
}

impl NumberChecks {
    /// The authority releases an assignment.
    pub fn assigned(&mut self, assignment: &Assignment) -> Result<(), String> {
        let Some(primary) = assignment.primary() else { return Err("an assignment without members".into()) };
        let stamp = assignment.stamp;
        let holder = (stamp.grant, primary.head, primary.boot);
        match self.holders.insert((stamp.partition, stamp.number), holder) {
            Some(old) if old != holder => {
                Err(format!("NumbersRise: {} of partition {} has two holders", stamp.number, stamp.partition))
            }
            _ => Ok(()),
        }
    }

    /// A head says that it serves under a stamp.
    ///
    /// Says whether that is the newest. Where roles move a head may begin to serve under an older number, as
    /// it does not know better; then nothing that it says must get a confirm.
    pub fn serving(&mut self, head: NodeId, boot: BootId, stamp: Stamp, moves: bool) -> Result<bool, String> {
        let holder = self.holders.get(&(stamp.partition, stamp.number));
        if holder != Some(&(stamp.grant, head, boot)) {
            return Err(format!("NumbersRise: head {head} serves under {} that another holds", stamp.number));
        }
        let newest = self.newest.entry(stamp.partition).or_default();
        if stamp.number < *newest {
            if moves {
                return Ok(false);
            }
            return Err(format!("NumbersRise: head {head} serves under {} after {newest}", stamp.number));
        }
        *newest = stamp.number;
        Ok(true)
    }
}
