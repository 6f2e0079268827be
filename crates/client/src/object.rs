//! An object: a table of dkeys and akeys.

use std::sync::{Arc, OnceLock};

use ::object::fetch;
use ::object::update::UpdateMessage;
use ::object::{AkeyQuery, AkeyResult, AkeyUpdate, check, retry};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use net::Reply;
use placement::{GroupNumber, Placed};
use types::{Code, Conditions, Epoch, Error, Extent, Key, ObjectId, Rank, Result, TargetIndex};
use wire::data::{
    Committed, Direction, LIST_ENTRIES_MAX, ListAkeysRequest, ListDkeysRequest, ListExtentsRequest,
    ListExtentsResponse, ListKeysResponse, Place, PunchRequest, PunchScope, QueryKeysRequest, QueryKeysResponse,
};
use wire::opcode::Repeat;
use wire::{Opcode, Wire};

use crate::call::{Outgoing, decode};
use crate::pool::Routed;
use crate::view::{ShardState, To, View};
use crate::{Container, IN_FLIGHT_MAX, KeyCursor};

/// A handle on an object, which exists as soon as something is written to it.
#[derive(Clone)]
pub struct Object {
    container: Container,
    oid: ObjectId,
    /// Which placement groups it lies in, once somebody asked: the same by every version of the pool map.
    placed: Arc<OnceLock<Placed>>,
}

/// Where one copy of a group of an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    /// The group, from 0.
    pub group: usize,
    /// The copy of it, from 0. While something is being moved, several targets have to do with one.
    pub copy: usize,
    /// The placement group that holds it.
    pub placement_group: u32,
    pub rank: Rank,
    pub target: TargetIndex,
    pub state: ShardState,
}

/// Some of an array's extents.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Extents {
    pub record_bytes: u32,
    /// Extent and the epoch that wrote it.
    pub extents: Vec<(Extent, Epoch)>,
    /// What is left of the extent asked for; `None`: there are no more.
    pub next: Option<Extent>,
}

/// The ends of an object's integer keys, over all its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeyEnds {
    pub dkey_min: Option<u64>,
    pub dkey_max: Option<u64>,
    /// Of the akey asked for under the highest dkey: one past the highest record; 0 when there is none.
    pub array_end: u64,
    pub record_bytes: u32,
    /// When the object was last written or punched.
    pub last_write: Epoch,
}

/// Which part of an object a request goes to.
#[derive(Clone, Copy)]
pub(crate) enum Whither<'a> {
    /// The group that holds this dkey.
    Dkey(&'a Key),
    Group(usize),
}

impl Object {
    pub(crate) fn new(container: Container, oid: ObjectId) -> Object {
        Object { container, oid, placed: Arc::default() }
    }

    pub fn id(&self) -> ObjectId {
        self.oid
    }

    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Writes values under one dkey. All of them take effect together, at the epoch returned, or
    /// none does.
    ///
    /// # Errors
    /// `Exists`, `NotFound`: a condition does not hold. `Invalid`, `ValueTooBig`, `RecordSize`: what
    /// is asked for. `NoPermission`: a view of the past. `NoSpace`: the pool is full.
    pub async fn update(&self, dkey: &Key, conditions: Conditions, akeys: Vec<AkeyUpdate>) -> Result<Epoch> {
        self.writable()?;
        self.located(check::dkey(self.oid, dkey).and_then(|()| check::updates(self.oid, &akeys)))?;
        let message = &mut |place| Ok(UpdateMessage::new(place, dkey, conditions, &akeys).into());
        let reply = self.call(Opcode::Update, Whither::Dkey(dkey), message).await?;
        self.answer::<Committed>(Opcode::Update, &reply).map(|committed| committed.epoch)
    }

    /// Reads values under one dkey; results in the order asked.
    ///
    /// Every byte is verified. A read too large for one request is split; without a snapshot its
    /// parts may then see different moments.
    ///
    /// # Errors
    /// `NotFound`: a condition does not hold (keys that are not there are no error without one).
    /// `Checksum`: data is damaged. `Invalid`: what is asked for.
    pub async fn fetch(&self, dkey: &Key, conditions: Conditions, akeys: Vec<AkeyQuery>) -> Result<Vec<AkeyResult>> {
        self.located(check::dkey(self.oid, dkey))?;
        let at = self.container.read_epoch();
        let mut results = vec![AkeyResult::default(); akeys.len()];
        let mut parts = self.located(fetch::plan(self.oid, &akeys))?;
        while let Some(part) = parts.pop_front() {
            let message = &mut |place| Ok(Outgoing { body: part.body(place, dkey, at, conditions), bulk: None });
            match self.call(Opcode::Fetch, Whither::Dkey(dkey), message).await {
                Ok(Reply { body, bulk }) => {
                    let bulk = bulk.map_or_else(Bytes::new, Bytes::from);
                    self.located(part.accept(dkey, &body, bulk, &mut results))?;
                }
                Err(error) if error.code == Code::Overflow => {
                    let (first, second) = part.halve().ok_or(error)?;
                    parts.push_front(second);
                    parts.push_front(first);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(results)
    }

    /// Removes the object. Group by group: a failure may leave some.
    pub async fn punch(&self) -> Result<()> {
        self.writable()?;
        let punch =
            |group| async move { self.punch_scope(Whither::Group(group), Conditions::None, PunchScope::Object).await };
        stream::iter(0..self.group_count()?).map(punch).buffered(IN_FLIGHT_MAX).try_for_each(|_| async { Ok(()) }).await
    }

    /// Removes dkeys with all under them. Each by itself: a failure may leave some.
    ///
    /// # Errors
    /// `NotFound`: a condition does not hold.
    pub async fn punch_dkeys(&self, dkeys: &[Key], conditions: Conditions) -> Result<()> {
        self.writable()?;
        dkeys.iter().try_for_each(|dkey| self.located(check::dkey(self.oid, dkey)))?;
        let punch = |index: usize| async move {
            let dkey = &dkeys[index];
            self.punch_scope(Whither::Dkey(dkey), conditions, PunchScope::Dkey { dkey: dkey.clone() }).await
        };
        stream::iter(0..dkeys.len()).map(punch).buffered(IN_FLIGHT_MAX).try_for_each(|_| async { Ok(()) }).await
    }

    /// Removes akeys of one dkey together.
    ///
    /// # Errors
    /// `NotFound`: a condition does not hold.
    pub async fn punch_akeys(&self, dkey: &Key, akeys: &[Key], conditions: Conditions) -> Result<Epoch> {
        self.writable()?;
        self.located(check::dkey(self.oid, dkey).and_then(|()| check::akey_list(self.oid, akeys.iter())))?;
        let scope = PunchScope::Akeys { dkey: dkey.clone(), akeys: akeys.to_vec() };
        self.punch_scope(Whither::Dkey(dkey), conditions, scope).await
    }

    /// Removes records of an array: they read as holes.
    ///
    /// # Errors
    /// `NotFound`: a condition does not hold. `Invalid`: overlapping or bad extents.
    pub async fn punch_extents(
        &self,
        dkey: &Key,
        akey: &Key,
        extents: &[Extent],
        conditions: Conditions,
    ) -> Result<Epoch> {
        self.writable()?;
        self.located(
            check::dkey(self.oid, dkey)
                .and_then(|()| check::akey(self.oid, akey))
                .and_then(|()| check::extents_of_request(akey, extents)),
        )?;
        let scope = PunchScope::Extents { dkey: dkey.clone(), akey: akey.clone(), extents: extents.to_vec() };
        self.punch_scope(Whither::Dkey(dkey), conditions, scope).await
    }

    async fn punch_scope(&self, whither: Whither<'_>, conditions: Conditions, scope: PunchScope) -> Result<Epoch> {
        let message = &mut |place| Ok(Outgoing::message(&PunchRequest { place, conditions, scope: scope.clone() }));
        let reply = self.call(Opcode::Punch, whither, message).await?;
        self.answer::<Committed>(Opcode::Punch, &reply).map(|committed| committed.epoch)
    }

    /// Up to `limit` dkeys after `after`, in key order over all groups.
    pub async fn list_dkeys(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Key>> {
        let page = u32::try_from(limit).unwrap_or(u32::MAX).clamp(1, LIST_ENTRIES_MAX);
        KeyCursor::new(self.clone(), after.cloned(), page, Direction::Forward)?.next_page(limit).await
    }

    /// Walks over all dkeys, in key order.
    pub fn dkeys(&self) -> Result<KeyCursor> {
        self.dkeys_from(None, Direction::Forward)
    }

    /// Walks over the dkeys after `after`; backwards, over those before it, from the highest down.
    pub fn dkeys_from(&self, after: Option<&Key>, direction: Direction) -> Result<KeyCursor> {
        KeyCursor::new(self.clone(), after.cloned(), LIST_ENTRIES_MAX, direction)
    }

    /// One page of one group's dkeys; and where the next begins.
    pub(crate) async fn list_group(
        &self,
        group: usize,
        after: Option<Key>,
        limit: u32,
        direction: Direction,
    ) -> Result<(Vec<Key>, Option<Key>)> {
        let at = self.container.read_epoch();
        let message = &mut |place| {
            let after = after.clone();
            Ok(Outgoing::message(&ListDkeysRequest { place, at, after, limit, direction }))
        };
        let reply = self.call(Opcode::ListDkeys, Whither::Group(group), message).await?;
        self.answer::<ListKeysResponse>(Opcode::ListDkeys, &reply).map(|page| (page.keys, page.next))
    }

    /// Up to `limit` akeys of a dkey after `after`, in key order.
    pub async fn list_akeys(&self, dkey: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Key>> {
        self.list_akeys_from(dkey, after, limit, Direction::Forward).await
    }

    /// As [`Object::list_akeys`]; backwards, those before `after`, from the highest down.
    pub async fn list_akeys_from(
        &self,
        dkey: &Key,
        after: Option<&Key>,
        limit: usize,
        direction: Direction,
    ) -> Result<Vec<Key>> {
        let at = self.container.read_epoch();
        let mut keys: Vec<Key> = Vec::new();
        let (mut after, mut more) = (after.cloned(), true);
        while more && keys.len() < limit {
            let page = u32::try_from(limit - keys.len()).unwrap_or(u32::MAX).min(LIST_ENTRIES_MAX);
            let message = &mut |place| {
                let (dkey, after) = (dkey.clone(), after.clone());
                Ok(Outgoing::message(&ListAkeysRequest { place, dkey, at, after, limit: page, direction }))
            };
            let reply = self.call(Opcode::ListAkeys, Whither::Dkey(dkey), message).await?;
            let answer: ListKeysResponse = self.answer(Opcode::ListAkeys, &reply)?;
            keys.extend(answer.keys);
            more = answer.next.is_some();
            after = answer.next;
        }
        Ok(keys)
    }

    /// All akeys of a dkey.
    pub async fn akeys(&self, dkey: &Key) -> Result<Vec<Key>> {
        self.list_akeys(dkey, None, usize::MAX).await
    }

    /// Up to `limit` (at most 1024) visible extents of an array within one, ascending; backwards, descending.
    ///
    /// # Errors
    /// `Invalid`: an empty extent.
    pub async fn list_extents(
        &self,
        dkey: &Key,
        akey: &Key,
        within: Extent,
        limit: usize,
        direction: Direction,
    ) -> Result<Extents> {
        let at = self.container.read_epoch();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(LIST_ENTRIES_MAX);
        let message = &mut |place| {
            let (dkey, akey) = (dkey.clone(), akey.clone());
            Ok(Outgoing::message(&ListExtentsRequest { place, dkey, akey, at, within, limit, direction }))
        };
        let reply = self.call(Opcode::ListExtents, Whither::Dkey(dkey), message).await?;
        let ListExtentsResponse { record_bytes, extents, next } = self.answer(Opcode::ListExtents, &reply)?;
        Ok(Extents { record_bytes, extents, next })
    }

    /// The ends of the integer keys. With a dkey, only that one is looked at; with an akey, the end
    /// of its array is told too (under the highest dkey, or the one named).
    pub async fn query_keys(&self, dkey: Option<&Key>, akey: Option<&Key>) -> Result<KeyEnds> {
        let groups = match dkey {
            Some(dkey) => vec![self.query_group(Whither::Dkey(dkey), Some(dkey), akey).await?],
            None => self.query_groups(akey).await?,
        };
        Ok(merge_ends(&groups))
    }

    /// The ends of every group's integer keys.
    pub(crate) async fn query_groups(&self, akey: Option<&Key>) -> Result<Vec<QueryKeysResponse>> {
        let query = |group| async move { self.query_group(Whither::Group(group), None, akey).await };
        stream::iter(0..self.group_count()?).map(query).buffered(IN_FLIGHT_MAX).try_collect().await
    }

    async fn query_group(
        &self,
        whither: Whither<'_>,
        dkey: Option<&Key>,
        akey: Option<&Key>,
    ) -> Result<QueryKeysResponse> {
        let at = self.container.read_epoch();
        let message = &mut |place| {
            Ok(Outgoing::message(&QueryKeysRequest { place, at, dkey: dkey.cloned(), akey: akey.cloned() }))
        };
        let reply = self.call(Opcode::QueryKeys, whither, message).await?;
        self.answer(Opcode::QueryKeys, &reply)
    }

    /// Where the object's groups lie: every target that has to do with them.
    ///
    /// # Errors
    /// `Invalid`, `NotSupported`: its class cannot be placed in this pool.
    pub fn layout(&self) -> Result<Vec<ShardInfo>> {
        let view = self.container.pool().view();
        let placed = self.placed(&view)?;
        let of = |(group, &pg): (usize, &u32)| {
            let shard = |(copy, position, state)| {
                let (rank, target) = view.name(position);
                ShardInfo { group, copy, placement_group: pg, rank, target, state }
            };
            view.shards(pg, placed.width()).into_iter().map(shard).collect::<Vec<_>>()
        };
        Ok(placed.pgs().iter().enumerate().flat_map(of).collect())
    }

    pub(crate) fn group_count(&self) -> Result<usize> {
        Ok(self.placed(&self.container.pool().view())?.pgs().len())
    }

    /// The target that leads the group of `dkey` is in this process.
    pub(crate) fn is_local(&self, dkey: &Key) -> Result<bool> {
        let view = self.container.pool().view();
        let placed = self.placed(&view)?;
        Ok(view.is_local(placed.pgs()[placed.group_of(dkey)], placed.width()))
    }

    fn placed(&self, view: &View) -> Result<&Placed> {
        match self.placed.get() {
            Some(placed) => Ok(placed),
            None => {
                let placed = self.located(view.place(self.oid))?;
                Ok(self.placed.get_or_init(|| placed))
            }
        }
    }

    /// Sends a request to whoever leads the group that `whither` is in, or to any who serves it if the moment that
    /// this handle reads is past. `message` makes it, once an attempt.
    pub(crate) async fn call(
        &self,
        opcode: Opcode,
        whither: Whither<'_>,
        message: &mut (dyn FnMut(Place) -> Result<Outgoing> + Send),
    ) -> Result<Reply> {
        let container = self.container.id();
        let oid = self.oid;
        let pool = self.container.pool();
        let past = self.container.epoch().is_some() && opcode.repeat() == Repeat::Harmless;
        let mut route = |view: &Arc<View>| {
            let placed = self.placed(view)?;
            let index = match whither {
                Whither::Dkey(dkey) => placed.group_of(dkey),
                Whither::Group(group) => group,
            };
            let width = placed.width();
            let &pg = placed.pgs().get(index).ok_or_else(|| Error::new(Code::Invalid, format!("no group {index}")))?;
            let to = match past && width > 1 {
                true => To::Any { pg, width, lot: pool.system().links().lot() },
                false => To::Leader { pg, width },
            };
            let group = GroupNumber::new(pg, width).as_u32();
            let place = Place { container, oid, group, map_version: view.version() };
            Ok(Routed { to, out: message(place)? })
        };
        self.located(pool.call(opcode, &mut route).await)
    }

    pub(crate) fn answer<R: Wire>(&self, opcode: Opcode, reply: &Reply) -> Result<R> {
        self.located(decode(opcode, reply))
    }

    pub(crate) fn writable(&self) -> Result<()> {
        self.container.writable()
    }

    pub(crate) fn located<T>(&self, result: Result<T>) -> Result<T> {
        retry::located(result, "", || {
            let (container, pool) = (self.container.label(), self.container.pool().label());
            format!("object {} of container '{container}' in pool '{pool}'", self.oid)
        })
    }
}

fn merge_ends(groups: &[QueryKeysResponse]) -> KeyEnds {
    let mut ends = KeyEnds::default();
    for group in groups {
        ends.last_write = ends.last_write.max(group.last_write);
        ends.record_bytes = ends.record_bytes.max(group.record_bytes);
        ends.dkey_min = match (ends.dkey_min, group.dkey_min) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // A dkey that is no integer has no place in this order, and then there is one group to ask.
        if group.dkey_max >= ends.dkey_max {
            ends.dkey_max = group.dkey_max;
            ends.array_end = ends.array_end.max(group.array_end);
            if group.dkey_max.is_some() {
                ends.array_end = group.array_end;
            }
        }
    }
    ends
}
