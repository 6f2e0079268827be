//! Access control lists and owners, as commands of the services.

use types::{Acl, AclOf, Code};
use wire::Opcode;
use wire::control::{
    AclChange, ContainerChangeAcl, ContainerInfo, ContainerName, ContainerSetOwner, OwnedAcl, PoolChangeAcl,
    PoolCreate, PoolInfo,
};

use super::{Cluster, container, pool, run};

/// A list is changed once however often it is asked for, and over a restart: a repeat of what came before does not undo what came
/// after.
#[test]
fn access_control_lists_change_once_and_stay() {
    run(2, async |cluster: Cluster| {
        cluster.start(0, None).await.unwrap();
        let acl = |text: &str| text.replace(' ', "\n").parse::<Acl>().unwrap();
        let with = PoolCreate { acl: Some(acl("A::OWNER@:rw A::ann@:r")), ..pool("tank") };
        cluster.ask::<PoolInfo>(&[0], (7, 1), Opcode::PoolCreate, &with).await.unwrap();
        cluster.ask::<ContainerInfo>(&[0], (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
        let of_pool = |change| PoolChangeAcl { pool: "tank".into(), change };
        let of_box = |change| ContainerChangeAcl { pool: "tank".into(), container: "box".into(), change };
        let update = |text: &str| AclChange::Update { acl: acl(text) };
        let delete = |text: &str| AclChange::Delete { principal: text.parse().unwrap() };
        let ask_pool = async |number, change| {
            cluster.ask::<OwnedAcl>(&[0], (7, number), Opcode::PoolChangeAcl, &of_pool(change)).await
        };
        let ask_box = async |number, change| {
            cluster.ask::<OwnedAcl>(&[0], (7, number), Opcode::ContainerChangeAcl, &of_box(change)).await
        };
        assert_eq!(ask_pool(3, update("A::bob@:rw")).await.unwrap().acl, acl("A::OWNER@:rw A::ann@:r A::bob@:rw"));
        ask_box(4, update("A::EVERYONE@:r")).await.unwrap();
        let owner =
            ContainerSetOwner { pool: "tank".into(), container: "box".into(), user: "ann@".parse().ok(), group: None };
        cluster.ask::<()>(&[0], (7, 5), Opcode::ContainerSetOwner, &owner).await.unwrap();
        ask_pool(6, delete("u:bob@")).await.unwrap();
        ask_box(7, delete("EVERYONE@")).await.unwrap();
        cluster.crash(0);
        cluster.start(0, None).await.unwrap();
        // K5: each was done, and is not done again; what it is answered with is how it stands now.
        assert_eq!(ask_pool(3, update("A::bob@:rw")).await.unwrap().acl, acl("A::OWNER@:rw A::ann@:r"));
        assert_eq!(ask_pool(6, delete("u:bob@")).await.unwrap().acl, acl("A::OWNER@:rw A::ann@:r"));
        let held = ask_box(4, update("A::EVERYONE@:r")).await.unwrap();
        assert_eq!((held.owner.as_str(), held.acl), ("ann@", AclOf::Container.default_acl()));
        ask_box(7, delete("EVERYONE@")).await.unwrap();
        assert_eq!(ask_box(8, delete("EVERYONE@")).await.unwrap_err().code, Code::NotFound);
        let name = ContainerName { pool: "tank".into(), container: "box".into() };
        let held: OwnedAcl = cluster.ask(&[0], (0, 0), Opcode::ContainerGetAcl, &name).await.unwrap();
        assert_eq!(held.acl, AclOf::Container.default_acl());
    });
}
