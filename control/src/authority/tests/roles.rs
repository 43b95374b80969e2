//! Roles that moved: boots follow them, people move them (EF-28), deletion and older stores know them.

use super::*;

fn current(rack: &Rack<Memory>) -> Vec<String> {
    let volume = rack.authority.volumes().next().expect("there");
    volume.current().into_iter().map(|head| rack.authority.name_of(head)).collect()
}

/// Both heads up, then vol0 moved to head-2.
fn moved() -> (Rack<Memory>, Changes) {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let changes = rack.authority.switch_over("vol0", "planned").expect("a whole pair");
    let changes = rack.carry_out(changes);
    (rack, changes)
}

#[test]
fn ef28_a_switch_over_turns_the_roles_under_the_next_number() {
    let (rack, changes) = moved();
    assert_eq!(current(&rack), ["head-2", "head-1"]);
    let pair = &changes.assignments[0];
    assert_eq!(pair.stamp.number.counter, 2);
    assert_eq!(pair.members.len(), 2, "nobody leaves: it is a flip (MA-16)");
    assert_eq!(changes.created, [pair.stamp.partition], "who exports it changes");
    let [moved] = changes.moves.as_slice() else { panic!("one move") };
    let (first, second) = (rack.head("head-1"), rack.head("head-2"));
    assert_eq!(
        (moved.from.as_slice(), moved.to.as_slice()),
        ([first, second].as_slice(), [second, first].as_slice())
    );
    assert_eq!((moved.number, moved.why.as_str()), (pair.stamp.number, "planned"));
}

#[test]
fn ef28_a_head_that_starts_comes_back_into_the_role_that_it_has_now() {
    let (mut rack, _) = moved();
    for (boot, name) in [(3, "head-1"), (4, "head-2"), (5, "head-1")] {
        let changes = rack.boot(name, boot);
        assert_eq!(changes.assignments.len(), 1);
        assert_eq!(changes.moves, [], "a restart moves no role");
        assert_eq!(current(&rack), ["head-2", "head-1"], "though the file declares head-1");
    }
    assert_eq!(
        rack.authority.create_volume(&request("vol0")),
        Ok(Changes::default()),
        "the file is still right"
    );
    let spec = rack.authority.partition(PartitionId(1)).expect("there");
    assert_eq!((spec.primary, spec.secondary), (rack.head("head-2"), Some(rack.head("head-1").0)));
}

#[test]
fn a_switch_over_needs_a_whole_pair_of_present_boots() {
    let mut rack = Rack::full();
    let none = RoleError::NoVolume("other".to_owned());
    assert_eq!(rack.authority.switch_over("other", "planned"), Err(none));
    assert!(matches!(rack.authority.switch_over("vol0", "planned"), Err(RoleError::NoPeer(_))));
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let changes = rack.authority.set_draining("head-2", true).expect("known");
    rack.carry_out(changes);
    assert!(matches!(rack.authority.switch_over("vol0", "planned"), Err(RoleError::Draining(..))));
    assert!(matches!(rack.authority.set_draining("sled-1", true), Err(RoleError::NoHead(_))));
}

#[test]
fn a_drained_head_takes_no_new_volume_and_keeps_its_roles_when_it_is_resumed() {
    let (mut rack, _) = moved();
    let changes = rack.authority.set_draining("head-1", true).expect("known");
    rack.carry_out(changes);
    assert_eq!(rack.authority.set_draining("head-1", true), Ok(Changes::default()));
    let refused = rack.authority.create_volume(&request("vol1")).expect_err("refused").to_string();
    assert!(refused.contains("head-1` is being drained") && refused.contains("resume"), "{refused}");
    rack.boot("head-1", 3);
    assert_eq!(current(&rack), ["head-2", "head-1"], "it goes on to follow");
    let changes = rack.authority.set_draining("head-1", false).expect("known");
    rack.carry_out(changes);
    assert_eq!(current(&rack), ["head-2", "head-1"], "EF-28: nothing moves back");
    assert!(rack.authority.create_volume(&request("vol1")).is_ok());
}

#[test]
fn a_volume_is_deleted_by_the_head_that_has_it_now() {
    let (mut rack, _) = moved();
    let changes = rack.authority.delete_volume("vol0").expect("there");
    let changes = rack.carry_out(changes);
    let (first, second, id) = (rack.head("head-1"), rack.head("head-2"), PartitionId(1));
    assert_eq!(changes.deleting, [(second, id)]);
    assert_eq!(rack.authority.volume_deleted(first, id), Changes::default());
    let changes = rack.authority.volume_deleted(second, id);
    assert_eq!(rack.carry_out(changes).deleting, [(first, id)]);
}

#[test]
fn a_store_of_before_roles_moved_is_read_and_is_marked_with_the_next_grant() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let old: Vec<(String, Record)> = rack
        .store
        .load()
        .expect("readable")
        .into_iter()
        .map(|(key, record)| {
            let mut json = serde_json::to_value(&record).expect("JSON");
            let fields = json.as_object_mut().expect("a record");
            for new in ["solo", "left", "permissions", "moved_ms", "draining"] {
                fields.remove(new);
            }
            if key == "meta" {
                fields.insert("format".to_owned(), 1.into());
            }
            (key, serde_json::from_value(json).expect("an old record is read"))
        })
        .collect();
    rack.authority = Authority::load(old).expect("an old store is read");
    assert_eq!(rack.authority.meta().format, 1);
    let node = rack.head("head-1");
    let changes = rack.authority.boot(node, BootId(3), log_of(node), &[]).expect("granted");
    rack.authority.apply(&changes);
    assert_eq!(rack.authority.meta().format, 2, "an older program would forget who serves what");
    assert_eq!(changes.assignments[0].members.len(), 2);
}
