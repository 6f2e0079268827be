//! Listings and key queries: what there is, without its values.

use std::rc::Rc;

use net::Request;
use types::{Code, Epoch, Error, Key};
use vos::{Edge, ListPart, ListedObject};
use wire::data::{
    DiffRequest, DiffResponse, Difference, DifferenceKind, LIST_ENTRIES_MAX, ListAkeysRequest, ListDkeysRequest,
    ListExtentsRequest, ListExtentsResponse, ListKeysResponse, ListObjectsRequest, ListObjectsResponse,
    QueryKeysRequest, QueryKeysResponse,
};

use wire::encoding::Bytes;

use super::{Target, parse};

impl Target {
    pub(super) fn list_objects(&self, request: &Request) -> Result<ListObjectsResponse, Error> {
        let list: ListObjectsRequest = parse(&request.body)?;
        let after = list.after.map(|(group, oid)| ListedObject { group, oid });
        let part = part(after.as_ref(), list.limit, list.direction);
        let listed = self.store.borrow_mut().list_objects(list.container, list.at, part);
        let listing = listed.map_err(|e| self.refusal(list.container, e))?;
        let objects = listing.entries.into_iter().map(|o| (o.group, o.oid)).collect();
        Ok(ListObjectsResponse { objects, next: listing.next.map(|o| (o.group, o.oid)) })
    }

    pub(super) fn diff(&self, request: &Request) -> Result<DiffResponse, Error> {
        let diff: DiffRequest = parse(&request.body)?;
        let after = match diff.after.0.as_slice() {
            [] => None,
            bytes => {
                let text = "where the comparison should go on is no place of a comparison";
                Some(vos::DiffAnchor::from_bytes(bytes).ok_or_else(|| Error::new(Code::Invalid, text))?)
            }
        };
        let limit = bounded(diff.limit);
        let found = self.store.borrow_mut().diff(diff.container, diff.from, diff.to, after.as_ref(), limit);
        let (found, next) = found.map_err(|e| self.refusal(diff.container, e))?;
        let differences = found.into_iter().map(|vos::Difference { group, oid, dkey, akey, extent, kind }| {
            let kind = match kind {
                vos::Kind::Added => DifferenceKind::Added,
                vos::Kind::Removed => DifferenceKind::Removed,
                vos::Kind::Modified => DifferenceKind::Modified,
            };
            Difference { group, oid, dkey, akey, extent, kind }
        });
        let next = Bytes(next.map(|anchor| anchor.to_bytes()).unwrap_or_default());
        Ok(DiffResponse { differences: differences.collect(), next })
    }

    pub(super) async fn list_dkeys(self: &Rc<Self>, request: &Request) -> Result<ListKeysResponse, Error> {
        let mut list: ListDkeysRequest = parse(&request.body)?;
        list.at = self.admit_read(&list.place, None, list.at, request.deadline).await?;
        let place = &list.place;
        let part = part(list.after.as_ref(), list.limit, list.direction);
        let listed = self.store.borrow_mut().list_dkeys(place.container, list.at, place.group, place.oid, part);
        let listing = listed.map_err(|e| self.refusal(place.container, e))?;
        Ok(ListKeysResponse { keys: listing.entries, next: listing.next })
    }

    pub(super) async fn list_akeys(self: &Rc<Self>, request: &Request) -> Result<ListKeysResponse, Error> {
        let mut list: ListAkeysRequest = parse(&request.body)?;
        list.at = self.admit_read(&list.place, Some(&list.dkey), list.at, request.deadline).await?;
        let place = &list.place;
        let part = part(list.after.as_ref(), list.limit, list.direction);
        let listed =
            self.store.borrow_mut().list_akeys(place.container, list.at, place.group, place.oid, &list.dkey, part);
        let listing = listed.map_err(|e| self.refusal(place.container, e))?;
        Ok(ListKeysResponse { keys: listing.entries.into_iter().map(|a| a.akey).collect(), next: listing.next })
    }

    pub(super) async fn list_extents(self: &Rc<Self>, request: &Request) -> Result<ListExtentsResponse, Error> {
        let mut list: ListExtentsRequest = parse(&request.body)?;
        list.at = self.admit_read(&list.place, Some(&list.dkey), list.at, request.deadline).await?;
        let place = &list.place;
        let limit = bounded(list.limit);
        let listed = self.store.borrow_mut().list_extents(
            place.container,
            list.at,
            place.group,
            place.oid,
            &list.dkey,
            &list.akey,
            list.within,
            limit,
            direction(list.direction),
        );
        let listing = listed.map_err(|e| self.refusal(place.container, e))?;
        let record_bytes = listing.entries.first().map_or(0, |e| e.record_bytes);
        let extents = listing.entries.into_iter().map(|e| (e.extent, e.epoch)).collect();
        Ok(ListExtentsResponse { record_bytes, extents, next: listing.next })
    }

    pub(super) async fn query_keys(self: &Rc<Self>, request: &Request) -> Result<QueryKeysResponse, Error> {
        let mut query: QueryKeysRequest = parse(&request.body)?;
        query.at = self.admit_read(&query.place, query.dkey.as_ref(), query.at, request.deadline).await?;
        self.query(&query).map_err(|e| self.refusal(query.place.container, e))
    }

    fn query(&self, query: &QueryKeysRequest) -> Result<QueryKeysResponse, vos::Error> {
        let place = &query.place;
        let store = &mut *self.store.borrow_mut();
        let last_write =
            store.object_max_write_at(place.container, query.at, place.group, place.oid)?.unwrap_or(Epoch::ZERO);
        let mut answer =
            QueryKeysResponse { dkey_min: None, dkey_max: None, array_end: 0, record_bytes: 0, last_write };
        match (&query.dkey, &query.akey) {
            (Some(dkey), akey) => {
                if let Some(akey) = akey {
                    let end = store.query_array(place.container, query.at, place.group, place.oid, dkey, akey)?;
                    (answer.array_end, answer.record_bytes) = (end.end, end.record_bytes);
                }
                if let Key::Integer(n) = dkey {
                    (answer.dkey_min, answer.dkey_max) = (Some(*n), Some(*n));
                }
            }
            (None, Some(akey)) => {
                // The end of an array spread over integer dkeys: the highest that holds records.
                let tail = store.query_array_tail(place.container, query.at, place.group, place.oid, akey)?;
                if let Some(tail) = tail {
                    answer.dkey_max = Some(tail.dkey);
                    (answer.array_end, answer.record_bytes) = (tail.end, tail.record_bytes);
                }
            }
            (None, None) => {
                answer.dkey_min = store.query_dkey(place.container, query.at, place.group, place.oid, Edge::Lowest)?;
                answer.dkey_max = store.query_dkey(place.container, query.at, place.group, place.oid, Edge::Highest)?;
            }
        }
        Ok(answer)
    }
}

fn part<A>(after: Option<&A>, limit: u32, way: wire::data::Direction) -> ListPart<'_, A> {
    ListPart { after, limit: bounded(limit), direction: direction(way) }
}

fn direction(way: wire::data::Direction) -> vos::Direction {
    match way {
        wire::data::Direction::Forward => vos::Direction::Forward,
        wire::data::Direction::Backward => vos::Direction::Backward,
    }
}

fn bounded(limit: u32) -> usize {
    limit.clamp(1, LIST_ENTRIES_MAX) as usize
}

/// A limit of 0 would make a listing that never ends.
const _: () = assert!(LIST_ENTRIES_MAX > 0);
