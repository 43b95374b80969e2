//! Listing the columns that a partition owns on a device (P-27); records may be read by anyone (OP-07).

use super::Asker;
use super::config::LIST_MAX;
use super::device::Device;
use crate::wire::msg::OwnedColumn;
use crate::wire::{Msg, Out, PartitionId, Status};

/// Answers a list.
pub(super) fn answer(
    asker: Asker,
    status: Status,
    columns: Vec<OwnedColumn>,
    more: Option<u32>,
    out: &mut Out,
) {
    out.net.push((asker.node, Msg::ColumnListed { req: asker.req, status, columns, more }));
}

impl Device {
    /// The verb.
    pub(super) fn column_list(&mut self, asker: Asker, partition: PartitionId, from: u32, out: &mut Out) {
        if let Err(status) = self.serves_reads() {
            let status = self.refuse(status);
            return answer(asker, status, Vec::new(), None, out);
        }
        let mut columns = Vec::new();
        for (number, held) in self.columns.iter().enumerate().skip(from as usize) {
            let record = &held.record;
            if !held.owned() || record.partition != partition {
                continue;
            }
            if columns.len() == LIST_MAX {
                return answer(asker, Status::Ok, columns, Some(number as u32), out);
            }
            columns.push(OwnedColumn {
                column: number as u32,
                generation: record.generation,
                extent: record.extent,
                position: record.position,
                number: record.number,
                stripes: held.table.prefix(),
            });
        }
        answer(asker, Status::Ok, columns, None, out);
    }
}
