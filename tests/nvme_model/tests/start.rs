//! Starting a controller: what is learned, what is refused, and waits that end (NVMe Base 2.0 section 3.5.1).

use palisade_nvme_model::{Faults, Model, ModelConfig, Rig, cap};
use palisade_runtime::block::nvme::{IdentifyError, NvmeDriver, NvmeError, NvmeOptions};
use palisade_runtime::block::{BlockFault, BlockPort};

fn refused(config: ModelConfig) -> NvmeError {
    Rig::on(Model::new(config), Rig::options()).err().expect("the controller is refused")
}

fn planted(plant: impl FnOnce(&mut Faults)) -> NvmeError {
    let model = Model::new(ModelConfig::default());
    model.plant(plant);
    Rig::on(model, Rig::options()).err().expect("the controller is refused")
}

#[test]
fn a_controller_starts_and_tells_what_it_is() {
    for (shift, cache) in [(9, false), (12, true)] {
        let config = ModelConfig { block_shift: shift, volatile_cache: cache, ..ModelConfig::default() };
        let mut rig = Rig::new(config);
        let info = rig.driver.info().clone();
        assert_eq!((info.bytes, info.block), (4096 << shift, 1 << shift));
        assert_eq!((info.volatile_cache, info.durable, info.direct), (cache, true, true));
        assert!(info.note.starts_with("Model disk S0000000000000000001 (firmware 1.0)"), "{}", info.note);
        assert_eq!(info.path, "nvme:model");
        assert_eq!(rig.driver.facts().transfer_max, Some(128 << 10));
        rig.turns(300);
        assert_eq!(rig.driver.health().map(|health| (health.kelvins, health.warnings)), Some((310, 0)));
        rig.check();
    }
}

#[test]
fn a_controller_that_is_running_is_reset_first() {
    let model = Model::new(ModelConfig::default());
    for starts in 1..4 {
        let mut rig = Rig::on(model.clone(), Rig::options()).expect("starts");
        let key = rig.write(0, &[7; 4096], false);
        assert_eq!(rig.wait(key), Ok(None));
        assert_eq!(model.starts(), starts);
        rig.check();
        std::mem::forget(rig.driver); // as after a kill -9: nobody has stopped it
    }
}

#[test]
fn waits_for_ready_end_after_the_time_that_cap_to_says() {
    let text = planted(|faults| faults.never_ready = true).to_string();
    assert!(text.contains("did not become ready within 2000 ms (CAP.TO)"), "{text}");
    let model = Model::new(ModelConfig { cap: cap(1023, 255, 0, 0), ..ModelConfig::default() });
    model.plant(|faults| faults.never_ready = true);
    let text = Rig::on(model, Rig::options()).err().expect("refused").to_string();
    assert!(text.contains("127500 ms"), "{text}");
    let model = Model::new(ModelConfig::default());
    std::mem::forget(Rig::on(model.clone(), Rig::options()).expect("starts").driver);
    model.plant(|faults| faults.never_stops = true);
    let text = Rig::on(model, Rig::options()).err().expect("refused").to_string();
    assert!(text.contains("did not stop within 2000 ms"), "{text}");
}

#[test]
fn a_fatal_or_silent_start_is_an_error() {
    assert!(matches!(planted(|faults| faults.fatal_start = true), NvmeError::Fatal { .. }));
    for opcode in [0x06, 0x09, 0x05, 0x01] {
        let error = planted(|faults| faults.silent_admin = Some(opcode));
        assert!(matches!(error, NvmeError::Silent { .. }), "{opcode:#x}: {error}");
        let error = planted(|faults| faults.refused_admin = Some((opcode, 0x4002)));
        let text = error.to_string();
        let is_queues = opcode == 0x09; // Set Features serves the number of queues and events
        assert!(matches!(error, NvmeError::Refused { .. }) && text.contains("invalid field"), "{text}");
        assert!(!is_queues || text.contains("number of queues"), "{text}");
    }
}

#[test]
fn nothing_is_begun_with_registers_that_cannot_be() {
    let with = |cap: u64, register_bytes: usize| {
        refused(ModelConfig { cap, register_bytes, ..ModelConfig::default() })
    };
    let sound = 16 << 10;
    assert!(matches!(with(u64::MAX, sound), NvmeError::Removed { .. }));
    assert!(matches!(with(cap(1023, 4, 0, 0) & !(1 << 37), sound), NvmeError::CommandSet { .. }));
    assert!(matches!(with(cap(1023, 4, 0, 5), sound), NvmeError::Page { shift: 17, .. }));
    assert!(matches!(with(cap(0, 4, 0, 0), sound), NvmeError::Queues { .. }));
    assert!(matches!(with(cap(1023, 4, 15, 0), sound), NvmeError::Registers { .. }));
    assert!(matches!(with(cap(1023, 4, 0, 0), 0x1004), NvmeError::Registers { .. }));
    let model = Model::new(ModelConfig::default());
    model.remove();
    let error = NvmeDriver::open(Box::new(model), &Rig::pool(), NvmeOptions::default());
    assert!(matches!(error, Err(NvmeError::Removed { .. })));
}

#[test]
fn hostile_identify_data_is_refused_with_what_and_why() {
    let ns = |patches: Vec<(usize, u8)>| {
        refused(ModelConfig { namespace_patches: patches, ..ModelConfig::default() })
    };
    for lbads in [0, 8, 13, 31, 63, 255] {
        let error = ns(vec![(130, lbads)]);
        assert!(error.to_string().contains("nvme format"), "{error}");
    }
    let empty = ns((0..8).map(|at| (at, 0)).collect());
    assert!(matches!(empty, NvmeError::Identify { source: IdentifyError::Empty(1), .. }));
    let huge = ns((0..8).map(|at| (at, 0xff)).collect());
    assert!(matches!(huge, NvmeError::Identify { source: IdentifyError::Size { .. }, .. }));
    assert!(ns(vec![(128, 8)]).to_string().contains("metadata"));
    let controller = |patches: Vec<(usize, u8)>| {
        refused(ModelConfig { controller_patches: patches, ..ModelConfig::default() })
    };
    let none = controller((516..520).map(|at| (at, 0)).collect());
    assert!(matches!(none, NvmeError::Identify { source: IdentifyError::NoNamespaces, .. }));
    assert!(controller(vec![(111, 2)]).to_string().contains("no I/O controller"));
    assert!(controller(vec![(512, 0)]).to_string().contains("SQES 0x00"));
}

#[test]
fn any_mdts_and_any_queue_size_are_lived_with() {
    for (mdts, mqes, mps) in [(0, 65_535, 0), (1, 1, 0), (255, 2, 0), (19, 63, 4), (1, 1023, 2)] {
        let cap = cap(mqes, 1, 1, mps);
        let mut rig = Rig::new(ModelConfig { mdts, cap, ..ModelConfig::default() });
        let bytes: Vec<u8> = (0..300_000u32 / 4096 * 4096).map(|i| (i / 7) as u8).collect();
        let key = rig.write(4096, &bytes, false);
        assert_eq!(rig.wait(key), Ok(None));
        let key = rig.read(4096, 200 << 10);
        assert!(rig.wait(key).expect("reads").expect("data") == bytes[..200 << 10]);
        rig.check();
    }
}

#[test]
fn the_namespace_is_the_first_or_the_named_one() {
    let config = ModelConfig { namespaces: vec![7, 9], ..ModelConfig::default() };
    let rig = Rig::on(Model::new(config.clone()), Rig::options()).expect("starts");
    assert_eq!(rig.driver.namespace().nsid, 7);
    let options = NvmeOptions { nsid: Some(8), ..Rig::options() };
    let error = Rig::on(Model::new(config), options).err().expect("refused").to_string();
    assert!(error.contains("namespace 8 is not active (active: [7, 9])"), "{error}");
    let none = refused(ModelConfig { namespaces: vec![], ..ModelConfig::default() });
    assert!(none.to_string().contains("nvme create-ns"), "{none}");
}

#[test]
fn a_device_that_is_pulled_out_at_any_moment_of_its_start_is_removed() {
    for turns in 0..40 {
        let model = Model::new(ModelConfig::default());
        let mut rig = Rig::start(model.clone(), Rig::options()).expect("begins");
        let mut ready = false;
        for _ in 0..turns {
            ready = rig.driver.bring_up(rig.now).expect("no error yet");
            model.step();
        }
        model.remove();
        let key = rig.read(0, 4096);
        rig.turns(200);
        assert!(matches!(rig.driver.bring_up(rig.now), Err(NvmeError::Removed { .. })), "after {turns}");
        let wanted = if ready { BlockFault::Gone } else { BlockFault::Range };
        assert_eq!(rig.wait(key), Err(wanted), "after {turns}");
    }
}

#[test]
fn shutting_down_tells_the_device_and_ends_the_driver() {
    let config = ModelConfig { eager: true, volatile_cache: true, ..ModelConfig::default() };
    let mut rig = Rig::new(config);
    let key = rig.write(0, &[5; 4096], false);
    assert_eq!(rig.wait(key), Ok(None));
    assert!(rig.driver.shut_down(std::time::Duration::from_secs(2)));
    let mut media = rig.model.media();
    media.lose_power(|_| false);
    assert_eq!(media.read(0)[0], 5, "a device that was shut down has written its cache back");
    let key = rig.read(0, 4096);
    assert_eq!(rig.wait(key), Err(BlockFault::Gone));
    assert!(rig.driver.is_gone());
}
