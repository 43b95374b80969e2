//! A head that runs alone with copies on sleds, and who may take over from them: P-30, MA-20, `SoloByLeave`.

use palisade_protocol::wire::{Assignment, Member};

use super::propose::wish;
use super::*;
use crate::config::Solo;

impl<S: Store> Rack<S> {
    fn policy(&mut self, solo: Solo) {
        let request = VolumeRequest { solo, ..request("vol0") };
        let changes = self.authority.create_volume(&request).expect("its policy changes");
        self.carry_out(changes);
    }

    /// Both heads are up and serve; what came back counts as refilled.
    fn pair(&mut self) -> Assignment {
        self.boot("head-1", 1);
        let pair = self.boot("head-2", 2).assignments[0].clone();
        self.served(&pair);
        pair
    }

    fn served(&mut self, pair: &Assignment) {
        let changes = self.authority.served(pair.members[0].head, pair.stamp);
        self.carry_out(changes);
    }

    /// A member of the newest pair goes on alone.
    fn goes_alone(&mut self, name: &str, boot: u128, nonce: u64) -> Assignment {
        let newest = self.newest();
        let head = self.head(name);
        let me: Vec<Member> = newest.members.iter().copied().filter(|member| member.head == head).collect();
        let verdict = self.authority.propose(head, BootId(boot), &wish(&newest, &me, nonce), 0);
        self.carry_out(verdict.changes);
        self.newest()
    }

    fn newest(&self) -> Assignment {
        let volume = self.authority.volume_by_name("vol0").expect("it is there");
        volume.assignment().expect("it was granted")
    }

    fn salvages(&mut self) -> Result<Assignment, RoleError> {
        let changes = self.authority.salvage("vol0", "its lone head is gone", |_| true)?;
        self.carry_out(changes);
        Ok(self.newest())
    }
}

fn heads(pair: &Assignment) -> Vec<NodeId> {
    pair.members.iter().map(|member| member.head).collect()
}

fn rack(solo: Solo) -> (Rack<Memory>, Assignment) {
    let mut rack = Rack::full();
    rack.policy(solo);
    let pair = rack.pair();
    (rack, pair)
}

#[test]
fn p30_the_policy_at_the_grant_says_whether_a_lone_head_makes_copies() {
    for (solo, copies) in [(Solo::Wait, false), (Solo::Sleds, true), (Solo::Local, false)] {
        let (mut rack, pair) = rack(solo);
        assert!(!pair.copies && pair.salvage.is_none(), "a pair makes none");
        let alone = rack.goes_alone("head-1", 1, 1);
        assert_eq!((alone.members.len(), alone.copies, alone.salvage), (1, copies, None));
        // What changes while it is alone counts from the next group of several on.
        rack.policy(Solo::Sleds);
        let again = rack.boot("head-1", 5).assignments[0].clone();
        assert_eq!((again.members.len(), again.copies), (1, copies));
        assert_eq!(rack.salvages().is_ok(), copies, "what has no copies is not salvaged");
    }
}

#[test]
fn ma20_a_former_full_member_takes_over_and_the_order_to_read_the_copies_outlives_restarts() {
    let (mut rack, pair) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    // The other one comes back behind the lone head, which is gone by then.
    let back = rack.boot("head-2", 4).assignments[0].clone();
    assert_eq!(heads(&back), heads(&pair), "it joins");
    assert!(!back.copies && back.salvage.is_none());
    let heir = rack.salvages().expect("it was a full member");
    assert_eq!(heads(&heir), [pair.members[1].head]);
    assert_eq!((heir.copies, heir.salvage), (true, Some(pair.stamp.number)));
    assert_eq!(heir.members[0].boot, BootId(4));
    // It dies before it has read all: the next number says so, too, also from the store.
    let again = rack.boot("head-2", 6).assignments[0].clone();
    assert_eq!((again.copies, again.salvage), (true, Some(pair.stamp.number)));
    let reloaded = Rack::on(rack.store.clone());
    assert_eq!(reloaded.newest(), again);
    rack.served(&again);
    let last = rack.boot("head-2", 7).assignments[0].clone();
    assert_eq!((last.copies, last.salvage), (true, None), "its own log has it all now");
    let other = rack.boot("head-1", 8).assignments[0].clone();
    assert_eq!((heads(&other).len(), other.salvage), (2, None));
    rack.served(&other);
    assert!(rack.authority.volume_by_name("vol0").expect("there").alone.is_none());
    assert_eq!(rack.salvages(), Err(RoleError::NoCopies("vol0".to_owned())), "two have everything");
}

#[test]
fn ma20_the_lone_heads_own_log_needs_no_copies_when_it_comes_back_in_time() {
    let (mut rack, pair) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    rack.boot("head-2", 4);
    rack.salvages().expect("it was a full member");
    let both = rack.boot("head-1", 5).assignments[0].clone();
    assert_eq!(heads(&both), [pair.members[1].head, pair.members[0].head], "it follows from now on");
    assert_eq!((both.copies, both.salvage), (false, None));
    // Gone again before that group served: the copies are needed after all.
    let alone = rack.goes_alone("head-2", 4, 1);
    assert_eq!((alone.copies, alone.salvage), (true, Some(pair.stamp.number)));
}

#[test]
fn p03_only_who_was_full_with_the_log_it_had_salvages() {
    let (mut rack, pair) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    let away = |_: &MemberRecord| false;
    assert_eq!(
        rack.authority.salvage("vol0", "", away),
        Err(RoleError::NoHeir("vol0".to_owned())),
        "nobody is there"
    );
    assert_eq!(rack.authority.salvage("vol7", "", |_| true), Err(RoleError::NoVolume("vol7".to_owned())));
    let lone = rack.newest().members[0];
    assert_eq!(lone.head, pair.members[0].head);
    let changes = rack.authority.set_draining("head-2", true).expect("a head");
    rack.carry_out(changes);
    assert_eq!(rack.salvages(), Err(RoleError::NoHeir("vol0".to_owned())), "it is being drained");
}

#[test]
fn ma21_who_came_back_and_was_not_refilled_salvages_from_the_old_pair_on() {
    let (mut rack, pair) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    rack.boot("head-2", 4);
    // The lone head restarts, and they begin once more: still nobody is refilled.
    rack.boot("head-1", 5);
    let heir = rack.salvages().expect("it was a full member");
    assert_eq!((heads(&heir), heir.salvage), (vec![pair.members[1].head], Some(pair.stamp.number)));
}

/// Three heads; the first one alone, with copies, after a group in which it may have served with `back`.
fn parted_again(back: &[(&str, u128)]) -> (Rack<Memory>, Assignment) {
    let mut rack = Rack::new();
    for name in ["head-1", "head-2", "head-3"] {
        rack.declare(name, Role::Head, name, format!("{name}/log"), 0);
    }
    let reserves = vec!["head-3".to_owned()];
    let wanted = VolumeRequest { reserves, solo: Solo::Sleds, ..request("vol0") };
    let changes = rack.authority.create_volume(&wanted).expect("made");
    rack.carry_out(changes);
    for (boot, name) in (1..).zip(["head-1", "head-2", "head-3"]) {
        rack.boot(name, boot);
    }
    let three = rack.newest();
    assert_eq!(three.members.len(), 3);
    rack.served(&three);
    rack.goes_alone("head-1", 1, 1);
    for (name, boot) in back {
        rack.boot(name, *boot);
    }
    assert_eq!(rack.newest().members.len(), 1 + back.len());
    rack.goes_alone("head-1", 1, 2);
    assert!(rack.newest().copies);
    (rack, three)
}

/// Head-1 and head-2 served together and nobody heard of it: what they acknowledged is in no copy, and head-3
/// lacks it.
#[test]
fn acked_is_durable_who_was_away_while_two_may_have_served_is_no_heir_p_30() {
    for back in [&[("head-2", 4)][..], &[("head-2", 4), ("head-3", 5)]] {
        let (mut rack, three) = parted_again(back);
        let second = rack.head("head-2");
        let third_alone = rack.authority.salvage("vol0", "", |member| member.head != second);
        assert_eq!(third_alone, Err(RoleError::NoHeir("vol0".to_owned())), "after {back:?}");
        let heir = rack.salvages().expect("it served with the lone head, or holds all that is in no copy");
        assert_eq!((heads(&heir), heir.salvage), (vec![second], Some(three.stamp.number)));
    }
}

#[test]
fn p30_a_head_that_was_emptied_to_be_filled_is_no_heir() {
    let (mut rack, pair) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    rack.boot("head-2", 4);
    let second = rack.head("head-2");
    let changes = rack.authority.cannot_follow(second, pair.stamp.partition);
    rack.carry_out(changes);
    assert_eq!(
        rack.salvages(),
        Err(RoleError::NoHeir("vol0".to_owned())),
        "the copies are not all that it lacks"
    );
    let first = rack.head("head-1");
    assert_eq!(
        rack.authority.cannot_follow(first, pair.stamp.partition).records,
        [],
        "the lone one is no heir"
    );
}

/// Head-2 was emptied by the lone head-1, which died, and nobody had heard of it when head-2 was to follow.
#[test]
fn p30_a_lone_head_that_is_back_leads_again_when_its_heir_holds_nothing() {
    let (mut rack, pair) = rack(Solo::Sleds);
    let partition = pair.stamp.partition;
    rack.goes_alone("head-1", 1, 1);
    rack.boot("head-2", 4);
    assert!(rack.authority.give_back(partition, "").is_err(), "nobody follows it yet");
    rack.salvages().expect("it was a full member, as far as is known");
    assert!(rack.authority.give_back(partition, "").is_err(), "the lone head is not back");
    let both = rack.boot("head-1", 5).assignments[0].clone();
    assert_eq!(heads(&both), [pair.members[1].head, pair.members[0].head]);
    let changes = rack.authority.give_back(partition, "head-2 holds nothing").expect("it is back");
    rack.carry_out(changes);
    let alone = rack.newest();
    assert_eq!((heads(&alone), alone.copies, alone.salvage), (vec![pair.members[0].head], true, None));
    assert!(alone.stamp.number > both.stamp.number && alone.members[0].boot == BootId(5));
    assert_eq!(Rack::on(rack.store.clone()).newest(), alone);
    assert_eq!(
        rack.salvages(),
        Err(RoleError::NoHeir("vol0".to_owned())),
        "nobody else has what came before"
    );
    rack.boot("head-2", 6);
    assert_eq!(rack.newest().members.len(), 1, "it does not come back as who it was: it has to be filled");
}

/// Once the heir served, the lone head lacks what that acknowledged.
#[test]
fn p30_nothing_is_given_back_by_an_heir_that_served() {
    let (mut rack, _) = rack(Solo::Sleds);
    rack.goes_alone("head-1", 1, 1);
    let heir = rack.salvages().expect("it was a full member");
    rack.served(&heir);
    let both = rack.boot("head-1", 5).assignments[0].clone();
    assert_eq!(both.members.len(), 2);
    assert!(rack.authority.give_back(both.stamp.partition, "").is_err());
}

/// Head-1 alone with copies; `there` is whether it lives.
fn giving_up(rack: &Rack<Memory>, device: &str, there: bool) -> Result<(), DeviceError> {
    rack.authority.spares(device, |_| there)
}

#[test]
fn p30_no_device_is_given_up_that_copies_of_a_lone_head_which_is_away_depend_on() {
    let (mut rack, _) = rack(Solo::Sleds);
    assert_eq!(giving_up(&rack, "sled-1/0", false), Ok(()), "two have everything");
    rack.goes_alone("head-1", 1, 1);
    let why = giving_up(&rack, "sled-1/0", false).expect_err("a copy may be there").to_string();
    assert!(
        why.contains("head-1 served volume `vol0` alone") && why.contains("volume salvage vol0"),
        "{why}"
    );
    assert!(
        matches!(giving_up(&rack, "head-2/log", false), Err(DeviceError::Heir(..))),
        "who else reads them?"
    );
    assert_eq!(giving_up(&rack, "head-1/log", false), Ok(()), "what it had is in the copies");
    for device in ["sled-1/0", "head-2/log"] {
        assert_eq!(giving_up(&rack, device, true), Ok(()), "{device}: the lone head has it all");
    }
    // Head-2 takes over and is away in its turn: until it has read the copies, they are needed.
    let heir = rack.salvages().expect("it was a full member");
    assert!(giving_up(&rack, "sled-1/0", false).is_err());
    rack.served(&heir);
    let why = giving_up(&rack, "sled-1/0", false).expect_err("it makes copies of its own").to_string();
    assert!(why.contains("head-2 served volume"), "{why}");
}

#[test]
fn p30_a_group_that_makes_no_copies_needs_none() {
    let (mut rack, _) = rack(Solo::Local);
    rack.goes_alone("head-1", 1, 1);
    assert_eq!(giving_up(&rack, "sled-1/0", false), Ok(()));
    assert_eq!(giving_up(&rack, "head-2/log", false), Ok(()));
}
