//! Answers to units that are written one by one, outside of stripes: pages of a checkpoint, units of a journal, and
//! such as take the place of rotten ones. Those of stripes are in `batch`.

use super::core::Core;
use super::slab::Id;
use super::sleds::{Ask, What};
use crate::wire::*;

impl Core {
    /// Answer to a unit. A refused token waits for a new claim, as in `batch` (P-22).
    pub(super) fn on_unit_written(
        &mut self,
        now: Time,
        from: NodeId,
        req: ReqId,
        status: Status,
        out: &mut Out,
    ) {
        let id = Id(req.0);
        let Some(ask) = self.asks.get_mut(id).filter(|ask| ask.to == from) else { return };
        let (p, device) = (ask.part, ask.device);
        match status {
            Status::Ok => {
                let Some(ask) = self.asks.remove(id) else { return };
                self.devices.good(now, device, ask.sent, false);
                self.unit_durable(&ask);
            }
            Status::Retry => {}
            Status::NoToken => {
                ask.held = true;
                self.reclaim(now, p, device);
            }
            Status::Fenced { number, grant, .. } | Status::StaleNumber { number, grant } => {
                ask.held = true;
                let partition = self.parts[p].id();
                self.fenced(now, p, device, Stamp { partition, number, grant }, out);
            }
            _ => {
                let Some(ask) = self.asks.remove(id) else { return };
                if status == Status::DeviceError {
                    self.judge(now, &ask, status);
                }
                self.unit_refused(now, &ask, out);
            }
        }
    }

    fn unit_durable(&mut self, ask: &Ask) {
        let p = ask.part;
        match ask.what {
            What::PageWrite { generation, page, at } => self.page_durable(p, generation, page, at),
            What::JournalWrite { chapter, unit, at } => self.copy_durable(p, chapter, unit, at),
            What::Mend(_) => self.on_mended(ask),
            _ => {}
        }
    }

    /// A unit cannot be written there.
    pub(super) fn unit_refused(&mut self, now: Time, ask: &Ask, out: &mut Out) {
        let p = ask.part;
        self.suspect(now, p, ask.device);
        match ask.what {
            What::PageWrite { generation, .. } => self.page_refused(now, p, generation),
            What::JournalWrite { chapter, .. } => self.copy_refused(now, p, chapter),
            What::Mend(_) => self.on_mend_read(now, ask, Status::DeviceError, None, out),
            _ => {}
        }
    }
}
