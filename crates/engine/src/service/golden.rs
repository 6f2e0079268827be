//! Golden bytes: what the states and commands of version 1 look like, kept under `golden/v1`. They lie in the logs and
//! snapshots of every server; a change of them is a new version of [`super::state::Format`].

use std::path::PathBuf;

use raft::StateMachine;
use types::{
    Acl, Code, ContainerId, Epoch, Error, Label, Layout, PoolId, PrincipalName, Rank, ServerId, SystemId, TargetIndex,
};
use wire::Wire;
use wire::control::{AclChange, TargetChange};
use wire::encoding::{Bytes, Bytes32};

use super::pool::{Finished, PoolCommand, PoolDone, PoolServer, PoolState, Rollback};
use super::system::{SystemCommand, SystemDone, SystemState};

/// Compares with the golden file `name`. `GOLDEN=write cargo test -p engine` writes missing ones.
fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(format!("{name}.hex"));
    let row = |row: &[u8]| row.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n";
    let text: String = bytes.chunks(16).map(row).collect();
    if std::env::var_os("GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no golden file {}", path.display()));
    assert_eq!(golden, text, "{name}: the format changed; a change needs a new version");
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("a literal")
}

fn acl(text: &str) -> Acl {
    text.parse().expect("a literal")
}

fn pairs(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_string(), value.to_string())]
}

/// Every command, in an order in which each is taken.
fn system_commands() -> Vec<SystemCommand> {
    let (one, two) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]));
    let join = |n: u8, token: Option<u8>| SystemCommand::Join {
        server: ServerId::from_bytes([n; 16]),
        token: token.map(|n| Bytes32([n; 32])),
        address: format!("tcp://node{n}:10001"),
        fault_path: format!("/rack{n}"),
        targets: 2,
        incarnation: 1,
        now: 5,
    };
    let create = |id, text| SystemCommand::CreatePool {
        id,
        label: label(text),
        bytes_per_target: 1 << 30,
        servers: vec![Rank(0), Rank(1)],
        maker: Rank(0),
        properties: pairs("space_rb", "5"),
        acl: Some(acl("A::OWNER@:rw\nA:G:staff@:rwcdt")),
    };
    vec![
        SystemCommand::Form { name: "daos_server".into(), id: SystemId::from_bytes([9; 16]) },
        join(1, None),
        SystemCommand::AddToken { hash: Bytes32([7; 32]), expires: 100, now: 5 },
        SystemCommand::AddToken { hash: Bytes32([8; 32]), expires: 100, now: 5 },
        join(2, Some(7)),
        SystemCommand::Lost { rank: Rank(1), incarnation: 1 },
        SystemCommand::Withdraw {
            rank: Rank(1),
            incarnation: 2,
            trouble: Error::new(Code::ClockOffset, "its clock is off"),
        },
        SystemCommand::Exclude { ranks: vec![Rank(1)], exclude: true },
        SystemCommand::Exclude { ranks: vec![Rank(1)], exclude: false },
        SystemCommand::Withdraw {
            rank: Rank(1),
            incarnation: 2,
            trouble: Error::new(Code::NoSpace, "its disk is full"),
        },
        SystemCommand::SetAttributes { attributes: pairs("a", "b") },
        SystemCommand::SetProperties { values: pairs("self_heal", "exclude;pool_exclude") },
        create(one, "tank"),
        SystemCommand::PoolCreated { id: one },
        SystemCommand::RelabelPool { id: one, label: label("bay") },
        SystemCommand::ResizePool { id: one, bytes_per_target: 2 << 30 },
        create(two, "tank"),
        SystemCommand::DestroyPool { id: two, trouble: Some(Error::new(Code::NoSpace, "full")) },
        create(PoolId::from_bytes([3; 16]), "gone"),
        SystemCommand::DestroyPool { id: PoolId::from_bytes([3; 16]), trouble: None },
        SystemCommand::PoolDestroyed { id: PoolId::from_bytes([3; 16]) },
        SystemCommand::AddToken { hash: Bytes32([6; 32]), expires: 100, now: 5 },
        join(3, Some(6)),
        SystemCommand::ExtendPool { id: one, servers: vec![Rank(2)] },
        SystemCommand::Stop { ranks: vec![Rank(2)], stop: true },
        SystemCommand::ShrinkPool { id: one, servers: vec![Rank(1)] },
        // Its list is in the state until the pool is made.
        create(PoolId::from_bytes([4; 16]), "dock"),
    ]
}

fn pool_commands() -> Vec<PoolCommand> {
    let (one, two) = (ContainerId::from_bytes([1; 16]), ContainerId::from_bytes([2; 16]));
    let server = |n: u32| PoolServer { rank: Rank(n), fault_path: format!("/rack{n}"), targets: 2, weight: 1 };
    let create = |id, text: Option<&str>| PoolCommand::CreateContainer {
        id,
        label: text.map(label),
        layout: Layout::Posix,
        created: Epoch(5),
        properties: pairs("retention", "1h"),
        attributes: vec![("a".into(), Bytes(vec![0, 255]))],
        acl: text.map(|_| acl("A::OWNER@:rwdtTaAo\nA::mallory@:\nA:G:staff@:r\nA::EVERYONE@:t")),
    };
    vec![
        PoolCommand::Create {
            label: "tank".into(),
            bytes_per_target: 1 << 30,
            servers: vec![server(0), server(1)],
            properties: pairs("space_rb", "5"),
            acl: None,
        },
        PoolCommand::Resize { bytes_per_target: 2 << 30 },
        PoolCommand::SetProperties { values: pairs("space_rb", "7") },
        PoolCommand::FollowPolicy { rebuild: false },
        create(one, Some("home")),
        PoolCommand::ContainerCreated { id: one },
        create(two, None),
        PoolCommand::DestroyContainer { id: two, trouble: Some(Error::new(Code::NoSpace, "full")) },
        PoolCommand::ContainerDestroyed { id: two },
        create(two, None),
        PoolCommand::SetContainerProperties { id: one, values: pairs("label", "house") },
        PoolCommand::SetAttributes { id: one, attributes: vec![("b".into(), Bytes(vec![1]))] },
        PoolCommand::DeleteAttributes { id: one, names: vec!["a".into()] },
        PoolCommand::Hold { id: one },
        PoolCommand::CreateSnapshot { id: one, epoch: Epoch(7), name: "monday".into() },
        PoolCommand::Hold { id: one },
        PoolCommand::LetGo { id: one },
        PoolCommand::CreateSnapshot { id: one, epoch: Epoch(8), name: String::new() },
        PoolCommand::DestroySnapshot { id: one, epoch: Epoch(8) },
        PoolCommand::Rollback { id: one, rollback: Rollback { to: Epoch(7), asked: Epoch(9) } },
        PoolCommand::RolledBack { id: one, asked: Epoch(9) },
        PoolCommand::Rollback { id: one, rollback: Rollback { to: Epoch(7), asked: Epoch(11) } },
        PoolCommand::AllocateObjectIds { id: one, count: 10 },
        PoolCommand::Exclude { version: 1, ranks: vec![Rank(1)] },
        PoolCommand::Reintegrate { version: 2, ranks: vec![Rank(1)] },
        PoolCommand::Reintegrated { version: 3, ranks: vec![Rank(1)] },
        PoolCommand::ChangeTargets {
            change: TargetChange::Drain,
            ranks: vec![Rank(1)],
            indices: vec![TargetIndex(1)],
            force: true,
        },
        PoolCommand::AddServers { servers: vec![server(2)] },
        PoolCommand::Extend { version: 6, ranks: vec![Rank(2)] },
        PoolCommand::Exclude { version: 7, ranks: vec![Rank(2)] },
        PoolCommand::Exclude { version: 8, ranks: vec![Rank(1)] },
        PoolCommand::Finish { version: 9, what: Finished::Rebuilt },
        PoolCommand::ChangeTargets {
            change: TargetChange::GiveUp,
            ranks: vec![Rank(1)],
            indices: vec![],
            force: false,
        },
        PoolCommand::UseWidths { widths: vec![2, 3] },
        PoolCommand::ChangeTargets {
            change: TargetChange::Drain,
            ranks: vec![Rank(0)],
            indices: vec![TargetIndex(1)],
            force: false,
        },
        PoolCommand::Rebuild { start: false },
        PoolCommand::ChangeAcl {
            container: None,
            change: AclChange::Overwrite { acl: acl("A::OWNER@:rw\nA::ann@:r\nA:G:GROUP@:rcd") },
        },
        PoolCommand::ChangeAcl {
            container: Some(one),
            change: AclChange::Update { acl: acl("A::ann@:rw\nA:G:staff@:rw") },
        },
        PoolCommand::ChangeAcl {
            container: Some(one),
            change: AclChange::Delete { principal: "EVERYONE@".parse().expect("a literal") },
        },
        PoolCommand::SetOwner { id: one, user: PrincipalName::parse("ann@").ok(), group: None },
    ]
}

/// Commands, their responses and the states they make; each is read back as it was.
#[test]
fn states_and_commands_have_their_golden_bytes() {
    fn play<S, D>(name: &str, mut state: S, commands: Vec<S::Command>)
    where
        S: StateMachine<Response = Result<D, Error>> + PartialEq + std::fmt::Debug,
        S::Command: Clone + PartialEq + std::fmt::Debug,
        D: Wire + PartialEq + std::fmt::Debug,
    {
        let (mut said, mut answered) = (Vec::new(), Vec::new());
        for command in commands {
            let bytes = command.to_bytes();
            assert_eq!(S::Command::from_bytes(&bytes).as_ref(), Ok(&command));
            said.extend(bytes);
            let done = state.apply(command.clone());
            assert!(done.is_ok(), "{command:?}: {done:?}");
            assert_eq!(Result::from_bytes(&done.to_bytes()).as_ref(), Ok(&done));
            answered.extend(done.to_bytes());
        }
        check(&format!("{name}_commands"), &said);
        check(&format!("{name}_responses"), &answered);
        check(&format!("{name}_state"), &state.to_bytes());
        assert_eq!(S::from_bytes(&state.to_bytes()), Ok(state));
    }
    play::<_, SystemDone>("system", SystemState::empty(), system_commands());
    play::<_, PoolDone>("pool", PoolState::empty(PoolId::from_bytes([5; 16])), pool_commands());
}
