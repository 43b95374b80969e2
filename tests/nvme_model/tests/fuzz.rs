//! A hostile device, from fixed seeds: random capabilities, identify data, log pages and completions. Nothing
//! panics, reaches out of bounds or hangs, and every request is answered once. (What it does to bytes cannot be
//! judged: a device that lies about its completions may have done anything.)

use palisade_nvme_model::{Model, ModelConfig, Rig, cap};
use palisade_runtime::block::BlockPort;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

fn patches(random: &mut Xoshiro256PlusPlus, count: u32, interesting: &[usize]) -> Vec<(usize, u8)> {
    let values = [0, 1, 9, 12, 31, 63, 64, 127, 128, 255];
    (0..random.next_u32() % (count + 1))
        .map(|_| {
            let at = if !random.next_u32().is_multiple_of(4) {
                interesting[random.next_u32() as usize % interesting.len()]
            } else {
                random.next_u32() as usize % 4096
            };
            let value = values[random.next_u32() as usize % values.len()];
            (at, if random.next_u32() & 1 == 1 { value } else { random.next_u32() as u8 })
        })
        .collect()
}

/// A little work on whatever came up, until everything is answered.
fn work(rig: &mut Rig) {
    let (bytes, block) = (rig.driver.info().bytes, rig.driver.info().block as usize);
    for i in 0..20u64 {
        let offset = (i * block as u64) % bytes.max(1);
        rig.read(offset, block);
        rig.write(offset, &vec![i as u8; block], i % 2 == 0);
        rig.flush();
        if rig.driver.facts().deallocate {
            rig.deallocate(offset, block as u64);
        }
        rig.turn();
    }
    rig.drain();
}

#[test]
fn random_identify_data_and_capabilities_are_refused_or_served() {
    let (mut served, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let sound = random.next_u32() & 1 == 1;
        let mut config = ModelConfig { blocks: 256, delay_steps: 0, seed, ..ModelConfig::default() };
        let interesting = [77, 78, 92, 111, 256, 257, 258, 259, 512, 513, 516, 517, 519, 520, 525, 536, 540];
        config.controller_patches = patches(&mut random, 4, &interesting);
        let interesting = [0, 1, 2, 3, 4, 5, 6, 7, 25, 26, 27, 28, 29, 128, 129, 130, 131, 188, 190];
        config.namespace_patches = patches(&mut random, 3, &interesting);
        config.list_patches = patches(&mut random, 1, &[0, 1, 2, 3, 4, 8]);
        if !sound {
            config.cap = random.next_u64() | 1 << 37;
        } else {
            let small = |random: &mut Xoshiro256PlusPlus, most: u32| (random.next_u32() % most) as u8;
            let mqes = random.next_u32() as u16 >> (random.next_u32() % 16);
            config.cap = cap(mqes, small(&mut random, 4), small(&mut random, 12), small(&mut random, 6));
        }
        match Rig::on(Model::new(config), Rig::options()) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
            Ok(mut rig) => {
                work(&mut rig);
                served += 1;
            }
        }
    }
    assert!(served > 100 && refused > 100, "{served} served, {refused} refused");
}

#[test]
fn random_completions_hang_nobody_and_answer_everything_once() {
    let (mut bad, mut gone) = (0, 0);
    for seed in 0..400 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let config = ModelConfig { blocks: 256, delay_steps: 3, seed, ..ModelConfig::default() };
        let Ok(mut rig) = Rig::on(Model::new(config), Rig::options()) else { panic!("starts") };
        for round in 0..300u64 {
            if rig.driver.in_flight() < 60 {
                rig.read((round % 200) * 4096, 4096);
                rig.write((round % 199) * 4096, &[round as u8; 4096], false);
            }
            if random.next_u32().is_multiple_of(50) {
                // Half of them name identifiers that may be under way.
                let cid = if random.next_u32() & 1 == 1 { random.next_u64() % 64 } else { random.next_u64() };
                let status = random.next_u64() & 0xff >> (random.next_u32() % 8);
                let second = (cid & 0xffff) << 32 | status << 49 | u64::from(random.next_u32() % 2) << 16;
                let queue = (random.next_u32() % 2) as u16;
                rig.model.forge(queue, [random.next_u64(), second], !random.next_u32().is_multiple_of(4));
            }
            rig.turn();
        }
        rig.drain();
        bad += rig.driver.stats().bad_completions;
        gone += u32::from(rig.driver.is_gone());
    }
    assert!(bad > 100, "{bad} were found out");
    assert!(gone < 400, "most devices are served again");
}

#[test]
fn random_completions_during_the_start_hang_nobody() {
    let mut ready = 0;
    for seed in 0..500 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let model = Model::new(ModelConfig { blocks: 256, seed, ..ModelConfig::default() });
        let mut rig = Rig::start(model.clone(), Rig::options()).expect("begins");
        let mut turns = 0;
        let up = loop {
            match rig.driver.bring_up(rig.now) {
                Ok(true) => break true,
                Err(_) => break false,
                Ok(false) => {}
            }
            model.step();
            if random.next_u32().is_multiple_of(8) {
                let second = (random.next_u64() % 4) << 32 | (random.next_u64() & 0x82) << 49;
                model.forge(0, [random.next_u64(), second], true);
            }
            rig.now = rig.now + std::time::Duration::from_millis(1);
            turns += 1;
            assert!(turns < 60_000, "a start ends, seed {seed}");
        };
        if up {
            work(&mut rig);
            ready += 1;
        }
    }
    assert!(ready > 0 && ready < 500, "{ready}");
}

#[test]
fn floods_of_events_hold_up_nobody() {
    let mut rig = Rig::new(ModelConfig { blocks: 256, ..ModelConfig::default() });
    for i in 0..4000u32 {
        rig.model.raise(i as u8, (i >> 3) as u8, (i >> 5) as u8);
    }
    let bytes = vec![5; 4096];
    for i in 0..200u64 {
        let key = rig.write(i * 4096, &bytes, true);
        assert_eq!(rig.wait(key), Ok(None));
    }
    rig.turns(2000);
    rig.check();
}

#[test]
fn random_register_values_hang_nobody_and_answer_everything_once() {
    let (mut resets, mut served) = (0, 0);
    for seed in 0..300 {
        let model = Model::new(ModelConfig { blocks: 256, seed, ..ModelConfig::default() });
        model.plant(|faults| faults.chance.registers = 1 + seed as u32 % 300);
        let Ok(mut rig) = Rig::on(model, Rig::options()) else { continue };
        for i in 0..400u64 {
            if rig.driver.in_flight() < 60 {
                rig.read((i % 200) * 4096, 4096);
                rig.write((i % 199) * 4096, &[i as u8; 4096], i % 3 == 0);
            }
            rig.turn();
        }
        rig.drain();
        resets += rig.driver.stats().resets;
        served += u32::from(!rig.driver.is_gone());
    }
    assert!(resets > 100 && served > 10, "{resets} resets, {served} devices were served to the end");
}
