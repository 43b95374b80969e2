//! What an I/O costs that can be counted without a clock: memory.

use palisade_dma::{BufMut, CountingAllocator, allocations};
use palisade_nvme_model::{Model, ModelConfig, Rig};
use palisade_runtime::block::{BlockCompletion, BlockOk, BlockPort, BlockRequest, BlockVerb};
use palisade_runtime::clock::Nanos;
use smallvec::smallvec;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn no_request_in_steady_state_allocates() {
    let config = ModelConfig { eager: true, null: true, volatile_cache: true, ..ModelConfig::default() };
    let mut rig = Rig::on(Model::new(config), Rig::options()).expect("starts");
    rig.turns(200);
    let mut bufs: Vec<BufMut> = (0..32).map(|_| rig.pool.alloc(4096).expect("slot")).collect();
    let block = rig.buf(&[1; 4096]);
    let mut out: Vec<BlockCompletion> = Vec::with_capacity(256);
    let mut counted = Vec::new();
    for round in 0..300u64 {
        let before = allocations();
        for (key, buf) in bufs.drain(..).enumerate() {
            let offset = (round + key as u64) % 4000 * 4096;
            rig.driver.submit(BlockRequest { key: key as u64, verb: BlockVerb::Read { offset, buf } });
            let (bufs, fua) = (smallvec![block.clone(), block.clone()], key % 2 == 0);
            rig.driver.submit(BlockRequest { key: 100, verb: BlockVerb::Write { offset, bufs, fua } });
        }
        rig.driver.submit(BlockRequest { key: 101, verb: BlockVerb::Flush });
        // More than the queue is deep: some wait for a place.
        while rig.driver.in_flight() > 0 {
            rig.driver.kick();
            rig.driver.poll(rig.now, &mut out);
        }
        let after = allocations();
        assert_eq!(out.len(), 65);
        bufs.extend(out.drain(..).filter_map(|done| match done.result {
            Ok(BlockOk::Read(buf)) => Some(buf),
            other => {
                assert!(other.is_ok());
                None
            }
        }));
        counted.push(after - before);
        rig.now = Nanos(rig.now.0 + 1_000);
    }
    assert_eq!(counted.iter().sum::<u64>(), 0, "{counted:?}");
    let before = allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(allocations() - before, 1, "the allocator counts");
}
