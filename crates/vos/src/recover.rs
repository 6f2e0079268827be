//! Opening a store: what its pages and its log say, taken up again.

use media::{Lsn, Recovered, Recovery};
use types::{Epoch, SessionId};

use crate::ahead::Ahead;
use crate::catalog::Catalog;
use crate::commit;
use crate::error::{Error, Result};
use crate::node;
use crate::record::{self, Record};
use crate::request::{Op, Origin, Payload, Update};
use crate::space::Reservation;
use crate::store::{Store, each_payload, each_reservation};

impl Store {
    /// Opens a store: applies the records after the checkpoint, and finishes the recovery of `media`. Each
    /// record that came from a session is shown to `seen`, in order, for exactly-once.
    ///
    /// # Errors
    /// `Corrupt`, with the place; `Media`.
    pub fn recover(
        media: media::Store,
        mut recovery: Recovery,
        seen: &mut dyn FnMut(Lsn, Origin),
    ) -> Result<(Store, Recovered)> {
        let mut store = if recovery.root.is_empty() {
            Store::format(media)?
        } else {
            let mut pages = media.pages();
            pages.set_judge(node::is_whole);
            let mut catalog = Catalog::load(&mut pages, &recovery.root)?;
            commit::load(&mut catalog, &mut pages)?;
            let mut judge = |_, session: Option<SessionId>, error| session.map(drop).ok_or(error);
            catalog.sessions.load(&catalog.own, &mut pages, &mut judge)?;
            drop(pages);
            Store::assemble(media, catalog, Epoch::MAX)
        };
        // Of what an earlier life of the process read, nothing is known: see `start_clock`.
        store.reads.start(Epoch::MAX);
        let mut ahead = Ahead::default();
        ahead.step(&store.media, &store.catalog, &mut recovery);
        while let Some(found) = recovery.next_record()? {
            let decoded = record::decode(found.kind, found.payload).ok_or_else(|| Error::Corrupt {
                place: format!("log position {}", found.lsn),
                fault: format!("a record of kind {} that cannot be read", found.kind),
            })?;
            let (origin, record) = decoded;
            store.replay(found.lsn, origin, &record)?;
            if origin.session.0 != 0 {
                seen(found.lsn, origin);
            }
            ahead.step(&store.media, &store.catalog, &mut recovery);
        }
        store.keep_promise();
        let recovered = store.media.finish_recovery(recovery)?;
        Ok((store, recovered))
    }

    /// Applies a record read back.
    pub(crate) fn replay(&mut self, lsn: Lsn, origin: Origin, record: &Record<'_>) -> Result<()> {
        self.media.pages().begin_op();
        self.apply(origin, record)?;
        let mut marked = Ok(());
        let mut mark_one = |at: &Reservation| {
            at.extents().iter().for_each(|piece| {
                if marked.is_ok() {
                    marked = self.media.mark_allocated(*piece);
                }
            });
        };
        if let Record::Rewrite { rewrite, .. } = record {
            rewrite.reservations().for_each(&mut mark_one);
        }
        if let Record::Copy { records, .. } = record {
            records.iter().filter_map(|record| record.reservation()).for_each(&mut mark_one);
        }
        if let Record::Mend { mend, .. } = record {
            mend.reservation().into_iter().for_each(&mut mark_one);
        }
        let mut staged = Ok(());
        let mut mark = |update: &Update<'_>| {
            each_reservation(update, &mut mark_one);
            each_payload(update, &mut |payload| {
                if let Payload::Staged { block, bytes, .. } = payload
                    && staged.is_ok()
                {
                    staged = self.media.restage(*block, bytes);
                }
            });
        };
        match record {
            Record::Update { update, .. } => update.with(&mut mark),
            Record::Prepare { ops, .. } => ops.iter().for_each(|op| {
                op.with(|op| {
                    if let Op::Update(update) = op {
                        mark(update)
                    }
                });
            }),
            _ => {}
        }
        marked?;
        staged?;
        self.release_freed(lsn)
    }
}
