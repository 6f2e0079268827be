//! What the system's state takes, and what it refuses.

use super::*;
use raft::StateMachine;
use wire::encoding::Bytes32;

fn system() -> SystemState {
    let mut system = SystemState::empty();
    let id = SystemId::from_bytes([7; 16]);
    system.apply(SystemCommand::Form { name: "daos_server".into(), id }).unwrap();
    system
}
fn id(n: u8) -> PoolId {
    PoolId::from_bytes([n; 16])
}
fn create(n: u8, label: &str) -> SystemCommand {
    SystemCommand::CreatePool {
        id: id(n),
        label: Label::parse(label).unwrap(),
        bytes_per_target: 1,
        servers: vec![Rank(0)],
        maker: Rank(0),
        properties: vec![],
        acl: None,
    }
}
fn hash(n: u8) -> Hash {
    Bytes32([n; 32])
}
fn join(server: u8, token: Option<u8>, incarnation: u64, now: u64) -> SystemCommand {
    SystemCommand::Join {
        server: ServerId::from_bytes([server; 16]),
        token: token.map(hash),
        address: format!("mem://{server}"),
        fault_path: String::new(),
        targets: 2,
        incarnation,
        now,
    }
}
fn token(n: u8) -> SystemCommand {
    SystemCommand::AddToken { hash: hash(n), expires: 100, now: 1 }
}

#[test]
fn a_pool_is_found_by_label_or_uuid_once_it_is_ready() {
    let mut system = system();
    system.apply(create(1, "tank")).unwrap();
    assert_eq!(system.find("tank").unwrap_err().code, Code::NotFound);
    system.apply(SystemCommand::PoolCreated { id: id(1) }).unwrap();
    assert_eq!(system.find("tank"), Ok(id(1)));
    assert_eq!(system.find(&id(1).to_string()), Ok(id(1)));
    let error = system.find("tnak").unwrap_err();
    assert_eq!(error.remedy.as_deref(), Some("did you mean 'tank'?"));
}

#[test]
fn the_list_of_a_pool_is_the_systems_until_the_pool_is_made() {
    let mut system = system();
    let with = |list: &str| {
        let mut command = create(1, "tank");
        if let SystemCommand::CreatePool { acl, .. } = &mut command {
            *acl = list.parse().ok();
        }
        command
    };
    assert_eq!(system.apply(with("A::bob@:T")).unwrap_err().code, Code::Invalid);
    system.apply(with("A::bob@:t")).unwrap();
    assert!(system.pools[&id(1)].acl.is_some());
    system.apply(SystemCommand::PoolCreated { id: id(1) }).unwrap();
    assert_eq!(system.pools[&id(1)].acl, None);
}

#[test]
fn two_pools_never_share_a_label() {
    let mut system = system();
    system.apply(create(1, "tank")).unwrap();
    assert_eq!(system.apply(create(2, "tank")).unwrap_err().code, Code::Exists);
    system.apply(create(2, "bay")).unwrap();
    let relabel = SystemCommand::RelabelPool { id: id(2), label: Label::parse("tank").unwrap() };
    assert_eq!(system.apply(relabel).unwrap_err().code, Code::Exists);
    let same = SystemCommand::RelabelPool { id: id(2), label: Label::parse("bay").unwrap() };
    assert!(system.apply(same).is_ok());
}

#[test]
fn a_creation_that_was_given_up_stays_so() {
    let mut system = system();
    system.apply(create(1, "tank")).unwrap();
    let full = Error::new(Code::NoSpace, "full");
    system.apply(SystemCommand::DestroyPool { id: id(1), trouble: Some(full.clone()) }).unwrap();
    system.apply(SystemCommand::PoolCreated { id: id(1) }).unwrap();
    system.apply(SystemCommand::DestroyPool { id: id(1), trouble: None }).unwrap();
    assert_eq!((system.pools[&id(1)].phase, system.pools[&id(1)].trouble.clone()), (Phase::Destroying, Some(full)));
}

/// The first server said nothing of where it stands, and the second was refused for ever because it did.
#[test]
fn a_server_that_holds_nothing_may_stand_elsewhere_when_it_is_back() {
    let mut system = system();
    let at = |server: u8, incarnation: u64, path: &str| match join(server, Some(server), incarnation, 5) {
        SystemCommand::Join { server, token, address, targets, incarnation, now, .. } => {
            let fault_path = path.to_string();
            SystemCommand::Join { server, token, address, fault_path, targets, incarnation, now }
        }
        other => other,
    };
    let stands = |system: &SystemState, rank: u32| system.members[&Rank(rank)].fault_path.clone();
    system.apply(at(10, 1, "")).unwrap();
    system.apply(token(11)).unwrap();
    assert_eq!(system.apply(at(11, 1, "/rack/b")).unwrap_err().code, Code::Invalid);
    system.apply(at(10, 2, "/rack/a")).unwrap();
    assert_eq!(stands(&system, 0), "/rack/a");
    system.apply(at(11, 1, "/rack/b")).unwrap();
    for (wanted, what) in [("/hall/rack/a", "others are not as deep"), ("rack", "no path"), ("", "nothing said")] {
        system.apply(at(10, 3, wanted)).unwrap();
        assert_eq!(stands(&system, 0), "/rack/a", "{what}");
    }
    system.apply(create(1, "tank")).unwrap();
    system.apply(at(10, 4, "/shed/a")).unwrap();
    assert_eq!(stands(&system, 0), "/rack/a", "a pool's data lies there");
    system.apply(at(11, 2, "/shed/b")).unwrap();
    assert_eq!(stands(&system, 1), "/shed/b", "no pool is there");
}

/// What is asked for a pool on rank 0 in a system of three, and what is said.
#[test]
fn a_pool_is_extended_by_servers_that_take_part_and_are_not_in_it_and_shrinks_to_one() {
    let mut system = system();
    system.apply(join(10, None, 1, 1)).unwrap();
    for n in 1..4 {
        system.apply(token(n)).unwrap();
        system.apply(join(10 + n, Some(n), 1, 1)).unwrap();
    }
    system.apply(SystemCommand::Lost { rank: Rank(3), incarnation: 1 }).unwrap();
    system.apply(create(1, "tank")).unwrap();
    let extend =
        |ranks: &[u32]| SystemCommand::ExtendPool { id: id(1), servers: ranks.iter().copied().map(Rank).collect() };
    assert_eq!(system.apply(extend(&[1])).unwrap_err().code, Code::Busy, "it is being made");
    system.apply(SystemCommand::PoolCreated { id: id(1) }).unwrap();
    for (ranks, code, cause) in [
        (&[1, 7][..], Code::NotFound, "no rank 7"),
        (&[1, 3], Code::Invalid, "rank 3 does not take part"),
        (&[1, 0], Code::Exists, "rank 0 is in pool 'tank'"),
        (&[], Code::Invalid, "no rank is named"),
    ] {
        let before = system.clone();
        let error = system.apply(extend(ranks)).unwrap_err();
        assert_eq!(error.code, code, "{ranks:?}");
        assert!(error.message.contains(cause) && error.remedy.is_some(), "{ranks:?}: {error}");
        assert_eq!(system, before, "{ranks:?}");
    }
    let version = system.version;
    assert_eq!(system.apply(extend(&[2, 1, 2])), Ok(SystemDone::Pool { id: id(1) }));
    assert_eq!(system.pools[&id(1)].servers, [0, 1, 2].map(Rank));
    assert_eq!(system.version, version + 1, "their agents must hear of it");
    let shrink =
        |ranks: &[u32]| SystemCommand::ShrinkPool { id: id(1), servers: ranks.iter().copied().map(Rank).collect() };
    for _ in 0..2 {
        assert_eq!(system.apply(shrink(&[1, 9])), Ok(SystemDone::Nothing));
        assert_eq!((&system.pools[&id(1)].servers[..], system.version), (&[0, 2].map(Rank)[..], version + 2));
    }
    let refused = system.apply(shrink(&[0, 2])).unwrap_err();
    assert!(refused.code == Code::Invalid && refused.remedy.is_some(), "{refused}");
    assert_eq!(system.pools[&id(1)].servers, [0, 2].map(Rank));
}

#[test]
fn who_is_stopped_is_so_until_it_is_started_or_starts_anew() {
    let mut system = system();
    system.apply(join(10, None, 1, 1)).unwrap();
    system.apply(token(1)).unwrap();
    system.apply(join(11, Some(1), 1, 50)).unwrap();
    let stop = |ranks: &[u32], stop| SystemCommand::Stop { ranks: ranks.iter().copied().map(Rank).collect(), stop };
    let state = |system: &SystemState, rank| system.members[&Rank(rank)].state;
    assert_eq!(system.apply(stop(&[7], true)).unwrap_err().code, Code::NotFound);
    system.apply(stop(&[1], true)).unwrap();
    let stopped = system.clone();
    system.apply(stop(&[1], true)).unwrap();
    system.apply(SystemCommand::Lost { rank: Rank(1), incarnation: 1 }).unwrap();
    assert_eq!(system, stopped);
    assert_eq!((state(&system, 0), state(&system, 1)), (MemberState::Joined, MemberState::Stopped));
    let error = system.apply(join(11, None, 1, 60)).unwrap_err();
    assert_eq!(error.code, Code::NoPermission, "it runs, and was told to wait");
    assert!(error.remedy.unwrap().contains("dmg system start --ranks 1"));
    system.apply(stop(&[1], false)).unwrap();
    assert!(system.is_joined(Rank(1)), "it need not say that it is there");
    // All of them; and a process that is started is meant to serve.
    system.apply(stop(&[], true)).unwrap();
    assert_eq!(system.joined().count(), 0);
    system.apply(join(10, None, 3, 80)).unwrap();
    assert!(system.is_joined(Rank(0)));
    system.apply(stop(&[], false)).unwrap();
    assert_eq!(system.joined().count(), 2);
}

/// What a server says when it comes, and what it is told.
#[test]
fn who_joins_needs_a_token_that_is_good() {
    let cases: [(&str, Option<u8>, u64, &str); 5] = [
        ("none", None, 50, "needs a token"),
        ("of nobody", Some(9), 50, "unknown"),
        ("used", Some(1), 50, "used by another"),
        ("old", Some(2), 100, "expired"),
        ("good", Some(2), 99, ""),
    ];
    let mut system = system();
    assert_eq!(system.apply(join(10, None, 1, 1)), Ok(SystemDone::Rank { rank: Rank(0) }), "the first needs none");
    system.apply(token(1)).unwrap();
    system.apply(token(2)).unwrap();
    assert_eq!(system.apply(join(11, Some(1), 1, 50)), Ok(SystemDone::Rank { rank: Rank(1) }));
    for (case, token, now, says) in cases {
        let before = system.clone();
        match system.apply(join(12, token, 1, now)) {
            Ok(done) => assert_eq!((done, says), (SystemDone::Rank { rank: Rank(2) }, ""), "{case}"),
            Err(error) => {
                assert!(!says.is_empty() && error.message.contains(says), "{case}: {error}");
                assert!(error.remedy.is_some_and(|text| text.contains("dmg system token")), "{case}");
                assert_eq!(system, before, "{case}: a refusal changes nothing");
            }
        }
    }
    assert_eq!(system.apply(join(11, None, 2, 500)), Ok(SystemDone::Rank { rank: Rank(1) }), "it is known");
}

#[test]
fn who_was_lost_is_in_again_when_it_starts_and_an_old_message_does_nothing() {
    let mut system = system();
    system.apply(join(10, None, 1, 1)).unwrap();
    system.apply(SystemCommand::Lost { rank: Rank(0), incarnation: 1 }).unwrap();
    assert_eq!(system.members[&Rank(0)].state, MemberState::Excluded);
    system.apply(join(10, None, 2, 2)).unwrap();
    assert!(system.is_joined(Rank(0)));
    let before = system.clone();
    system.apply(SystemCommand::Lost { rank: Rank(0), incarnation: 1 }).unwrap();
    system.apply(join(10, None, 1, 3)).unwrap();
    assert_eq!(system, before);
}

#[test]
fn an_administrators_exclusion_lasts_until_it_is_taken_back() {
    let mut system = system();
    system.apply(join(10, None, 1, 1)).unwrap();
    system.apply(token(1)).unwrap();
    system.apply(join(11, Some(1), 1, 50)).unwrap();
    let exclude =
        |ranks: &[u32], exclude| SystemCommand::Exclude { ranks: ranks.iter().copied().map(Rank).collect(), exclude };
    assert_eq!(system.apply(exclude(&[0, 1], true)).unwrap_err().code, Code::Invalid);
    assert_eq!(system.apply(exclude(&[7], true)).unwrap_err().code, Code::NotFound);
    system.apply(exclude(&[1], true)).unwrap();
    assert_eq!(system.apply(join(11, None, 2, 60)).unwrap_err().code, Code::NoPermission);
    system.apply(exclude(&[1], false)).unwrap();
    system.apply(join(11, None, 3, 60)).unwrap();
    assert!(system.is_joined(Rank(1)));
}
