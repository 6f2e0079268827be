//! Punch: hides an object, dkeys, akeys or ranges from later reads.

use net::Request;
use types::{AKEYS_PER_REQUEST_MAX, Code, EXTENTS_PER_AKEY_MAX, Error};
use wire::data::{Committed, PunchRequest, PunchScope};

use super::{Target, parse};

impl Target {
    pub(super) async fn punch(&self, request: Request) -> Result<Committed, Error> {
        let punch: PunchRequest = parse(&request.body)?;
        let container = punch.place.container;
        let scope = match &punch.scope {
            PunchScope::Object => vos::PunchScope::Object,
            PunchScope::Dkey { dkey } => vos::PunchScope::Dkey(dkey),
            PunchScope::Akeys { dkey, akeys } => {
                check_count("akeys", akeys.len(), AKEYS_PER_REQUEST_MAX)?;
                vos::PunchScope::Akeys(dkey, akeys)
            }
            PunchScope::Extents { dkey, akey, extents } => {
                check_count("extents", extents.len(), EXTENTS_PER_AKEY_MAX)?;
                vos::PunchScope::Extents { dkey, akey, extents }
            }
        };
        let origin = vos::Origin { session: request.session, seq: request.sequence };
        let write = vos::Punch { group: punch.place.group, oid: punch.place.oid, scope, conditions: punch.conditions };
        let mut looked = false;
        let (epoch, lsn) = loop {
            let epoch = self.hlc.now();
            let applied = self.store.borrow_mut().punch(container, epoch, origin, &write);
            match applied {
                Ok(lsn) => break (epoch, lsn),
                Err(error) => self.mend(error, container, request.deadline, &mut looked).await?,
            }
        };
        self.upkeep.written();
        self.durable(lsn).await?;
        Ok(Committed { epoch })
    }
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<(), Error> {
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    Err(Error::new(Code::Invalid, format!("{count} {what} in one punch: from 1 to {limit} are taken")))
}
