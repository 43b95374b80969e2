//! What the log must hold, and a look at all of it.

use super::*;

/// What a history of operations leaves at each block: the operation, `None` for zeroes.
pub type Contents = BTreeMap<u64, (Op, bool)>;

impl Rig {
    /// What the history leaves: newest operation per block and whether it is data.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        for (op, body) in self.history.range(..=self.committed) {
            match body {
                Body::Write { lba, crcs, .. } => {
                    for i in 0..crcs.len() as u64 {
                        contents.insert(lba.0 + i, (*op, true));
                    }
                }
                Body::Clear { lba, count } => {
                    for i in 0..u64::from(*count) {
                        contents.insert(lba.0 + i, (*op, false));
                    }
                }
                _ => {}
            }
        }
        contents
    }

    /// Every block reads as the history says (NewestWins, ReleaseLast, NothingSilent).
    pub fn check(&self) {
        let contents = self.contents();
        for lba in 0..self.blocks {
            let lba = Lba(lba);
            let mapping = self.index().get(lba);
            let bytes = match mapping.loc {
                Loc::Hole | Loc::Cleared | Loc::Lost => None,
                Loc::Log(addr) => Some(match self.log.cached(addr, 1) {
                    Some(hot) => hot.to_vec(),
                    None => self.mem.bytes[addr.offset() as usize..][..BLOCK].to_vec(),
                }),
                Loc::Extent { slot, block } => {
                    let id = self.index().extent(slot).expect("an extent behind each slot").desc.id;
                    Some(self.extents[&(id, block)].clone())
                }
            };
            match (contents.get(&lba.0), bytes) {
                (Some((op, true)), Some(bytes)) => {
                    assert_eq!(mapping.op, *op, "newest operation of {lba:?}");
                    assert_eq!(crc32c(&bytes), mapping.crc, "checksum of {lba:?} at {:?}", mapping.loc);
                    assert_eq!(bytes, pattern(*op, lba), "contents of {lba:?}");
                }
                (None | Some((_, false)), None) => {}
                (want, got) => {
                    panic!("{lba:?}: history says {want:?}, index {mapping:?} ({})", got.is_some())
                }
            }
        }
        self.check_extents();
    }

    /// Live counts of extents equal what the index refers to.
    fn check_extents(&self) {
        let mut seen: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for lba in 0..self.blocks {
            if let Loc::Extent { slot, block } = self.index().get(Lba(lba)).loc {
                assert!(seen.entry(slot).or_default().insert(block), "one block, one owner");
            }
        }
        for (slot, extent) in self.index().extents() {
            let live = seen.remove(&slot).unwrap_or_default();
            assert_eq!(extent.live as usize, live.len());
            let mut listed = Vec::new();
            self.index().live_blocks(slot, &mut listed);
            assert!(listed.iter().map(|(block, _)| *block).eq(live));
        }
        assert!(seen.is_empty(), "no entry names a released extent");
    }
}
