//! A message of each kind, with something in every field.

use super::*;

pub(super) fn samples(check: &mut impl Check) {
    hello_samples(check);
    membership_samples(check);
    group_samples(check);
    copy_samples(check);
    peer_samples(check);
    control_samples(check);
    data_samples(check);
    check.one("error", Error::new(Code::NotFound, "no pool 'tank'").remedy("list pools with `dmg pool list`"));
}

/// An entry of every kind.
fn acl() -> Acl {
    "A::OWNER@:rw\nA::bob@:\nA:G:GROUP@:r\nA:G:staff@:rwcdt\nA::EVERYONE@:t".parse().unwrap()
}

fn peer_samples(check: &mut impl Check) {
    use wire::peer::*;
    let group = Bytes(vec![5; 16]);
    check.one("consensus", Consensus { group: group.clone(), message: Bytes(vec![1, 2]) });
    let body = Bytes(vec![1, 2, 3]);
    check.one("forward", Forward { session: 7, sequence: 8, opcode: 0x0110, hops: 1, body: body.clone() });
    check.one("propose", Propose { group: group.clone(), request: Some((7, 1)), command: body.clone() });
    let trouble = vec![(Some(container_id()), Error::new(Code::NoSpace, "full")), (None, Error::new(Code::Io, "bad"))];
    let filling =
        Filling { version: 3, groups: 40, left: 2, records: 9000, bytes: 1 << 30, same: 7000, anew: 1, spent_ms: 2500 };
    let placing = Placing { version: 3, digest: 0x0102_0304_0506_0708 };
    check.one("placing", placing);
    check.one(
        "report",
        Report {
            group,
            rank: Rank(2),
            said: (3, 5_000_000),
            version: 9,
            placing,
            filling: vec![filling],
            widths: vec![2, 3],
            trouble,
        },
    );
    check.one("filling", filling);
    check.one("reported", Reported { applied: 77 });
    let join = Join {
        server: ServerId::from_bytes([6; 16]),
        rank: Some(Rank(2)),
        token: text("00ff"),
        address: text("tcp://node2:10001"),
        fault_path: text("/rack1/node2"),
        targets: 8,
        incarnation: 3,
    };
    check.one("join", join);
    let joined = Joined {
        system: SystemId::from_bytes([7; 16]),
        name: text("daos_server"),
        rank: Rank(2),
        applied: 77,
        addresses: vec![(Rank(0), 4, text("tcp://node0:10001"))],
    };
    check.one("joined", joined);
    let address = Some((4, text("tcp://node2:10001")));
    check.one("gossip", Gossip { from: Rank(2), address, message: body.clone() });
    check.one("gossiped", Gossiped { received: 7, answered: 8 });
    check.one("server_storage", ServerStorage { devices: vec![] });
    check.one("server_space_query", ServerSpaceQuery { pool: pool_id() });
    check.one("server_log", ServerLog { masks: text("info") });
    let space = Space { total: 4, used: 3, metadata: 1, data: 2 };
    let (of, have) = (LogId { term: 3, index: 90 }, LogId { term: 2, index: 77 });
    check.one("log_id", of);
    let (group, leader, part) = (Bytes(vec![5; 16]), Some(Rank(1)), Some((of, 4096)));
    check.one("subscribe", Subscribe { group, have: Some(have), leader, part });
    let commands = Newer::Commands { to: of, commands: vec![body.clone()] };
    let voters = vec![(Rank(1), 4, text("tcp://node1:10001"))];
    check.one("told", Told { voters, leader, term: 3, newer: commands.clone() });
    check.one("newer-unknown", Newer::Unknown);
    check.one("newer-commands", commands);
    check.one("newer-whole", Newer::Whole { of, total: 9000, offset: 4096, bytes: body });
    check.one("server_space", ServerSpace { targets: vec![(space, false)] });
}

fn group_samples(check: &mut impl Check) {
    let peer = |rank| GroupPeer { rank: Rank(rank), target: TargetIndex(1) };
    let term = GroupTerm { interval: 0x0102, round: 3 };
    let change = GroupChange { term, number: 0x0405 };
    let decision = GroupDecision { change, is_committed: true };
    let work = GroupWork::Update { body: Bytes(vec![1, 2, 3]) };
    check.one("group_peer", peer(7));
    check.one("group_term", term);
    check.one("group_change", change);
    check.one("group_decision", decision);
    check.one("group_work-update", work.clone());
    check.one("group_work-punch", GroupWork::Punch { body: Bytes(vec![4]) });
    let members = vec![peer(7), peer(8)];
    let prepare =
        GroupPrepare { number: 9, epoch: Epoch(0x77), members: members.clone(), session: 5, sequence: 6, work };
    check.one("group_prepare", prepare.clone());
    let undecided = GroupUndecided { change, members };
    check.one("group_undecided", undecided.clone());
    let steps = [
        ("recover", GroupStep::Recover { since: 12 }),
        ("prepare", GroupStep::Prepare { change: prepare }),
        ("tell", GroupStep::Tell),
        ("wake", GroupStep::Wake),
        ("give_up", GroupStep::GiveUp),
    ];
    for (name, step) in steps {
        check.one(&format!("group_step-{name}"), step);
    }
    let request = GroupRequest {
        pool: PoolId::from_bytes([0xb0; 16]),
        group: 0x0503,
        map_version: 13,
        from: peer(7),
        term,
        decided: vec![decision],
        settled: change,
        closed: Epoch(0x66),
        lease_ms: 0x0304,
        step: GroupStep::Tell,
    };
    check.one("group_request", request);
    let leases = [GroupLease::To { peer: peer(9), left_ms: 800 }, GroupLease::Unknown { upto: term, left_ms: 40 }];
    check.one("group_lease-to", leases[0]);
    check.one("group_lease-unknown", leases[1]);
    let report =
        GroupReport { prepared: vec![undecided], decided: vec![decision], settled: change, leases: leases.to_vec() };
    check.one("group_report", report.clone());
    check.one("group_response-report", GroupResponse::Report { report });
    check.one("group_response-done", GroupResponse::Done);
    check.one("group_response-refused", GroupResponse::Refused { error: Error::new(Code::NoSpace, "full") });
    check.one("group_response-term", GroupResponse::Term { known: term });
    check.one("group_response-gave_up", GroupResponse::GaveUp { served: term });
}

fn copy_samples(check: &mut impl Check) {
    let (container, group) = (container_id(), 0x0103);
    let after = Some((container, group));
    check.one("copy_list_request", CopyListRequest { pool: pool_id(), map_version: 4, after });
    check.one(
        "copy_list_response",
        CopyListResponse { groups: vec![(container, group)], unserved: vec![3], next: after },
    );
    let (next, end) = (Bytes(vec![1, 2]), Bytes(vec![3]));
    let span = CopySpan { group, from: next.clone(), end, upto: Epoch(5) };
    check.one("copy_span", span.clone());
    let known = vec![0x0506];
    check.one("copy_request", CopyRequest { container, map_version: 4, span: span.clone(), known: known.clone() });
    let payload = || Payload::Inline { bytes: Bytes(b"v".to_vec()), checksums: vec![9] };
    let values = [
        ("punch", CopyValue::Punch),
        ("hole", CopyValue::Hole { count: 3 }),
        ("single", CopyValue::Single { payload: payload() }),
        ("data", CopyValue::Data { count: 1, record_bytes: 1, payload: payload() }),
    ];
    for (name, value) in values.clone() {
        check.one(&format!("copy_value-{name}"), value);
    }
    let record = |(_, value)| CopyRecord { key: Bytes(vec![7]), value };
    check.one("copy_record", record(values[0].clone()));
    let records = values.into_iter().map(record).collect();
    let (hold, horizon, undone) = (6, Epoch(7), Epoch(8));
    check.one("copy_response", CopyResponse { hold, horizon, undone, records, same: known, next: next.clone() });
    check.one("copy_digest_request", CopyDigestRequest { container, map_version: 4, span });
    check.one("copy_digest_response", CopyDigestResponse { hold, sum: 0x0102_0304, next });
    check.one("copy_memory_request", CopyMemoryRequest { pool: pool_id(), map_version: 4, after: Some(9) });
    let effects = SessionEffects { floor: 6, list: vec![(7, Epoch(8))] };
    check.one("session_effects", effects.clone());
    let sessions =
        vec![SessionMemory { session: 5, effects: Some(effects) }, SessionMemory { session: 9, effects: None }];
    check.one("session_memory", sessions[0].clone());
    check.one("copy_memory_response", CopyMemoryResponse { sessions, next: Some(9) });
}

fn membership_samples(check: &mut impl Check) {
    let life = |rank| Life { rank: Rank(rank), start: 0x0102_0304_0506_0708, renewed: 2 };
    let kinds = [
        ("ping", GossipKind::Ping { number: 7 }),
        ("ack", GossipKind::Ack { number: 7 }),
        ("ping_request", GossipKind::PingRequest { number: 8, target: life(3) }),
        ("indirect_ping", GossipKind::IndirectPing { number: 8, origin: life(3) }),
        ("indirect_ack", GossipKind::IndirectAck { number: 8, target: life(3) }),
        ("forwarded_ack", GossipKind::ForwardedAck { number: 8, origin: life(3) }),
        ("announce", GossipKind::Announce),
        ("feed", GossipKind::Feed),
        ("gossip", GossipKind::Gossip),
        ("broadcast", GossipKind::Broadcast),
        ("taken_for_dead", GossipKind::TakenForDead),
    ];
    for (name, kind) in kinds {
        check.one(&format!("gossip_kind-{name}"), kind);
    }
    let kind = GossipKind::Ping { number: 7 };
    check.one("gossip_header", GossipHeader { from: life(1), incarnation: 4, to: life(2), kind });
    check.one("life", life(9));
    check.one("liveness-alive", Liveness::Alive);
    check.one("liveness-suspect", Liveness::Suspect);
    check.one("liveness-down", Liveness::Down);
    check.one("news", News { life: life(9), incarnation: 5, state: Liveness::Suspect });
}

fn hello_samples(check: &mut impl Check) {
    check.one("service-control", Service::Control);
    check.one("service-target", Service::Target { index: 3 });
    check.one(
        "hello",
        Hello {
            oldest: 1,
            newest: 2,
            service: Service::Target { index: 5 },
            session: 0x0102_0304_0506_0708,
            system: "daos_server".into(),
        },
    );
    check.one(
        "welcome",
        Welcome {
            version: 1,
            request_credits: 256,
            bulk_credits: 64 << 20,
            incarnation: 0x1112_1314_1516_1718,
            system: "daos_server".into(),
        },
    );
}

fn pool_id() -> PoolId {
    PoolId::from_bytes(*b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f")
}

fn container_id() -> ContainerId {
    ContainerId::from_bytes(*b"\x20\x21\x22\x23\x24\x25\x26\x27\x28\x29\x2a\x2b\x2c\x2d\x2e\x2f")
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn pair(name: &str, value: &str) -> NamedValue {
    (text(name), text(value))
}

fn control_samples(check: &mut impl Check) {
    let member = Member {
        rank: Rank(2),
        uuid: Bytes(vec![7; 16]),
        address: text("tcp://node2:10001"),
        fault_domain: text("/rack1/node2"),
        state: MemberState::Joined,
        targets: 8,
        trouble: Some(Error::new(Code::ClockOffset, "off")),
    };
    check.one(
        "system_info",
        SystemInfo {
            name: text("daos_server"),
            release: text("0.1.0"),
            members: vec![member.clone()],
            leader: Some(Rank(2)),
            voters: vec![Rank(2)],
        },
    );
    check.one("member", member);
    check.one("member_state-joined", MemberState::Joined);
    check.one("member_state-stopped", MemberState::Stopped);
    check.one("member_state-excluded", MemberState::Excluded);
    check.one("member_state-admin_excluded", MemberState::AdminExcluded);
    check.one("token_create", TokenCreate { seconds: 3600 });
    check.one("token", Token { token: text("00ff"), seconds: 3600 });
    check.one("system_exclude", SystemExclude { ranks: vec![Rank(2)], exclude: true });
    check.one("system_stop", SystemStop { ranks: vec![Rank(2)], stop: true });
    check.one("system_change_targets", SystemChangeTargets { ranks: vec![Rank(2)], change: TargetChange::Drain });
    let changed = PoolTargetsChanged {
        id: pool_id(),
        label: text("tank"),
        ranks: vec![Rank(2)],
        trouble: Some(Error::new(Code::Invalid, "none would be left")),
    };
    check.one("system_targets_changed", SystemTargetsChanged { pools: vec![changed.clone()] });
    check.one("pool_targets_changed", changed);
    check.one("set_log_masks", SetLogMasks { ranks: vec![Rank(2)], masks: text("info,engine=debug") });
    let silent = Error::new(Code::Unreachable, "it does not answer");
    check.one("log_masks_set", LogMasksSet { servers: vec![(Rank(1), None), (Rank(2), Some(silent))] });
    check.one("system_set_properties", SystemSetProperties { properties: vec![pair("self_heal", "none")] });
    check.one("system_set_attributes", SystemSetAttributes { attributes: vec![pair("a", "b")] });
    check.one("system_attributes", SystemAttributes { attributes: vec![pair("a", "b")] });
    let device = DeviceInfo {
        rank: Rank(1),
        target: TargetIndex(4),
        path: text("/srv/daos/target4"),
        kind: DeviceKind::File,
        total: 1 << 40,
        reserved: 1 << 39,
        used: 1 << 38,
        log_bytes: 1 << 30,
        failure: Some(text("write: I/O error")),
        scrubs: 2,
        scrubbed_values: 300,
        scrubbed_pages: 40,
        damaged: 2,
        mended: 1,
        damage: vec![text("page 7")],
        data_bytes: 1 << 35,
        wanted_bytes: 1 << 34,
        moved_bytes: 1 << 20,
        held_bytes: 1 << 21,
        resize_trouble: Some(text("no room")),
    };
    check.one(
        "storage_info",
        StorageInfo { devices: vec![device.clone(), DeviceInfo { failure: None, ..device.clone() }] },
    );
    check.one("device_info", device);
    check.one("device_kind-file", DeviceKind::File);
    check.one("device_kind-block", DeviceKind::Block);
    check.one("device_kind-memory", DeviceKind::Memory);
    check.one(
        "pool_create",
        PoolCreate {
            label: text("tank"),
            bytes: 10 << 30,
            servers: PoolServers::Count { count: 3 },
            properties: vec![pair("rd_fac", "1"), pair("space_rb", "5")],
            acl: Some(acl()),
        },
    );
    check.one("pool_servers-all", PoolServers::All);
    check.one("pool_servers-ranks", PoolServers::Ranks { ranks: vec![Rank(1), Rank(4)] });
    check.one("pool_servers-count", PoolServers::Count { count: 3 });
    check.one(
        "pool_change_targets",
        PoolChangeTargets {
            pool: text("tank"),
            change: TargetChange::Exclude,
            ranks: vec![Rank(1), Rank(4)],
            targets: vec![TargetIndex(3)],
            force: true,
        },
    );
    check.one("target_change-exclude", TargetChange::Exclude);
    check.one("target_change-drain", TargetChange::Drain);
    check.one("target_change-reintegrate", TargetChange::Reintegrate);
    check.one("target_change-give_up", TargetChange::GiveUp);
    check.one("pool_rebuild", PoolRebuild { pool: text("tank"), start: true });
    check.one("pool_extend", PoolExtend { pool: text("tank"), ranks: vec![Rank(5)] });
    check.one(
        "pool_query_targets",
        PoolQueryTargets { pool: text("tank"), rank: Rank(1), targets: vec![TargetIndex(3)] },
    );
    let target = PoolTarget {
        index: TargetIndex(3),
        state: TargetState::Drain,
        is_kept_out: true,
        space: Some(Space { total: 4, used: 3, metadata: 1, data: 2 }),
        is_failed: false,
    };
    let silent = PoolTarget { space: None, ..target.clone() };
    check.one("pool_targets", PoolTargets { targets: vec![target.clone(), silent] });
    check.one("pool_target", target);
    check.one("storage_resize", StorageResize { bytes: Some(1 << 40) });
    check.one("pool_resize", PoolResize { pool: text("tank"), bytes: 20 << 30 });
    check.one("pool_name", PoolName { pool: text("tank") });
    check.one("pool_destroy", PoolDestroy { pool: text("tank"), recursive: true });
    check.one(
        "pool_set_properties",
        PoolSetProperties { pool: text("tank"), properties: vec![pair("reclaim", "lazy")] },
    );
    let change = AclChange::Overwrite { acl: acl() };
    check.one("pool_change_acl", PoolChangeAcl { pool: text("tank"), change: change.clone() });
    check.one("acl_change-overwrite", change);
    check.one("acl_change-update", AclChange::Update { acl: acl() });
    check.one("acl_change-delete", AclChange::Delete { principal: acl().entries()[1].principal.clone() });
    check.one("owned_acl", OwnedAcl { owner: text("ann@"), group: text("staff@"), acl: acl() });
    check.one("properties", Properties { values: vec![pair("label", "tank"), pair("", "")] });
    let space = Space { total: 400, used: 300, metadata: 100, data: 200 };
    let rebuild = Rebuild {
        state: RebuildState::Waiting,
        groups: 40,
        left: 2,
        records: 9000,
        bytes: 1 << 30,
        same: 7000,
        anew: 1,
        seconds_left: Some(7),
        awaited: vec![Rank(3)],
    };
    let states = [
        ("idle", RebuildState::Idle),
        ("busy", RebuildState::Busy),
        ("waiting", RebuildState::Waiting),
        ("stopped", RebuildState::Stopped),
    ];
    for (name, state) in states {
        check.one(&format!("rebuild_state-{name}"), state);
    }
    check.one("rebuild", rebuild.clone());
    let pool = PoolInfo {
        id: pool_id(),
        label: text("tank"),
        map_version: 6,
        targets: 16,
        disabled_targets: 1,
        ranks: vec![Rank(0), Rank(4)],
        silent_ranks: vec![Rank(4)],
        containers: 3,
        space: space.clone(),
        free_min: 5,
        free_max: 95,
        leader: Some(Rank(1)),
        voters: vec![Rank(1), Rank(2)],
        rebuild,
    };
    check.one("space", space);
    check.one("pool_list", PoolList { pools: vec![pool.clone()] });
    check.one("pool_info", pool);
    map_samples(check);
    container_samples(check);
}

fn map_samples(check: &mut impl Check) {
    let server = MapServer {
        rank: Rank(3),
        address: text("tcp://[::1]:10001"),
        fault_path: text("/rack1/node3"),
        targets: 8,
        weight: 2,
    };
    let run = StandingRun { first: 1, count: 7, since: 5, state: TargetState::Down, left: 5, joined: 3, served: 4 };
    let map = PoolMap {
        id: pool_id(),
        label: text("tank"),
        version: 9,
        floor: 4,
        pg_count: 512,
        origin: 6,
        servers: vec![server.clone(), MapServer { rank: Rank(4), address: text(""), ..server.clone() }],
        standings: vec![run.clone(), StandingRun { since: 6, state: TargetState::DownOut, ..run.clone() }],
    };
    let delta = PoolMapDelta { from: 8, to: 9, servers: vec![server.clone()], standings: vec![run.clone()] };
    check.one("map_server", server);
    check.one("standing_run", run);
    let states = [
        ("new", TargetState::New),
        ("up_from_new", TargetState::UpFromNew),
        ("up_from_down", TargetState::UpFromDown),
        ("up_from_down_out", TargetState::UpFromDownOut),
        ("up_in", TargetState::UpIn),
        ("down", TargetState::Down),
        ("down_out", TargetState::DownOut),
        ("drain", TargetState::Drain),
        ("away", TargetState::Away),
        ("up_from_away", TargetState::UpFromAway),
    ];
    for (name, state) in states {
        check.one(&format!("target_state-{name}"), state);
    }
    check.one("pool_map_since", PoolMapSince { pool: text("tank"), version: 8 });
    check.one("pool_map_news-whole", PoolMapNews::Whole { map: map.clone() });
    check.one("pool_map_news-delta", PoolMapNews::Delta { delta: delta.clone() });
    check.one("pool_map_delta", delta);
    check.one("pool_map", map);
}

fn container_samples(check: &mut impl Check) {
    let (pool, container) = (text("tank"), text("results"));
    let info = ContainerInfo {
        pool: pool_id(),
        id: container_id(),
        label: text("results"),
        layout: Layout::Posix,
        created: Epoch(0x0102_0304_0506_0708),
        snapshots: 2,
        latest_snapshot: Epoch(77),
        properties: vec![pair("cksum", "crc32")],
    };
    check.one(
        "container_create",
        ContainerCreate {
            pool: pool.clone(),
            label: container.clone(),
            layout: Layout::Posix,
            properties: vec![pair("dedup", "off")],
            attributes: vec![(text("owner"), Bytes(vec![0, 255, 1]))],
            acl: None,
        },
    );
    check.one("container_name", ContainerName { pool: pool.clone(), container: container.clone() });
    check.one("container_list", ContainerList { containers: vec![info.clone()] });
    check.one("container_info", info);
    check.one("container_destroy", ContainerDestroy { pool: pool.clone(), container: container.clone() });
    check.one(
        "container_set_properties",
        ContainerSetProperties {
            pool: pool.clone(),
            container: container.clone(),
            properties: vec![pair("label", "more")],
        },
    );
    let change = AclChange::Delete { principal: Principal::Everyone };
    check.one("container_change_acl", ContainerChangeAcl { pool: pool.clone(), container: container.clone(), change });
    check.one(
        "container_set_owner",
        ContainerSetOwner {
            pool: pool.clone(),
            container: container.clone(),
            user: Some(PrincipalName::parse("ann@").unwrap()),
            group: None,
        },
    );
    check.one(
        "attribute_names",
        AttributeNames { pool: pool.clone(), container: container.clone(), names: vec![text("owner"), text("")] },
    );
    let attributes = vec![(text("owner"), Bytes(b"me".to_vec())), (text("empty"), Bytes(vec![]))];
    check.one(
        "set_attributes",
        SetAttributes { pool: pool.clone(), container: container.clone(), attributes: attributes.clone() },
    );
    check.one("attributes", Attributes { attributes });
    check.one(
        "snapshot_create",
        SnapshotCreate { pool: pool.clone(), container: container.clone(), name: text("before") },
    );
    check.one(
        "snapshot_destroy",
        SnapshotDestroy { pool: pool.clone(), container: container.clone(), snapshot: text("0x2a") },
    );
    check.one(
        "container_rollback",
        ContainerRollback { pool: pool.clone(), container: container.clone(), snapshot: text("before") },
    );
    let snapshot = SnapshotInfo { epoch: Epoch(0x2a), name: text("before") };
    check.one("snapshot_list", SnapshotList { snapshots: vec![snapshot.clone()] });
    check.one("snapshot_info", snapshot);
    check.one("allocate_object_ids", AllocateObjectIds { pool, container, count: 1024 });
    check.one("object_id_range", ObjectIdRange { first: 1 << 33, count: 1024 });
}

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

fn data_samples(check: &mut impl Check) {
    let place = Place {
        container: container_id(),
        oid: ObjectId { hi: 0x0b01_0001_0000_0002, lo: 5 },
        group: 6,
        map_version: 7,
    };
    let inline = Payload::Inline { bytes: Bytes(b"value".to_vec()), checksums: vec![0x1234_5678] };
    let bulk = Payload::Bulk { offset: 4096, bytes: 65_536, checksums: vec![1, 2] };
    let write = ExtentWrite { extent: Extent::new(10, 20), payload: bulk.clone() };
    let single = Value::Single { payload: inline.clone() };
    let array = Value::Array { record_bytes: 8, extents: vec![write.clone()] };
    let akey_write = AkeyWrite { akey: key("akey"), value: single.clone() };
    check.one("place", place.clone());
    check.one("payload-inline", inline.clone());
    check.one("payload-bulk", bulk.clone());
    check.one("extent_write", write);
    check.one("value-single", single);
    check.one("value-array", array.clone());
    check.one("akey_write", akey_write.clone());
    check.one(
        "update_request",
        UpdateRequest {
            place: place.clone(),
            dkey: Key::from(42),
            conditions: Conditions::AkeyInsert,
            akeys: vec![akey_write, AkeyWrite { akey: Key::from(1), value: array }],
        },
    );
    check.one("committed", Committed { epoch: Epoch(0x0807_0605_0403_0201) });

    let some = Selection::Array { extents: vec![Extent::new(0, 4), Extent::new(1 << 40, 1)] };
    let akey_read = AkeyRead { akey: key("akey"), selection: some.clone() };
    check.one("selection-single", Selection::Single);
    check.one("selection-array", some);
    check.one("akey_read", akey_read.clone());
    check.one(
        "fetch_request",
        FetchRequest {
            place: place.clone(),
            dkey: key("dkey"),
            at: Epoch::MAX,
            conditions: Conditions::DkeyExists,
            akeys: vec![akey_read, AkeyRead { akey: Key::from(9), selection: Selection::Single }],
        },
    );
    let piece = Piece { extent: Extent::new(0, 1), payload: Some(inline) };
    let data =
        AkeyData { record_bytes: 5, pieces: vec![piece.clone(), Piece { extent: Extent::new(1, 3), payload: None }] };
    check.one("piece", piece);
    check.one("akey_data", data.clone());
    check.one("fetch_response", FetchResponse { akeys: vec![data, AkeyData { record_bytes: 0, pieces: vec![] }] });

    check.one("punch_scope-object", PunchScope::Object);
    check.one("punch_scope-dkey", PunchScope::Dkey { dkey: Key::from(3) });
    check.one("punch_scope-akeys", PunchScope::Akeys { dkey: key("d"), akeys: vec![key("a"), Key::from(2)] });
    let extents = PunchScope::Extents { dkey: key("d"), akey: key("a"), extents: vec![Extent::new(5, 6)] };
    check.one("punch_scope-extents", extents.clone());
    check.one("punch_request", PunchRequest { place: place.clone(), conditions: Conditions::None, scope: extents });
    listing_samples(check, place);
}

fn listing_samples(check: &mut impl Check, place: Place) {
    let oid = place.oid;
    check.one(
        "list_objects_request",
        ListObjectsRequest {
            container: container_id(),
            at: Epoch(5),
            after: Some((3, oid)),
            limit: 100,
            direction: Direction::Forward,
        },
    );
    check.one("list_objects_response", ListObjectsResponse { objects: vec![(3, oid), (4, oid)], next: Some((4, oid)) });
    check.one(
        "diff_request",
        DiffRequest { container: container_id(), from: Epoch(5), to: Epoch::MAX, after: Bytes(vec![1, 2]), limit: 100 },
    );
    let difference = |extent, kind| Difference { group: 3, oid, dkey: key("d"), akey: Key::from(8), extent, kind };
    let differences =
        vec![difference(None, DifferenceKind::Added), difference(Some(Extent::new(1, 2)), DifferenceKind::Removed)];
    check.one("difference", difference(None, DifferenceKind::Modified));
    check.one("diff_response", DiffResponse { differences, next: Bytes(vec![3]) });
    check.one("direction-forward", Direction::Forward);
    check.one("direction-backward", Direction::Backward);
    check.one("difference_kind-added", DifferenceKind::Added);
    check.one("difference_kind-removed", DifferenceKind::Removed);
    check.one("difference_kind-modified", DifferenceKind::Modified);
    check.one(
        "list_dkeys_request",
        ListDkeysRequest {
            place: place.clone(),
            at: Epoch::MAX,
            after: Some(Key::from(8)),
            limit: 1024,
            direction: Direction::Backward,
        },
    );
    check.one(
        "list_akeys_request",
        ListAkeysRequest {
            place: place.clone(),
            dkey: key("d"),
            at: Epoch(9),
            after: None,
            limit: 1,
            direction: Direction::Forward,
        },
    );
    check.one("list_keys_response", ListKeysResponse { keys: vec![Key::from(8), key("k")], next: None });
    check.one(
        "list_extents_request",
        ListExtentsRequest {
            place: place.clone(),
            dkey: key("d"),
            akey: key("a"),
            at: Epoch(9),
            within: Extent::new(77, 5),
            limit: 2,
            direction: Direction::Forward,
        },
    );
    check.one(
        "list_extents_response",
        ListExtentsResponse {
            record_bytes: 1,
            extents: vec![(Extent::new(0, 1 << 20), Epoch(6))],
            next: Some(Extent::new(1 << 20, 5)),
        },
    );
    check.one("query_keys_request", QueryKeysRequest { place, at: Epoch::MAX, dkey: None, akey: Some(key("a")) });
    check.one(
        "query_keys_response",
        QueryKeysResponse {
            dkey_min: Some(0),
            dkey_max: Some(99),
            array_end: 1000,
            record_bytes: 4,
            last_write: Epoch(0x77),
        },
    );
}
