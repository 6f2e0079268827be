//! Commands of a pool, as tables.

use super::*;
use raft::StateMachine;

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 16])
}
fn pool_with(label: &str) -> PoolState {
    let mut pool = PoolState::empty(PoolId::from_bytes([9; 16]));
    let servers = vec![PoolServer { rank: Rank(0), fault_path: "/server0".into(), targets: 2, weight: 1 }];
    let create =
        PoolCommand::Create { label: "tank".into(), bytes_per_target: 1 << 30, servers, properties: vec![], acl: None };
    pool.apply(create).unwrap();
    pool.apply(create_container(1, label)).unwrap();
    pool.apply(PoolCommand::ContainerCreated { id: id(1) }).unwrap();
    pool
}
fn create_container(n: u8, label: &str) -> PoolCommand {
    PoolCommand::CreateContainer {
        id: id(n),
        label: Some(Label::parse(label).unwrap()),
        layout: Layout::Posix,
        created: Epoch(5),
        properties: vec![],
        attributes: vec![],
        acl: None,
    }
}

#[test]
fn ids_are_handed_out_once_and_above_the_reserved_ones() {
    let mut pool = pool_with("home");
    let mut take = |count| pool.apply(PoolCommand::AllocateObjectIds { id: id(1), count });
    assert_eq!(take(10), Ok(PoolDone::Ids { first: FIRST_OBJECT_ID }));
    assert_eq!(take(1), Ok(PoolDone::Ids { first: FIRST_OBJECT_ID + 10 }));
    assert!(pool.apply(PoolCommand::AllocateObjectIds { id: id(1), count: u64::MAX }).is_err());
}

#[test]
fn snapshots_are_found_by_name_and_by_epoch() {
    let mut pool = pool_with("home");
    let snap = |epoch, name: &str| PoolCommand::CreateSnapshot { id: id(1), epoch: Epoch(epoch), name: name.into() };
    pool.apply(snap(10, "before")).unwrap();
    pool.apply(snap(20, "")).unwrap();
    assert_eq!(pool.apply(snap(30, "before")).unwrap_err().code, Code::Exists);
    assert_eq!(pool.find_snapshot(id(1), "before"), Ok(Epoch(10)));
    assert_eq!(pool.find_snapshot(id(1), "0x14"), Ok(Epoch(20)));
    assert_eq!(pool.find_snapshot(id(1), "befor").unwrap_err().remedy.unwrap(), "did you mean 'before'?");
    pool.apply(PoolCommand::DestroySnapshot { id: id(1), epoch: Epoch(10) }).unwrap();
    assert!(pool.find_snapshot(id(1), "before").is_err());
}

#[test]
fn a_refused_label_leaves_both_containers_as_they_were() {
    let mut pool = pool_with("home");
    pool.apply(create_container(2, "work")).unwrap();
    let rename = PoolCommand::SetContainerProperties { id: id(2), values: vec![("label".into(), "home".into())] };
    assert_eq!(pool.apply(rename).unwrap_err().code, Code::Exists);
    assert_eq!(pool.container(id(2)).unwrap().label.as_deref(), Some("work"));
}

#[test]
fn targets_of_a_lost_server_are_down_until_it_is_back_and_an_old_decision_does_nothing() {
    let mut pool = pool_with("home");
    let exclude = |version| PoolCommand::Exclude { version, ranks: vec![Rank(0)] };
    let states = |pool: &PoolState| pool.map().unwrap().targets().iter().map(|t| t.state()).collect::<Vec<_>>();
    let before = pool.version;
    pool.apply(exclude(1)).unwrap();
    assert_eq!(states(&pool), [placement::TargetState::Down; 2]);
    assert_eq!(pool.version, before + 1, "targets must hear of it");
    let down = pool.clone();
    pool.apply(exclude(1)).unwrap();
    pool.apply(exclude(2)).unwrap();
    assert_eq!(pool, down);
    pool.apply(PoolCommand::Reintegrate { version: 2, ranks: vec![Rank(0)] }).unwrap();
    assert_eq!(states(&pool), [placement::TargetState::Up(placement::CameFrom::Down); 2]);
    assert_eq!(PoolState::from_bytes(&pool.to_bytes()), Ok(pool), "the map's history is kept");
}

/// A change that is refused in its midst has changed nothing.
#[test]
fn a_refused_command_leaves_the_state_as_it_was() {
    let mut pool = pool_with("home");
    let before = pool.clone();
    let wrong = ("no such property".to_string(), "1".to_string());
    let values = vec![("space_rb".to_string(), "5".to_string()), wrong.clone()];
    assert!(pool.apply(PoolCommand::SetProperties { values }).is_err());
    let values = vec![("label".to_string(), "else".to_string()), wrong];
    assert!(pool.apply(PoolCommand::SetContainerProperties { id: id(1), values }).is_err());
    let attributes = vec![("a".to_string(), Bytes(vec![1])), (String::new(), Bytes(vec![1]))];
    assert!(pool.apply(PoolCommand::SetAttributes { id: id(1), attributes }).is_err());
    assert_eq!(pool, before);
}

#[test]
fn the_version_grows_with_what_targets_must_hear_of_and_only_then() {
    let mut pool = pool_with("home");
    let command = |name: &str, value: &str| PoolCommand::SetContainerProperties {
        id: id(1),
        values: vec![(name.to_string(), value.to_string())],
    };
    let cases: [(PoolCommand, u64); 6] = [
        (PoolCommand::AllocateObjectIds { id: id(1), count: 1 }, 0),
        (command("label", "house"), 0),
        (command("retention", "1h"), 1),
        (PoolCommand::Hold { id: id(1) }, 1),
        (PoolCommand::CreateSnapshot { id: id(1), epoch: Epoch(7), name: "a".into() }, 1),
        (PoolCommand::DestroyContainer { id: id(1), trouble: None }, 1),
    ];
    for (command, more) in cases {
        let before = pool.version;
        pool.apply(command.clone()).unwrap();
        assert_eq!(pool.version - before, more, "{command:?}");
        assert!(more == 0 || pool.containers[&id(1)].since == pool.version);
    }
}

#[test]
fn a_snapshot_ends_the_hold() {
    let mut pool = pool_with("home");
    pool.apply(PoolCommand::Hold { id: id(1) }).unwrap();
    assert!(pool.containers[&id(1)].is_held);
    pool.apply(PoolCommand::CreateSnapshot { id: id(1), epoch: Epoch(7), name: "a".into() }).unwrap();
    assert!(!pool.containers[&id(1)].is_held);
}

#[test]
fn a_state_of_another_release_is_refused_by_name() {
    let mut bytes = pool_with("home").to_bytes();
    assert_eq!(PoolState::from_bytes(&bytes).unwrap(), pool_with("home"));
    bytes[0] = 9;
    let error = PoolState::from_bytes(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "the version of the state has the unknown value 9");
}

fn acl(text: &str) -> Acl {
    text.replace(' ', "\n").parse().unwrap()
}
fn change_acl(container: Option<u8>, change: AclChange) -> PoolCommand {
    PoolCommand::ChangeAcl { container: container.map(id), change }
}

/// Of the pool and of a container, by the same words.
#[test]
fn a_list_is_overwritten_updated_and_loses_an_entry() {
    let mut pool = pool_with("home");
    assert_eq!(pool.acl, AclOf::Pool.default_acl());
    assert_eq!(pool.containers[&id(1)].acl, AclOf::Container.default_acl());
    let (version, since) = (pool.version, pool.containers[&id(1)].since);
    for container in [None, Some(1)] {
        let list = |pool: &PoolState| container.map_or(&pool.acl, |n| &pool.containers[&id(n)].acl).clone();
        let mut change = |change| {
            let done = pool.apply(change_acl(container, change));
            (done, list(&pool))
        };
        let first = acl("A::OWNER@:rw A::bob@:r A:G:GROUP@:r");
        assert_eq!(change(AclChange::Overwrite { acl: first.clone() }).1, first);
        let (_, updated) = change(AclChange::Update { acl: acl("A::bob@:rw A::EVERYONE@:t") });
        assert_eq!(updated, acl("A::OWNER@:rw A::bob@:rw A:G:GROUP@:r A::EVERYONE@:t"));
        let delete = || AclChange::Delete { principal: "u:bob@".parse().unwrap() };
        let (_, left) = change(delete());
        assert_eq!(left, acl("A::OWNER@:rw A:G:GROUP@:r A::EVERYONE@:t"));
        let (refused, after) = change(delete());
        let refused = refused.unwrap_err();
        assert_eq!((refused.code, after), (Code::NotFound, left));
        assert!(refused.message.contains("no entry for u:bob@") && refused.remedy.unwrap().contains("get-acl"));
        assert!(change(AclChange::Overwrite { acl: Acl::default() }).1.is_empty());
    }
    assert_eq!((pool.version, pool.containers[&id(1)].since), (version, since), "no target acts upon it");
    assert_eq!(
        pool.apply(change_acl(Some(9), AclChange::Update { acl: Acl::default() })).unwrap_err().code,
        Code::NotFound
    );
}

#[test]
fn a_pool_and_a_container_refuse_what_they_cannot_permit() {
    let mut pool = pool_with("home");
    let before = pool.clone();
    for (container, letter) in [(None, "T"), (None, "o"), (Some(1), "c")] {
        let wrong = acl(&format!("A::bob@:r{letter}"));
        for change in [AclChange::Overwrite { acl: wrong.clone() }, AclChange::Update { acl: wrong.clone() }] {
            let refused = pool.apply(change_acl(container, change)).unwrap_err();
            assert_eq!(refused.code, Code::Invalid);
            assert!(refused.message.contains(&format!("'{letter}'")), "{refused}");
        }
    }
    let PoolCommand::CreateContainer { id: two, label, layout, created, properties, attributes, .. } =
        create_container(2, "work")
    else {
        panic!("it makes one")
    };
    let with = |list| PoolCommand::CreateContainer {
        id: two,
        label: label.clone(),
        layout,
        created,
        properties: properties.clone(),
        attributes: attributes.clone(),
        acl: Some(acl(list)),
    };
    assert_eq!(pool.apply(with("A::bob@:c")).unwrap_err().code, Code::Invalid);
    assert_eq!(pool, before);
    pool.apply(with("A::bob@:d")).unwrap();
    assert_eq!(pool.containers[&two].acl, acl("A::bob@:d"));
}

#[test]
fn a_container_gets_another_owner_and_keeps_what_is_not_named() {
    let mut pool = pool_with("home");
    let own = |user: Option<&str>, group: Option<&str>| PoolCommand::SetOwner {
        id: id(1),
        user: user.map(|name| name.parse().unwrap()),
        group: group.map(|name| name.parse().unwrap()),
    };
    for (command, owner, group) in [
        (own(Some("ann@"), None), "ann@", ""),
        (own(None, Some("staff@")), "ann@", "staff@"),
        (own(Some("bob@"), Some("dev@")), "bob@", "dev@"),
    ] {
        pool.apply(command).unwrap();
        let owned = pool.containers[&id(1)].owned_acl();
        assert_eq!((owned.owner.as_str(), owned.group.as_str()), (owner, group));
    }
    // It is a property, which is set in one way alone.
    let values = vec![("owner".to_string(), "eve@".to_string())];
    let refused = pool.apply(PoolCommand::SetContainerProperties { id: id(1), values }).unwrap_err();
    assert_eq!(refused.code, Code::NoPermission);
    assert!(refused.message.contains("set-owner"), "{refused}");
}

/// However many containers have however long lists, the state stays within what a snapshot of it may have.
#[test]
fn the_lists_of_a_pool_are_bounded_together() {
    let mut pool = pool_with("home");
    let long = |letters: &str| acl(&(0..240).map(|n| format!("A::{n:0>250}@:{letters} ")).collect::<String>());
    let mut n = 0;
    let full = loop {
        n += 1;
        if n > 1 {
            pool.apply(PoolCommand::CreateContainer {
                id: id(n),
                label: None,
                layout: Layout::Posix,
                created: Epoch(5),
                properties: vec![],
                attributes: vec![],
                acl: None,
            })
            .unwrap();
        }
        let change = AclChange::Overwrite { acl: long("r") };
        if let Err(error) = pool.apply(change_acl(Some(n), change)) {
            break error;
        }
    };
    assert_eq!(full.code, Code::Quota);
    assert!((130..140).contains(&n), "8 MiB have room for some 130 lists of 62 KB: {n}");
    assert_eq!(pool.apply(change_acl(Some(1), AclChange::Update { acl: long("rw") })).unwrap_err().code, Code::Quota);
    pool.apply(change_acl(Some(1), AclChange::Overwrite { acl: acl("A::OWNER@:rw") })).unwrap();
    pool.apply(change_acl(Some(2), AclChange::Update { acl: long("rw") })).unwrap();
}
