//! Punch: hides an object, dkeys, akeys or ranges from later reads.

use std::rc::Rc;

use net::Request;
use types::{AKEYS_PER_REQUEST_MAX, Code, EXTENTS_PER_AKEY_MAX, Error};
use vos::Op;
use wire::data::{Committed, PunchRequest, PunchScope};

use super::group::{Door, Kind, Wanted};
use super::{Target, parse};

impl Target {
    pub(super) async fn punch(self: &Rc<Self>, request: Request, door: &Door) -> Result<Committed, Error> {
        let punch: PunchRequest = parse(&request.body)?;
        let (container, deadline) = (punch.place.container, request.deadline);
        let origin = vos::Origin { session: request.session, seq: request.sequence };
        check_shape(&punch)?;
        if let Door::Lead(group) = door {
            let with_op = |keep: &mut dyn FnMut(&Op<'_>)| with_punch(&punch, |punch| keep(&Op::Punch(*punch)));
            let (what, body) = (Kind::Punch, request.body);
            let wanted = Wanted { container, origin, deadline, what, body, bulk: None, with_op: &with_op };
            return self.replicate(group, wanted).await;
        }
        let mut looked = false;
        let (epoch, lsn) = loop {
            self.still_single(&punch.place)?;
            // Without a wait from here to the store, unless it took effect.
            if let Some(before) = self.recall(origin).await? {
                return Ok(before);
            }
            let epoch = self.hlc.now();
            let apply = |write: &vos::Punch<'_>| self.store.borrow_mut().punch(container, epoch, origin, write);
            match with_punch(&punch, apply) {
                Ok(lsn) => break (epoch, lsn),
                Err(error) => self.mend(error, container, deadline, &mut looked).await?,
            }
        };
        self.upkeep.written();
        self.durable(lsn).await?;
        Ok(Committed { epoch })
    }
}

/// Lends the punch that a request asks for.
pub(super) fn with_punch<T>(punch: &PunchRequest, f: impl FnOnce(&vos::Punch<'_>) -> T) -> T {
    let scope = match &punch.scope {
        PunchScope::Object => vos::PunchScope::Object,
        PunchScope::Dkey { dkey } => vos::PunchScope::Dkey(dkey),
        PunchScope::Akeys { dkey, akeys } => vos::PunchScope::Akeys(dkey, akeys),
        PunchScope::Extents { dkey, akey, extents } => vos::PunchScope::Extents { dkey, akey, extents },
    };
    f(&vos::Punch { group: punch.place.group, oid: punch.place.oid, scope, conditions: punch.conditions })
}

fn check_shape(punch: &PunchRequest) -> Result<(), Error> {
    match &punch.scope {
        PunchScope::Object | PunchScope::Dkey { .. } => Ok(()),
        PunchScope::Akeys { akeys, .. } => check_count("akeys", akeys.len(), AKEYS_PER_REQUEST_MAX),
        PunchScope::Extents { extents, .. } => check_count("extents", extents.len(), EXTENTS_PER_AKEY_MAX),
    }
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<(), Error> {
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    Err(Error::new(Code::Invalid, format!("{count} {what} in one punch: from 1 to {limit} are taken")))
}
