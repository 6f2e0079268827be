//! A data region that gets another size, driven as the engine does, blocking.

use media::{Backing, PageId};
use vos::{Error, Scrub, Scrubbing, Store};

/// What ends at once, for the tasks of its store do not run.
pub fn now<T>(work: impl Future<Output = T>) -> T {
    match std::pin::pin!(work).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("it waits for something"),
    }
}

/// Gives the data region another size; false when what it holds stays where it is: there is no room, or a transaction
/// that is not decided holds blocks.
pub fn resize(store: &mut Store, bytes: u64) -> Result<bool, Error> {
    let media = store.media().clone();
    if bytes >= media.data_bytes() {
        return now(media.grow(bytes, Backing::File)).map(|()| true).map_err(Error::from);
    }
    while store.maintain(4)? {}
    for _ in 0..2 {
        media.checkpoint_blocking()?;
    }
    match fence(&media, bytes) {
        Err(media::Error::Resize(media::ResizeError::TooFull { .. })) => {
            media.lift_fence();
            return Ok(false);
        }
        fenced => fenced?,
    }
    for _ in 0..3 {
        if !move_values(store)? {
            return Ok(false);
        }
        let mut from = Some(PageId(0));
        while let Some(page) = from {
            match media.move_pages(page) {
                Err(media::Error::Busy { .. }) => media.checkpoint_blocking()?,
                next => from = next?,
            }
        }
        media.move_maps();
        media.checkpoint_blocking()?;
        if now(media.cut(Backing::File))? {
            assert_eq!(media.data_bytes(), bytes);
            return Ok(true);
        }
        if media.fenced().is_none() {
            return Ok(false);
        }
    }
    // What is left is an undecided change's.
    let all = |pool| store.groups(pool).unwrap().into_iter().map(move |group| (pool, group));
    let is_open = |(pool, group)| !store.standing(pool, group).unwrap().prepared.is_empty();
    let undecided = store.pools().into_iter().flat_map(all).any(is_open);
    assert!(undecided, "nothing else holds a block: {:?}", media.fenced());
    media.lift_fence();
    Ok(false)
}

/// Puts a fence up, until it stands.
pub fn fence(media: &media::Store, bytes: u64) -> Result<(), media::Error> {
    media.fence(bytes)?;
    while media.move_fence()? {}
    Ok(())
}

/// Moves all values behind the fence; false when there was no room and the fence is gone.
pub fn move_values(store: &mut Store) -> Result<bool, Error> {
    let media = store.media().clone();
    let mut walk = Scrub::default();
    loop {
        let found = match store.find_fenced(&mut walk)? {
            Scrubbing::End => return Ok(true),
            Scrubbing::Look => continue,
            Scrubbing::Damaged(damage) => panic!("{damage:?}"),
            Scrubbing::Value(found) => found,
        };
        let mend = match store.plan_move(found) {
            Ok(mend) => mend,
            // The walk has gone past it: another one finds it.
            Err(Error::Media(media::Error::Busy { .. })) => {
                media.checkpoint_blocking()?;
                continue;
            }
            Err(Error::DeviceFull { .. }) => {
                media.lift_fence();
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        mend.write_now(&media)?;
        while let Err(error) = store.mend(&mend) {
            match error {
                Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. }) => {
                    media.checkpoint_blocking()?
                }
                error => return Err(error),
            }
        }
    }
}
